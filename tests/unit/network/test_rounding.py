"""Rounding bounds hold against exact arithmetic, and are not loose."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytope.network.build import GraphBuilder
from polytope.network.engine import Engine, LayerState
from polytope.network.ir import Graph
from polytope.network.rounding import RoundingBounds, rounding_bounds
from tests.oracle.random_graphs import KINDS, VARIANTS, random_graph, random_point
from tests.oracle.rational import affine_exact, run_exact

Measured = list[tuple[LayerState, RoundingBounds]]


def measured(graph: Graph, x: np.ndarray, dtype: torch.dtype = torch.float64) -> Measured:
    """A sweep with all gradients beside its bounds."""
    net = Engine(graph)
    points = torch.as_tensor(x, dtype=dtype)[None]
    axes = torch.eye(net.input_size, dtype=dtype).reshape(1, net.input_size, *net.input_shape)
    pieces = net.pieces(points)
    states = list(net.sweep(points, axes))
    return list(zip(states, rounding_bounds(net, points, pieces), strict=True))


def check(graph: Graph, x: np.ndarray, dtype: torch.dtype = torch.float64) -> None:
    """No value and no gradient is farther from the exact one than its bound."""
    found = measured(graph, x, dtype)
    chosen = [s.pieces.flatten().tolist() for s, _ in found if s.pieces is not None]
    exact = affine_exact(graph, [piece for own in chosen for piece in own])
    point = [Fraction(float(v)) for v in x.reshape(-1)]
    for (state, bound), (gradients, offsets) in zip(found, exact, strict=True):
        assert state.gradients is not None
        rows = state.gradients[0].T.tolist()
        for i, value in enumerate(state.values[0].tolist()):
            true = offsets[i] + sum(g * v for g, v in zip(gradients[i], point, strict=True))
            assert within(abs(Fraction(value) - true), bound.value[0, i].item())
            pairs = zip(rows[i], gradients[i], strict=True)
            off = sum((abs(Fraction(g) - e) for g, e in pairs), Fraction(0))
            assert within(off, bound.gradient[0, i].item())


def within(difference: Fraction, bound: float) -> bool:
    """Whether an exact difference is below a bound, which may be infinite."""
    return bound == math.inf or difference <= Fraction(bound)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None)
@given(variant=st.sampled_from(VARIANTS), seed=st.integers(0, 2**32 - 1))
def test_bounds_hold(kind: str, variant: str, seed: int) -> None:
    graph = random_graph(kind, variant, seed)
    check(graph, random_point(graph, variant, seed + 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e-160, 1e150])
def test_bounds_hold_where_numbers_are_extreme(kind: str, scale: float) -> None:
    for seed in range(3):
        graph = random_graph(kind, "no bias", seed)
        check(graph, scale * random_point(graph, "plain", seed))


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_hold_in_float32(kind: str) -> None:
    for seed in range(3):
        graph = random_graph(kind, "plain", seed)
        x = random_point(graph, "plain", seed).astype(np.float32).astype(np.float64)
        check(graph, x, torch.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_value_bounds_hold_for_the_network_whatever_the_pieces(kind: str) -> None:
    for seed in range(5):  # coarse weights, one tiny step off the ties
        graph = random_graph(kind, "ties", seed)
        x = random_point(graph, "ties", seed) * (1 + 1e-15)
        _, bound = measured(graph, x)[-1]
        found = Engine(graph).forward(torch.as_tensor(x)[None]).flatten().tolist()
        for value, true, error in zip(
            found, run_exact(graph, x), bound.value[0].tolist(), strict=True
        ):
            assert within(abs(Fraction(value) - true), error)


def chain(*weights: float, shift: float = 0.0) -> Graph:
    """One number through a chain of multiplications, the last one shifted."""
    b = GraphBuilder()
    x = b.input((1,))
    for number, weight in enumerate(weights):
        bias = b.constant([shift]) if number == len(weights) - 1 and shift else None
        x = b.linear(x, b.constant([[weight]]), bias)
    return b.finish(x)


def test_underflow_is_counted() -> None:
    graph = chain(1e-200, 1e-200, 1e200, 1e200, shift=1.0)
    state, bound = measured(graph, np.array([1.0]))[-1]
    assert state.values.item() == 1.0  # the exact value is about 2
    assert bound.value.item() >= 0.99
    assert bound.gradient.item() >= 0.99
    check(graph, np.array([1.0]))


@pytest.mark.parametrize("slope", [0.0, 0.01])
def test_errors_are_carried_through_activations(slope: float) -> None:
    rng = np.random.default_rng(0)
    weight, point = rng.normal(size=(8, 20)), rng.normal(size=20)
    b = GraphBuilder()
    shift = b.constant(-(weight @ point))  # leaves only what rounding made, and a little
    x = b.linear(b.input((20,)), b.constant(weight), shift)
    graph = b.finish(b.leaky_relu(b.leaky_relu(x, slope), slope))
    point = point * (1 + 1e-15)
    (state, _), *_, (_, last) = measured(graph, point)
    assert 0 < (state.values > 0).sum() < 8
    check(graph, point)
    assert (last.value < 1e-12).all()


def test_overflow_gives_infinite_bounds() -> None:
    _, bound = measured(chain(1e200, 1e200), np.array([1e5]))[-1]
    assert bound.value.item() == math.inf
    assert bound.gradient.item() == math.inf


def test_gradients_that_are_zero_by_structure_have_no_error() -> None:
    b = GraphBuilder()
    x = b.relu(b.linear(b.input((2,)), b.constant([[0.0, 0.0], [1.0, 3.0]])))
    graph = b.finish(b.linear(x, b.constant([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])))
    found = measured(graph, np.array([0.3, 0.4]))
    assert found[0][1].gradient[0].gt(0).tolist() == [False, True]
    assert found[1][1].gradient[0].gt(0).tolist() == [False, True, False]


def test_moving_data_has_no_error() -> None:
    b = GraphBuilder()
    x = b.input((3,))
    moved = b.gather(b.relu(x), np.array([[2, -1, 0]]))
    graph = b.finish(b.concat([moved, x], 1))
    _, bound = measured(graph, np.array([0.1, -0.2, 0.3]))[-1]
    assert bound.value.tolist() == [[0.0] * 6]


def dense(sizes: list[int], seed: int) -> Graph:
    b = GraphBuilder()
    rng = np.random.default_rng(seed)
    x = b.input((sizes[0],))
    for number, (into, out) in enumerate(itertools.pairwise(sizes)):
        x = b.relu(x) if number else x
        weight = b.constant(rng.normal(size=(out, into)) / np.sqrt(into))
        x = b.linear(x, weight, b.constant(rng.normal(size=out)))
    return b.finish(x)


def test_bounds_of_a_plain_network_are_tight() -> None:
    graph = dense([10, 20, 20, 3], 0)
    x = np.random.default_rng(1).normal(size=10)
    for state, bound in measured(graph, x):
        assert state.gradients is not None
        size = state.gradients[0].abs().sum(dim=0)
        assert (bound.value[0] < 1e-9 * state.values[0].abs()).all()
        assert (bound.gradient[0] < 1e-9 * size).all()
        assert (bound.gradient[0] > 1e-17 * size).all()


def test_every_point_of_a_batch_has_its_own_bounds() -> None:
    net = Engine(dense([4, 6, 3], 2))
    x = torch.as_tensor(np.random.default_rng(3).normal(size=(5, 4)))
    pieces = net.pieces(x)
    together = rounding_bounds(net, x, pieces)
    for i in range(len(x)):
        alone = rounding_bounds(net, x[i : i + 1], pieces[i : i + 1])
        for both, one in zip(together, alone, strict=True):
            torch.testing.assert_close(both.value[i], one.value[0])
            torch.testing.assert_close(both.gradient[i], one.gradient[0])


def test_an_empty_batch_has_empty_bounds() -> None:
    net = Engine(dense([4, 6, 3], 2))
    x = torch.zeros(0, 4, dtype=torch.float64)
    found = rounding_bounds(net, x, net.pieces(x))
    assert [b.value.shape for b in found] == [(0, 6), (0, 3)]
