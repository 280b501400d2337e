"""Pulling linear functions of a node back to the input through linear bounds of every layer.

The functions arrive as coefficients on one node and leave as coefficients on the input, an
offset, and a bound on what rounding changed.  A batch axis of 1 is kept as long as the
coefficients do not depend on the sample, so shared weights are multiplied once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from polytope.bounds.interval import Walk
from polytope.bounds.linear_nodes import constant_part, pull, repeats
from polytope.bounds.relaxation import UnitLines
from polytope.bounds.rounding import SLACK, contract, gamma
from polytope.bounds.windows import WindowLines
from polytope.network.engine import Constants
from polytope.network.ir import Graph, Max, Shape

#: The linear bounds of each nonlinear node.
Lines = Mapping[int, UnitLines | WindowLines]


@dataclass(frozen=True, eq=False)
class Multipliers:
    """Multipliers of the intervals that a layer's allowed pieces force its units into.

    For ``t_low <= z <= t_high`` and ``m >= 0`` the function
    ``f - m_low (z - t_low) - m_high (t_high - z)`` is below f wherever the constraints hold.

    Attributes
    ----------
    low, high : tensor (n, functions, units)
        At least 0; 0 where there is no constraint.
    low_at, high_at : tensor (n, units)
        The ends; finite (0 where there is no constraint).
    """

    low: torch.Tensor
    high: torch.Tensor
    low_at: torch.Tensor
    high_at: torch.Tensor

    def take(self, functions: slice) -> Multipliers:
        """The multipliers of some of the functions."""
        return Multipliers(
            self.low[:, functions], self.high[:, functions], self.low_at, self.high_at
        )


@dataclass(frozen=True, eq=False)
class Pulled:
    """Functions at the input: ``f >= a x + offset - error`` on the whole set.

    Attributes
    ----------
    a : tensor (n or 1, functions, d)
    offset, error : tensor (n, functions)
    reached : dict of tensor (n or 1, functions, units)
        Coefficients on the outputs of each nonlinear node.
    """

    a: torch.Tensor
    offset: torch.Tensor
    error: torch.Tensor
    reached: dict[int, torch.Tensor]


def pull_back(
    graph: Graph,
    walk: Walk,
    lines: Lines,
    start: int,
    a: torch.Tensor,
    c: Constants,
    multipliers: Mapping[int, Multipliers] | None = None,
) -> Pulled:
    """Lower bounds of functions of a node as functions of the input.

    Parameters
    ----------
    graph : Graph
    walk : Walk
        Has reached `start`.
    lines : mapping
        Of every nonlinear node before `start`.
    start : int
        The node on whose values the functions are.
    a : tensor (n or 1, functions, size of the node)
    c : constants
    multipliers : mapping of node to Multipliers, optional
    """
    pending = {start: _shaped(a, graph.nodes[start].shape)}
    total = a.new_zeros(len(walk.inputs), a.shape[1])
    error = torch.zeros_like(total)
    reached: dict[int, torch.Tensor] = {}
    for number in range(start, 0, -1):
        here = pending.pop(number, None)
        if here is None:
            continue
        node = graph.nodes[number]
        flat = here.flatten(2)
        if number in lines:
            reached[number] = flat
            pushed, constant, rounded = _through_lines(graph, number, walk, lines[number], flat, c)
            if multipliers is not None and number in multipliers:
                pushed, constant, more = _with_multipliers(
                    pushed, constant, multipliers[number], walk.magnitude(node.inputs[0]), graph
                )
                rounded = rounded + more
            parts = [_shaped(pushed, graph.nodes[node.inputs[0]].shape)]
        else:
            constant, rounded = _constants_of(graph, number, walk, flat, c)
            shapes: list[Shape] = [graph.nodes[i].shape for i in node.inputs]
            pulled = pull(node, here.reshape(-1, *node.shape), shapes, c)
            parts = [_shaped(v, s, here.shape[:2]) for v, s in zip(pulled, shapes, strict=True)]
        total, error = total + constant, error + rounded + walk.lost[number][:, None]
        for source, part in zip(node.inputs, parts, strict=True):
            if source in pending:
                part = pending[source] + part
                sizes = walk.magnitude(source).flatten(1)
                unit = gamma(1, part.dtype)
                error = error + unit * contract(part.detach().abs().flatten(2), sizes)
            pending[source] = part
    final = pending.get(0)
    flat = a.new_zeros(1, a.shape[1], graph.nodes[0].size) if final is None else final.flatten(2)
    return Pulled(flat, total, SLACK * error.detach(), reached)


def _shaped(a: torch.Tensor, shape: Shape, rows: tuple[int, ...] | None = None) -> torch.Tensor:
    """Coefficients (n, functions, *shape); a scalar node counts as one of shape (1,)."""
    return a.reshape(*(a.shape[:2] if rows is None else rows), *(shape or (1,)))


def _constants_of(
    graph: Graph, number: int, walk: Walk, flat: torch.Tensor, c: Constants
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a linear node adds to the offset and to the error: (n, functions) each."""
    node = graph.nodes[number]
    rounded = contract(flat.detach().abs(), walk.noise[number].flatten(1))
    constant = constant_part(node, c)
    if constant is None:
        return torch.zeros_like(rounded), rounded
    whole = constant.expand(node.shape).reshape(1, -1)
    return contract(flat, whole), rounded


