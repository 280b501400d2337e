"""Compiled: cells are split unit by unit, depth first, until every unit has its piece.

The walk stops and returns to Python where it needs something: an exact verdict, more room,
an emptied output; everything it knows is in arrays, so it goes on where it stopped.
"""

from __future__ import annotations

import numpy as np

from polytope.regions.cell_kernels import (
    ONE,
    SLOTS,
    band_of,
    classify,
    drop_slots,
    faces_within,
    new_points,
    take_side,
)
from polytope.regions.emit_kernels import emit
from polytope.regions.program import Program
from polytope.regions.row_kernels import output_rows, slot_row, value_rows
from polytope.regions.split_arrays import (
    COUNT,
    DONE,
    DOUBT,
    FORCED,
    FRESH,
    FULL,
    LAYER,
    NEED_CELLS,
    NEED_POINTS,
    NEED_SLOTS,
    ROOT,
    SLOT,
    STOP_LAYER,
    STOP_UNIT,
    TOP,
    UNIT,
    WINNER,
    ZERO,
    Found,
    Rows,
    Scratch,
    Stack,
)
from polytope.regions.vertex_kernels import BLURRED, settle_structure, sharpen
from solvers.compiled import kernel


@kernel
def _enter(program, rows, layer):
    """Compute the maps of a layer's values."""
    value_rows(
        program, layer, rows.out, rows.out_error, rows.out_size, rows.rows, rows.errors, rows.sums
    )
    info = program.layers[layer]
    if info[4] != 1 or info[5] == 1:
        return
    k = program.base.shape[1] - 1
    row = rows.work
    for unit in range(info[3]):
        gradient_error, constant_error, _ = slot_row(
            program, layer, unit, 0, -1, rows.rows, rows.errors, row
        )
        v = info[0] + unit
        for i in range(k + 1):
            rows.lines[i, v] = row[i]
        rows.blur[0, v], rows.blur[1, v], rows.blur[2, v] = band_of(
            row, gradient_error, constant_error
        )


@kernel
def _scan(points, count, first, unit, units, lines, blur, flags, totals, pieces, unit_at):
    """Decide units until one cuts the cell, or may: its number (`units` if none does)."""
    k = lines.shape[0] - 1
    start, end = first + unit, first + units
    for v in range(start, end):
        flags[v] = 0
    for p in range(count):
        w, error, extent = points[p, k], points[p, k + 1], points[p, k + 2]
        for v in range(start, end):
            totals[v] = lines[k, v] * w
        for i in range(k):
            c = points[p, i]
            for v in range(start, end):
                totals[v] += lines[i, v] * c
        for v in range(start, end):
            band = blur[0, v] * error + blur[1, v] * extent + blur[2, v] * w
            total = totals[v]
            side = 1 if total > band else 4
            side = 2 if -total > band else side
            flags[v] |= side
    for v in range(start, end):
        if flags[v] == 1:
            pieces[unit_at + v - first] = 1
        elif flags[v] == 2:
            pieces[unit_at + v - first] = 0
        else:
            return v - first
    return units


@kernel
def _refresh(program, stack, rows, top):
    """Compute the maps that a cell needs from the beginning."""
    for layer in range(min(stack.step[top, LAYER] + 1, len(program.layers))):
        _enter(program, rows, layer)
        if layer < stack.step[top, LAYER]:
            output_rows(
                program, layer, stack.pieces[top], rows.rows, rows.errors,
                rows.out, rows.out_error, rows.out_size,
            )  # fmt: skip


@kernel
def _copy(stack, source, target):
    """Copy a cell, all but its extreme points."""
    for i in range(SLOTS):
        stack.slots[target, i] = stack.slots[source, i]
    stack.used[target] = stack.used[source]
    stack.shared[target] = stack.shared[source]
    for i in range(stack.pieces.shape[1]):
        stack.pieces[target, i] = stack.pieces[source, i]
    for i in range(stack.step.shape[1]):
        stack.step[target, i] = stack.step[source, i]


