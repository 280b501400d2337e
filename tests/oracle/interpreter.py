"""A second, slow meaning of the compiled graph, in plain loops: the oracle of the engines.

It shares nothing with `polytope.network.engine` but the definition of the ten operations in
`polytope.network.ir`.  One input at a time, float64.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from polytope.network import ir


def run_graph(graph: ir.Graph, x: np.ndarray) -> np.ndarray:
    """The output of `graph` at one input `x` of the graph's input shape."""
    values: list[np.ndarray] = []
    for node in graph.nodes:
        inputs = [values[i] for i in node.inputs]
        if isinstance(node.op, ir.Input):
            value = np.asarray(x, dtype=np.float64)
            if value.shape != graph.input_shape:
                raise ValueError(f"expected shape {graph.input_shape}, got {value.shape}")
        else:
            value = run_node(node.op, inputs, graph.constants)
        if value.size != node.size:
            raise ValueError(f"{node.name}: {value.size} values for shape {node.shape}")
        values.append(value.reshape(node.shape))
    return values[-1]


def run_node(op: ir.Op, inputs: list[np.ndarray], c: dict[str, np.ndarray]) -> np.ndarray:
    """One operation on one point."""
    x = inputs[0]
    if isinstance(op, ir.Linear):
        y = np.tensordot(x, c[op.weight], axes=([-1], [1]))
        return y if op.bias is None else y + c[op.bias]
    if isinstance(op, ir.Conv):
        return convolve(op, x, c[op.weight], None if op.bias is None else c[op.bias])
    if isinstance(op, ir.Affine):
        y = x if op.scale is None else x * c[op.scale]
        return y if op.shift is None else y + c[op.shift]
    if isinstance(op, ir.Gather):
        if op.index is None:
            return x
        return np.array([0.0 if i < 0 else x.flat[i] for i in c[op.index]])
    if isinstance(op, ir.Concat):
        return np.concatenate([value.reshape(-1) for value in inputs])
    if isinstance(op, ir.Sum):
        total = np.zeros_like(x)
        for coefficient, value in zip(op.coefficients, inputs, strict=True):
            total = total + coefficient * value
        return total
    if isinstance(op, ir.Pool):
        sums = [sum(x.flat[i] for i in row if i >= 0) for row in c[op.index]]
        return np.array(sums) / c[op.divisor]
    if isinstance(op, ir.Max):
        return np.array([max(x.flat[i] for i in row if i >= 0) for row in c[op.index]])
    if isinstance(op, ir.Piecewise):
        return piecewise(x, c[op.breakpoints], c[op.slopes], c[op.intercepts])
    assert isinstance(op, ir.Smooth)
    return np.array([smooth(op.kind, op.parameters, z) for z in x.flat])


def piecewise(
    x: np.ndarray, breakpoints: np.ndarray, slopes: np.ndarray, intercepts: np.ndarray
) -> np.ndarray:
    """Each element by the piece whose interval holds it."""
    edges = np.broadcast_to(breakpoints, (*x.shape, breakpoints.shape[-1]))
    slope = np.broadcast_to(slopes, (*x.shape, slopes.shape[-1]))
    intercept = np.broadcast_to(intercepts, (*x.shape, intercepts.shape[-1]))
    y = np.empty_like(x)
    for at in np.ndindex(x.shape):
        piece = int((x[at] > edges[at]).sum())
        y[at] = slope[at][piece] * x[at] + intercept[at][piece]
    return y


def convolve(op: ir.Conv, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """A (transposed) convolution, one product at a time over outputs and kernel cells."""
    kernel, spatial = weight.shape[2:], x.shape[1:]
    per_in = x.shape[0] // op.groups
    if op.transposed:
        channels = weight.shape[1] * op.groups
        extra = op.output_padding or (0,) * len(kernel)
        sizes = [
            (n - 1) * s - 2 * p + d * (k - 1) + 1 + e
            for n, s, p, d, k, e in zip(
                spatial, op.stride, op.padding, op.dilation, kernel, extra, strict=True
            )
        ]
    else:
        channels = weight.shape[0]
        sizes = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, s, p, d, k in zip(
                spatial, op.stride, op.padding, op.dilation, kernel, strict=True
            )
        ]
    y = np.zeros((channels, *sizes))
    many = spatial if op.transposed else sizes
    for near in itertools.product(*(range(n) for n in many)):
        for cell in itertools.product(*(range(k) for k in kernel)):
            far = tuple(
                i * s - p + d * k
                for i, s, p, d, k in zip(
                    near, op.stride, op.padding, op.dilation, cell, strict=True
                )
            )
            limits = sizes if op.transposed else spatial
            if any(f < 0 or f >= n for f, n in zip(far, limits, strict=True)):
                continue
            for group in range(op.groups):
                ins = slice(group * per_in, (group + 1) * per_in)
                per_out = channels // op.groups
                outs = slice(group * per_out, (group + 1) * per_out)
                if op.transposed:
                    matrix = weight[(ins, slice(None), *cell)].T
                    y[(outs, *far)] += matrix @ x[(ins, *near)]
                else:
                    matrix = weight[(outs, slice(None), *cell)]
                    y[(outs, *near)] += matrix @ x[(ins, *far)]
    if bias is not None:
        y += bias.reshape(-1, *(1,) * len(kernel))
    return y


def smooth(kind: str, parameters: tuple[float, ...], z: float) -> float:
    """A smooth activation of one number."""
    if kind == "sigmoid":
        return 1 / (1 + math.exp(-z))
    if kind == "tanh":
        return math.tanh(z)
    if kind == "atan":
        return math.atan(z)
    if kind == "softplus":
        beta, threshold = parameters or (1.0, 20.0)
        return z if beta * z > threshold else math.log1p(math.exp(beta * z)) / beta
    if kind == "elu":
        (alpha,) = parameters or (1.0,)
        return z if z > 0 else alpha * math.expm1(z)
    raise ValueError(f"unknown smooth activation {kind!r}")
