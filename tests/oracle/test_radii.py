"""Certified and stationary radii against slow versions, samples and exact distances."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
import torch

import polytope as pt
from polytope.bounds.crown import function_bounds
from polytope.bounds.dual import least_margins, search_radius
from polytope.bounds.inputs import InputSet
from polytope.bounds.layers import layer_bounds
from polytope.sensitivity.domains import as_domains, sample_points
from polytope.sensitivity.radius import certified_radius
from polytope.sensitivity.samples import jacobians
from polytope.sensitivity.stationary import stationary_radius
from tests.nets import compiled, dense
from tests.oracle import recurjac_loops as loops
from tests.zoo import SMOOTH_ZOO

INF = math.inf
METHODS = ("recurjac", "recurjac-f0", "recurjac-f1", "fastlip", "crown", "dual")


def weights_of(net: pt.Network) -> list[np.ndarray]:
    constants = net.graph.constants
    return [
        constants[node.op.weight] for node in net.graph.nodes if type(node.op).__name__ == "Linear"
    ]


def theorem_two(net: pt.Network, x: np.ndarray, label: int, intervals: int) -> float:
    """The paper's procedure for l_inf: bisection on eps with `intervals` constants for each."""
    W = weights_of(net)
    f = net.logits(x[None])[0]
    best = INF
    for target in range(net.output_size):
        if target == label:
            continue
        own = [*W[:-1], (W[-1][label] - W[-1][target])[None]]

        def margin(eps: float, own: list[np.ndarray] = own, target: int = target) -> float:
            total = float(f[label] - f[target])
            for i in range(1, intervals + 1):
                radius = torch.tensor([i * eps / intervals], dtype=torch.float64)
                bounds = layer_bounds(net, InputSet.from_ball(torch.tensor(x)[None], radius, INF))
                slopes = [
                    loops.relu_slopes(low[0].numpy(), high[0].numpy())
                    for low, high in zip(bounds.lower, bounds.upper, strict=True)
                ]
                total -= eps / intervals * loops.row_sum(own, slopes, 0)
            return total

        low, high = 0.0, 1.0
        for _ in range(10):
            middle = (low + high) / 2
            low, high = (middle, high) if margin(middle) >= 0 else (low, middle)
        best = min(best, low)
    return best


def test_the_integral_is_that_of_theorem_two() -> None:
    net = dense(4, 7, 6, 3, seed=2)
    X = np.random.default_rng(0).normal(size=(2, 4))
    found = certified_radius(net, X, p=INF, method="recurjac", intervals=12)
    for x, label, radius in zip(X, found.label, found.radius, strict=True):
        slow = theorem_two(net, x, int(label), 12)
        assert 0.95 * slow <= radius <= 1.15 * slow


def wong_kolter(
    layers: list[tuple[np.ndarray, np.ndarray]], x: np.ndarray, eps: float, q: float, c: np.ndarray
) -> float:
    """The dual bound as the paper writes it; hidden bounds also met with intervals."""
    bounds: list[tuple[np.ndarray, np.ndarray]] = []
    box = x - eps, x + eps

    def dual(depth: int, c: np.ndarray) -> float:
        nu, total = -c, 0.0
        for k in range(depth, -1, -1):
            W, b = layers[k]
            total -= nu @ b
            hat = W.T @ nu
            if k == 0:
                return total - x @ hat - eps * np.linalg.norm(hat, ord=q)
            low, high = bounds[k - 1]
            slope = np.where(low >= 0, 1.0, np.where(high <= 0, 0.0, high / (high - low)))
            nu = slope * hat
            is_open = (low < 0) & (high > 0)
            total += (low * np.maximum(nu, 0))[is_open].sum()
        raise AssertionError

    for k, (W, b) in enumerate(layers[:-1]):
        up, down = np.maximum(W, 0), np.minimum(W, 0)
        plain = up @ box[0] + down @ box[1] + b, up @ box[1] + down @ box[0] + b
        eye = np.eye(len(b))
        low = np.maximum(plain[0], [dual(k, e) for e in eye])
        high = np.minimum(plain[1], [-dual(k, -e) for e in eye])
        bounds.append((low, high))
        box = np.maximum(low, 0), np.maximum(high, 0)
    return dual(len(layers) - 1, c)


@pytest.mark.parametrize(("p", "q"), [(1, INF), (2, 2), (INF, 1)])
def test_the_dual_bound_is_wong_and_kolters(p: float, q: float) -> None:
    rng = np.random.default_rng(0)
    widths = (5, 9, 8, 7, 3)
    layers = [
        (rng.normal(size=(n, m)) * np.sqrt(2 / m), rng.normal(size=n) / 3)
        for m, n in itertools.pairwise(widths)
    ]
    net, x = pt.compile(layers), rng.normal(size=5)
    C = np.array([[1.0, -1, 0], [0, 1, -1], [1, 1, 1]])
    for eps in (0.01, 0.2, 0.6):
        X = InputSet.from_ball(torch.tensor(x)[None], torch.tensor([eps], dtype=torch.float64), p)
        bounds = layer_bounds(net, X, rule="parallel", skip_decided=False)
        found = function_bounds(bounds, torch.tensor(C)).lower[0]
        slow = [wong_kolter(layers, x, eps, q, c) for c in C]
        np.testing.assert_allclose(found.numpy(), slow, rtol=1e-10, atol=1e-10)
        quick = least_margins(net, X, torch.tensor(C)[None], "parallel")[0]
        np.testing.assert_allclose(quick.numpy(), slow, rtol=0.02, atol=0.01)


