"""How near a node's polyhedron comes to the point: one small program, and a proof of its bound.

For multipliers ``lam >= 0`` of the rows every point of the polyhedron satisfies the one row that
they combine to, so the distance to that halfspace inside the box is a lower bound, whatever
found the multipliers (as in `polytope.robustness.cell`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from polytope.robustness.cell import Cell, cell_distance
from polytope.sets import Box
from solvers.boxed import INFEASIBLE, OPTIMAL, boxed_kernel, dual_kernel, room


@dataclass(frozen=True)
class Nearest:
    """A proved lower bound of the distance, and a step that may attain it."""

    lower: float
    step: np.ndarray | None


def nearest(
    normal: np.ndarray, offset: np.ndarray, x: np.ndarray, p: float, box: Box | None, radius: float
) -> Nearest:
    """Bound the distance from a point to ``{z : normal z + offset <= 0}`` met with a box.

    Parameters
    ----------
    normal, offset : float64 (rows, d), (rows,)
        The first row is that of the target class.
    x : float64 (d,)
    p : float
        1, 2 or inf.
    box : Box or None
    radius : float
        Bounds beyond it are not wanted: `lower` is at most this.
    """
    low = np.full(len(x), -radius) if box is None else np.maximum(box.low - x, -radius)
    high = np.full(len(x), radius) if box is None else np.minimum(box.high - x, radius)
    if p == math.inf:
        return _linf(normal, offset, x, low, high, radius)
    if p == 1:
        return _l1(normal, offset, x, low, high, radius)
    zero = np.zeros(len(normal))
    found = cell_distance(Cell(normal, -offset, zero, zero), x, p, box)
    return Nearest(min(found.lower, radius), found.step)


def _linf(
    normal: np.ndarray, offset: np.ndarray, x: np.ndarray, low: np.ndarray, high: np.ndarray,
    radius: float,
) -> Nearest:  # fmt: skip
    """Refute the target row over the box of this radius, or bound by what the rows combine to."""
    value, error = _values(normal, offset, x)
    step, weights = np.zeros(len(x)), np.zeros(len(normal) - 1)
    rows, right = normal[1:], -value[1:] + error[1:]
    if len(rows):
        status, _ = boxed_kernel(
            normal[0], rows, right, low, high, step, weights, room(len(rows), len(x))
        )
        if status == INFEASIBLE and dual_kernel(0 * x, rows, right, low, high, weights) > 0:
            return Nearest(radius, None)
        if status != OPTIMAL:
            step, weights = np.where(normal[0] > 0, low, high), np.zeros(len(rows))
    else:
        step = np.where(normal[0] > 0, low, high)
    least = dual_kernel(normal[0], rows, right, low, high, weights)
    if least + value[0] - error[0] > 0:
        return Nearest(radius, None)
    whole = normal[0] + weights @ rows
    size = np.abs(normal[0]) + weights @ np.abs(rows)
    unit = (len(normal) + len(x) + 8) * 2.0**-52
    lead = value[0] - error[0] - weights @ right - unit * (abs(value[0]) + weights @ np.abs(right))
    return Nearest(min(_reach(np.abs(whole) + unit * size, lead, whole, low, high), radius), step)


def _reach(
    size: np.ndarray, lead: float, normal: np.ndarray, low: np.ndarray, high: np.ndarray
) -> float:
    """The least t at which steps of at most t, and in the box, change a value by `lead`."""
    if lead <= 0:
        return 0.0
    cap = np.where(normal > 0, -low, high)
    order = np.argsort(cap)
    cap, size = cap[order], size[order]
    used = np.concatenate([[0.0], np.cumsum(size * cap)])
    left = np.concatenate([np.cumsum(size[::-1])[::-1], [0.0]])
    # With the first k coordinates at their ends: used_k + left_k t = lead.
    for k in range(len(cap)):
        if left[k] > 0 and used[k] + left[k] * cap[k] >= lead:
            return float(max((lead - used[k]) / left[k], 0.0) * (1 - 2.0**-44))
    return math.inf


def _l1(
    normal: np.ndarray, offset: np.ndarray, x: np.ndarray, low: np.ndarray, high: np.ndarray,
    radius: float,
) -> Nearest:  # fmt: skip
    """The step split into its positive and negative parts, their sum at least."""
    value, error = _values(normal, offset, x)
    d = len(x)
    rows, right = np.hstack([normal, -normal]), -value + error
    cost, zero = np.ones(2 * d), np.zeros(2 * d)
    ends = np.concatenate([np.maximum(high, 0.0), np.maximum(-low, 0.0)])
    step, weights = np.zeros(2 * d), np.zeros(len(normal))
    status, _ = boxed_kernel(cost, rows, right, zero, ends, step, weights, room(len(normal), 2 * d))
    if status == INFEASIBLE and dual_kernel(zero, rows, right, zero, ends, weights) > 0:
        return Nearest(radius, None)
    if status != OPTIMAL:
        return Nearest(0.0, None)
    lower = dual_kernel(cost, rows, right, zero, ends, weights)
    return Nearest(min(max(lower, 0.0), radius), step[:d] - step[d:])


def _values(normal: np.ndarray, offset: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows at the point, and bounds on their rounding."""
    value = normal @ x + offset
    unit = (len(x) + 4) * 2.0**-52
    return value, unit * (np.abs(normal) @ np.abs(x) + np.abs(offset))
