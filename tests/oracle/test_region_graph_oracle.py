"""`region_graph` against known counts and against the exact regions of the plane, both engines."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy.optimize import linprog

import polytope as pt
from polytope.regions.domain import as_domain
from tests.nets import NAMES, compiled
from tests.oracle.degenerate_nets import COUNTED, DEGENERATE
from tests.oracle.regions_2d import Regions2D
from tests.region_checks import (
    adjacency,
    assert_exact,
    assert_sound,
    assert_tiled,
    in_ball,
    merged,
    partition,
    patterns,
    total,
    truth,
)

METHODS = ("splitting", "crossing")
both_engines = pytest.mark.parametrize("method", METHODS)

#: Shared facets of the generic networks, in [-1, 1]^d and in the whole space: both engines, and
#: for A1 and A2 the oracle, agree on them.
EDGES = {
    "A1": (226, 1111), "A2": (2286, 10606), "S4": (779, 7844), "S6": (1118, 12346),
    "T5": (176, 3595), "B1": (23657, 159035),
    "B2": (35058, 793791), "B3": (137331, 1241108),
    "zero_biases": (29, 29), "duplicated": (23, 299), "rescaled": (32, 291), "pruned": (16, 183),
}  # fmt: skip
BOX, SPACE = (-1, 1), None
#: Seconds matter: S6 and B2 take long in the whole space by splitting, B3 everywhere.
COUNTS = [
    *((name, domain, method)
      for name in ("A1", "A2", "S4", "T5", *(net.name for net in DEGENERATE))
      for domain in (BOX, SPACE) for method in METHODS),
    *(("S6", BOX, method) for method in METHODS),
    ("S6", SPACE, "crossing"),
    *(("B1", BOX, method) for method in METHODS),
    ("B1", SPACE, "splitting"),
    ("B1", SPACE, "crossing"),
    *(("B2", BOX, method) for method in METHODS),
    ("B2", SPACE, "crossing"),
    ("B3", BOX, "crossing"),
    ("B3", SPACE, "crossing"),
]  # fmt: skip


@functools.cache
def network(name: str) -> pt.Network:
    net = COUNTED[name]
    return pt.compile(net.model(), (net.widths[0],))


@pytest.mark.parametrize(("name", "domain", "method"), COUNTS)
def test_counts(name: str, domain: tuple[int, int] | None, method: str) -> None:
    net = COUNTED[name]
    graph = pt.region_graph(network(name), domain, method=method, workers=1)
    assert graph.complete
    assert graph.stopped == ""
    assert len(graph) == (net.in_space if domain is None else net.in_box)
    assert len(graph.edges) == EDGES[name][domain is None]
    if len(graph) < 100_000:
        assert_sound(graph, 50)
    if (name, domain) == ("B3", BOX):
        assert len(set(graph.linear_regions().tolist())) == 24_879


@pytest.mark.parametrize("domain", [BOX, SPACE])
@pytest.mark.parametrize("name", ["A1", *(net.name for net in DEGENERATE)])
def test_counted_nets_exactly(name: str, domain: tuple[int, int] | None) -> None:
    """Regions, shared facets, areas, and what merges, all exact."""
    net = network(name)
    engines = [pt.region_graph(net, domain, method=method) for method in METHODS]
    expected = truth(net, engines[0].domain)
    if domain is not None:
        assert total(expected) == 4
    for graph in engines:
        assert_exact(graph, expected, areas=domain is not None)
    assert_merged(engines[0], expected)


def assert_merged(graph: pt.RegionGraph, expected: Regions2D) -> None:
    linear, affine = merged(graph.net, graph.domain, expected)
    assert partition(graph, graph.linear_regions()) == linear
    assert partition(graph, graph.affine_regions()) == affine


def test_facets_by_linear_programs() -> None:
    """T5: every region's facets inside the box, one linear program for each row."""
    graph = pt.region_graph(network("T5"), BOX, method="splitting")
    found = np.zeros(len(graph), dtype=int)
    for i in range(len(graph)):
        region = graph.region(i)
        A, b = region.A[~region.zero_rows], region.b[~region.zero_rows]
        scale = np.abs(A).max(axis=1)
        A, b = A / scale[:, None], b / scale
        for row in range(len(A)):
            others = np.arange(len(A)) != row
            best = linprog(-A[row], A_ub=A[others], b_ub=b[others], bounds=BOX, method="highs")
            found[i] += -best.fun > b[row] + 1e-9
    assert [len(graph.neighbors(i)) for i in range(len(graph))] == found.tolist()


PLANES = [
    name for name in NAMES if name not in ("affine_only", "identity", "one_input", "linear_no_bias")
]


def plane_through(name: str, size: float, margin: float) -> pt.Slice:
    """A plane through three points of a network's input space."""
    net, _ = compiled(name)
    first, *others = np.random.default_rng(len(name)).normal(size=(3, net.input_size))
    return pt.Slice(first + size * np.array([0 * first, *others]), margin=margin)


def window(name: str) -> float:
    """Smaller where units are many: the oracle is slow, and what it finds already rich."""
    units = compiled(name)[0].units
    return 0.8 if units <= 12 else 0.4 if units <= 24 else 0.02 if units > 100 else 0.1


