"""Compiled: what multipliers prove about the distance to a polyhedron met with a box.

For weights ``lam >= 0`` of the rows ``a_i d + c_i <= 0`` every step d to a point of the polyhedron
satisfies the one row that they combine to.  The distance to that halfspace inside the box is a
lower bound whatever found the weights, and it is computed from below: every rounding makes it
smaller.  Steps are taken from the point itself, so the point is the origin here, and it is in
the box: ``low <= 0 <= high``, both finite.
"""

from __future__ import annotations

import numpy as np

from solvers.compiled import kernel

#: Sums may be taken in any order and products fused: the rounding bounds hold for all of them.
FAST = ("reassoc", "contract")
#: Unit of rounding.
UNIT = 2.0**-53
#: Newton steps of `_scaled` and `_stretched`; every one of them is a lower bound already.
STEPS = 60


@kernel(fastmath=FAST)
def halfspace_distance(normal, lead, low, high, p):
    """Least ``|d|_p`` with ``normal d <= -lead`` in the box, from below but for rounding.

    Parameters
    ----------
    normal, low, high : float64 (k,)
    lead : float
        Above 0 where the point itself is outside of the halfspace.
    p : float
        1, 2 or inf.

    Returns
    -------
    float
        inf if the box has no such step.
    """
    if not lead > 0.0:
        return 0.0
    if p == 2.0:
        return _scaled(normal, lead, low, high)
    if p == 1.0:
        return _greedy(normal, lead, low, high)
    return _stretched(normal, lead, low, high)


@kernel(fastmath=FAST)
def _scaled(normal, lead, low, high):
    """In l_2 the step is ``-t normal``, cut off at the box: Newton's method on t, from below.

    What it gains is concave in t, so no step of the method goes too far.
    """
    slope = 0.0
    for j in range(len(normal)):
        slope += normal[j] * normal[j]
    if not slope > 0.0:
        return np.inf
    t, square = lead / slope, 0.0
    for _ in range(STEPS):
        gain = slope = square = 0.0
        for j in range(len(normal)):
            n = normal[j]
            step = -t * n
            if step < low[j]:
                step = low[j]
            elif step > high[j]:
                step = high[j]
            else:
                slope += n * n
            gain -= n * step
            square += step * step
        left = lead - gain
        if not left > 1e-14 * lead:
            return np.sqrt(square)
        if not slope > 0.0:
            return np.inf
        t += left / slope
    return np.sqrt(square)


@kernel(fastmath=FAST)
def _greedy(normal, lead, low, high):
    """In l_1 the steepest coordinates go to their ends, one after the other."""
    total, top = 0.0, np.inf
    while True:
        best = 0.0
        for j in range(len(normal)):
            n = abs(normal[j])
            if best < n < top:
                best = n
        if best == 0.0:
            return np.inf
        width = 0.0
        for j in range(len(normal)):
            if normal[j] == best:
                width -= low[j]
            elif normal[j] == -best:
                width += high[j]
        if best * width >= lead:
            return total + lead / best
        lead -= best * width
        total += width
        top = best


@kernel(fastmath=FAST)
def _stretched(normal, lead, low, high):
    """In l_inf all coordinates go as far as t, or to their ends: again Newton's method on t."""
    t = 0.0
    for _ in range(STEPS):
        gain = slope = 0.0
        for j in range(len(normal)):
            n = abs(normal[j])
            end = -low[j] if normal[j] > 0.0 else high[j]
            if end <= t:
                gain += n * end
            else:
                gain += n * t
                slope += n
        left = lead - gain
        if not left > 1e-14 * lead:
            return t
        if not slope > 0.0:
            return np.inf
        t += left / slope
    return t


@kernel(fastmath=FAST)
def halfspace_bound(normal, lead, error, spread, low, high, p, radius):
    """A lower bound of the distance to a halfspace that is known up to rounding.

    Parameters
    ----------
    normal, lead : float64 (k,), float
        ``normal d + lead <= 0``.
    error, spread : float
        Bounds on the error of `lead`, and of every entry of `normal`.
    low, high : float64 (k,)
    p : float
    radius : float
        Only steps shorter than this count: the bound is at most `radius`.

    Returns
    -------
    float
        At least 0.
    """
    if not lead > error:
        return 0.0
    k = len(normal)
    unit = 4.0 * (k + 8) * UNIT
    plain = halfspace_distance(normal, lead, low, high, p)
    if not plain < radius:
        plain = radius
    # No step that is shorter than `plain` and gets there moves in l_1 by more than `extent`, so
    # the errors of the normal move its value by no more than this times `spread`.
    if p == 1.0:
        extent = plain
    elif p == 2.0:
        extent = np.sqrt(float(k)) * plain
    else:
        extent = k * plain
    left = lead * (1.0 - unit) - (1.0 + unit) * (error + spread * extent)
    safe = halfspace_distance(normal, left, low, high, p) * (1.0 - unit) - 1e-300
    return max(0.0, min(safe, plain))


@kernel(fastmath=FAST)
def combined_bound(A, c, error, own, weight, count, low, high, p, radius, normal, size):
    """What weights of some rows prove: see `halfspace_bound`.

    Parameters
    ----------
    A, c, error : float64 (m, k), (m,), (m, 2)
        Rows ``A d + c <= 0``, with errors (of every entry of the normal, of the constant).
    own, weight : int64 (count,), float64 (count,)
        The rows, and their weights, at least 0.
    low, high : float64 (k,)
    p, radius : float
    normal, size : float64 (k,), room
    """
    k = len(low)
    unit = (count + 4) * 2.0 * UNIT
    lead = terms = doubt = spread = largest = 0.0
    for j in range(k):
        normal[j] = size[j] = 0.0
    for i in range(count):
        w, r = weight[i], own[i]
        lead += w * c[r]
        terms += w * abs(c[r])
        spread += w * error[r, 0]
        doubt += w * error[r, 1]
        row = A[r]
        for j in range(k):
            normal[j] += w * row[j]
            size[j] += w * abs(row[j])
    for j in range(k):
        largest = max(largest, size[j])
    spread = (1.0 + unit) * spread + unit * largest
    doubt = (1.0 + unit) * doubt + unit * terms
    return halfspace_bound(normal, lead, doubt, spread, low, high, p, radius)
