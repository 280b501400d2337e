"""Compiled: the traversal of one point's regions, nearest first; see `traversal.py`.

What rounding leaves open is handed back: rows that may be identically zero, ways out on which
several hyperplanes may lie, regions that may have no inside.
"""

from __future__ import annotations

import numpy as np

from polytope.regions.index_kernels import enter, place_of
from polytope.robustness import traversal_arrays as arrays
from polytope.robustness.halfspace_kernels import halfspace_bound
from polytope.robustness.projection_kernels import BEYOND, NEAREST, nearest_step
from polytope.robustness.region_distance import polyhedron_bound
from polytope.robustness.traversal_arrays import Found, Place, Task
from polytope.robustness.traversal_forms import forms_over
from polytope.robustness.traversal_rows import (
    CONSTANT,
    SHARED,
    ZERO,
    judge_rows,
    lead_row,
    load_rows,
    may_coincide,
    opposed_rows,
    pattern_over,
)
from solvers.compiled import kernel

#: Why `advance` came back: nothing is left below the radius, enough was done, there is no room
#: for another region, rows may be zero, the region may be flat, or flat by rows that were left
#: out because they coincide with others, there is something to settle.
DONE, PAUSED, FULL, DOUBT, THIN, OPPOSED, SETTLE = range(7)
#: Stages of the current pattern: none, its rows are written, its distance is known.
NEXT, LOADED, BOUNDED = range(3)
#: Rows within this of the nearest point, relative to the way there, meet in it.
MEETING = 1e-9
#: A cone is taken to have an inside if one of its points has this size when every row is
#: satisfied by its own length.
STEEP = 1e6


@kernel
def push(found, key, own):
    """Put a pattern in the queue."""
    at = found.state[arrays.HEAP]
    found.state[arrays.HEAP] = at + 1
    while at > 0:
        above = (at - 1) // 2
        if found.heap_key[above] <= key:
            break
        found.heap_key[at], found.heap_own[at] = found.heap_key[above], found.heap_own[above]
        at = above
    found.heap_key[at], found.heap_own[at] = key, own


@kernel
def _pop(found):
    """Take the first pattern out of the queue."""
    own = found.heap_own[0]
    size = found.state[arrays.HEAP] - 1
    found.state[arrays.HEAP] = size
    key, last = found.heap_key[size], found.heap_own[size]
    at = 0
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        if below + 1 < size and found.heap_key[below + 1] < found.heap_key[below]:
            below += 1
        if found.heap_key[below] >= key:
            break
        found.heap_key[at], found.heap_own[at] = found.heap_key[below], found.heap_own[below]
        at = below
    found.heap_key[at], found.heap_own[at] = key, last
    return own


@kernel
def better(found, place, key):
    """Whether a key is below all that are known of the pattern in ``place.query``.

    False also if its region was explored or proved to be out of reach.
    """
    q = found.table[place_of(found.table, found.patterns, place.query[0])]
    return q < 0 or (found.status[q] == arrays.WAITING and max(key, found.own[q]) < found.best[q])


@kernel
def meet(found: Found, place: Place, key: float, begin: int, count: int) -> None:
    """Put the pattern in ``place.query`` in the queue, at the key at which a path can come in.

    Unless it is explored or proved to be out of reach, or a better way to it is known.
    `begin` and `count` say where the weights of the facet are.
    """
    known = found.state[arrays.COUNT]
    grown = enter(
        found.table, found.patterns, known, place.query, place.number[:1], place.number[1:]
    )
    q = place.number[0]
    if grown > known:
        found.state[arrays.COUNT] = grown
        found.status[q], found.best[q], found.own[q] = arrays.WAITING, np.inf, -1.0
    key = max(key, found.own[q])
    if found.status[q] != arrays.WAITING or key >= found.best[q]:
        return
    found.best[q] = key
    if found.own[q] < 0.0:
        found.proof[q, 0], found.proof[q, 1] = begin, count
    push(found, key, q)


