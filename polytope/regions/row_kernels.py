"""Compiled: the affine maps of a network's pre-activations under given pieces, with errors.

A map is a row ``[gradient, constant]`` over ``[u, 1]``; its error is two numbers, bounds on
every entry of the gradient and on the constant.  The recurrences are the standard forward
analysis (Higham, section 3.1), carried with the largest entry of each row.  An error of 0 says
that the row is exact: a unit behind dead units only is exactly zero, and is known to be.
"""

from __future__ import annotations

from polytope.regions.sums import ROUNDING, SLACK, TINY
from solvers.compiled import kernel


@kernel
def value_rows(program, layer, out, out_error, out_size, rows, errors, work):
    """Maps of all values that a layer reads.

    Parameters
    ----------
    program : Program
    layer : int
    out, out_error, out_size : float64 (units, k + 1), (units, 2), (units, 2)
        Maps of the outputs of the units of earlier layers (see `output_rows`).
    rows, errors : float64 (values, k + 1), (values, 2)
        Written for the values of the layer.
    work : float64 (k + 5, values)
    """
    k = program.base.shape[1] - 1
    if program.dense_at[layer, 0] >= 0:
        _dense_rows(program, layer, out, out_error, out_size, rows, errors, work)
        return
    for v in range(program.layers[layer, 0], program.layers[layer, 1]):
        gradient_error = constant_error = gradient_size = 0.0
        for i in range(k):
            rows[v, i] = program.base[v, i]
            gradient_size = max(gradient_size, abs(program.base[v, i]))
            gradient_error = max(gradient_error, program.base_error[v, i])
        rows[v, k] = program.base[v, k]
        constant_size = abs(program.base[v, k])
        constant_error = program.base_error[v, k]
        rounded = gradient_size != 0.0 or constant_size != 0.0
        terms = 0
        for t in range(program.start[v], program.start[v + 1]):
            j = program.source[t]
            if (
                out_size[j, 0] == 0.0
                and out_size[j, 1] == 0.0
                and out_error[j, 0] == 0.0
                and out_error[j, 1] == 0.0
            ):
                continue
            w = program.weight[t]
            size = abs(w)
            rounded = rounded or terms > 0 or size != 1.0
            doubt = program.weight_error[t]
            terms += 1
            for i in range(k + 1):
                rows[v, i] += w * out[j, i]
            gradient_size += size * out_size[j, 0]
            constant_size += size * out_size[j, 1]
            gradient_error += (size + doubt) * out_error[j, 0] + doubt * out_size[j, 0]
            constant_error += (size + doubt) * out_error[j, 1] + doubt * out_size[j, 1]
        if terms > 0 and rounded:
            gradient_error += (terms + 2) * ROUNDING * gradient_size + terms * TINY
            constant_error += (terms + 2) * ROUNDING * constant_size + terms * TINY
        errors[v, 0] = SLACK * gradient_error
        errors[v, 1] = SLACK * constant_error


@kernel
def _dense_rows(program, layer, out, out_error, out_size, rows, errors, work):
    """`value_rows` where the weights are one full matrix: all values at once."""
    k = program.base.shape[1] - 1
    first, end = program.layers[layer, 0], program.layers[layer, 1]
    count = end - first
    offset, begin, sources = program.dense_at[layer]
    dense = program.dense
    for i in range(k + 5):
        for v in range(count):
            work[i, v] = 0.0
    live = 0
    for s in range(sources):
        j = begin + s
        size, constant = out_size[j, 0], out_size[j, 1]
        error, constant_error = out_error[j, 0], out_error[j, 1]
        if size == 0.0 and constant == 0.0 and error == 0.0 and constant_error == 0.0:
            continue
        live += 1
        at = offset + s * count
        for i in range(k + 1):
            c = out[j, i]
            for v in range(count):
                work[i, v] += dense[at + v] * c
        for v in range(count):
            weight = abs(dense[at + v])
            work[k + 1, v] += weight * size
            work[k + 2, v] += weight * constant
            work[k + 3, v] += weight * error
            work[k + 4, v] += weight * constant_error
    for v in range(count):
        base_size = base_error = 0.0
        for i in range(k):
            rows[first + v, i] = work[i, v] + program.base[first + v, i]
            base_size = max(base_size, abs(program.base[first + v, i]))
            base_error = max(base_error, program.base_error[first + v, i])
        constant = program.base[first + v, k]
        rows[first + v, k] = work[k, v] + constant
        gradient_error = base_error + work[k + 3, v]
        constant_error = program.base_error[first + v, k] + work[k + 4, v]
        if live > 0:
            terms = live + 2
            gradient_error += terms * (ROUNDING * (base_size + work[k + 1, v]) + TINY)
            constant_error += terms * (ROUNDING * (abs(constant) + work[k + 2, v]) + TINY)
        errors[first + v, 0] = SLACK * gradient_error
        errors[first + v, 1] = SLACK * constant_error


