"""Compiled CROWN bounds of one node of the branch and bound, for small networks.

Layer by layer every undecided pre-activation is pulled back to the inputs from both sides, then
the label's lead over the target, and what the fixed units read: the rows of a polyhedron that
holds all adversarial points of the node (see `polytope.robustness.nodes`).  Everything is a
function of the step away from the point.

The proof's rounding: a pass adds at most `Flat.unit` times the sizes of all terms that it adds
up, and a value's terms are no larger than its weight times `Flat.cost` over `Flat.unit`; so
weights times costs, added up along the way, bound the error of the function that is left.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from polytope.robustness.flat import Flat
from polytope.robustness.line_kernels import least, max_lines, nothing, piecewise_lines
from solvers.compiled import kernel

#: The score of units of which nothing is known (their gap is infinite, or no number).
HIGHEST = 1e300


class Work(NamedTuple):
    """Scratch and results of `bound_node`.

    Attributes
    ----------
    lines : float64 (units, 4)
        Slope and intercept of the lower line, then of the upper one.
    below : int64 (units,)
        For maxima the value that is the lower line.
    weights : float64 (table,)
        For maxima the upper line's weights; its intercept is in `lines`.
    coefficients : float64 (units,)
        Zero between calls.
    gradient : float64 (d,)
    pieces : int64 (units,)
        Result: the pieces left, as bits.
    score : float64 (units,)
        Result: how much the target's bound loses by the unit's lines; -1 for decided units.
    rows : float64 (rows, d)
        Result: the polyhedron is where ``rows step + heights <= 0``; the target's row first.
    heights : float64 (rows,)
    ends, values : float64 (corners,)
    """

    lines: np.ndarray
    below: np.ndarray
    weights: np.ndarray
    coefficients: np.ndarray
    gradient: np.ndarray
    pieces: np.ndarray
    score: np.ndarray
    rows: np.ndarray
    heights: np.ndarray
    ends: np.ndarray
    values: np.ndarray


@kernel(inline=True)
def add_value(flat: Flat, v, weight, coefficients, gradient):
    """Add a value times a weight to a function; its constant part and its rounding."""
    if not flat.plain[v]:
        base = flat.base[v]
        for i in range(len(gradient)):
            gradient[i] += weight * base[i]
    for t in range(flat.start[v], flat.start[v + 1]):
        coefficients[flat.source[t]] += weight * flat.weight[t]
    return weight * flat.constant[v], abs(weight) * flat.cost[v]


@kernel
def pull(flat: Flat, layers, record, work: Work):
    """Pull a function of units' outputs back to a lower bound of it that is linear in steps.

    Parameters
    ----------
    flat : Flat
    layers : int
        The function is over the units of so many first layers.
    record : bool
        Keep what the function weighs the units' outputs with, in `work.score`.
    work : Work
        `coefficients` hold the function and are zero afterwards; `gradient` is added to.

    Returns
    -------
    (constant, error)
        To be added to those of the function.
    """
    constant, error = 0.0, 0.0
    for number in range(layers - 1, -1, -1):
        first, unit, count = flat.layers[number, 0], flat.layers[number, 2], flat.layers[number, 3]
        candidates, offset = flat.winners[number], flat.layers[number, 5]
        for j in range(count):
            u = unit + j
            weight = work.coefficients[u]
            if weight == 0.0:
                continue
            work.coefficients[u] = 0.0
            if record:
                work.score[u] = weight
            side = 0 if weight > 0.0 else 2
            if candidates == 0:
                intercept = weight * work.lines[u, side + 1]
                slope = weight * work.lines[u, side]
                constant += intercept
                error += flat.unit * abs(intercept)
                if slope != 0.0:
                    c, e = add_value(flat, first + j, slope, work.coefficients, work.gradient)
                    constant += c
                    error += e
            elif side == 0:
                c, e = add_value(flat, work.below[u], weight, work.coefficients, work.gradient)
                constant += c
                error += e
            else:
                intercept = weight * work.lines[u, 3]
                constant += intercept
                error += flat.unit * abs(intercept)
                at = offset + j * candidates
                for k in range(candidates):
                    share = weight * work.weights[at + k]
                    if share != 0.0:
                        c, e = add_value(
                            flat, flat.table[at + k], share, work.coefficients, work.gradient
                        )
                        constant += c
                        error += e
    return constant, error


@kernel
def _value_row(flat: Flat, layers, v, sign, work: Work):
    """A lower bound of ``sign`` times a value, as `work.gradient` and the constant returned."""
    nothing(work.gradient)
    c, e = add_value(flat, v, sign, work.coefficients, work.gradient)
    constant, error = pull(flat, layers, False, work)
    whole = c + constant
    return whole - 1.01 * (e + error) - 4 * flat.unit * abs(whole)


@kernel
def _bound_value(flat: Flat, layers, v, low, high, box_low, box_high, radius, p, work: Work):
    """Tighten a value's bounds from both sides; False if they cross."""
    h = _value_row(flat, layers, v, 1.0, work)
    bound = least(work.gradient, h, box_low, box_high, radius, p)
    if bound > low[v]:
        low[v] = bound
    h = _value_row(flat, layers, v, -1.0, work)
    bound = -least(work.gradient, h, box_low, box_high, radius, p)
    if bound < high[v]:
        high[v] = bound
    return not low[v] > high[v]


