"""The exact Lipschitz constant against loops over regions, exact planes, and a solver."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy.optimize import linprog, minimize

import polytope as pt
from polytope.lipschitz_result import Lipschitz
from polytope.network.exact import exact_pieces
from tests.nets import NAMES, compiled, dense
from tests.oracle.degenerate_nets import COUNTED, DEGENERATE
from tests.oracle.norms import norm_of, total_of
from tests.region_checks import truth

INF = np.inf
PAIRS = [(1.0, 1.0), (1.0, 2.0), (1.0, INF), (2.0, INF), (INF, INF), (2.0, 2.0), (2.0, 1.0),
         (INF, 1.0), (INF, 2.0)]  # fmt: skip
#: Networks of few inputs, and how wide a box around the origin keeps their regions few.
FEW_INPUTS = [name for name in NAMES if compiled(name)[0].input_size <= 4]
#: Of the others all inputs but three are frozen.
MORE_INPUTS = [
    "linear_sequence", "conv1d", "conv2d", "residual", "batch_norm2d", "avg_pool1d", "max_pool1d",
    "max_pool2d", "conv_transpose1d", "rnn",
]  # fmt: skip


@functools.cache
def network(name: str) -> pt.Network:
    net = COUNTED[name]
    return pt.compile(net.model(), (net.widths[0],))


def largest(
    net: pt.Network, domain: object, p: float, q: float, total: bool = False
) -> tuple[float, int]:
    """The maximum over the enumerated region graph, one region at a time; their number."""
    graph = pt.region_graph(net, domain)
    norms = [graph.region(i).jacobian for i in range(len(graph))]
    return max(total_of(J, p) if total else norm_of(J, p, q) for J in norms), len(graph)


def assert_proved(result: Lipschitz, net: pt.Network, contains: object) -> None:
    """The interval is closed, and its witness is strictly inside a region that attains it."""
    assert result.status == "exact"
    assert result.lower <= result.value <= result.upper
    assert result.upper - result.lower <= 1e-12 * result.upper
    assert result.witness is not None
    assert contains(result.witness)
    region = net.region(result.witness)
    assert region.pattern == result.pattern
    proper = ~region.zero_rows
    assert (region.A[proper] @ result.witness < region.b[proper]).all()
    pieces = exact_pieces(net.graph, result.witness.reshape(net.input_shape))
    assert (pieces == result.pattern.pieces).all()
    np.testing.assert_allclose(result.jacobian, region.jacobian, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", FEW_INPUTS)
def test_every_kind_of_network(name: str) -> None:
    """Norm pairs in turn; the maximum is that of a loop over the region graph."""
    net, _ = compiled(name)
    d, box = net.input_size, (-0.7, 0.9)
    pairs = [pair for pair in PAIRS if net.output_size <= 8 or pair not in ((2, 1), (INF, 1))]
    for p, q in pairs[FEW_INPUTS.index(name) % 3 :: 3]:
        result = pt.exact_lipschitz(net, box, p, q)
        expected, regions = (largest(net, box, p, q) if net.layers
                             else (norm_of(net.region(np.zeros(d)).jacobian, p, q), 1))  # fmt: skip
        assert result.value == pytest.approx(expected, rel=1e-10, abs=1e-300)
        assert result.regions == regions
        if expected > 0:
            assert_proved(result, net, lambda z: ((z > -0.7) & (z < 0.9)).all())


@pytest.mark.parametrize("name", MORE_INPUTS)
def test_frozen_inputs(name: str) -> None:
    """All input coordinates count, also the frozen ones."""
    net, _ = compiled(name)
    rng = np.random.default_rng(len(name))
    low = rng.normal(size=net.input_size)
    high = low.copy()
    high[rng.permutation(net.input_size)[:3]] += 0.8
    box = pt.Box(low, high)
    result = pt.exact_lipschitz(net, box, INF, INF)
    assert result.value == pytest.approx(largest(net, box, INF, INF)[0], rel=1e-10)
    assert result.status == "exact"
    assert ((result.witness >= low) & (result.witness <= high)).all()
    assert result.jacobian.shape == (net.output_size, net.input_size)


@pytest.mark.parametrize("name", ["A1", *(net.name for net in DEGENERATE)])
@pytest.mark.parametrize(("p", "q"), [(2.0, 2.0), (INF, 1.0), (1.0, INF)])
def test_planes_exactly(name: str, p: float, q: float) -> None:
    """All regions of the plane by the exact oracle, which shares nothing with the engines."""
    net = network(name)
    for box in ((-1.0, 1.0), (-20.0, 30.0)):
        expected = truth(net, pt.region_graph(net, box).domain)
        values = []
        for pieces in expected.patterns:
            pattern = pt.ActivationPattern.from_pieces(np.array(pieces), net.layout)
            values.append(norm_of(net.region(np.zeros(2), pattern).jacobian, p, q))
        assert pt.exact_lipschitz(net, box, p, q).value == pytest.approx(max(values), rel=1e-11)


def meets(region: pt.Region, center: np.ndarray, radius: float, p: float, box: float) -> bool:
    """Whether a region of [-box, box]^d meets the open ball; by programs, or a margin refuses."""
    d = len(center)
    A, b = region.A[~region.zero_rows], region.b[~region.zero_rows]
    if p == 1:
        # Steps up and down, each at least 0.
        cost = np.ones(2 * d)
        found = linprog(
            cost, np.hstack([A, -A]), b - A @ center,
            bounds=[(0, box - c) for c in center] + [(0, box + c) for c in center],
        )  # fmt: skip
        distance = found.fun
    else:
        found = minimize(
            lambda z: ((z - center) ** 2).sum(), region.point, jac=lambda z: 2 * (z - center),
            constraints=[{"type": "ineq", "fun": lambda z: b - A @ z, "jac": lambda _: -A}],
            bounds=[(-box, box)] * d, method="SLSQP", options={"ftol": 1e-14, "maxiter": 500},
        )  # fmt: skip
        distance = np.sqrt(found.fun)
    assert abs(distance - radius) > 1e-6
    return bool(distance < radius)


@pytest.mark.parametrize("p", [1.0, 2.0])
@pytest.mark.parametrize("name", ["A1", "S4", "T5", "duplicated", "zero_biases"])
def test_balls(name: str, p: float) -> None:
    """Regions of the box around a ball that meet it, each by a program of its own."""
    net = network(name)
    d = net.input_size
    center, radius = np.linspace(-0.2, 0.3, d), 0.45
    graph = pt.region_graph(net, (center - radius, center + radius))
    for a, q in ((2.0, 2.0), (1.0, INF)):
        values = [
            norm_of(graph.region(i).jacobian, a, q)
            for i in range(len(graph))
            if meets(graph.region(i), center, radius, p, 10.0)
        ]
        result = pt.exact_lipschitz(net, pt.Ball(center, radius, p), a, q)
        assert result.value == pytest.approx(max(values), rel=1e-10)
        assert_proved(result, net, lambda z: np.linalg.norm(z - center, p) < radius)


def test_ball_in_many_dimensions() -> None:
    """Of an l_1 ball of more than twelve dimensions the box is enumerated."""
    net = dense(13, 4, 3, 2, seed=4)
    center = np.full(13, 0.1)
    graph = pt.region_graph(net, pt.Ball(center, 0.5, INF))
    values = [
        norm_of(graph.region(i).jacobian, 2.0, 2.0)
        for i in range(len(graph))
        if meets(graph.region(i), center, 0.5, 1.0, 10.0)
    ]
    assert len(values) < len(graph)
    result = pt.exact_lipschitz(net, pt.Ball(center, 0.5, 1), 2, 2)
    assert result.value == pytest.approx(max(values), rel=1e-10)
    assert_proved(result, net, lambda z: np.abs(z - center).sum() < 0.5)


@pytest.mark.parametrize("shift", [-1e-12, 0.0, 1e-12])
@pytest.mark.parametrize("p", [1, 2])
def test_regions_that_touch_a_ball(p: int, shift: float) -> None:
    """A region of slope 10 behind ``3 u + 4 v = reach``: counted only if the ball goes beyond.

    The unit ball reaches 5 in l_2 and 4 in l_1; at shift 0 it touches the region.
    """
    reach = (5.0 if p == 2 else 4.0) + shift
    net = pt.compile([
        (np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([-reach, 10.0])),
        (np.array([[10.0, 1.0]]), np.zeros(1)),
    ])  # fmt: skip
    result = pt.exact_lipschitz(net, pt.Ball(np.zeros(2), 1.0, p), 2, 2)
    steep = norm_of(np.array([[31.0, 40.0]]), 2.0, 2.0)
    assert result.value == pytest.approx(steep if shift < 0 else 1.0, rel=1e-12)
    assert result.status == "exact"


def test_touching_a_box_is_not_meeting_it() -> None:
    """The box's face is the region's boundary: it has no inside in the box."""
    net = pt.compile([
        (np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([-1.0, 5.0])),
        (np.array([[7.0, 1.0]]), np.zeros(1)),
    ])  # fmt: skip
    assert pt.exact_lipschitz(net, (0, 1), 2, 2).value == 1.0
    beyond = pt.Box(np.zeros(2), np.array([np.nextafter(1.0, 2), 1.0]))
    assert pt.exact_lipschitz(net, beyond, 2, 2).value == pytest.approx(np.sqrt(50), rel=1e-14)


def test_a_slice_counts_along_itself() -> None:
    net = network("S4")
    points = np.random.default_rng(5).normal(size=(3, 4))
    plane = pt.Slice(points, margin=0.5)
    graph = pt.region_graph(net, plane)
    for q in (2.0, INF):
        expected = max(
            norm_of(graph.region(i).jacobian @ plane.basis.T, 2.0, q) for i in range(len(graph))
        )
        result = pt.exact_lipschitz(net, plane, 2, q)
        assert result.value == pytest.approx(expected, rel=1e-10)
    with pytest.raises(pt.PolytopeError, match="isometric coordinates"):
        pt.exact_lipschitz(net, plane, 1, 1)


def test_whole_space_and_polytopes() -> None:
    net = network("A1")
    simplex = pt.HPolytope(np.vstack([-np.eye(2), np.ones((1, 2))]), np.array([0.0, 0.0, 1.0]))
    for domain in (None, simplex, (np.array([-1.0, -INF]), np.array([INF, 2.0]))):
        expected, regions = largest(net, domain, INF, INF)
        result = pt.exact_lipschitz(net, domain, INF, INF)
        assert result.value == pytest.approx(expected, rel=1e-11)
        assert result.regions == regions


def test_functionals_and_totals() -> None:
    net = network("S4")
    graph = pt.region_graph(net, (-1, 1))
    maps = [graph.region(i).jacobian for i in range(len(graph))]
    margin = np.array([1.0, -1.0])
    for p in (1.0, 2.0, INF):
        found = pt.exact_lipschitz(net, (-1, 1), p, 2, functional=margin)
        assert found.value == pytest.approx(max(norm_of(margin[None] @ J, p, 2.0) for J in maps))
        assert found.jacobian.shape == (2, 4)
        whole = pt.exact_lipschitz(net, (-1, 1), p, 1, total=True)
        assert whole.value == pytest.approx(max(total_of(J, p) for J in maps), rel=1e-11)
        assert whole.value >= pt.exact_lipschitz(net, (-1, 1), p, 1).value


def test_the_peers_numbers() -> None:
    """Counts are those of peers.md; LipMIP's own values are 2e-6 to 1e-5 above these."""
    for name, value in (("A2", 0.20300218447968), ("B3", 0.96874815359942)):
        result = pt.exact_lipschitz(network(name), (-1, 1), INF, 1, total=True)
        assert result.regions == COUNTED[name].in_box
        assert result.value == pytest.approx(value, rel=1e-13)
        assert result.exactness == "rational"
        assert result.upper <= np.nextafter(result.lower, INF)


