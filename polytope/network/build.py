"""A builder of graphs, shared by every reader of models (torch, ONNX, lists of layers).

Readers speak of *logical* shapes, which include a batch of one: a leading axis of length 1 is
the batch and is not part of the graph.  The builder checks shapes, makes index tables, and
brings equal networks to equal graphs (no identity reshapes, no reshape of a reshape, a shift
after a matrix product is its bias, nothing that the output does not need).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from polytope.errors import InputError
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
    Op,
    Piecewise,
    Pool,
    Shape,
    Smooth,
    Sum,
)


@dataclass(frozen=True)
class Value:
    """A node seen by a reader: its number and its logical shape (batch of one included)."""

    node: int
    shape: Shape

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def positions(self) -> np.ndarray:
        """The array of flat positions: run a data movement on it to get a `Gather` index."""
        return np.arange(self.size, dtype=np.int64).reshape(self.shape)


def strip_batch(shape: Sequence[int]) -> Shape:
    """The graph's shape of a logical shape: without one leading axis of length 1.

    At least one axis is left, so that a batch of values can always be flattened.
    """
    stripped = tuple(shape[1:]) if len(shape) and shape[0] == 1 else tuple(shape)
    return stripped or (1,)


def conv_shape(op: Conv, filters: Sequence[int], spatial: Sequence[int]) -> Shape:
    """Shape (channels, *spatial) that a convolution gives for filters and sizes of its input."""
    spans = [d * (k - 1) + 1 for d, k in zip(op.dilation, filters[2:], strict=True)]
    axes = zip(spatial, op.stride, op.padding, spans, strict=True)
    if not op.transposed:
        return (filters[0], *((n + 2 * p - span) // s + 1 for n, s, p, span in axes))
    sizes = [(n - 1) * s - 2 * p + span for n, s, p, span in axes]
    return (filters[1] * op.groups, *(n + e for n, e in zip(sizes, op.output_padding, strict=True)))


class GraphBuilder:
    """Collects nodes and constants; `finish` returns the canonical graph."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, array: object, key: str | None = None) -> str:
        """Store a constant (float64, or int64 if integral) and return its key."""
        values = np.asarray(array)
        values = values.astype(np.int64 if values.dtype.kind in "iub" else np.float64)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise InputError(
                f"the model's weights hold NaN or infinity (in {key or 'a constant'}, "
                f"{int((~np.isfinite(values)).sum())} of {values.size} values): "
                "polytope needs finite weights; retrain or mend the checkpoint"
            )
        key = key if key is not None else f"constant{len(self.constants)}"
        if key in self.constants:
            if self.constants[key].shape == values.shape and np.array_equal(
                self.constants[key], values
            ):
                return key
            return self.constant(values, f"{key}#{len(self.constants)}")
        values.setflags(write=False)
        self.constants[key] = values
        return key

    def add(self, op: Op, inputs: Sequence[Value], shape: Sequence[int], name: str) -> Value:
        """Append one operation whose result has the logical `shape`."""
        self.nodes.append(Node(op, tuple(v.node for v in inputs), strip_batch(shape), name))
        return Value(len(self.nodes) - 1, tuple(int(n) for n in shape))

    def input(self, shape: Sequence[int]) -> Value:
        """The network's input, of `shape` without the batch."""
        self.nodes.append(Node(Input(), (), tuple(shape), "input"))
        return Value(0, (1, *shape))

    # Data movement -------------------------------------------------------------------------

    def reshape(self, x: Value, shape: Sequence[int], name: str = "reshape") -> Value:
        """The same elements in another logical shape."""
        if strip_batch(shape) == self.nodes[x.node].shape:
            return Value(x.node, tuple(shape))
        return self.add(Gather(None), [x], shape, name)

    def gather(self, x: Value, index: np.ndarray, name: str = "gather") -> Value:
        """``y = x.flat[index]`` with the index's shape; -1 gives 0."""
        flat = index.reshape(-1)
        if flat.size == x.size and np.array_equal(flat, np.arange(x.size)):
            return self.reshape(x, index.shape, name)
        return self.add(Gather(self.constant(flat)), [x], index.shape, name)

    def broadcast(self, x: Value, shape: Sequence[int], name: str = "expand") -> Value:
        """Expand to a logical shape by numpy's rules."""
        if tuple(shape) == x.shape:
            return x
        return self.gather(x, np.broadcast_to(x.positions, shape).copy(), name)

    def concat(self, xs: Sequence[Value], axis: int, name: str = "concat") -> Value:
        """Join along an axis of the logical shapes."""
        if len(xs) == 1:
            return xs[0]
        offsets = np.cumsum([0, *(x.size for x in xs)])
        parts = [x.positions + offset for x, offset in zip(xs, offsets[:-1], strict=True)]
        index = np.concatenate(parts, axis=axis)
        flat = self.add(Concat(), xs, (1, int(offsets[-1])), name)
        return self.gather(flat, index, name)

    # Linear maps ---------------------------------------------------------------------------

    def linear(self, x: Value, weight: str, bias: str | None = None, name: str = "linear") -> Value:
        """``x W^T + b`` on the last axis; `weight` and `bias` are keys of constants."""
        out_features, in_features = self.constants[weight].shape
        if not x.shape or x.shape[-1] != in_features:
            raise InputError(
                f"{name}: the weight is {out_features} x {in_features} and cannot take an "
                f"input of shape {x.shape}; check input_shape"
            )
        if len(x.shape) == 1:
            x = self.reshape(x, (1, in_features), name)
            return self.reshape(self.linear(x, weight, bias, name), (out_features,))
        return self.add(Linear(weight, bias), [x], (*x.shape[:-1], out_features), name)

    def conv(
        self,
        x: Value,
        weight: str,
        bias: str | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int = 1,
        transposed: bool = False,
        output_padding: Sequence[int] = (),
        name: str = "conv",
    ) -> Value:
        """Convolution of a logical (1, channels, *spatial) or (channels, *spatial) array."""
        filters = self.constants[weight].shape
        kernel = filters[2:]
        batched = len(x.shape) == len(kernel) + 2
        channels, *spatial = x.shape[1:] if batched else x.shape
        channels_in = filters[0] if transposed else filters[1] * groups
        if len(spatial) != len(kernel) or channels != channels_in or (batched and x.shape[0] != 1):
            raise InputError(
                f"{name}: filters of shape {filters} with {groups} group(s) cannot take an "
                f"input of shape {x.shape}; check input_shape"
            )
        extra = tuple(output_padding) or (0,) * len(kernel)
        pads, strides = tuple(padding), tuple(stride)
        op = Conv(
            weight, bias, strides, pads, tuple(dilation), groups, transposed,
            extra if transposed else (),
        )  # fmt: skip
        inner = self.reshape(x, (1, channels, *spatial), name)
        shape = conv_shape(op, filters, spatial)
        if min(shape) < 1:
            raise InputError(
                f"{name}: filters of shape {filters} do not fit an input of shape {x.shape}; "
                "check input_shape"
            )
        result = self.add(op, [inner], (1, *shape), name)
        return result if batched else self.reshape(result, shape, name)

    def affine(self, x: Value, scale: str | None, shift: str | None, name: str = "affine") -> Value:
        """``x * scale + shift`` by numpy's broadcasting on logical shapes."""
        shapes = [self.constants[key].shape for key in (scale, shift) if key is not None]
        shape = np.broadcast_shapes(x.shape, *shapes)
        x = self.broadcast(x, shape, name)
        keys = [None if key is None else self._aligned(key, x.shape) for key in (scale, shift)]
        return self.add(Affine(keys[0], keys[1]), [x], x.shape, name)

    def _aligned(self, key: str, shape: Shape) -> str:
        """A constant that broadcasts to a logical shape, made to broadcast to the graph's."""
        array = self.constants[key]
        if shape and shape[0] == 1 and array.ndim == len(shape):
            return self.constant(array[0], f"{key}[0]")
        return key

    def sum(self, xs: Sequence[Value], coefficients: Sequence[int], name: str = "add") -> Value:
        """``sum_i c_i x_i`` with broadcasting."""
        shape = np.broadcast_shapes(*(x.shape for x in xs))
        xs = [self.broadcast(x, shape, name) for x in xs]
        return self.add(Sum(tuple(int(c) for c in coefficients)), xs, shape, name)

    def pool(
        self, x: Value, index: np.ndarray, divisor: np.ndarray, shape: Sequence[int], name: str
    ) -> Value:
        """Sums over windows divided by whole numbers: mean, sum, average pooling."""
        op = Pool(self.constant(index), self.constant(divisor))
        return self.add(op, [x], shape, name)

    def reduce(self, x: Value, axes: Sequence[int], keepdims: bool, mean: bool, name: str) -> Value:
        """Mean or sum over axes of the logical shape."""
        index, shape = reduction_index(x, axes, keepdims)
        count = index.shape[1] if mean else 1
        return self.pool(x, index, np.full(index.shape[0], count), shape, name)

    # Nonlinear functions -------------------------------------------------------------------

    def piecewise(
        self,
        x: Value,
        kind: str,
        breakpoints: ArrayLike | str,
        slopes: ArrayLike | str,
        intercepts: ArrayLike | str,
        name: str,
    ) -> Value:
        """Continuous piecewise-linear function of each element.

        Each table may be a key of a constant, already broadcastable to (*shape, pieces).
        """
        tables = (breakpoints, slopes, intercepts)
        edges, slope, intercept = (
            t if isinstance(t, str) else self.constant(np.asarray(t, float)) for t in tables
        )
        return self.add(Piecewise(edges, slope, intercept, kind), [x], x.shape, name)

    def relu(self, x: Value, name: str = "relu") -> Value:
        """``max(z, 0)``."""
        return self.piecewise(x, "relu", [0.0], [0.0, 1.0], [0.0, 0.0], name)

    def leaky_relu(self, x: Value, slope: float, name: str = "leaky_relu") -> Value:
        """``z`` above 0 and ``slope * z`` below."""
        return self.piecewise(x, "leaky_relu", [0.0], [slope, 1.0], [0.0, 0.0], name)

    def abs(self, x: Value, name: str = "abs") -> Value:
        """``|z|``."""
        return self.piecewise(x, "abs", [0.0], [-1.0, 1.0], [0.0, 0.0], name)

    def clamp(self, x: Value, low: float | None, high: float | None, name: str = "clamp") -> Value:
        """``min(max(z, low), high)``; None or an infinite bound leaves that side open."""
        low = None if low is None or low == -math.inf else float(low)
        high = None if high is None or high == math.inf else float(high)
        if low is not None and high is not None and low >= high:
            zero = self.affine(x, self.constant(np.zeros(())), self.constant(np.array(high)), name)
            return zero
        if low is not None and high is not None:
            return self.piecewise(
                x, "hardtanh", [low, high], [0.0, 1.0, 0.0], [low, 0.0, high], name
            )
        if low is not None:
            return self.piecewise(x, "clamp", [low], [0.0, 1.0], [low, 0.0], name)
        if high is not None:
            return self.piecewise(x, "clamp", [high], [1.0, 0.0], [0.0, high], name)
        return x

    def max(
        self, x: Value, index: np.ndarray, shape: Sequence[int], name: str, kind: str = "max"
    ) -> Value:
        """Largest over windows; `index` is (outputs, candidates), -1 is no candidate."""
        if (index < 0).all(axis=1).any():
            raise InputError(
                f"{name}: a pooling window lies wholly in the padding, where a maximum has no "
                "value; use less padding or a larger kernel"
            )
        if index.shape[1] == 1:
            return self.gather(x, index[:, 0].reshape(shape), name)
        return self.add(Max(self.constant(index), kind), [x], shape, name)

    def maximum(self, xs: Sequence[Value], name: str = "maximum") -> Value:
        """Elementwise largest of several arrays, with broadcasting."""
        shape = np.broadcast_shapes(*(x.shape for x in xs))
        size = math.prod(shape)
        flat = [self.reshape(self.broadcast(x, shape, name), (1, size), name) for x in xs]
        joined = self.concat(flat, 1, name)
        index = np.arange(size)[:, None] + size * np.arange(len(xs))[None, :]
        return self.max(joined, index, shape, name, "maximum")

    def minimum(self, xs: Sequence[Value], name: str = "minimum") -> Value:
        """Elementwise smallest: ``-max(-x)``."""
        return self.negate(self.maximum([self.negate(x, name) for x in xs], name), name)

    def negate(self, x: Value, name: str = "neg") -> Value:
        """``-x``."""
        return self.sum([x], [-1], name)

    def smooth(
        self, x: Value, kind: str, parameters: Sequence[float] = (), name: str | None = None
    ) -> Value:
        """A smooth activation: sigmoid, tanh, atan, softplus or elu."""
        return self.add(
            Smooth(kind, tuple(float(p) for p in parameters)), [x], x.shape, name or kind
        )

    # The graph -----------------------------------------------------------------------------

    def finish(self, output: Value) -> Graph:
        """The canonical graph whose output is `output`."""
        return canonical(self.nodes, self.constants, output.node)


