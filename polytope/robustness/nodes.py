"""What is known of a node of the branch and bound: linear functions that hold where its pieces do.

A node fixes the pieces of some units.  CROWN over the part of the input set that is left bounds
the lead of the target class from above, and what each fixed unit reads from both sides, by linear
functions of the input.  So the adversarial points of the node lie in a polyhedron of few rows:
one for the target, one for each end of each fixed piece.  Where all pieces are fixed it is the
adversarial part of the linear region itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from polytope.bounds.backward import pull_back
from polytope.bounds.crown import FunctionBounds, function_bounds
from polytope.bounds.inputs import InputSet
from polytope.bounds.layers import Known, LayerBounds, allowed_pieces, layer_bounds, sound_offset
from polytope.bounds.relaxation import UnitLines
from polytope.network.engine import Engine
from polytope.network.ir import Max, Piecewise


@dataclass(frozen=True, eq=False)
class Polyhedra:
    """The polyhedra of some nodes: ``normal x + offset <= 0`` row by row, in exact arithmetic.

    Attributes
    ----------
    normal : float64 (n, rows, d)
        The target's row first; rows of zeros fill up.
    offset : float64 (n, rows)
        Negative where a row fills up.
    """

    normal: np.ndarray
    offset: np.ndarray

    def of(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows of one node, without those that fill up."""
        own = self.normal[i].any(axis=1) | (self.offset[i] > 0)
        own[0] = True
        return self.normal[i][own], self.offset[i][own]


@dataclass(frozen=True, eq=False)
class Judged:
    """Bounds of some nodes.

    Attributes
    ----------
    alive : bool (n,)
        Not refuted by the bounds alone.
    bounds : LayerBounds
    target : FunctionBounds
        Of the label's lead over the target, one function per node.
    """

    alive: np.ndarray
    bounds: LayerBounds
    target: FunctionBounds


def judge(
    net: Engine, inputs: InputSet, fixed: np.ndarray, lead: torch.Tensor, known: Known | None
) -> Judged:
    """Bound the lead of the label over the target in some nodes.

    Parameters
    ----------
    net : Engine
    inputs : InputSet
        n sets.
    fixed : int (n, units)
        The piece of each unit, -1 where it is open.
    lead : float64 tensor (n, outputs)
        Coefficients of the lead.
    known : pair of sequences of tensor (n, size), optional
        Bounds of what the layers read that hold in all these nodes.
    """
    with torch.no_grad():
        allowed = allowed_pieces(net, torch.as_tensor(fixed, dtype=torch.int64))
        bounds = layer_bounds(net, inputs, allowed, known)
        found = function_bounds(bounds, lead[:, None, :])
    alive = (found.lower[:, 0] <= 0) & ~bounds.empty
    return Judged(alive.cpu().numpy(), bounds, found)


def polyhedra(net: Engine, judged: Judged, fixed: np.ndarray) -> Polyhedra:
    """The rows of every node."""
    bounds, graph = judged.bounds, net.graph
    constants = net.constants(bounds.inputs.low.dtype, bounds.inputs.low.device)
    lines = {layer.node: line for layer, line in zip(net.layers, bounds.lines, strict=True)}
    normals = [judged.target.a.cpu().numpy()]
    offsets = [judged.target.offset.cpu().numpy()]
    for layer in net.layers:
        node = graph.nodes[layer.node]
        own = fixed[:, layer.unit_slice]
        if (own < 0).all():
            continue
        make = _winner_rows if isinstance(node.op, Max) else _piece_rows
        coefficients, limits = make(net, layer.node, own)
        with torch.no_grad():
            pulled = pull_back(
                graph, bounds.walk, lines, node.inputs[0], torch.as_tensor(coefficients), constants
            )
            offset = sound_offset(pulled.offset, pulled.error).cpu().numpy()
        normal = np.broadcast_to(pulled.a.cpu().numpy(), (*offset.shape, net.input_size))
        open_ = np.isinf(limits)
        normals.append(np.where(open_[..., None], 0.0, normal))
        offsets.append(np.where(open_, -1.0, np.nextafter(offset - limits, -np.inf)))
    return Polyhedra(np.concatenate(normals, axis=1), np.concatenate(offsets, axis=1))


