"""Compiled CROWN bounds of one sub-box of the inputs, for small networks.

As `polytope.robustness.node_kernels`, but of a box that need not hold the point that steps are
taken from, of several output rows at once, and with the terms of fully connected layers added up
as runs, which the compiler turns into vector instructions.  Layer by layer every undecided
pre-activation is pulled back to the inputs from both sides (Zhang et al., NeurIPS 2018).

The proof's rounding is that of `node_kernels`: weights times costs, added up along the way, bound
the error of the function that is left.  Costs come from the sizes that values have in this box, so
that the error shrinks with it.
"""

from __future__ import annotations

import numpy as np

from polytope.robustness.line_kernels import max_lines, nothing, piecewise_lines
from polytope.verification.sheet import Sheet, Work
from solvers.compiled import kernel

EPS = 2.0**-52
TINY = 1e-290


@kernel
def least_value(g, g0, low, high):
    """A lower bound of ``g0 + g step`` over any box of steps."""
    total, size = 0.0, abs(g0)
    for i in range(len(g)):
        total += g[i] * low[i] if g[i] > 0.0 else g[i] * high[i]
        size += abs(g[i]) * max(abs(low[i]), abs(high[i]))
    return g0 + total - (len(g) + 4) * EPS * size - TINY


@kernel(inline=True, fastmath=("contract",))
def _add(sheet: Sheet, v, weight, work: Work):
    """Add a value times a weight to a function; its constant part and its rounding."""
    flat = sheet.flat
    if not flat.plain[v]:
        base = flat.base[v]
        for i in range(len(base)):
            work.gradient[i] += weight * base[i]
    begin, end, at = flat.start[v], flat.start[v + 1], sheet.runs[v]
    own = flat.weight[begin:end]
    if at >= 0:
        target = work.coefficients[at : at + end - begin]
        for t in range(len(own)):
            target[t] += weight * own[t]
    else:
        source = flat.source[begin:end]
        for t in range(len(own)):
            work.coefficients[source[t]] += weight * own[t]
    return weight * flat.constant[v], abs(weight) * work.cost[v]


@kernel(fastmath=("contract",))
def _pull(sheet: Sheet, layers, record, work: Work):
    """Pull a function of units' outputs back to a lower bound of it that is linear in steps.

    Parameters
    ----------
    sheet : Sheet
    layers : int
        The function is over the units of so many first layers.
    record : bool
        Add the sizes of what the function weighs the units' outputs with to `work.sway`.
    work : Work
        `coefficients` hold the function and are zero afterwards; `gradient` is added to.

    Returns
    -------
    (constant, error)
        To be added to those of the function.
    """
    flat, constant, error = sheet.flat, 0.0, 0.0
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
                work.sway[u] += abs(weight)
            side = 0 if weight > 0.0 else 2
            if candidates == 0:
                intercept = weight * work.lines[u, side + 1]
                slope = weight * work.lines[u, side]
                constant += intercept
                error += sheet.unit * abs(intercept)
                if slope != 0.0:
                    c, e = _add(sheet, first + j, slope, work)
                    constant += c
                    error += e
            elif side == 0:
                c, e = _add(sheet, work.below[u], weight, work)
                constant += c
                error += e
            else:
                intercept = weight * work.lines[u, 3]
                constant += intercept
                error += sheet.unit * abs(intercept)
                at = offset + j * candidates
                for k in range(candidates):
                    share = weight * work.weights[at + k]
                    if share != 0.0:
                        c, e = _add(sheet, flat.table[at + k], share, work)
                        constant += c
                        error += e
    return constant, error


@kernel
def _pull_value(sheet: Sheet, layers, v, sign, work: Work):
    """A lower bound of ``sign`` times a value, as `work.gradient` and the constant returned."""
    nothing(work.gradient)
    c, e = _add(sheet, v, sign, work)
    constant, error = _pull(sheet, layers, False, work)
    whole = c + constant
    return whole - 1.01 * (e + error) - 4 * sheet.unit * abs(whole)


@kernel
def _bound_value(sheet: Sheet, layers, v, u, low, high, box_low, box_high, work: Work):
    """Tighten a value's bounds from both sides; False if they cross."""
    h = _pull_value(sheet, layers, v, 1.0, work)
    bound = least_value(work.gradient, h, box_low, box_high)
    if bound > low[v]:
        low[v] = bound
    for i in range(len(box_low)):
        work.slopes[u, i] = work.gradient[i]
    h = _pull_value(sheet, layers, v, -1.0, work)
    bound = -least_value(work.gradient, h, box_low, box_high)
    if bound < high[v]:
        high[v] = bound
    for i in range(len(box_low)):
        work.slopes[u, i] = 0.5 * (work.slopes[u, i] - work.gradient[i])
    return not low[v] > high[v]


