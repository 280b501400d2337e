"""Compiled bounds of a node by its root's lines: see `kept_nodes`."""

from __future__ import annotations

from polytope.robustness.flat import Flat
from polytope.robustness.line_kernels import least, nothing
from polytope.robustness.node_kernels import Work, add_value, fixed_rows, pull, scores
from solvers.compiled import kernel


@kernel
def bound_kept(
    flat: Flat, fixed, lead, lines, below, weights, pieces, low, high, box_low, box_high, radius,
    p, work: Work,
):  # fmt: skip
    """As `bound_node`, with the root's lines for all open units."""
    count = len(flat.layers) - 1
    for at in range(len(weights)):
        work.weights[at] = weights[at]
    for u in range(len(fixed)):
        work.pieces[u], work.below[u] = pieces[u], below[u]
        for k in range(4):
            work.lines[u, k] = lines[u, k]
    for number in range(count):
        unit, units, slots, offset = (
            flat.layers[number, 2], flat.layers[number, 3], flat.layers[number, 4],
            flat.layers[number, 5],
        )  # fmt: skip
        candidates, at = flat.winners[number], flat.pieces_at[number]
        for j in range(units):
            u = unit + j
            piece = fixed[u]
            if piece < 0:
                continue
            work.pieces[u] = 1 << piece
            if candidates == 0:
                place = at + j * (slots + 1) + piece
                work.lines[u, 0] = work.lines[u, 2] = flat.slopes[place]
                work.lines[u, 1] = work.lines[u, 3] = flat.intercepts[place]
            else:
                place = offset + j * candidates
                for k in range(candidates):
                    work.weights[place + k] = 1.0 if k == piece else 0.0
                work.below[u], work.lines[u, 3] = flat.table[place + piece], 0.0
    nothing(work.gradient)
    nothing(work.score)
    constant, error, first = 0.0, 0.0, flat.layers[count, 0]
    for k in range(len(lead)):
        if lead[k] != 0.0:
            c, e = add_value(flat, first + k, lead[k], work.coefficients, work.gradient)
            constant += c
            error += e
    c, e = pull(flat, count, True, work)
    constant += c
    height = constant - 1.01 * (error + e) - 4 * flat.unit * abs(constant)
    for i in range(len(work.gradient)):
        work.rows[0, i] = work.gradient[i]
    work.heights[0] = height
    if least(work.gradient, height, box_low, box_high, radius, p) > 0.0:
        return 0
    scores(flat, low, high, work)
    return fixed_rows(flat, fixed, work)
