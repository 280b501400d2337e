"""Compiled: the distance from a point to a region, or to a part of it, with a proof."""

from __future__ import annotations

import numpy as np

from polytope.robustness.halfspace_kernels import combined_bound
from polytope.robustness.projection_kernels import BEYOND, NEAREST, STUCK, nearest_step
from solvers.boxed import INFEASIBLE, OPTIMAL, Room, boxed_kernel
from solvers.compiled import kernel

#: Rounds of `_radii`: the bounds of an l_inf distance that one program each makes sharper.
ROUNDS = 40
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
def _room(place, m, n):
    """Room of `boxed_kernel` for so many rows and columns, in the arrays of the place."""
    columns = n + m
    return Room(
        place.table[: m * columns].reshape((m, columns)), place.vectors[0, :columns],
        place.vectors[1, :m], place.lists[0, :m], place.lists[1, :columns],
        place.lists[2, :columns], place.vectors[2, :columns],
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
def _sums(task, place, m, radius):
    """In l_1: the step split into its positive and negative parts, their sum at least."""
    k = len(task.low)
    A, c = place.region.A, place.c
    count = 0
    for i in range(m):
        largest = 0.0
        for j in range(k):
            largest = max(largest, abs(A[i, j]))
        # Other rows hold wherever the step is shorter than the radius.
        if c[i] > -radius * largest or (largest == 0.0 and c[i] > 0.0):
            place.rows[count] = i
            count += 1
    place.weights.used[0] = 0
    step = place.space.step
    for j in range(k):
        step[j] = 0.0
    if count == 0:
        return NEAREST
    table = place.matrix[: count * 2 * k].reshape((count, 2 * k))
    right, cost, low, high, x = (
        place.vectors[3, :count], place.vectors[4, : 2 * k], place.vectors[5, : 2 * k],
        place.vectors[6, : 2 * k], place.vectors[7, : 2 * k],
    )  # fmt: skip
    for a in range(count):
        i = place.rows[a]
        scale = _scale(place, i)
        for j in range(k):
            table[a, j], table[a, k + j] = scale * A[i, j], -scale * A[i, j]
        right[a] = -scale * c[i]
    for j in range(k):
        cost[j] = cost[k + j] = 1.0
        low[j] = low[k + j] = 0.0
        high[j], high[k + j] = task.high[j], -task.low[j]
    multipliers = place.vectors[8, :count]
    status, _ = boxed_kernel(
        cost, table, right, low, high, x, multipliers, _room(place, count, 2 * k)
    )
    if status != OPTIMAL and status != INFEASIBLE:
        return STUCK
    _keep(place, multipliers, count, -1)
    if status == INFEASIBLE:
        return BEYOND
    for j in range(k):
        step[j] = x[j] - x[k + j]
    return NEAREST


@kernel
def _radii(task, place, m, radius):
    """In l_inf: is the box of a radius empty?  First the radius asked for, then from below.

    Weights that prove a box empty prove a distance beyond it, the next radius to try.
    """
    k = len(task.low)
    A, c = place.region.A, place.c
    worst, lead = 0.0, -1
    count = 0
    for i in range(m):
        most, size = c[i], 0.0
        for j in range(k):
            a = A[i, j]
            most += max(a * task.low[j], a * task.high[j])
            size += abs(a)
        if most > 0.0:
            place.rows[count] = i
            count += 1
        if c[i] > 0.0 and (size == 0.0 or c[i] > worst * size):
            worst, lead = (c[i] / size if size > 0.0 else np.inf), i
    place.weights.used[0] = 0
    for j in range(k):
        place.space.step[j] = 0.0
    if lead < 0:
        return NEAREST, 0.0
    # The lead is what is to become least, the other rows are the constraints.
    kept = 0
    for a in range(count):
        if place.rows[a] != lead:
            place.rows[kept] = place.rows[a]
            kept += 1
    place.weights.own[0], place.weights.value[0], place.weights.used[0] = lead, 1.0, 1
    below = _proved(task, place, radius)
    if below >= radius:
        return BEYOND, below
    status, bound = _within(task, place, kept, lead, radius, radius)
    if status == STUCK or bound >= radius:
        return status, max(bound, below)
    bound = below
    place.weights.own[0], place.weights.value[0], place.weights.used[0] = lead, 1.0, 1
    for _ in range(ROUNDS):
        status, sharper = _within(task, place, kept, lead, bound, radius)
        if status != BEYOND or not sharper > bound * (1.0 + SHARP):
            break
        bound = sharper
    return NEAREST, max(bound, _proved(task, place, radius))


@kernel
def _within(task, place, count, lead, t, radius):
    """Whether the polyhedron is empty in the box of radius t: (BEYOND, a proved distance) then.

    If not (NEAREST), the weights stay what they were.
    """
    k = len(task.low)
    A, c = place.region.A, place.c
    low, high, step = place.vectors[5, :k], place.vectors[6, :k], place.space.step
    for j in range(k):
        low[j], high[j] = max(task.low[j], -t), min(task.high[j], t)
    goal, scale = place.line, _scale(place, lead)
    for j in range(k):
        goal[j] = scale * A[lead, j]
    multipliers = place.vectors[8, :count]
    if count == 0:
        value = scale * c[lead]
        for j in range(k):
            step[j] = low[j] if goal[j] > 0.0 else high[j]
            value += goal[j] * step[j]
    else:
        table, right = place.matrix[: count * k].reshape((count, k)), place.vectors[3, :count]
        for a in range(count):
            i = place.rows[a]
            scale = _scale(place, i)
            for j in range(k):
                table[a, j] = scale * A[i, j]
            right[a] = -scale * c[i]
        status, _ = boxed_kernel(
            goal, table, right, low, high, step, multipliers, _room(place, count, k)
        )
        if status == INFEASIBLE:
            _keep(place, multipliers, count, -1)
            return BEYOND, _proved(task, place, radius)
        if status != OPTIMAL:
            return STUCK, 0.0
        value = _scale(place, lead) * c[lead]
        for j in range(k):
            value += goal[j] * step[j]
    if not value > 0.0:
        return NEAREST, 0.0
    _keep(place, multipliers, count, lead)
    return BEYOND, _proved(task, place, radius)