def _piece_rows(net: Engine, number: int, fixed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Functions of what a layer reads, and what they are at most in the fixed pieces.

    Returns
    -------
    coefficients : float64 (n, rows, units)
    limits : float64 (n, rows)
        inf where a row fills up.
    """
    node = net.graph.nodes[number]
    op = node.op
    assert isinstance(op, Piecewise)
    table = net.graph.constants[op.breakpoints]
    breaks = np.broadcast_to(table, (*node.shape, table.shape[-1])).reshape(node.size, -1)
    ends = np.column_stack([np.full(node.size, -np.inf), breaks, np.full(node.size, np.inf)])
    entries: list[list[tuple[int, float, float]]] = [[] for _ in fixed]
    for i, unit in zip(*np.nonzero(fixed >= 0), strict=True):
        low, high = ends[unit, fixed[i, unit]], ends[unit, fixed[i, unit] + 1]
        if np.isfinite(high):
            entries[i].append((int(unit), 1.0, float(high)))
        if np.isfinite(low):
            entries[i].append((int(unit), -1.0, float(-low)))
    rows = max(len(own) for own in entries)
    coefficients, limits = (
        np.zeros((len(fixed), rows, node.size)),
        np.full((len(fixed), rows), np.inf),
    )
    for i, own in enumerate(entries):
        for row, (unit, sign, limit) in enumerate(own):
            coefficients[i, row, unit], limits[i, row] = sign, limit
    return coefficients, limits


def _winner_rows(net: Engine, number: int, fixed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As `_piece_rows`, of the candidates of maxima: each is at most the winner."""
    node = net.graph.nodes[number]
    op = node.op
    assert isinstance(op, Max)
    index = net.graph.constants[op.index]
    size = net.graph.nodes[node.inputs[0]].size
    entries: list[list[tuple[int, int]]] = [[] for _ in fixed]
    for i, unit in zip(*np.nonzero(fixed >= 0), strict=True):
        winner = int(index[unit, fixed[i, unit]])
        others = {int(v) for v in index[unit] if v >= 0} - {winner}
        entries[i] += [(other, winner) for other in sorted(others)]
    rows = max(len(own) for own in entries)
    coefficients = np.zeros((len(fixed), rows, size))
    limits = np.full((len(fixed), rows), np.inf)
    for i, own in enumerate(entries):
        for row, (other, winner) in enumerate(own):
            coefficients[i, row, other], coefficients[i, row, winner] = 1.0, -1.0
            limits[i, row] = 0.0
    return coefficients, limits


def branches(net: Engine, judged: Judged, most: int) -> list[list[tuple[int, list[int]]]]:
    """Open units to branch on in each node, the best first, with their pieces (`most` at most).

    First the unit whose relaxation costs the target's bound most: the gap between its lines in the
    middle of its interval, times what the bound weighs it with (BaBSR's intercept score: Bunel et
    al., Branch and bound for piecewise linear neural network verification, JMLR 2020).
    """
    bounds = judged.bounds
    scores = []
    for number, layer in enumerate(net.layers):
        line = bounds.lines[number]
        low, high = bounds.lower[number], bounds.upper[number]
        if isinstance(line, UnitLines):
            middle = (low + high) / 2
            gap = (line.upper_slope - line.lower_slope) * middle
            gap = gap + line.upper_intercept - line.lower_intercept
        else:
            gap = (bounds.walk.high[layer.node] - bounds.walk.low[layer.node]).flatten(1)
        weight = judged.target.coefficients[number][:, 0].abs()
        scores.append(weight * gap.clamp(min=0) + 1e-12 * gap.clamp(min=0, max=1.0))
    score = torch.cat(scores, dim=1).nan_to_num(nan=0.0, posinf=1e300)
    table = torch.where(bounds.undecided, score, -1.0).cpu().numpy()
    result: list[list[tuple[int, list[int]]]] = []
    for i, own in enumerate(table):
        chosen: list[tuple[int, list[int]]] = []
        for unit in np.argsort(-own, kind="stable")[:most].tolist():
            if own[unit] < 0:
                break
            number = next(k for k, layer in enumerate(net.layers) if unit < layer.unit_slice.stop)
            local = unit - net.layers[number].first_unit
            chosen.append((unit, bounds.pieces[number][i, local].nonzero().flatten().tolist()))
        result.append(chosen)
    return result
