"""Compiled: what is known of a vertex from the hyperplanes it lies on.

Two repairs for the two ways in which a vertex becomes useless in floats.  Its error bound grows
with every cut, because each new point is bounded from older ones: it is solved anew from its
hyperplanes, with a bound from the residual.  And a unit may vanish at it by the structure of the
network (every unit that it reads is off there, or on its own hyperplane): then the unit's value
is exactly 0, whatever rounding says.
"""

from __future__ import annotations

import numpy as np

from polytope.regions.cell_kernels import ONE, SLOTS
from polytope.regions.row_kernels import slot_row
from polytope.regions.split_arrays import COUNT, LAYER, SLOT, UNIT, WINNER
from polytope.regions.sums import ROUNDING
from solvers.compiled import kernel

#: A vertex is solved anew when its error exceeds this part of its size.
BLURRED = 1e-11


@kernel
def layer_of(program, row):
    """The layer of a row id."""
    layer = 0
    while layer + 1 < len(program.layers) and program.layers[layer + 1, 6] <= row:
        layer += 1
    return layer


@kernel
def facet_row(program, frame, net_rows, rows, errors, pieces, row, out):
    """The floats of a facet's row, and its two errors (gradient, constant)."""
    if row >= net_rows:
        for i in range(len(out)):
            out[i] = frame[row - net_rows, i]
        return 0.0, 0.0
    layer = layer_of(program, row)
    slots = program.layers[layer, 4]
    unit, slot = (row - program.layers[layer, 6]) // slots, (row - program.layers[layer, 6]) % slots
    winner = pieces[program.layers[layer, 2] + unit]
    gradient_error, constant_error, _ = slot_row(
        program, layer, unit, slot, winner, rows, errors, out
    )
    return gradient_error, constant_error


@kernel
def sharpen(
    program, frame, net_rows, rows, errors, pieces, slots, mask, row, row_errors, point, work
):
    """Solve a vertex from the hyperplanes it lies on; keep the result if it is better.

    Parameters
    ----------
    mask : uint64
        Facets that contain the vertex, beside `row`.
    row : float64 (k + 1,)
    row_errors : (gradient error, constant error) of `row`
    point : float64 (k + 3,), in and out
    work : float64 (65 + 3 k, k + 3)
    """
    k = len(row) - 1
    count = 0
    for slot in range(SLOTS + 1):
        if slot == SLOTS:
            gradient_error, constant_error = row_errors
            for i in range(k + 1):
                work[count, i] = row[i]
        elif mask & (ONE << np.uint64(slot)) and slots[slot] >= 0:
            gradient_error, constant_error = facet_row(
                program, frame, net_rows, rows, errors, pieces, slots[slot], work[count, : k + 1]
            )
        else:
            continue
        size = 0.0
        for i in range(k):
            size = max(size, abs(work[count, i]))
        if size == 0.0:
            continue
        for i in range(k + 1):
            work[count, i] /= size
        work[count, k + 1] = gradient_error / size + 2 * ROUNDING
        work[count, k + 2] = constant_error / size + 2 * ROUNDING * abs(work[count, k])
        count += 1
    if count < k:
        return
    if count > k:
        _choose_rows(work, count, k)
    _improve(work, k, point)


@kernel
def _choose_rows(work, count, k):
    """Bring k well-conditioned rows to the front (Gram-Schmidt with pivoting)."""
    width = k + 3
    for j in range(k):
        best, at = -1.0, j
        for r in range(j, count):
            # What is left of row r beside the rows chosen so far.
            left = 0.0
            for i in range(k):
                left += work[r, i] * work[r, i]
            for q in range(j):
                dot = norm = 0.0
                for i in range(k):
                    dot += work[r, i] * work[q, i]
                    norm += work[q, i] * work[q, i]
                left -= dot * dot / norm
            if left > best:
                best, at = left, r
        for i in range(width):
            held = work[j, i]
            work[j, i] = work[at, i]
            work[at, i] = held


