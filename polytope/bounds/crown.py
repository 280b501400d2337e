"""CROWN lower bounds of linear functions of the outputs, and what a proof of them needs.

The bounds are rigorous in float64, as layers.py says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from polytope.bounds.backward import Multipliers, Pulled, pull_back
from polytope.bounds.inputs import InputSet
from polytope.bounds.layers import (
    MEMORY,
    Allowed,
    Known,
    LayerBounds,
    block_size,
    layer_bounds,
    sound_offset,
)
from polytope.bounds.relaxation import Rule, UnitLines
from polytope.bounds.rounding import below, gamma
from polytope.bounds.windows import WindowLines
from polytope.errors import InputError
from polytope.network.engine import Constants, Engine


@dataclass(frozen=True, eq=False)
class FunctionBounds:
    """Lower bounds of ``C f(x) + d`` over n input sets.

    Attributes
    ----------
    lower : tensor (n, functions)
        Bounds; +inf for empty samples.
    a, offset : tensor (n, functions, inputs) and (n, functions)
        ``C f(x) + d >= a x + offset`` for all x of the set with allowed pieces, exactly.
    minimiser : tensor (n, functions, inputs)
        Where ``a x`` is least (within rounding): a candidate for an adversarial point.
    input_multiplier : tensor (n, functions)
        Of the ball against the box (see inputs.py).
    coefficients : tuple of tensor (n, functions, units)
        Per layer, what the function weighs the units' outputs with: positive ones used the
        lower line, negative ones the upper one.
    lines : tuple of UnitLines or WindowLines
        Per layer, the lines used.
    multipliers : tuple of Multipliers or None
        Per layer, those of the pieces' constraints; None if not used.
    """

    lower: torch.Tensor
    a: torch.Tensor
    offset: torch.Tensor
    minimiser: torch.Tensor
    input_multiplier: torch.Tensor
    coefficients: tuple[torch.Tensor, ...]
    lines: tuple[UnitLines | WindowLines, ...]
    multipliers: tuple[Multipliers | None, ...]


def function_bounds(
    bounds: LayerBounds,
    C: torch.Tensor,
    d: torch.Tensor | None = None,
    lines: Sequence[UnitLines | WindowLines] | None = None,
    multipliers: Sequence[Multipliers | None] | None = None,
    memory: int = MEMORY,
    constants: Constants | None = None,
) -> FunctionBounds:
    """Lower bounds of ``C f(x) + d`` over the inputs, by one backward pass.

    Parameters
    ----------
    bounds : LayerBounds
    C : tensor (functions, outputs) or (n, functions, outputs)
    d : tensor (functions,) or (n, functions), optional
    lines : sequence of UnitLines or WindowLines, optional
        Per layer; by default those of `bounds`.  `relaxation.unit_lines` makes valid ones of
        any slopes.
    multipliers : sequence of Multipliers or None, optional
        Per layer, for constraints that `bounds` was given as allowed pieces.
    memory : int
        Bytes for one block of functions.
    constants : mapping, optional
        Constants that carry gradients.

    Returns
    -------
    FunctionBounds

    Raises
    ------
    InputError
        If C or d do not fit the outputs.
    """
    net, inputs = bounds.net, bounds.inputs
    c = constants if constants is not None else net.constants(inputs.low.dtype, inputs.low.device)
    a = C if C.ndim == 3 else C.unsqueeze(0)
    if a.ndim != 3 or a.shape[2] != net.output_size or a.shape[0] not in (1, len(inputs)):
        raise InputError(
            f"C: got shape {tuple(C.shape)}, expected (functions, {net.output_size}) or "
            f"({len(inputs)}, functions, {net.output_size})"
        )
    used = bounds.lines if lines is None else tuple(lines)
    extra = (None,) * len(used) if multipliers is None else tuple(multipliers)
    last = len(net.graph.nodes) - 1
    block = block_size(net, len(inputs), memory)
    parts = []
    for i in range(0, a.shape[1], block):
        own = slice(i, i + block)
        table: dict[int, UnitLines | WindowLines] = dict(bounds.smooth)
        table.update((layer.node, v.take(own)) for layer, v in zip(net.layers, used, strict=True))
        held = {
            layer.node: v.take(own)
            for layer, v in zip(net.layers, extra, strict=True)
            if v is not None
        }
        parts.append(pull_back(net.graph, bounds.walk, table, last, a[:, own], c, held))
    return _finish(bounds, parts, a.shape[1], d, used, extra)


def crown(
    net: Engine,
    inputs: InputSet,
    C: torch.Tensor,
    d: torch.Tensor | None = None,
    allowed: Allowed | None = None,
    known: Known | None = None,
    rule: Rule = "adaptive",
    constants: Constants | None = None,
) -> tuple[LayerBounds, FunctionBounds]:
    """`layer_bounds` and then `function_bounds`; see there."""
    bounds = layer_bounds(net, inputs, allowed, known, rule=rule, constants=constants)
    return bounds, function_bounds(bounds, C, d, constants=constants)


def _finish(
    bounds: LayerBounds,
    parts: list[Pulled],
    functions: int,
    d: torch.Tensor | None,
    lines: tuple[UnitLines | WindowLines, ...],
    multipliers: tuple[Multipliers | None, ...],
) -> FunctionBounds:
    """Put the blocks together and minimise over the input sets."""
    n = len(bounds.inputs)
    like = bounds.inputs.low
    a = torch.cat([like.new_zeros(n, 0, like.shape[1]), *(p.a.expand(n, -1, -1) for p in parts)], 1)
    none = like.new_zeros(n, 0)
    offset = torch.cat([none, *(p.offset for p in parts)], 1)
    error = torch.cat([none, *(p.error for p in parts)], 1)
    if d is not None:
        if d.shape not in ((functions,), (n, functions)):
            raise InputError(
                f"d: got shape {tuple(d.shape)}, expected ({functions},) or ({n}, {functions})"
            )
        added = len(bounds.net.graph.nodes) + 4
        error = error + gamma(added, like.dtype) * d.detach().abs()
        offset = offset + d
    offset = sound_offset(offset, error)
    least = bounds.inputs.least(a, points=True)
    assert least.point is not None
    lower = below(least.value + offset)
    lower = torch.where(torch.isnan(lower), -torch.inf, lower)
    lower = torch.where(bounds.empty[:, None], torch.inf, lower)
    reached = []
    for layer in bounds.net.layers:
        blank = like.new_zeros(n, 0, layer.units)
        own = [
            p.reached[layer.node].expand(n, -1, -1)
            if layer.node in p.reached
            else like.new_zeros(n, p.a.shape[1], layer.units)
            for p in parts
        ]
        reached.append(torch.cat([blank, *own], 1))
    return FunctionBounds(
        lower, a, offset, least.point, least.multiplier, tuple(reached), lines, multipliers
    )
