"""The slice's geometry, the regions on it, and the figures."""

import io
import math

import numpy as np
import pytest
import torch

import polytope as pt
from polytope import datasets, grids, plot, slices
from polytope.errors import InputError, SmoothActivation
from polytope.sets import Box


@pytest.fixture
def plane():
    return slices.Slice(np.random.default_rng(0).random((3, 12)))


def test_coordinates_are_isometric_and_lift_to_the_points(plane):
    points = np.random.default_rng(0).random((3, 12))
    np.testing.assert_allclose(plane.lift(plane.coordinates), points, atol=1e-14)
    u = np.random.default_rng(1).normal(size=(20, 2))
    lifted = plane.lift(u)
    np.testing.assert_allclose(
        np.linalg.norm(lifted[1:] - lifted[:-1], axis=1),
        np.linalg.norm(u[1:] - u[:-1], axis=1),
        rtol=1e-12,
    )


@pytest.mark.parametrize("p", [1, 2, 3, math.inf])
def test_ball_outline_is_at_the_radius_in_its_norm(plane, p):
    center = plane.coordinates[2]
    outline = plane.ball(center, 0.3, p)
    steps = plane.lift(outline) - plane.lift(center)
    np.testing.assert_allclose(np.linalg.norm(steps, ord=p, axis=1), 0.3, rtol=1e-12)


@pytest.mark.parametrize("line", [np.zeros((3, 2)), np.array([[0.0, 0], [1, 1], [3, 3]])])
def test_points_on_a_line_are_refused(line):
    with pytest.raises(InputError, match=r"coincide|one line"):
        slices.Slice(line)


def test_clip_is_the_box_on_the_plane(plane):
    square = np.array([[-2.0, -2], [3, -2], [3, 3], [-2, 3]])
    inside = plane.clip(square, Box(np.zeros(12), np.ones(12)))
    u = np.random.default_rng(2).uniform(-1, 2, size=(4000, 2))
    edges = np.roll(inside, -1, axis=0) - inside
    offset = u[:, None] - inside[None]
    cross = edges[:, 0] * offset[..., 1] - edges[:, 1] * offset[..., 0]
    z = plane.lift(u)
    expected = ((z >= 0) & (z <= 1)).all(axis=1)
    assert 100 < expected.sum() < 3900
    np.testing.assert_array_equal((cross > 0).all(axis=1), expected)


def test_corners_of_the_box_keep_their_triangle():
    points = np.array([[0.0, 0, 0.2], [1, 0, 0.4], [0, 1, 0.6]])
    plane = slices.Slice(points)
    outline = np.array([[-5.0, -5], [5, -5], [5, 5], [-5, 5]])
    inside = plane.clip(outline, Box(np.zeros(3), np.ones(3)))
    for corner in plane.coordinates:
        assert np.linalg.norm(inside - corner, axis=1).min() < 1e-9


@pytest.fixture
def cross():
    """Two ReLUs whose borders are the lines x = 0.25 and y = 0.5."""
    return pt.compile(
        [(np.eye(2), np.array([-0.25, -0.5])), (np.array([[1.0, 0], [0, 1]]), np.zeros(2))]
    )


def test_borders_regions_and_classes_of_a_cross(cross):
    plane = slices.Slice(np.array([[0.0, 0], [1, 0], [0, 1]]))
    grid = np.linspace(-1, 1, 98)
    swept = grids.sweep_slice(cross, plane, grid, grid)
    assert len(np.unique(swept.region)) == 4
    traced = np.concatenate(swept.borders)
    off = np.minimum(np.abs(traced[:, 0] - 0.25), np.abs(traced[:, 1] - 0.5))
    assert off.max() < 1e-12
    assert {0.25, 0.5} <= set(np.round(traced, 12).ravel())
    X, Y = np.meshgrid(grid, grid)
    np.testing.assert_array_equal(
        swept.classes == 1, np.maximum(Y - 0.5, 0) > np.maximum(X - 0.25, 0)
    )


def test_borders_of_a_maximum():
    net = pt.compile(
        torch.nn.Sequential(torch.nn.MaxPool1d(3), torch.nn.Flatten()).double(), input_shape=(1, 3)
    )
    plane = slices.Slice(np.array([[0.0, 0, 0.2], [1, 0, 0.2], [0, 1, 0.2]]))
    grid = np.linspace(-1, 1, 202)
    swept = grids.sweep_slice(net, plane, grid, grid)
    assert len(np.unique(swept.region)) == 3
    at = plane.lift(np.concatenate(swept.borders))
    two = np.sort(at, axis=1)
    assert np.abs(two[:, 2] - two[:, 1]).max() < 0.02
    for pair in ((0, 1), (0, 2), (1, 2)):
        assert (np.abs(at[:, pair[0]] - at[:, pair[1]]) < 1e-9).sum() > 20