@kernel
def _improve(work, k, point):
    """One Newton step on k rows, with a bound: |B^-1| |residual| / (1 - |I - R B|)."""
    # Below the rows: the inverse, what is left of the matrix, the new point.
    base = len(work) - 3 * k
    inverse, left = work[base : base + k], work[base + k : base + 2 * k]
    new = work[base + 2 * k]
    for i in range(k):
        for j in range(k):
            left[i, j] = work[i, j]
            inverse[i, j] = 1.0 if i == j else 0.0
    for c in range(k):
        pivot = c
        for r in range(c + 1, k):
            if abs(left[r, c]) > abs(left[pivot, c]):
                pivot = r
        if left[pivot, c] == 0.0:
            return
        for i in range(k):
            left[c, i], left[pivot, i] = left[pivot, i], left[c, i]
            inverse[c, i], inverse[pivot, i] = inverse[pivot, i], inverse[c, i]
        scale = 1.0 / left[c, c]
        for i in range(k):
            left[c, i] *= scale
            inverse[c, i] *= scale
        for r in range(k):
            if r != c and left[r, c] != 0.0:
                factor = left[r, c]
                for i in range(k):
                    left[r, i] -= factor * left[c, i]
                    inverse[r, i] -= factor * inverse[c, i]
    for i in range(k):
        new[i] = point[i]
    for _ in range(2):
        for i in range(k):
            left[i, 0] = work[i, k]
            for j in range(k):
                left[i, 0] += work[i, j] * new[j]
        for i in range(k):
            step = 0.0
            for j in range(k):
                step += inverse[i, j] * left[j, 0]
            new[i] -= step
    size = extent = 0.0
    for i in range(k):
        size = max(size, abs(new[i]))
        extent += abs(new[i])
    worst = norm = off = 0.0
    for i in range(k):
        residual = work[i, k]
        terms = abs(work[i, k])
        for j in range(k):
            term = work[i, j] * new[j]
            residual += term
            terms += abs(term)
        bound = (
            abs(residual) + (k + 3) * ROUNDING * terms + work[i, k + 1] * extent + work[i, k + 2]
        )
        worst = max(worst, bound)
        line = gap = 0.0
        for j in range(k):
            line += abs(inverse[i, j])
            entry = -1.0 if i == j else 0.0
            whole = 0.0
            for q in range(k):
                entry += inverse[i, q] * work[q, j]
                whole += abs(inverse[i, q] * work[q, j]) + abs(inverse[i, q]) * work[q, k + 1]
            gap += abs(entry) + (k + 3) * ROUNDING * (whole + 1.0)
            for q in range(k):
                gap += abs(inverse[i, q]) * work[q, k + 1]
        norm = max(norm, line)
        off = max(off, gap)
    if not off < 0.5:
        return
    error = 1.01 * norm * worst / (1.0 - off)
    if error < point[k + 1]:
        for i in range(k):
            point[i] = new[i]
        point[k + 1] = error
        extent = 0.0
        for i in range(k):
            extent += abs(point[i])
        point[k + 2] = extent * (1.0 + (k + 1) * 2 * ROUNDING)


@kernel
def vanishing(program, net_rows, pieces, slots, mask, ray, layer, zero_value, zero_out):
    """Which values are exactly 0 at an extreme point, by the structure of the network.

    Parameters
    ----------
    mask : uint64
        The facets that contain the point.
    ray : bool
        The point is a ray: gradients count, constants do not.
    layer : int
        Values of all layers up to this one are decided.
    zero_value, zero_out : bool (values,), (units,), written
    """
    k = program.base.shape[1] - 1
    for number in range(layer + 1):
        info = program.layers[number]
        for v in range(info[0], info[1]):
            zero = ray or program.base[v, k] == 0.0
            for i in range(k):
                zero = zero and program.base[v, i] == 0.0 and program.base_error[v, i] == 0.0
            zero = zero and (ray or program.base_error[v, k] == 0.0)
            if zero:
                for t in range(program.start[v], program.start[v + 1]):
                    if not zero_out[program.source[t]]:
                        zero = False
                        break
            zero_value[v] = zero
        if not info[5]:
            for slot in range(SLOTS):
                row = slots[slot]
                if not mask & (ONE << np.uint64(slot)) or row < info[6] or row >= net_rows:
                    continue
                local = row - info[6]
                if local >= info[3] * info[4]:
                    continue
                at_zero = program.breaks[info[7] + local] == 0.0
                if ray or at_zero:
                    zero_value[info[0] + local // info[4]] = True
        if number == layer:
            return
        for u in range(info[3]):
            piece = pieces[info[2] + u]
            if info[5]:
                v = program.table[info[7] + u * info[4] + piece]
                zero_out[info[2] + u] = zero_value[v]
            else:
                place = program.pieces_at[number] + u * (info[4] + 1) + piece
                flat = program.slopes[place] == 0.0 or zero_value[info[0] + u]
                zero_out[info[2] + u] = flat and (ray or program.intercepts[place] == 0.0)


@kernel
def settle_structure(program, net_rows, stack, scratch, top):
    """Put open points on the row where the network's structure says so; how many."""
    step = stack.step[top]
    layer, unit, slot = step[LAYER], step[UNIT], step[SLOT]
    info = program.layers[layer]
    k = stack.points.shape[2] - 3
    row = info[6] + unit * info[4] + slot
    found = 0
    for v in range(step[COUNT]):
        if scratch.signs[v] != 2:
            continue
        own = False
        for s in range(SLOTS):
            if stack.slots[top, s] == row and stack.masks[top, v] & (ONE << np.uint64(s)):
                own = True
        if own:
            scratch.signs[v] = 0
            found += 1
            continue
        ray = stack.points[top, v, k] == 0.0
        vanishing(
            program, net_rows, stack.pieces[top], stack.slots[top],
            stack.masks[top, v], ray, layer, scratch.zero_value, scratch.zero_out,
        )  # fmt: skip
        if info[5]:
            a = program.table[info[7] + unit * info[4] + slot]
            b = program.table[info[7] + unit * info[4] + step[WINNER]]
            zero = scratch.zero_value[a] and scratch.zero_value[b]
        else:
            at_zero = program.breaks[info[7] + unit * info[4] + slot] == 0.0
            zero = scratch.zero_value[info[0] + unit] and (ray or at_zero)
        if zero:
            scratch.signs[v] = 0
            found += 1
    return found
