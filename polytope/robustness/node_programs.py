"""How near a node's polyhedron comes to the point: one small program, and a proof of its bound.

For multipliers ``lam >= 0`` of the rows every point of the polyhedron satisfies the one row that
they combine to, so the distance to that halfspace inside the box is a lower bound, whatever
found the multipliers (as in `polytope.robustness.cell`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from polytope.robustness.query import Query
from solvers.boxed import INFEASIBLE, OPTIMAL, Room, boxed_kernel, dual_kernel, room
from solvers.compiled import kernel
from solvers.least_norm import least_norm

#: Newton steps of `combined_reach`; three to six are usual.
NEWTON = 30
_ONE = np.ones(1)


@dataclass(frozen=True, eq=False)
class Nearest:
    """What a node's program gives.

    Attributes
    ----------
    lower : float
        Proved: no point of the polyhedron is nearer; the radius if none is within it.
    step : float64 (d,) or None
        A step into the polyhedron that may be adversarial.
    multipliers : float64 (rows,)
        At least 0; they prove `lower`.
    """

    lower: float
    step: np.ndarray | None
    multipliers: np.ndarray


@dataclass(eq=False)
class NodePrograms:
    """The programs of one query's nodes.

    Attributes
    ----------
    query : Query
    solved : int
    """

    query: Query
    solved: int = 0
    _last: float = -1.0
    _low: np.ndarray = field(default_factory=lambda: np.zeros(0))
    _high: np.ndarray = field(default_factory=lambda: np.zeros(0))
    _rooms: dict[tuple[int, int], Room] = field(default_factory=dict)

    def nearest(self, normal: np.ndarray, height: np.ndarray, radius: float) -> Nearest:
        """Bound the distance to ``{step : normal step + height <= 0}`` in the box.

        Parameters
        ----------
        normal, height : float64 (rows, d), (rows,)
            The first row is that of the target class.
        radius : float
            Bounds beyond it are not wanted: `lower` is at most this.
        """
        self.solved += 1
        low, high = self._limits(radius)
        if self.query.p == math.inf:
            return self._linf(normal, height, low, high, radius)
        if self.query.p == 1:
            return self._l1(normal, height, low, high, radius)
        found = least_norm(normal, height, low, high, radius)
        step = found.step if found.lower <= radius else None
        return Nearest(min(found.lower, radius), step, found.multipliers)

    def _linf(
        self, normal: np.ndarray, height: np.ndarray, low: np.ndarray, high: np.ndarray,
        radius: float,
    ) -> Nearest:  # fmt: skip
        """Refute the target row within the radius, or bound by what the rows combine to."""
        rows, right = normal[1:], -height[1:]
        step, weights = np.zeros(len(low)), np.zeros(len(rows))
        status = OPTIMAL if not len(rows) else boxed_kernel(
            normal[0], rows, right, low, high, step, weights, self._room(*rows.shape)
        )[0]  # fmt: skip
        if status == INFEASIBLE and (
            dual_kernel(np.zeros(len(low)), rows, right, low, high, weights) > 0
        ):
            return Nearest(radius, None, np.append(0.0, weights))
        if status != OPTIMAL or not len(rows):
            step, weights = np.where(normal[0] > 0, low, high), np.zeros(len(rows))
        least = dual_kernel(normal[0], rows, right, low, high, weights)
        every = np.concatenate([_ONE, weights])
        if least + height[0] > 0:
            return Nearest(radius, None, every)
        reach = combined_reach(normal, height, every, low, high)
        return Nearest(min(reach, radius), step, every)

    def _l1(
        self, normal: np.ndarray, height: np.ndarray, low: np.ndarray, high: np.ndarray,
        radius: float,
    ) -> Nearest:  # fmt: skip
        """The step split into its positive and negative parts, their sum at least."""
        d = len(low)
        rows, right = np.hstack([normal, -normal]), -height
        cost, zero = np.ones(2 * d), np.zeros(2 * d)
        ends = np.concatenate([high, -low])
        step, weights = np.zeros(2 * d), np.zeros(len(normal))
        status, _ = boxed_kernel(
            cost, rows, right, zero, ends, step, weights, self._room(len(rows), 2 * d)
        )
        if status == INFEASIBLE and dual_kernel(zero, rows, right, zero, ends, weights) > 0:
            return Nearest(radius, None, weights)
        if status != OPTIMAL:
            return Nearest(0.0, None, np.zeros(len(normal)))
        lower = dual_kernel(cost, rows, right, zero, ends, weights)
        return Nearest(min(max(lower, 0.0), radius), step[:d] - step[d:], weights)

    def _limits(self, radius: float) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest steps within a radius, rounded outwards; those of the last one."""
        if radius != self._last:
            low, high = self.query.steps(radius)
            self._low = np.minimum(np.nextafter(low, -np.inf), 0.0)
            self._high = np.maximum(np.nextafter(high, np.inf), 0.0)
            self._last = radius
        return self._low, self._high

    def _room(self, rows: int, columns: int) -> Room:
        """Scratch, made once for each shape."""
        if (rows, columns) not in self._rooms:
            self._rooms[rows, columns] = room(rows, columns)
        return self._rooms[rows, columns]


@kernel
def combined_reach(
    normal: np.ndarray, height: np.ndarray, weights: np.ndarray, low: np.ndarray, high: np.ndarray
) -> float:
    """The least t at which steps of at most t in each coordinate satisfy a combined row.

    Newton's method from below on ``sum_i |w_i| min(t, cap_i) = lead``, every rounding taken off;
    any t that it passes is a lower bound.
    """
    m, d = normal.shape
    unit = (m + d + 8) * 2.0**-52
    lead = 0.0
    for k in range(m):
        lead += weights[k] * height[k] - unit * abs(weights[k] * height[k])
    t = 0.0
    for _ in range(NEWTON):
        used, left = 0.0, 0.0
        for i in range(d):
            whole, terms = 0.0, 0.0
            for k in range(m):
                whole += weights[k] * normal[k, i]
                terms += weights[k] * abs(normal[k, i])
            cap = -low[i] if whole > 0.0 else high[i]
            if abs(whole) <= unit * terms:  # its sign is not known
                cap = max(-low[i], high[i])
            size = abs(whole) + unit * terms
            if cap <= t:
                used += size * cap
            else:
                left += size
        used *= 1.0 + unit
        if not lead > used:
            return t
        if left == 0.0:
            return math.inf
        new = (lead - used) / left * (1.0 - 2.0**-44)
        if not new > t:
            return t
        t = new
    return t
