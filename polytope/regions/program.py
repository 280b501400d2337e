"""A network as flat arrays over domain coordinates, for the compiled kernels.

Between two nonlinear layers everything is linear, so the pre-activations of a layer are

    z = base [u, 1] + sum_j weight_j * output_j

over the outputs of the units of earlier layers (residual connections make them several
layers).  These sums are collected once, by pushing unit vectors through the graph's own
operations; a region's hyperplanes are then a few sparse products away, whatever the
architecture was.  Beside every number stands a bound on its rounding error: 0 where it is a
weight of the model itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from polytope.network.engine import Engine, apply
from polytope.network.ir import Affine, Concat, Conv, Gather, Linear, Max, Node, Piecewise, Sum
from polytope.network.rounding import terms_of
from polytope.regions.constants import without_constants
from polytope.regions.domain import Domain
from polytope.regions.sums import Sums, dense_blocks, multiples, waists

#: Columns (units of a source layer) pushed through the graph at once, times the widest node.
BLOCK_VALUES = 2**22
#: Room for the rounding of the error bounds themselves.
SLACK = 1.01
ROUNDING = float(np.finfo(np.float64).eps / 2)
TINY = float(np.finfo(np.float64).tiny)


class Program(NamedTuple):
    """The arrays that the kernels read.  Pre-activations ("values") of all layers in one order.

    Attributes
    ----------
    layers : int64 (layers, 8)
        First value, end of values, first unit, units, slots, 1 for a maximum (else 0), first
        row, offset into `table` (maximum) or `breaks` (piecewise).
    base, base_error : float64 (values, k + 1)
        Affine part of each value over [u, 1], and a bound on its error.
    start : int64 (values + 1,)
    source : int64 (terms,)
    weight, weight_error : float64 (terms,)
        The sum over unit outputs, in compressed rows.
    breaks : float64 (...)
        Breakpoints, (units, slots) of each piecewise layer one after another.
    slopes, intercepts : float64 (...)
        Pieces, (units, slots + 1) of each piecewise layer one after another.
    pieces_at : int64 (layers,)
        Offset of each layer in `slopes` and `intercepts`.
    dense_at : int64 (layers, 3)
        For a layer whose sum is over all of a range of units with exact weights: offset into
        `dense` (-1: none), first unit, units.
    dense : float64 (...)
        Those weights again, (units of the range, values of the layer).
    table : int64 (...)
        Values that the candidates of a maximum read ((units, slots); -1 for none).
    waist : bool (layers,)
        Whether all later layers see the input through this layer's outputs alone.
    alike : int64 (values,)
        Plus or minus 1 + the first value of the layer of which this one is an exact multiple
        (duplicated neurons; mostly itself).
    """

    layers: np.ndarray
    base: np.ndarray
    base_error: np.ndarray
    start: np.ndarray
    source: np.ndarray
    weight: np.ndarray
    weight_error: np.ndarray
    breaks: np.ndarray
    slopes: np.ndarray
    intercepts: np.ndarray
    pieces_at: np.ndarray
    table: np.ndarray
    dense_at: np.ndarray
    dense: np.ndarray
    waist: np.ndarray
    alike: np.ndarray


@dataclass(frozen=True)
class _Block:
    """Columns pushed to one node: values, absolute sums, and how they came about.

    `exact`: every number is 0 or a constant of the model, with no arithmetic on the way.
    `unit`: every column still is a unit vector (or zero), one position each.
    """

    value: torch.Tensor
    magnitude: torch.Tensor
    terms: int
    exact: bool
    unit: bool


def compile_program(net: Engine, domain: Domain) -> Program:
    """The arrays of a piecewise-linear network over a domain's coordinates.

    Parameters
    ----------
    net : Engine
    domain : Domain
    """
    layers = net.layers
    counts = [_values_of(net, layer.node) for layer in layers]
    first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    base = np.zeros((int(first[-1]), domain.dimension + 1))
    base_error = np.zeros_like(base)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    place = {layer.node: number for number, layer in enumerate(layers)}

    directions = np.eye(net.input_size) if domain.basis is None else domain.basis
    for number, block, columns in _push(net, 0, directions, domain.basis is None):
        rows = slice(first[place[number]], first[place[number] + 1])
        base[rows, columns] = block.value.T.numpy()
        base_error[rows, columns] = _error(block).T
    origin = np.zeros(net.input_size) if domain.origin is None else domain.origin
    for number, block in _push_constants(net, origin):
        rows = slice(first[place[number]], first[place[number] + 1])
        base[rows, -1] = block.value[0].numpy()
        base_error[rows, -1] = _error(block)[0]
    for layer in layers:
        eye = np.eye(layer.units)
        for number, block, columns in _push(net, layer.node, eye, True):
            column, row = np.nonzero(block.magnitude.numpy())
            parts.append((
                row + first[place[number]],
                column + columns.start + layer.first_unit,
                block.value.numpy()[column, row],
                _error(block)[column, row],
            ))  # fmt: skip
    columns_of = zip(*parts, strict=True) if parts else ([], [], [], [])
    joined = [np.concatenate([np.zeros(0), *column]) for column in columns_of]
    row, source, weight, weight_error = joined
    order = np.lexsort((source, row))
    start = np.searchsorted(row[order], np.arange(first[-1] + 1)).astype(np.int64)
    source, weight, weight_error = (part[order] for part in (source, weight, weight_error))
    sums = Sums(base, base_error, start, source.astype(np.int64), weight, weight_error)
    units = _units(net, first)
    sums, units["table"] = without_constants(net, domain, first, sums, units["table"])
    dense_at, dense = dense_blocks(first, sums)
    return Program(
        **sums._asdict(), **units, dense_at=dense_at, dense=dense,
        waist=waists(net, first, sums), alike=multiples(first, sums),
    )  # fmt: skip


def _values_of(net: Engine, number: int) -> int:
    """Size of what a nonlinear node reads."""
    return net.graph.nodes[net.graph.nodes[number].inputs[0]].size


def _units(net: Engine, first: np.ndarray) -> dict[str, np.ndarray]:
    """What the units do with their values."""
    layers: list[list[int]] = []
    pieces_at: list[int] = []
    breaks: list[np.ndarray] = []
    slopes: list[np.ndarray] = []
    intercepts: list[np.ndarray] = []
    table: list[np.ndarray] = []
    sizes = {"breaks": 0, "slopes": 0, "table": 0}
    for number, layer in enumerate(net.layers):
        node, constants = net.graph.nodes[layer.node], net.graph.constants
        pieces_at.append(sizes["slopes"])
        if isinstance(node.op, Max):
            index = constants[node.op.index]
            offset = sizes["table"]
            table.append(np.where(index >= 0, index + first[number], -1).reshape(-1))
            sizes["table"] += table[-1].size
        else:
            assert isinstance(node.op, Piecewise)
            offset = sizes["breaks"]
            for name, found in (
                ("breakpoints", breaks), ("slopes", slopes), ("intercepts", intercepts)
            ):  # fmt: skip
                array = constants[getattr(node.op, name)]
                found.append(np.broadcast_to(array, (*node.shape, array.shape[-1])).reshape(-1))
            sizes["breaks"] += breaks[-1].size
            sizes["slopes"] += slopes[-1].size
        layers.append([
            first[number], first[number + 1], layer.first_unit, layer.units, layer.slots,
            int(layer.is_max), layer.first_row, offset,
        ])  # fmt: skip

    def joined(arrays: list[np.ndarray], dtype: type) -> np.ndarray:
        return np.concatenate([np.zeros(0), *arrays]).astype(dtype)

    return {
        "layers": np.array(layers, dtype=np.int64).reshape(-1, 8),
        "breaks": joined(breaks, np.float64),
        "slopes": joined(slopes, np.float64),
        "intercepts": joined(intercepts, np.float64),
        "pieces_at": np.array(pieces_at, dtype=np.int64),
        "table": joined(table, np.int64),
    }


def _error(block: _Block) -> np.ndarray:
    """Bound on the error of every number of a block."""
    if block.exact:
        return np.zeros(tuple(block.value.shape))
    magnitude = block.magnitude.numpy()
    error = SLACK * block.terms * ROUNDING * magnitude
    return np.asarray(np.where(magnitude > 0, error + block.terms * TINY, 0.0))


def _push(net: Engine, source: int, columns: np.ndarray, unit: bool):  # type: ignore[no-untyped-def]
    """Push columns from one node to every nonlinear node that reads them linearly.

    Yields (nonlinear node, block of flat values, slice of columns).
    """
    widest = max(node.size for node in net.graph.nodes)
    step = max(1, BLOCK_VALUES // widest)
    shape = net.graph.nodes[source].shape
    for begin in range(0, len(columns), step):
        part = torch.tensor(columns[begin : begin + step], dtype=torch.float64)
        start = part.reshape(len(part), *shape)
        here = {source: _Block(start, start.abs(), 0, True, unit)}
        for number, block in _walk(net, here, bias=False):
            yield number, block, slice(begin, begin + len(part))


def _push_constants(net: Engine, origin: np.ndarray):  # type: ignore[no-untyped-def]
    """Push the origin and all biases, with the units' outputs taken as 0."""
    start = torch.tensor(origin, dtype=torch.float64).reshape(1, *net.input_shape)
    here = {0: _Block(start, start.abs(), 0, True, not origin.any())}
    for layer in net.layers:
        zero = torch.zeros(1, *net.graph.nodes[layer.node].shape, dtype=torch.float64)
        here[layer.node] = _Block(zero, zero, 0, True, True)
    yield from _walk(net, here, bias=True)


