"""Pictures of region graphs: what is drawn is what the network does, by brute force."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.collections import EllipseCollection, LineCollection, PathCollection, PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.path import Path
from matplotlib.quiver import Quiver

import polytope as pt
from polytope.errors import InputError
from polytope.plot import HUES
from polytope.region_plot import LONGEST
from polytope.regions.tiles import around, tiles_of
from tests.nets import compiled, dense, pieces

BOX = (-1.0, 1.0)


@pytest.fixture(scope="module")
def flat():
    """A network of two inputs, and its regions in a box."""
    net = dense(2, 8, 8, 3, seed=3)
    return pt.region_graph(net, BOX)


@pytest.fixture(scope="module")
def sliced():
    """A network of six inputs, and its regions on a plane of them."""
    net = dense(6, 10, 8, 4, seed=1)
    plane = pt.Slice(np.random.default_rng(2).normal(size=(3, 6)), margin=0.3)
    return pt.region_graph(net, plane)


def the(axes, kind, which=0):
    """A collection of a kind."""
    return [item for item in axes.collections if type(item) is kind][which]


def inside(graph, count=300, seed=0):
    """Random coordinates in the domain."""
    low, high = graph.domain.limits
    u = np.random.default_rng(seed).uniform(low, high, (4 * count, 2))
    return u[graph.domain.contains(u)][:count]


def outputs(graph, u):
    """The network's logits at coordinates."""
    return graph.net.logits(graph.domain.lift(u))


def holds(corners, u, slack):
    """Which points a convex counter-clockwise polygon holds, or all but `slack`."""
    step = np.roll(corners, -1, axis=0) - corners
    size = np.linalg.norm(step, axis=1)
    step, start = step[size > 0] / size[size > 0, None], corners[size > 0]
    gap = u[:, None] - start
    return (step[:, 0] * gap[..., 1] - step[:, 1] * gap[..., 0] >= -slack).all(axis=1)


@pytest.mark.parametrize("which", ["flat", "sliced"])
def test_tiles_are_the_regions_and_the_decisions(request, which):
    graph = request.getfixturevalue(which)
    tiles = tiles_of(graph.net, graph.domain, graph.found)
    low, high = graph.domain.limits
    np.testing.assert_allclose(tiles.areas.sum(), np.prod(high - low), rtol=1e-9)
    assert set(tiles.region) == set(range(len(graph)))
    for i in range(len(graph)):
        own = tiles.areas[tiles.region == i].sum()
        np.testing.assert_allclose(own, graph.volume(i).value, rtol=1e-6, atol=1e-12)
    u = inside(graph)
    own = pieces(graph.net, graph.domain.lift(u))
    decided = outputs(graph, u).argmax(axis=1)
    found = np.zeros(len(u), int)
    for region, label, corners in zip(tiles.region, tiles.label, tiles.corners, strict=True):
        strictly = holds(corners, u, -1e-9)
        found += strictly
        np.testing.assert_array_equal(
            own[strictly],
            np.broadcast_to(graph.found.pieces[region], (strictly.sum(), own.shape[1])),
        )
        assert (decided[strictly] == label).all()
    assert (found == 1).all()


@pytest.mark.parametrize("which", ["flat", "sliced"])
def test_on_the_decision_boundary_the_two_largest_are_equal(request, which):
    graph = request.getfixturevalue(which)
    tiles = tiles_of(graph.net, graph.domain, graph.found)
    assert len(tiles.decision) > 3
    along = np.linspace(0, 1, 7)[:, None, None]
    u = tiles.decision[:, 0] + along * (tiles.decision[:, 1] - tiles.decision[:, 0])
    values = np.sort(outputs(graph, u.reshape(-1, 2)), axis=1)
    np.testing.assert_allclose(values[:, -1], values[:, -2], atol=1e-8)
    # And it is all of the boundary: between two random points it is crossed where they differ.
    a, b = inside(graph, 60, 1), inside(graph, 60, 2)
    crossed = np.zeros(60, int)
    for (p, q), (r, s) in ((pair, ends) for pair in tiles.decision for ends in [(a, b)]):
        side = np.sign(_cross(q - p, r - p)) != np.sign(_cross(q - p, s - p))
        other = np.sign(_cross(s - r, p - r)) != np.sign(_cross(s - r, q - r))
        crossed += side & other
    along = np.linspace(0, 1, 4001)[:, None, None]
    way = outputs(graph, (a + along * (b - a)).reshape(-1, 2)).argmax(axis=1).reshape(-1, 60)
    changes = (way[1:] != way[:-1]).sum(axis=0)
    assert changes.sum() > 10
    np.testing.assert_array_equal(crossed, changes)