@kernel
def advance(task: Task, place: Place, found: Found, most: int) -> int:
    """Go on until something has to be settled, or so many patterns were looked at.

    Returns
    -------
    int
        Why it came back.
    """
    state = found.state
    net_rows = task.net_rows
    radius = found.numbers[arrays.RADIUS]
    for _ in range(most):
        q = state[arrays.CURRENT]
        if state[arrays.STAGE] == NEXT:
            room = len(found.status) - state[arrays.COUNT], len(found.heap_key) - state[arrays.HEAP]
            if min(room) <= net_rows + 1:
                return FULL
            ways = len(place.weights.own) + len(task.leads) + 1
            if len(found.way) - state[arrays.WAYS] <= ways or len(found.proof_row) - state[
                arrays.PROOFS
            ] <= ways * len(place.weights.own):
                return FULL
            if state[arrays.HEAP] == 0:
                return DONE
            key = found.heap_key[0]
            found.numbers[arrays.LOWER] = max(found.numbers[arrays.LOWER], key)
            if key >= radius:
                return DONE
            q = _pop(found)
            if found.status[q] != arrays.WAITING or key > found.best[q]:
                continue
            m = load_rows(task, found.patterns[q], place)
            found.figures[arrays.ROWS] += 1
            state[arrays.CURRENT], state[arrays.STAGE], state[arrays.RESUMED] = q, LOADED, m
            state[arrays.DOUBTS] = judge_rows(task, place, m, found.doubt)
            if state[arrays.DOUBTS] > 0:
                return DOUBT
        m = state[arrays.RESUMED]
        if state[arrays.STAGE] == LOADED:
            if found.own[q] < 0.0:
                own = _region_bound(task, place, found, q, m, radius)
                found.own[q] = own
                found.best[q] = max(found.best[q], own)
                if own >= radius:
                    found.status[q] = arrays.CLOSED
                    state[arrays.STAGE] = NEXT
                    continue
                state[arrays.STAGE] = BOUNDED
                if opposed_rows(task, found.patterns[q], place, m):
                    return OPPOSED
                if not _has_inside(task, place, m):
                    return THIN
            state[arrays.STAGE] = BOUNDED
        state[arrays.STAGE] = NEXT
        key = found.best[q]
        if state[arrays.HEAP] > 0 and key > found.heap_key[0]:
            push(found, key, q)
            continue
        _explore(task, place, found, q, m, key, radius)
        if state[arrays.CANDIDATES] > 0 or state[arrays.OPEN] > 0:
            return SETTLE
    return PAUSED


@kernel
def _region_bound(task, place, found, q, m, radius):
    """Bound the distance to a region and keep the weights."""
    found.figures[arrays.REGION_PROGRAMS] += 1
    _start_from(place, found, q, m)
    _, bound = polyhedron_bound(task, place, m, radius)
    begin, count = _keep_proof(place, found, m)
    found.proof[q, 0], found.proof[q, 1] = begin, count
    return bound


@kernel
def _start_from(place, found, q, m):
    """Start with the weights that are kept for a pattern, where their rows are rows here."""
    kept = 0
    begin, count = found.proof[q]
    for a in range(begin, begin + count):
        row = place.where[found.proof_row[a]]
        if row >= 0 and row < m:
            place.weights.own[kept] = row
            place.weights.value[kept] = abs(found.proof_weight[a])
            kept += 1
    place.weights.used[0] = kept


@kernel
def _keep_proof(place, found, m):
    """Write the weights down: where, and how many.

    Row m, if there is one, stands for the other side of a row; its weight is written negative.
    """
    begin, count = found.state[arrays.PROOFS], 0
    for a in range(place.weights.used[0]):
        if place.weights.value[a] > 0.0:
            row = place.weights.own[a]
            found.proof_row[begin + count] = place.region.ids[row]
            found.proof_weight[begin + count] = place.weights.value[a] * (1 if row < m else -1)
            count += 1
    found.state[arrays.PROOFS] = begin + count
    return begin, count


@kernel
def _keep_way(found, q, row, bound, begin, count):
    """Write down what was proved of a way out."""
    at = found.state[arrays.WAYS]
    found.way[at, 0], found.way[at, 1] = q, row
    found.way[at, 2], found.way[at, 3] = begin, count
    found.way_bound[at] = bound
    found.state[arrays.WAYS] = at + 1


