"""Compiled: linear programs over a box that take their rows one by one.

The dual simplex method of `solvers.boxed`, on a tableau that grows: a row that the solution
violates is written in terms of the columns that are not basic, which leaves all prices what they
were, and the method goes on from there.  So a program costs its few pivots, on few rows.
"""

from __future__ import annotations

from solvers.boxed import (
    BASIC,
    FAILED,
    HIGH,
    INFEASIBLE,
    LOW,
    OPTIMAL,
    Room,
    entering_column,
    leaving_row,
    pivot_on,
)
from solvers.compiled import kernel

#: Pivots after each added row before giving up.
PIVOTS = 400


@kernel
def begin_program(n, cost, low, high, x, at):
    """No rows: every column at the bound where it costs least."""
    for j in range(len(at.place)):
        at.price[j] = 0.0
        at.place[j] = LOW
    for j in range(n):
        at.price[j] = cost[j]
        at.place[j] = LOW if cost[j] >= 0.0 else HIGH
        x[j] = low[j] if cost[j] >= 0.0 else high[j]


@kernel
def add_row(n, row, right, x, at, count):
    """Add ``row x <= right`` as number `count`; `x` holds the solution so far."""
    line = at.table[count]
    value = right
    for j in range(len(line)):
        line[j] = 0.0
    for j in range(n):
        line[j] = row[j]
        value -= row[j] * x[j]
    line[n + count] = 1.0
    for q in range(count):
        b = at.basis[q]
        factor = line[b]
        if factor != 0.0:
            other = at.table[q]
            for j in range(len(line)):
                line[j] -= factor * other[j]
            line[b] = 0.0
    at.value[count] = value
    at.basis[count] = n + count
    at.place[n + count] = BASIC
    at.price[n + count] = 0.0


@kernel
def solve_program(n, low, high, x, multipliers, at, count):
    """Go on until the rows hold: the status; `x` and the multipliers (count,) are written."""
    now = Room(
        at.table[:count], at.price, at.value[:count], at.basis[:count], at.place, at.order,
        at.ratio,
    )  # fmt: skip
    status = FAILED
    for _ in range(PIVOTS):
        row, gap = leaving_row(n, low, high, now)
        if row < 0:
            for k in range(count):
                multipliers[k] = max(at.price[n + k], 0.0)
            status = OPTIMAL
            break
        j = entering_column(n, row, gap, low, high, x, now)
        if j < 0:
            for k in range(count):
                entry = at.table[row, n + k]
                multipliers[k] = max(entry if gap > 0.0 else -entry, 0.0)
            status = INFEASIBLE
            break
        pivot_on(n, row, j, gap, low, high, x, now)
    for i in range(count):
        if at.basis[i] < n:
            x[at.basis[i]] = at.value[i]
    return status
