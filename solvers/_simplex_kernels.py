"""Compiled: the dictionary (dense tableau) of `solvers.simplex` and its search for facets.

Over d = u - start and the lines of `solvers._simplex_proofs`, the dictionary

    slack of the line in place i = value[i] - sum_j table[j, i] x_j
    coordinate d_c               = value[c] - sum_j table[j, c] x_j

has the k coordinates in its first k places and a line in each later one, its slots; x_j >= 0 is
the slack of line OUT[j], or a coordinate of either sign that has not entered (FREE). A column is
contiguous, so that a pivot, a ratio test and a look at all rows are plain vector loops.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from solvers._simplex_proofs import (
    FAILED,
    FREE,
    GONE,
    LINES,
    MEMBERS,
    OPEN,
    OUT,
    PASSIVE,
    PIVOT,
    PLACE,
    POINT,
    RATIO,
    ROW,
    SCALE,
    SLACK,
    SMALL,
    STATE,
    TABLE,
    TARGET,
    VALUE,
    WEIGHT,
    Floats,
    Ints,
    load,
    prove_facet,
    prove_redundant,
)
from solvers.compiled import kernel

Bools = npt.NDArray[np.bool_]

#: Verdicts on a row.
UNDECIDED, FACET, REDUNDANT, ZERO = range(4)

# Degenerate steps after which the lines that are met at once are moved apart, and how far: the
# dictionary may be wrong by that much, the proofs are not.
STALL = 3
APART = 1e-8


@kernel(inline=True)
def reset(grid: Floats, real: Floats, whole: Ints, k: int, n: int) -> int:
    """Write the dictionary of all lines at d = 0; return its number of places."""
    for c in range(k):
        whole[OUT, c] = FREE
        real[VALUE, c] = 0.0
        for j in range(k):
            grid[TABLE, j, c] = 0.0
        grid[TABLE, c, c] = -1.0
    for p in range(n):
        whole[PLACE, k + p] = p
        real[VALUE, k + p] = max(real[SLACK, p], 0.0)
    for c in range(k):
        for p in range(n):
            grid[TABLE, c, k + p] = grid[LINES, c, p]
    return k + n


@kernel(inline=True)
def drop(grid: Floats, real: Floats, whole: Ints, k: int, slots: int, r: int) -> int:
    """Remove slot r, whose place the last one takes; return the number of places."""
    last = slots - 1
    for j in range(k):
        grid[TABLE, j, r] = grid[TABLE, j, last]
    real[VALUE, r] = real[VALUE, last]
    whole[PLACE, r] = whole[PLACE, last]
    return last


@kernel(inline=True, fastmath=("contract",))
def pivot(grid: Floats, real: Floats, whole: Ints, k: int, slots: int, j: int, r: int) -> int:
    """Exchange column j and slot r; return the number of places."""
    inverse = 1.0 / grid[TABLE, j, r]
    step = real[VALUE, r] * inverse
    for i in range(slots):
        real[RATIO, i] = grid[TABLE, j, i]
        real[VALUE, i] -= step * grid[TABLE, j, i]
    real[VALUE, r] = step
    for h in range(k):
        real[WEIGHT, h] = grid[TABLE, h, r] * inverse
    real[WEIGHT, j] = 1.0 + inverse  # column j becomes -column / entry
    for h in range(k):
        factor = real[WEIGHT, h]
        for i in range(slots):
            grid[TABLE, h, i] -= factor * real[RATIO, i]
    for h in range(k):
        grid[TABLE, h, r] = real[WEIGHT, h]
    grid[TABLE, j, r] = inverse
    gone = whole[PLACE, r]
    if whole[OUT, j] == FREE:  # a coordinate has its own place and needs no slot
        slots = drop(grid, real, whole, k, slots, r)
    else:
        whole[PLACE, r] = whole[OUT, j]
    whole[OUT, j] = gone
    return slots


@kernel(inline=True, fastmath=("nnan", "reassoc"))
def rises(grid: Floats, real: Floats, whole: Ints, k: int, slots: int) -> None:
    """Set RATIO to the sum of the ways up of each line: 0 at its maximum."""
    for i in range(slots):
        real[RATIO, i] = 0.0
    for j in range(k):
        back = 1.0 if whole[OUT, j] == FREE else 0.0
        for i in range(slots):
            entry = grid[TABLE, j, i]
            real[RATIO, i] += entry if entry > 0.0 else -back * entry


@kernel(inline=True, fastmath=("nnan", "reassoc"))
def ratios(grid: Floats, real: Floats, k: int, slots: int, j: int, sign: float) -> None:
    """Set RATIO to the step along sign * column j at which each line is met."""
    for i in range(slots):  # loops that start at 0 are the ones that become vector code
        entry = sign * grid[TABLE, j, i]
        value = real[VALUE, i] if real[VALUE, i] > 0.0 else 0.0
        real[RATIO, i] = value / entry if entry > PIVOT else np.inf
    for c in range(k):
        real[RATIO, c] = np.inf


@kernel(inline=True, fastmath=("nnan", "reassoc"))
def smallest(real: Floats, slots: int) -> float:
    """Return the smallest RATIO."""
    best = np.inf
    for i in range(slots):
        best = real[RATIO, i] if real[RATIO, i] < best else best
    return best


@kernel(inline=True)
def leaving(grid: Floats, real: Floats, slots: int, j: int, sign: float, best: float) -> int:
    """Return the slot with the largest entry among those that are met first."""
    limit = best + 1e-12 * (1.0 + best)
    top = 0.0
    found = -1
    for i in range(slots):
        if real[RATIO, i] <= limit and sign * grid[TABLE, j, i] > top:
            top = sign * grid[TABLE, j, i]
            found = i
    return found


@kernel(inline=True)
def _pierce(
    grid: Floats, real: Floats, whole: Ints, k: int, n: int, start: Floats,
    j: int, step: float, p: int, verdict: Ints, witness: Floats,
) -> bool:  # fmt: skip
    """Prove that line p is a facet by the point at this step along column j, beyond it."""
    for c in range(k):
        real[TARGET, c] = real[VALUE, c] - step * grid[TABLE, j, c]
    if not prove_facet(grid, real, k, n, start, p):
        return False
    whole[STATE, p] = PASSIVE
    i = whole[ROW, p]
    verdict[i] = FACET
    for c in range(k):
        witness[i, c] = real[POINT, c]
    return True


@kernel(inline=True)
def _close(
    grid: Floats, real: Floats, whole: Ints, rank: Ints, k: int, slots: int, t: int,
    reach: float, verdict: Ints, witness: Floats, support: Ints,
) -> int:  # fmt: skip
    """Settle the line of slot t, which is at its maximum; return the number of places."""
    p = whole[PLACE, t]
    count = prove_redundant(grid, real, whole, rank, k, t, reach)
    if count < 0:
        whole[STATE, p] = FAILED
        return slots
    whole[STATE, p] = GONE
    i = whole[ROW, p]
    verdict[i] = REDUNDANT
    for a in range(k):
        support[i, a] = -1
        witness[i, a] = 0.0
    for a in range(count):
        q = whole[MEMBERS, a]
        support[i, a] = whole[ROW, q]
        witness[i, a] = real[WEIGHT, a] * (real[SCALE, q] / real[SCALE, p])
    return drop(grid, real, whole, k, slots, t)


@kernel(inline=True)
def _climb(
    grid: Floats, real: Floats, whole: Ints, rank: Ints, k: int, n: int, slots: int,
    start: Floats, t: int, reach: float, verdict: Ints, witness: Floats, support: Ints,
) -> tuple[int, int]:  # fmt: skip
    """Raise the line of slot t until it is settled; return the numbers of places and pivots."""
    p = whole[PLACE, t]
    stalled = 0
    for pivots in range(50 + 10 * k):
        j = -1
        top = SMALL
        for h in range(k):
            rise = grid[TABLE, h, t]
            rise = abs(rise) if whole[OUT, h] == FREE else rise
            if rise > top:
                top = rise
                j = h
        if j < 0:
            slots = _close(grid, real, whole, rank, k, slots, t, reach, verdict, witness, support)
            return slots, pivots
        if grid[TABLE, j, t] < 0.0:
            for i in range(slots):
                grid[TABLE, j, i] = -grid[TABLE, j, i]
        ratios(grid, real, k, slots, j, 1.0)
        near = max(real[VALUE, t], 0.0) / grid[TABLE, j, t]
        real[RATIO, t] = np.inf
        best = smallest(real, slots)
        if near < best:
            beyond = best if best < np.inf else 2.0 * near + real[SLACK, p] / grid[TABLE, j, t]
            if _pierce(grid, real, whole, k, n, start, j, beyond, p, verdict, witness):
                return slots, pivots
            if best < np.inf:
                ratios(grid, real, k, slots, j, 1.0)
                real[RATIO, t] = np.inf
        if not best < np.inf:
            break
        r = leaving(grid, real, slots, j, 1.0, best)
        q = whole[PLACE, r]
        if whole[STATE, q] == OPEN:
            real[RATIO, r] = np.inf
            real[RATIO, t] = near
            beyond = smallest(real, slots)
            if beyond > best:
                if not beyond < np.inf:
                    beyond = 2.0 * best + real[SLACK, q] / grid[TABLE, j, r]
                _pierce(grid, real, whole, k, n, start, j, beyond, q, verdict, witness)
        if best < APART * APART:
            stalled += 1
            if stalled > STALL:
                stalled = 0
                for i in range(k, slots):
                    if i != t and real[VALUE, i] < 0.1 * APART:
                        spread = (whole[PLACE, i] * 0.6180339887498949) % 1.0
                        real[VALUE, i] += APART * (1.0 + spread)
        slots = pivot(grid, real, whole, k, slots, j, r)
        if t == slots:
            t = r
    whole[STATE, p] = FAILED
    return slots, 50 + 10 * k


@kernel(inline=True)
def _push(
    grid: Floats, real: Floats, whole: Ints, k: int, n: int, slots: int, start: Floats,
    j: int, verdict: Ints, witness: Floats,
) -> tuple[int, int]:  # fmt: skip
    """Leave the open line of column j outwards; return its slot, -1 if settled, and the places."""
    p = whole[OUT, j]
    ratios(grid, real, k, slots, j, -1.0)
    best = smallest(real, slots)
    step = best if best < np.inf else real[SLACK, p]
    if _pierce(grid, real, whole, k, n, start, j, -step, p, verdict, witness):
        return -1, slots
    if not best < np.inf:
        whole[STATE, p] = FAILED
        return -1, slots
    ratios(grid, real, k, slots, j, -1.0)
    r = leaving(grid, real, slots, j, -1.0, best)
    slots = pivot(grid, real, whole, k, slots, j, r)
    real[VALUE, r] = 0.0
    return r, slots


@kernel(inline=True)
def search(
    A: Floats, b: Floats, err: Floats, depth: Ints, rank: Ints, start: Floats, reach: float,
    ask: Bools, verdict: Ints, witness: Floats, support: Ints, grid: Floats, real: Floats,
    whole: Ints,
) -> int:  # fmt: skip
    m, k = A.shape
    n = load(A, b, err, depth, start, grid, real, whole)
    for i in range(m):
        verdict[i] = ZERO
    for p in range(n):
        i = whole[ROW, p]
        verdict[i] = UNDECIDED
        whole[STATE, p] = OPEN if ask[i] else PASSIVE
    slots = reset(grid, real, whole, k, n)
    total = 0
    while True:
        rises(grid, real, whole, k, slots)
        t = -1
        low = np.inf
        for i in range(slots - 1, k - 1, -1):
            if real[RATIO, i] < low and whole[STATE, whole[PLACE, i]] == OPEN:
                if real[RATIO, i] < SMALL:
                    slots = _close(
                        grid, real, whole, rank, k, slots, i, reach, verdict, witness, support
                    )
                    t = i if t == slots else t
                else:
                    low = real[RATIO, i]
                    t = i
        if t < 0:
            j = 0
            while j < k and (whole[OUT, j] == FREE or whole[STATE, whole[OUT, j]] != OPEN):
                j += 1
            if j == k:
                return total
            t, slots = _push(grid, real, whole, k, n, slots, start, j, verdict, witness)
            total += 1
        if t >= 0:
            slots, pivots = _climb(
                grid, real, whole, rank, k, n, slots, start, t, reach, verdict, witness, support
            )
            total += pivots
