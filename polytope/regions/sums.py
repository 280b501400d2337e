"""The pre-activations of a network as sums over its coordinates and unit outputs.

Between two nonlinear layers everything is linear, so the pre-activations of a layer are

    z = base [u, 1] + sum_j weight_j * output_j

over the outputs of the units of earlier layers (residual connections make them several layers),
whatever the architecture was.  Beside every number stands a bound on its rounding error: 0 where
it is a weight of the model itself.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from polytope.network.engine import Engine, apply
from polytope.network.ir import Affine, Concat, Conv, Gather, Linear, Node, Sum
from polytope.network.rounding import terms_of
from polytope.regions.domain import Domain

#: Columns (units of a source layer) pushed through the graph at once, times the widest node.
BLOCK_VALUES = 2**22
#: Room for the rounding of the error bounds themselves.
SLACK = 1.01
ROUNDING = float(np.finfo(np.float64).eps / 2)
TINY = float(np.finfo(np.float64).tiny)


class Sums(NamedTuple):
    """``z_v = base_v [u, 1] + sum_t weight_t * output_source_t``; see `program.Program`."""

    base: np.ndarray
    base_error: np.ndarray
    start: np.ndarray
    source: np.ndarray
    weight: np.ndarray
    weight_error: np.ndarray

    def terms(self, value: int) -> slice:
        """The terms of a value's sum."""
        return slice(self.start[value], self.start[value + 1])


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


def collect_sums(net: Engine, domain: Domain, outputs: bool = False) -> tuple[np.ndarray, Sums]:
    """All pre-activations as sums over the coordinates and the outputs of earlier units.

    Collected once, by pushing unit vectors through the graph's own operations.

    Parameters
    ----------
    net : Engine
    domain : Domain
    outputs : bool
        Also the outputs of the network, after the values of the last layer.

    Returns
    -------
    first : int64 (layers + 1,), or (layers + 2,) with outputs
        Where the values of each layer begin.
    sums : Sums
    """
    ends = [layer.node for layer in net.layers] + [None] * outputs
    counts = [_size(net, end) for end in ends]
    first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    base = np.zeros((int(first[-1]), domain.dimension + 1))
    base_error = np.zeros_like(base)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    rows = {end: slice(*pair) for end, pair in zip(ends, itertools.pairwise(first), strict=True)}

    directions = np.eye(net.input_size) if domain.basis is None else domain.basis
    for end, block, columns in _push(net, 0, directions, domain.basis is None, outputs):
        base[rows[end], columns] = block.value.T.numpy()
        base_error[rows[end], columns] = _error(block).T
    origin = np.zeros(net.input_size) if domain.origin is None else domain.origin
    for end, block in _push_constants(net, origin, outputs):
        base[rows[end], -1] = block.value[0].numpy()
        base_error[rows[end], -1] = _error(block)[0]
    for layer in net.layers:
        for end, block, columns in _push(net, layer.node, np.eye(layer.units), True, outputs):
            column, row = np.nonzero(block.magnitude.numpy())
            parts.append((
                row + rows[end].start,
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
    return first, Sums(base, base_error, start, source.astype(np.int64), weight, weight_error)


def _size(net: Engine, end: int | None) -> int:
    """Size of what a nonlinear node reads (None: of the network's outputs)."""
    nodes = net.graph.nodes
    return nodes[-1].size if end is None else nodes[nodes[end].inputs[0]].size


def _error(block: _Block) -> np.ndarray:
    """Bound on the error of every number of a block."""
    if block.exact:
        return np.zeros(tuple(block.value.shape))
    magnitude = block.magnitude.numpy()
    error = SLACK * block.terms * ROUNDING * magnitude
    return np.asarray(np.where(magnitude > 0, error + block.terms * TINY, 0.0))


def _push(net: Engine, source: int, columns: np.ndarray, unit: bool, outputs: bool):  # type: ignore[no-untyped-def]
    """Push columns from one node to every nonlinear node (None: end) that reads them linearly.

    Yields (node, block of flat values, slice of columns).
    """
    widest = max(node.size for node in net.graph.nodes)
    step = max(1, BLOCK_VALUES // widest)
    shape = net.graph.nodes[source].shape
    for begin in range(0, len(columns), step):
        part = torch.tensor(columns[begin : begin + step], dtype=torch.float64)
        start = part.reshape(len(part), *shape)
        here = {source: _Block(start, start.abs(), 0, True, unit)}
        for end, block in _walk(net, here, False, outputs):
            yield end, block, slice(begin, begin + len(part))


def _push_constants(net: Engine, origin: np.ndarray, outputs: bool):  # type: ignore[no-untyped-def]
    """Push the origin and all biases, with the units' outputs taken as 0."""
    start = torch.tensor(origin, dtype=torch.float64).reshape(1, *net.input_shape)
    here = {0: _Block(start, start.abs(), 0, True, not origin.any())}
    for layer in net.layers:
        zero = torch.zeros(1, *net.graph.nodes[layer.node].shape, dtype=torch.float64)
        here[layer.node] = _Block(zero, zero, 0, True, True)
    yield from _walk(net, here, True, outputs)


def _walk(net: Engine, here: dict[int, _Block], bias: bool, outputs: bool):  # type: ignore[no-untyped-def]
    """Carry blocks through the linear nodes; yield what arrives at nonlinear ones, and the end."""
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
    last = blocks.get(len(nodes) - 1)
    if outputs and last is not None:
        yield None, _flat(last)


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
