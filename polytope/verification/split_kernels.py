"""The compiled search over sub-boxes: bound, refute, look for an unsafe point, split in two.

A box is split at the middle of the coordinate where that moves the bound most; one with few
undecided units is split on the piece of a unit instead, which ends after as many splits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polytope.robustness.line_kernels import nothing
from polytope.verification.box_kernels import bound_box, fixed_row, measure_influence, worst_margin
from polytope.verification.sheet import Sheet, Work
from solvers.boxed import INFEASIBLE, OPTIMAL, Room, boxed_kernel, dual_kernel
from solvers.compiled import kernel

#: Why `search_boxes` returned: nothing waits, the budget of boxes is spent, there is no room for
#: another leaf, an unsafe point may have been found, the last box cannot be split.
DONE, SPENT, FULL, CANDIDATE, STUCK = range(5)
LEAF, CUT = -1, -2
#: Coordinates are not split below this part of the root box: there rounding, of some 1e-12 of what
#: values are, is what keeps a box open, and a further split would not help.
NARROW = 2.0**-40


class Stack(NamedTuple):
    """Boxes that wait, the last one next.

    Attributes
    ----------
    low, high : float64 (most, d)
    known : float64 (most, 2, values)
        Bounds of the values that hold in the box.
    units, pieces : int64 (most, depth)
        Units whose piece is fixed, and the pieces; -1 from the first free place on.
    fresh : int64 (most,)
        The first layer that the last split may have changed the bounds of.
    parent : int64 (most, 3)
        Whose log has the box that it is a part of, in which line, and which part it is.
    """

    low: np.ndarray
    high: np.ndarray
    known: np.ndarray
    units: np.ndarray
    pieces: np.ndarray
    fresh: np.ndarray
    parent: np.ndarray


class Log(NamedTuple):
    """What was done with boxes: a line for each that was split or refuted.

    Attributes
    ----------
    lines : int64 (most, 5)
        The parent, as in `Stack`; then a unit and the pieces that it was split into, as bits; or
        `CUT` less the coordinate that was cut, and 0; or `LEAF` and how many multipliers refute it
        (0: no input of it is left).
    cuts : float64 (most,)
        The step that a coordinate was cut at.
    multipliers : float64 (most, m + rows of fixed units)
        At least 0: of the rows ``A y - b``, and of what each fixed unit reads minus the end of its
        piece (upper end first), in the order in which they were fixed.  Combined with them their
        lower bounds are positive over the box.
    """

    lines: np.ndarray
    cuts: np.ndarray
    multipliers: np.ndarray


class Plan(NamedTuple):
    """Scratch of `search_boxes`.

    Attributes
    ----------
    cost, low, high, point : float64 (d + 1,)
        Of the program that combines the rows; the last column is the outputs' common height.
    rows : float64 ((m + rows of fixed units) * (d + 1),)
    right, multipliers : float64 (m + rows of fixed units,)
    step, score, zero : float64 (d,)
    room : Room
        Of as many rows, its table flat.
    """

    cost: np.ndarray
    low: np.ndarray
    high: np.ndarray
    point: np.ndarray
    rows: np.ndarray
    right: np.ndarray
    multipliers: np.ndarray
    step: np.ndarray
    score: np.ndarray
    zero: np.ndarray
    room: Room


@kernel(inline=True)
def layer_of(sheet: Sheet, unit):
    """The layer of a unit."""
    number = 0
    while unit >= sheet.flat.layers[number, 2] + sheet.flat.layers[number, 3]:
        number += 1
    return number


@kernel
def fixed_rows(sheet: Sheet, units, pieces, work: Work):
    """Keep the rows of all fixed units; how many rows there are in all."""
    flat, row = sheet.flat, len(sheet.b)
    for q in range(len(units)):
        u = units[q]
        if u < 0:
            break
        number = layer_of(sheet, u)
        j, slots = u - flat.layers[number, 2], flat.layers[number, 4]
        v, breaks = flat.layers[number, 0] + j, flat.layers[number, 5] + j * slots
        if pieces[q] < slots:
            fixed_row(sheet, number, v, 1.0, flat.breaks[breaks + pieces[q]], row, work)
            row += 1
        if pieces[q] > 0:
            fixed_row(sheet, number, v, -1.0, -flat.breaks[breaks + pieces[q] - 1], row, work)
            row += 1
    return row


@kernel
def _count_rows(sheet: Sheet, units, pieces):
    """How many rows `fixed_rows` would keep, in all."""
    row = len(sheet.b)
    for q in range(len(units)):
        if units[q] >= 0:
            slots = sheet.flat.layers[layer_of(sheet, units[q]), 4]
            row += (pieces[q] < slots) + (pieces[q] > 0)
    return row


@kernel(inline=True)
def _room(rows, columns, plan: Plan):
    """Scratch for a program of so many rows and columns."""
    both = rows + columns
    return Room(
        plan.room.table[: rows * both].reshape((rows, both)), plan.room.price[:both],
        plan.room.value[:rows], plan.room.basis[:rows], plan.room.place[:both],
        plan.room.order[:both], plan.room.ratio[:both],
    )  # fmt: skip


@kernel
def _lowest_row(others, low, high, work: Work, plan: Plan):
    """`combine_rows` of one row and those of fixed units: the least of it where they hold."""
    d, rows = len(low), others + 1
    for k in range(others):
        plan.right[k] = -work.heights[k + 1]
    right, multipliers = plan.right[:others], plan.multipliers[1:rows]
    status, _ = boxed_kernel(
        work.rows[0], work.rows[1:rows], right, low, high, plan.point[:d], multipliers,
        _room(others, d, plan),
    )  # fmt: skip
    if status != OPTIMAL:
        for i in range(d):
            plan.step[i] = 0.5 * (low[i] + high[i])
    if status == INFEASIBLE:
        return dual_kernel(plan.zero, work.rows[1:rows], right, low, high, multipliers) > 0.0
    plan.multipliers[0] = 1.0
    if status != OPTIMAL:
        nothing(multipliers)
        return False
    for i in range(d):
        plan.step[i] = min(max(plan.point[i], low[i]), high[i])
    least = dual_kernel(work.rows[0], work.rows[1:rows], right, low, high, multipliers)
    height = work.heights[0]
    return least + height - 2.0**-50 * (abs(least) + abs(height)) > 0.0


@kernel
def combine_rows(m, rows, low, high, work: Work, plan: Plan):
    """Find the weights of the rows that combine to a positive one; True if these prove it.

    Leaves in `plan.step` a step that takes the fixed pieces, where the highest of the first m
    rows is lowest.
    """
    d = len(low)
    for r in range(len(plan.multipliers)):
        plan.multipliers[r] = 0.0
    if rows == 1:
        plan.multipliers[0] = 1.0
        for i in range(d):
            plan.step[i] = low[i] if work.rows[0, i] > 0.0 else high[i]
        return False
    if m == 1:
        return _lowest_row(rows - 1, low, high, work, plan)
    table = plan.rows[: rows * (d + 1)].reshape((rows, d + 1))
    right, multipliers = plan.right[:rows], plan.multipliers[:rows]
    bottom, top = np.inf, -np.inf
    for i in range(d):
        plan.low[i], plan.high[i] = low[i], high[i]
    for r in range(rows):
        least, most = work.heights[r], work.heights[r]
        for i in range(d):
            g = work.rows[r, i]
            table[r, i] = g
            least += g * low[i] if g > 0.0 else g * high[i]
            most += g * high[i] if g > 0.0 else g * low[i]
        table[r, d] = -1.0 if r < m else 0.0
        right[r] = -work.heights[r]
        if r < m:
            bottom, top = min(bottom, least), max(top, most)
    if not top - bottom < np.inf:
        return False
    plan.low[d], plan.high[d] = bottom - 1.0, top + 1.0
    room = _room(rows, d + 1, plan)
    status, _ = boxed_kernel(
        plan.cost, table, right, plan.low, plan.high, plan.point, multipliers, room
    )
    if status == OPTIMAL:
        for i in range(d):
            plan.step[i] = min(max(plan.point[i], low[i]), high[i])
        if not plan.point[d] > 0.0:
            return False
    elif status == INFEASIBLE:
        for i in range(d):
            plan.step[i] = 0.5 * (low[i] + high[i])
    else:
        nothing(plan.multipliers)
        plan.multipliers[0] = 1.0
        for i in range(d):
            plan.step[i] = 0.5 * (low[i] + high[i])
        return False
    return dual_kernel(plan.zero, work.rows[:rows], right, low, high, multipliers) > 0.0


@kernel
def choose_coordinate(sheet: Sheet, low, high, work: Work, plan: Plan):
    """The coordinate whose split makes the lines of the units that count meet most; -1 if none.

    A unit's lines are apart in proportion to the width of its pre-activation, which a coordinate
    adds its slope times its own width to.
    """
    d = len(low)
    nothing(plan.score)
    for u in range(len(work.pieces)):
        if work.pieces[u] & (work.pieces[u] - 1):
            for i in range(d):
                plan.score[i] += work.sway[u] * abs(work.slopes[u, i])
    best, chosen = -1.0, -1
    for i in range(d):
        middle, score = 0.5 * (low[i] + high[i]), plan.score[i] * (high[i] - low[i])
        wide = high[i] - low[i] > NARROW * sheet.width[i]
        if wide and low[i] < middle < high[i] and score > best:
            best, chosen = score, i
    return chosen


@kernel
def choose_unit(sheet: Sheet, known, work: Work):
    """The undecided unit whose lines cost the rows most, and how many are undecided.

    BaBSR's intercept score (see `polytope.robustness.nodes.branches`); of maxima there is none.
    """
    flat, chosen, best, count = sheet.flat, -1, -1.0, 0
    for number in range(len(flat.layers) - 1):
        first, unit = flat.layers[number, 0], flat.layers[number, 2]
        for j in range(flat.layers[number, 3]):
            u = unit + j
            if work.pieces[u] & (work.pieces[u] - 1) == 0:
                continue
            count += 1
            if flat.winners[number] == 0:
                middle = 0.5 * (known[0, first + j] + known[1, first + j])
                gap = (work.lines[u, 2] - work.lines[u, 0]) * middle
                gap += work.lines[u, 3] - work.lines[u, 1]
                score = work.sway[u] * max(gap, 0.0)
                if score > best:
                    chosen, best = u, score
    return chosen, count


@kernel(inline=True)
def _copy(stack: Stack, source, target):
    """Copy a waiting box."""
    for i in range(stack.low.shape[1]):
        stack.low[target, i], stack.high[target, i] = stack.low[source, i], stack.high[source, i]
    for v in range(stack.known.shape[2]):
        stack.known[target, 0, v] = stack.known[source, 0, v]
        stack.known[target, 1, v] = stack.known[source, 1, v]
    for q in range(stack.units.shape[1]):
        stack.units[target, q] = stack.units[source, q]
        stack.pieces[target, q] = stack.pieces[source, q]


@kernel(inline=True)
def _note(stack: Stack, top, log: Log, line, code, argument):
    """Write a line about the last box."""
    for i in range(3):
        log.lines[line, i] = stack.parent[top, i]
    log.lines[line, 3], log.lines[line, 4] = code, argument
    log.cuts[line] = 0.0


@kernel(inline=True)
def _adopt(stack: Stack, child, own, line, number):
    """Note whose part a box is."""
    stack.parent[child, 0], stack.parent[child, 1], stack.parent[child, 2] = own, line, number


@kernel
def _judge(sheet: Sheet, stack: Stack, top, work: Work, plan: Plan):
    """Bound the last box; by how many multipliers, left in the plan, it is refuted, or -1."""
    m, low, high, known = len(sheet.b), stack.low[top], stack.high[top], stack.known[top]
    units, pieces = stack.units[top], stack.pieces[top]
    for q in range(len(units)):
        if units[q] >= 0:
            work.fixed[units[q]] = pieces[q]
    found = bound_box(sheet, stack.fresh[top], known[0], known[1], low, high, work)
    rows = 0
    if found < 0:
        rows = fixed_rows(sheet, units, pieces, work)
    elif found < m:
        rows = _count_rows(sheet, units, pieces)
    for q in range(len(units)):
        if units[q] >= 0:
            work.fixed[units[q]] = -1
    if found < 0:
        return rows if combine_rows(m, rows, low, high, work, plan) else -1
    nothing(plan.multipliers)
    if found < m:
        plan.multipliers[found] = 1.0
    return rows


@kernel
def search_boxes(
    sheet: Sheet, stack: Stack, waiting, log: Log, noted, before, own, budget, tried, few,
    indirect, work: Work, plan: Plan,
):  # fmt: skip
    """Search until nothing waits or something has to be looked at.

    Parameters
    ----------
    sheet : Sheet
    stack : Stack
    waiting : int
    log : Log
    noted, before : int
        Lines there are, and how many there were before them.
    own : int
        The number of this log.
    budget : int
        Boxes to look at.
    tried : float
        A step whose margin is at most this is a candidate.
    few : int
        Undecided units up to which a box is split on a unit.
    indirect : bool
        Choose units also by what they do to the bounds of later units.
    work, plan

    Returns
    -------
    (why, waiting, noted, boxes)
        A candidate is `plan.step`, inside of the last box.
    """
    boxes = 0
    while waiting > 0:
        if boxes >= budget:
            return SPENT, waiting, noted, boxes
        if noted >= len(log.lines):
            return FULL, waiting, noted, boxes
        top = waiting - 1
        low, high, units = stack.low[top], stack.high[top], stack.units[top]
        boxes += 1
        proved = _judge(sheet, stack, top, work, plan)
        if proved >= 0:
            _note(stack, top, log, noted, LEAF, proved)
            for r in range(proved):
                log.multipliers[noted, r] = plan.multipliers[r]
            noted, waiting = noted + 1, top
            continue
        if worst_margin(sheet, plan.step, work) <= tried:
            return CANDIDATE, waiting, noted, boxes
        depth = 0
        while depth < len(units) and units[depth] >= 0:
            depth += 1
        if indirect:
            measure_influence(sheet, work)
        unit, open_ = choose_unit(sheet, stack.known[top], work)
        if unit >= 0 and depth < len(units) and (depth > 0 or open_ <= few):
            count = 0
            for k in range(62):
                count += work.pieces[unit] >> k & 1
            if top + count > len(stack.low):
                return STUCK, waiting, noted, boxes
            _note(stack, top, log, noted, unit, work.pieces[unit])
            count = 0
            for k in range(62):
                if work.pieces[unit] >> k & 1:
                    if count > 0:
                        _copy(stack, top, top + count)
                    stack.units[top + count, depth] = unit
                    stack.pieces[top + count, depth] = k
                    stack.fresh[top + count] = layer_of(sheet, unit) + 1
                    _adopt(stack, top + count, own, before + noted, count)
                    count += 1
            noted, waiting = noted + 1, top + count
            continue
        chosen = choose_coordinate(sheet, low, high, work, plan)
        if chosen < 0 or waiting >= len(stack.low):
            return STUCK, waiting, noted, boxes
        _copy(stack, top, waiting)
        stack.fresh[top] = stack.fresh[waiting] = 0
        middle = 0.5 * (low[chosen] + high[chosen])
        stack.high[top, chosen] = middle
        stack.low[waiting, chosen] = middle
        _note(stack, top, log, noted, CUT - chosen, 0)
        log.cuts[noted] = middle
        _adopt(stack, top, own, before + noted, 0)
        _adopt(stack, waiting, own, before + noted, 1)
        noted, waiting = noted + 1, waiting + 1
    return DONE, waiting, noted, boxes
