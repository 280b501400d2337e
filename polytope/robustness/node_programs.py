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
from solvers.least_norm import least_norm


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
        low, high = self.query.steps(radius)
        low = np.minimum(np.nextafter(low, -np.inf), 0.0)
        high = np.maximum(np.nextafter(high, np.inf), 0.0)
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
        every = np.append(1.0, weights)
        if dual_kernel(normal[0], rows, right, low, high, weights) + height[0] > 0:
            return Nearest(radius, None, every)
        whole, lead = every @ normal, every @ height
        unit = (len(normal) + len(low) + 8) * 2.0**-52
        size = np.abs(whole) + unit * (every @ np.abs(normal))
        lead = lead - unit * (every @ np.abs(height))
        return Nearest(min(_reach(size, lead, whole, low, high), radius), step, every)

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

    def _room(self, rows: int, columns: int) -> Room:
        """Scratch, made once for each shape."""
        if (rows, columns) not in self._rooms:
            self._rooms[rows, columns] = room(rows, columns)
        return self._rooms[rows, columns]


def _reach(
    size: np.ndarray, lead: float, normal: np.ndarray, low: np.ndarray, high: np.ndarray
) -> float:
    """The least t at which steps of at most t, and in the box, change a value by `lead`."""
    if not lead > 0:
        return 0.0
    cap = np.where(normal > 0, -low, high)
    order = np.argsort(cap)
    cap, size = cap[order], size[order]
    used = np.concatenate([[0.0], np.cumsum(size * cap)[:-1]])
    left = np.cumsum(size[::-1])[::-1]
    # With the first k coordinates at their ends: used_k + left_k t = lead.
    enough = (left > 0) & (used + left * cap >= lead)
    if not enough.any():
        return math.inf
    k = int(np.argmax(enough))
    return float(max((lead - used[k]) / left[k], 0.0) * (1 - 2.0**-44))
