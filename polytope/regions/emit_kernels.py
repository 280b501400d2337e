"""Compiled: a finished cell is written down as a region with its facets."""

from __future__ import annotations

import numpy as np

from polytope.regions.cell_kernels import NONE, ONE, SLOTS, facet_kind
from polytope.regions.split_arrays import BORDER, COUNT, FACETS, REGIONS, ZERO
from polytope.regions.vertex_kernels import facet_row, layer_of
from solvers.compiled import kernel


@kernel
def emit(program, keys, net_rows, stack, rows, scratch, top, found, state):
    """Write a finished region and its facets; False if there is no room."""
    k = found.points.shape[1]
    region = state[REGIONS]
    facet = state[FACETS]
    if region == len(found.keys) or facet + SLOTS > len(found.facet_row):
        return False
    points, masks, count = stack.points[top], stack.masks[top], stack.step[top, COUNT]
    pieces = stack.pieces[top]
    key = NONE
    for u in range(len(pieces)):
        found.pieces[region, u] = pieces[u]
        key ^= keys[u, pieces[u]]
    found.keys[region] = key
    _center(points, masks, count, NONE, found.points[region], k)
    for slot in range(SLOTS):
        bit = ONE << np.uint64(slot)
        if not stack.used[top] & bit:
            continue
        row = stack.slots[top, slot]
        plain = not stack.shared[top] & bit and stack.step[top, ZERO] == 0
        if row < 0 or (row >= net_rows and (plain or row < state[BORDER])):
            # At infinity, on the domain's border, or where the domain was cut in two: unless a
            # unit's hyperplane coincides with that cut.
            continue
        kind = facet_kind(masks, count, stack.used[top], slot)
        if kind == 0:
            continue
        found.facet_region[facet] = region
        found.facet_row[facet] = row
        found.facet_plain[facet] = plain and kind == 1
        found.facet_point[facet, k] = _center(
            points, masks, count, bit, found.facet_point[facet], k
        )
        _onto(program, rows, net_rows, pieces, row, scratch.row, found.facet_point[facet])
        facet += 1
        if row >= net_rows:
            continue
        layer = layer_of(program, row)
        slots = program.layers[layer, 4]
        unit = program.layers[layer, 2] + (row - program.layers[layer, 6]) // slots
        place = (row - program.layers[layer, 6]) % slots
        if program.layers[layer, 5]:
            beyond = place
        elif pieces[unit] <= place:
            beyond = place + 1
        else:
            beyond = place
        found.facet_key[facet - 1] = key ^ keys[unit, pieces[unit]] ^ keys[unit, beyond]
    state[REGIONS] = region + 1
    state[FACETS] = facet
    return True


@kernel
def _onto(program, rows, net_rows, pieces, row, line, point):
    """Move a facet's center onto its hyperplane as floats have it; count the way as error."""
    k = len(line) - 1
    facet_row(program, rows.frame, net_rows, rows.rows, rows.errors, pieces, row, line)
    height, square = line[k], 0.0
    for i in range(k):
        height += line[i] * point[i]
        square += line[i] * line[i]
    if not square > 1e-280:
        return
    moved = 0.0
    for i in range(k):
        step = height * line[i] / square
        point[i] -= step
        moved = max(moved, abs(step) + 4e-16 * abs(point[i]))
    point[k] += moved


@kernel
def _center(points, masks, count, bit, out, k):
    """Mean of the vertices on a facet (or of all) plus that of its rays; a bound on its error."""
    vertices = rays = 0
    for v in range(count):
        if bit == NONE or masks[v] & bit:
            if points[v, k] == 0.0:
                rays += 1
            else:
                vertices += 1
    error = ray_error = size = 0.0
    for i in range(k):
        out[i] = 0.0
    for v in range(count):
        if bit == NONE or masks[v] & bit:
            ray = points[v, k] == 0.0
            share = 1.0 / (rays if ray else vertices)
            for i in range(k):
                out[i] += share * points[v, i]
                size = max(size, abs(points[v, i]))
            if ray:
                ray_error = max(ray_error, points[v, k + 1])
            else:
                error = max(error, points[v, k + 1])
    return error + ray_error + 4e-16 * (count + 2) * size
