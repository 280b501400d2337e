"""Vertices, volumes, boxes and inradii of regions in their domains."""

import itertools
import math

import numpy as np
import pytest

import polytope as pt
from polytope.errors import InputError
from polytope.graph import RegionGraph
from polytope.regions import volumes
from polytope.regions.domain import as_domain
from tests.complexes import split
from tests.nets import dense, pieces


def graph_of(net, domain):
    where = as_domain(net, domain)
    return RegionGraph(net, where, split(net, where))


def free_region(k):
    """The region that is the whole space."""
    return pt.compile([(np.eye(k), np.zeros(k))]).region(np.zeros(k))


@pytest.mark.parametrize("k", [1, 2, 3, 5, 7])
def test_a_box_has_its_corners_and_volume(k):
    low, high = -np.arange(1.0, k + 1), 0.5 * np.ones(k)
    region = free_region(k)
    corners = region.vertices((low, high))
    expected = set(itertools.product(*zip(low, high, strict=True)))
    assert {tuple(c) for c in np.round(corners, 12).tolist()} == expected
    assert len(corners) == 2**k
    volume = region.volume((low, high))
    assert volume.exact
    assert volume.error == 0
    assert volume.value == pytest.approx(np.prod(high - low), rel=1e-12)
    box = region.bounding_box((low, high))
    np.testing.assert_allclose(box.low, low, atol=1e-9)
    np.testing.assert_allclose(box.high, high, atol=1e-9)


@pytest.mark.parametrize(("widths", "size"), [((1, 6, 4, 2), 1), ((2, 8, 6, 2), 1),
                                              ((2, 8, 6, 2), 1e4), ((3, 6, 5, 2), 1)])  # fmt: skip
def test_regions_tile_the_box(widths, size):
    graph = graph_of(dense(*widths, seed=3), (-size, size))
    k = widths[0]
    total = [graph.volume(i) for i in range(len(graph))]
    assert all(volume.exact and volume.value > 0 for volume in total)
    assert sum(v.value for v in total) == pytest.approx((2 * size) ** k, rel=1e-9)


def test_vertices_are_tight_and_inside():
    graph = graph_of(dense(3, 7, 6, 2, seed=4), (-1, 1))
    for i in range(0, len(graph), 5):
        section, corners = graph.section(i), graph.vertices(i)
        residual = (corners @ section.A.T - section.b) / section.sizes
        assert residual.max() < 1e-9
        assert ((np.abs(residual) < 1e-9).sum(axis=1) >= 3).all()
        gap = np.abs(corners[:, None] - corners[None]).max(axis=2)
        assert gap[~np.eye(len(corners), dtype=bool)].min() > 1e-9
        low, high = section.extent
        np.testing.assert_allclose(corners.min(axis=0), low, atol=1e-8)
        np.testing.assert_allclose(corners.max(axis=0), high, atol=1e-8)


def test_a_simplex_by_monte_carlo():
    k = 6
    simplex = pt.HPolytope(np.vstack([-np.eye(k), np.ones((1, k))]), np.append(np.zeros(k), 1.0))
    region = pt.compile([(np.eye(k), np.zeros(k))]).region(np.full(k, 0.1))
    exact = region.volume(simplex)
    assert exact.exact
    assert exact.value == pytest.approx(1 / math.factorial(k), rel=1e-9)
    section = region.section(simplex)
    values = [volumes._monte_carlo(section, 2**14, np.random.default_rng(s)) for s in range(12)]
    scores = np.array([(v.value - exact.value) / v.error for v in values])
    assert all(0 < v.error < 0.1 * v.value for v in values)
    assert np.abs(scores).max() < 4
    assert np.abs(scores).mean() > 0.2


@pytest.mark.parametrize("stretch", [1.0, 1e5])
def test_above_qhulls_dimension_the_estimate_has_an_error(stretch):
    k = 9
    high = np.ones(k)
    high[0] = stretch
    volume = free_region(k).volume((0 * high, high))
    assert not volume.exact
    assert volume.error < 0.05 * stretch
    assert abs(volume.value - stretch) < 4 * volume.error


