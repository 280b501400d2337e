"""Interval bounds of every node, and what rounding can cost a function pulled back through it.

A walk goes forward through the graph and keeps, per node, bounds of its values over each input
set, rounded outwards.  Beside them stands the node's `noise`: if a function has coefficients
``a`` on the node's outputs, then pulling it back through the node in floating point changes
its value, anywhere in the set, by at most ``sum |a| noise + lost``.  For an operation
``y = W x + b`` with the computed ``fl(a W) = a W + E`` and ``|E| <= gamma |a| |W|``,

    |a y - fl(a W) x - fl(a b)| <= sum_i |a_i| (gamma_back |W| |x| + gamma_sum |b|)_i,

so the bounds of ``|x|`` over the set, tightened by CROWN as the walk goes on, are all that a
rigorous bound needs: no second pass over absolute values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from polytope.bounds.inputs import InputSet
from polytope.bounds.linear_nodes import constant_part, terms_ahead, terms_back
from polytope.bounds.rounding import SLACK, above, below, gamma
from polytope.network.engine import Constants, apply
from polytope.network.ir import (
    Affine,
    Concat,
    Conv,
    Gather,
    Graph,
    Linear,
    Node,
    Sum,
)

#: A linear operation with changed coefficients.
Part = tuple[Node, Constants]


@dataclass(frozen=True, eq=False)
class Walk:
    """Bounds of all nodes that a walk has reached.

    Attributes
    ----------
    inputs : InputSet
        n sets.
    low, high : dict of tensor (n, *node.shape)
        Bounds of each node's values, by node.
    noise : dict of tensor (n, *node.shape)
        The rounding of a function pulled back through the node, per unit of coefficient.
    lost : dict of tensor (n,)
        What underflow in the node can cost, whatever the coefficients.
    """

    inputs: InputSet
    low: dict[int, torch.Tensor] = field(default_factory=dict)
    high: dict[int, torch.Tensor] = field(default_factory=dict)
    noise: dict[int, torch.Tensor] = field(default_factory=dict)
    lost: dict[int, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def start(cls, graph: Graph, inputs: InputSet) -> Walk:
        """A walk at the input node."""
        walk = cls(inputs)
        shape = (len(inputs), *graph.input_shape)
        walk.low[0], walk.high[0] = inputs.low.reshape(shape), inputs.high.reshape(shape)
        return walk

    def magnitude(self, node: int) -> torch.Tensor:
        """The largest absolute values of a node: (n, *shape); no gradient."""
        return torch.maximum(self.low[node].detach().abs(), self.high[node].detach().abs())

    def pass_linear(self, number: int, graph: Graph, c: Constants) -> None:
        """Bounds and noise of a linear node."""
        node = graph.nodes[number]
        lows, highs = [self.low[i] for i in node.inputs], [self.high[i] for i in node.inputs]
        sizes = [self.magnitude(i) for i in node.inputs]
        if isinstance(node.op, Gather | Concat):
            self.low[number], self.high[number] = (apply(node, v, c) for v in (lows, highs))
        else:
            self.low[number], self.high[number] = _affine_bounds(node, lows, highs, sizes, c)
        self._record_noise(number, graph, sizes, c)

    def _record_noise(
        self, number: int, graph: Graph, sizes: list[torch.Tensor], c: Constants
    ) -> None:
        node = graph.nodes[number]
        dtype = sizes[0].dtype
        rounds_constants = int(dtype != torch.float64)
        back, constant = terms_back(node, c), constant_part(node, c)
        noise = self.low[number].new_zeros((len(self.inputs), *node.shape))
        if back:
            carried = _absolute_sums(node, sizes, c)
            noise = noise + gamma(back + rounds_constants, dtype) * carried
        if constant is not None:
            terms = math.prod(node.shape) + len(graph.nodes) + 8
            noise = noise + gamma(terms, dtype) * constant.detach().abs()
        self.noise[number] = noise
        self._record_loss(number, graph, terms_ahead(node, c) + 2)

    def pass_nonlinear(self, number: int, graph: Graph) -> None:
        """What underflow can cost a function pulled back through a nonlinear node."""
        windows = math.prod(graph.nodes[graph.nodes[number].inputs[0]].shape)
        self._record_loss(number, graph, windows + 4)

    def replace(self, number: int, low: torch.Tensor, high: torch.Tensor, graph: Graph) -> None:
        """Take the given bounds (n, size) for those of a node."""
        shape = (len(self.inputs), *graph.nodes[number].shape)
        self.low[number], self.high[number] = low.reshape(shape), high.reshape(shape)

    def _record_loss(self, number: int, graph: Graph, terms: int) -> None:
        node = graph.nodes[number]
        sizes = [torch.nan_to_num(self.magnitude(i), posinf=0.0) for i in node.inputs]
        largest = max((float(s.max()) for s in sizes if s.numel()), default=0.0)
        cost = 4 * torch.finfo(sizes[0].dtype).tiny * math.prod(node.shape) * terms * (largest + 1)
        self.lost[number] = sizes[0].new_full((len(self.inputs),), cost)


def _affine_bounds(
    node: Node,
    lows: list[torch.Tensor],
    highs: list[torch.Tensor],
    sizes: list[torch.Tensor],
    c: Constants,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Interval bounds of an operation that computes, rounded outwards."""
    plus, minus = part_of(node, c, 1), part_of(node, c, -1)
    constant = constant_part(node, c)
    endless = any(bool(torch.isinf(s).any()) for s in sizes)
    low_ends, high_ends = lows, highs
    if endless:
        low_ends, high_ends = [_finite(v) for v in lows], [_finite(v) for v in highs]
    low = _sums(plus, low_ends) - _sums(minus, high_ends)
    high = _sums(plus, high_ends) - _sums(minus, low_ends)
    carried = _absolute_sums(node, [_finite(s) for s in sizes] if endless else sizes, c)
    total = carried
    if constant is not None:
        low, high, total = low + constant, high + constant, carried + constant.detach().abs()
    terms = terms_ahead(node, c) + 2 + int(low.dtype != torch.float64)
    tiny = 4 * terms * torch.finfo(low.dtype).tiny
    error = SLACK * gamma(terms, low.dtype) * total
    if bool((carried == 0).any()):
        alive = [(s > 0).to(s.dtype) for s in sizes]
        reached = _absolute_sums(node, alive, _signs(node, c)) > 0
        error = error + torch.where(reached, tiny, 0.0)
    else:
        error = error + tiny
    low, high = below(low - error), above(high + error)
    if endless:
        down, up = ([torch.isinf(v).to(v.dtype) for v in side] for side in (lows, highs))
        signs = [part and (part[0], _signs(*part)) for part in (plus, minus)]
        falls = _sums(signs[0], down) + _sums(signs[1], up) > 0
        rises = _sums(signs[0], up) + _sums(signs[1], down) > 0
        low, high = torch.where(falls, -torch.inf, low), torch.where(rises, torch.inf, high)
    low, high = (v.expand(len(sizes[0]), *node.shape) for v in (low, high))
    low = torch.where(torch.isnan(low), -torch.inf, low)
    return low, torch.where(torch.isnan(high), torch.inf, high)