@kernel
def _layer(flat: Flat, number, fixed, low, high, box_low, box_high, radius, p, work: Work):
    """Bounds and lines of one layer; False if no input of the node is left."""
    first, unit, count, slots, offset = (
        flat.layers[number, 0], flat.layers[number, 2], flat.layers[number, 3],
        flat.layers[number, 4], flat.layers[number, 5],
    )  # fmt: skip
    candidates, at = flat.winners[number], flat.pieces_at[number]
    for j in range(count):
        u = unit + j
        if candidates == 0:
            v = first + j
            place, breaks = at + j * (slots + 1), offset + j * slots
            low[v], high[v], work.pieces[u] = piecewise_lines(
                flat, place, breaks, slots, fixed[u], low[v], high[v], work.ends, work.values,
                work.lines[u],
            )  # fmt: skip
            if work.pieces[u] & (work.pieces[u] - 1):
                if not _bound_value(flat, number, v, low, high, box_low, box_high, radius, p, work):
                    return False
                low[v], high[v], work.pieces[u] = piecewise_lines(
                    flat, place, breaks, slots, fixed[u], low[v], high[v], work.ends,
                    work.values, work.lines[u],
                )  # fmt: skip
        else:
            place = offset + j * candidates
            work.below[u], work.lines[u, 3], work.pieces[u] = max_lines(
                flat.table, place, candidates, fixed[u], low, high, work.weights
            )
            if work.pieces[u] & (work.pieces[u] - 1):
                open_ = work.pieces[u]
                for k in range(candidates):
                    if open_ >> k & 1 and not _bound_value(
                        flat, number, flat.table[place + k], low, high, box_low, box_high,
                        radius, p, work,
                    ):  # fmt: skip
                        return False
                work.below[u], work.lines[u, 3], work.pieces[u] = max_lines(
                    flat.table, place, candidates, fixed[u], low, high, work.weights
                )
        if work.pieces[u] == 0:
            return False
    return True


@kernel
def scores(flat: Flat, low, high, work: Work):
    """Turn the target's weights into scores: BaBSR's intercept score (see `nodes.branches`)."""
    for number in range(len(flat.layers) - 1):
        first, unit, count = flat.layers[number, 0], flat.layers[number, 2], flat.layers[number, 3]
        candidates, offset = flat.winners[number], flat.layers[number, 5]
        for j in range(count):
            u = unit + j
            if work.pieces[u] & (work.pieces[u] - 1) == 0:
                work.score[u] = -1.0
                continue
            if candidates == 0:
                middle = 0.5 * (low[first + j] + high[first + j])
                gap = (work.lines[u, 2] - work.lines[u, 0]) * middle
                gap += work.lines[u, 3] - work.lines[u, 1]
            else:
                floor, top = -math.inf, -math.inf
                for k in range(candidates):
                    if work.pieces[u] >> k & 1:
                        v = flat.table[offset + j * candidates + k]
                        floor, top = max(floor, low[v]), max(top, high[v])
                gap = top - floor
            gap = max(gap, 0.0)
            score = abs(work.score[u]) * gap + 1e-12 * min(gap, 1.0)
            work.score[u] = score if score < HIGHEST else HIGHEST