@kernel
def output_rows(program, layer, pieces, rows, errors, out, out_error, out_size):
    """Maps of the outputs of a layer's units in their pieces; see `value_rows`."""
    k = program.base.shape[1] - 1
    first, _, unit, units, slots, is_max, _, offset = program.layers[layer]
    for u in range(units):
        j = unit + u
        if is_max:
            v = program.table[offset + u * slots + pieces[j]]
            slope, shift = 1.0, 0.0
        else:
            v = first + u
            place = program.pieces_at[layer] + u * (slots + 1) + pieces[j]
            slope, shift = program.slopes[place], program.intercepts[place]
        largest = 0.0
        for i in range(k):
            out[j, i] = slope * rows[v, i]
            largest = max(largest, abs(out[j, i]))
        scaled = slope * rows[v, k]
        out[j, k] = scaled + shift
        size = abs(slope)
        gradient_error, constant_error = size * errors[v, 0], size * errors[v, 1]
        if size not in (0.0, 1.0):
            gradient_error += 2 * ROUNDING * largest + TINY
            constant_error += 2 * ROUNDING * abs(scaled) + TINY
        if shift != 0.0 and scaled != 0.0:
            constant_error += 2 * ROUNDING * (abs(scaled) + abs(shift))
        out_error[j, 0], out_error[j, 1] = SLACK * gradient_error, SLACK * constant_error
        out_size[j, 0], out_size[j, 1] = largest, abs(out[j, k])


@kernel
def slot_row(program, layer, unit, slot, winner, rows, errors, row):
    """The row of one breakpoint, ``z - breakpoint``, or of one candidate minus the winner.

    Returns
    -------
    (gradient error, constant error, 1 if there is such a row else 0)
    """
    k = program.base.shape[1] - 1
    first, _, _, _, slots, is_max, _, offset = program.layers[layer]
    if is_max:
        a = program.table[offset + unit * slots + slot]
        b = program.table[offset + unit * slots + winner]
        if a < 0 or b < 0:
            return 0.0, 0.0, 0
        size = 0.0
        for i in range(k):
            row[i] = rows[a, i] - rows[b, i]
            size = max(size, max(abs(rows[a, i]), abs(rows[b, i])))
        row[k] = rows[a, k] - rows[b, k]
        gradient_error = errors[a, 0] + errors[b, 0]
        constant_error = errors[a, 1] + errors[b, 1]
        # A difference with 0, or of equal numbers, has no rounding.
        exact = True
        for i in range(k):
            if rows[a, i] != 0.0 and rows[b, i] != 0.0 and rows[a, i] != rows[b, i]:
                exact = False
        if not exact:
            gradient_error += 4 * ROUNDING * size
        if row[k] != 0.0 and rows[a, k] != 0.0 and rows[b, k] != 0.0:
            constant_error += 2 * ROUNDING * max(abs(rows[a, k]), abs(rows[b, k]))
        return SLACK * gradient_error, SLACK * constant_error, 1
    v = first + unit
    for i in range(k):
        row[i] = rows[v, i]
    point = program.breaks[offset + unit * slots + slot]
    row[k] = rows[v, k] - point
    constant_error = errors[v, 1]
    if point != 0.0 and rows[v, k] != 0.0:
        constant_error += 2 * ROUNDING * max(abs(point), abs(rows[v, k]))
    return errors[v, 0], SLACK * constant_error, 1
