"""Small networks full of coincidences: exact in the plane, engines agree above, all is tiled."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import polytope as pt
from polytope.network.build import GraphBuilder
from polytope.network.source import Imported
from tests.region_checks import (
    assert_exact,
    assert_points_in_one_region,
    assert_same,
    assert_sound,
    assert_tiled,
    truth,
)

METHODS = ("splitting", "crossing")
#: Few values: hyperplanes coincide, meet in one point, and lie on the faces of the domains.
GRID = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.0, 0.5, 1.0, 1.0, 2.0])
SCALES = st.sampled_from([1.0, 1.0, -1.0, 0.5, 3.0, 2.0**-36, 2.0**36])


@st.composite
def layers(draw: st.DrawFn, size: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights of a layer: on a grid or generic; rows repeated, negated, scaled, or zero."""
    if draw(st.booleans()):
        rows = draw(st.lists(GRID, min_size=width * (size + 1), max_size=width * (size + 1)))
        table = np.array(rows).reshape(width, size + 1)
    else:
        table = np.random.default_rng(draw(st.integers(0, 999))).normal(size=(width, size + 1))
    if draw(st.booleans()):
        table[:, -1] = 0.0
    for row in range(1, width):
        change = draw(st.sampled_from(["keep", "keep", "keep", "copy", "dead", "nearly"]))
        if change == "copy":
            table[row] = draw(SCALES) * table[row - 1]
        elif change == "dead":
            table[row, :-1] = 0.0
        elif change == "nearly":
            table[row] = table[row - 1]
            table[row, -1] += draw(st.sampled_from([2.0**-52, 2.0**-40, -(2.0**-50)]))
    table *= draw(st.sampled_from([1.0, 1.0, 1.0, 2.0**-36, 2.0**36]))
    return table[:, :-1], table[:, -1]


@st.composite
def networks(draw: st.DrawFn, size: int) -> pt.Network:
    """Two layers of any piecewise-linear kind, and a residual sum at times."""
    build = GraphBuilder()
    x = build.input((size,))
    for _ in range(draw(st.integers(1, 2))):
        width = draw(st.integers(2, 5 if size < 4 else 4))
        weight, bias = draw(layers(x.shape[-1], width))
        y = build.linear(x, build.constant(weight), build.constant(bias))
        kind = draw(st.sampled_from(["relu", "relu", "relu", "leaky", "clamp", "abs", "max"]))
        if kind == "relu":
            y = build.relu(y)
        elif kind == "leaky":
            y = build.leaky_relu(y, 0.25)
        elif kind == "clamp":
            y = build.clamp(y, -0.5, 0.5)
        elif kind == "abs":
            y = build.abs(y)
        else:
            pairs = np.array([[i, (i + 1) % width] for i in range(width)])
            y = build.max(build.relu(y), pairs, (1, width), "pool")
        x = build.sum([x, y], [1, 1]) if x.shape == y.shape and draw(st.booleans()) else y
    out = build.constant(np.ones((2, x.shape[-1])))
    return pt.Network(Imported(build.finish(build.linear(x, out, None))))


@st.composite
def boxes(draw: st.DrawFn, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Faces and frozen coordinates on the grid, where hyperplanes lie; one coordinate free."""
    low, high = np.zeros(size), np.zeros(size)
    for axis in range(size):
        low[axis] = draw(st.sampled_from([-2.0, -1.0, 0.0]))
        wide = draw(st.sampled_from([1.0, 2.0, 1.5, 2.0**-20, 0.0])) if axis else 2.0
        high[axis] = low[axis] + wide
    return low, high


def engines(net: pt.Network, domain: object) -> list[pt.RegionGraph]:
    return [pt.region_graph(net, domain, method=method, workers=1) for method in METHODS]


@settings(max_examples=60)
@given(st.data())
def test_the_plane(data: st.DataObject) -> None:
    """Whole, in boxes up to 1e9, slanted polygons, l_1 balls: the oracle's regions and facets."""
    net = data.draw(networks(2))
    domain = data.draw(
        st.one_of(
            st.sampled_from([
                None, (-1, 1), (0, 1), (-1e6, 1e6), (-1e9, 1e9), pt.Ball([0.0, 1.0], 1.0, 1),
                pt.Ball([0.5, 0.0], 0.5, np.inf),
                pt.HPolytope(np.array([[1.0, 1], [-2, 1], [0, -1]]), np.array([1.0, 0.5, 0])),
                pt.HPolytope(np.array([[1.0, -1]]), np.zeros(1)),
            ]),
            boxes(2).filter(lambda box: (box[0] < box[1]).all()),
        )
    )  # fmt: skip
    graphs = engines(net, domain)
    expected = truth(net, graphs[0].domain)
    for graph in graphs:
        assert_exact(graph, expected)


@settings(max_examples=30)
@given(st.data())
def test_planes_in_space(data: st.DataObject) -> None:
    """Slices through points of the grid, and boxes with frozen coordinates."""
    size = data.draw(st.integers(3, 4))
    net = data.draw(networks(size))
    if data.draw(st.booleans()):
        corners = np.array(data.draw(st.permutations(np.eye(size).tolist())))[:3]
        domain: object = pt.Slice(corners, margin=data.draw(st.sampled_from([0.0, 0.5, 100.0])))
    else:
        low, high = data.draw(boxes(size))
        high[2:], high[1] = low[2:], low[1] + 1
        domain = (low, high)
    graphs = engines(net, domain)
    expected = truth(net, graphs[0].domain)
    for graph in graphs:
        assert_exact(graph, expected)


@settings(max_examples=40)
@given(st.data())
def test_any_dimension(data: st.DataObject) -> None:
    """d = 1 to 4: the engines agree, the regions fill the domain, facets lie in both."""
    size = data.draw(st.sampled_from([1, 3, 3, 4]))
    net = data.draw(networks(size))
    domain = data.draw(st.one_of(boxes(size), st.sampled_from([None, (-1, 1), (-1e6, 1e6)])))
    one, other = engines(net, domain)
    assert_same(one, other)
    assert_sound(one, 20)
    assert_sound(other, 20)
    if len(one) < 16:  # measuring takes some 30 ms a region
        if domain is not None and np.ptp(one.domain.limits, axis=0).min() > 0.1:
            assert_tiled(one)
        assert_points_in_one_region(other)


@settings(max_examples=15)
@given(st.data())
def test_balls_hold_their_regions(data: st.DataObject) -> None:
    """A ball finds those regions of the box around it that a dense sampling of it meets."""
    size = data.draw(st.integers(1, 3))
    net = data.draw(networks(size))
    ball = pt.Ball(np.full(size, data.draw(st.sampled_from([0.0, 0.5]))), 1.0)
    graph = pt.region_graph(net, ball)
    around = pt.region_graph(net, pt.Ball(ball.center, 1.0, np.inf))
    found = {row.tobytes() for row in graph.found.pieces}
    assert found <= {row.tobytes() for row in around.found.pieces}
    assert_sound(graph, 20)
    met = around.coordinates[ball.contains(around.coordinates)]
    for u in met:
        row = around.found.pieces[(around.coordinates == u).all(axis=1)][0]
        assert row.tobytes() in found