@kernel
def _has_inside(task, place, m):
    """Whether the region surely has an inside near its nearest point, by the rows meeting there.

    False only says that it is not sure.
    """
    k = len(task.low)
    region, step, near = place.region, place.space.step, place.step
    size = 0.0
    for j in range(k):
        near[j] = step[j]
        size += step[j] * step[j]
    size = np.sqrt(size)
    count = weighted = 0
    for a in range(place.weights.used[0]):
        weighted += 1 if place.weights.value[a] > 0.0 else 0
    for i in range(m):
        if place.length[i] == 0.0:
            continue
        if -place.c[i] > (1.0 + MEETING) * place.length[i] * size + 2.0 * region.error[i, 1]:
            continue
        value = place.c[i]
        for j in range(k):
            value += region.A[i, j] * near[j]
        if abs(value) > MEETING * place.length[i] * size + 2.0 * region.error[i, 1]:
            continue
        for j in range(k):
            place.cone_rows[count, j] = region.A[i, j]
        place.cone_lead[0, count] = place.cone_lead[1, count] = place.length[i]
        count += 1
    low, high = place.cone_sides[0], place.cone_sides[1]
    bounds = 0
    for j in range(k):
        low[j], high[j] = -STEEP, STEEP
        if near[j] >= task.sides[1, j] - MEETING * size:
            high[j], bounds = -1.0, bounds + 1
        if near[j] <= task.sides[0, j] + MEETING * size:
            low[j], bounds = 1.0, bounds + 1
    # In l_2 the rows that have a weight are independent, so that these alone leave an inside.
    if count + bounds <= (max(weighted, 1) if task.p == 2.0 else 1):
        return True
    place.cone.used[0] = 0
    status = nearest_step(
        place.cone_rows, place.cone_lead[0], place.cone_lead[1], count, low, high, STEEP,
        place.cone, place.space,
    )  # fmt: skip
    return status == NEAREST


@kernel
def _explore(task, place, found, q, m, key, radius):
    """Look at the adversarial parts of a region, and meet the patterns behind its rows."""
    state, region = found.state, place.region
    found.status[q] = arrays.EXPLORED
    found.figures[arrays.REGIONS] += 1
    state[arrays.CANDIDATES] = state[arrays.OPEN] = 0
    for target in range(len(task.leads)):
        _decide(task, place, found, q, target, m, radius)
    for i in range(m):
        # A straight path never leaves through a hyperplane that the point is beyond: it has come
        # in through it.
        if place.kind[i] in (ZERO, CONSTANT) or place.c[i] > region.error[i, 1]:
            continue
        _leave(task, place, found, q, m, i, key, radius)


@kernel
def _leave(task, place, found, q, m, i, key, radius):
    """Bound the distance at which a path can leave through row i; meet what is behind it."""
    state, region = found.state, place.region
    for j in range(len(task.low)):
        region.A[m, j] = -region.A[i, j]
    region.error[m, 0], region.error[m, 1] = region.error[i, 0], region.error[i, 1]
    region.ids[m] = region.ids[i]
    place.c[m], place.length[m] = -place.c[i], place.length[i]
    found.figures[arrays.HYPERPLANES] += 1
    bound = halfspace_bound(
        region.A[m], place.c[m], region.error[m, 1], region.error[m, 0], task.low, task.high,
        task.p, radius,
    )  # fmt: skip
    if bound >= radius:
        return
    bound = max(bound, key)
    pieces, beyond = found.patterns[q], place.query[0]
    settled = not may_coincide(place, m, i)
    if settled and place.kind[i] == SHARED:
        settled = forms_over(task, pieces, region.ids[i], place, beyond)
    elif settled:
        pattern_over(task, pieces, region.ids[i], beyond)
    if settled and not better(found, place, bound):
        return
    found.figures[arrays.FACET_PROGRAMS] += 1
    _start_from(place, found, q, m)
    _, sharper = polyhedron_bound(task, place, m + 1, radius)
    begin, count = _keep_proof(place, found, m)
    bound = max(bound, sharper)
    if bound >= radius:
        _keep_way(found, q, region.ids[i], bound, begin, count)
    elif not settled:
        at = state[arrays.OPEN]
        found.open_row[at], found.open_key[at] = region.ids[i], bound
        state[arrays.OPEN] = at + 1
    else:
        meet(found, place, bound, begin, count)


@kernel
def _decide(task, place, found, q, target, m, radius):
    """Bound the distance to the part of a region where a class is as high as the label."""
    state, region = found.state, place.region
    lead_row(task, place, target, m)
    bound = halfspace_bound(
        region.A[m], place.c[m], region.error[m, 1], region.error[m, 0], task.low, task.high,
        task.p, radius,
    )  # fmt: skip
    if bound >= radius:
        return
    found.figures[arrays.DECISION_PROGRAMS] += 1
    region.ids[m] = task.net_rows + target
    _start_from(place, found, q, m)
    status, sharper = polyhedron_bound(task, place, m + 1, radius)
    bound = max(bound, sharper)
    begin, count = _keep_proof(place, found, m + 1)
    _keep_way(found, q, region.ids[m], bound, begin, count)
    if bound >= radius:
        return
    at = state[arrays.CANDIDATES]
    out = found.candidate[at]
    out[0], out[1], out[2] = q, target, bound
    for j in range(len(task.low)):
        out[3 + j] = place.space.step[j] if status != BEYOND else np.nan
    state[arrays.CANDIDATES] = at + 1
