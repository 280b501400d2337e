"""Compiled: the pattern behind a facet on which units change together, by the network's structure.

A pool passes on its one live input, duplicated neurons are multiples of one another, a unit that
reads only what is off is zero and may wake: all this `polytope.regions.form_kernels` knows without
rounding, and so what these units do behind the facet.  Every other unit keeps its piece, because
its hyperplane is proved not to be the facet's.
"""

from __future__ import annotations

import numpy as np

from polytope.regions.beyond_kernels import UNKNOWN, form_sign, wake_forms
from polytope.regions.form_kernels import GENERIC, unit_forms, value_forms
from polytope.robustness.traversal_rows import ZERO, pattern_over
from solvers.compiled import kernel


@kernel
def forms_over(task, pieces, row, place, beyond):
    """Write the pattern behind a facet; False if the structure does not settle it.

    Parameters
    ----------
    pieces : uint16 (units,)
    row : int
        Row id, of a hyperplane with which no other row of the region may coincide by rounding.
    beyond : uint16 (units,), written
    """
    program, maps = task.program, place.maps
    pattern_over(task, pieces, row, beyond)
    own_layer = task.layer_of[row]
    info = program.layers[own_layer]
    unit, slot = (row - info[6]) // info[4], (row - info[6]) % info[4]
    here = abs(_form(program, place, info, unit, slot, pieces[info[2] + unit]))
    woken = GENERIC
    for layer in range(len(program.layers)):
        value_forms(program, layer, maps)
        info = program.layers[layer]
        own = (row - info[6]) // info[4] if layer == own_layer else -1
        if own >= 0:
            woken = wake_forms(program, layer, own, row, pieces, maps, beyond)
        for u in range(info[3]):
            j = info[2] + u
            old = np.int64(pieces[j])
            if info[5]:
                given = np.int64(beyond[j]) if u == own else -1
                found = _winner(program, place, info, u, old, given, woken, here)
            elif u == own:
                continue
            else:
                found = _piece(program, place, info, u, old, woken, here)
            if found < 0:
                return False
            beyond[j] = found
        unit_forms(program, layer, beyond, maps)
    return True


@kernel
def _form(program, place, info, u, slot, winner):
    """The form of a row on this side of the facet; see `form_kernels.row_form`."""
    at = info[7] + u * info[4]
    if info[5]:
        a = place.forms[program.table[at + slot]]
        b = place.forms[program.table[at + winner]]
        if a == 0 or b == 0:
            return a - b
        return GENERIC
    return place.forms[info[0] + u] if program.breaks[at + slot] == 0.0 else GENERIC


@kernel
def _apart(program, place, info, u, slot, winner, here):
    """Whether a row is known not to be zero on this side, nor to lie on the facet's hyperplane."""
    at = place.where[info[6] + u * info[4] + slot]
    if at >= 0:
        return place.kind[at] != ZERO
    # It was left out, since it is a multiple of another row: of the facet's, or of one apart.
    form = abs(_form(program, place, info, u, slot, winner))
    return form != 0 and form != here and form != GENERIC


@kernel
def _piece(program, place, info, u, old, woken, here):
    """The piece of a piecewise-linear unit behind the facet; -1 if not clear."""
    slots = info[4]
    sign = form_sign(place.maps.value_form[info[0] + u], woken)
    if sign == UNKNOWN:
        for slot in range(max(old - 1, 0), min(old + 1, slots)):
            if not _apart(program, place, info, u, slot, old, here):
                return -1
        return old
    found = 0
    for slot in range(slots):
        at = program.breaks[info[7] + u * slots + slot]
        if at < 0.0 or (at == 0.0 and sign > 0):
            found = slot + 1
    return found


@kernel
def _winner(program, place, info, u, old, given, woken, here):
    """The winner of a maximum behind the facet; -1 if not clear.

    `given` is the winner behind a facet between two candidates, else -1.
    """
    slots = info[4]
    table = program.table[info[7] + u * slots : info[7] + (u + 1) * slots]
    forms = place.maps.value_form
    top = form_sign(forms[table[old]], woken)
    for slot in range(slots):
        if slot in (old, given) or table[slot] < 0:
            continue
        sign = form_sign(forms[table[slot]], woken)
        if (top == UNKNOWN or sign == UNKNOWN) and not _apart(
            program, place, info, u, slot, old, here
        ):
            return -1
    if top == UNKNOWN:
        return given if given >= 0 else old
    # Among multiples of the form the largest sign wins, of zeros the first one.
    best, rivals = old, 0
    for slot in range(slots):
        if slot == old or table[slot] < 0:
            continue
        sign = form_sign(forms[table[slot]], woken)
        if sign == UNKNOWN:
            if slot == given:
                return -1
            continue
        if sign > top or (sign == 0 and top == 0 and slot < best):
            best, rivals, top = slot, 0, sign
        elif sign == top and sign != 0 and table[slot] != table[best]:
            rivals += 1
    return best if rivals == 0 else -1