def _through_lines(
    graph: Graph,
    number: int,
    walk: Walk,
    line: UnitLines | WindowLines,
    flat: torch.Tensor,
    c: Constants,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Coefficients before a nonlinear node, and its parts of the offset and of the error."""
    node = graph.nodes[number]
    sizes = walk.magnitude(node.inputs[0]).flatten(1)
    up, down = flat.clamp(min=0), flat.clamp(max=0)
    weight = flat.detach().abs()
    terms = gamma(math.prod(node.shape) + len(graph.nodes) + 8, flat.dtype)
    if isinstance(line, UnitLines):
        many = line.lower_slope.ndim == 3
        low, high = (s if many else s[:, None] for s in (line.lower_slope, line.upper_slope))
        pushed = up * low + down * high
        offset = contract(up, line.lower_intercept) + contract(down, line.upper_intercept)
        steep = torch.maximum(line.lower_slope.abs(), line.upper_slope.abs()).detach()
        sizes = sizes[:, None] if many else sizes
        moved = torch.where(steep == 0, torch.zeros_like(steep), steep * sizes)
        constant = _size(line.lower_intercept) + _size(line.upper_intercept)
        noise = gamma(2, flat.dtype) * moved + terms * constant
        return pushed, offset, contract(weight, noise)
    op = node.op
    assert isinstance(op, Max)
    index = c[op.index]
    lower, upper = (w[:, None] for w in (line.lower_weights, line.upper_weights))
    each = up[..., None] * lower + down[..., None] * upper
    kept = index.flatten() >= 0
    size = graph.nodes[node.inputs[0]].size
    pushed = each.new_zeros(*each.shape[:2], size).index_add(
        2, index.flatten()[kept], each.flatten(2)[..., kept]
    )
    offset = contract(down, line.upper_intercept)
    steep = torch.maximum(line.lower_weights.abs(), line.upper_weights.abs()).detach()
    read = sizes[:, index.clamp(min=0)]
    moved = torch.where(steep == 0, torch.zeros_like(steep), steep * read).sum(dim=2)
    noise = gamma(2 + repeats(index), flat.dtype) * moved + terms * _size(line.upper_intercept)
    return pushed, offset, contract(weight, noise)


def _size(intercept: torch.Tensor) -> torch.Tensor:
    """Absolute values; 0 where infinite (the offset is infinite there by itself)."""
    size = intercept.detach().abs()
    return torch.where(torch.isinf(size), torch.zeros_like(size), size)


def _with_multipliers(
    pushed: torch.Tensor,
    offset: torch.Tensor,
    multiplier: Multipliers,
    sizes: torch.Tensor,
    graph: Graph,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Subtract the multipliers times their constraints."""
    low, high = multiplier.low, multiplier.high
    moved = pushed - low + high
    offset = offset + contract(low, multiplier.low_at) - contract(high, multiplier.high_at)
    total = (pushed.abs() + low + high).detach()
    used = ((low > 0) | (high > 0)).detach()
    error = gamma(3, pushed.dtype) * contract(torch.where(used, total, 0.0), sizes.flatten(1))
    terms = gamma(pushed.shape[2] + len(graph.nodes) + 8, pushed.dtype)
    ends = torch.maximum(multiplier.low_at.abs(), multiplier.high_at.abs())
    return moved, offset, error + terms * contract((low + high).detach(), ends)
