"""Bounds of what every layer reads: intervals, intersected with backward CROWN bounds.

Zhang et al., Efficient Neural Network Robustness Certification with General Activation
Functions, NeurIPS 2018; over an l_p ball met with a box, under constraints on the pieces that
units may take, through convolutions, maxima and residual sums.

Every number returned as a bound is one in exact arithmetic about the compiled graph: intercepts
are rounded outwards, the backward pass carries a bound on its own rounding (interval.py), and the
least value over the input set subtracts its own (inputs.py).  That holds in float64; in a lower
dtype the constants' rounding is counted too, but not that of a device's reduced-precision
products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from polytope.bounds.backward import Lines, pull_back
from polytope.bounds.inputs import InputSet
from polytope.bounds.interval import Walk
from polytope.bounds.relaxation import (
    Corners,
    Rule,
    UnitLines,
    corners,
    default_slopes,
    unit_lines,
    value_bounds,
)
from polytope.bounds.rounding import SLACK, below
from polytope.bounds.smooth import smooth_lines, smooth_values
from polytope.bounds.windows import WindowLines, Windows, restrict, window_lines, windows
from polytope.errors import InputError
from polytope.network.engine import Constants, Engine
from polytope.network.ir import Graph, Layer, Max, Smooth

#: Bytes for the coefficients of one block of functions.
MEMORY = 2**28

#: Which pieces each unit may take, one bool tensor (n, units, pieces) per layer.
Allowed = Sequence[torch.Tensor]

#: Known bounds of what each layer reads: lower and upper ones, a tensor (n, size) per layer.
Known = tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]


@dataclass(frozen=True, eq=False)
class LayerBounds:
    """Bounds of what every layer reads, over a batch of n input sets.

    Attributes
    ----------
    net : Engine
    inputs : InputSet
    lower, upper : tuple of tensor (n, size)
        Per layer, bounds of its pre-activations (for a max: of all values that its windows
        read), tightened by the pieces that units may take.  Meaningless for empty samples.
    pieces : tuple of bool tensor (n, units, pieces)
        Per layer, the pieces that may still occur: a unit with one is decided.
    empty : bool tensor (n,)
        No input of the set takes the allowed pieces (proved).
    lines : tuple of UnitLines or WindowLines
        Per layer, the linear bounds of its units.
    corners : tuple of Corners or None
        Per layer, what other slopes need; None for maxima.
    walk : Walk
        Interval bounds and rounding of every node.
    smooth : dict of UnitLines
        The linear bounds of each node with a smooth activation; what it reads is in `walk`.
    """

    net: Engine
    inputs: InputSet
    lower: tuple[torch.Tensor, ...]
    upper: tuple[torch.Tensor, ...]
    pieces: tuple[torch.Tensor, ...]
    empty: torch.Tensor
    lines: tuple[UnitLines | WindowLines, ...]
    corners: tuple[Corners | None, ...]
    walk: Walk
    smooth: dict[int, UnitLines]

    @property
    def undecided(self) -> torch.Tensor:
        """Units with more than one piece left: bool (n, units of the network)."""
        parts = [p.sum(dim=2) > 1 for p in self.pieces]
        return torch.cat([self.empty.new_zeros(len(self.inputs), 0), *parts], dim=1)


def allowed_pieces(net: Engine, fixed: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Allowed pieces from one piece per unit, -1 where all are allowed.

    Parameters
    ----------
    net : Engine
    fixed : int64 tensor (n, units)

    Returns
    -------
    tuple of bool tensor (n, units, pieces), one per layer
    """
    found = []
    for layer in net.layers:
        own = fixed[:, layer.unit_slice, None]
        found.append((own < 0) | (own == torch.arange(layer.pieces, device=fixed.device)))
    return tuple(found)


