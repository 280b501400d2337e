"""The compiled graph in `fractions.Fraction`, in plain loops: the exact oracle.

It shares nothing with the engine or with `polytope.network.exact` but the definition of the
operations in `polytope.network.ir`.  Slow: for networks of some hundred weights.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from polytope.network import ir

Vector = list[Fraction]
#: Gradients (n rows over the flattened input) and offsets (n) of an affine map.
AffineMap = tuple[list[Vector], Vector]


def run_exact(graph: ir.Graph, x: np.ndarray) -> Vector:
    """The flat outputs at one input."""
    return _walk(graph, _vector(x))[-1]


def pieces_exact(graph: ir.Graph, x: np.ndarray) -> list[int]:
    """The piece of every unit at one input, by the convention for ties."""
    values = _walk(graph, _vector(x))
    found: list[int] = []
    for layer in graph.layers:
        node = graph.nodes[layer.node]
        found.extend(_natural(graph, node, values[node.inputs[0]]))
    return found


def affine_exact(graph: ir.Graph, pieces: Sequence[int]) -> list[AffineMap]:
    """The affine maps of a pattern: of each layer's pre-activations, then of the outputs.

    They are read off the frozen network at 0 and at each unit vector.
    """
    size = graph.nodes[0].size
    zero = [Fraction(0)] * size
    places = [graph.nodes[layer.node].inputs[0] for layer in graph.layers]
    places.append(len(graph.nodes) - 1)
    at_zero = _walk(graph, zero, pieces)
    at_axes = []
    for axis in range(size):
        unit = list(zero)
        unit[axis] = Fraction(1)
        at_axes.append(_walk(graph, unit, pieces))
    return [
        (
            [[at[place][i] - offset for at in at_axes] for i, offset in enumerate(at_zero[place])],
            at_zero[place],
        )
        for place in places
    ]


def _vector(array: np.ndarray) -> Vector:
    flat = np.asarray(array).reshape(-1)
    return [v if isinstance(v, Fraction) else Fraction(float(v)) for v in flat]


def _walk(graph: ir.Graph, x: Vector, pieces: Sequence[int] | None = None) -> list[Vector]:
    """The flat value of every node; `pieces` freezes the network."""
    first = {layer.node: layer.first_unit for layer in graph.layers}
    values = [x]
    for number, node in enumerate(graph.nodes[1:], start=1):
        args = [values[i] for i in node.inputs]
        if number not in first:
            values.append(_plain(graph, node, args))
        elif pieces is None:
            values.append(_frozen(graph, node, args[0], _natural(graph, node, args[0])))
        else:
            own = pieces[first[number] : first[number] + node.size]
            values.append(_frozen(graph, node, args[0], own))
    return values


def _natural(graph: ir.Graph, node: ir.Node, z: Vector) -> list[int]:
    op, c = node.op, graph.constants
    if isinstance(op, ir.Max):
        found = []
        for row in c[op.index]:
            candidates = [(z[i], -k) for k, i in enumerate(row) if i >= 0]
            found.append(-max(candidates)[1])
        return found
    assert isinstance(op, ir.Piecewise)
    limits = _each(c[op.breakpoints], node)
    return [sum(value > t for t in _vector(row)) for value, row in zip(z, limits, strict=True)]


def _frozen(graph: ir.Graph, node: ir.Node, z: Vector, pieces: Sequence[int]) -> Vector:
    op, c = node.op, graph.constants
    if isinstance(op, ir.Max):
        return [z[row[k]] for row, k in zip(c[op.index], pieces, strict=True)]
    assert isinstance(op, ir.Piecewise)
    slopes, intercepts = _each(c[op.slopes], node), _each(c[op.intercepts], node)
    return [
        Fraction(float(slope[k])) * value + Fraction(float(intercept[k]))
        for value, slope, intercept, k in zip(z, slopes, intercepts, pieces, strict=True)
    ]


def _each(constant: np.ndarray, node: ir.Node) -> np.ndarray:
    """A constant over pieces or breakpoints, one row per unit."""
    last = constant.shape[-1]
    return np.broadcast_to(constant, (*node.shape, last)).reshape(-1, last)


def _plain(graph: ir.Graph, node: ir.Node, args: list[Vector]) -> Vector:
    op, c, x = node.op, graph.constants, args[0]
    match op:
        case ir.Linear():
            rows = [_vector(row) for row in c[op.weight]]
            bias = _vector(np.zeros(len(rows)) if op.bias is None else c[op.bias])
            width = len(rows[0])
            return [
                b + sum(w * v for w, v in zip(row, x[start : start + width], strict=True))
                for start in range(0, len(x), width)
                for row, b in zip(rows, bias, strict=True)
            ]
        case ir.Conv():
            return _convolve(op, x, graph.nodes[node.inputs[0]].shape, node.shape, c)
        case ir.Affine():
            scale = np.ones(()) if op.scale is None else c[op.scale]
            shift = np.zeros(()) if op.shift is None else c[op.shift]
            scales, shifts = (_vector(np.broadcast_to(a, node.shape)) for a in (scale, shift))
            return [v * s + t for v, s, t in zip(x, scales, shifts, strict=True)]
        case ir.Gather():
            if op.index is None:
                return x
            return [x[i] if i >= 0 else Fraction(0) for i in c[op.index]]
        case ir.Concat():
            return [v for arg in args for v in arg]
        case ir.Sum():
            return [
                sum((k * v for k, v in zip(op.coefficients, column, strict=True)), Fraction(0))
                for column in zip(*args, strict=True)
            ]
        case ir.Pool():
            return [
                sum((x[i] for i in row if i >= 0), Fraction(0)) / int(divisor)
                for row, divisor in zip(c[op.index], c[op.divisor], strict=True)
            ]
        case _:
            raise TypeError(f"the exact oracle does not know {type(op).__name__}")


def _convolve(
    op: ir.Conv, x: Vector, shape: ir.Shape, out_shape: ir.Shape, c: Mapping[str, np.ndarray]
) -> Vector:
    """By the definition: input cell i meets output cell o where the stride rule says."""
    weight = c[op.weight]
    kernel = weight.shape[2:]
    area, out_area = math.prod(shape[1:]), math.prod(out_shape[1:])
    result = [Fraction(0)] * (out_shape[0] * out_area)
    if op.bias is not None:
        result = [b for b in _vector(c[op.bias]) for _ in range(out_area)]
    per_in, per_out = shape[0] // op.groups, out_shape[0] // op.groups
    small, large = (shape, out_shape) if op.transposed else (out_shape, shape)
    for near in itertools.product(*map(range, small[1:])):
        for cell in itertools.product(*map(range, kernel)):
            far = [
                i * s - p + d * k
                for i, s, p, d, k in zip(
                    near, op.stride, op.padding, op.dilation, cell, strict=True
                )
            ]
            if not all(0 <= f < n for f, n in zip(far, large[1:], strict=True)):
                continue
            here, there = (near, far) if op.transposed else (far, near)
            source, target = _place(here, shape[1:]), _place(there, out_shape[1:])
            for i, o in itertools.product(range(shape[0]), range(out_shape[0])):
                if i // per_in != o // per_out:
                    continue
                at = (i, o % per_out) if op.transposed else (o, i % per_in)
                factor = Fraction(float(weight[(*at, *cell)]))
                result[o * out_area + target] += factor * x[i * area + source]
    return result


def _place(cell: Sequence[int], shape: Sequence[int]) -> int:
    place = 0
    for index, size in zip(cell, shape, strict=True):
        place = place * size + index
    return place
