"""Compiled linear bounds of single units, and least values of linear functions around a point.

As `polytope.bounds.relaxation`, `windows` and `inputs` define them for batches of tensors: here
for one node of a branch and bound, without allocation.
"""

# All arrays are float64 or int64, by the caller's arrangement; see `node_kernels`.

from __future__ import annotations

import math

from polytope.robustness.flat import Flat
from solvers.compiled import kernel

EPS = 2.0**-52
TINY = 1e-290
#: Rounds of the search for a ball's multiplier; any multiplier is sound.
ROUNDS = 12


@kernel
def least(g, g0, low, high, radius, p):
    """A lower bound of ``g0 + g step`` over steps in a box and an l_p ball (p 1, 2 or inf).

    Both contain zero; `radius` is inf where the box alone counts.
    """
    total, size, square, top = 0.0, 0.0, 0.0, 0.0
    d = len(g)
    for i in range(d):
        part = g[i] * low[i] if g[i] > 0.0 else g[i] * high[i]
        total += part
        size -= part
        square += g[i] * g[i]
        top = max(top, abs(g[i]))
    if p != math.inf and top > 0.0:
        bound = -radius * (math.sqrt(square) if p == 2.0 else top)
        if p == 2.0:
            bound = max(bound, _ball(g, low, high, radius, square))
        else:
            bound = max(bound, _diamond(g, low, high, radius, top))
        total = max(total, bound)
    return g0 + total - (d + 4) * EPS * (size + abs(g0)) - TINY


@kernel(inline=True)
def _room(g, low, high):
    """How far a coordinate can go to lower ``g step``."""
    return -low if g > 0.0 else high


@kernel
def _ball(g, low, high, radius, square):
    """By Hoelder over part of the weights, ``b = min(|g|, lam room)``, the box over the rest."""
    t, before = radius / math.sqrt(square), -1
    for _ in range(ROUNDS):
        left, free, full = radius * radius, 0.0, 0
        for i in range(len(g)):
            room = _room(g[i], low[i], high[i])
            if t * abs(g[i]) > room:
                left -= room * room
                full += 1
            else:
                free += g[i] * g[i]
        if full == before or not left > 0.0 or not free > 0.0:
            break
        before, t = full, max(t, math.sqrt(left / free))
    held, rest = 0.0, 0.0
    for i in range(len(g)):
        room, weight = _room(g[i], low[i], high[i]), abs(g[i])
        part = min(weight, room / t)
        held += part * part
        rest += (weight - part) * room
    return -(radius * math.sqrt(held) + rest)


@kernel
def _diamond(g, low, high, radius, top):
    """The same for p = 1: ``b = min(|g|, lam)``, the largest weights moving first."""
    lam = top
    for _ in range(ROUNDS):
        used, below = 0.0, 0.0
        for i in range(len(g)):
            if abs(g[i]) >= lam:
                used += _room(g[i], low[i], high[i])
            else:
                below = max(below, abs(g[i]))
        if used >= radius or below == 0.0:
            break
        lam = below
    rest = 0.0
    for i in range(len(g)):
        rest += max(abs(g[i]) - lam, 0.0) * _room(g[i], low[i], high[i])
    return -(radius * lam + rest)


@kernel(inline=True)
def _value(flat: Flat, at, piece, t):
    """A unit's piece at a place, and a bound on the rounding."""
    product = flat.slopes[at + piece] * t
    value = product + flat.intercepts[at + piece]
    return value, 2 * EPS * (abs(product) + abs(value)) + TINY


@kernel
def piecewise_lines(flat: Flat, at, breaks, slots, fixed, low, high, ends, heights, lines):
    """Lines below and above a unit of two or more pieces.

    Parameters
    ----------
    flat : Flat
    at, breaks : int
        Where its pieces and breakpoints begin.
    slots, fixed : int
        Breakpoints; the piece it must take, or -1.
    low, high : float
        Its pre-activation.
    ends, heights : float64 (slots + 2,), scratch
    lines : float64 (4,), written
        Slope and intercept of the lower line, then of the upper one.

    Returns
    -------
    (low, high, pieces)
        The interval in the fixed piece, and the pieces left as bits (0: none).
    """
    first, last = 0, slots
    if fixed >= 0:
        if fixed > 0:
            low = max(low, flat.breaks[breaks + fixed - 1])
        if fixed < slots:
            high = min(high, flat.breaks[breaks + fixed])
        if low > high:
            return low, high, 0
        first = last = fixed
    else:
        while first < slots and flat.breaks[breaks + first] <= low:
            first += 1
        while last > first and flat.breaks[breaks + last - 1] >= high:
            last -= 1
    if first == last:
        lines[0] = lines[2] = flat.slopes[at + first]
        lines[1] = lines[3] = flat.intercepts[at + first]
        return low, high, 1 << first
    pieces, count, worst = 0, 0, 0.0
    for k in range(first, last + 1):
        pieces |= 1 << k
        ends[count] = low if k == first else flat.breaks[breaks + k - 1]
        heights[count], error = _value(flat, at, k, ends[count])
        worst = max(worst, error)
        count += 1
    ends[count] = high
    heights[count], error = _value(flat, at, last, high)
    worst = max(worst, error)
    count += 1
    middle = 0.5 * (low + high)
    for side in range(2):
        sign = -1.0 if side == 0 else 1.0
        best, slope = -math.inf, 0.0
        for i in range(count):
            for j in range(i + 1, count):
                if ends[i] <= middle <= ends[j] and ends[i] < ends[j]:
                    s = (heights[j] - heights[i]) / (ends[j] - ends[i])
                    height = sign * (heights[i] + s * (middle - ends[i]))
                    if height > best:
                        best, slope = height, s
        top = -math.inf
        for i in range(count):
            product = slope * ends[i]
            value = sign * (heights[i] - product)
            slack = worst + 2 * EPS * (abs(product) + abs(value)) + TINY
            top = max(top, value + slack)
        lines[2 * side], lines[2 * side + 1] = slope, sign * top
    return low, high, pieces


