"""Compiled: the rows of a region around a point, and which of them need a closer look."""

from __future__ import annotations

import numpy as np

from polytope.regions.cross_kernels import region_rows
from polytope.robustness.halfspace_kernels import FAST, UNIT
from polytope.robustness.traversal_arrays import Place, Task
from solvers.compiled import kernel

#: Kinds of rows: a hyperplane of its own; identically zero, no boundary; not clear whether it is
#: zero; others may coincide with it, or wake behind it; a constant that is not zero.
PLAIN, ZERO, DOUBTFUL, SHARED, CONSTANT = range(5)
#: Rows whose cosine is this near to -1 are looked at in exact arithmetic.
ALONG = 1e-9


@kernel
def load_rows(task: Task, pieces: np.ndarray, place: Place) -> int:
    """Write the rows of a pattern: how many there are."""
    m, _, _ = region_rows(
        task.program, place.frame, task.net_rows, pieces, -1, place.maps, place.region
    )
    for v in range(len(place.forms)):
        place.forms[v] = place.maps.value_form[v]
    for i in range(len(place.where)):
        place.where[i] = -1
    for i in range(m):
        place.c[i] = -place.region.b[i]
        place.where[place.region.ids[i]] = i
    return int(m)


@kernel(fastmath=FAST)
def judge_rows(task: Task, place: Place, m: int, doubt: np.ndarray) -> int:
    """Write the kinds of the rows, and list the doubtful ones: how many of these there are.

    And what tells hyperplanes apart: two of them may coincide only if two random sums over their
    coefficients have the same ratio up to rounding.
    """
    region, probe, kind = place.region, place.probe, place.kind
    k = region.A.shape[1]
    doubts = 0
    vanishing = False
    for i in range(m):
        row = region.A[i]
        spread, error = region.error[i, 0], region.error[i, 1]
        largest = square = first = second = total = 0.0
        for j in range(k):
            a = row[j]
            largest = max(largest, abs(a))
            square += a * a
            total += abs(a)
            first += place.draw[0, j] * a
            second += place.draw[1, j] * a
        c = place.c[i]
        first += place.draw[0, k] * c
        second += place.draw[1, k] * c
        place.length[i] = np.sqrt(square)
        probe[i, 0], probe[i, 1] = first, second
        probe[i, 2] = 1.01 * (k * spread + error + (k + 4) * 2.0 * UNIT * (total + abs(c)))
        kind[i] = PLAIN
        if largest == 0.0 and spread == 0.0:
            kind[i] = CONSTANT
            if c == 0.0 and error == 0.0:
                kind[i] = ZERO
                vanishing = vanishing or not task.never[region.ids[i]]
            elif abs(c) <= error:
                kind[i] = DOUBTFUL
        elif not largest > 1.01 * spread:
            kind[i] = DOUBTFUL
        elif region.shared[i]:
            kind[i] = SHARED
        if kind[i] == DOUBTFUL:
            doubt[doubts] = i
            doubts += 1
    if vanishing:
        for i in range(m):
            kind[i] = SHARED if kind[i] == PLAIN else kind[i]
    return doubts


@kernel
def may_coincide(place, m, i):
    """Whether the hyperplane of another row may be that of row i, for all that floats say."""
    probe, kind = place.probe, place.kind
    first, second, doubt = probe[i, 0], probe[i, 1], probe[i, 2]
    size = abs(first) + abs(second)
    for a in range(m):
        if a == i or (kind[a] != PLAIN and kind[a] != SHARED):
            continue
        gap = abs(first * probe[a, 1] - probe[a, 0] * second)
        other = abs(probe[a, 0]) + abs(probe[a, 1])
        if gap <= 1.01 * (
            doubt * (other + probe[a, 2]) + probe[a, 2] * size + 4.0 * UNIT * size * other
        ):
            return True
    return False


@kernel(fastmath=FAST)
def opposed_rows(task, pieces, place, m):
    """Whether rows that were left out, as they coincide with others, seem to be opposite to them.

    Of two neurons that are multiples of one another a pattern may say what cannot be: its region
    is then flat.
    """
    region, maps, program = place.region, place.maps, task.program
    k = region.A.shape[1]
    twofold = False
    for i in range(m):
        twofold = twofold or region.shared[i]
    if not twofold:
        return False
    for layer in range(len(program.layers)):
        info = program.layers[layer]
        if info[5]:
            continue
        for u in range(info[3]):
            piece = pieces[info[2] + u]
            for slot in range(max(piece - 1, 0), min(piece + 1, info[4])):
                if place.where[info[6] + u * info[4] + slot] >= 0:
                    continue
                sign = -1.0 if slot < piece else 1.0
                own = maps.rows[info[0] + u]
                size = 0.0
                for j in range(k):
                    size += own[j] * own[j]
                for i in range(m):
                    if region.shared[i]:
                        along = 0.0
                        for j in range(k):
                            along += sign * own[j] * region.A[i, j]
                        if along < -(1.0 - ALONG) * np.sqrt(size) * place.length[i]:
                            return True
    return False


@kernel
def lead_row(task, place, target, m):
    """Write a decision row after the region's own: ``lead d + value <= 0`` is adversarial."""
    region, maps = place.region, place.maps
    k = region.A.shape[1]
    first = task.program.layers[len(task.program.layers) - 1, 0]
    row = region.A[m]
    for j in range(k):
        row[j] = 0.0
    c = spread = error = 0.0
    for o in range(task.leads.shape[1]):
        w = task.leads[target, o]
        if w == 0.0:
            continue
        largest = 0.0
        for j in range(k):
            row[j] += w * maps.rows[first + o, j]
            largest = max(largest, abs(maps.rows[first + o, j]))
        c += w * maps.rows[first + o, k]
        # The leads are 1, -1 and 0: one difference at most is rounded.
        spread += maps.errors[first + o, 0] + 2.0 * UNIT * largest
        error += maps.errors[first + o, 1] + 2.0 * UNIT * abs(maps.rows[first + o, k])
    square = 0.0
    for j in range(k):
        square += row[j] * row[j]
    place.c[m] = c
    place.length[m] = np.sqrt(square)
    region.error[m, 0], region.error[m, 1] = 1.01 * spread, 1.01 * error


@kernel
def pattern_over(task, pieces, row, beyond):
    """Write the pattern behind a row with no other hyperplane on it."""
    for u in range(len(pieces)):
        beyond[u] = pieces[u]
    info = task.program.layers[task.layer_of[row]]
    slots = info[4]
    unit = info[2] + (row - info[6]) // slots
    slot = (row - info[6]) % slots
    if info[5]:
        beyond[unit] = slot
    else:
        beyond[unit] = slot + 1 if pieces[unit] <= slot else slot
