"""Local linearity and gradient distortion against programs region by region, and dense samples."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

import polytope as pt
from polytope.network.exact import exact_pieces
from tests.nets import compiled, dense
from tests.oracle.degenerate_nets import COUNTED

INF = np.inf
SMALL = ["A1", "S4", "T5", "zero_biases", "duplicated", "pruned"]
KINDS = ["leaky_relu", "hardtanh", "abs", "maxout", "residual_add", "single_logit", "max_over_all"]


@functools.cache
def network(name: str) -> pt.Network:
    if name not in COUNTED:
        return compiled(name)[0]
    net = COUNTED[name]
    return pt.compile(net.model(), (net.widths[0],))


def point_of(net: pt.Network) -> np.ndarray:
    return np.random.default_rng(net.input_size).uniform(-0.4, 0.4, net.input_size)


def logits_and_gradients(net: pt.Network, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits (classes,) and their gradients (classes, d); one output f is (0, f)."""
    region = net.region(z)
    values, J = region.affine(z)[0], region.jacobian
    if len(values) == 1:
        values, J = np.array([0.0, values[0]]), np.vstack([np.zeros_like(J), J])
    return values, J


def by_programs(
    net: pt.Network, x: np.ndarray, y: int, t: int, eps: float, p: float, box: float
) -> float:
    """Two linear programs in each region of the ball's box, by scipy."""
    values, J = logits_and_gradients(net, x)
    slope, value = J[y] - J[t], values[y] - values[t]
    low, high = np.maximum(x - eps, -box), np.minimum(x + eps, box)
    graph, d, best = pt.region_graph(net, (low, high)), len(x), 0.0
    for i in range(len(graph)):
        region = graph.region(i)
        own, own_J = region.offset, region.jacobian
        if len(own) == 1:
            own, own_J = np.append(0.0, own), np.vstack([np.zeros_like(own_J), own_J])
        a = own_J[y] - own_J[t] - slope
        c = own[y] - own[t] - value + slope @ x
        keep = ~region.zero_rows
        A, b = region.A[keep], region.b[keep]
        bounds = list(zip(low, high, strict=True))
        if p == 1:  # with t >= |z - x| and sum t <= eps
            eye = np.eye(d)
            rows = [np.hstack([A, np.zeros((len(A), d))]), np.hstack([eye, -eye]),
                    np.hstack([-eye, -eye]), np.append(np.zeros(d), np.ones(d))[None]]  # fmt: skip
            A, b = np.vstack(rows), np.concatenate([b, x, -x, [eps]])
            bounds += [(0, None)] * d
        for sign in (1, -1):
            cost = np.zeros(A.shape[1])
            cost[:d] = -sign * a
            found = linprog(cost, A, b, bounds=bounds, method="highs")
            if found.status == 0:
                best = max(best, -found.fun + sign * c)
    return best


def departures(net: pt.Network, x: np.ndarray, y: int, t: int, z: np.ndarray) -> np.ndarray:
    """``|g(z) - g(x) - grad g(x) (z - x)|`` of points (n, d)."""
    values, J = logits_and_gradients(net, x)
    there = net.logits(z)
    flat = values[y] - values[t] + (z - x) @ (J[y] - J[t])
    return np.abs(there[:, y] - there[:, t] - flat)


@pytest.mark.parametrize("p", [1.0, INF])
@pytest.mark.parametrize("name", [*SMALL, *KINDS])
def test_gamma(name: str, p: float) -> None:
    net = network(name)
    x, eps, box = point_of(net), 0.5, 0.6
    classes = max(2, net.output_size)
    for t in range(1, min(classes, 3)):
        found = pt.local_linearity(net, x, 0, eps, p, (-box, box), target=t, method="exact")
        assert found.status == "exact"
        assert found.exact
        expected = by_programs(net, x, 0, t, eps, p, box)
        assert found.lower == pytest.approx(expected, rel=1e-7, abs=1e-9)
        assert found.lower <= found.upper
        # The witness shows it, and no sample is above it.
        step = found.witness - x
        assert np.linalg.norm(step, p) <= eps * (1 + 1e-15)
        assert (np.abs(found.witness) <= box).all()
        shown = departures(net, x, 0, t, found.witness[None])[0]
        assert shown == pytest.approx(found.lower, rel=1e-9, abs=1e-12)
        steps = np.random.default_rng(0).uniform(-eps, eps, (20_000, len(x)))
        if p == 1:
            steps *= np.minimum(1, eps / np.abs(steps).sum(axis=1, keepdims=True))
        samples = departures(net, x, 0, t, np.clip(x + steps, -box, box))
        assert samples.max() <= found.upper + 1e-12
        # The ascent is an interval around it.
        other = pt.local_linearity(net, x, 0, eps, p, (-box, box), target=t, method="pgd")
        assert other.lower <= found.upper
        assert other.upper >= found.lower


