"""Linear programs with few rows over a box: ``min c d``, ``G d <= r``, ``low <= d <= high``.

Made for the nodes of a branch and bound: up to some dozens of rows, any number of bounded columns,
thousands of programs.  The dual simplex method with the long-step ratio test (bound flips) on a
dense tableau of one line per row: it starts in the corner of the box where the objective is
least, which is dual feasible, and each pivot costs rows times columns.

The solver only proposes; `dual_value` is the proof: for any multipliers ``lam >= 0`` no point has
an objective below ``sum_j min(n_j low_j, n_j high_j) - lam r`` with ``n = c + G' lam``.

Source: the method is textbook (Koberstein, The dual simplex method, techniques for a fast and
stable implementation, 2005; sections 3.1 and 6.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from solvers.compiled import kernel
from solvers.errors import ProblemError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: What became of a program: least value found, no feasible point, gave up.
OPTIMAL, INFEASIBLE, FAILED = range(3)
#: Where a column is: at its lower bound, at its upper bound, in the basis.
LOW, HIGH, BASIC = range(3)

#: Smaller entries of a row are not pivoted on, relative to its largest.
PIVOT = 1e-9
#: Violations up to this, relative to the value, are rounding.
FEASIBLE = 1e-11
#: Pivots per row and column before giving up: far more than are ever needed, unless it cycles.
LIMIT = 20


class Room(NamedTuple):
    """Scratch of `boxed_kernel`; see `room`."""

    table: Floats
    price: Floats
    value: Floats
    basis: Ints
    place: Ints
    order: Ints
    ratio: Floats


@dataclass(frozen=True)
class BoxedSolution:
    """The answer to `boxed_program`.

    Attributes
    ----------
    status : int
        OPTIMAL, INFEASIBLE or FAILED.
    value : float
        `dual_value` of the multipliers: a proved lower bound on the least value; for an
        INFEASIBLE program positive with the objective left out (0 if that is not proved).
    x : float64 (n,)
        The optimum, within rounding; NaN without one.
    multipliers : float64 (m,)
        Of the rows, at least 0; of an INFEASIBLE program they prove that.
    pivots : int
    """

    status: int
    value: float
    x: Floats
    multipliers: Floats
    pivots: int


def room(m: int, n: int) -> Room:
    """Room for programs of exactly m rows and n columns."""
    return Room(
        np.zeros((m, n + m)), np.zeros(n + m), np.zeros(m), np.zeros(m, np.int64),
        np.zeros(n + m, np.int64), np.zeros(n + m, np.int64), np.zeros(n + m),
    )  # fmt: skip


@kernel(inline=True)
def _start(c: Floats, G: Floats, r: Floats, low: Floats, high: Floats, x: Floats, at: Room) -> None:
    """The tableau of the slacks, in the corner where the objective is least."""
    m, n = G.shape
    for j in range(n):
        at.price[j] = c[j]
        at.place[j] = LOW if c[j] >= 0.0 else HIGH
        x[j] = low[j] if c[j] >= 0.0 else high[j]
    for i in range(m):
        value = r[i]
        for j in range(n):
            at.table[i, j] = G[i, j]
            value -= G[i, j] * x[j]
        for k in range(m):
            at.table[i, n + k] = 1.0 if k == i else 0.0
        at.value[i] = value
        at.basis[i] = n + i
        at.price[n + i] = 0.0
        at.place[n + i] = BASIC


@kernel(inline=True)
def leaving_row(n: int, low: Floats, high: Floats, at: Room) -> tuple[int, float]:
    """The basic column that is farthest beyond a bound, and how far (negative: above)."""
    worst, row = 0.0, -1
    for i in range(len(at.basis)):
        b, value = at.basis[i], at.value[i]
        below = (low[b] if b < n else 0.0) - value
        above = value - high[b] if b < n else -np.inf
        room = FEASIBLE * (1.0 + abs(value))
        if below > room and below > abs(worst):
            worst, row = below, i
        if above > room and above > abs(worst):
            worst, row = -above, i
    return row, worst


@kernel(inline=True)
def entering_column(
    n: int, row: int, gap: float, low: Floats, high: Floats, x: Floats, at: Room
) -> int:
    """The column that enters, the ones before it flipped to their other bound; -1 if none can."""
    up, top = (1.0 if gap > 0.0 else -1.0), 0.0
    for j in range(len(at.place)):
        top = max(top, abs(at.table[row, j]))
    count = 0
    for j in range(len(at.place)):
        entry = up * at.table[row, j]
        if (at.place[j] == LOW and entry < -PIVOT * top) or (
            at.place[j] == HIGH and entry > PIVOT * top
        ):
            at.ratio[count] = abs(at.price[j] / entry)
            at.order[count] = j
            count += 1
    left = abs(gap)
    while count > 0:
        best = 0
        for q in range(1, count):
            nearer = at.ratio[q] - at.ratio[best]
            if nearer < 0.0 or (
                nearer == 0.0
                and abs(at.table[row, at.order[q]]) > abs(at.table[row, at.order[best]])
            ):
                best = q
        j = int(at.order[best])
        width = high[j] - low[j] if j < n else np.inf
        left -= abs(at.table[row, j]) * width
        if not left > 0.0:
            return j
        step = width if at.place[j] == LOW else -width
        for i in range(len(at.basis)):
            at.value[i] -= at.table[i, j] * step
        at.place[j] = HIGH if at.place[j] == LOW else LOW
        x[j] = high[j] if at.place[j] == HIGH else low[j]
        count -= 1
        at.order[best], at.ratio[best] = at.order[count], at.ratio[count]
    return -1


@kernel(inline=True)
def pivot_on(
    n: int, row: int, j: int, gap: float, low: Floats, high: Floats, x: Floats, at: Room
) -> None:
    """Exchange the basic column of a row, which goes to its bound, and column j."""
    m, columns = at.table.shape
    b, entry = at.basis[row], at.table[row, j]
    bound = high[b] if gap < 0.0 else (low[b] if b < n else 0.0)
    step = (at.value[row] - bound) / entry  # flips have changed the value
    for i in range(m):
        at.value[i] -= at.table[i, j] * step
    entered = (x[j] if j < n else 0.0) + step
    price = at.price[j] / entry
    for k in range(columns):
        at.price[k] -= price * at.table[row, k]
        at.table[row, k] /= entry
    for i in range(m):
        factor = at.table[i, j]
        if i != row and factor != 0.0:
            for k in range(columns):
                at.table[i, k] -= factor * at.table[row, k]
    at.place[b] = LOW if gap > 0.0 else HIGH
    if b < n:
        x[b] = bound
    at.price[j] = 0.0
    at.place[j], at.basis[row], at.value[row] = BASIC, j, entered


@kernel
def boxed_kernel(
    c: Floats, G: Floats, r: Floats, low: Floats, high: Floats, x: Floats, multipliers: Floats,
    at: Room,
) -> tuple[int, int]:  # fmt: skip
    """Solve one program, compiled, without allocation; see `boxed_program`.

    Parameters
    ----------
    c, G, r, low, high : float64 (n,), (m, n), (m,), (n,), (n,)
        Finite, ``low <= high``.
    x, multipliers : float64 (n,), (m,), written
    at : Room
        From ``room(m, n)``.

    Returns
    -------
    (status, pivots)
    """
    m, n = G.shape
    _start(c, G, r, low, high, x, at)
    for pivots in range(LIMIT * (m + n)):
        row, gap = leaving_row(n, low, high, at)
        if row < 0:
            for i in range(m):
                if at.basis[i] < n:
                    x[at.basis[i]] = at.value[i]
            for k in range(m):
                multipliers[k] = max(at.price[n + k], 0.0)
            return OPTIMAL, pivots
        j = entering_column(n, row, gap, low, high, x, at)
        if j < 0:
            for k in range(m):
                entry = at.table[row, n + k]
                multipliers[k] = max(entry if gap > 0.0 else -entry, 0.0)
            return INFEASIBLE, pivots
        pivot_on(n, row, j, gap, low, high, x, at)
    return FAILED, LIMIT * (m + n)


@kernel
def dual_kernel(
    c: Floats, G: Floats, r: Floats, low: Floats, high: Floats, multipliers: Floats
) -> float:
    """What multipliers prove, every rounding taken off; see `dual_value`."""
    m, n = G.shape
    unit = (m + n + 8) * 2.0**-53
    total, size = 0.0, 0.0
    for i in range(m):
        total -= multipliers[i] * r[i]
        size += multipliers[i] * abs(r[i])
    for j in range(n):
        entry, terms = c[j], abs(c[j])
        for i in range(m):
            entry += multipliers[i] * G[i, j]
            terms += multipliers[i] * abs(G[i, j])
        total += min(entry * low[j], entry * high[j])
        size += terms * max(abs(low[j]), abs(high[j]))
    return float(total - 2.0 * unit * size - 1e-300)


def dual_value(
    c: Floats, G: Floats, r: Floats, low: Floats, high: Floats, multipliers: Floats
) -> float:
    """A lower bound on ``min c d`` that multipliers (m,) at least 0 prove, rigorous in float64.

    With ``c = 0`` a positive value proves that nothing is feasible.
    """
    return float(dual_kernel(c, G, r, low, high, multipliers))


def boxed_program(
    c: npt.ArrayLike,
    G: npt.ArrayLike,
    r: npt.ArrayLike,
    low: npt.ArrayLike,
    high: npt.ArrayLike,
) -> BoxedSolution:
    """Minimise ``c d`` over ``G d <= r`` and a box.

    Parameters
    ----------
    c, G, r : float64 (n,), (m, n), (m,)
    low, high : float64 (n,)
        Finite bounds.

    Raises
    ------
    ProblemError
        For shapes that do not fit, numbers that are not finite, or bounds that cross.
    """
    arrays = [np.ascontiguousarray(a, dtype=np.float64) for a in (c, G, r, low, high)]
    cost, table, right, lower, upper = arrays
    n, m = cost.size, right.size
    if [a.shape for a in arrays] != [(n,), (m, n), (m,), (n,), (n,)]:
        raise ProblemError(
            f"got shapes {[a.shape for a in arrays]}, expected c (n,), G (m, n), r (m,), and low "
            "and high (n,)"
        )
    if not all(np.isfinite(a).all() for a in arrays):
        raise ProblemError("all numbers must be finite; for open bounds use solvers.solve")
    if (lower > upper).any():
        raise ProblemError(f"low exceeds high in column {int(np.argmax(lower > upper))}")
    x, multipliers = np.zeros(n), np.zeros(m)
    status, pivots = boxed_kernel(cost, table, right, lower, upper, x, multipliers, room(m, n))
    if status == FAILED:
        multipliers[:] = 0.0
    goal = np.zeros(n) if status == INFEASIBLE else cost
    value = dual_value(goal, table, right, lower, upper, multipliers)
    if status == INFEASIBLE:
        value = max(value, 0.0)
    if status != OPTIMAL:
        x[:] = np.nan
    return BoxedSolution(int(status), value, x, multipliers, int(pivots))