GENERAL = ["A1", "S4", "T5"]


@pytest.mark.parametrize("name", GENERAL)
@pytest.mark.parametrize("p", [1.0, INF])
@pytest.mark.parametrize("q", [1.0, INF])
def test_mixed_integer_programs_agree(name: str, p: float, q: float) -> None:
    """Networks in general position: the solver's value to 1e-8."""
    net = network(name)
    for domain in ((-0.8, 0.6), pt.Ball(np.full(net.input_size, 0.1), 0.5, 1)):
        exact = pt.exact_lipschitz(net, domain, p, q)
        claim = pt.lipschitz_mip(net, domain, p, q)
        assert claim.wrong == ""
        assert claim.claimed == pytest.approx(exact.value, abs=1e-8)
        assert claim.claimed_upper == pytest.approx(exact.value, abs=1e-6)
        assert claim.lower == pytest.approx(exact.value, rel=1e-10)
        assert claim.upper >= exact.lower


@pytest.mark.parametrize("name", ["hardtanh", "relu6", "leaky_relu", "abs", "maxout", "maximum",
                                  "residual_add", "max_over_all", "prelu_channels"])  # fmt: skip
def test_mixed_integer_programs_of_other_units(name: str) -> None:
    net, _ = compiled(name)
    box = (-0.31, 0.47)
    exact = pt.exact_lipschitz(net, box, INF, INF)
    claim = pt.lipschitz_mip(net, box, INF, INF)
    assert claim.claimed >= exact.value - 1e-8
    if claim.wrong == "":
        assert claim.claimed == pytest.approx(exact.value, abs=1e-8)
        assert claim.lower == pytest.approx(exact.value, rel=1e-9)
    assert claim.lower <= exact.upper