def _cross(a, b):
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def test_the_picture_draws_the_tiles_in_the_hues_of_their_classes(flat):
    (axes,) = pt.plot_regions(flat).axes
    tiles = tiles_of(flat.net, flat.domain, flat.found)
    fills = the(axes, PolyCollection)
    paths = [path.vertices[:-1] for path in fills.get_paths()]
    assert len(paths) == len(tiles.corners)
    for drawn, corners in zip(paths, tiles.corners, strict=True):
        np.testing.assert_allclose(drawn, corners, atol=1e-12)
    for colour, label in zip(fills.get_facecolor(), tiles.label, strict=True):
        pale, hue = 1 - colour[:3], 1 - np.array(to_rgb(HUES[label]))
        strength = pale @ hue / (hue @ hue)
        np.testing.assert_allclose(pale, strength * hue, atol=1e-9)
        assert 0.2 < strength < 0.6
    borders = the(axes, PolyCollection, 1)
    assert len(borders.get_paths()) == len(tiles.corners)
    boundary = the(axes, LineCollection)
    assert len(boundary.get_segments()) == len(tiles.decision)


def test_legend_title_counts_and_axes(flat, sliced):
    figure = pt.plot_regions(flat, title="Here")
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    tiles = tiles_of(flat.net, flat.domain, flat.found)
    classes = [f"class {c}" for c in np.unique(tiles.label)]
    assert words == [*classes, "decision boundary", "border of a region"]
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "Here"
    assert axes.texts[0].get_text() == f"{len(flat):,} regions"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("input 0", "input 1")
    (axes,) = pt.plot_regions(sliced).axes
    assert "distance" in axes.get_xlabel()
    frozen = np.array([[0, 0.5, -1], [0.2, 0.5, 1]]).T
    net = dense(3, 6, 2, seed=4)
    (axes,) = pt.plot_regions(pt.region_graph(net, pt.Box(*frozen.T))).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("input 0", "input 2")
    figure.savefig(io.BytesIO())


def test_circles_touch_the_nearest_border(sliced):
    u = inside(sliced, 25)
    figure = pt.plot_regions(sliced, sliced.domain.lift(u), circles=True)
    circles = the(figure.axes[0], EllipseCollection)
    np.testing.assert_allclose(circles.get_offsets(), u, atol=1e-12)
    np.testing.assert_allclose(circles.get_widths(), circles.get_heights())
    radius = circles.get_widths() / 2
    angle = np.linspace(0, 2 * np.pi, 3000)
    ring = np.column_stack([np.cos(angle), np.sin(angle)])
    own = pieces(sliced.net, sliced.domain.lift(u))

    def same(r):
        """Whether all the ring at `r` times each radius is in the point's own region."""
        rings = u[:, None] + (r * radius)[:, None, None] * ring
        there = pieces(sliced.net, sliced.domain.lift(rings.reshape(-1, 2)))
        return (there.reshape(len(u), -1, own.shape[1]) == own[:, None]).all(axis=(1, 2))

    assert (radius > 0).all()
    assert same(0.999).all()
    assert not same(1.001).any()
    assert f"{np.median(radius):.3g}" in figure.axes[0].texts[0].get_text()