@kernel(fastmath=("contract", "reassoc"))
def _costs(sheet: Sheet, first, end, work: Work):
    """What the values of a layer cost, from the sizes of the earlier units' outputs."""
    flat = sheet.flat
    for v in range(first, end):
        held, begin, stop, at = 0.0, flat.start[v], flat.start[v + 1], sheet.runs[v]
        own = flat.weight[begin:stop]
        if at >= 0:
            outputs = work.outputs[at : at + stop - begin]
            for t in range(len(own)):
                held += abs(own[t]) * outputs[t]
        else:
            source = flat.source[begin:stop]
            for t in range(len(own)):
                held += abs(own[t]) * work.outputs[source[t]]
        work.cost[v] = 1.02 * (sheet.unit * (sheet.size[v] + held) + sheet.error[v])


@kernel(inline=True)
def _largest(lines, low, high):
    """The largest size between two lines over an interval."""
    size = 0.0
    for side in range(0, 4, 2):
        size = max(size, abs(lines[side] * low + lines[side + 1]))
        size = max(size, abs(lines[side] * high + lines[side + 1]))
    return 1.01 * size


@kernel
def _layer(sheet: Sheet, number, again, low, high, box_low, box_high, work: Work):
    """Bounds (if `again` or there are none) and lines of one layer; False if no input is left."""
    flat, fixed = sheet.flat, work.fixed
    first, unit, count, slots, offset = (
        flat.layers[number, 0], flat.layers[number, 2], flat.layers[number, 3],
        flat.layers[number, 4], flat.layers[number, 5],
    )  # fmt: skip
    candidates, at = flat.winners[number], flat.pieces_at[number]
    _costs(sheet, first, flat.layers[number, 1], work)
    for j in range(count):
        u = unit + j
        if candidates == 0:
            v = first + j
            place, breaks = at + j * (slots + 1), offset + j * slots
            low[v], high[v], work.pieces[u] = piecewise_lines(
                flat, place, breaks, slots, fixed[u], low[v], high[v], work.ends, work.values,
                work.lines[u],
            )  # fmt: skip
            open_ = work.pieces[u] & (work.pieces[u] - 1)
            if (open_ and again) or not high[v] - low[v] < np.inf:
                if not _bound_value(sheet, number, v, u, low, high, box_low, box_high, work):
                    return False
                low[v], high[v], work.pieces[u] = piecewise_lines(
                    flat, place, breaks, slots, fixed[u], low[v], high[v], work.ends,
                    work.values, work.lines[u],
                )  # fmt: skip
            work.outputs[u] = _largest(work.lines[u], low[v], high[v])
        else:
            place = offset + j * candidates
            work.below[u], work.lines[u, 3], work.pieces[u] = max_lines(
                flat.table, place, candidates, fixed[u], low, high, work.weights
            )
            if work.pieces[u] & (work.pieces[u] - 1):
                open_ = work.pieces[u]
                for k in range(candidates):
                    if open_ >> k & 1 and not _bound_value(
                        sheet, number, flat.table[place + k], u, low, high, box_low, box_high, work
                    ):
                        return False
                work.below[u], work.lines[u, 3], work.pieces[u] = max_lines(
                    flat.table, place, candidates, fixed[u], low, high, work.weights
                )
            work.outputs[u] = 0.0
            for k in range(candidates):
                v = flat.table[place + k]
                if v >= 0 and work.pieces[u] >> k & 1:
                    work.outputs[u] = max(work.outputs[u], abs(low[v]), abs(high[v]))
        if work.pieces[u] == 0:
            return False
    return True


@kernel
def bound_box(sheet: Sheet, fresh, low, high, box_low, box_high, work: Work):
    """Bound the rows ``A y - b`` of the outputs from below over a box of steps.

    Parameters
    ----------
    sheet : Sheet
    fresh : int
        The first layer whose known bounds are worth bounding again.
    low, high : float64 (values,)
        Known bounds; tightened.
    box_low, box_high : float64 (d,)
        Least and greatest step of each coordinate.
    work : Work

    Returns
    -------
    int
        A row that is positive over the whole box (m: no input is left at all); -1 if there is
        none.
    """
    flat, m = sheet.flat, len(sheet.b)
    count = len(flat.layers) - 1
    for number in range(count):
        if not _layer(sheet, number, number >= fresh, low, high, box_low, box_high, work):
            return m
    nothing(work.sway)
    first = flat.layers[count, 0]
    _costs(sheet, first, flat.layers[count, 1], work)
    for r in range(m):
        nothing(work.gradient)
        constant, error = 0.0, 0.0
        for k in range(sheet.A.shape[1]):
            if sheet.A[r, k] != 0.0:
                c, e = _add(sheet, first + k, sheet.A[r, k], work)
                constant += c
                error += e
        c, e = _pull(sheet, count, True, work)
        constant += c - sheet.b[r]
        error += e + sheet.unit * (abs(constant) + abs(sheet.b[r]))
        _keep(r, constant, error, sheet.unit, work)
        if least_value(work.gradient, work.heights[r], box_low, box_high) > 0.0:
            return r
    return -1