def _walk(net: Engine, here: dict[int, _Block], bias: bool):  # type: ignore[no-untyped-def]
    """Carry blocks through the linear nodes; yield what arrives at each nonlinear one."""
    plain = net.constants(torch.float64, torch.device("cpu"))
    absolute = {k: v.abs() if v.is_floating_point() else v for k, v in plain.items()}
    nodes = net.graph.nodes
    nonlinear = {layer.node for layer in net.layers}
    blocks = dict(here)
    for number, node in enumerate(nodes):
        if number in nonlinear:
            arriving = blocks.get(node.inputs[0])
            if arriving is not None:
                yield number, _flat(arriving)
        elif number > 0 and any(i in blocks for i in node.inputs):
            given = [blocks.get(i) for i in node.inputs]
            blocks[number] = _through(net, node, given, plain, absolute, bias)


def _flat(block: _Block) -> _Block:
    return _Block(
        block.value.flatten(1), block.magnitude.flatten(1), block.terms, block.exact, block.unit
    )


def _through(net, node: Node, given, plain, absolute, bias: bool) -> _Block:  # type: ignore[no-untyped-def]
    """One linear node on blocks; absent ones are 0."""
    some = next(b for b in given if b is not None)
    shapes = [net.graph.nodes[i].shape for i in node.inputs]
    values, magnitudes = (
        [
            torch.zeros(len(some.value), *shape, dtype=torch.float64)
            if b is None
            else getattr(b, name)
            for b, shape in zip(given, shapes, strict=True)
        ]
        for name in ("value", "magnitude")
    )
    present = [b for b in given if b is not None]
    op = node.op
    value = apply(node, values, plain, bias=bias)
    positive = node
    if isinstance(op, Sum):
        positive = Node(Sum(tuple(abs(c) for c in op.coefficients)), node.inputs, node.shape, "")
    magnitude = apply(positive, magnitudes, absolute, bias=bias)
    terms = max(b.terms for b in present) + terms_of(node, plain)
    exact, unit = all(b.exact for b in present), all(b.unit for b in present)
    if isinstance(op, Gather):
        index = None if op.index is None else net.graph.constants[op.index]
        unique = index is None or len(np.unique(index[index >= 0])) == (index >= 0).sum()
        return _Block(value, magnitude, terms, exact, unit and unique)
    if isinstance(op, Concat):
        return _Block(value, magnitude, terms, exact, unit and len(present) == 1)
    if isinstance(op, Sum):
        plus = len(present) == 1 and all(abs(c) == 1 for c in op.coefficients)
        return _Block(value, magnitude, terms, exact and plus, unit and plus)
    if isinstance(op, Linear | Conv | Affine):
        # A unit vector picks one weight (and a zero vector the bias): no arithmetic.
        return _Block(value, magnitude, terms, exact and unit, False)
    return _Block(value, magnitude, terms, False, False)
