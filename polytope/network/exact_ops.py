"""The operations of the graph on exact rational numbers, for `polytope.network.exact`.

Floats are dyadic rationals, so an array is held as Python integers with one power of two, and
one positive denominator for the divisors of means: every operation of the graph but a smooth
activation is then a sum of products of integers.

Values are rows (n, columns): the last column is the value at a point, which the shifts and
intercepts are added to, and those before it are derivatives of it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from polytope.network.ir import (
    Affine,
    Concat,
    Conv,
    Gather,
    Graph,
    Linear,
    Node,
    Piecewise,
    Pool,
    Shape,
    Sum,
)

#: Bits of a float64's significand.
SIGNIFICAND = 53


@dataclass(frozen=True)
class ExactArray:
    """Rational numbers ``integers * 2**exponent / denominator``.

    Attributes
    ----------
    integers : object array of Python ints
    exponent : int
    denominator : int
        Positive.
    """

    integers: np.ndarray
    exponent: int
    denominator: int = 1

    @classmethod
    def from_floats(cls, values: np.ndarray) -> ExactArray:
        """The floats themselves: finite float64 of any shape."""
        flat = values.reshape(-1)
        fraction, power = np.frexp(flat)
        whole = (fraction * 2.0**SIGNIFICAND).astype(np.int64)
        lowest = np.frexp((whole & -whole).astype(np.float64))[1] - 1
        zeros = np.where(whole == 0, 0, lowest)
        power = power - SIGNIFICAND + zeros
        exponent = int(power[whole != 0].min()) if whole.any() else 0
        shift = np.where(whole == 0, 0, power - exponent)
        integers = (whole >> zeros).astype(object) << shift.astype(object)
        return cls(integers.reshape(values.shape), exponent)

    def fraction(self, position: int) -> Fraction:
        """One element, by its flat position."""
        value = Fraction(self.integers.flat[position], self.denominator)
        return value * Fraction(2) ** self.exponent

    def to_fractions(self) -> list[Fraction]:
        """All elements, flattened."""
        return [self.fraction(position) for position in range(self.integers.size)]


Constants = Mapping[str, ExactArray]


@functools.lru_cache(maxsize=4)
def exact_constants(graph: Graph) -> Constants:
    """The graph's floating constants as integers; kept for the last few graphs."""
    return {
        key: ExactArray.from_floats(array)
        for key, array in graph.constants.items()
        if array.dtype.kind == "f"
    }


