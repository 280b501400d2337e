"""Check that a graph read from a file is one: every field, before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NoReturn

import numpy as np

from polytope.errors import FileProblem
from polytope.network.build import conv_shape
from polytope.network.ir import (
    Affine,
    Concat,
    Conv,
    Gather,
    Graph,
    Input,
    Linear,
    Max,
    Node,
    Piecewise,
    Pool,
    Shape,
    Smooth,
    Sum,
)

#: Elements of one array: far above any network, far below an overflow of int64.
MAX_SIZE = 1 << 40
#: Axes of one array: numpy takes 64, and some are added on the way.
MAX_AXES = 32
#: Coefficients of a sum: whole numbers that float64 holds exactly.
MAX_COEFFICIENT = 1 << 53
#: Relative jump allowed where two pieces meet: the tables may have been rounded to float64.
CONTINUITY = 1e-9
#: Smooth activations, and the numbers of parameters each may have.
SMOOTH = {"sigmoid": (0,), "tanh": (0,), "atan": (0,), "softplus": (0, 2), "elu": (0, 1)}


def validate(graph: Graph) -> None:
    """Check the wiring, the shapes, the constants and the index ranges of a graph.

    The types of the fields are taken to be right (`polytope.network.store` sees to them).

    Raises
    ------
    FileProblem
        Naming the first node that is wrong, and how.
    """
    if not graph.nodes or not isinstance(graph.nodes[0].op, Input):
        raise FileProblem("the first node is not the input")
    for number, node in enumerate(graph.nodes):
        _Check(graph, number, node).run()


class _Check:
    """The checks of one node."""

    def __init__(self, graph: Graph, number: int, node: Node) -> None:
        self.graph = graph
        self.number = number
        self.node = node

    def fail(self, reason: str) -> NoReturn:
        node = self.node
        raise FileProblem(f"node {self.number} ('{node.name}', {type(node.op).__name__}) {reason}")

    def require(self, condition: bool, reason: str) -> None:
        if not condition:
            self.fail(reason)

    def run(self) -> None:
        node = self.node
        self.require(all(n >= 0 for n in node.shape), f"has a negative shape {node.shape}")
        self.require(
            len(node.shape) <= MAX_AXES and math.prod(node.shape) <= MAX_SIZE,
            "has a shape too large",
        )
        self.require(
            all(0 <= source < self.number for source in node.inputs),
            "reads nodes that do not stand before it",
        )
        match node.op:
            case Input():
                self.require(self.number == 0 and not node.inputs, "is a second input")
            case Linear() as op:
                self.linear(op)
            case Conv() as op:
                self.conv(op)
            case Affine() as op:
                self.affine(op)
            case Gather() as op:
                self.gather(op)
            case Concat():
                self.concat()
            case Sum() as op:
                self.sum(op)
            case Pool() as op:
                self.pool(op)
            case Piecewise() as op:
                self.piecewise(op)
            case Max() as op:
                self.max(op)
            case Smooth() as op:
                self.smooth(op)

    # What every check is made of ------------------------------------------------------------

    def sources(self) -> list[Node]:
        """The nodes that are read."""
        return [self.graph.nodes[source] for source in self.node.inputs]

    def source(self) -> Node:
        """The one node that is read."""
        self.require(len(self.node.inputs) == 1, f"reads {len(self.node.inputs)} nodes, not 1")
        return self.sources()[0]

    def array(self, key: str, kind: str, ndim: int | None = None) -> np.ndarray:
        """A finite constant of a kind ("f" or "i") and a number of axes."""
        if key not in self.graph.constants:
            self.fail(f"names a constant '{key}' that is not there")
        array = self.graph.constants[key]
        if array.dtype.kind != kind or (ndim is not None and array.ndim != ndim):
            self.fail(f"has a constant '{key}' of dtype {array.dtype} and shape {array.shape}")
        self.require(bool(np.isfinite(array).all()), f"has a constant '{key}' with NaN or infinity")
        return array

    def shape_is(self, shape: Sequence[int]) -> None:
        self.require(
            self.node.shape == tuple(shape),
            f"has shape {self.node.shape}, and its operation gives {tuple(shape)}",
        )

    def broadcasts(self, shape: Shape, what: str) -> None:
        """A constant's shape must broadcast to the node's."""
        try:
            fits = np.broadcast_shapes(shape, self.node.shape) == self.node.shape
        except ValueError:
            fits = False
        self.require(fits, f"has {what} of shape {shape} that do not fit {self.node.shape}")

    def indices(self, key: str, ndim: int) -> np.ndarray:
        """An index table: one entry or row per element, from -1 to the source's last."""
        index, size = self.array(key, "i", ndim), self.source().size
        self.require(
            len(index) == math.prod(self.node.shape),
            f"has {len(index)} rows of indices for shape {self.node.shape}",
        )
        inside = not index.size or (index.min() >= -1 and index.max() < size)
        self.require(inside, f"has indices outside its source of {size} elements")
        return index

    # One check per operation ----------------------------------------------------------------

    def linear(self, op: Linear) -> None:
        x, weight = self.source(), self.array(op.weight, "f", 2)
        self.require(x.shape[-1:] == weight.shape[1:], f"has a weight {weight.shape} for {x.shape}")
        self.shape_is((*x.shape[:-1], len(weight)))
        self.bias(op.bias, len(weight))

    def bias(self, key: str | None, size: int) -> None:
        if key is not None:
            shape = self.array(key, "f", 1).shape
            self.require(shape == (size,), f"has a bias of shape {shape}, not ({size},)")

    def conv(self, op: Conv) -> None:
        x, weight = self.source(), self.array(op.weight, "f")
        rank = weight.ndim - 2
        self.require(1 <= rank <= 3 and len(x.shape) == rank + 1, "has filters of a wrong rank")
        per_axis = (op.stride, op.padding, op.dilation)
        extra = op.output_padding
        self.require(
            all(len(numbers) == rank for numbers in per_axis)
            and all(0 <= n < MAX_SIZE for numbers in (*per_axis, extra) for n in numbers)
            and min(*op.stride, *op.dilation, op.groups) >= 1
            and len(extra) == (rank if op.transposed else 0),
            "has strides, paddings, dilations or groups out of range",
        )
        self.require(
            all(e < max(s, d) for e, s, d in zip(extra, op.stride, op.dilation, strict=False)),
            "has an output padding not below its stride or dilation",
        )
        channels = weight.shape[0] if op.transposed else weight.shape[1] * op.groups
        self.require(
            x.shape[0] == channels and weight.shape[0] % op.groups == 0,
            f"has filters {weight.shape} in {op.groups} group(s) for an input {x.shape}",
        )
        shape = conv_shape(op, weight.shape, x.shape[1:])
        self.shape_is(shape)
        self.require(min(shape) >= 1 and min(weight.shape) >= 1, "has a kernel that does not fit")
        self.bias(op.bias, shape[0])

    def affine(self, op: Affine) -> None:
        self.shape_is(self.source().shape)
        for key in (op.scale, op.shift):
            if key is not None:
                self.broadcasts(self.array(key, "f").shape, "constants")

    def gather(self, op: Gather) -> None:
        if op.index is not None:
            self.indices(op.index, 1)
        else:
            sizes = self.source().size, math.prod(self.node.shape)
            self.require(sizes[0] == sizes[1], f"reshapes {sizes[0]} elements to {sizes[1]}")

    def concat(self) -> None:
        self.require(bool(self.node.inputs), "reads no nodes")
        self.shape_is((sum(source.size for source in self.sources()),))

    def sum(self, op: Sum) -> None:
        self.require(
            len(op.coefficients) == len(self.node.inputs) >= 1, "has not one coefficient per input"
        )
        largest = max(abs(coefficient) for coefficient in op.coefficients)
        self.require(largest <= MAX_COEFFICIENT, "has a coefficient too large")
        for source in self.sources():
            self.shape_is(source.shape)

    def pool(self, op: Pool) -> None:
        rows = len(self.indices(op.index, 2))
        divisor = self.array(op.divisor, "i", 1)
        self.require(divisor.shape == (rows,), f"has {divisor.size} divisors for {rows} windows")
        self.require(bool((divisor >= 1).all()), "has a divisor below 1")

    def max(self, op: Max) -> None:
        index = self.indices(op.index, 2)
        self.require(bool((index >= 0).any(axis=1).all()), "has a window without candidates")

    def piecewise(self, op: Piecewise) -> None:
        self.shape_is(self.source().shape)
        tables = [self.array(k, "f") for k in (op.breakpoints, op.slopes, op.intercepts)]
        self.require(all(table.ndim >= 1 for table in tables), "has tables without an axis")
        breaks, slopes, intercepts = tables
        count = breaks.shape[-1]
        self.require(
            count >= 1 and slopes.shape[-1] == intercepts.shape[-1] == count + 1,
            f"has {count} breakpoints for {slopes.shape[-1]} slopes and "
            f"{intercepts.shape[-1]} intercepts",
        )
        for table in tables:
            self.broadcasts(table.shape[:-1], "tables")
        self.require(bool((np.diff(breaks) > 0).all()), "has breakpoints that do not increase")
        below = slopes[..., :-1] * breaks + intercepts[..., :-1]
        above = slopes[..., 1:] * breaks + intercepts[..., 1:]
        scale = np.maximum(1.0, np.maximum(np.abs(below), np.abs(above)))
        self.require(
            bool((np.abs(below - above) <= CONTINUITY * scale).all()), "has pieces that do not meet"
        )

    def smooth(self, op: Smooth) -> None:
        self.shape_is(self.source().shape)
        self.require(
            len(op.parameters) in SMOOTH.get(op.kind, ())
            and all(map(math.isfinite, op.parameters)),
            f"is an unknown function '{op.kind}' with {len(op.parameters)} parameters",
        )
