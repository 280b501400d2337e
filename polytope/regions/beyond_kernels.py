"""Compiled: the pattern behind a facet where more than one unit may change its piece.

Behind a plain facet one unit changes its piece.  Where units are identically zero, because all
that they read is off, crossing may wake them; where rows coincide, they are crossed together.  In
both cases the values behind the facet are multiples of the facet's own linear form, whose sign
there is known, and their signs follow by the structure alone (`form_kernels`), with no rounding.
"""

from __future__ import annotations

import numpy as np

from polytope.regions.form_kernels import GENERIC, row_form, unit_forms, value_forms
from polytope.regions.row_kernels import output_rows, slot_row, value_rows
from polytope.regions.sums import ROUNDING
from polytope.regions.vertex_kernels import layer_of
from solvers.compiled import kernel

#: The sign of a value that is no multiple of the facet's form.
UNKNOWN = 2


@kernel
def slack_at(region, j, point):
    """``b_j - a_j u`` and a bound on its error."""
    k = region.A.shape[1]
    total = region.b[j]
    size, extent = abs(total), 0.0
    for i in range(k):
        term = region.A[j, i] * point[i]
        total -= term
        size += abs(term)
        extent += abs(point[i])
    band = region.error[j, 0] * extent + region.error[j, 1] + (k + 3) * ROUNDING * size
    return total, 1.01 * band


@kernel
def pattern_beyond(program, pieces, row, region, at, point, maps, beyond):
    """The pattern behind a facet; False if not clear.

    The point is on the facet up to an error that is counted.  Every unit but the facet's own has
    to be clearly on one side there, or a known multiple of the facet's form behind it.

    Parameters
    ----------
    pieces : uint16 (units,)
    row : int
        Row id of the facet's hyperplane, which is number `at` of the region.
    point : float64 (k,)
    beyond : uint16 (units,), written
        Holds `pieces`, the facet's own unit changed.
    """
    k = program.base.shape[1] - 1
    slack, band = slack_at(region, at, point)
    largest = extent = 0.0
    for i in range(k):
        largest = max(largest, abs(region.A[at, i]))
        extent += abs(point[i])
    if not largest > 0.0:
        return False
    shift = 2.0 * (abs(slack) + band) / largest
    own_layer = layer_of(program, row)
    woken = GENERIC
    for layer in range(len(program.layers)):
        value_rows(
            program, layer, maps.out, maps.out_error, maps.out_size, maps.rows, maps.errors,
            maps.sums,
        )  # fmt: skip
        value_forms(program, layer, maps)
        info = program.layers[layer]
        own = (row - info[6]) // info[4] if layer == own_layer else -1
        if own >= 0:
            woken = wake_forms(program, layer, own, row, pieces, maps, beyond)
        for u in range(info[3]):
            if info[5]:
                old = np.int64(pieces[info[2] + u])
                given = np.int64(beyond[info[2] + u]) if u == own else -1
                found = _winner(program, layer, u, old, given, woken, point, extent, shift, maps)
            elif u == own:
                continue
            else:
                found = _piece(program, layer, u, woken, point, extent, shift, maps)
            if found < 0:
                return False
            beyond[info[2] + u] = found
        output_rows(
            program, layer, beyond, maps.rows, maps.errors, maps.out, maps.out_error, maps.out_size
        )
        unit_forms(program, layer, beyond, maps)
    return True


@kernel
def wake_forms(program, layer, u, row, pieces, maps, beyond):
    """The form that is positive behind the facet, of whose unit this is the row."""
    info = program.layers[layer]
    slot = row - info[6] - u * info[4]
    old = pieces[info[2] + u]
    form = row_form(program, layer, u, slot, old, maps)
    return form if info[5] or beyond[info[2] + u] > old else -form


@kernel
def form_sign(form, woken):
    """The sign of a value behind the facet; UNKNOWN if its form does not say."""
    if form == 0:
        return 0
    if form == woken:
        return 1
    return -1 if form == -woken else UNKNOWN


@kernel
def _piece(program, layer, u, woken, point, extent, shift, maps):
    """The piece of a piecewise-linear unit behind the facet; -1 if not clear."""
    info = program.layers[layer]
    sign = form_sign(maps.value_form[info[0] + u], woken)
    found = 0
    for slot in range(info[4]):
        if sign != UNKNOWN:
            at = program.breaks[info[7] + u * info[4] + slot]
            above = at < 0.0 or (at == 0.0 and sign > 0)
        else:
            value, doubt = _value_at(program, layer, u, slot, -1, point, extent, shift, maps)
            if abs(value) <= doubt and doubt > 0.0:
                return -1
            above = value > 0.0
        if above:
            found = slot + 1
    return found


@kernel
def _winner(program, layer, u, old, given, woken, point, extent, shift, maps):
    """The winner of a maximum behind the facet; -1 if not clear.

    `given` is the winner behind a facet between two candidates, else -1.
    """
    info = program.layers[layer]
    slots = info[4]
    table = program.table[info[7] + u * slots : info[7] + (u + 1) * slots]
    top = form_sign(maps.value_form[table[old]], woken)
    for slot in range(slots):
        if slot in (old, given) or table[slot] < 0:
            continue
        if top != UNKNOWN and form_sign(maps.value_form[table[slot]], woken) != UNKNOWN:
            continue
        value, doubt = _value_at(program, layer, u, slot, old, point, extent, shift, maps)
        if abs(value) <= doubt and doubt > 0.0:
            return -1
        # Another winner behind the facet, or a tie that an earlier one takes.
        if value > 0.0 or (value == 0.0 and slot < old):
            return -1
    if top == UNKNOWN:
        return old if given < 0 else given
    # Among multiples of the form the largest sign wins, of zeros the first one.
    best, rivals = old, 0
    for slot in range(slots):
        if slot == old or table[slot] < 0:
            continue
        sign = form_sign(maps.value_form[table[slot]], woken)
        if sign == UNKNOWN:
            continue
        if sign > top or (sign == 0 and top == 0 and slot < best):
            best, rivals, top = slot, 0, sign
        elif sign == top and sign != 0 and table[slot] != table[best]:
            rivals += 1
    return best if rivals == 0 else -1


@kernel
def _value_at(program, layer, u, slot, winner, point, extent, shift, maps):
    """A row's value at the point, and a bound on its error there."""
    k = len(point)
    gradient_error, constant_error, _ = slot_row(
        program, layer, u, slot, winner, maps.rows, maps.errors, maps.row
    )
    value, size, length = maps.row[k], abs(maps.row[k]), 0.0
    for i in range(k):
        term = maps.row[i] * point[i]
        value += term
        size += abs(term)
        length += abs(maps.row[i])
    doubt = 1.01 * (
        gradient_error * extent + constant_error + (k + 3) * ROUNDING * size
        + (length + k * gradient_error) * shift
    )  # fmt: skip
    return value, doubt
