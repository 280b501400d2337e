"""The dual network of Wong and Kolter over a batch, differentiable in the network's constants.

Source: arXiv 1711.00851, Theorem 1 and Algorithm 1.  Every open unit is bounded by two parallel
lines, for a ReLU on [l, u] of slope ``u / (u - l)``.  One backward pass then bounds a function
from both sides: its coefficients on the input are the same, only the offsets differ.  For other
piecewise-linear units the lines are parallel to the hull's upper edge over the middle.

This is for training: rounding is not accounted for. What proves is `polytope.bounds.dual`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch.linalg import vector_norm

from polytope.bounds.linear_nodes import constant_part, pull
from polytope.bounds.relaxation import corners, default_slopes, unit_lines
from polytope.network.engine import Engine
from polytope.network.ir import Layer, Linear
from polytope.training.captured import Captured
from solvers.norms import dual_exponent

Constants = Mapping[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Around:
    """The sets around some points: l_p balls, or boxes.

    Attributes
    ----------
    middle : tensor (n, d)
        Centres.
    radius : float or tensor (n, d)
        Of the balls, or half of the boxes' sides (with p = inf).
    p : float
    """

    middle: torch.Tensor
    radius: float | torch.Tensor
    p: float

    def at(self, part: slice) -> Around:
        """The sets around some of the points."""
        radius = self.radius if isinstance(self.radius, float) else self.radius[part]
        return Around(self.middle[part], radius, self.p)

    def values(self, a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Middle value and half of the spread of ``a x``: each (n, functions) or (1, functions).

        Parameters
        ----------
        a : tensor (n or 1, functions, d)
        """
        value = _product(a, self.middle)
        if isinstance(self.radius, float):
            return value, self.radius * vector_norm(a, dual_exponent(self.p), dim=2)
        return value, _product(a.abs(), self.radius)


@dataclass(frozen=True, eq=False)
class ParallelLines:
    """``slope z + middle -+ half`` below and above each unit of a layer: (n, units)."""

    slope: torch.Tensor
    middle: torch.Tensor
    half: torch.Tensor


@dataclass(frozen=True, eq=False)
class DualNetwork:
    """The lines of every layer, made front to back, each from the bounds of what it reads."""

    captured: Captured
    around: Around
    constants: Constants
    _lines: dict[int, ParallelLines] = field(default_factory=dict)

    def __post_init__(self) -> None:
        nodes = self.captured.net.graph.nodes
        known: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for layer in self.captured.net.layers:
            source = nodes[layer.node].inputs[0]
            if source not in known:
                known[source] = self._bounds_of_all(source)
            self._lines[layer.node] = self._line(layer, *known[source])

    @property
    def _net(self) -> Engine:
        return self.captured.net

    def _bounds_of_all(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Bounds of all values of a node: two tensors (n, size).

        Behind a fully connected layer its own rows are taken, and no product with one-hot
        vectors is made.
        """
        node, like = self._net.graph.nodes[number], self.around.middle
        if isinstance(node.op, Linear) and len(node.shape) == 1:
            low, high = self.bounds(node.inputs[0], self.constants[node.op.weight].unsqueeze(0))
            bias = constant_part(node, self.constants)
            return (low, high) if bias is None else (low + bias, high + bias)
        one = torch.eye(node.size, dtype=like.dtype, device=like.device)
        return self.bounds(number, one.unsqueeze(0))

    def bounds(self, start: int, a: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Lower and upper bounds of functions of a node: two tensors (n, functions).

        Parameters
        ----------
        start : int
            All layers before it have their lines.
        a : tensor (n or 1, functions, size of the node)
        """
        nodes, c, rows = self._net.graph.nodes, self.constants, a.shape[1]
        pending = {start: a.reshape(len(a), rows, *nodes[start].shape)}
        middle = spread = a.new_zeros(1, rows)
        for number in range(start, 0, -1):
            here = pending.pop(number, None)
            if here is None:
                continue
            node, flat = nodes[number], here.flatten(2)
            if number in self._lines:
                line = self._lines[number]
                middle = middle + _product(flat, line.middle)
                spread = spread + _product(flat.abs(), line.half)
                parts = [flat * line.slope.unsqueeze(1)]
            else:
                constant = constant_part(node, c)
                if constant is not None:
                    middle = middle + _product(flat, constant.expand(node.shape).reshape(1, -1))
                shapes = [nodes[i].shape for i in node.inputs]
                parts = pull(node, here.reshape(-1, *node.shape), shapes, c)
            for source, part in zip(node.inputs, parts, strict=True):
                shaped = part.reshape(-1, rows, *nodes[source].shape)
                pending[source] = pending[source] + shaped if source in pending else shaped
        if 0 in pending:
            value, half = self.around.values(pending[0].flatten(2))
            middle, spread = middle + value, spread + half
        size = (len(self.around.middle), rows)
        return (middle - spread).expand(size), (middle + spread).expand(size)

    def _line(self, layer: Layer, low: torch.Tensor, high: torch.Tensor) -> ParallelLines:
        """The lines of a layer whose units read values between these bounds."""
        if layer.node in self.captured.plain:
            opened = (low < 0) & (high > 0)
            width = torch.where(opened, high - low, torch.ones_like(low))
            slope = torch.where(opened, high / width, (low >= 0).to(low.dtype))
            half = torch.where(opened, -slope * low / 2, torch.zeros_like(low))
            return ParallelLines(slope, half, half)
        at = corners(self._net.graph.nodes[layer.node], low, high, None, self.constants)
        lines = unit_lines(at, *default_slopes(at, "parallel"))
        below, above = lines.lower_intercept, lines.upper_intercept
        return ParallelLines(lines.upper_slope, (above + below) / 2, (above - below) / 2)


def dual_bytes(net: Engine, itemsize: int) -> int:
    """Bytes that one point takes, with the graph: coefficients of all units on all before them.

    Before the first layer they are the same for all points. Room for three arrays of each.
    """
    nodes = net.graph.nodes
    before, total = 0, 0
    sources = {nodes[layer.node].inputs[0] for layer in net.layers[1:]}
    for number, node in enumerate(nodes):
        before += node.size
        if number in sources:
            total += node.size * before
    return 3 * itemsize * (total + (net.output_size + 8) * before)


def _product(a: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """``sum_i a[n, f, i] v[n, i]``, where either may have one row for all: (n or 1, f)."""
    if len(a) == 1:
        return v @ a[0].T
    if len(v) == 1:
        return a @ v[0]
    return torch.matmul(a, v.unsqueeze(2)).squeeze(2)