def layer_bounds(
    net: Engine,
    inputs: InputSet,
    allowed: Allowed | None = None,
    known: Known | None = None,
    method: Literal["crown", "interval"] = "crown",
    rule: Rule = "adaptive",
    skip_decided: bool = True,
    memory: int = MEMORY,
    constants: Constants | None = None,
) -> LayerBounds:
    """Bounds of what every layer reads, in topological order.

    Parameters
    ----------
    net : Engine
    inputs : InputSet
        n sets; their dtype and device are those of the computation.
    allowed : sequence of bool tensor (n, units, pieces), optional
        The pieces that each unit may take; the bounds then hold for inputs that take them.
    known : pair of sequences of tensor (n, size), optional
        Valid lower and upper bounds (a parent's, say), intersected with the new ones.  A child
        needs them to be nowhere worse: its lines differ, so that its own bounds may be.
    method : "crown" or "interval"
    rule : "adaptive" or "parallel"
        Slopes of the lower lines (`relaxation.Rule`).
    skip_decided : bool
        Do not pull back units that intervals decide for all samples of the batch.
    memory : int
        Bytes for one block of functions.
    constants : mapping, optional
        Constants that carry gradients; by default the graph's own.

    Returns
    -------
    LayerBounds

    Raises
    ------
    InputError
        If the inputs or the allowed pieces do not fit the network.
    """
    _check(net, inputs, allowed, known)
    graph = net.graph
    c = constants if constants is not None else net.constants(inputs.low.dtype, inputs.low.device)
    walk = Walk.start(graph, inputs)
    layers = {layer.node: (k, layer) for k, layer in enumerate(net.layers)}
    lines: dict[int, UnitLines | WindowLines] = {}
    lower, upper, pieces = [], [], []
    kept: list[Corners | None] = []
    empty = torch.zeros(len(inputs), dtype=torch.bool, device=inputs.low.device)
    pulled: set[int] = {0}
    for number in range(1, len(graph.nodes)):
        if isinstance(graph.nodes[number].op, Smooth):
            pull = method == "crown" and graph.nodes[number].inputs[0] not in pulled
            lines[number], crossed = _smooth_layer(net, walk, lines, number, c, rule, pull, memory)
            pulled.add(graph.nodes[number].inputs[0])
            empty = empty | crossed
            continue
        if number not in layers:
            walk.pass_linear(number, graph, c)
            continue
        k, layer = layers[number]
        source = graph.nodes[number].inputs[0]
        low, high = walk.low[source].flatten(1), walk.high[source].flatten(1)
        if known is not None:
            low, high = torch.maximum(low, known[0][k]), torch.minimum(high, known[1][k])
        own = None if allowed is None else allowed[k]
        if method == "crown" and source not in pulled:
            chosen = _worth_pulling(graph, layer, low, high, own, c, skip_decided)
            if len(chosen):
                found = _pull_units(net, walk, lines, source, chosen, c, memory)
                low = low.index_copy(1, chosen, torch.maximum(low[:, chosen], found[0]))
                high = high.index_copy(1, chosen, torch.minimum(high[:, chosen], found[1]))
            if not skip_decided:
                pulled.add(source)
        low, high, crossed = _ordered(low, high)
        empty = empty | crossed
        if layer.is_max:
            low, high, window = _window_layer(graph, layer, low, high, own, c)
            low, high, crossed = _ordered(low, high)
            empty = empty | crossed | window.empty
            lines[number] = window_lines(window)
            top = torch.where(window.pieces, window.high, -torch.inf).amax(dim=2)
            first, last, _ = _ordered(window.low.amax(dim=2), top)
            kept.append(None)
            pieces.append(window.pieces)
        else:
            state = _piecewise_layer(graph, layer, low, high, own, c)
            low, high = state.low, state.high
            empty = empty | state.empty
            lines[number] = unit_lines(state, *default_slopes(state, rule))
            first, last, _ = _ordered(*value_bounds(state))
            kept.append(state)
            pieces.append(state.pieces)
        lower.append(low)
        upper.append(high)
        walk.replace(source, low, high, graph)
        walk.replace(number, first, last, graph)
        walk.pass_nonlinear(number, graph)
    return LayerBounds(
        net, inputs, tuple(lower), tuple(upper), tuple(pieces), empty,
        tuple(lines[layer.node] for layer in net.layers), tuple(kept), walk,
        {i: v for i, v in lines.items() if i not in layers and isinstance(v, UnitLines)},
    )  # fmt: skip


