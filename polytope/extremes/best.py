"""The largest value over the regions of an area: collected batch by batch, settled at the end.

While regions come in, those are kept that may hold the maximum: whose value is not below the best
proved one by more than rounding.  At the end the kept ones are compared in exact arithmetic where
that is affordable.  Where the area is a ball, regions of the box around it come in; from the
largest value down they are asked whether they reach into the ball, until one does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from polytope.extremes.inside import Inside
from polytope.extremes.maps import Jacobians
from polytope.extremes.measures import Measure, above

#: Values nearer to the best one than this, relative to it, are compared with their rounding.
NEAR = 1e-9
#: Jacobians, different as floats, that are computed in exact arithmetic in the end.
EXACT_RIVALS = 16
#: Regions of the box around a ball that are kept at most until the next clearing.
KEPT = 2**16


@dataclass(frozen=True, eq=False)
class Extreme:
    """The outcome.

    Attributes
    ----------
    lower, upper : float
        Of the regions that were looked at: the largest value is between.
    exactness : str
        "rational" or "safe-float".
    pieces : uint16 (units,) or None
        A region that attains `lower`; None if no region was found inside.
    point : float64 (k,) or None
        Strictly inside it, proved; None where it holds no float64 point.
    jacobian : float64 (m, inputs) or None
    tested : int
        Regions asked whether they reach into the ball.
    """

    lower: float
    upper: float
    exactness: str
    pieces: np.ndarray | None
    point: np.ndarray | None
    jacobian: np.ndarray | None
    tested: int = 0


class Best:
    """Collects regions (`take`), then finds the largest (`settle`).

    Parameters
    ----------
    jacobians : Jacobians
    measure : Measure
    inside : Inside
    """

    def __init__(self, jacobians: Jacobians, measure: Measure, inside: Inside) -> None:
        self.jacobians, self.measure, self.inside = jacobians, measure, inside
        net, k = jacobians.net, inside.area.domain.dimension
        self._round = inside.area.ball is not None
        self._pieces = np.zeros((0, net.units), np.uint16)
        self._points = np.zeros((0, k))
        self._top = np.zeros(0)
        self._proved = -math.inf

    def take(self, pieces: np.ndarray, points: np.ndarray) -> None:
        """Look at some regions of the domain: patterns (n, units), points (n, k) inside or NaN."""
        for own in self.jacobians.chunks(len(pieces)):
            J, error = self.jacobians.of(pieces[own])
            value = self.measure.values(J)
            room = NEAR * value + 4 * error.sum(axis=1)
            proved = (value - room)[self._known(points[own])].max(initial=-math.inf)
            self._proved = max(self._proved, float(proved))
            keep = value + room >= self._proved
            self._pieces = np.concatenate([self._pieces, pieces[own][keep].astype(np.uint16)])
            self._points = np.concatenate([self._points, points[own][keep]])
            self._top = np.concatenate([self._top, (value + room)[keep]])
        if len(self._top) > KEPT or not self._round:
            self._clear()

    def _known(self, points: np.ndarray) -> np.ndarray:
        """Which of the regions are known to reach into the area: bool (n,)."""
        if not self._round:
            return np.ones(len(points), np.bool_)
        assert self.inside.area.ball is not None
        center, radius, p = self.inside.area.ball
        # Clearly inside: the points of the engines are inside their regions.
        size = np.linalg.norm(points - center, ord=p, axis=1)
        return np.asarray(size < radius * (1 - NEAR))

    def _clear(self) -> None:
        keep = self._top >= self._proved
        self._pieces, self._points, self._top = (
            self._pieces[keep], self._points[keep], self._top[keep]
        )  # fmt: skip

    def settle(self, halt: Callable[[], bool]) -> Extreme:
        """The largest value of the regions taken so far.

        Parameters
        ----------
        halt : callable
            Asked between tests of regions against a ball; True ends them.
        """
        self._clear()
        order = np.argsort(-self._top, kind="stable")
        self._pieces, self._points, self._top = (
            self._pieces[order], self._points[order], self._top[order]
        )  # fmt: skip
        if not len(order):
            return Extreme(0.0, 0.0, "safe-float", None, None, None)
        if self._round:
            return self._settle_in_ball(halt)
        J, error = self.jacobians.of(self._pieces)
        return self._largest(np.arange(len(order)), J, error)

    def _settle_in_ball(self, halt: Callable[[], bool]) -> Extreme:
        """Ask region after region, the largest value first."""
        inside, tested = [], 0
        low, open_top = -math.inf, 0.0
        for i, top in enumerate(self._top.tolist()):
            if top < low:
                break
            if halt():
                open_top = max(open_top, top)
                break
            tested += 1
            meets, point = self.inside.in_ball(self._pieces[i], self._points[i])
            if meets is None:
                open_top = max(open_top, top)
            if not meets:
                continue
            inside.append(i)
            self._points[i] = np.nan if point is None else point
            J, error = self.jacobians.of(self._pieces[[i]])
            low = max(low, float(self.measure.bounds(J, error)[0][0]))
        if not inside:
            return Extreme(0.0, open_top, "safe-float", None, None, None, tested)
        J, error = self.jacobians.of(self._pieces[inside])
        found = self._largest(np.array(inside), J, error)
        return Extreme(
            found.lower, max(found.upper, open_top), found.exactness, found.pieces, found.point,
            found.jacobian, tested,
        )  # fmt: skip

    def _largest(self, which: np.ndarray, J: np.ndarray, error: np.ndarray) -> Extreme:
        """The largest of some regions that reach into the area."""
        low, high = self.measure.bounds(J, error)
        rivals = np.flatnonzero(high >= low.max())
        # Of equal Jacobians one with a point inside comes first.
        pointed = np.isfinite(self._points[which[rivals]]).all(axis=1)
        rivals = rivals[np.argsort(~pointed, kind="stable")]
        _, first = np.unique(J[rivals].reshape(len(rivals), -1), axis=0, return_index=True)
        rivals = rivals[np.sort(first)]
        best, ends, exactness = self._compared(which[rivals])
        if not len(ends):
            best, ends = int(low.argmax()), (float(low.max()), float(high.max()))
        else:
            best = int(rivals[best])
        i = int(which[best])
        point = self._points[i]
        if not self._round:
            inner = self.inside.point(self._pieces[i], point)
            point = np.full_like(point, np.nan) if inner is None else inner
        known = point if np.isfinite(point).all() else None
        return Extreme(ends[0], ends[1], exactness, self._pieces[i], known, J[best])

    def _compared(self, which: np.ndarray) -> tuple[int, tuple[float, ...], str]:
        """The largest of some regions by their exact Jacobians.

        Returns
        -------
        (number, ends of its value, exactness); no ends where exact Jacobians would take long
        """
        if len(which) > EXACT_RIVALS:
            return 0, (), "safe-float"
        roots, lows, highs = [], [], []
        for i in which:
            J = self.jacobians.exact(self._pieces[i])
            if J is None:
                return 0, (), "safe-float"
            roots.append(self.measure.exact(J))
            rounded = np.array([[float(v) for v in row] for row in J])[None]
            error = [above(sum((abs(v - Fraction(float(v))) for v in row), start=Fraction(0)))
                     for row in J]  # fmt: skip
            low, high = self.measure.bounds(rounded, np.array(error)[None])
            lows.append(float(low[0]))
            highs.append(float(high[0]))
        if None in roots:
            best = int(np.argmax(lows))
            return best, (lows[best], max(highs)), "safe-float"
        exact = [root for root in roots if root is not None]
        best = max(range(len(exact)), key=exact.__getitem__)
        return best, exact[best].ends(), "rational"
