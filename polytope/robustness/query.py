"""One question of robustness: how near to a point the decision changes, and what counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from polytope.attacks.criterion import Criterion
from polytope.attacks.spot import Spot
from polytope.model import Network
from polytope.rows import classes_of
from polytope.sets import Box


@dataclass(frozen=True, eq=False)
class Query:
    """What the engines of the minimal perturbation are asked.

    Attributes
    ----------
    net : Network
        Piecewise linear.
    x : float64 (d,)
        Inside the box, and decided as `label`.
    label : int
    target : int or None
        The only class that counts; any other than the label by default.
    p : float
        The norm, in [1, inf].
    box : Box or None
    radius : float or None
        Only whether the decision holds within this distance is asked.
    tol : float
        The interval is exact once it is no wider than this part of its upper end.
    seed : int
        For all that is random.
    memory : int
        Bytes that a search may hold.
    """

    net: Network
    x: np.ndarray
    label: int
    target: int | None
    p: float
    box: Box | None
    radius: float | None
    tol: float
    seed: int
    memory: int

    @property
    def targets(self) -> list[int]:
        """The classes that count."""
        if self.target is not None:
            return [self.target]
        return [t for t in range(classes_of(self.net)) if t != self.label]

    @property
    def spot(self) -> Spot:
        """The same for attacks."""
        targets = None if self.target is None else np.array([self.target])
        criterion = Criterion(np.array([self.label]), targets)
        return Spot(self.net, self.x, criterion, self.p, self.box)

    def lead(self, target: int) -> np.ndarray:
        """Coefficients (outputs,) of the label's lead over a class.

        A network of one output decides between class 0 below zero and class 1 above.
        """
        size = self.net.output_size
        lead = np.zeros(size)
        if size == 1:
            lead[0] = 1.0 if target == 0 else -1.0
        else:
            lead[self.label], lead[target] = 1.0, -1.0
        return lead

    def steps(self, radius: float = math.inf) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest step (d,) of each coordinate within a radius and the box."""
        low, high = np.full(len(self.x), -radius), np.full(len(self.x), radius)
        if self.box is None:
            return low, high
        return np.maximum(low, self.box.low - self.x), np.minimum(high, self.box.high - self.x)