def block_size(net: Engine, samples: int, memory: int) -> int:
    """Functions that fit into a block of memory; a pass holds some eight arrays of a layer."""
    widths = [math.prod(node.shape) for node in net.graph.nodes]
    widths += [layer.units * layer.slots for layer in net.layers]
    return max(1, memory // (8 * 8 * max(widths) * max(1, samples)))


def _check(net: Engine, inputs: InputSet, allowed: Allowed | None, known: Known | None) -> None:
    """Refuse what does not fit the network."""
    if inputs.low.shape[1] != net.input_size:
        raise InputError(
            f"inputs: got sets in {inputs.low.shape[1]} dimensions, but the network has "
            f"{net.input_size} inputs"
        )
    n = len(inputs)
    if allowed is not None:
        expected = [(n, layer.units, layer.pieces) for layer in net.layers]
        if [tuple(a.shape) for a in allowed] != expected:
            raise InputError(
                f"allowed: got shapes {[tuple(a.shape) for a in allowed]}, expected one bool "
                f"tensor (n, units, pieces) per layer: {expected}"
            )
    if known is not None:
        sizes = [(n, net.graph.nodes[net.graph.nodes[k.node].inputs[0]].size) for k in net.layers]
        for side in known:
            if [tuple(v.shape) for v in side] != sizes:
                raise InputError(
                    f"known: got shapes {[tuple(v.shape) for v in side]}, expected one tensor "
                    f"(n, size) per layer: {sizes}"
                )


def _smooth_layer(
    net: Engine, walk: Walk, lines: Lines, number: int, c: Constants, rule: Rule, pull: bool,
    memory: int,
) -> tuple[UnitLines, torch.Tensor]:  # fmt: skip
    """The lines of a smooth layer, and the samples whose bounds crossed; the walk passes it."""
    node = net.graph.nodes[number]
    assert isinstance(node.op, Smooth)
    source = node.inputs[0]
    low, high = walk.low[source].flatten(1), walk.high[source].flatten(1)
    if pull:
        every = torch.arange(low.shape[1], device=low.device)
        found = _pull_units(net, walk, lines, source, every, c, memory)
        low, high = torch.maximum(low, found[0]), torch.minimum(high, found[1])
    low, high, crossed = _ordered(low, high)
    walk.replace(source, low, high, net.graph)
    walk.replace(number, *smooth_values(node.op, low, high), net.graph)
    walk.pass_nonlinear(number, net.graph)
    return smooth_lines(node.op, low, high, rule), crossed


def _piecewise_layer(
    graph: Graph,
    layer: Layer,
    low: torch.Tensor,
    high: torch.Tensor,
    allowed: torch.Tensor | None,
    c: Constants,
) -> Corners:
    """The corners of a layer of piecewise-linear units."""
    return corners(graph.nodes[layer.node], low, high, allowed, c)


def _window_layer(
    graph: Graph,
    layer: Layer,
    low: torch.Tensor,
    high: torch.Tensor,
    allowed: torch.Tensor | None,
    c: Constants,
) -> tuple[torch.Tensor, torch.Tensor, Windows]:
    """Bounds tightened by the allowed winners, and the windows on them."""
    op = graph.nodes[layer.node].op
    assert isinstance(op, Max)
    low, high = restrict(low, high, c[op.index], allowed)
    return low, high, windows(low, high, c[op.index], allowed)


def _worth_pulling(
    graph: Graph,
    layer: Layer,
    low: torch.Tensor,
    high: torch.Tensor,
    allowed: torch.Tensor | None,
    c: Constants,
    skip_decided: bool,
) -> torch.Tensor:
    """Positions of a layer's reads that some sample's bounds leave undecided: int64 (m,)."""
    low, high, _ = _ordered(low.detach(), high.detach())
    op = graph.nodes[layer.node].op
    if isinstance(op, Max):
        index = c[op.index]
        _, _, state = _window_layer(graph, layer, low, high, allowed, c)
        open_windows = (state.pieces.sum(dim=2) > 1).any(dim=0)
        read = index[open_windows] if skip_decided else index
        found: torch.Tensor = torch.unique(read[read >= 0])
        return found
    if not skip_decided:
        return torch.arange(low.shape[1], device=low.device)
    pieces = _piecewise_layer(graph, layer, low, high, allowed, c).pieces
    return (pieces.sum(dim=2) > 1).any(dim=0).nonzero().flatten()


def _pull_units(
    net: Engine,
    walk: Walk,
    lines: Lines,
    source: int,
    chosen: torch.Tensor,
    c: Constants,
    memory: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """CROWN bounds of some values of a node: two tensors (n, chosen)."""
    size, inputs = net.graph.nodes[source].size, walk.inputs
    block = max(1, block_size(net, len(inputs), memory) // 2)
    lows, highs = [], []
    for own in torch.split(chosen, block):
        unit = torch.zeros(1, len(own), size, dtype=inputs.low.dtype, device=inputs.low.device)
        unit.scatter_(2, own[None, :, None], 1.0)
        pulled = pull_back(net.graph, walk, lines, source, torch.cat([unit, -unit], 1), c)
        found = lower_values(inputs, pulled.a, pulled.offset, pulled.error)
        lows.append(found[:, : len(own)])
        highs.append(-found[:, len(own) :])
    return torch.cat(lows, 1), torch.cat(highs, 1)


def lower_values(
    inputs: InputSet, a: torch.Tensor, offset: torch.Tensor, error: torch.Tensor
) -> torch.Tensor:
    """Lower bounds of pulled functions over the input sets: (n, functions)."""
    value = below(inputs.least(a).value + sound_offset(offset, error))
    return torch.where(torch.isnan(value), -torch.inf, value)


def sound_offset(offset: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
    """An offset minus its error, rounded downwards; -inf where it is undefined."""
    lowered = below(offset - SLACK * error)
    return torch.where(torch.isnan(lowered), -torch.inf, lowered)


def _ordered(
    low: torch.Tensor, high: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Bounds in order, and the samples where they had crossed (there is no such input)."""
    crossed = low > high
    if not bool(crossed.any()):
        return low, high, crossed.any(dim=1)
    return torch.minimum(low, high), torch.maximum(low, high), crossed.any(dim=1)