def canonical(nodes: Sequence[Node], constants: dict[str, np.ndarray], output: int) -> Graph:
    """Fold reshapes and shifts, drop what the output does not need, order depth first."""
    work = list(nodes)
    users = np.zeros(len(work), dtype=np.int64)
    for node in work:
        for source in node.inputs:
            users[source] += 1
    for number, node in enumerate(work):
        inputs = tuple(_skip_reshapes(work, node, source) for source in node.inputs)
        node = dataclasses.replace(node, inputs=inputs)
        work[number] = node
        if isinstance(node.op, Affine) and node.op.scale is None:
            before = work[node.inputs[0]]
            shift = constants[str(node.op.shift)]
            if (
                isinstance(before.op, Linear)
                and before.op.bias is None
                and users[node.inputs[0]] == 1
                and shift.shape == before.shape[-1:]
            ):
                op = Linear(before.op.weight, node.op.shift)
                work[number] = Node(op, before.inputs, node.shape, before.name)
    order: list[int] = []
    place = {0: 0}
    stack: list[tuple[int, bool]] = [(output, False)]
    while stack:
        number, done = stack.pop()
        if number in place:
            continue
        if done:
            place[number] = len(order) + 1
            order.append(number)
        else:
            stack.append((number, True))
            stack.extend((source, False) for source in reversed(work[number].inputs))
    kept = [work[0]]
    for number in order:
        inputs = tuple(place[source] for source in work[number].inputs)
        kept.append(dataclasses.replace(work[number], inputs=inputs))
    used = {key for node in kept for key in node.constants}
    return Graph(tuple(kept), {key: constants[key] for key in constants if key in used})


def _skip_reshapes(work: Sequence[Node], node: Node, source: int) -> int:
    """The node to read instead of a reshape, where the reader only counts flat positions."""
    flat_reader = isinstance(node.op, Gather | Concat | Pool | Max)
    while isinstance(work[source].op, Gather) and work[source].op == Gather(None):
        before = work[source].inputs[0]
        if not flat_reader and work[before].shape != work[source].shape:
            break
        source = before
    return source


def reduction_index(x: Value, axes: Sequence[int], keepdims: bool) -> tuple[np.ndarray, Shape]:
    """Index table (outputs, window) and logical shape of a reduction over axes."""
    rank = len(x.shape)
    over = sorted({axis % rank for axis in axes}) if len(axes) else list(range(rank))
    rest = [axis for axis in range(rank) if axis not in over]
    outputs = math.prod(x.shape[axis] for axis in rest)
    index = x.positions.transpose([*rest, *over]).reshape(outputs, -1)
    if keepdims:
        return index, tuple(1 if axis in over else n for axis, n in enumerate(x.shape))
    return index, tuple(x.shape[axis] for axis in rest)
