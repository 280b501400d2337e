"""Compiled: which values of a region are multiples of one another, by the network's structure.

A form is a code: 0 for a value that is identically zero, +-(v + 1) for one that is a positive or
negative multiple of value v, GENERIC for an output that is none of both.  A pool whose other
candidates are off passes a multiple of its one live input on; so does a unit that reads only that.
The rows of such values coincide, and their signs behind a facet follow from one another, without
rounding.
"""

from __future__ import annotations

from solvers.compiled import kernel

GENERIC = 2**40


@kernel
def value_forms(program, layer, maps):
    """Write the forms of a layer's values, from those of the outputs that they read."""
    for v in range(program.layers[layer, 0], program.layers[layer, 1]):
        form = 0
        for i in range(program.base.shape[1]):
            if program.base[v, i] != 0.0 or program.base_error[v, i] != 0.0:
                form = GENERIC
        t = program.start[v]
        while form != GENERIC and t < program.start[v + 1]:
            own = maps.unit_form[program.source[t]]
            weight = program.weight[t]
            if own == GENERIC or (own != 0 and not abs(weight) > program.weight_error[t]):
                form = GENERIC
            elif own != 0:
                own = own if weight > 0.0 else -own
                form = own if form == 0 or form == own else GENERIC
            t += 1
        # A value of its own, or a multiple of one that reads the same.
        maps.value_form[v] = program.alike[v] if form == GENERIC else form


@kernel
def unit_forms(program, layer, pieces, maps):
    """Write the forms of the outputs of a layer's units."""
    info = program.layers[layer]
    slots = info[4]
    for u in range(info[3]):
        j = info[2] + u
        if info[5]:
            at = info[7] + u * slots + pieces[j]
            maps.unit_form[j] = maps.value_form[program.table[at]]
            continue
        place = program.pieces_at[layer] + u * (slots + 1) + pieces[j]
        form = maps.value_form[info[0] + u]
        if program.intercepts[place] != 0.0:
            form = GENERIC
        elif program.slopes[place] == 0.0:
            form = 0
        elif program.slopes[place] < 0.0:
            form = -form
        maps.unit_form[j] = form


@kernel
def row_form(program, layer, u, slot, winner, maps):
    """The form of ``z - breakpoint`` or of a candidate less the winner; GENERIC if not known."""
    info = program.layers[layer]
    at = info[7] + u * info[4]
    if info[5]:
        a, b = (
            maps.value_form[program.table[at + slot]],
            maps.value_form[program.table[at + winner]],
        )
        if b == 0:
            return a
        return -b if a == 0 else GENERIC
    return maps.value_form[info[0] + u] if program.breaks[at + slot] == 0.0 else GENERIC
