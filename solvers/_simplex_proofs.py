"""Compiled: the data of `solvers.simplex`, and the proofs of its verdicts.

The *lines* are the rows that have a normal, scaled by powers of two (which is exact) to a largest
entry in [1/2, 1). The proofs trust nothing of the simplex method: they start from the lines alone,
and bound all that rounding and the errors of the rows can do. The bounds are of the standard kind,
gamma = n 2^-53 times the sizes that were summed (Higham, Accuracy and Stability, section 3.1).

All compiled functions take the same three arrays and are compiled into one: arrays that are
counted references would cost more than the arithmetic.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from solvers.compiled import kernel

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: First index of `grid`: the scaled rows, one per column; the dictionary's table; scratch.
LINES, TABLE, INVERSE = range(3)
#: Rows of `real`. By line: scaled b; bounds on the errors of an entry of the normal and of a
#: value, with the rounding of a product; the slack at the start and the bound on its error; the
#: error of the normal as given; the power of two.
OFFSET, DOUBT, BLUR, SLACK, VAGUE, ERROR, SCALE = range(7)
#: By place: its value, scratch. By coordinate or by column: scratch, a point, a multiplier.
VALUE, RATIO, REST, POINT, TARGET, WEIGHT = range(7, 13)
REALS = 13
#: Rows of `whole`. By line: its row, whether its b is exactly 0, what is known of it, its depth;
#: the line in each place; by column the line that is out, and the members of a proof with their
#: coordinates.
ROW, FLAT, STATE, DEPTH, PLACE, OUT, MEMBERS, AXES = range(8)
WHOLES = 8

#: States of a line: redundant and dropped, not asked about or settled, open, given up.
GONE, PASSIVE, OPEN, FAILED = -1, 0, 1, 2
FREE = -1

PIVOT = 1e-9  # smaller entries are not pivoted on; lines are of size about 1
SMALL = 1e-11  # smaller multipliers are taken for 0; the proofs answer for that
UNIT = 2.0**-53  # relative error of one rounding
MORE = 1.0 + 2.0**-44  # covers the roundings of an error bound itself, for k < 200
TINY = 1e-290  # covers the underflow of products
STEEPEST = 0.125  # a hyperplane is met along a coordinate only if its normal is known so well


@kernel(inline=True)
def load(
    A: Floats, b: Floats, err: Floats, depth: Ints, start: Floats, grid: Floats, real: Floats,
    whole: Ints,
) -> int:  # fmt: skip
    """Scale the rows that have a normal; return their number."""
    m, k = A.shape
    gamma = (k + 4) * UNIT
    reach = 0.0
    for c in range(k):
        reach += abs(start[c])
    n = 0
    for i in range(m):
        top = 0.0
        for c in range(k):
            top = max(top, abs(A[i, c]))
        if top == 0.0 and err[i, 0] == 0.0:
            continue
        scale = 1.0
        if top > 0.0:
            scale = math.ldexp(1.0, -math.frexp(top)[1])
        slack = b[i] * scale
        real[OFFSET, n] = slack
        real[BLUR, n] = (err[i, 1] * scale + gamma * abs(slack) + TINY) * MORE
        real[DOUBT, n] = (err[i, 0] * scale + gamma + TINY) * MORE
        for c in range(k):
            grid[LINES, c, n] = A[i, c] * scale
            slack -= grid[LINES, c, n] * start[c]
        real[SLACK, n] = slack
        real[VAGUE, n] = (real[BLUR, n] + real[DOUBT, n] * reach) * MORE
        real[ERROR, n] = err[i, 0] * scale
        real[SCALE, n] = scale
        whole[ROW, n] = i
        whole[DEPTH, n] = depth[i]
        whole[FLAT, n] = 1 if b[i] == 0.0 and err[i, 1] == 0.0 else 0
        n += 1
    return n


@kernel(inline=True, fastmath=("contract",))
def prove_facet(grid: Floats, real: Floats, k: int, n: int, start: Floats, p: int) -> bool:
    """Whether the segment from start to start + TARGET leaves through line p alone.

    Then POINT is about where it does, and all other lines have slack there, whatever the errors,
    also after the shift along one coordinate that puts POINT on hyperplane p exactly.
    """
    rise = 0.0
    axis = 0
    for c in range(k):
        rise += grid[LINES, c, p] * real[TARGET, c]
        if abs(grid[LINES, c, p]) > abs(grid[LINES, axis, p]):
            axis = c
    height = max(real[SLACK, p], 0.0)
    if not rise > height * (1.0 + 1e-12):
        return False
    part = height / rise
    reach = 0.0
    for c in range(k):
        real[POINT, c] = start[c] + part * real[TARGET, c]
        reach += abs(real[POINT, c])
    slope = abs(grid[LINES, axis, p]) - real[ERROR, p]
    if not slope > STEEPEST:
        return False
    for q in range(n):
        real[RATIO, q] = real[OFFSET, q]
    for c in range(k):
        x = real[POINT, c]
        for q in range(n):
            real[RATIO, q] -= grid[LINES, c, q] * x
    shift = (abs(real[RATIO, p]) + real[BLUR, p] + real[DOUBT, p] * reach) * MORE / slope
    shift *= MORE
    reach = (reach + shift) * MORE
    real[RATIO, p] = np.inf
    close = 0
    for q in range(n):
        margin = real[BLUR, q] + real[DOUBT, q] * reach + shift * abs(grid[LINES, axis, q])
        close += 0 if real[RATIO, q] > margin * MORE else 1
    return close == 0


@kernel(inline=True)
def prove_redundant(
    grid: Floats, real: Floats, whole: Ints, rank: Ints, k: int, t: int, reach: float
) -> int:
    """Return the number of MEMBERS whose WEIGHTs prove the line in slot t redundant, or -1."""
    p = whole[PLACE, t]
    count = 0
    for j in range(k):
        weight = -grid[TABLE, j, t]
        if whole[OUT, j] != FREE and weight > SMALL:
            whole[MEMBERS, count] = whole[OUT, j]
            real[WEIGHT, count] = weight
            count += 1
    if reach < np.inf and _bound_holds(grid, real, whole, k, p, count, reach):
        return count
    return count if _multipliers_exist(grid, real, whole, rank, k, p, count) else -1


@kernel(inline=True)
def _bound_holds(
    grid: Floats, real: Floats, whole: Ints, k: int, p: int, count: int, reach: float
) -> bool:
    """Whether the members bound line p below its offset wherever max |d_c| <= reach.

    There, with r = a_p - sum w_q a_q, a_p d = sum w_q a_q d + r d <= sum w_q slack_q + |r|_1 reach.
    """
    rest = real[DOUBT, p] * k
    bound = 0.0
    for a in range(count):
        q = whole[MEMBERS, a]
        rest += real[WEIGHT, a] * real[DOUBT, q] * k
        bound += real[WEIGHT, a] * max(real[SLACK, q] + real[VAGUE, q], 0.0)
    for c in range(k):
        entry = grid[LINES, c, p]
        for a in range(count):
            entry -= real[WEIGHT, a] * grid[LINES, c, whole[MEMBERS, a]]
        rest += abs(entry)
    return bool(real[SLACK, p] - real[VAGUE, p] > (bound + rest * reach) * MORE)


@kernel(inline=True)
def _multipliers_exist(
    grid: Floats, real: Floats, whole: Ints, rank: Ints, k: int, p: int, count: int
) -> bool:
    """Whether exact multipliers > 0 of the members exist and prove line p redundant.

    Line p and the members lie in a space of as many dimensions as there are members (`_axes`).
    Over as many coordinates the members' normals form a square matrix M. With R about its inverse
    and |I - R M| <= defect < 1, in the largest row sum, M is regular: the members span that space,
    line p is a combination of theirs, and its multipliers are within |R| |residual| / (1 - defect)
    of the WEIGHTs, in the largest entry. They prove strict redundancy by their bound on the slack,
    and, if all offsets are exactly 0, that hyperplane p touches only where two independent members
    do.
    """
    spread = real[ERROR, p]
    for a in range(count):
        spread += real[ERROR, whole[MEMBERS, a]]
    size = count
    if count == 0 or not _axes(grid, whole, rank, k, p, count, spread > 0.0):
        return False
    for a in range(count):
        for h in range(size):
            grid[INVERSE, h, a] = grid[LINES, whole[AXES, h], whole[MEMBERS, a]]
    if not _invert(grid, size):
        return False
    _residual(grid, real, whole, p, count)
    for a in range(count):
        for h in range(size):
            real[WEIGHT, a] += grid[INVERSE, a, size + h] * real[REST, h]
    worst = _residual(grid, real, whole, p, count)
    gamma = (k + 4) * UNIT
    norm = 0.0
    defect = 0.0
    for a in range(size):
        total = 0.0
        off = 0.0
        for h in range(size):
            total += abs(grid[INVERSE, a, size + h])
            entry = -1.0 if a == h else 0.0
            for g in range(size):
                line = grid[LINES, whole[AXES, g], whole[MEMBERS, h]]
                entry += grid[INVERSE, a, size + g] * line
            off += abs(entry)
        norm = max(norm, total)
        defect = max(defect, off)
    defect += (norm * (spread + size * gamma) + size * gamma) * MORE
    if not defect < 0.5:
        return False
    worst += real[DOUBT, p]
    for a in range(count):
        worst += abs(real[WEIGHT, a]) * real[DOUBT, whole[MEMBERS, a]]
    change = norm * worst / (1.0 - defect) * (1.0 + 1e-9)
    flat = whole[FLAT, p] == 1 and count > 1
    bound = 0.0
    for a in range(count):
        q = whole[MEMBERS, a]
        if not real[WEIGHT, a] > change:
            return False
        flat = flat and whole[FLAT, q] == 1
        bound += (real[WEIGHT, a] + change) * max(real[SLACK, q] + real[VAGUE, q], 0.0)
    return bool(flat or real[SLACK, p] - real[VAGUE, p] > bound * MORE)


@kernel(inline=True)
def _axes(grid: Floats, whole: Ints, rank: Ints, k: int, p: int, count: int, vague: bool) -> bool:
    """Set AXES to as many coordinates as there are members, over which these are independent.

    False if the space in which they and line p are known to lie has more dimensions: the
    coordinates that are used at all (others are exactly 0, unless `vague`), or the rank of the
    depth that all reach.
    """
    depth = whole[DEPTH, p]
    for a in range(count):
        depth = min(depth, whole[DEPTH, whole[MEMBERS, a]])
    size = 0
    for c in range(k):
        used = vague or grid[LINES, c, p] != 0.0
        for a in range(count):
            used = used or grid[LINES, c, whole[MEMBERS, a]] != 0.0
        if used:
            whole[AXES, size] = c
            size += 1
    if count == size:
        return True
    if count != rank[depth]:
        return False
    for a in range(count):
        for c in range(k):
            grid[INVERSE, a, c] = grid[LINES, c, whole[MEMBERS, a]]
    for a in range(count):
        best = 0
        for c in range(k):
            best = c if abs(grid[INVERSE, a, c]) > abs(grid[INVERSE, a, best]) else best
        if not abs(grid[INVERSE, a, best]) > PIVOT:
            return False
        whole[AXES, a] = best
        for h in range(a + 1, count):
            factor = grid[INVERSE, h, best] / grid[INVERSE, a, best]
            for c in range(k):
                grid[INVERSE, h, c] -= factor * grid[INVERSE, a, c]
            grid[INVERSE, h, best] = 0.0
    return True


@kernel(inline=True)
def _residual(grid: Floats, real: Floats, whole: Ints, p: int, count: int) -> float:
    """Set REST to line p less the weighted members, over AXES; return its largest size."""
    worst = 0.0
    for h in range(count):
        c = whole[AXES, h]
        entry = grid[LINES, c, p]
        for a in range(count):
            entry -= real[WEIGHT, a] * grid[LINES, c, whole[MEMBERS, a]]
        real[REST, h] = entry
        worst = max(worst, abs(entry))
    return worst


@kernel(inline=True)
def _invert(grid: Floats, size: int) -> bool:
    """Gauss-Jordan on the first columns of INVERSE; the inverse goes to the next columns."""
    for a in range(size):
        for c in range(size):
            grid[INVERSE, a, size + c] = 1.0 if a == c else 0.0
    for c in range(size):
        best = c
        for a in range(c + 1, size):
            if abs(grid[INVERSE, a, c]) > abs(grid[INVERSE, best, c]):
                best = a
        entry = grid[INVERSE, best, c]
        if not abs(entry) > PIVOT:
            return False
        for h in range(2 * size):
            held = grid[INVERSE, best, h]
            grid[INVERSE, best, h] = grid[INVERSE, c, h]
            grid[INVERSE, c, h] = held / entry
        for a in range(size):
            factor = grid[INVERSE, a, c]
            if a != c and factor != 0.0:
                for h in range(2 * size):
                    grid[INVERSE, a, h] -= factor * grid[INVERSE, c, h]
    return True
