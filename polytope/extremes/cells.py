"""Whether rows leave a part of a box or ball, and a point as deep in it as can be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polytope.bounds.inputs import InputSet
from solvers.boxed import INFEASIBLE, OPTIMAL, boxed_program
from solvers.least_norm import least_norm


@dataclass(frozen=True, eq=False)
class Room:
    """A point (d,) that the rows do not exclude, and how deep it is inside them.

    `depth` is relative to the size of the set, at most 1, and in units of the largest entry of
    each row; 0 if it is not known.
    """

    point: np.ndarray
    depth: float


class CellPrograms:
    """Programs over one set met with rows.

    Parameters
    ----------
    inputs : InputSet
        One set, bounded.
    """

    def __init__(self, inputs: InputSet) -> None:
        low, high = (side[0].numpy() for side in (inputs.low, inputs.high))
        self.middle = (low + high) / 2 if inputs.center is None else inputs.center[0].numpy()
        # The sides as seen from the middle, rounded outward.
        self._low = np.minimum(np.nextafter(low - self.middle, -np.inf), 0.0)
        self._high = np.maximum(np.nextafter(high - self.middle, np.inf), 0.0)
        self._size = float(np.maximum(-self._low, self._high).max())
        self._p = inputs.p
        self._radius = None if inputs.radius is None else float(inputs.radius[0])

    def room(self, normal: np.ndarray, height: np.ndarray) -> Room | None:
        """What ``normal z + height <= 0`` at steps z from the middle leaves.

        None if it is proved that nothing is left.
        """
        if not len(normal):
            return Room(self.middle, 1.0)
        scale = np.abs(normal).max(axis=1)
        if (height[scale == 0] > 0).any():
            return None
        keep = scale > 0
        table, right = normal[keep] / scale[keep, None], height[keep] / scale[keep]
        reach = np.maximum(-self._low, self._high)
        right = right - 2.0**-50 * (np.abs(right) + np.abs(table) @ reach)
        low, high = self._low, self._high
        rows, free = [table], len(low)
        limits = [-right]
        if self._p == 1:  # steps up and down, whose sum is at most the radius
            assert self._radius is not None
            rows = [np.hstack([table, -table]), np.ones((1, 2 * free))]
            limits.append(np.array([self._radius * (1 + 2.0**-50 * (free + 4))]))
            low, high = np.zeros(2 * free), np.concatenate([self._high, -self._low])
        stacked = np.vstack(rows)
        deep = np.zeros(len(stacked))
        deep[: len(table)] = 1.0
        found = boxed_program(
            np.append(np.zeros(stacked.shape[1]), -1.0), np.column_stack([stacked, deep]),
            np.concatenate(limits), np.append(low, 0.0), np.append(high, self._size),
        )  # fmt: skip
        if found.status == INFEASIBLE and found.value > 0:
            return None
        room = Room(self.middle, 0.0)
        if found.status == OPTIMAL:
            step = found.x[:free] - (found.x[free : 2 * free] if self._p == 1 else 0.0)
            room = Room(self.middle + step, float(found.x[-1]) / self._size)
        if self._p != 2 or self._radius is None:
            return room
        near = least_norm(table, right, self._low, self._high, self._radius)
        if near.lower > self._radius:
            return None
        outside = np.linalg.norm(room.point - self.middle) > self._radius
        return Room(self.middle + near.step, room.depth) if outside else room