@kernel
def measure_influence(sheet: Sheet, work: Work):
    """Add to `work.sway` what units do by widening what later units read, roughly.

    The lines of an undecided unit part by up to half of what its pre-activation is widened by,
    and a decided unit passes its slope on.
    """
    flat = sheet.flat
    nothing(work.reach)
    for number in range(len(flat.layers) - 2, -1, -1):
        first, unit = flat.layers[number, 0], flat.layers[number, 2]
        if flat.winners[number] > 0:
            continue
        for j in range(flat.layers[number, 3]):
            u, v = unit + j, first + j
            if work.pieces[u] & (work.pieces[u] - 1):
                work.sway[u] += work.reach[u]
                weight = 0.5 * work.sway[u]
            else:
                weight = abs(work.lines[u, 0]) * work.reach[u]
            if weight == 0.0:
                continue
            begin, end, at = flat.start[v], flat.start[v + 1], sheet.runs[v]
            own = flat.weight[begin:end]
            if at >= 0:
                target = work.reach[at : at + end - begin]
                for t in range(len(own)):
                    target[t] += weight * abs(own[t])
            else:
                source = flat.source[begin:end]
                for t in range(len(own)):
                    work.reach[source[t]] += weight * abs(own[t])


@kernel(inline=True)
def _keep(row, constant, error, unit, work: Work):
    """Keep a pulled function as a row."""
    for i in range(len(work.gradient)):
        work.rows[row, i] = work.gradient[i]
    work.heights[row] = constant - 1.01 * error - 4 * unit * abs(constant)


@kernel
def fixed_row(sheet: Sheet, layer, v, sign, limit, row, work: Work):
    """Keep the row ``sign value - limit <= 0`` of a unit of a layer whose piece is fixed."""
    nothing(work.gradient)
    constant, error = _add(sheet, v, sign, work)
    c, e = _pull(sheet, layer, False, work)
    constant += c - limit
    error += e + sheet.unit * (abs(limit) + abs(constant))
    _keep(row, constant, error, sheet.unit, work)


@kernel
def worst_margin(sheet: Sheet, step, work: Work):
    """The largest of ``A y - b`` at a step, within rounding: at most 0 where it is unsafe."""
    flat = sheet.flat
    count = len(flat.layers) - 1
    for number in range(count):
        first, unit, units, slots, offset = (
            flat.layers[number, 0], flat.layers[number, 2], flat.layers[number, 3],
            flat.layers[number, 4], flat.layers[number, 5],
        )  # fmt: skip
        candidates, at = flat.winners[number], flat.pieces_at[number]
        for j in range(units):
            if candidates == 0:
                z = _value_at(sheet, first + j, step, work)
                piece = 0
                while piece < slots and flat.breaks[offset + j * slots + piece] < z:
                    piece += 1
                own = at + j * (slots + 1) + piece
                work.outputs[unit + j] = flat.slopes[own] * z + flat.intercepts[own]
            else:
                best = -np.inf
                for k in range(candidates):
                    v = flat.table[offset + j * candidates + k]
                    if v >= 0:
                        best = max(best, _value_at(sheet, v, step, work))
                work.outputs[unit + j] = best
    first, worst = flat.layers[count, 0], -np.inf
    for r in range(len(sheet.b)):
        total = -sheet.b[r]
        for k in range(sheet.A.shape[1]):
            if sheet.A[r, k] != 0.0:
                total += sheet.A[r, k] * _value_at(sheet, first + k, step, work)
        worst = max(worst, total)
    return worst


@kernel(fastmath=("contract", "reassoc"))
def _value_at(sheet: Sheet, v, step, work: Work):
    """A value at a step, from the units' outputs."""
    flat = sheet.flat
    total = flat.constant[v]
    if not flat.plain[v]:
        for i in range(len(step)):
            total += flat.base[v, i] * step[i]
    begin, end, at = flat.start[v], flat.start[v + 1], sheet.runs[v]
    own = flat.weight[begin:end]
    if at >= 0:
        outputs = work.outputs[at : at + end - begin]
        for t in range(len(own)):
            total += own[t] * outputs[t]
    else:
        source = flat.source[begin:end]
        for t in range(len(own)):
            total += own[t] * work.outputs[source[t]]
    return total