@kernel(inline=True)
def _chord(low, high, floor):
    """Slope and intercept of a line above ``max(x, floor)`` on [low, high]."""
    left, right = max(low, floor), max(high, floor)
    slope = (right - left) / (high - low) if high > low else 0.0
    slope = min(max(slope, 0.0), 1.0)
    a, b = left - slope * low, right - slope * high
    slack = 4 * EPS * (abs(left) + abs(right) + slope * (abs(low) + abs(high))) + TINY
    return slope, max(a, b) + slack


@kernel
def max_lines(table, first, count, fixed, low, high, weights):
    """Lines below and above a maximum.

    Parameters
    ----------
    table : int64
    first, count : int
        Its candidates' values are ``table[first : first + count]`` (-1: absent).
    fixed : int
        The candidate that must win, or -1.
    low, high : float64 (values,)
        Tightened where a winner is fixed.
    weights : float64, written at ``first : first + count``
        The upper line's.

    Returns
    -------
    (below, intercept, pieces)
        The value that is the lower line, the upper line's intercept, and the candidates that
        may win as bits (0: none).
    """
    floor, top = -math.inf, -math.inf
    for k in range(count):
        v = table[first + k]
        weights[first + k] = 0.0
        if v >= 0:
            floor = max(floor, low[v])
            top = max(top, high[v])
    if fixed >= 0:
        winner = table[first + fixed]
        low[winner] = max(low[winner], floor)
        if low[winner] > high[winner]:
            return winner, 0.0, 0
        for k in range(count):
            v = table[first + k]
            if v >= 0:
                high[v] = min(high[v], high[winner])
                if low[v] > high[v]:
                    return winner, 0.0, 0
        weights[first + fixed] = 1.0
        return winner, 0.0, 1 << fixed
    pieces, alone, best, best_middle, second = 0, -1, -1, -math.inf, -math.inf
    top, known = -math.inf, True
    for k in range(count):
        v = table[first + k]
        if v >= 0 and high[v] >= floor:
            pieces |= 1 << k
            known &= -math.inf < low[v] and high[v] < math.inf
            middle = 0.5 * (low[v] + high[v])
            if best < 0 or middle > best_middle:
                best, best_middle = v, middle
            if high[v] > top:
                top, second = high[v], top
            else:
                second = max(second, high[v])
    for k in range(count):
        v = table[first + k]
        if alone < 0 and pieces >> k & 1 and low[v] >= (second if high[v] == top else top):
            alone = k
    if alone >= 0:
        weights[first + alone] = 1.0
        return table[first + alone], 0.0, 1 << alone
    if pieces == 0 or not known:  # no candidate can win, or nothing is known of some
        return best, math.inf, pieces
    least_height, chosen, constant = math.inf, -1, 0.0
    total, height, size = floor, floor, abs(floor)
    for k in range(count):
        if pieces >> k & 1:
            v = table[first + k]
            middle = 0.5 * (low[v] + high[v])
            slope, intercept = _chord(low[v], high[v], second if high[v] == top else top)
            if slope * middle + intercept < least_height:
                least_height, chosen, constant = slope * middle + intercept, k, intercept
            slope, intercept = _chord(low[v], high[v], floor)
            total += intercept - floor
            size += abs(intercept) + abs(floor)
            height += slope * middle + intercept - floor
    if height < least_height - 1e-9 * (1.0 + abs(least_height)):
        for k in range(count):
            if pieces >> k & 1:
                v = table[first + k]
                weights[first + k] = _chord(low[v], high[v], floor)[0]
        return best, total + (count + 4) * EPS * size, pieces
    v = table[first + chosen]
    weights[first + chosen] = _chord(low[v], high[v], second if high[v] == top else top)[0]
    return best, constant, pieces


@kernel(inline=True)
def nothing(array):
    """Fill with zeros."""
    for i in range(len(array)):
        array[i] = 0.0
