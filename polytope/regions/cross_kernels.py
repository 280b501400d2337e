"""Compiled: the rows of a region, its facets, and the patterns behind them.

Everything that rounding leaves open is handed back: a region whose inside was not reached, a
row that is neither proved a facet nor proved redundant, a facet behind which a unit's piece is
not clear.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polytope.regions.beyond_kernels import pattern_beyond, slack_at
from polytope.regions.form_kernels import GENERIC, row_form, unit_forms, value_forms
from polytope.regions.program import Program
from polytope.regions.row_kernels import output_rows, slot_row, value_rows
from polytope.regions.vertex_kernels import layer_of
from solvers.compiled import kernel
from solvers.simplex import FACET, UNDECIDED, Work, facets_kernel

#: What became of a region: expanded, or its inside was not reached in floats.
EXPANDED, OPEN = 0, 1
#: How a facet was found: proved, behind it another unit is unclear, its row is undecided.
PROVED, UNCLEAR, UNKNOWN = 0, 1, 2


class Region(NamedTuple):
    """Rows ``A u <= b`` of one region, with errors (gradient, constant) and row ids.

    The gradients of all rows of ``depth >= l`` lie in one space of at most ``rank[l]`` dimensions:
    all that comes after a layer through which all values pass is a function of the layer's units
    that are not flat.  `shared`: another unit's row was left out, because it coincides.
    """

    A: np.ndarray
    b: np.ndarray
    error: np.ndarray
    ids: np.ndarray
    depth: np.ndarray
    shared: np.ndarray
    rank: np.ndarray


class Maps(NamedTuple):
    """Maps of values and of unit outputs (see `row_kernels`), and their forms (`form_kernels`).

    `place` (values,) is the row of a region that holds the hyperplane of a form.
    """

    rows: np.ndarray
    errors: np.ndarray
    out: np.ndarray
    out_error: np.ndarray
    out_size: np.ndarray
    sums: np.ndarray
    row: np.ndarray
    value_form: np.ndarray
    unit_form: np.ndarray
    place: np.ndarray


class Facets(NamedTuple):
    """Facets found, until Python takes them (see `PROVED` and the rest for `kind`)."""

    region: np.ndarray
    row: np.ndarray
    kind: np.ndarray
    point: np.ndarray
    pieces: np.ndarray


class Tools(NamedTuple):
    """Room for the compiled simplex method."""

    ask: np.ndarray
    verdict: np.ndarray
    witness: np.ndarray
    support: np.ndarray


@kernel
def region_rows(program, frame, net_rows, pieces, crossed, maps, region):
    """Write the rows of a pattern, those of the domain last.

    Returns
    -------
    (rows, whether some unit is identically zero, number of the row with id `crossed`, or -1)
    """
    k = program.base.shape[1] - 1
    m = level = 0
    vanishes = False
    own = -1
    for v in range(len(maps.place)):
        maps.place[v] = -1
    region.rank[0] = k
    for layer in range(len(program.layers)):
        value_rows(
            program, layer, maps.out, maps.out_error, maps.out_size, maps.rows, maps.errors,
            maps.sums,
        )  # fmt: skip
        value_forms(program, layer, maps)
        first_unit, units = program.layers[layer, 2], program.layers[layer, 3]
        slots, is_max = program.layers[layer, 4], program.layers[layer, 5]
        narrow = program.waist[layer]
        steep = 0
        for u in range(units):
            piece = pieces[first_unit + u]
            flat = (
                not is_max
                and program.slopes[program.pieces_at[layer] + u * (slots + 1) + piece] == 0.0
            )
            steep += 0 if flat else 1
            depth = level + 1 if narrow and not is_max and not flat else level
            low, high = (0, slots) if is_max else (max(piece - 1, 0), min(piece + 1, slots))
            for slot in range(low, high):
                if is_max and slot == piece:
                    continue
                gradient_error, constant_error, present = slot_row(
                    program, layer, u, slot, piece, maps.rows, maps.errors, maps.row
                )
                if present == 0:
                    continue
                number = program.layers[layer, 6] + u * slots + slot
                form = row_form(program, layer, u, slot, piece, maps)
                if form not in (0, GENERIC):
                    same = maps.place[abs(form) - 1]
                    if same >= 0:
                        region.shared[same] = True
                        own = same if number == crossed else own
                        continue
                    maps.place[abs(form) - 1] = m
                own = m if number == crossed else own
                sign = -1.0 if not is_max and slot < piece else 1.0
                zero = gradient_error == 0.0 and constant_error == 0.0 and maps.row[k] == 0.0
                for i in range(k):
                    region.A[m, i] = sign * maps.row[i]
                    zero = zero and maps.row[i] == 0.0
                region.b[m] = -sign * maps.row[k]
                region.error[m, 0], region.error[m, 1] = gradient_error, constant_error
                region.ids[m] = number
                region.depth[m] = depth
                region.shared[m] = False
                vanishes = vanishes or zero
                m += 1
        output_rows(
            program, layer, pieces, maps.rows, maps.errors, maps.out, maps.out_error, maps.out_size
        )
        unit_forms(program, layer, pieces, maps)
        if narrow:
            region.rank[level + 1] = min(steep, region.rank[level])
            level += 1
    for r in range(len(frame)):
        for i in range(k):
            region.A[m, i] = frame[r, i]
        region.b[m] = -frame[r, k]
        region.error[m, 0] = region.error[m, 1] = 0.0
        region.ids[m] = net_rows + r
        region.depth[m] = 0
        region.shared[m] = False
        m += 1
    return m, vanishes, own


@kernel
def _inside(region, m, point):
    """Whether a point is strictly inside all rows with a normal, beyond rounding."""
    k = region.A.shape[1]
    for j in range(m):
        proper = region.error[j, 0] > 0.0
        for i in range(k):
            proper = proper or region.A[j, i] != 0.0
        slack, band = slack_at(region, j, point)
        if slack <= band and (proper or slack < -band):
            return False
    return True


@kernel
def _step_inside(region, m, seed, own, point):
    """Go from a point of row `own` into the region: whether the point found is surely inside."""
    k = region.A.shape[1]
    if own < 0:
        for i in range(k):
            point[i] = seed[i]
        return _inside(region, m, point)
    length = size = 0.0
    for i in range(k):
        length += region.A[own, i] ** 2
        size = max(size, abs(seed[i]))
    length = np.sqrt(length)
    if not length > 0.0:
        return False
    farthest = np.inf
    for j in range(m):
        if j == own:
            continue
        slope = 0.0
        for i in range(k):
            slope -= region.A[j, i] * region.A[own, i]
        if slope > 0.0:
            slack, _ = slack_at(region, j, seed)
            farthest = min(farthest, slack * length / slope)
    step = 1.0 + size if farthest == np.inf else 0.5 * farthest
    for i in range(k):
        point[i] = seed[i] - step * region.A[own, i] / length
    return _inside(region, m, point)


@kernel
def expand(
    program: Program, frame: np.ndarray, net_rows: int, patterns: np.ndarray, seeds: np.ndarray,
    crossed: np.ndarray, begin: int, end: int, limits: np.ndarray, maps: Maps, region: Region,
    tools: Tools, simplex: Work, points: np.ndarray, status: np.ndarray, facets: Facets,
) -> tuple[int, int]:  # fmt: skip
    """Find the facets of regions ``begin`` to ``end``.

    Parameters
    ----------
    patterns : uint16 (n, units)
    seeds : float64 (n, k)
        A point of the facet that was crossed into the region, or an interior point.
    crossed : int64 (n,)
        The row that was crossed (-1: the seed is inside).
    limits : float64 (2, k)
        Bounds of the domain's coordinates, infinite if there are none.
    points : float64 (n, k), written
        An interior point of each region.
    status : int64 (n,), written

    Returns
    -------
    (facets written, regions done); fewer than asked for if the room for facets was used up
    """
    k = program.base.shape[1] - 1
    count = 0
    for q in range(begin, end):
        pieces = patterns[q]
        m, vanishes, own = region_rows(program, frame, net_rows, pieces, crossed[q], maps, region)
        if count + m > len(facets.row):
            return count, q
        status[q] = EXPANDED
        if not _step_inside(region, m, seeds[q], own, points[q]):
            status[q] = OPEN
            continue
        reach = 0.0
        for i in range(k):
            reach = max(reach, limits[1, i] - points[q, i], points[q, i] - limits[0, i])
        for j in range(m):
            tools.ask[j] = region.ids[j] < net_rows
        facets_kernel(
            region.A[:m], region.b[:m], region.error[:m], region.depth[:m], region.rank, points[q],
            reach, tools.ask[:m], tools.verdict[:m], tools.witness[:m], tools.support[:m], simplex,
        )  # fmt: skip
        begun = count
        for j in range(m):
            if not tools.ask[j] or tools.verdict[j] not in (FACET, UNDECIDED):
                continue
            row = region.ids[j]
            facets.region[count], facets.row[count] = q, row
            for u in range(len(pieces)):
                facets.pieces[count, u] = pieces[u]
            if tools.verdict[j] == UNDECIDED:
                facets.kind[count] = UNKNOWN
                count += 1
                continue
            layer = layer_of(program, row)
            slots = program.layers[layer, 4]
            unit = program.layers[layer, 2] + (row - program.layers[layer, 6]) // slots
            place = (row - program.layers[layer, 6]) % slots
            if program.layers[layer, 5]:
                facets.pieces[count, unit] = place
            else:
                facets.pieces[count, unit] = place + 1 if pieces[unit] <= place else place
            for i in range(k):
                facets.point[count, i] = tools.witness[j, i]
            facets.kind[count] = PROVED
            if (vanishes or region.shared[j]) and not pattern_beyond(
                program, pieces, row, region, j, facets.point[count], maps,
                facets.pieces[count],
            ):  # fmt: skip
                facets.kind[count] = UNCLEAR
            count += 1
        _recenter(region, m, facets, begun, count, points[q], maps.row)
    return count, end


@kernel
def _recenter(region, m, facets, begin, end, point, middle):
    """Move an interior point to the mean of the points on the facets, if that is inside."""
    k = len(point)
    number = 0
    for i in range(k):
        middle[i] = 0.0
    for f in range(begin, end):
        if facets.kind[f] != UNKNOWN:
            number += 1
            for i in range(k):
                middle[i] += facets.point[f, i]
    if number < 2:
        return
    for i in range(k):
        middle[i] /= number
    if _inside(region, m, middle):
        for i in range(k):
            point[i] = middle[i]
