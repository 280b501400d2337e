"""What is known of a node of the branch and bound: linear functions that hold where its pieces do.

A node fixes the pieces of some units.  CROWN over the part of the input set that is left bounds
the lead of the target class from above, and what each fixed unit reads from both sides, by linear
functions of the input.  So the adversarial points of the node lie in a polyhedron of few rows:
one for the target, one for each end of each fixed piece.  Where all pieces are fixed it is the
adversarial part of the linear region itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from polytope.bounds.backward import pull_back
from polytope.bounds.crown import FunctionBounds, function_bounds
from polytope.bounds.inputs import InputSet
from polytope.bounds.layers import Known, LayerBounds, allowed_pieces, layer_bounds, sound_offset
from polytope.bounds.relaxation import UnitLines
from polytope.network.engine import Engine
from polytope.network.ir import Max, Piecewise
from polytope.robustness.node import Judged, Node
from polytope.robustness.query import Query


@dataclass(frozen=True, eq=False)
class Bounded:
    """Bounds of some nodes.

    Attributes
    ----------
    alive : bool (n,)
        Not refuted by the bounds alone.
    layers : LayerBounds
    target : FunctionBounds
        Of the label's lead over the target, one function per node.
    """

    alive: np.ndarray
    layers: LayerBounds
    target: FunctionBounds


class TensorNodes:
    """Bounds nodes of one query in batches of tensors, for networks of any size.

    Parameters
    ----------
    query : Query
    """

    batch = 64
    #: Units worth branching on at once while few nodes wait: bounding a batch of one costs
    #: nearly as much as one of many.
    depth = 4

    def __init__(self, query: Query) -> None:
        self._query = query
        nodes = query.net.graph.nodes
        sizes = [nodes[nodes[layer.node].inputs[0]].size for layer in query.net.layers]
        ends = np.cumsum([0, *sizes]).tolist()
        self._parts = [slice(a, b) for a, b in itertools.pairwise(ends)]
        self._values = int(ends[-1])

    def known(self) -> np.ndarray:
        """What is known of the root's values: nothing (2, values)."""
        return np.stack([np.full(self._values, -np.inf), np.full(self._values, np.inf)])

    def judge(self, nodes: Sequence[Node], radius: float) -> list[Judged | None]:
        """What is known of each node within a radius; None: nothing adversarial is in it."""
        net = self._query.net
        fixed = np.stack([node.fixed for node in nodes])
        lead = torch.as_tensor(np.stack([self._query.lead(node.target) for node in nodes]))
        given = torch.as_tensor(np.stack([node.known for node in nodes]))
        known = (
            [given[:, 0, part] for part in self._parts],
            [given[:, 1, part] for part in self._parts],
        )
        bounded = bound(net, self._inputs(len(nodes), radius), fixed, lead, known)
        found: list[Judged | None] = [None] * len(nodes)
        if not bounded.alive.any():
            return found
        normal, height = polyhedra(net, bounded, fixed, self._query.x)
        choices = branches(net, bounded, self.depth)
        sides = (bounded.layers.lower, bounded.layers.upper)
        none = torch.zeros(len(nodes), 0)
        tighter = np.stack([torch.cat([none, *side], dim=1).numpy() for side in sides], axis=1)
        for i in np.flatnonzero(bounded.alive).tolist():
            own = normal[i].any(axis=1) | (height[i] > 0)
            own[0] = True
            pieces = None
            if not choices[i]:
                left = [p[i].to(torch.int64).argmax(dim=1) for p in bounded.layers.pieces]
                pieces = torch.cat([torch.zeros(0, dtype=torch.int64), *left]).numpy()
            found[i] = Judged(normal[i][own], height[i][own], choices[i], tighter[i], pieces)
        return found

    def _inputs(self, count: int, radius: float) -> InputSet:
        """The ball of a radius met with the box, so many times."""
        query = self._query
        x = torch.as_tensor(query.x).expand(count, -1).contiguous()
        low = high = None
        if query.box is not None:
            low, high = (
                torch.as_tensor(side.copy()).expand(count, -1).contiguous()
                for side in (query.box.low, query.box.high)
            )
        size = torch.full((count,), radius, dtype=torch.float64)
        return replace(InputSet.from_ball(x, size, query.p, low, high), same=True)


def bound(
    net: Engine, inputs: InputSet, fixed: np.ndarray, lead: torch.Tensor, known: Known | None
) -> Bounded:
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
    return Bounded(alive.cpu().numpy(), bounds, found)


def polyhedra(
    net: Engine, bounded: Bounded, fixed: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The polyhedra of all nodes, as in `Judged`; rows of zeros of height -1 fill up.

    Returns
    -------
    normal, height : float64 (n, rows, d), (n, rows)
    """
    target = bounded.target.a.cpu().numpy(), bounded.target.offset.cpu().numpy()
    rows = [target, *piece_rows(net, bounded.layers, fixed)]
    return heights(rows, x)


def piece_rows(
    net: Engine, bounds: LayerBounds, fixed: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Linear functions of the input that are at most 0 where the fixed pieces hold, by layer.

    Returns
    -------
    list of (normal (n, rows, d), offset (n, rows))
        Layers without fixed units are left out; rows of zeros with offset -1 fill up.
    """
    graph = net.graph
    constants = net.constants(bounds.inputs.low.dtype, bounds.inputs.low.device)
    lines = {layer.node: line for layer, line in zip(net.layers, bounds.lines, strict=True)}
    found = []
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
        lowered = np.where(open_, -1.0, np.nextafter(offset - limits, -np.inf))
        found.append((np.where(open_[..., None], 0.0, normal), lowered))
    return found


def heights(
    rows: Sequence[tuple[np.ndarray, np.ndarray]], x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows side by side, with their values at a point, rounded downwards, for offsets.

    Returns
    -------
    normal, height : float64 (n, rows, d), (n, rows)
        Rows of zeros have height -1, and those that are not finite are such.
    """
    normal, offset = (np.concatenate(part, axis=1) for part in zip(*rows, strict=True))
    terms = np.abs(normal) @ np.abs(x) + np.abs(offset)
    height = normal @ x + offset - (len(x) + 4) * 2.0**-52 * terms
    bad = ~(np.isfinite(normal).all(axis=2) & np.isfinite(height))
    normal[bad], height[bad] = 0.0, -1.0
    filler = ~normal.any(axis=2) & (offset == -1.0)
    height[filler] = -1.0
    return normal, height


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


def branches(net: Engine, bounded: Bounded, most: int) -> list[list[tuple[int, list[int]]]]:
    """Open units to branch on in each node, the best first, with their pieces (`most` at most).

    First the unit whose relaxation costs the target's bound most: the gap between its lines in the
    middle of its interval, times what the bound weighs it with (BaBSR's intercept score: Bunel et
    al., Branch and bound for piecewise linear neural network verification, JMLR 2020).
    """
    bounds = bounded.layers
    scores = [torch.zeros(len(bounded.alive), 0, dtype=bounds.inputs.low.dtype)]
    for number, layer in enumerate(net.layers):
        line = bounds.lines[number]
        low, high = bounds.lower[number], bounds.upper[number]
        if isinstance(line, UnitLines):
            middle = (low + high) / 2
            gap = (line.upper_slope - line.lower_slope) * middle
            gap = gap + line.upper_intercept - line.lower_intercept
        else:
            gap = (bounds.walk.high[layer.node] - bounds.walk.low[layer.node]).flatten(1)
        weight = bounded.target.coefficients[number][:, 0].abs()
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