@pytest.mark.parametrize("name", PLANES)
def test_planes_through_every_kind_of_network(name: str) -> None:
    """Convolutions, residual sums, pools, recurrence...: regions, facets, areas, merging."""
    net, _ = compiled(name)
    plane = plane_through(name, window(name), 0.25)
    engines = [pt.region_graph(net, plane, method=method, workers=1) for method in METHODS]
    expected = truth(net, engines[0].domain)
    for graph in engines:
        assert_exact(graph, expected)
    if len(expected) < 60:
        assert_tiled(engines[0])
        assert_merged(engines[1], expected)


LARGE = [
    "linear", "single_logit", "conv1d", "avg_pool1d", "max_pool1d", "leaky_relu", "hardtanh",
    "relu6", "abs", "maxout", "residual_add", "rnn", "leaky_cell", "zero_biases",
    "duplicated_neurons", "dead_units",
]  # fmt: skip


@pytest.mark.parametrize("radius", [1e6, 1e9])
@pytest.mark.parametrize("name", LARGE)
def test_large_windows(name: str, radius: float) -> None:
    net, _ = compiled(name)
    plane = plane_through(name, 0.5, radius)
    engines = [pt.region_graph(net, plane, method=method, workers=1) for method in METHODS]
    expected = truth(net, engines[0].domain)
    for graph in engines:
        assert_exact(graph, expected)
    assert_tiled(engines[0])


@both_engines
@pytest.mark.parametrize("radius", [1e3, 1e6, 1e9])
def test_large_boxes(method: str, radius: float) -> None:
    net = network("A1")
    graph = pt.region_graph(net, (-radius, radius), method=method)
    assert_exact(graph, truth(net, graph.domain), areas=True)


def test_whole_planes() -> None:
    for name in ("conv1d", "hardtanh", "maxout", "duplicated_neurons"):
        net, _ = compiled(name)
        plane = pt.Slice(np.random.default_rng(3).normal(size=(3, net.input_size)))
        engines = [pt.region_graph(net, plane, method=method) for method in METHODS]
        expected = truth(net, engines[0].domain)
        for graph in engines:
            assert_exact(graph, expected)


@both_engines
def test_polytopes_and_l1_balls(method: str) -> None:
    """Slanted, unbounded and thin domains of the plane."""
    net = network("A1")
    turn = np.array([[np.cos(t), np.sin(t)] for t in (0.3, 1.2, 2.6, 4.0, 5.5)])
    domains = [
        pt.HPolytope(turn, np.array([1.0, 0.5, 1.5, 0.25, 1.0])),
        pt.HPolytope(turn[:2], np.array([0.5, 0.25])),
        pt.HPolytope(turn[:1], np.array([-1.0])),
        pt.HPolytope(np.vstack([turn[0], -turn[0]]), np.array([0.3, -0.3 + 2.0**-20])),
        pt.Ball([0.25, -0.5], 1.5, 1),
        pt.Ball([0.25, -0.5], 1.5, np.inf),
        (np.array([-1.0, -np.inf]), np.array([np.inf, 2.0])),
    ]
    for domain in domains:
        graph = pt.region_graph(net, domain, method=method)
        assert_exact(graph, truth(net, graph.domain))


@pytest.mark.parametrize("name", ["A1", "zero_biases", "duplicated"])
def test_round_balls(name: str) -> None:
    """Exact distances of regions and facets from the center decide what is in the ball."""
    net = network(name)
    for center, radius in (([0.0, 0.0], 1.0), ([0.5, -0.25], 1.25), ([3.0, 1.0], 0.01)):
        graph = pt.region_graph(net, pt.Ball(center, radius))
        assert graph.complete
        around = truth(net, as_domain(net, pt.Ball(center, 2 * radius, np.inf)))
        regions, pairs = in_ball(around, np.array(center), radius)
        assert patterns(graph) == regions
        assert adjacency(graph) == pairs
        assert_sound(graph, 40)


@pytest.mark.parametrize(
    ("shift", "regions", "facets"),
    [(1.0, 2, 1), (np.nextafter(1.0, 0), 4, 4), (np.nextafter(1.0, 2), 2, 1)],
)
def test_tangent_balls(shift: float, regions: int, facets: int) -> None:
    """A hyperplane that only touches the ball is not crossed; one an ulp nearer is."""
    net = pt.compile([(np.eye(2), np.array([-shift, 0.0])), (np.ones((1, 2)), np.zeros(1))])
    graph = pt.region_graph(net, pt.Ball([0.0, 0.0], 1.0))
    assert (len(graph), len(graph.edges)) == (regions, facets)


@pytest.mark.parametrize(("offset", "regions"), [(-5.0, 1), (np.nextafter(-5.0, 0.0), 2)])
def test_slanted_tangents(offset: float, regions: int) -> None:
    """``3 u + 4 v = 5`` touches the unit ball, well inside the box around it."""
    net = pt.compile([(np.array([[3.0, 4.0]]), np.array([offset])), (np.ones((1, 1)), np.zeros(1))])
    graph = pt.region_graph(net, pt.Ball([0.0, 0.0], 1.0))
    assert (len(graph), len(graph.edges)) == (regions, regions - 1)
    assert graph.exact_verdicts > 0
