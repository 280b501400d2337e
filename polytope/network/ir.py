"""The compiled piecewise-linear graph: ten operations, float64 constants, no framework.

Every network that polytope analyses is first brought to this form.  It is the *meaning* of
the network: its constants are the model's floats read exactly, its canonical hash and its
saved file are of this graph, and a checker that knows the ten operations below can replay
it in exact rational arithmetic.  Shapes never include the batch.

All movement of data (reshape, permute, slice, zero padding, flip, expand, im2col, ...) is one
operation, `Gather`, whose index is made by running the original operation on an array of
positions.  Windows of pooling are index tables too, so a max-pool, a maxout and a binary
maximum are the same operation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Input:
    """The input of the network."""


@dataclass(frozen=True)
class Linear:
    """``y = x W^T + b`` on the last axis; ``weight`` is (out, in), ``bias`` (out,)."""

    weight: str
    bias: str | None = None


@dataclass(frozen=True)
class Conv:
    """Convolution (or transposed convolution) of one (channels, *spatial) array.

    ``weight`` has torch's layout: (out, in/groups, *kernel), and for a transposed
    convolution (in, out/groups, *kernel).  Padding is with zeros and symmetric; any other
    padding is a `Gather` before the convolution.
    """

    weight: str
    bias: str | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    transposed: bool = False
    output_padding: tuple[int, ...] = ()


@dataclass(frozen=True)
class Affine:
    """``y = x * scale + shift``, element by element; constants broadcast to the shape."""

    scale: str | None
    shift: str | None


@dataclass(frozen=True)
class Gather:
    """``y.flat[i] = x.flat[index[i]]``; index -1 gives 0; no index is a plain reshape."""

    index: str | None


@dataclass(frozen=True)
class Concat:
    """The flattened inputs one after another."""


@dataclass(frozen=True)
class Sum:
    """``y = sum_i coefficients[i] * x_i`` of arrays of one shape."""

    coefficients: tuple[int, ...]


@dataclass(frozen=True)
class Pool:
    """``y.flat[i] = sum_k x.flat[index[i, k]] / divisor[i]``; index -1 is skipped.

    ``divisor`` is a positive integer per output, so that a mean is exact in rationals.
    """

    index: str
    divisor: str


@dataclass(frozen=True)
class Piecewise:
    """A continuous piecewise-linear function of each element.

    Piece ``j`` is ``slopes[j] * z + intercepts[j]`` and holds for
    ``breakpoints[j-1] < z <= breakpoints[j]``.  The last axis of the three constants runs
    over breakpoints or pieces; the axes before it broadcast to the node's shape.
    """

    breakpoints: str
    slopes: str
    intercepts: str
    kind: str = "piecewise"


@dataclass(frozen=True)
class Max:
    """``y.flat[i] = max_k x.flat[index[i, k]]``; index -1 is no candidate."""

    index: str
    kind: str = "max"


@dataclass(frozen=True)
class Smooth:
    """A smooth function of each element: sigmoid, tanh, atan, softplus or elu.

    Bounds can be computed through it; regions, distances and exact methods refuse it.
    """

    kind: str
    parameters: tuple[float, ...] = ()


Op = Input | Linear | Conv | Affine | Gather | Concat | Sum | Pool | Piecewise | Max | Smooth
OPS: dict[str, type[Op]] = {
    op.__name__: op
    for op in (Input, Linear, Conv, Affine, Gather, Concat, Sum, Pool, Piecewise, Max, Smooth)
}
#: Fields that name a constant, by operation.
CONSTANT_FIELDS: dict[str, tuple[str, ...]] = {
    "Linear": ("weight", "bias"),
    "Conv": ("weight", "bias"),
    "Affine": ("scale", "shift"),
    "Gather": ("index",),
    "Pool": ("index", "divisor"),
    "Piecewise": ("breakpoints", "slopes", "intercepts"),
    "Max": ("index",),
}


@dataclass(frozen=True)
class Node:
    """One operation, the nodes it reads, its shape, and its name in the source model."""

    op: Op
    inputs: tuple[int, ...]
    shape: Shape
    name: str

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def constants(self) -> tuple[str, ...]:
        """Keys of the constants that the operation reads."""
        names = CONSTANT_FIELDS.get(type(self.op).__name__, ())
        keys = (getattr(self.op, name) for name in names)
        return tuple(key for key in keys if key is not None)


@dataclass(frozen=True)
class Layer:
    """A nonlinear node seen as a layer of units, and its place among all units and rows.

    Attributes
    ----------
    node : int
        Index of the node in the graph.
    name : str
        Name of the node in the source model.
    kind : str
        The activation: "relu", "hardtanh", "max", ...
    units : int
        Number of units (outputs of the node).
    pieces : int
        Pieces of a unit; for a max, candidates per output.
    slots : int
        Rows per unit: one per breakpoint, or one per candidate.
    first_unit, first_row : int
        Offset of this layer's units and rows among those of the network.
    """

    node: int
    name: str
    kind: str
    units: int
    pieces: int
    slots: int
    first_unit: int
    first_row: int

    @property
    def is_max(self) -> bool:
        """Whether the pieces are the winners of a maximum."""
        return self.slots == self.pieces

    @property
    def unit_slice(self) -> slice:
        """Where this layer's units stand among all units."""
        return slice(self.first_unit, self.first_unit + self.units)

    @property
    def row_slice(self) -> slice:
        """Where this layer's rows stand among all rows."""
        return slice(self.first_row, self.first_row + self.units * self.slots)


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in topological order (the last is the output) and their constants.

    Node 0 is the input.  Constants are read-only arrays: float64, or int64 for indices.
    Compared by identity; graphs of one meaning have one `hash`.
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, np.ndarray]

    @property
    def input_shape(self) -> Shape:
        """Shape of one input, without the batch."""
        return self.nodes[0].shape

    @property
    def output_shape(self) -> Shape:
        """Shape of one output, without the batch."""
        return self.nodes[-1].shape

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The piecewise-linear layers, in topological order."""
        layers: list[Layer] = []
        unit = row = 0
        for number, node in enumerate(self.nodes):
            if isinstance(node.op, Piecewise):
                slots = self.constants[node.op.breakpoints].shape[-1]
                pieces = slots + 1
            elif isinstance(node.op, Max):
                pieces = slots = self.constants[node.op.index].shape[-1]
            else:
                continue
            layer = Layer(number, node.name, node.op.kind, node.size, pieces, slots, unit, row)
            layers.append(layer)
            unit += layer.units
            row += layer.units * slots
        return tuple(layers)

    @property
    def smooth(self) -> tuple[Node, ...]:
        """The nodes with a smooth activation."""
        return tuple(node for node in self.nodes if isinstance(node.op, Smooth))

    @cached_property
    def last_use(self) -> tuple[int, ...]:
        """For each node the last node that reads it, so that its value can be let go."""
        last = list(range(len(self.nodes)))
        for number, node in enumerate(self.nodes):
            for source in node.inputs:
                last[source] = number
        return tuple(last)

    @cached_property
    def hash(self) -> str:
        """Canonical SHA-256 of the meaning: operations, wiring and constants, not names."""
        digests = {key: constant_digest(array) for key, array in self.constants.items()}
        digest = hashlib.sha256(b"polytope graph 1")
        for node in self.nodes:
            record = op_record(node.op)
            for name in CONSTANT_FIELDS.get(type(node.op).__name__, ()):
                if record[name] is not None:
                    record[name] = digests[str(record[name])]
            record.pop("kind", None) if not isinstance(node.op, Smooth) else None
            line = json.dumps([record, node.inputs, node.shape], sort_keys=True)
            digest.update(line.encode())
        return digest.hexdigest()


def constant_digest(array: np.ndarray) -> str:
    """SHA-256 of an array's shape, kind and values (-0.0 counts as 0.0)."""
    canonical = array + 0.0 if array.dtype.kind == "f" else array.astype(np.int64)
    head = f"{canonical.dtype.kind}{canonical.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(canonical).tobytes()).hexdigest()


def op_record(op: Op) -> dict[str, object]:
    """An operation as a JSON-ready dictionary; `op_from_record` is its inverse."""
    return {"op": type(op).__name__, **asdict(op)}


def op_from_record(record: Mapping[str, object]) -> Op:
    """The operation that `op_record` wrote."""
    kind = OPS[str(record["op"])]
    values = {field.name: record[field.name] for field in fields(kind)}
    tuples = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    return kind(**tuples)  # type: ignore[arg-type]