@kernel
def walk(
    program: Program, keys: np.ndarray, net_rows: int, stack: Stack, rows: Rows, scratch: Scratch,
    found: Found, state: np.ndarray,
) -> int:  # fmt: skip
    """Split the cells of a stack until one of the reasons above.

    Parameters
    ----------
    program : Program
    keys : uint64 (units, pieces)
        Random words; those of a pattern's pieces, combined by exclusive or, are its key.
    net_rows : int
        Row ids from here on are rows of the domain.
    stack, rows, scratch, found : see above
    state : int64 (7,)
        Top of the stack (-1: empty), 1 if ``scratch.given`` holds the exact verdicts of the
        next step, regions and facets in `found`, the (layer, unit) to stop at (a cell that
        arrives there is a root and stays on the top), the first row id behind the domain's own.
    """
    layers = len(program.layers)
    while state[TOP] >= 0:
        top = state[TOP]
        step = stack.step[top]
        if step[FRESH]:
            _refresh(program, stack, rows, top)
            step[FRESH] = 0
        if step[LAYER] > state[STOP_LAYER] or (
            step[LAYER] == state[STOP_LAYER]
            and step[UNIT] >= state[STOP_UNIT]
            and step[SLOT] == 0
            and step[WINNER] < 0
        ):
            return ROOT
        if step[LAYER] == layers:
            if not emit(program, keys, net_rows, stack, rows, scratch, top, found, state):
                return FULL
            state[TOP] = top - 1
            continue
        layer = step[LAYER]
        info = program.layers[layer]
        if step[UNIT] == info[3]:
            output_rows(
                program, layer, stack.pieces[top], rows.rows, rows.errors,
                rows.out, rows.out_error, rows.out_size,
            )  # fmt: skip
            step[LAYER] = layer + 1
            step[UNIT] = step[SLOT] = 0
            step[WINNER] = -1
            if layer + 1 < layers:
                _enter(program, rows, layer + 1)
            continue
        slots = info[4]
        is_max = info[5] == 1
        if slots == 1 and not is_max and step[SLOT] == 0 and not state[FORCED]:
            step[UNIT] = _scan(
                stack.points[top], step[COUNT], info[0], step[UNIT], info[3], rows.lines,
                rows.blur, rows.flags, rows.totals, stack.pieces[top], info[2],
            )  # fmt: skip
            if step[UNIT] == info[3]:
                continue
        if step[SLOT] == slots:
            # All slots of the unit are behind: above every breakpoint, or the winner holds.
            step[UNIT] += 1
            step[SLOT] = 0
            step[WINNER] = -1
            continue
        if is_max and step[WINNER] < 0:
            reason: int = _choose_winners(program, stack, rows, scratch, top, state)
            if reason != DONE:
                return reason
            continue
        if is_max and step[SLOT] == step[WINNER]:
            step[SLOT] += 1
            continue
        reason = _one_step(program, net_rows, stack, rows, scratch, top, state)
        if reason != DONE:
            return reason
    return DONE


@kernel
def _one_step(program, net_rows, stack, rows, scratch, top, state):
    """One row against the cell at the top."""
    step = stack.step[top]
    is_max = program.layers[step[LAYER], 5] == 1
    slot, count = step[SLOT], step[COUNT]
    gradient_error, constant_error, present = slot_row(
        program, step[LAYER], step[UNIT], slot, step[WINNER], rows.rows, rows.errors, scratch.row
    )
    if present == 0:
        step[SLOT] += 1
        return DONE
    signs = scratch.signs
    above, below, on, open_ = classify(
        scratch.row, gradient_error, constant_error, stack.points[top], count,
        scratch.values, scratch.bands, signs,
    )  # fmt: skip
    if state[FORCED]:
        above = below = on = 0
        for v in range(count):
            signs[v] = scratch.given[v]
            above += signs[v] > 0
            below += signs[v] < 0
            on += signs[v] == 0
    elif open_ > 0:
        found = settle_structure(program, net_rows, stack, scratch, top)
        on, open_ = on + found, open_ - found
        if open_ > 0:
            return DOUBT
    if above > 0 and below > 0:
        info = program.layers[step[LAYER]]
        row = info[6] + step[UNIT] * info[4] + slot
        reason = _cut(
            program, stack, rows, scratch, top, state, row, info[2] + step[UNIT], is_max,
            net_rows, gradient_error, constant_error,
        )  # fmt: skip
        if reason == DONE:
            state[FORCED] = 0
            step[SLOT] += 1
            if not is_max:
                stack.pieces[top, info[2] + step[UNIT]] = slot + 1
        return reason
    state[FORCED] = 0
    if on > 0:
        others = stack.used[top]
        row = program.layers[step[LAYER], 6] + step[UNIT] * program.layers[step[LAYER], 4] + slot
        for s in range(SLOTS):
            if stack.slots[top, s] == row:
                others &= ~(ONE << np.uint64(s))
        stack.shared[top] |= faces_within(stack.masks[top], count, others, signs)
        if on == count:
            step[ZERO] = 1
    if is_max:
        if above > 0 or (below == 0 and slot < step[WINNER]):
            state[TOP] = top - 1
        else:
            step[SLOT] += 1
    elif above > 0:
        step[SLOT] += 1
        stack.pieces[top, program.layers[step[LAYER], 2] + step[UNIT]] = slot + 1
    else:
        stack.pieces[top, program.layers[step[LAYER], 2] + step[UNIT]] = slot
        step[UNIT] += 1
        step[SLOT] = 0
    return DONE