def _finite(v: torch.Tensor) -> torch.Tensor:
    return torch.where(torch.isinf(v), torch.zeros_like(v), v)


def _absolute_sums(node: Node, sizes: list[torch.Tensor], c: Constants) -> torch.Tensor:
    """``|W| |x|`` of an operation ``W x + b``; infinite sizes count only where W is not 0."""
    part = part_of(node, c, 0)
    endless = [torch.isinf(s) for s in sizes]
    if not any(bool(e.any()) for e in endless):
        return _sums(part, sizes).expand(len(sizes[0]), *node.shape)
    finite = _sums(part, [_finite(s) for s in sizes])
    flags = [e.to(s.dtype) for e, s in zip(endless, sizes, strict=True)]
    reached = _sums(part and (part[0], _signs(*part)), flags) > 0
    return torch.where(reached, torch.inf, finite).expand(len(sizes[0]), *node.shape)


def part_of(node: Node, c: Constants, sign: int) -> Part | None:
    """The operation with the positive (1), negated negative (-1) or absolute (0) coefficients.

    None if no coefficient is negative.
    """
    op = node.op
    if isinstance(op, Sum):
        kept = tuple(abs(k) if sign == 0 else max(sign * k, 0) for k in op.coefficients)
        return (Node(Sum(kept), node.inputs, node.shape, node.name), c) if any(kept) else None
    key = op.weight if isinstance(op, Linear | Conv) else None
    key = op.scale if isinstance(op, Affine) else key
    if key is None:
        return (node, c) if sign >= 0 else None
    weight = c[key].detach().abs() if sign == 0 else (sign * c[key]).clamp(min=0)
    return node, {**c, key: weight}


def _sums(part: Part | None, values: list[torch.Tensor]) -> torch.Tensor:
    """The linear part of an operation; a scalar 0 for None."""
    if part is None:
        return values[0].new_zeros(())
    return apply(part[0], values, part[1], bias=False)


def _signs(node: Node, c: Constants) -> Constants:
    """Constants with the signs of the weights in their place, so that nothing underflows."""
    op = node.op
    if isinstance(op, Linear | Conv):
        return {**c, op.weight: c[op.weight].sign()}
    if isinstance(op, Affine) and op.scale is not None:
        return {**c, op.scale: c[op.scale].sign()}
    return c
