"""Bounds against exact arithmetic: no computed bound is above the truth by even one bit."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytope.bounds.crown import FunctionBounds, crown
from polytope.bounds.inputs import InputSet
from polytope.bounds.layers import LayerBounds, allowed_pieces
from polytope.bounds.slopes import optimised_bounds
from polytope.network.engine import Engine
from polytope.network.ir import Graph
from tests.oracle.random_graphs import KINDS, VARIANTS, random_graph, random_point
from tests.oracle.rational import affine_exact, pieces_exact, run_exact

RADII = (0.0, 1e-12, 0.1, 3.0)


def tensor(values: object) -> torch.Tensor:
    """In float64."""
    return torch.tensor(values, dtype=torch.float64)


def fractions(x: np.ndarray | torch.Tensor) -> list[Fraction]:
    return [Fraction(float(v)) for v in np.asarray(x).reshape(-1)]


def dot(a: list[Fraction], b: list[Fraction]) -> Fraction:
    return sum((u * v for u, v in zip(a, b, strict=True)), Fraction(0))


def at_least(value: Fraction, bound: torch.Tensor | float) -> bool:
    """Whether an exact value is no less than a float that may be infinite."""
    number = float(bound)
    return number == -math.inf or (number < math.inf and value >= Fraction(number))


def points_of(X: InputSet, sample: int, minimisers: torch.Tensor, seed: int) -> list[np.ndarray]:
    """Points inside one set, exactly: its corners and middle, and what the bounds point at."""
    rng = np.random.default_rng(seed)
    low, high = X.low[sample].numpy(), X.high[sample].numpy()
    found = [low + rng.integers(0, 2, size=low.size) * (high - low) for _ in range(3)]
    found = [np.clip(z, low, high) for z in (*found, rng.uniform(low, high))]
    found += list(minimisers[sample].numpy())
    if X.center is None or X.radius is None:
        return found
    center = X.center[sample].numpy()
    kept = [center]
    for z in found:
        step = 1.0
        while not _in_ball(z := center + step * (z - center), center, X, sample):
            step /= 2
        kept.append(np.clip(z, low, high))
    return [z for z in kept if _in_ball(z, center, X, sample)]


def _in_ball(z: np.ndarray, center: np.ndarray, X: InputSet, sample: int) -> bool:
    assert X.radius is not None
    steps = [abs(u - v) for u, v in zip(fractions(z), fractions(center), strict=True)]
    p = int(X.p)
    return sum(s**p for s in steps) <= Fraction(float(X.radius[sample])) ** p


def check(
    graph: Graph, L: LayerBounds, F: FunctionBounds, C: np.ndarray, z: np.ndarray, sample: int
) -> None:
    """All bounds of one sample hold at an input, in exact arithmetic."""
    x = z.reshape(graph.input_shape)
    assert not L.empty[sample]
    pieces = pieces_exact(graph, x)
    flat = fractions(z)
    maps = affine_exact(graph, pieces)
    for k, (rows, offsets) in enumerate(maps[:-1]):
        layer = graph.layers[k]
        for i, (row, offset) in enumerate(zip(rows, offsets, strict=True)):
            value = dot(row, flat) + offset
            assert at_least(value, L.lower[k][sample, i])
            assert at_least(-value, -L.upper[k][sample, i])
        own = pieces[layer.unit_slice]
        if not layer.is_max:
            _check_pieces(graph, L, k, sample, own, maps[k], flat)
    outputs = run_exact(graph, x)
    for j, row in enumerate(C):
        value = dot(fractions(row), outputs)
        assert at_least(value, F.lower[sample, j])
        if bool(torch.isfinite(F.offset[sample, j])) and bool(torch.isfinite(F.a[sample, j]).all()):
            line = dot(fractions(F.a[sample, j]), flat) + Fraction(float(F.offset[sample, j]))
            assert value >= line


def _check_pieces(
    graph: Graph, L: LayerBounds, k: int, sample: int, own: list[int], affine: object,
    flat: list[Fraction],
) -> None:  # fmt: skip
    """The piece that a unit takes is among those left, or it shares its end with one of them."""
    rows, offsets = affine  # type: ignore[misc]
    node = graph.nodes[graph.layers[k].node]
    breaks = np.broadcast_to(
        graph.constants[node.op.breakpoints],  # type: ignore[union-attr]
        (*node.shape, graph.layers[k].slots),
    ).reshape(graph.layers[k].units, -1)
    for i, piece in enumerate(own):
        left = L.pieces[k][sample, i]
        if not left[piece]:
            value = dot(rows[i], flat) + offsets[i]
            ends = [j for j, t in enumerate(breaks[i]) if Fraction(float(t)) == value]
            assert any(left[j] or left[j + 1] for j in ends)


def make(kind: str, variant: str, seed: int, p: float, box: bool) -> tuple[Engine, InputSet]:
    """A random network and four sets around a random point, from a point to a large ball."""
    net = Engine(random_graph(kind, variant, seed))
    point = torch.tensor(random_point(net.graph, variant, seed).reshape(1, -1))
    centers = point.expand(len(RADII), -1).contiguous()
    sides = (centers - 0.05, centers + 0.2) if box else (None, None)
    return net, InputSet.from_ball(centers, tensor(RADII), p, *sides)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
def test_bounds_hold_exactly(kind: str, variant: str) -> None:
    """Points, tiny and large sets; huge, tiny, dead, duplicated and tied weights."""
    for seed, p, box in ((0, math.inf, False), (1, 2, True), (2, 1, False)):
        net, X = make(kind, variant, seed, p, box)
        C = np.random.default_rng(seed).normal(size=(2, net.output_size))
        L, F = crown(net, X, torch.tensor(C))
        for sample in range(len(X)):
            for z in points_of(X, sample, F.minimiser, seed):
                check(net.graph, L, F, C, z, sample)


@settings(max_examples=25)
@given(
    st.sampled_from(KINDS), st.sampled_from(VARIANTS), st.integers(0, 10_000),
    st.sampled_from([1, 2, math.inf]), st.booleans(),
)  # fmt: skip
def test_bounds_hold_exactly_under_constraints(
    kind: str, variant: str, seed: int, p: float, box: bool
) -> None:
    """With some units held to the pieces of a point, all bounds hold at that point, exactly.

    So do those of optimised slopes and multipliers.
    """
    net, X = make(kind, variant, seed, p, box)
    rng = np.random.default_rng(seed)
    C = rng.normal(size=(2, net.output_size))
    inside = [points_of(X, s, X.low[:, None], seed)[0] for s in range(len(X))]
    taken = np.array([pieces_exact(net.graph, z.reshape(net.input_shape)) for z in inside])
    taken[rng.random(taken.shape) < 0.5] = -1
    L, F = crown(net, X, torch.tensor(C), allowed=allowed_pieces(net, torch.tensor(taken)))
    G = optimised_bounds(L, torch.tensor(C), steps=2)
    for sample, z in enumerate(inside):
        check(net.graph, L, F, C, z, sample)
        check(net.graph, L, G, C, z, sample)


@pytest.mark.parametrize("kind", KINDS)
def test_rounding_is_a_matter_of_digits(kind: str) -> None:
    """Around a point the bounds are within 1e-11 of the outputs: the analysis is not crude."""
    net, X = make(kind, "plain", 3, math.inf, False)
    C = torch.eye(net.output_size, dtype=torch.float64)
    _, F = crown(net, X, C)
    with torch.no_grad():
        outputs = net.forward(X.low[:1].reshape(1, *net.input_shape)).flatten(1)
    gap = outputs - F.lower[:1]
    assert (gap >= 0).all()
    assert gap.max() <= 1e-11 * (1 + outputs.abs().max())