def test_arrows_are_the_gradient_projected_on_the_plane(sliced):
    u = inside(sliced, 15)
    figure = pt.plot_regions(sliced, sliced.domain.lift(u), arrows=True)
    arrows = the(figure.axes[0], Quiver)
    step = np.column_stack([arrows.U, arrows.V])
    x = torch.tensor(sliced.domain.lift(u), requires_grad=True)
    top = sliced.net.forward(x).topk(2, dim=1).values
    (top[:, 0] - top[:, 1]).sum().backward()
    expected = x.grad.numpy() @ sliced.domain.basis.T
    low, high = sliced.domain.limits
    longest = np.linalg.norm(expected, axis=1).max()
    np.testing.assert_allclose(
        step, expected * LONGEST * (high - low).max() / longest, rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(arrows.XY, u, atol=1e-12)
    assert (arrows.scale, arrows.angles, arrows.scale_units) == (1, "xy", "xy")
    assert f"longest gradient {longest:.3g}" in figure.axes[0].texts[0].get_text()


def test_arrows_do_not_depend_on_where_the_plane_lies():
    shift = np.array([100.0, -40])
    layers = [(np.eye(2), np.array([-0.2, 0.1])), (np.array([[1.0, 2], [0, 1]]), np.zeros(2))]
    moved = [(layers[0][0], layers[0][1] - shift), layers[1]]
    lengths = []
    for net, by in ((pt.compile(layers), 0), (pt.compile(moved), shift)):
        graph = pt.region_graph(net, pt.Box(np.array([-1.0, -1]) + by, np.array([1.0, 1]) + by))
        figure = pt.plot_regions(graph, np.array([[0.5, 0.5]]) + by, arrows=True)
        arrows = the(figure.axes[0], Quiver)
        lengths.append(float(np.hypot(arrows.U, arrows.V)[0]))
    np.testing.assert_allclose(lengths, LONGEST * 2, rtol=1e-9)


def test_points_are_numbered_by_their_labels_or_decisions(flat):
    x = np.array([[0.5, 0.5], [-0.5, 0.2], [0.1, -0.9]])
    decided = [str(c) for c in outputs(flat, x).argmax(axis=1)]
    for labels, words in ((None, decided), ([7, 8, 9], ["7", "8", "9"])):
        figure = pt.plot_regions(flat, x, labels=labels)
        texts = figure.axes[0].texts[:-1]
        assert [text.get_text() for text in texts] == words
        np.testing.assert_allclose([text.get_position() for text in texts], x)
        assert "point and its class" in [t.get_text() for t in figure.legends[0].get_texts()]
    many = pt.plot_regions(flat, np.zeros((20, 2)) + 0.1)
    assert len(many.axes[0].texts) == 1
    dots = the(many.axes[0], PathCollection)
    hue = to_rgb(HUES[outputs(flat, np.full((1, 2), 0.1)).argmax()])
    np.testing.assert_allclose(dots.get_facecolors()[:, :3], np.tile(hue, (20, 1)))
    assert "point (hue: its class)" in [t.get_text() for t in many.legends[0].get_texts()]


def test_a_partial_graph_leaves_white_what_it_has_not_found(flat):
    part = pt.region_graph(flat.net, BOX, 6)
    assert not part.complete
    figure = pt.plot_regions(part)
    tiles = tiles_of(part.net, part.domain, part.found)
    whole = tiles_of(flat.net, flat.domain, flat.found)
    assert set(tiles.region) == set(range(6))
    assert 0 < tiles.areas.sum() < 0.9 * whole.areas.sum()
    assert "6 regions found so far" in figure.axes[0].texts[0].get_text()
    assert "not found yet" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_nothing_found_yet_can_be_drawn(flat):
    none = pt.region_graph(flat.net, BOX, start=np.zeros(2), time_limit=0)
    assert len(none) == 0
    figure = pt.plot_regions(none)
    figure.savefig(io.BytesIO())
    assert "0 regions found so far" in figure.axes[0].texts[0].get_text()


def test_several_graphs_side_by_side(flat, sliced):
    figure = pt.plot_regions({"one": flat, "two": sliced, "three": flat, "four": flat}, title="All")
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.axison]
    assert titles == ["one", "two", "three", "four"]
    assert figure.get_suptitle() == "All"
    figure.savefig(io.BytesIO())