def apply(
    node: Node,
    args: list[ExactArray],
    shape: Shape,
    constants: Constants,
    tables: Mapping[str, np.ndarray],
) -> ExactArray:
    """A node with no pieces; `shape` is that of its first argument."""
    op, x = node.op, args[0]
    match op:
        case Linear():
            weight = constants[op.weight]
            rows = x.integers.reshape(-1, weight.integers.shape[1], x.integers.shape[1])
            products = [_product(weight.integers, row) for row in rows]
            value = _times(weight, x, np.concatenate(products))
            return _plus(value, op.bias, node.shape, constants)
        case Conv():
            weight = constants[op.weight]
            value = _times(weight, x, _convolution(op, weight.integers, x.integers, shape))
            spatial = (1,) * (weight.integers.ndim - 2)
            return _plus(value, op.bias, node.shape, constants, (-1, *spatial))
        case Affine():
            if op.scale is not None:
                scale = constants[op.scale]
                x = _times(scale, x, x.integers * _spread(scale.integers, node.shape)[:, None])
            return _plus(x, op.shift, node.shape, constants)
        case Gather():
            if op.index is None:
                return x
            return ExactArray(_take(x.integers, tables[op.index]), x.exponent, x.denominator)
        case Concat():
            integers, exponent, denominator = to_common(args)
            return ExactArray(np.concatenate(integers), exponent, denominator)
        case Sum():
            integers, exponent, denominator = to_common(args)
            terms = [k * i for k, i in zip(op.coefficients, integers, strict=True)]
            return ExactArray(functools.reduce(np.add, terms), exponent, denominator)
        case Pool():
            divisors = tables[op.divisor]
            common = math.lcm(*(int(d) for d in np.unique(divisors)))
            sums = _take(x.integers, tables[op.index]).sum(axis=1)
            factors = (common // divisors).astype(object)
            return ExactArray(sums * factors[:, None], x.exponent, x.denominator * common)
        case _:
            raise TypeError(f"{type(op).__name__} is not applied as a plain operation")


def pieces_beyond(z: ExactArray, breakpoints: ExactArray, shape: Shape) -> np.ndarray:
    """How many breakpoints each unit has passed."""
    (values, limits), _, _ = to_common([z, breakpoints])
    passed = np.zeros(len(values), dtype=np.int64)
    for limit in per_unit(limits, shape).T:
        beyond = values.copy()
        beyond[:, -1] -= limit
        passed += _positive(beyond)
    return passed


def winners(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The first largest candidate of each window."""
    pieces: np.ndarray = (index >= 0).argmax(axis=1)
    best = values[index[np.arange(len(index)), pieces]]
    for candidate, positions in enumerate(index.T):
        better = (positions >= 0) & _positive(values[positions] - best)
        best = np.where(better[:, None], values[positions], best)
        pieces[better] = candidate
    return pieces


def _positive(rows: np.ndarray) -> np.ndarray:
    """Whether the value, or the first derivative that is not zero, is positive: bool (n,)."""
    positive, zero = rows[:, -1] > 0, rows[:, -1] == 0
    for derivative in rows.T[:-1]:
        positive |= zero & (derivative > 0)
        zero &= derivative == 0
    return np.asarray(positive)


def frozen(
    op: Piecewise, z: ExactArray, pieces: np.ndarray, constants: Constants, shape: Shape
) -> ExactArray:
    """The value behind a piecewise function whose pieces are given."""
    slopes, intercepts = constants[op.slopes], constants[op.intercepts]
    slope, intercept = (
        np.take_along_axis(per_unit(c.integers, shape), pieces[:, None], axis=1)
        for c in (slopes, intercepts)
    )
    scaled = _times(slopes, z, slope * z.integers)
    return _shift(scaled, ExactArray(intercept[:, 0], intercepts.exponent))


def _convolution(op: Conv, weight: np.ndarray, x: np.ndarray, shape: Shape) -> np.ndarray:
    """The products of a convolution, flat; a transposed one is plain on spaced-out positions."""
    kernel = weight.shape[2:]
    axes = tuple(range(1, 1 + len(kernel)))
    positions = np.arange(len(x)).reshape(shape)
    spans = [d * (k - 1) for d, k in zip(op.dilation, kernel, strict=True)]
    pads = [(p, p) for p in op.padding]
    stride = op.stride
    filters = weight.reshape(op.groups, -1, *weight.shape[1:])
    if op.transposed:
        sizes = [(n - 1) * s + 1 for n, s in zip(shape[1:], stride, strict=True)]
        spaced = np.full((shape[0], *sizes), -1)
        spaced[(slice(None), *(slice(None, None, s) for s in stride))] = positions
        positions = spaced
        pads = [
            (span - p, span - p + extra)
            for span, p, extra in zip(spans, op.padding, op.output_padding, strict=True)
        ]
        stride = (1,) * len(kernel)
        filters = np.flip(filters.swapaxes(1, 2), tuple(axis + 2 for axis in axes))
    around = [(max(before, 0), max(after, 0)) for before, after in pads]
    positions = np.pad(positions, [(0, 0), *around], constant_values=-1)
    inside = (
        slice(max(-before, 0), size - max(-after, 0))
        for (before, after), size in zip(pads, positions.shape[1:], strict=True)
    )
    windows = np.lib.stride_tricks.sliding_window_view(
        positions[(slice(None), *inside)], [span + 1 for span in spans], axis=axes
    )
    steps = (slice(None, None, s) for s in (*stride, *op.dilation))
    windows = windows[(slice(None), *steps)]
    cells = math.prod(kernel)
    table = windows.reshape(op.groups, shape[0] // op.groups, -1, cells).swapaxes(1, 2)
    rows = filters.reshape(op.groups, filters.shape[1], -1)
    products = [
        np.stack([_product(own, _take(x, window.reshape(-1))) for window in group], axis=1)
        for own, group in zip(rows, table, strict=True)
    ]
    return np.concatenate(products).reshape(-1, x.shape[1])


def _product(weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    """``weight @ x`` without the zero rows of `x` (dead units, padding)."""
    alive = np.flatnonzero((x != 0).any(axis=1))
    if len(alive) == 0:
        return np.full((len(weight), x.shape[1]), 0, dtype=object)
    products: np.ndarray = weight[:, alive] @ x[alive]
    return products


def _take(x: np.ndarray, index: np.ndarray) -> np.ndarray:
    """``x[index]``, a row of zeros where the index is -1."""
    taken: np.ndarray = np.append(x, np.zeros_like(x[:1]), axis=0)[index]
    return taken


def _times(a: ExactArray, b: ExactArray, products: np.ndarray) -> ExactArray:
    """Sums of products of elements of `a` and `b`."""
    return ExactArray(products, a.exponent + b.exponent, a.denominator * b.denominator)


def to_common(arrays: Sequence[ExactArray]) -> tuple[list[np.ndarray], int, int]:
    """Integers of several arrays over one exponent and one denominator."""
    exponent = min(a.exponent for a in arrays)
    denominator = math.lcm(*(a.denominator for a in arrays))
    factors = [(denominator // a.denominator) << (a.exponent - exponent) for a in arrays]
    integers = [a.integers * k if k > 1 else a.integers
                for a, k in zip(arrays, factors, strict=True)]  # fmt: skip
    return integers, exponent, denominator


def _shift(x: ExactArray, constant: ExactArray) -> ExactArray:
    """`x` with a constant (n,) added to its last column."""
    (values, added), exponent, denominator = to_common([x, constant])
    values = values.copy()
    values[:, -1] += added
    return ExactArray(values, exponent, denominator)


def _plus(
    x: ExactArray, key: str | None, shape: Shape, constants: Constants, axes: Shape | None = None
) -> ExactArray:
    """``x`` plus a constant (first reshaped to `axes`) that broadcasts to `shape`; or `x`."""
    if key is None:
        return x
    shift = constants[key]
    integers = shift.integers if axes is None else shift.integers.reshape(axes)
    return _shift(x, ExactArray(_spread(integers, shape), shift.exponent))


def _spread(integers: np.ndarray, shape: Shape) -> np.ndarray:
    """A constant broadcast to a shape, flat."""
    return np.broadcast_to(integers, shape).reshape(-1)


def per_unit(integers: np.ndarray, shape: Shape) -> np.ndarray:
    """A constant (*broadcastable, k) as (units, k)."""
    last = integers.shape[-1]
    return np.broadcast_to(integers, (*shape, last)).reshape(-1, last)
