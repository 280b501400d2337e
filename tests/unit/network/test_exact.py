"""Exact arithmetic on the graph, against plain fractions and against float64."""

from __future__ import annotations

import itertools
import time
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polytope.errors import InputError, SmoothActivation
from polytope.network.build import GraphBuilder
from polytope.network.engine import Engine
from polytope.network.exact import exact_outputs, exact_pieces, is_adversarial
from polytope.network.exact_ops import ExactArray
from polytope.network.ir import Graph
from tests.oracle.random_graphs import KINDS, VARIANTS, random_graph, random_point
from tests.oracle.rational import affine_exact, pieces_exact, run_exact

seeds = st.integers(0, 2**32 - 1)


def dense(weights: list[list[list[float]]], biases: list[list[float]]) -> Graph:
    """A ReLU network; the last layer has no ReLU."""
    b = GraphBuilder()
    x = b.input((len(weights[0][0]),))
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        x = b.relu(x) if number else x
        x = b.linear(x, b.constant(np.array(weight)), b.constant(np.array(bias)))
    return b.finish(x)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=8))
def test_floats_are_read_exactly(values: list[float]) -> None:
    exact = ExactArray.from_floats(np.array(values, dtype=np.float64))
    assert exact.to_fractions() == [Fraction(v) for v in values]


def test_extreme_floats_are_read_exactly() -> None:
    values = [5e-324, -2.2e-308, 1.7976931348623157e308, -0.0, 0.1, 3.0]
    exact = ExactArray.from_floats(np.array(values).reshape(2, 3))
    assert exact.integers.shape == (2, 3)
    assert exact.to_fractions() == [Fraction(v) for v in values]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(variant=st.sampled_from(VARIANTS), seed=seeds)
def test_agrees_with_plain_fractions(kind: str, variant: str, seed: int) -> None:
    graph = random_graph(kind, variant, seed)
    x = random_point(graph, variant, seed + 1)
    assert exact_outputs(graph, x).to_fractions() == run_exact(graph, x)
    assert exact_pieces(graph, x).tolist() == pieces_exact(graph, x)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_engine_agrees_up_to_rounding(kind: str, seed: int) -> None:
    graph = random_graph(kind, "plain", seed)
    x = random_point(graph, "plain", seed + 1)
    found = Engine(graph).forward(torch.as_tensor(x)[None]).flatten().numpy()
    exact = np.array([float(v) for v in exact_outputs(graph, x).to_fractions()])
    np.testing.assert_allclose(found, exact, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", ["mlp", "conv", "transposed", "residual", "maxout"])
def test_engine_has_the_same_convention_for_ties(kind: str) -> None:
    zeros = 0
    for seed in range(20):  # small integers: float64 is exact, and many values are equal
        graph = random_graph(kind, "ties", seed)
        x = torch.as_tensor(random_point(graph, "ties", seed))[None]
        for state in Engine(graph).sweep(x):
            zeros += int((state.values == 0).sum())
        found = Engine(graph).pieces(x)[0].numpy()
        np.testing.assert_array_equal(found, exact_pieces(graph, x[0].numpy()))
    assert zeros > 20


def test_the_first_of_equal_candidates_wins_and_zero_is_inactive() -> None:
    b = GraphBuilder()
    x = b.input((3,))
    joined = b.concat([b.max(x, np.array([[2, 1, 0], [-1, 0, 1]]), (1, 2), "max"), b.relu(x)], 1)
    graph = b.finish(joined)
    assert exact_pieces(graph, np.zeros(3)).tolist() == [0, 1, 0, 0, 0]
    assert exact_pieces(graph, np.array([0.0, 2.0, 1.0])).tolist() == [1, 2, 0, 1, 1]


def test_catastrophic_cancellation_is_seen() -> None:
    graph = dense([[[1.0, 1.0, 1.0]], [[1.0]]], [[0.0], [0.0]])
    x = np.array([1e30, 1.0, -1e30])
    assert exact_outputs(graph, x).to_fractions() == [Fraction(1)]
    assert exact_pieces(graph, x).tolist() == [1]


def test_a_mean_is_exact() -> None:
    b = GraphBuilder()
    graph = b.finish(b.reduce(b.input((3,)), [1], keepdims=True, mean=True, name="mean"))
    exact = exact_outputs(graph, np.array([1.0, 0.0, 0.0]))
    assert exact.to_fractions() == [Fraction(1, 3)]


def test_adversarial_needs_one_other_class_at_least_as_high() -> None:
    graph = dense([np.eye(3).tolist()], [[0.0, 0.0, 0.0]])
    assert is_adversarial(graph, np.array([1.0, 1.0, 0.0]), 0)
    assert is_adversarial(graph, np.array([1.0, 1.0, 0.0]), 2)
    above = np.nextafter(1.0, 2.0)
    assert not is_adversarial(graph, np.array([above, 1.0, 0.0]), 0)


def test_adversarial_where_float64_is_wrong() -> None:
    third = 1 / 3
    graph = dense([[[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]], [[0.0, 1.0]])
    x = np.array([third, third, third])
    outputs = Engine(graph).forward(torch.as_tensor(x)[None])[0]
    assert outputs[0] >= outputs[1]  # 1/3 + 1/3 + 1/3 rounds to 1
    assert not is_adversarial(graph, x, 1)
    assert is_adversarial(graph, x, 0)


@pytest.mark.parametrize(
    ("value", "label", "expected"),
    [(1.0, 1, False), (0.0, 1, True), (-1.0, 1, True),
     (1.0, 0, True), (0.0, 0, True), (-1.0, 0, False)],
)  # fmt: skip
def test_a_single_logit_is_a_binary_decision(value: float, label: int, expected: bool) -> None:
    graph = dense([[[1.0]]], [[0.0]])
    assert is_adversarial(graph, np.array([value]), label) is expected


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_out_of_range_is_refused(label: int) -> None:
    graph = dense([np.eye(3).tolist()], [[0.0, 0.0, 0.0]])
    with pytest.raises(InputError, match=f"label: got {label}"):
        is_adversarial(graph, np.zeros(3), label)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros(2), "shape"),
        (np.zeros((1, 3)), "shape"),
        (np.zeros(3, dtype=int), "dtype"),
        (np.array([0.0, np.nan, 0.0]), "NaN"),
        (np.array([0.0, np.inf, 0.0]), "infinity"),
    ],
)
def test_bad_inputs_are_refused(x: np.ndarray, words: str) -> None:
    graph = dense([np.eye(3).tolist()], [[0.0, 0.0, 0.0]])
    with pytest.raises(InputError, match=words):
        exact_outputs(graph, x)


