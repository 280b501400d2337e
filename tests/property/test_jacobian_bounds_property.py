"""Laws of Jacobian bounds and Lipschitz constants on random networks of every kind."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import polytope as pt
from polytope.network.build import GraphBuilder
from polytope.network.ir import Graph
from polytope.network.source import Imported
from polytope.sensitivity.domains import as_domains, sample_points
from polytope.sensitivity.jacobian import JacobianBounds, jacobian_bounds
from polytope.sensitivity.lipschitz import lipschitz
from polytope.sensitivity.samples import jacobians
from tests.oracle.random_graphs import KINDS, VARIANTS, random_graph, random_point
from tests.oracle.rational import affine_exact, pieces_exact

SMOOTH = ("sigmoid", "tanh", "atan", "softplus", "elu", "mixed")
METHODS = ("recurjac", "recurjac-f0", "recurjac-f1", "fastlip")
seeds = st.integers(0, 10**6)
radii = st.sampled_from([1e-6, 0.01, 0.1, 0.5, 2.0, 10.0])
norms = st.sampled_from([1, 1.5, 2, math.inf])


def smooth_graph(kind: str, seed: int) -> Graph:
    """A residual network of smooth units, with ReLUs between them for "mixed"."""
    rng = np.random.default_rng(seed)
    b = GraphBuilder()

    def linear(x, size):  # type: ignore[no-untyped-def]
        weight = b.constant(rng.normal(size=(size, x.shape[-1])))
        return b.linear(x, weight, b.constant(rng.normal(size=size)))

    def units(x, number):  # type: ignore[no-untyped-def]
        name = kind if kind != "mixed" else ("tanh", "relu", "elu")[number]
        if name == "relu":
            return b.relu(x)
        parameters = {"softplus": (1.0 + rng.uniform(), 20.0), "elu": (0.3 + 2 * rng.uniform(),)}
        return b.smooth(x, name, parameters.get(name, ()))

    x = units(linear(b.input((4,)), 6), 0)
    inner = units(linear(x, 5), 1)
    x = units(b.sum([x, linear(inner, 6)], [1, -2]), 2)
    return b.finish(linear(x, 3))


def network(kind: str, variant: str, seed: int) -> pt.Network:
    graph = smooth_graph(kind, seed) if kind in SMOOTH else random_graph(kind, variant, seed)
    return pt.Network(Imported(graph))


any_network = st.builds(network, st.sampled_from(KINDS + SMOOTH), st.sampled_from(VARIANTS), seeds)
plain_network = st.builds(network, st.sampled_from(KINDS), st.sampled_from(VARIANTS), seeds)


def can(net: pt.Network, method: str) -> bool:
    """RecurJac-F1 needs a first layer on all paths; here all but some have it."""
    if method != "recurjac-f1":
        return True
    try:
        jacobian_bounds(net, pt.Box(np.zeros(net.input_size), np.zeros(net.input_size)), method)
    except pt.PolytopeError:
        return False
    return True


def sampled(net: pt.Network, ball: pt.Ball, count: int, seed: int) -> np.ndarray:
    points = sample_points(as_domains(net, ball).inputs, count, seed)[0]
    eye = torch.eye(net.output_size, dtype=torch.float64)[None]
    return jacobians(net, points, eye).numpy()


def inside(bounds: JacobianBounds, J: np.ndarray, room: np.ndarray | float) -> bool:
    return bool(((bounds.lower - room <= J) & (bounds.upper + room >= J)).all())


def slack(bounds: JacobianBounds) -> np.ndarray:
    """What the float Jacobians of samples may be off: 1e-9 of the largest entry."""
    return 1e-9 * bounds.size.max(axis=(-2, -1), keepdims=True) + 1e-150


@given(any_network, seeds, radii, norms, st.sampled_from(METHODS))
@settings(max_examples=60)
def test_sampled_jacobians_lie_inside(
    net: pt.Network, seed: int, radius: float, p: float, method: str
) -> None:
    assume(can(net, method))
    center = np.random.default_rng(seed).normal(size=net.input_size)
    ball = pt.Ball(center, radius, p)
    found = jacobian_bounds(net, ball, method)
    J = sampled(net, ball, 60, seed)
    assert inside(found, J, slack(found))


@given(
    st.sampled_from(KINDS), st.sampled_from(VARIANTS), seeds, st.sampled_from([0.0, 1e-3, 0.3]),
    st.sampled_from(METHODS),
)  # fmt: skip
@settings(max_examples=40)
def test_exact_jacobians_lie_inside_without_any_slack(
    kind: str, variant: str, seed: int, radius: float, method: str
) -> None:
    """The rational Jacobian at the center and beside it: all rounding is counted."""
    net = network(kind, variant, seed)
    assume(can(net, method))
    graph = net.graph
    x = random_point(graph, "plain", seed).reshape(-1)
    domain = pt.Ball(x, radius, math.inf) if radius else pt.Box(x, x)
    found = jacobian_bounds(net, domain, method)
    moves = np.random.default_rng(seed).uniform(-1, 1, size=(2, len(x))) * radius * (1 - 1e-9)
    for step in moves:
        J = affine_exact(graph, pieces_exact(graph, (x + step).reshape(net.input_shape)))[-1][0]
        for j, row in enumerate(J):
            for k, value in enumerate(row):
                assert found.lower[j, k] <= value <= found.upper[j, k]


@given(any_network, seeds, st.sampled_from(METHODS))
@settings(max_examples=40)
def test_at_a_point_the_bounds_are_the_gradient(net: pt.Network, seed: int, method: str) -> None:
    assume(can(net, method))
    x = np.random.default_rng(seed).normal(size=net.input_size)
    found = jacobian_bounds(net, pt.Box(x, x), method)
    eye = torch.eye(net.output_size, dtype=torch.float64)[None]
    J = jacobians(net, torch.tensor(x)[None], eye)[0].numpy()
    room = 1e-9 * (np.abs(J).max() + 1) * max(1.0, np.abs(J).max() / 1e20)
    if not any(type(node.op).__name__ == "Max" for node in net.graph.nodes):
        assert np.abs(found.lower - J).max() <= room
        assert np.abs(found.upper - J).max() <= room
    assert inside(found, J, room)


@given(any_network, seeds, st.sampled_from(METHODS))
@settings(max_examples=30)
def test_bounds_grow_with_the_radius(net: pt.Network, seed: int, method: str) -> None:
    assume(can(net, method))
    center = np.random.default_rng(seed).normal(size=net.input_size)
    balls = [pt.Ball(center, r, 2) for r in (0.3, 0.01, 3.0, 0.1, 1.0)]
    found = jacobian_bounds(net, balls, method)
    order = np.argsort([ball.radius for ball in balls])
    assert (np.diff(found.lower[order], axis=0) <= 0).all()
    assert (np.diff(found.upper[order], axis=0) >= 0).all()
    alone = jacobian_bounds(net, balls[0], method)
    room = slack(alone)
    assert (found.lower[0] >= alone.lower - room).all()
    assert (found.upper[0] <= alone.upper + room).all()
    constants = [r.upper for r in lipschitz(net, balls, 2, 2, "recurjac", samples=2)]
    assert [constants[i] for i in order] == sorted(constants)


@given(any_network, seeds, radii, norms)
@settings(max_examples=40)
def test_the_order_of_the_methods(net: pt.Network, seed: int, radius: float, p: float) -> None:
    """Elementwise RecurJac <= Fast-Lip; as norms also Fast-Lip <= the product, for 1 and inf."""
    center = np.random.default_rng(seed).normal(size=net.input_size)
    ball = pt.Ball(center, radius, p)
    plain = jacobian_bounds(net, ball, "fastlip")
    for method in METHODS[:3]:
        if can(net, method):
            found = jacobian_bounds(net, ball, method)
            assert (found.lower >= plain.lower - slack(plain)).all()
            assert (found.upper <= plain.upper + slack(plain)).all()
    for norm in (1, math.inf):
        results = {
            m: lipschitz(net, ball, norm, norm, m, samples=5)
            for m in ("sampled", "recurjac", "fastlip", "norm-product")
        }
        uppers = [results[m].upper for m in ("recurjac", "fastlip", "norm-product")]
        assert uppers[0] <= uppers[1] * (1 + 1e-9) + 1e-150
        assert uppers[1] <= uppers[2] * (1 + 1e-9) + 1e-150
        assert max(r.lower for r in results.values()) <= min(uppers)


@given(st.sampled_from(("mlp", "pieces", "residual", "maxout")), seeds, radii)
@settings(max_examples=25)
def test_the_exact_constant_lies_between(kind: str, seed: int, radius: float) -> None:
    net = network(kind, "plain", seed)
    center = np.random.default_rng(seed).normal(size=net.input_size)
    ball = pt.Ball(center, radius, math.inf)
    for p, q in ((math.inf, 1), (math.inf, math.inf), (2, 2), (1, 2)):
        exact = lipschitz(net, ball, p, q, "exact", max_regions=3000)
        for method in ("recurjac", "fastlip", "norm-product", "sampled"):
            found = lipschitz(net, ball, p, q, method, samples=20)
            assert found.lower <= exact.upper * (1 + 1e-12)
            assert exact.lower <= found.upper * (1 + 1e-12)


@pytest.mark.parametrize("kind", ["residual", "conv", "pieces", "tanh"])
@pytest.mark.parametrize("method", METHODS)
def test_ten_thousand_jacobians(kind: str, method: str) -> None:
    net = network(kind, "plain", 3)
    ball = pt.Ball(np.zeros(net.input_size), 1.0, math.inf)
    found = jacobian_bounds(net, ball, method)
    J = sampled(net, ball, 10_000, 0)
    assert len(J) == 10_000
    assert inside(found, J, slack(found))
