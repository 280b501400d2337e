"""Compiled: the distance from a point to a region, or to a part of it, with a proof.

In l_2 by `projection_kernels`.  In l_1 and l_inf by linear programs with few of the rows: those
that had a weight in a region nearby, then the ones that the solution violates, until none does or
the few rows prove a distance beyond the radius.
"""

from __future__ import annotations

import numpy as np

from polytope.robustness.growing_program import add_row, begin_program, solve_program
from polytope.robustness.halfspace_kernels import FAST, combined_bound
from polytope.robustness.projection_kernels import BEYOND, NEAREST, STUCK, nearest_step
from solvers.boxed import FAILED, INFEASIBLE, Room
from solvers.compiled import kernel

#: Programs by which the bound of an l_inf distance is made sharper.
ROUNDS = 60
#: A step longer than the radius by this part is surely beyond it.
ENOUGH = 1e-9
#: Violations up to this part of the step, for rows of length 1, are rounding.
VIOLATED = 1e-11
#: A bound that grows by less than this part is as good as it gets.
SHARP = 1e-13


@kernel
def polyhedron_bound(task, place, m, radius):
    """Bound the distance to the first m rows, met with the box; the weights are left behind.

    Returns
    -------
    (status, bound)
        `status` is that of the search; the bound holds in any case. Only distances below the
        radius count. The step is in ``place.space.step``.
    """
    if task.p == 2.0:
        status = nearest_step(
            place.region.A, place.c, place.length, m, task.low, task.high, radius, place.weights,
            place.space,
        )  # fmt: skip
    elif task.p == 1.0:
        status = _sums(task, place, m, radius)
    else:
        return _radii(task, place, m, radius)
    return status, _proved(task, place, radius)


@kernel
def _proved(task, place, radius):
    """What the weights prove."""
    return combined_bound(
        place.region.A, place.c, place.region.error, place.weights.own, place.weights.value,
        place.weights.used[0], task.low, task.high, task.p, radius, place.line, place.size,
    )  # fmt: skip


@kernel
def _room(place, n):
    """Room for a program of n columns, in the arrays of the place."""
    most = len(place.basis)
    columns = n + most
    return Room(
        place.table[: most * columns].reshape((most, columns)), place.vectors[0, :columns],
        place.vectors[1, :most], place.basis, place.lists[0, :columns], place.lists[1, :columns],
        place.vectors[2, :columns],
    )  # fmt: skip


@kernel
def _scale(place, i):
    """What brings a row to length 1: the solver's tolerances are for such."""
    return 1.0 / place.length[i] if place.length[i] > 0.0 else 1.0


@kernel
def _keep(place, multipliers, count, lead):
    """Take the multipliers of the rows in `place.rows` over as weights."""
    own, value = place.weights.own, place.weights.value
    kept = 0
    if lead >= 0:
        own[0], value[0], kept = lead, _scale(place, lead), 1
    for i in range(count):
        if multipliers[i] > 0.0:
            row = place.rows[i]
            own[kept], value[kept] = row, _scale(place, row) * multipliers[i]
            kept += 1
    place.weights.used[0] = kept


@kernel
def _first_rows(place):
    """Begin with the rows that have a weight: how many there are."""
    count = min(place.weights.used[0], len(place.basis))
    for a in range(count):
        place.rows[a] = place.weights.own[a]
    place.weights.used[0] = 0
    return count


@kernel(fastmath=FAST)
def _worst_row(place, m, count, lead):
    """The row that the step violates most, and is not in use; -1 if there is none."""
    step, A = place.space.step, place.region.A
    size = square = 0.0
    for j in range(len(step)):
        size = max(size, abs(step[j]))
        square += step[j] * step[j]
    far = np.sqrt(square)
    worst, row = 0.0, -1
    for i in range(m):
        if (place.length[i] == 0.0 and not place.c[i] > 0.0) or i == lead:
            continue
        value = place.c[i]
        if -value >= far * place.length[i] and value <= 0.0:
            continue
        for j in range(len(step)):
            value += A[i, j] * step[j]
        value = value * _scale(place, i) - VIOLATED * size
        if value > worst:
            taken = False
            for a in range(count):
                taken = taken or place.rows[a] == i
            if not taken:
                worst, row = value, i
    return row


