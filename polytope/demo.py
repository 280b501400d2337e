"""The main job on an embedded default: one hundred digits certified, and a picture of three."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch

from polytope.datasets import digits, digits_network
from polytope.errors import InputError
from polytope.network.engine import Engine
from polytope.robustness.certificates import Certificates
from polytope.robustness.theorem import certify
from solvers.norms import NormLike

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The digits are pixels: nothing outside this box is a picture.
BOX = (0.0, 1.0)
#: Regions to explore for each digit: enough to settle nearly all in a few seconds.
REGIONS = 20
#: The picture's three points are chosen among this many of the most robust ones, by the
#: regions met at this many steps along the lines between them.
CANDIDATES, STEPS = 30, 65


@dataclass(frozen=True)
class Demo:
    """What the demo found.

    Attributes
    ----------
    rows : int64 (n,)
        Which of the shipped digits.
    labels : int64 (n,)
        Their true classes.
    result : Certificates
    pictured : tuple of int
        Positions (in `rows`) of the three digits of the picture; empty without one.
    """

    rows: np.ndarray
    labels: np.ndarray
    result: Certificates
    pictured: tuple[int, ...]
    p: NormLike

    def figure(self) -> Figure:
        """The slice through the three digits.

        Raises
        ------
        InputError
            If there are no three digits to draw.
        """
        from polytope.plot import plot_slice

        if not self.pictured:
            raise InputError(
                "the picture needs three correctly classified digits; choose more rows"
            )
        three = list(self.pictured)
        X, _ = digits()
        return plot_slice(
            digits_network(), X[self.rows[three]], self.result.lower[three],
            self.result.upper[three], labels=self.labels[three],
            names=[f"row {row}" for row in self.rows[three]], p=self.p, box=BOX,
        )  # fmt: skip


def run_demo(
    p: NormLike = 2,
    max_regions: int = REGIONS,
    rows: slice = slice(None),
    progress: Callable[[int, int], None] | None = None,
) -> Demo:
    """Certify the shipped digits on the shipped network, inside [0, 1]^64.

    Parameters
    ----------
    p, max_regions, progress
        As in `polytope.certify`.
    rows : slice
        Which of the hundred digits.

    Returns
    -------
    Demo

    Raises
    ------
    InputError
        For an unusable norm, number of regions, or no rows.
    """
    X, y = digits()
    chosen = np.arange(len(X))[rows]
    if not len(chosen):
        raise InputError(f"rows: none of the {len(X)} digits is selected; use 0:{len(X)}")
    net = digits_network()
    result = certify(net, X[chosen], y[chosen], p, BOX, max_regions, progress=progress)
    pictured = _three(net, X[chosen], y[chosen], result.lower)
    return Demo(chosen, y[chosen], result, pictured, p)


def _three(net: Engine, X: np.ndarray, y: np.ndarray, lower: np.ndarray) -> tuple[int, ...]:
    """Three robust digits, of three classes if they can be, with several regions between."""
    usable = np.flatnonzero((lower > 0) & np.isfinite(lower))
    best = usable[np.argsort(-lower[usable], kind="stable")][:CANDIDATES]
    if len(best) < 3:
        return ()
    points, classes, radius = X[best], y[best], lower[best]
    length = np.linalg.norm(points[:, None] - points[None], axis=2)
    along = np.linspace(0, 1, STEPS)[:, None]
    crossed = np.zeros_like(length)
    for i in range(len(best)):
        lines = points[i] + (points[:, None] - points[i]) * along
        with torch.no_grad():
            pieces = net.pieces(torch.as_tensor(lines).reshape(-1, *net.input_shape))
        pieces = pieces.reshape(len(best), STEPS, -1)
        changes = (pieces[:, 1:] != pieces[:, :-1]).any(dim=2).sum(dim=1)
        crossed[i] = changes.numpy()

    def worth(three: tuple[int, ...]) -> tuple[int, float]:
        i, j, k = three
        sides = [(i, j), (j, k), (i, k)]
        size = sum(radius[m] for m in three) / sum(length[a, b] for a, b in sides)
        return len({int(classes[m]) for m in three}), size * sum(crossed[a, b] for a, b in sides)

    return tuple(int(best[m]) for m in max(combinations(range(len(best)), 3), key=worth))
