"""Compiled: what a certificate says of one pattern: multipliers, and the ways out of its region.

Multipliers that the traversal left are tried first; where they do not prove the radius (the
traversal kept the bound, but not what proved it) the program is solved once more.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from polytope.regions.index_kernels import place_of
from polytope.robustness.halfspace_kernels import combined_bound, halfspace_bound
from polytope.robustness.region_distance import polyhedron_bound
from polytope.robustness.traversal_arrays import Place, Task
from polytope.robustness.traversal_forms import forms_over
from polytope.robustness.traversal_rows import (
    CONSTANT,
    SHARED,
    ZERO,
    judge_rows,
    lead_row,
    load_rows,
    may_coincide,
    pattern_over,
)
from solvers.compiled import kernel

#: What a pattern is good for: nothing, its region was explored, it has no point in the radius.
UNKNOWN, REGION, EMPTY = range(3)
#: Entries of `Sheet.counts`: ways, lists, weights, rows and classes that are left open.
WAYS, LISTS, WEIGHTS, OPEN, UNDECIDED = range(5)
#: Bits of the weights of short lists, fewest first, and the least number in half precision.
SHORT, LEAST = (3, 5, 8, 11), 2.0**-24

#: Parts of the radius that programs are asked for, one after the other: only the first begins with
#: the rows that the traversal left.
TRIED = (1.0, 1.25, 16.0)


class Known(NamedTuple):
    """What the traversal left.

    Attributes
    ----------
    patterns, table : uint16 (n, units), int64 (...)
        See `polytope.regions.index_kernels`.
    use : int64 (n,)
        `UNKNOWN`, `REGION` or `EMPTY`.
    proof : int64 (n, 2)
        Begin and number of the weights that prove how far the facet is that a pattern was met
        behind, of one whose own distance is not known.
    row, weight : int64 (...), float64 (...)
        The rows and weights of all proofs, and room for one more.
    """

    patterns: np.ndarray
    table: np.ndarray
    use: np.ndarray
    proof: np.ndarray
    row: np.ndarray
    weight: np.ndarray


class Sheet(NamedTuple):
    """What is written of one pattern.

    Attributes
    ----------
    hint : int64 (rows + classes + 1, 2)
        Begin and number of the weights that the traversal left, by subject.
    way_row, way_to : int64 (...)
    subject, size, short : int64 (...)
        Of each list of multipliers; whether its weights have half precision.
    rows, weights : int64 (...), float64 (...)
    open_row : int64 (...)
        Rows, by their place, behind which exact arithmetic has to look, or of which nothing is
        known.
    open_class : int64 (classes,)
        Classes, by their place, that multipliers were not found against.
    beyond : uint16 (1, units)
    counts : int64 (5,)
    """

    hint: np.ndarray
    way_row: np.ndarray
    way_to: np.ndarray
    subject: np.ndarray
    size: np.ndarray
    short: np.ndarray
    rows: np.ndarray
    weights: np.ndarray
    open_row: np.ndarray
    open_class: np.ndarray
    beyond: np.ndarray
    counts: np.ndarray


@kernel
def load(task: Task, place: Place, pieces: np.ndarray, doubt: np.ndarray) -> tuple[int, int]:
    """Write the rows of a pattern: how many, and how many of them may be zero."""
    m = load_rows(task, pieces, place)
    return m, judge_rows(task, place, m, doubt)


@kernel
def number_of(known: Known, pieces: np.ndarray) -> int:
    """The number of a pattern that was met, -1 of another."""
    return int(known.table[place_of(known.table, known.patterns, pieces)])


@kernel
def out_of_reach(
    task: Task, place: Place, known: Known, sheet: Sheet, m: int, subject: int, radius: float
) -> bool:
    """Write the multipliers that prove a region to be beyond the radius, if there are any."""
    sheet.counts[:] = 0
    return bool(_prove(task, place, known, sheet, m, subject, -1, radius))


@kernel
def examine(
    task: Task, place: Place, known: Known, sheet: Sheet, pieces: np.ndarray, m: int,
    radius: float, classes: np.ndarray,
) -> None:  # fmt: skip
    """Write down the decisions of an explored region, and its ways out."""
    sheet.counts[:] = 0
    region, count = place.region, sheet.counts
    for t in range(len(classes)):
        lead_row(task, place, t, m)
        if _beyond(task, place, m, radius):
            continue
        subject = task.net_rows + classes[t]
        if not _prove(task, place, known, sheet, m + 1, subject, subject, radius):
            sheet.open_class[count[UNDECIDED]] = t
            count[UNDECIDED] += 1
    for i in range(m):
        if place.kind[i] == ZERO or place.kind[i] == CONSTANT or place.c[i] > region.error[i, 1]:
            continue
        _turn(task, place, m, i)
        if _beyond(task, place, m, radius):
            continue
        beyond, row = sheet.beyond[0], region.ids[i]
        settled = not may_coincide(place, m, i)
        if settled and place.kind[i] == SHARED:
            settled = forms_over(task, pieces, row, place, beyond)
        elif settled:
            pattern_over(task, pieces, row, beyond)
        to = known.table[place_of(known.table, known.patterns, beyond)] if settled else -1
        use = known.use[to] if to >= 0 else UNKNOWN
        hinted = sheet.hint[row, 1] > 0
        if to >= 0 and not hinted:
            sheet.hint[row, 0], sheet.hint[row, 1] = known.proof[to, 0], known.proof[to, 1]
        # A program is solved where nothing else is known; what may be is seen to by the caller.
        wanted = hinted or (settled and use == UNKNOWN)
        if use != REGION and wanted and (
            _prove(task, place, known, sheet, m + 1, row, row, radius)
        ):  # fmt: skip
            continue
        if use == UNKNOWN:
            sheet.open_row[count[OPEN]] = i
            count[OPEN] += 1
        else:
            sheet.way_row[count[WAYS]], sheet.way_to[count[WAYS]] = row, to
            count[WAYS] += 1


@kernel
def decide(
    task: Task, place: Place, known: Known, sheet: Sheet, m: int, t: int, subject: int,
    radius: float,
) -> bool:  # fmt: skip
    """Write the multipliers against a class: whether they are proved, whatever the rounding."""
    lead_row(task, place, t, m)
    if _prove(task, place, known, sheet, m + 1, subject, subject, radius):
        return True
    _hinted(task, place, known, sheet, m + 1, subject, subject)
    _write(task, place, sheet, m + 1, subject, subject, radius)
    return False


@kernel
def closed_facet(
    task: Task, place: Place, known: Known, sheet: Sheet, m: int, i: int, radius: float
) -> bool:
    """Write the multipliers that prove the facet on row i to be beyond the radius, if any do."""
    _turn(task, place, m, i)
    row = place.region.ids[i]
    return bool(_prove(task, place, known, sheet, m + 1, row, row, radius))


@kernel
def _turn(task, place, m, i):
    """Write the other side of row i after the rows of a region."""
    region = place.region
    for j in range(len(task.low)):
        region.A[m, j] = -region.A[i, j]
    region.error[m, 0], region.error[m, 1] = region.error[i, 0], region.error[i, 1]
    place.c[m], place.length[m] = -place.c[i], place.length[i]


@kernel
def _beyond(task, place, m, radius):
    """Whether row m alone is beyond the radius."""
    bound = halfspace_bound(
        place.region.A[m], place.c[m], place.region.error[m, 1], place.region.error[m, 0],
        task.low, task.high, task.p, radius,
    )  # fmt: skip
    return bound >= radius


@kernel
def _proved(task, place, radius):
    """Whether the weights prove the radius."""
    weights = place.weights
    bound = combined_bound(
        place.region.A, place.c, place.region.error, weights.own, weights.value, weights.used[0],
        task.low, task.high, task.p, radius, place.line, place.size,
    )  # fmt: skip
    return bound >= radius


@kernel
def _prove(task, place, known, sheet, m, subject, last, radius):
    """Write the multipliers that prove m rows to be beyond the radius, if there are any.

    The last of the m rows stands for the row `last`: a decision, or the other side of a row, whose
    weights are negative.
    """
    _hinted(task, place, known, sheet, m, subject, last)
    found = _proved(task, place, radius)
    for part in TRIED:
        if not found:
            # From other rows, or for another radius, a program goes another way.
            place.weights.used[0] *= part == TRIED[0]
            polyhedron_bound(task, place, m, part * radius)
            found = _proved(task, place, radius)
    return found and _write(task, place, sheet, m, subject, last, radius)


@kernel
def _hinted(task, place, known, sheet, m, subject, last):
    """Take the weights that are known for a subject, as far as they are of rows here."""
    weights = place.weights
    begin, count = sheet.hint[subject]
    kept = 0
    for a in range(begin, begin + count):
        row, weight = known.row[a], known.weight[a]
        at = place.where[row] if row < task.net_rows else -1
        if row == last and (weight < 0.0 or last >= task.net_rows):
            at = m - 1
        if 0 <= at < m and weight != 0.0 and kept < len(weights.own):
            weights.own[kept], weights.value[kept] = at, abs(weight)
            kept += 1
    weights.used[0] = kept


@kernel
def _write(task, place, sheet, m, subject, last, radius):
    """Write the weights down, in half precision if that proves the radius too.

    False if there is no room for them.
    """
    weights, count = place.weights, sheet.counts
    if count[WEIGHTS] + weights.used[0] > len(sheet.weights):
        return False
    top, used = 0.0, weights.used[0]
    for a in range(used):
        top = max(top, weights.value[a])
    _, exponent = math.frexp(top)
    first = count[WEIGHTS]
    for a in range(used):
        weights.value[a] = math.ldexp(weights.value[a], -exponent)
        sheet.weights[first + a] = weights.value[a]
    short = 0
    for bits in SHORT:
        for a in range(used):
            value = sheet.weights[first + a]
            _, exponent = math.frexp(value)
            quantum = max(math.ldexp(1.0, exponent - bits), LEAST)
            weights.value[a] = np.rint(value / quantum) * quantum
        if _proved(task, place, radius):
            short = 1
            break
    written = 0
    for a in range(used):
        value = weights.value[a] if short == 1 else sheet.weights[first + a]
        if value > 0.0:
            own = weights.own[a]
            turned = own == m - 1 and 0 <= last < task.net_rows
            sheet.rows[first + written] = last if own == m - 1 and last >= 0 else (
                place.region.ids[own]
            )  # fmt: skip
            sheet.weights[first + written] = -value if turned else value
            written += 1
    lists = count[LISTS]
    sheet.subject[lists], sheet.size[lists], sheet.short[lists] = subject, written, short
    count[LISTS], count[WEIGHTS] = lists + 1, first + written
    return True