def test_in_a_ball_the_round_part_counts():
    net = pt.compile([(np.array([[1.0, 0]]), np.zeros(1)), (np.ones((1, 1)), np.zeros(1))])
    half = net.region(np.array([0.3, 0.1])).volume(pt.Ball([0, 0], 2))
    assert not half.exact
    assert abs(half.value - 2 * math.pi) < 4 * half.error < 0.2
    whole = free_region(3).volume(pt.Ball([1, 0, 0], 2))
    assert abs(whole.value - 4 / 3 * math.pi * 8) < max(4 * whole.error, 1e-9)
    with pytest.raises(InputError, match="has none"):
        free_region(2).vertices(pt.Ball([0, 0], 1))


def test_thin_regions_are_measured():
    W = np.array([[1.0, 1.0], [1.0, 1.0]])
    width = 1e-11
    net = pt.compile([(W, np.array([0.0, -width])), (np.eye(2), np.zeros(2))])
    graph = graph_of(net, (-1, 1))
    assert len(graph) == 3
    thin = graph.index(np.full(2, width / 4))
    volume = graph.volume(thin)
    assert volume.value == pytest.approx(2 * width, rel=1e-3, abs=4 * volume.error)


def test_what_cannot_be_measured_is_refused():
    region = dense(2, 6, 4, 2, seed=0).region(np.array([-50.0, -50]))
    for method in (region.vertices, region.volume):
        with pytest.raises(InputError, match=r"unbounded \(coordinate"):
            method()
        with pytest.raises(InputError, match="no interior in the domain"):
            method((-1, 1))
    box = region.bounding_box()
    assert np.isinf(box.low).any() or np.isinf(box.high).any()
    with pytest.raises(InputError, match="up to 7"):
        free_region(8).vertices((0, 1))


def test_inradius_on_the_domain():
    graph = graph_of(dense(2, 8, 6, 2, seed=3), (-1, 1))
    for i in range(0, len(graph), 4):
        section = graph.section(i)
        for p in (1.0, 2.0, math.inf):
            center, radius = section.largest_ball(p)
            dual = {1.0: math.inf, 2.0: 2, math.inf: 1}[p]
            gap = (section.b - section.A @ center) / np.linalg.norm(section.A, dual, axis=1)
            assert gap.min() == pytest.approx(radius)
            assert radius > 0
            assert (pieces(graph.net, center[None])[0] == graph.found.pieces[i]).all()
    assert free_region(2).section().largest_ball()[1] == math.inf


def test_inradius_on_a_slice_is_of_the_flat():
    net = dense(5, 8, 6, 2, seed=3)
    plane = pt.Slice(np.random.default_rng(0).normal(size=(3, 5)), margin=0.3)
    section = net.region(plane.origin).section(plane)
    center, radius = section.largest_ball()
    angle = np.linspace(0, 7, 50)
    circle = center + 0.999 * radius * np.c_[np.cos(angle), np.sin(angle)]
    assert net.region(plane.origin).contains(plane.lift(circle)).all()
    assert not net.region(plane.origin).contains(plane.lift(circle * 1.1)).all() or radius > 0
    with pytest.raises(InputError, match="only p = 2"):
        section.largest_ball(1.0)
    frozen = net.region(np.zeros(5)).section(([-1, 0, -1, 0, -1], [1, 0, 1, 0, 1]))
    assert frozen.largest_ball(1.0)[1] > frozen.largest_ball(math.inf)[1] > 0


def test_sizes_in_the_table():
    graph = graph_of(dense(2, 6, 4, 2, seed=3), (-1, 1))
    table = graph.statistics(sizes=True)
    assert table["volume"].sum() == pytest.approx(4, rel=1e-9)
    assert (table["volume_error"] == 0).all()
    assert (math.pi * table["inradius"] ** 2 < table["volume"] * (1 + 1e-9)).all()
    whole = graph_of(dense(2, 6, 4, 2, seed=3), None).statistics(sizes=True)
    assert np.isinf(whole["volume"]).any()
    assert np.isfinite(whole["volume"]).any()