def test_the_legend_lies_within_the_picture(flat):
    for panels in (1, 2, 3):
        graphs = {str(i): flat for i in range(panels)}
        figure = pt.plot_regions(graphs, np.full((13, 2), 0.1), circles=True, arrows=True)
        figure.draw_without_rendering()
        box = figure.legends[0].get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        for axes in figure.axes:
            assert axes.get_tightbbox().y0 >= box.y1 - 1
            assert axes.get_window_extent().width > 0.75 * figure.bbox.width / panels


def test_a_disc_is_drawn_round(flat):
    center, radius = np.array([0.2, 0.1]), 0.5
    graph = pt.region_graph(flat.net, pt.Ball(center, radius))
    tiles = tiles_of(graph.net, graph.domain, graph.found)
    np.testing.assert_allclose(tiles.areas.sum(), np.pi * radius**2, rtol=1e-4)
    (axes,) = pt.plot_regions(graph).axes
    outline = Path(axes.patches[0].get_xy())
    np.testing.assert_allclose(np.linalg.norm(outline.vertices - center, axis=1), radius)


def test_dead_units_and_a_single_logit():
    net, _ = compiled("single_logit")
    size = net.input_size
    plane = pt.Slice(np.random.default_rng(0).normal(size=(3, size)), margin=1.0)
    graph = pt.region_graph(net, plane)
    tiles = tiles_of(net, graph.domain, graph.found)
    for label, corners in zip(tiles.label, tiles.corners, strict=True):
        assert net.predict(graph.domain.lift(corners.mean(axis=0)[None])) == [label]
    pt.plot_regions(graph, plane.points, arrows=True, circles=True).savefig(io.BytesIO())
    dead = pt.compile([(np.array([[1.0, 0], [0, 0]]), np.zeros(2)), (np.eye(2), np.zeros(2))])
    at = pt.region_graph(dead, BOX)
    local = around(dead, at.domain, np.array([[0.25, 0.5]]))
    np.testing.assert_allclose(local.margin, 0.25)


def test_a_margin_without_any_border_is_not_drawn():
    net = pt.compile([(np.zeros((2, 2)), np.ones(2)), (np.eye(2), np.zeros(2))])
    graph = pt.region_graph(net, BOX)
    assert len(graph) == 1
    circles = the(pt.plot_regions(graph, np.zeros((1, 2)), circles=True).axes[0], EllipseCollection)
    assert circles.get_widths().tolist() == [0.0]


def test_bad_input(flat, sliced):
    cube = pt.region_graph(dense(3, 4, 2, seed=4), BOX)
    with pytest.raises(InputError, match="two dimensions, this one has 3"):
        pt.plot_regions(cube)
    with pytest.raises(InputError, match="bounded"):
        pt.plot_regions(pt.region_graph(flat.net))
    with pytest.raises(InputError, match="one graph or more"):
        pt.plot_regions({})
    with pytest.raises(InputError, match=r"got shape \(1, 3\)"):
        pt.plot_regions(flat, np.zeros((1, 3)))
    for labels in ([0], [0.5, 1.0], ["a", "b"]):
        with pytest.raises(InputError, match="one whole number for each of the 2 points"):
            pt.plot_regions(flat, np.zeros((2, 2)), labels=labels)
    off = sliced.domain.lift(np.zeros((1, 2))) + 1.0
    with pytest.raises(InputError, match=r"slice|plane|domain"):
        pt.plot_regions(sliced, off)


def test_it_is_public_and_loads_neither_matplotlib_nor_numba_before_it_draws():
    probe = (
        "import sys, polytope as pt; pt.plot_regions; "
        "sys.exit(bool({'matplotlib', 'numba', 'networkx'} & set(sys.modules)))"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert "plot_regions" in pt.__all__
    assert subprocess.run([sys.executable, "-c", probe], env=env, check=False).returncode == 0