def test_mixed_integer_programs_with_convolutions() -> None:
    net, _ = compiled("max_pool1d")
    low = np.random.default_rng(2).normal(size=net.input_size)
    high = low.copy()
    high[[0, 3, 8]] += 0.7
    box = pt.Box(low, high)
    for p in (1.0, INF):
        exact = pt.exact_lipschitz(net, box, p, INF)
        claim = pt.lipschitz_mip(net, box, p, INF)
        assert claim.wrong == ""
        assert claim.claimed == pytest.approx(exact.value, abs=1e-8)


def test_a_solver_claims_too_much_where_lines_meet() -> None:
    """Without biases all lines meet at 0, where every pattern is feasible: the claim is told."""
    net = network("zero_biases")
    exact = pt.exact_lipschitz(net, (-1, 1), INF, 1)
    claim = pt.lipschitz_mip(net, (-1, 1), INF, 1)
    assert claim.claimed > 1.5 * exact.value
    assert "not found to have an inside" in claim.wrong
    assert claim.lower <= exact.upper
    assert claim.upper >= exact.lower


@pytest.mark.parametrize("total", [False, True])
def test_mixed_integer_programs_of_functionals(total: bool) -> None:
    net = network("S4")
    kind = {"total": True} if total else {"functional": [1.0, -1.0]}
    exact = pt.exact_lipschitz(net, (-0.5, 0.5), 1, 1, **kind)
    claim = pt.lipschitz_mip(net, (-0.5, 0.5), 1, 1, **kind)
    assert claim.wrong == ""
    assert claim.claimed == pytest.approx(exact.value, abs=1e-8)