@kernel
def _sums(task, place, m, radius):
    """In l_1: the step split into its positive and negative parts, their sum at least."""
    k = len(task.low)
    A, c, step = place.region.A, place.c, place.space.step
    begun = _first_rows(place)
    # Only coordinates that have a way to go in a direction are columns.
    cost, low, high, x, line = (
        place.vectors[4], place.vectors[5], place.vectors[6], place.vectors[7], place.vectors[3]
    )  # fmt: skip
    n = 0
    for j in range(2 * k):
        end = task.high[j] if j < k else -task.low[j - k]
        if end > 0.0:
            place.columns[n] = j
            cost[n], low[n], high[n] = 1.0, 0.0, end
            n += 1
    at = _room(place, n)
    begin_program(n, cost, low, high, x, at)
    for j in range(k):
        step[j] = 0.0
    multipliers = place.vectors[8]
    count = 0
    while count < len(at.basis):
        if count >= begun:
            row = _worst_row(place, m, count, -1)
            if row < 0:
                return NEAREST
            place.rows[count] = row
        row = place.rows[count]
        scale = _scale(place, row)
        for q in range(n):
            j = place.columns[q]
            line[q] = scale * A[row, j] if j < k else -scale * A[row, j - k]
        add_row(n, line, -scale * c[row], x, at, count)
        count += 1
        if count < begun:
            continue
        status = solve_program(n, low, high, x, multipliers, at, count)
        if status == FAILED:
            return STUCK
        _keep(place, multipliers, count, -1)
        if status == INFEASIBLE:
            return BEYOND
        total = 0.0
        for j in range(k):
            step[j] = 0.0
        for q in range(n):
            j = place.columns[q]
            total += x[q]
            step[j if j < k else j - k] += x[q] if j < k else -x[q]
        if total > radius * (1.0 + ENOUGH):
            return BEYOND
    return STUCK


@kernel
def _radii(task, place, m, radius):
    """In l_inf: is the box of a radius empty?  First the radius asked for, then from below.

    Weights that prove a box empty prove a distance beyond it, the next radius to try.
    """
    k = len(task.low)
    A, c = place.region.A, place.c
    worst, lead = 0.0, -1
    for i in range(m):
        size = 0.0
        for j in range(k):
            size += abs(A[i, j])
        if c[i] > 0.0 and (size == 0.0 or c[i] > worst * size):
            worst, lead = (c[i] / size if size > 0.0 else np.inf), i
    for j in range(k):
        place.space.step[j] = 0.0
    if lead < 0:
        place.weights.used[0] = 0
        return NEAREST, 0.0
    # The lead is what is to become least, the other rows are the constraints.
    kept = 0
    for a in range(_first_rows(place)):
        if place.rows[a] != lead:
            place.rows[kept] = place.rows[a]
            kept += 1
    place.weights.own[0], place.weights.value[0], place.weights.used[0] = lead, 1.0, 1
    below = _proved(task, place, radius)
    if below >= radius:
        return BEYOND, below
    status, bound, kept = _within(task, place, m, kept, lead, radius, radius)
    if status == STUCK or bound >= radius:
        return status, max(bound, below)
    bound = below
    place.weights.own[0], place.weights.value[0], place.weights.used[0] = lead, 1.0, 1
    _copy(place.weights, place.cone)
    for _ in range(ROUNDS):
        status, sharper, kept = _within(task, place, m, kept, lead, bound, radius)
        if status != BEYOND or not sharper > bound:
            break
        enough = not sharper > bound * (1.0 + SHARP)
        bound = sharper
        _copy(place.weights, place.cone)
        if enough or bound >= radius:
            break
    _copy(place.cone, place.weights)
    return NEAREST, bound


@kernel
def _copy(weights, other):
    """Take weights over into another place."""
    for a in range(weights.used[0]):
        other.own[a], other.value[a] = weights.own[a], weights.value[a]
    other.used[0] = weights.used[0]


@kernel
def _within(task, place, m, count, lead, t, radius):
    """Whether the polyhedron is empty in the box of radius t: (BEYOND, a proved distance) then.

    If not (NEAREST), the weights stay what they were.  The third number says how many rows the
    programs have come to use.
    """
    k = len(task.low)
    A, c = place.region.A, place.c
    low, high, step = place.vectors[5, :k], place.vectors[6, :k], place.space.step
    goal, scale = place.vectors[4, :k], _scale(place, lead)
    for j in range(k):
        low[j], high[j] = max(task.low[j], -t), min(task.high[j], t)
        goal[j] = scale * A[lead, j]
    at = _room(place, k)
    begin_program(k, goal, low, high, step, at)
    multipliers, line, begun = place.vectors[8], place.vectors[3], count
    count = 0
    while True:
        if count >= begun:
            value = scale * c[lead]
            for j in range(k):
                value += goal[j] * step[j]
            if value > 0.0:
                _keep(place, multipliers, count, lead)
                return BEYOND, _proved(task, place, radius), count
            row = _worst_row(place, m, count, lead)
            if row < 0:
                return NEAREST, 0.0, count
            if count == len(at.basis):
                return STUCK, 0.0, count
            place.rows[count] = row
        row = place.rows[count]
        own = _scale(place, row)
        for j in range(k):
            line[j] = own * A[row, j]
        add_row(k, line, -own * c[row], step, at, count)
        count += 1
        if count < begun:
            continue
        status = solve_program(k, low, high, step, multipliers, at, count)
        if status == FAILED:
            return STUCK, 0.0, count
        if status == INFEASIBLE:
            _keep(place, multipliers, count, -1)
            return BEYOND, _proved(task, place, radius), count