@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
@pytest.mark.parametrize("p", [1, 2, INF])
def test_no_radius_exceeds_the_exact_distance(p: float, box: tuple[float, float] | None) -> None:
    net = dense(6, 12, 10, 4, seed=4)
    X = np.random.default_rng(1).uniform(size=(6, 6))
    exact = pt.minimal_perturbation(net, X, p=p, box=box, time_limit=30)
    upper = np.array([one.upper for one in exact])
    found = {m: certified_radius(net, X, p=p, box=box, method=m) for m in METHODS}
    for result in found.values():
        assert (result.radius <= upper * (1 + 1e-12)).all()
        assert (result.radius > 0).all()
        assert (result.theorem <= upper * (1 + 1e-12)).all()
        assert (result.label == net.predict(X)).all()
        assert ((result.target >= 0) & (result.target != result.label)).all()
    assert (found["recurjac"].radius >= found["fastlip"].radius * (1 - 2e-3)).all()
    assert (found["crown"].radius >= 0.5 * upper.min()).any()
    frame = found["crown"].to_frame()
    assert list(frame.columns)[:2] == ["radius", "theorem"]
    assert len(found["crown"]) == len(frame) == 6


@pytest.mark.parametrize("name", ["tanh", "softplus", "selu"])
@pytest.mark.parametrize("method", ["recurjac", "fastlip", "crown"])
def test_smooth_decisions_hold_within_their_radius(name: str, method: str) -> None:
    make, shape = next((make, shape) for other, make, shape in SMOOTH_ZOO if other == name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = pt.compile(make(), shape)
    X = np.random.default_rng(2).normal(size=(4, 4))
    found = certified_radius(net, X, p=2, method=method)
    assert np.isnan(found.theorem).all()
    for x, label, radius in zip(X, found.label, found.radius, strict=True):
        if radius > 0 and math.isfinite(radius):
            points = sample_points(as_domains(net, pt.Ball(x, radius, 2)).inputs, 400, 0)[0]
            assert (net.predict(points) == label).all()


def test_targets_labels_and_extremes() -> None:
    net = dense(4, 8, 3, seed=1)
    X = np.random.default_rng(0).normal(size=(5, 4))
    labels = net.predict(X)
    every = certified_radius(net, X, method="crown")
    parts = np.stack(
        [certified_radius(net, X, targets=(labels + k) % 3, method="crown").radius for k in (1, 2)]
    )
    np.testing.assert_allclose(parts.min(axis=0), every.radius, rtol=2e-4)
    wrong = certified_radius(net, X, (labels + 1) % 3)
    assert (wrong.radius == 0).all()
    constant = pt.compile([(np.zeros((2, 3)), np.array([1.0, 0.0]))])
    for method in METHODS:
        inside = certified_radius(constant, np.full((1, 3), 0.5), box=(0, 1), method=method)
        assert inside.radius[0] == INF
        assert inside.target[0] == -1
    assert len(certified_radius(net, np.zeros((0, 4)))) == 0
    single = compiled("single_logit")[0]
    z = np.random.default_rng(0).normal(size=(4, 3))
    binary = certified_radius(single, z, p=INF, method="recurjac")
    exact = pt.minimal_perturbation(single, z, p=INF)
    assert (binary.radius <= [one.upper for one in exact]).all()
    assert (binary.radius > 0).all()


def test_the_search_returns_only_what_it_has_checked() -> None:
    """Bounds that fall in steps, that never hold, and that hold everywhere."""
    checked: list[tuple[int, float]] = []
    edges = np.array([0.37, 1e-7, 0.0, INF, 2.5])

    def value(rows: np.ndarray, radii: np.ndarray) -> np.ndarray:
        checked.extend(zip(rows.tolist(), radii.tolist(), strict=True))
        return np.where(radii <= edges[rows], 1 / (1 + radii), -1e6)

    cap = np.array([10.0, 10.0, 10.0, 10.0, INF])
    found = search_radius(value, np.full(5, 0.1), cap)
    assert found[2] == 0
    assert found[3] == INF
    for row in (0, 1, 4):
        assert edges[row] * (1 - 1e-2) <= found[row] <= edges[row]
        assert (row, found[row]) in checked


@pytest.mark.parametrize("p", [2, INF])
@pytest.mark.parametrize("name", ["leaky_relu", "residual", "tanh", "linear"])
def test_a_logit_has_no_stationary_point_within_the_radius(name: str, p: float) -> None:
    if name == "tanh":
        net = pt.compile({n: m for n, m, _ in SMOOTH_ZOO}["tanh"](), (4,))
    else:
        net = compiled(name)[0]
    X = np.random.default_rng(3).normal(size=(4, net.input_size))
    found = stationary_radius(net, X, p=p)
    fast = stationary_radius(net, X, p=p, method="fastlip")
    assert (found.radius >= fast.radius * (1 - 1e-3)).all()
    assert len(found) == 4
    eye = torch.eye(net.output_size).double()[None]
    proved = 0
    for x, label, radius, place in zip(X, found.label, found.radius, found.coordinate, strict=True):
        if radius == 0:
            continue
        ball = pt.Ball(x, min(radius, 5.0), p)
        points = sample_points(as_domains(net, ball).inputs, 500, 0)[0]
        entries = jacobians(net, points, eye)[:, label, place].numpy()
        assert (entries > 0).all() or (entries < 0).all()
        proved += 1
    assert proved > 0


def test_no_stationary_point_at_all() -> None:
    """An affine logit keeps its gradient everywhere; a dead one has none."""
    net = pt.compile([(np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([0.0, 9.0]))])
    found = stationary_radius(net, np.zeros((2, 2)), [0, 1])
    assert found.radius.tolist() == [INF, 0.0]
    assert found.coordinate.tolist() == [0, -1]
