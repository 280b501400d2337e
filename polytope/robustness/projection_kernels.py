"""Compiled: the nearest point of a polyhedron met with a box, in l_2, by its dual.

For weights w >= 0 of the rows the best step is ``d(w) = clip(-A' w, low, high)``, and the dual
value ``g(w) = w c + sum_j min_j`` is concave and piecewise quadratic: no bound of the box is ever
a row.  Newton's method on the rows that have a weight, with an exact enough line search and a
row dropped where its weight reaches 0; then the most violated row joins them.  g grows with every
step, so the search ends as soon as it is beyond the radius that is asked for; an empty
polyhedron is one case of that.  Nothing here is a proof: `halfspace_kernels` proves what the
weights say.

Source: Goldfarb and Idnani, "A numerically stable dual method for solving strictly convex
quadratic programs" (1983), with the bounds taken into the dual function (Li and Swetits, "A new
algorithm for solving strictly convex quadratic programs", 1997).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polytope.robustness.halfspace_kernels import FAST
from solvers.compiled import kernel

#: What the search ended with: the nearest point, everything is beyond the radius, gave up.
NEAREST, BEYOND, STUCK = range(3)
#: Violations up to this part of the step's length are rounding.
FEASIBLE = 1e-12
#: Steps before giving up, per row that may have a weight: some times what is ever needed.
LIMIT = 30
#: Added to the diagonal of the Newton system, relative to it: rows that depend on one another
#: then get a very long step instead of none.
RIDGE = 1e-13


class Weights(NamedTuple):
    """The rows that have a weight.

    Attributes
    ----------
    own : int64 (room,)
    value : float64 (room,)
    used : int64 (1,)
        How many there are.
    """

    own: np.ndarray
    value: np.ndarray
    used: np.ndarray


class Space(NamedTuple):
    """Room: `normal`, `step`, `trial` (k,), `system` (room, room), the rest (room,)."""

    normal: np.ndarray
    step: np.ndarray
    trial: np.ndarray
    system: np.ndarray
    left: np.ndarray
    way: np.ndarray


def weights(room: int) -> Weights:
    """Room for weights."""
    return Weights(np.zeros(room, np.int64), np.zeros(room), np.zeros(1, np.int64))


def space(room: int, k: int) -> Space:
    """Room for `nearest_step` with so many weights over k coordinates."""
    return Space(
        np.zeros(k), np.zeros(k), np.zeros(k), np.zeros((room, room)), np.zeros(room),
        np.zeros(room),
    )  # fmt: skip


@kernel(fastmath=FAST)
def nearest_step(A, c, length, m, low, high, limit, weights, space):
    """The shortest step d in l_2 with ``A d + c <= 0`` inside the box.

    Parameters
    ----------
    A, c : float64 (>= m, k), (>= m,)
    length : float64 (>= m,)
        l_2 norms of the rows.
    m : int
        Rows that count.
    low, high : float64 (k,)
        Finite, low <= high.
    limit : float
        Once the step is surely longer than this the search ends.
    weights : Weights, changed
        What to start with; in the end the weights of the nearest point, or those that show that
        it is beyond `limit`.
    space : Space
        `step` is written.

    Returns
    -------
    int
        NEAREST, BEYOND or STUCK.
    """
    room = len(space.left)
    own, value = weights.own, weights.value
    enough = 0.5 * limit * limit * (1.0 + 1e-9)
    for _ in range(LIMIT * (room + 4)):
        count = weights.used[0]
        dual, square = _step(A, c, low, high, weights, space.normal, space.step)
        if dual > enough:
            return BEYOND
        size = np.sqrt(square)
        # The rows that have a weight, until none is violated or slack.
        worst = 0.0
        for i in range(count):
            space.left[i] = _value(A[own[i]], space.step) + c[own[i]]
            worst = max(worst, abs(space.left[i]) - FEASIBLE * length[own[i]] * size)
        if not worst > 0.0:
            row = _violated(A, c, length, m, weights, space.step, size)
            if row < 0:
                return NEAREST
            if count == room:
                return STUCK
            own[count], value[count] = row, 0.0
            space.left[count] = _value(A[row], space.step) + c[row]
            count += 1
            weights.used[0] = count
        if not _solve(A, low, high, weights, space):
            return STUCK
        if not _move(A, c, low, high, weights, space):
            return STUCK
    return STUCK


@kernel(fastmath=FAST)
def _value(row, step):
    total = 0.0
    for j in range(len(step)):
        total += row[j] * step[j]
    return total


@kernel(fastmath=FAST)
def _step(A, c, low, high, weights, normal, step):
    """Write the combined normal and its step: (dual value, square of the step)."""
    k = len(step)
    for j in range(k):
        normal[j] = 0.0
    dual = 0.0
    for i in range(weights.used[0]):
        w, r = weights.value[i], weights.own[i]
        if w != 0.0:
            dual += w * c[r]
            row = A[r]
            for j in range(k):
                normal[j] += w * row[j]
    square = 0.0
    for j in range(k):
        d = min(max(-normal[j], low[j]), high[j])
        step[j] = d
        dual += d * (0.5 * d + normal[j])
        square += d * d
    return dual, square


@kernel(fastmath=FAST)
def _violated(A, c, length, m, weights, step, size):
    """The row that is farthest beyond its hyperplane, -1 if none is."""
    best, row = 0.0, -1
    for i in range(m):
        # A row cannot be violated where the step is shorter than the way to its hyperplane.
        if -c[i] >= length[i] * size or (length[i] == 0.0 and not c[i] > 0.0):
            continue
        beyond = (_value(A[i], step) + c[i]) / length[i] - FEASIBLE * size
        if beyond > best:
            taken = False
            for a in range(weights.used[0]):
                taken = taken or weights.own[a] == i
            if not taken:
                best, row = beyond, i
    return row


@kernel(fastmath=FAST)
def _solve(A, low, high, weights, space):
    """Newton's step of the weights, by a Cholesky factorisation: whether there is one."""
    count, system, way = weights.used[0], space.system, space.way
    k = len(low)
    free = space.trial
    for j in range(k):
        n = -space.normal[j]
        free[j] = 1.0 if low[j] < n < high[j] else 0.0
    for i in range(count):
        row = A[weights.own[i]]
        whole = 0.0
        for j in range(k):
            whole += row[j] * row[j]
        for a in range(i + 1):
            other = A[weights.own[a]]
            total = 0.0
            for j in range(k):
                total += free[j] * row[j] * other[j]
            system[i, a] = total
        system[i, i] += RIDGE * whole + 1e-300
    for i in range(count):
        for a in range(i + 1):
            total = system[i, a]
            for b in range(a):
                total -= system[i, b] * system[a, b]
            if a < i:
                system[i, a] = total / system[a, a]
            else:
                # Rounding may leave nothing of a row that depends on others.
                system[i, i] = np.sqrt(max(total, 1e-16 * system[i, i] + 1e-300))
    for i in range(count):
        total = space.left[i]
        for a in range(i):
            total -= system[i, a] * way[a]
        way[i] = total / system[i, i]
    for i in range(count - 1, -1, -1):
        total = way[i]
        for a in range(i + 1, count):
            total -= system[a, i] * way[a]
        way[i] = total / system[i, i]
        if not np.isfinite(way[i]):
            return False
    return True


