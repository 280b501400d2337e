"""One point under attack, and the nearest adversarial point of a linear region near it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from polytope.attacks.criterion import Criterion
from polytope.model import Network
from polytope.network.exact import is_adversarial
from polytope.pattern import ActivationPattern
from polytope.region import Region, region_at
from polytope.robustness.cell import Cell, adversarial_cell, cell_distance
from polytope.robustness.witness import PUSHES, lp_norm, prove_adversarial
from polytope.sets import Box

#: How far a solution is drawn back toward a known witness, relative to the way between them,
#: until it is proved adversarial: from one unit in the last place to 1e-6.
DRAWN_BACK = tuple(8.0**k * 2.0**-52 for k in range(12))
#: Where no candidate was proved, the program is solved again with its decision row tightened by
#: this much of the row's terms: a thousand times their rounding, no loss in the distance.
TIGHTENED = 1e-12


@dataclass(frozen=True)
class Polished:
    """A witness that was moved to the nearest point of its linear region.

    Attributes
    ----------
    distance : float
        In the norm asked for, rounded up; never more than before.
    witness : array (d,)
        In the box, and adversarial in exact arithmetic.
    regions : int
        Linear regions whose program was solved.
    """

    distance: float
    witness: np.ndarray
    regions: int


@dataclass(frozen=True)
class Spot:
    """A point, with all that decides what the nearest adversarial point is.

    Attributes
    ----------
    net : Network
    x : array (d,)
    criterion : Criterion
        Of this one point.
    p : float
    box : Box or None
    """

    net: Network
    x: np.ndarray
    criterion: Criterion
    p: float
    box: Box | None

    @property
    def label(self) -> int:
        """The class that is to be left."""
        return int(self.criterion.labels[0])

    def rivals(self, z: np.ndarray) -> np.ndarray:
        """The class that is farthest above the label, or least below, at points (m, d): (m,)."""
        logits = torch.as_tensor(self.net.logits(z))
        rows = torch.zeros(len(z), dtype=torch.int64)
        return np.asarray(self.criterion.leads(logits, rows).argmax(dim=1).numpy())

    def region_of(self, z: np.ndarray) -> tuple[Region, int]:
        """The region of a witness (d,), and the class it goes to."""
        return region_at(self.net, z), int(self.rivals(z[None])[0])

    def region(self, pattern: ActivationPattern) -> Region:
        """The region of a pattern."""
        return region_at(self.net, self.x, pattern)

    def nearest(self, region: Region, rival: int, best: Polished) -> Polished | None:
        """The nearest point of a region where `rival` is as high as the label, if it is nearer.

        Parameters
        ----------
        region : Region
        rival : int
        best : Polished
            The nearest witness so far.

        Returns
        -------
        Polished or None
            Proved, and nearer than `best`; None if the region has no such point, or no point
            that could be proved.
        """
        cell = adversarial_cell(region, self.label, rival)
        for tightened in (0.0, TIGHTENED):
            found = cell_distance(_tighter(cell, self.x, tightened), self.x, self.p, self.box)
            if found.step is None or found.lower >= best.distance:
                return None
            witness = self._settled(found.step, rival, best)
            if witness is not None:
                distance = float(lp_norm((witness - self.x)[None], self.p)[0])
                nearer = distance < best.distance
                return replace(best, distance=distance, witness=witness) if nearer else None
        return None

    def _settled(self, step: np.ndarray, rival: int, best: Polished) -> np.ndarray | None:
        """The nearest point around a solution that is proved adversarial.

        Tried are pushes away from the point, and, as beyond the region's faces these may lead
        back into the decision of the label, ways toward the known witness.
        """
        outward = [self.x + (1 + push) * step for push in PUSHES]
        inward = [self.x + step + t * (best.witness - self.x - step) for t in DRAWN_BACK]
        trial = np.array(outward + inward)
        trial = trial if self.box is None else np.clip(trial, self.box.low, self.box.high)
        trial = trial[np.argsort(lp_norm(trial - self.x, self.p), kind="stable")]
        labels, rivals = np.full(len(trial), self.label), np.full(len(trial), rival)
        proved, possible = prove_adversarial(self.net, trial, labels, rivals)
        for row in np.flatnonzero(possible)[:1]:
            point = trial[row].reshape(self.net.input_shape)
            if proved[row] or is_adversarial(self.net.graph, point, self.label, rival):
                return np.asarray(trial[row])
        return np.asarray(trial[proved][0]) if proved.any() else None


def _tighter(cell: Cell, x: np.ndarray, part: float) -> Cell:
    """A cell whose last row, the decision, is stricter by a part of the size of its terms."""
    b = cell.b.copy()
    b[-1] -= part * (np.abs(cell.A[-1]) @ np.abs(x) + abs(b[-1]))
    return replace(cell, b=b)
