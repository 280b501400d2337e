"""Compiled rows of `solvers.projection`: one pass of plain loops per hyperplane.

Imported on first use, compiled on first call and cached on disk. Every row is first reduced to

    minimise ||m||_p   subject to   sum_k a_k m_k = R,   0 <= m_k <= c_k

over its *candidates*, the coordinates with a non-zero weight ``a = |w|`` and room ``c > 0`` in
the direction that lowers ``|residual|``. For p > 1 the solution is ``m_k = min(t g_k, c_k)`` with
``g = a^(q-1)``, and the scalar t is found by Newton's method from the left on the concave,
piecewise linear ``sum_k a_k min(t g_k, c_k) = R``: each step caps every coordinate that its t
exceeds and solves the rest in closed form, so the last step is that closed form on the final
active set. For p = 1 it is a fractional knapsack: the marginal weight is found by selection.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numba import njit

from solvers._projection_torch import (
    FAR_EXPONENT,
    LARGEST,
    REACH_SLACK_ULP,
    SHIFT_EXPONENT,
    ProjectionStatus,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Positions = npt.NDArray[np.uint32]  # unsigned: numba tests signed ones for wrap-around

# Plain numbers, which the compiled code freezes.
OPTIMAL = int(ProjectionStatus.OPTIMAL)
ON_PLANE = int(ProjectionStatus.ON_PLANE)
UNREACHABLE = int(ProjectionStatus.UNREACHABLE)
ZERO_NORMAL = int(ProjectionStatus.ZERO_NORMAL)
_EPS = 2.0**-52
_FAR = 2.0**FAR_EXPONENT
_SHIFT = 2.0**SHIFT_EXPONENT

# Squares of numbers this size or smaller (or of its inverse or larger) stay normal numbers.
_SAFE_TO_SQUARE = 2.0**450

# g is relative to the largest weight. Once all free g are below this the largest free weight
# becomes the reference, so that g never underflows where it matters.
_RENORMALISE_BELOW = 2.0**-100


@njit(cache=True, nogil=True, error_model="numpy")
def _power(base: float, exponent: float) -> float:
    if exponent == 1.0:
        return base
    if exponent == 0.0:
        return 1.0
    return float(base**exponent)


@njit(cache=True, nogil=True, error_model="numpy")
def _powers(a: Floats, reference: float, q1: float, g: Floats, count: int) -> None:
    """Set g = (a / reference)^q1. One loop a case: LLVM would compute the power in all of them."""
    if q1 == 0.0:
        g[:count] = 1.0
    elif q1 == 1.0:
        for k in range(count):
            g[k] = a[k] / reference
    else:
        for k in range(count):
            g[k] = (a[k] / reference) ** q1


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc"})
def _dot(x: Floats, y: Floats, count: int) -> float:
    total = 0.0
    for k in range(count):
        total += x[k] * y[k]
    return total


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "nnan", "nsz"})
def _largest(m: Floats, count: int) -> float:
    top = 0.0
    for k in range(count):
        top = max(top, m[k])
    return top


@njit(cache=True, nogil=True, error_model="numpy")
def _norm(m: Floats, count: int, p: float) -> float:
    if p == 1.0:
        return float(np.sum(m[:count]))
    top = _largest(m, count)
    if top == 0.0 or math.isinf(top) or math.isinf(p):
        return top
    total = 0.0
    if p == 2.0:
        if 1.0 / _SAFE_TO_SQUARE < top < _SAFE_TO_SQUARE:
            return math.sqrt(_dot(m, m, count))
        for k in range(count):
            total += (m[k] / top) * (m[k] / top)
        return top * math.sqrt(total)
    for k in range(count):
        total += (m[k] / top) ** p
    return float(top * total ** (1.0 / p))


@njit(cache=True, nogil=True, error_model="numpy")
def _knapsack(a: Floats, c: Floats, m: Floats, count: int, goal: float, work: Floats) -> float:
    """Fill m by descending weight (p = 1); return the marginal weight, the price of distance."""
    wa, wc = work[0], work[1]
    for k in range(count):
        wa[k] = a[k]
        wc[k] = c[k]
    left = count
    base = 0.0
    threshold = 0.0
    while left > 0:
        x, y, z = wa[0], wa[left // 2], wa[left - 1]
        pivot = max(min(x, y), min(max(x, y), z))
        above = 0.0
        equal = 0.0
        for k in range(left):
            product = wa[k] * wc[k]
            above += product if wa[k] > pivot else 0.0
            equal += product if wa[k] == pivot else 0.0
        kept = 0
        if base + above >= goal:
            for k in range(left):
                x, y = wa[k], wc[k]
                wa[kept] = x
                wc[kept] = y
                kept += 1 if x > pivot else 0
        else:
            threshold = pivot
            base += above + equal
            if base >= goal:
                break
            for k in range(left):
                x, y = wa[k], wc[k]
                wa[kept] = x
                wc[kept] = y
                kept += 1 if x < pivot else 0
        left = kept
    used = 0.0
    for k in range(count):
        if a[k] > threshold:
            m[k] = c[k]
            used += a[k] * c[k]
    rest = max(goal - used, 0.0)
    for k in range(count):
        if a[k] == threshold:
            m[k] = min(c[k], rest / threshold)
            rest = max(rest - a[k] * m[k], 0.0)
        elif a[k] < threshold:
            m[k] = 0.0
    return threshold


@njit(cache=True, nogil=True, error_model="numpy")
def _newton(
    a: Floats, c: Floats, m: Floats, count: int, goal: float, q1: float, g: Floats, free: Positions
) -> int:
    """Fill m (p > 1, q1 = q - 1); return how many candidates, ``free[:n]``, stay below c."""
    for k in range(count):
        free[k] = k
        m[k] = c[k]
    _powers(a, _largest(a, count), q1, g, count)
    slope = _dot(a, g, count)
    top = 1.0
    used = 0.0
    left = count
    while left > 0:
        if top < _RENORMALISE_BELOW:
            reference = 0.0
            for f in range(left):
                reference = max(reference, a[free[f]])
            _powers(a, reference, q1, g, count)
            slope = 0.0
            for f in range(left):
                slope += a[free[f]] * g[free[f]]
        step = min(max(goal - used, 0.0) / slope, LARGEST)
        kept = 0
        slope = 0.0
        top = 0.0
        for f in range(left):
            # Written always, kept only below the cap: no branch to mispredict.
            k = free[f]
            free[kept] = k
            below = c[k] > step * g[k]
            product = a[k] * (g[k] if below else c[k])
            slope += product if below else 0.0
            used += 0.0 if below else product
            top = max(top, g[k] if below else 0.0)
            kept += 1 if below else 0
        if kept == left:
            for f in range(left):
                k = free[f]
                m[k] = step * g[k] if step < LARGEST else np.inf
            break
        left = kept
    return left


@njit(cache=True, nogil=True, error_model="numpy")
def _price(
    a: Floats,
    c: Floats,
    m: Floats,
    count: int,
    free: Positions,
    left: int,
    p: float,
    size: float,
) -> float:
    """Return the residual that one more unit of distance removes (p > 1), 1 / |multiplier|."""
    if math.isinf(p):
        total = 0.0
        for k in range(count):
            if c[k] >= size:
                total += a[k]
        return total
    best = -1
    for f in range(left):
        k = free[f]
        if m[k] > 0.0 and (best < 0 or a[k] > a[best]):
            best = k
    if best >= 0:
        return float(a[best] / _power(m[best] / size, p - 1.0))
    price = np.inf
    for k in range(count):
        if m[k] > 0.0:
            price = min(price, a[k] / _power(m[k] / size, p - 1.0))
    return price


@njit(cache=True, nogil=True, error_model="numpy")
def project_rows(
    normal: Floats,
    residual: Floats,
    lower: Floats,
    lower_row: Ints,
    upper: Floats,
    upper_row: Ints,
    p: float,
    want_delta: bool,
    distance: Floats,
    multiplier: Floats,
    delta: Floats,
    status: npt.NDArray[np.int8],
) -> None:
    """Solve every row; ``delta`` (zeros on entry) is written only where ``want_delta``.

    Row i uses the slacks ``lower[lower_row[i]]`` and ``upper[upper_row[i]]``.
    """
    rows, width = normal.shape
    a, c = np.empty(width), np.empty(width)
    m, g = np.empty(width), np.empty(width)
    where, free = np.empty(width, np.uint32), np.empty(width, np.uint32)
    work = np.empty((2, width))
    q1 = 1.0 / (p - 1.0) if p > 1.0 else 0.0
    for i in range(rows):
        w, lo, up = normal[i], lower[lower_row[i]], upper[upper_row[i]]
        goal = abs(residual[i])
        sign = 1.0 if residual[i] > 0.0 else -1.0
        count = 0
        any_weight = False
        top = 0.0
        for j in range(width):
            push = sign * w[j]
            weight = abs(push)
            down, rise = -lo[j], up[j]
            room = down if push > 0.0 else rise
            any_weight |= weight > 0.0
            # Written always, kept only for candidates: no branch to mispredict.
            a[count] = weight
            c[count] = room
            where[count] = j
            candidate = (weight > 0.0) & (room > 0.0)
            top = max(top, weight if candidate else 0.0)
            count += 1 if candidate else 0
        distance[i] = 0.0
        multiplier[i] = 0.0
        status[i] = ON_PLANE if any_weight else ZERO_NORMAL
        if goal == 0.0:
            continue
        shift = 1.0
        if top > _FAR:
            shift = 1.0 / _SHIFT
        elif top < 1.0 / _FAR:
            shift = _SHIFT
        goal *= shift
        reach = 0.0
        for k in range(count):
            a[k] *= shift
            reach += a[k] * c[k]
        left = 0
        if reach >= goal * (1.0 - (REACH_SLACK_ULP * width + 4.0) * _EPS) and count > 0:
            if p == 1.0:
                price = _knapsack(a, c, m, count, goal, work)
                distance[i] = _norm(m, count, p)
            else:
                left = _newton(a, c, m, count, goal, q1, g, free)
                distance[i] = _norm(m, count, p)
                price = _price(a, c, m, count, free, left, p, distance[i])
        else:
            price = 0.0
            distance[i] = np.inf
        if distance[i] == np.inf:
            multiplier[i] = sign * np.inf
            if any_weight:
                status[i] = UNREACHABLE
            if want_delta:
                delta[i] = np.nan
            continue
        status[i] = OPTIMAL
        multiplier[i] = sign * shift / price if price > 0.0 else sign * np.inf
        if want_delta:
            for k in range(count):
                j = where[k]
                delta[i, j] = -m[k] if sign * w[j] > 0.0 else m[k]