def test_float32_inputs_are_taken_as_they_are() -> None:
    graph = dense([[[1.0]]], [[0.0]])
    exact = exact_outputs(graph, np.array([0.1], dtype=np.float32))
    assert exact.to_fractions() == [Fraction(float(np.float32(0.1)))]


def test_smooth_activations_are_refused_by_name() -> None:
    b = GraphBuilder()
    graph = b.finish(b.smooth(b.input((2,)), "sigmoid"))
    with pytest.raises(SmoothActivation, match="sigmoid"):
        exact_outputs(graph, np.zeros(2))


def test_a_network_without_units_has_no_pieces() -> None:
    graph = dense([np.eye(3).tolist()], [[0.0, 0.0, 0.0]])
    assert exact_pieces(graph, np.zeros(3)).shape == (0,)


@pytest.mark.parametrize("kind", KINDS)
def test_the_affine_oracle_is_the_network_at_its_point(kind: str) -> None:
    for seed, variant in enumerate(VARIANTS):
        graph = random_graph(kind, variant, seed)
        x = random_point(graph, variant, seed)
        gradients, offsets = affine_exact(graph, exact_pieces(graph, x).tolist())[-1]
        point = [Fraction(float(v)) for v in x.reshape(-1)]
        mapped = [
            offset + sum(g * v for g, v in zip(row, point, strict=True))
            for row, offset in zip(gradients, offsets, strict=True)
        ]
        assert mapped == exact_outputs(graph, x).to_fractions()


def mlp(sizes: list[int], seed: int) -> Graph:
    rng = np.random.default_rng(seed)
    weights = [
        (rng.normal(size=(out, into)) / np.sqrt(into)).tolist()
        for into, out in itertools.pairwise(sizes)
    ]
    return dense(weights, [rng.normal(size=out).tolist() for out in sizes[1:]])


@pytest.mark.parametrize(
    ("sizes", "seconds"), [([784, *[200] * 6, 10], 1.0), ([64, 32, 32, 10], 0.01)]
)
def test_a_forward_pass_is_quick(sizes: list[int], seconds: float) -> None:
    graph = mlp(sizes, 0)
    x = np.random.default_rng(1).random(sizes[0])
    exact_outputs(graph, x)
    best = np.inf
    for _ in range(3):
        start = time.perf_counter()
        exact_outputs(graph, x)
        best = min(best, time.perf_counter() - start)
    assert best < seconds