def test_bands_make_no_difference(cross, monkeypatch):
    plane = slices.Slice(np.array([[0.0, 0], [1, 0], [0, 1]]))
    u, v = np.linspace(-1, 1, 40), np.linspace(-1, 1, 31)
    whole = grids.sweep_slice(cross, plane, u, v)
    monkeypatch.setattr(grids, "BAND_VALUES", 300)
    banded = grids.sweep_slice(cross, plane, u, v)
    np.testing.assert_array_equal(whole.region, banded.region)
    np.testing.assert_array_equal(whole.logits, banded.logits)
    length = [
        sum(np.linalg.norm(np.diff(line, axis=0), axis=1).sum() for line in swept.borders)
        for swept in (whole, banded)
    ]
    assert length[0] == pytest.approx(4, abs=1e-9)
    assert length[1] == pytest.approx(4, abs=1e-9)


def test_decision_lines_of_a_single_logit():
    net = pt.compile([(np.array([[1.0, 0]]), np.array([-0.3]))])
    plane = slices.Slice(np.array([[0.0, 0], [1, 0], [0, 1]]))
    grid = np.linspace(-1, 1, 50)
    lines = grids.sweep_slice(net, plane, grid, grid).decision_lines()
    np.testing.assert_allclose(np.concatenate(lines)[:, 0], 0.3, atol=1e-12)


@pytest.fixture(scope="module")
def three():
    X, y = datasets.digits()
    net = datasets.digits_network()
    rows = [23, 69, 14]
    return net, X[rows], y[rows], pt.certify(net, X[rows], y[rows], box=(0, 1))


@pytest.mark.parametrize("p", [1, 2, "inf"])
def test_slice_figure_shows_balls_points_and_box(three, p):
    net, X, y, _ = three
    figure = plot.plot_slice(
        net, X, [0.3, 0.4, 0.5], [0.3, 0.6, np.inf], labels=y, p=p, box=(0, 1), resolution=80
    )
    axes = figure.axes[0]
    dashed = [patch for patch in axes.patches if patch.get_linestyle() not in ("solid", "-", ":")]
    solid = [p for p in axes.patches if p.get_linestyle() in ("solid", "-") and not p.get_fill()]
    assert len(dashed) == 1
    assert len(solid) == 3
    assert axes.get_aspect() == 1
    assert [text.get_text() for text in axes.texts][:3] == [str(c) for c in y]
    if p == 2:
        at = slices.Slice(X).coordinates
        corners = solid[1].get_path().vertices
        np.testing.assert_allclose(np.linalg.norm(corners - at[1], axis=1), 0.4, rtol=1e-9)
    page = io.BytesIO()
    figure.savefig(page, dpi=40)
    assert page.getvalue().startswith(b"\x89PNG")


def test_slice_of_a_network_whose_inputs_are_no_pictures(cross):
    points = np.array([[0.0, 0], [1, 0], [0, 1]])
    figure = plot.plot_slice(cross, points, [0.1, 0.1, 0.0], names=["a", "b", "c"], resolution=40)
    assert not any(axes.images for axes in figure.axes[1:])
    assert any("a: class" in axes.get_title() for axes in figure.axes)


def test_slice_refuses_unusable_arguments(three):
    net, X, _, _ = three
    with pytest.raises(InputError, match="three radii"):
        plot.plot_slice(net, X, [0.1, 0.2])
    with pytest.raises(InputError, match="three points"):
        plot.plot_slice(net, X[:2], [0.1, 0.2])
    with pytest.raises(InputError, match="norm"):
        plot.plot_slice(net, X, [0.1] * 3, p=0.5)
    smooth = pt.compile(
        torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Sigmoid(), torch.nn.Linear(2, 2)),
        input_shape=(2,),
    )
    with pytest.raises(SmoothActivation, match="plot_slice"):
        plot.plot_slice(smooth, np.eye(3, 2), [0.1] * 3)


def test_certificates_figure_counts_the_exact_points(three):
    net, X, y, result = three
    figure = plot.plot_certificates({2: result, "inf": pt.certify(net, X, y, "inf", (0, 1))})
    assert f"{int(result.exact.sum())} of 3 exact" in figure.axes[0].get_title()
    assert "infty" in figure.axes[1].get_title()
    figure.savefig(io.BytesIO(), dpi=40)
    with pytest.raises(InputError, match="one result or more"):
        plot.plot_certificates({})