@kernel(fastmath=FAST)
def _move(A, c, low, high, weights, space):
    """Go along the way as far as the dual value grows and no weight is below 0.

    Returns
    -------
    bool
        Whether anything has changed.
    """
    count, value, way = weights.used[0], weights.value, space.way
    k = len(low)
    # Along the way the combined normal moves by `turn`.
    turn, normal = space.trial, space.normal
    for j in range(k):
        turn[j] = 0.0
    rise = 0.0
    far, blocking = 1.0, -1
    for i in range(count):
        r, w = weights.own[i], way[i]
        rise += w * c[r]
        row = A[r]
        for j in range(k):
            turn[j] += w * row[j]
        if w < 0.0 and value[i] + far * w <= 0.0:
            far, blocking = value[i] / -w, i
    first = _slope(rise, normal, turn, low, high, 0.0)
    if not first > 0.0 and blocking < 0:
        return False
    s = far
    if far > 0.0:
        last = _slope(rise, normal, turn, low, high, far)
        if last < 0.0 and first > 0.0:
            # The slope falls with s, in straight parts: regula falsi.
            a, b, at_a, at_b = 0.0, far, first, last
            for _ in range(40):
                s = a + (b - a) * at_a / (at_a - at_b)
                middle = _slope(rise, normal, turn, low, high, s)
                if abs(middle) <= 1e-6 * first:
                    break
                if middle > 0.0:
                    a, at_a = s, middle
                    at_b *= 0.5
                else:
                    b, at_b = s, middle
                    at_a *= 0.5
            blocking = -1
    kept = 0
    for i in range(count):
        moved = value[i] + s * way[i]
        if i == blocking or (moved <= 0.0 and way[i] < 0.0):
            continue
        weights.own[kept], value[kept] = weights.own[i], max(moved, 0.0)
        kept += 1
    weights.used[0] = kept
    return True


@kernel(fastmath=FAST)
def _slope(rise, normal, turn, low, high, s):
    """Derivative of the dual value at s along the way."""
    total = rise
    for j in range(len(normal)):
        total += turn[j] * min(max(-normal[j] - s * turn[j], low[j]), high[j])
    return total