def test_the_largest_of_all_targets() -> None:
    net = dense(3, 8, 4, seed=2)
    x = point_of(net)
    each = [pt.local_linearity(net, x, 1, 0.7, target=t, method="exact").lower for t in (0, 2, 3)]
    whole = pt.local_linearity(net, x, 1, 0.7, method="exact")
    assert whole.lower == pytest.approx(max(each), rel=1e-12)
    assert whole.target == (0, 2, 3)[int(np.argmax(each))]


def test_gamma_is_zero_inside_a_region() -> None:
    net = network("A1")
    x = point_of(net)
    near = float(pt.boundary_distance(net, x[None], p="inf").distance[0])
    found = pt.local_linearity(net, x, 0, near / 2, method="exact")
    assert (found.lower, found.exact, found.regions) == (0.0, True, 1)
    assert found.upper < 1e-12


def test_gamma_in_l2_is_an_interval() -> None:
    net = network("A1")
    found = pt.local_linearity(net, point_of(net), 0, 0.5, 2)
    outer = pt.local_linearity(net, point_of(net), 0, 0.5, method="exact")
    inner = pt.local_linearity(net, point_of(net), 0, 0.5, 1, method="exact")
    assert found.method == "pgd"
    assert found.lower <= outer.upper
    assert found.upper >= inner.lower
    assert np.linalg.norm(found.witness - point_of(net)) <= 0.5 * (1 + 1e-15)


def distances(
    net: pt.Network, x: np.ndarray, y: int, r: float, graph: pt.RegionGraph
) -> np.ndarray:
    """Of each region the distance of the gradient of logit y from that at x."""
    origin = logits_and_gradients(net, x)[1][y]
    maps = [graph.region(i).jacobian for i in range(len(graph))]
    rows = [J[0] if net.output_size == 1 else J[y] for J in maps]
    return np.array([np.linalg.norm(row - origin, r) for row in rows])


@pytest.mark.parametrize("name", [*SMALL, *KINDS])
def test_distortion(name: str) -> None:
    net = network(name)
    x, eps, box = point_of(net), 0.5, 0.6
    sides = np.maximum(x - eps, -box), np.minimum(x + eps, box)
    graph = pt.region_graph(net, sides)
    for r in (1.0, 2.0, INF):
        found = pt.gradient_distortion(net, x, 1, eps, "inf", (-box, box), r=r, method="exact")
        expected = distances(net, x, 1, r, graph).max()
        assert found.status == "exact"
        assert found.lower == pytest.approx(expected, rel=1e-10, abs=1e-14)
        assert found.regions == len(graph)
        evolved = pt.gradient_distortion(
            net, x, 1, eps, "inf", (-box, box), r=r, method="genetic", population=300, epochs=5
        )
        assert evolved.lower <= found.upper
        assert evolved.upper >= found.lower
        assert evolved.expected <= found.upper + 1e-12
        assert evolved.expected == pytest.approx(found.expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("p", [1, 2])
def test_distortion_in_other_balls(p: float) -> None:
    """Dense samples of a plane's ball find the same largest value."""
    net = network("A1")
    x = np.array([0.13, -0.21])
    found = pt.gradient_distortion(net, x, 1, 0.4, p, method="exact")
    steps = np.random.default_rng(0).uniform(-0.4, 0.4, (200_000, 2))
    steps = steps[np.linalg.norm(steps, p, axis=1) < 0.4]
    with torch.no_grad():
        pieces = np.unique(net.pieces(torch.tensor(x + steps)).numpy(), axis=0)
    origin = net.region(x).jacobian[0]
    sizes = [
        np.abs(net.region(x, pt.ActivationPattern.from_pieces(own, net.layout)).jacobian[0]
               - origin).sum()
        for own in pieces
    ]  # fmt: skip
    assert found.lower == pytest.approx(max(sizes), rel=1e-10)


def test_the_algorithm_of_roll_finds_a_witness() -> None:
    """On a larger network: strictly inside a region, in the box, at the value told."""
    net = dense(20, 40, 40, 5, seed=3)
    x = np.random.default_rng(1).uniform(0.3, 0.7, 20)
    found = pt.gradient_distortion(net, x, 2, 0.2, "inf", (0, 1), seed=4)
    assert found.method == "genetic"
    assert found.status == "interval"
    again = pt.gradient_distortion(net, x, 2, 0.2, "inf", (0, 1), seed=4)
    assert again.lower == found.lower
    assert (again.witness == found.witness).all()
    z = found.witness
    assert (np.abs(z - x) <= 0.2 * (1 + 1e-12)).all()
    region = net.region(z)
    assert (region.A @ z < region.b).all()
    assert (exact_pieces(net.graph, z) == region.pattern.pieces).all()
    shown = np.abs(region.jacobian[2] - net.region(x).jacobian[2]).sum()
    assert shown == pytest.approx(found.lower, rel=1e-10)
    assert found.expected < found.lower < found.upper
    margin = pt.gradient_distortion(net, x, 2, 0.2, "inf", (0, 1), target=1, samples=0)
    assert np.isnan(margin.expected)
    np.testing.assert_allclose(margin.gradient, region_margin(net, x))


def region_margin(net: pt.Network, x: np.ndarray) -> np.ndarray:
    J = net.region(x).jacobian
    return np.asarray(J[2] - J[1])