@kernel
def _row(flat: Flat, layers, v, other, sign, limit, row, work: Work):
    """Write the row ``sign (value - other) - limit <= 0`` (other -1: none)."""
    nothing(work.gradient)
    constant, error = add_value(flat, v, sign, work.coefficients, work.gradient)
    if other >= 0:
        c, e = add_value(flat, other, -sign, work.coefficients, work.gradient)
        constant += c
        error += e
    c, e = pull(flat, layers, False, work)
    constant += c - limit
    error += e + flat.unit * (abs(limit) + abs(constant))
    for i in range(len(work.gradient)):
        work.rows[row, i] = work.gradient[i]
    work.heights[row] = constant - 1.01 * error


@kernel
def fixed_rows(flat: Flat, fixed, work: Work):
    """The rows of all fixed pieces, from row 1 on; how many rows there are."""
    row = 1
    for number in range(len(flat.layers) - 1):
        first, unit, count, slots, offset = (
            flat.layers[number, 0], flat.layers[number, 2], flat.layers[number, 3],
            flat.layers[number, 4], flat.layers[number, 5],
        )  # fmt: skip
        candidates = flat.winners[number]
        for j in range(count):
            piece = fixed[unit + j]
            if piece < 0:
                continue
            if candidates == 0:
                breaks = offset + j * slots
                if piece < slots:
                    _row(flat, number, first + j, -1, 1.0, flat.breaks[breaks + piece], row, work)
                    row += 1
                if piece > 0:
                    limit = -flat.breaks[breaks + piece - 1]
                    _row(flat, number, first + j, -1, -1.0, limit, row, work)
                    row += 1
            else:
                winner = flat.table[offset + j * candidates + piece]
                for k in range(candidates):
                    other = flat.table[offset + j * candidates + k]
                    if other >= 0 and other != winner:
                        _row(flat, number, other, winner, 1.0, 0.0, row, work)
                        row += 1
    return row


@kernel
def bound_node(flat: Flat, fixed, lead, low, high, box_low, box_high, radius, p, work: Work):
    """Bound one node.

    Parameters
    ----------
    flat : Flat
        Around the point.
    fixed : int16 (units,)
        The pieces that are fixed, -1 for open ones.
    lead : float64 (outputs,)
        Coefficients of the label's lead over the target.
    low, high : float64 (values,)
        Known bounds; tightened.
    box_low, box_high : float64 (d,)
        Least and greatest step of each coordinate.
    radius, p : float
        The ball that the box is met with.
    work : Work

    Returns
    -------
    int
        The rows of the node's polyhedron; 0 if it is proved to hold nothing adversarial.
    """
    count = len(flat.layers) - 1
    for number in range(count):
        if not _layer(flat, number, fixed, low, high, box_low, box_high, radius, p, work):
            return 0
    nothing(work.gradient)
    nothing(work.score)
    constant, error, first = 0.0, 0.0, flat.layers[count, 0]
    for k in range(len(lead)):
        if lead[k] != 0.0:
            c, e = add_value(flat, first + k, lead[k], work.coefficients, work.gradient)
            constant += c
            error += e
    c, e = pull(flat, count, True, work)
    constant += c
    height = constant - 1.01 * (error + e) - 4 * flat.unit * abs(constant)
    for i in range(len(work.gradient)):
        work.rows[0, i] = work.gradient[i]
    work.heights[0] = height
    if least(work.gradient, height, box_low, box_high, radius, p) > 0.0:
        return 0
    scores(flat, low, high, work)
    return fixed_rows(flat, fixed, work)
