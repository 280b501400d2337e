"""The compiled graph as exact affine maps between its layers, for the checker of certificates.

What a layer's units read is an affine function of the input and of the outputs of earlier layers.
Here these functions are written out once, in exact integers with one scale each.  This reads the
graph and nothing else: no code is shared with the engines, which have maps of their own.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

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
    Piecewise,
    Pool,
    Sum,
)


def _flint_matrices() -> Any:
    """python-flint's matrices of integers; None where it is not installed."""
    try:
        return importlib.import_module("flint").fmpz_mat
    except ImportError:  # the products are then numpy's, on Python's integers
        return None


FLINT = _flint_matrices()

#: Entries of the exact map between two layers; a network beyond it is refused.
LARGEST = 2**26


@dataclass(frozen=True, eq=False)
class Exact:
    """``integers * scale``, exactly: an object array of Python integers and a positive number."""

    integers: np.ndarray
    scale: Fraction = Fraction(1)

    @classmethod
    def of(cls, floats: np.ndarray) -> Exact:
        """Finite floats, or integers, as they are."""
        flat = np.asarray(floats).reshape(-1).tolist()
        pairs = [value.as_integer_ratio() for value in flat]
        common = math.lcm(*(q for _, q in pairs))
        whole = np.array([p * (common // q) for p, q in pairs] + [None], dtype=object)[:-1]
        return cls(whole.reshape(np.shape(floats)), Fraction(1, common))

    @classmethod
    def fractions(cls, values: Sequence[Fraction]) -> Exact:
        """A list of numbers."""
        common = math.lcm(*(v.denominator for v in values))
        whole = [v.numerator * (common // v.denominator) for v in values]
        return cls(np.array([*whole, None], dtype=object)[:-1], Fraction(1, common))

    def rows(self) -> list[list[Fraction]]:
        """The numbers of a matrix, row by row."""
        return [[v * self.scale for v in row] for row in self.integers.tolist()]

    @classmethod
    def given(cls, exact: Exact) -> Exact:
        """What is given; of another arithmetic this would be rounded."""
        return exact

    @classmethod
    def norms(cls, rows: np.ndarray, p: float) -> Exact:
        """Of each row of floats (m, d) the dual of the l_p norm, p being 1 or 2, or more: (m,)."""
        exact = cls.of(rows)
        if p == 1:
            return cls(abs(exact.integers).max(axis=1, initial=0), exact.scale)
        squares = (exact.integers * exact.integers).sum(axis=1, initial=0)
        roots = [math.isqrt(int(v) << 128) + 1 for v in squares]
        return cls(np.array([*roots, None], dtype=object)[:-1], exact.scale / 2**64)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.integers.shape

    def part(self, index: Any) -> Exact:
        """Some of the entries."""
        return Exact(self.integers[index], self.scale)

    def floats(self) -> np.ndarray:
        """The nearest floats."""
        top, bottom = self.scale.numerator, self.scale.denominator
        flat = [_divide(v * top, bottom) for v in self.integers.reshape(-1).tolist()]
        return np.array(flat, dtype=np.float64).reshape(self.integers.shape)

    def floor(self) -> np.ndarray:
        """The largest floats that are not above the numbers."""
        flat = [floor(v * self.scale) for v in self.integers.reshape(-1).tolist()]
        return np.array(flat, dtype=np.float64).reshape(self.integers.shape)

    def minus(self) -> Exact:
        """The negative."""
        return Exact(-self.integers, self.scale)

    def each(self, other: Exact) -> Exact:
        """The products of entries."""
        return Exact(self.integers * other.integers, self.scale * other.scale)

    def total(self) -> Exact:
        """The sums of rows."""
        return Exact(self.integers.sum(axis=1, initial=0), self.scale)

    def chosen(self, mask: np.ndarray, other: Exact) -> Exact:
        """These entries where the mask holds, elsewhere those of another array."""
        scale = finer(self.scale, other.scale)
        return Exact(np.where(mask, self.at(scale), other.at(scale)), scale)

    def carried(self, low: Exact, high: Exact) -> Exact:
        """Entries times `low` where they are positive, times `high` where they are negative."""
        return self.each(low.chosen(self.integers > 0, high))

    def gathered(self, columns: np.ndarray, size: int) -> Exact:
        """Columns added up at their places among so many; a column at -1 is left out."""
        found = np.zeros((len(self.integers), size), dtype=object)
        kept = columns >= 0
        np.add.at(found.T, columns[kept], self.integers.T[kept])
        return Exact(found, self.scale)

    def at(self, scale: Fraction) -> np.ndarray:
        """The integers on a finer scale."""
        factor = self.scale / scale
        assert factor.denominator == 1
        return self.integers * factor.numerator if factor != 1 else self.integers

    def plus(self, other: Exact) -> Exact:
        """The sum."""
        scale = finer(self.scale, other.scale)
        return Exact(self.at(scale) + other.at(scale), scale)

    def times(self, other: Exact) -> Exact:
        """The matrix product; zeros where there is nothing to add up."""
        a, b = self.integers, other.integers
        scale = self.scale * other.scale
        if 0 in a.shape or 0 in b.shape:
            return Exact(np.zeros((a.shape[0], b.shape[1]), dtype=object), scale)
        if FLINT is None:
            return Exact(a @ b, scale)
        table = (FLINT(a.tolist()) * FLINT(b.tolist())).table()
        found = np.empty((a.shape[0], b.shape[1]), dtype=object)
        found[:] = [[int(v) for v in row] for row in table]
        return Exact(found, scale)


def _divide(numerator: int, denominator: int) -> float:
    """The nearest float; infinite beyond them."""
    try:
        return numerator / denominator
    except OverflowError:
        return math.inf if numerator > 0 else -math.inf


def floor(value: Fraction) -> float:
    """The largest float that is not above a number."""
    near = _divide(value.numerator, value.denominator)
    if math.isinf(near):
        return -math.inf if near < 0 else float(np.finfo(np.float64).max)
    return near if Fraction(near) <= value else math.nextafter(near, -math.inf)


def finer(a: Fraction, b: Fraction) -> Fraction:
    """The coarsest scale on which both are whole."""
    return Fraction(math.gcd(a.numerator * b.denominator, b.numerator * a.denominator),
                    a.denominator * b.denominator)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Map:
    """Values as an affine function of the input (source -1) and of earlier layers' units."""

    parts: dict[int, Exact]
    constant: Exact

    def rows(self, index: np.ndarray) -> Map:
        """Some of the values; -1 is the value 0."""

        def take(array: np.ndarray) -> np.ndarray:
            zero = np.zeros((1, *array.shape[1:]), dtype=object)
            return np.asarray(np.concatenate([array, zero])[index])

        parts = {k: Exact(take(part.integers), part.scale) for k, part in self.parts.items()}
        return Map(parts, Exact(take(self.constant.integers), self.constant.scale))

    def scaled(self, factors: np.ndarray, scale: Fraction) -> Map:
        """Each value times its own factor."""
        parts = {
            k: Exact(part.integers * factors[:, None], part.scale * scale)
            for k, part in self.parts.items()
        }
        constant = self.constant
        return Map(parts, Exact(constant.integers * factors, constant.scale * scale))

    def plus(self, other: Map) -> Map:
        """The sum of two."""
        parts = dict(self.parts)
        for k, part in other.parts.items():
            parts[k] = parts[k].plus(part) if k in parts else part
        return Map(parts, self.constant.plus(other.constant))


def identity(source: int, size: int) -> Map:
    """A source as it is."""
    if size * size > LARGEST:
        raise InputError(f"the network is too large for exact maps ({size} values in a layer)")
    eye = np.zeros((size, size), dtype=object)
    np.fill_diagonal(eye, 1)
    return Map({source: Exact(eye)}, Exact(np.zeros(size, dtype=object)))


@dataclass(frozen=True, eq=False)
class Pieces:
    """Units of pieces of lines: (units, breakpoints), and (units, pieces) twice."""

    breaks: Exact
    slopes: Exact
    rests: Exact

    @cached_property
    def floats(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The three as floats, which they are."""
        return self.breaks.floats(), self.slopes.floats(), self.rests.floats()

    @cached_property
    def jumps(self) -> np.ndarray:
        """Where the pieces beside a breakpoint differ there, if only by rounding: bool."""
        slopes, rests = self.slopes.integers, self.rests
        steep = Exact(slopes[:, 1:] - slopes[:, :-1], self.slopes.scale).each(self.breaks)
        gap = steep.plus(Exact(rests.integers[:, 1:] - rests.integers[:, :-1], rests.scale))
        return np.asarray(gap.integers != 0, dtype=bool)


@dataclass(frozen=True, eq=False)
class Windows:
    """Units that are maxima: the values of their candidates (units, candidates), -1 for none."""

    index: np.ndarray


@dataclass(frozen=True, eq=False)
class Layer:
    """The values that a layer's units read, and its `count` units."""

    map: Map
    count: int
    units: Pieces | Windows

    @property
    def values(self) -> int:
        """How many values its units read."""
        return len(self.map.constant.integers)


def layers_of(graph: Graph) -> tuple[list[Layer], Map]:
    """All layers, and the outputs."""
    maps: list[Map] = []
    layers: list[Layer] = []
    tables = graph.constants
    for node in graph.nodes:
        op = node.op
        given = [maps[i] for i in node.inputs]
        if isinstance(op, Input):
            maps.append(identity(-1, node.size))
        elif isinstance(op, Piecewise):
            own = []
            for key in (op.breakpoints, op.slopes, op.intercepts):
                array = np.broadcast_to(tables[key], (*node.shape, tables[key].shape[-1]))
                own.append(Exact.of(array.reshape(node.size, -1)))
            layers.append(Layer(given[0], node.size, Pieces(*own)))
            maps.append(identity(len(layers) - 1, node.size))
        elif isinstance(op, Max):
            layers.append(Layer(given[0], node.size, Windows(tables[op.index])))
            maps.append(identity(len(layers) - 1, node.size))
        else:
            maps.append(_linear(graph, node, given))
    return layers, maps[-1]


def _linear(graph: Graph, node: Node, given: Sequence[Map]) -> Map:
    """What a linear operation makes of affine functions."""
    op, tables, x = node.op, graph.constants, given[0]
    size = len(x.constant.integers)
    if isinstance(op, Gather):
        return x if op.index is None else x.rows(tables[op.index].reshape(-1))
    if isinstance(op, Concat):
        total = sum(len(m.constant.integers) for m in given)
        start, found = 0, identity(-1, 0)
        for m in given:
            own = np.arange(total) - start
            own[(own < 0) | (own >= len(m.constant.integers))] = -1
            found, start = (
                m.rows(own) if start == 0 else found.plus(m.rows(own)),
                start + len(m.constant.integers),
            )
        return found
    if isinstance(op, Sum):
        terms = [
            m.scaled(np.full(size, k, dtype=object), Fraction(1))
            for k, m in zip(op.coefficients, given, strict=True)
        ]
        found = terms[0]
        for term in terms[1:]:
            found = found.plus(term)
        return found
    if isinstance(op, Pool):
        divisor = tables[op.divisor].reshape(-1).astype(object)
        common = math.lcm(*divisor.tolist())
        index = tables[op.index].reshape(len(divisor), -1)
        found = x.rows(index[:, 0])
        for k in range(1, index.shape[1]):
            found = found.plus(x.rows(index[:, k]))
        return found.scaled(common // divisor, Fraction(1, common))
    if isinstance(op, Affine):
        if op.scale is not None:
            scale = Exact.of(np.broadcast_to(tables[op.scale], node.shape).reshape(-1))
            x = x.scaled(scale.integers, scale.scale)
        shift = None if op.shift is None else tables[op.shift]
        return _shifted(x, None if shift is None else np.broadcast_to(shift, node.shape))
    if graph.nodes[node.inputs[0]].size * node.size > LARGEST:  # before its matrix is written out
        raise InputError(
            f"the network is too large for exact maps ({graph.nodes[node.inputs[0]].size} by "
            f"{node.size} values)"
        )
    if isinstance(op, Linear):
        weight = tables[op.weight]
        matrix = np.kron(np.eye(size // weight.shape[1]), weight) if (
            size != weight.shape[1]
        ) else weight  # fmt: skip
        bias = None if op.bias is None else np.broadcast_to(tables[op.bias], node.shape)
        return _shifted(_product(Exact.of(matrix), x), bias)
    if isinstance(op, Conv):
        matrix = _convolution(op, tables[op.weight], graph.nodes[node.inputs[0]].shape, node.shape)
        bias = None if op.bias is None else tables[op.bias].reshape(-1, *[1] * len(op.stride))
        full = None if bias is None else np.broadcast_to(bias, node.shape)
        return _shifted(_product(Exact.of(matrix), x), full)
    raise InputError(f"the network has an operation that is not piecewise linear: {op}")


def _product(matrix: Exact, x: Map) -> Map:
    """A matrix times affine functions."""
    parts = {k: matrix.times(part) for k, part in x.parts.items()}
    constant = matrix.times(Exact(x.constant.integers[:, None], x.constant.scale))
    return Map(parts, Exact(constant.integers[:, 0], constant.scale))


def _shifted(x: Map, shift: np.ndarray | None) -> Map:
    return x if shift is None else Map(x.parts, x.constant.plus(Exact.of(shift.reshape(-1))))


def _convolution(
    op: Conv, weight: np.ndarray, given: tuple[int, ...], made: tuple[int, ...]
) -> np.ndarray:
    """The matrix of a convolution; a transposed one is the transpose of a plain one."""
    if op.transposed:
        plain = Conv(op.weight, None, op.stride, op.padding, op.dilation, op.groups)
        return _convolution(plain, weight, made, given).T
    matrix = np.zeros((math.prod(made), math.prod(given)))
    out = np.indices(made).reshape(len(made), -1)
    per_group = made[0] // op.groups
    for tap in itertools.product(*(range(k) for k in weight.shape[1:])):
        channel = out[0] // per_group * weight.shape[1] + tap[0]
        inside, place = np.ones(out.shape[1], dtype=bool), [channel]
        for axis in range(len(op.stride)):
            at = (
                out[axis + 1] * op.stride[axis]
                - op.padding[axis]
                + tap[axis + 1] * op.dilation[axis]
            )
            inside &= (at >= 0) & (at < given[axis + 1])
            place.append(at)
        column = np.ravel_multi_index([p[inside] for p in place], given)
        matrix[np.flatnonzero(inside), column] += weight[(out[0][inside], *tap)]
    return matrix


def evaluate(layers: Sequence[Layer], outputs: Map, point: np.ndarray) -> Exact:
    """The outputs at a point (d,), as a column."""
    found = {-1: Exact.of(point[:, None])}
    for number, layer in enumerate(layers):
        z = _at(layer.map, found)
        units = layer.units
        if isinstance(units, Windows):
            best = [max(z.integers[v, 0] for v in row if v >= 0) for row in units.index.tolist()]
            found[number] = Exact(np.array([*best, None], dtype=object)[:-1, None], z.scale)
            continue
        scale = finer(z.scale, units.breaks.scale)
        passed = (z.at(scale) > units.breaks.at(scale)).sum(axis=1).astype(np.int64)
        each = np.arange(layer.count)
        slope = units.slopes.integers[each, passed][:, None]
        rest = Exact(units.rests.integers[each, passed][:, None], units.rests.scale)
        found[number] = Exact(slope * z.integers, units.slopes.scale * z.scale).plus(rest)
    return _at(outputs, found)


def _at(map_: Map, found: Mapping[int, Exact]) -> Exact:
    """The values of a map, as a column."""
    total = Exact(map_.constant.integers[:, None], map_.constant.scale)
    for source, part in map_.parts.items():
        total = total.plus(part.times(found[source]))
    return total