@kernel
def clip(
    program: Program, net_rows: int, stack: Stack, rows: Rows, scratch: Scratch, state: np.ndarray,
    row: int,
) -> int:  # fmt: skip
    """Keep the side of the cell at the top where ``scratch.row`` (exact) is at most 0.

    Returns
    -------
    DONE (the top is lowered if nothing is left), DOUBT, or a need
    """
    top = state[TOP]
    step = stack.step[top]
    count = step[COUNT]
    above, below, _, open_ = classify(
        scratch.row, 0.0, 0.0, stack.points[top], count,
        scratch.values, scratch.bands, scratch.signs,
    )  # fmt: skip
    if state[FORCED]:
        above = below = 0
        for v in range(count):
            scratch.signs[v] = scratch.given[v]
            above += scratch.given[v] > 0
            below += scratch.given[v] < 0
    elif open_ > 0:
        return DOUBT
    if above > 0 and below > 0:
        reason: int = _cut(
            program, stack, rows, scratch, top, state, row, 0, True, net_rows, 0.0, 0.0
        )
        if reason != DONE:
            return reason
    elif above > 0:
        state[TOP] = top - 1
    state[FORCED] = 0
    return DONE


@kernel
def _cut(
    program, stack, rows, scratch, top, state, row, unit, one_side, net_rows,
    gradient_error, constant_error,
):  # fmt: skip
    """Cut the cell at the top: both sides go on, or only the one below."""
    step = stack.step[top]
    points, masks, count = stack.points[top], stack.masks[top], step[COUNT]
    k = points.shape[1] - 3
    if top + 1 == len(stack.step):
        return NEED_CELLS
    slot = 0
    while slot < SLOTS and stack.used[top] & (ONE << np.uint64(slot)):
        slot += 1
    if slot == SLOTS:
        return NEED_SLOTS
    found = new_points(
        points, masks, count, scratch.values, scratch.bands, scratch.signs,
        scratch.fresh, scratch.fresh_masks,
    )  # fmt: skip
    if found < 0 or count + found > points.shape[0]:
        return NEED_POINTS
    fresh = scratch.fresh
    for v in range(found):
        size = 0.0
        for i in range(k):
            size = max(size, abs(fresh[v, i]))
        if fresh[v, k] == 1.0 and fresh[v, k + 1] > BLURRED * size:
            point = fresh[v]
            sharpen(
                program, rows.frame, net_rows, rows.rows, rows.errors, stack.pieces[top],
                stack.slots[top], scratch.fresh_masks[v], scratch.row,
                (gradient_error, constant_error), point, scratch.solve,
            )  # fmt: skip
    bit = ONE << np.uint64(slot)
    if not one_side:
        _copy(stack, top, top + 1)
        below = stack.step[top + 1]
        below[COUNT] = take_side(
            -1, slot, points, masks, count, scratch.signs, scratch.fresh, scratch.fresh_masks,
            found, stack.points[top + 1], stack.masks[top + 1],
        )  # fmt: skip
        _close(stack, top + 1, slot, row, bit, k)
        stack.pieces[top + 1, unit] = step[SLOT]
        below[UNIT] += 1
        below[SLOT] = 0
        state[TOP] = top + 1
    step[COUNT] = take_side(
        -1 if one_side else 1, slot, points, masks, count, scratch.signs, scratch.fresh,
        scratch.fresh_masks, found, points, masks,
    )  # fmt: skip
    _close(stack, top, slot, row, bit, k)
    return DONE


@kernel
def _close(stack, cell, slot, row, bit, k):
    """Enter the new facet of a side, and forget those that it cut off."""
    stack.slots[cell, slot] = row
    stack.used[cell] = drop_slots(
        stack.masks[cell], stack.step[cell, COUNT], stack.used[cell] | bit, k
    )
    stack.shared[cell] &= stack.used[cell] & ~bit


@kernel
def _choose_winners(program, stack, rows, scratch, top, state):
    """One copy of the cell for each candidate of a maximum that may win in it."""
    step = stack.step[top]
    slots, count = program.layers[step[LAYER], 4], step[COUNT]
    unit = program.layers[step[LAYER], 2] + step[UNIT]
    number = 0
    for winner in range(slots):
        able = True
        for other in range(slots):
            gradient_error, constant_error, present = slot_row(
                program, step[LAYER], step[UNIT], other, winner, rows.rows, rows.errors,
                scratch.row,
            )  # fmt: skip
            if present == 0:
                able = able and other != winner
                continue
            if other == winner:
                continue
            above, below, _, open_ = classify(
                scratch.row, gradient_error, constant_error, stack.points[top], count,
                scratch.values, scratch.bands, scratch.signs,
            )  # fmt: skip
            if below == 0 and open_ == 0 and (above > 0 or other < winner):
                able = False
                break
        if able:
            scratch.winners[number] = winner
            number += 1
    if top + number > len(stack.step):
        return NEED_CELLS
    for i in range(1, number):
        _copy(stack, top, top + i)
        for v in range(count):
            stack.masks[top + i, v] = stack.masks[top, v]
            for j in range(stack.points.shape[2]):
                stack.points[top + i, v, j] = stack.points[top, v, j]
        stack.step[top + i, WINNER] = scratch.winners[i]
        stack.pieces[top + i, unit] = scratch.winners[i]
    step[WINNER] = scratch.winners[0]
    stack.pieces[top, unit] = scratch.winners[0]
    state[TOP] = top + number - 1
    return DONE
