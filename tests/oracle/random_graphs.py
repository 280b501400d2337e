"""Small random graphs of every piecewise-linear kind, plain and degenerate, for properties."""

from __future__ import annotations

import numpy as np

from polytope.network.build import GraphBuilder, Value
from polytope.network.ir import Graph
from polytope.network.windows import window_index

KINDS = ("mlp", "pieces", "conv", "transposed", "residual", "pool", "maxout")
VARIANTS = ("plain", "no bias", "dead", "duplicate", "tiny", "huge", "ties")


class _Random:
    """A builder with random weights of one variant."""

    def __init__(self, variant: str, seed: int) -> None:
        self.variant = variant
        self.rng = np.random.default_rng(seed)
        self.build = GraphBuilder()

    def weight(self, *shape: int) -> str:
        values = self.rng.normal(size=shape)
        match self.variant:
            case "dead":
                values[0] = 0.0
            case "duplicate":
                values[-1] = values[0]
            case "tiny":
                values *= 1e-30
            case "huge":
                values *= 1e30
            case "ties":
                values = np.round(values)
        return self.build.constant(values)

    def bias(self, size: int) -> str | None:
        if self.variant == "no bias":
            return None
        values = self.rng.normal(size=size)
        match self.variant:
            case "dead":
                values[0] = -1.0
            case "duplicate":
                values[-1] = values[0]
            case "ties":
                values = np.round(values)
        return self.build.constant(values)

    def linear(self, x: Value, size: int) -> Value:
        weight = self.weight(size, x.shape[-1])
        return self.build.linear(x, weight, self.bias(size))

    def conv(
        self, x: Value, channels: int, kernel: tuple[int, ...], stride: int = 1,
        padding: int = 0, dilation: int = 1, groups: int = 1, transposed: bool = False,
        extra: int = 0,
    ) -> Value:  # fmt: skip
        inner = x.shape[1]
        shape = (inner, channels // groups) if transposed else (channels, inner // groups)
        many = (1,) * len(kernel)
        return self.build.conv(
            x, self.weight(*shape, *kernel), self.bias(channels),
            [n * stride for n in many], [n * padding for n in many],
            [n * dilation for n in many], groups, transposed,
            [n * extra for n in many] if transposed else (),
        )  # fmt: skip

    def flat(self, x: Value) -> Value:
        return self.build.reshape(x, (1, x.size))


def random_graph(kind: str, variant: str, seed: int) -> Graph:
    """A graph of one of `KINDS` with weights of one of `VARIANTS`."""
    r = _Random(variant, seed)
    b = r.build
    match kind:
        case "mlp":
            x = b.input((4,))
            x = b.relu(r.linear(x, 6))
            x = b.relu(r.linear(x, 5))
        case "pieces":
            x = b.input((3,))
            x = b.leaky_relu(r.linear(x, 5), 0.01)
            x = b.clamp(r.linear(x, 4), -1.0, 0.7)
            x = b.abs(r.linear(x, 4))
            slopes = b.constant(np.stack([r.rng.normal(size=4), np.ones(4)], axis=-1))
            x = b.piecewise(x, "prelu", [0.0], slopes, [0.0, 0.0], "prelu")
            scale, shift = (b.constant(r.rng.normal(size=4)) for _ in range(2))
            x = b.affine(x, scale, shift)
        case "conv":
            x = b.input((2, 4, 3))
            x = b.relu(r.conv(x, 4, (3, 2), stride=2, padding=1, groups=2))
            index, shape, _ = window_index(x.shape[1:], (2, 2), (1, 1), (1, 1), (1, 1))
            x = b.max(x, index, (1, *shape), "max_pool")
            x = r.flat(b.relu(r.conv(x, 2, (2, 2), dilation=2, padding=1)))
        case "transposed":
            x = b.input((2, 3))
            x = b.relu(r.conv(x, 4, (3,), 2, 1, 1, 2, transposed=True, extra=1))
            x = b.relu(r.conv(x, 2, (2,), 1, 2, 1, 1, transposed=True))
            x = b.gather(x, np.array([[0, -1, 3, 1, x.size - 1]]))
        case "residual":
            x = b.relu(r.linear(b.input((4,)), 4))
            inner = r.linear(b.relu(r.linear(x, 3)), 4)
            x = b.relu(b.sum([x, inner, x], [1, -3, 2]))
            x = b.concat([x, inner], 1)
        case "pool":
            x = b.input((2, 6))
            x = b.relu(r.conv(x, 3, (2,)))
            index, shape, _ = window_index(x.shape[1:], (3,), (2,), (1,), (1,))
            count = (index >= 0).sum(axis=1)
            x = b.pool(x, index, count, (1, *shape), "average")
            x = b.relu(b.reduce(x, [2], keepdims=False, mean=True, name="mean"))
        case "maxout":
            x = b.input((3,))
            x = b.maximum([r.linear(x, 4), r.linear(x, 4), r.linear(x, 1)])
            x = b.minimum([r.linear(x, 3), r.linear(x, 3)])
        case _:
            raise ValueError(kind)
    return b.finish(r.linear(x, 3))


def random_point(graph: Graph, variant: str, seed: int) -> np.ndarray:
    """An input; on a coarse grid for "ties", so that pre-activations are often equal or 0."""
    values = np.random.default_rng(seed).normal(size=graph.input_shape)
    return np.round(values) if variant == "ties" else values
