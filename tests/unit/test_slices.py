"""Slices: lines, planes and larger flats through points, their limits, and bad points."""

import math

import numpy as np
import pytest
import torch

import polytope as pt
from polytope.errors import InputError


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_points_have_their_coordinates_and_distances(k):
    points = np.random.default_rng(k).normal(size=(k + 1, 3, 3))
    flat = points.reshape(k + 1, 9)
    plane = pt.Slice(points)
    assert plane.dimension == k
    assert plane.basis.shape == (k, 9)
    np.testing.assert_allclose(plane.basis @ plane.basis.T, np.eye(k), atol=1e-15)
    np.testing.assert_allclose(plane.lift(plane.coordinates), flat, atol=1e-13)
    np.testing.assert_array_equal(plane.coordinates[0], np.zeros(k))
    np.testing.assert_allclose(plane.coordinates[1, 1:], 0, atol=1e-14)
    assert plane.coordinates[1, 0] == pytest.approx(np.linalg.norm(flat[1] - flat[0]))


def test_nearly_collinear_points_still_give_an_orthonormal_basis():
    points = np.array([[0.0, 0, 0], [1, 1, 1], [2, 2, 2 + 1e-4]])
    plane = pt.Slice(points)
    np.testing.assert_allclose(plane.basis @ plane.basis.T, np.eye(2), atol=1e-15)
    np.testing.assert_allclose(plane.lift(plane.coordinates), points, atol=1e-14)


def test_a_coordinate_that_never_changes_stays_exactly_still():
    points = np.random.default_rng(0).random((3, 5))
    points[:, 2] = 0.3
    plane = pt.Slice(points, box=(0, 1))
    assert (plane.basis[:, 2] == 0).all()
    with pytest.raises(InputError, match=r"coordinate 2 is 0\.3 on the whole slice"):
        pt.Slice(points, box=(0, [1, 1, 0.2, 1, 1]))


def test_the_window_is_the_points_rectangle_enlarged():
    plane = pt.Slice(torch.eye(3), margin=0)
    assert plane.window.low.tolist() == pytest.approx([0, 0], abs=1e-15)
    assert plane.window.high.tolist() == pytest.approx([math.sqrt(2), math.sqrt(1.5)])
    wider = pt.Slice(torch.eye(3), margin=0.5).window
    side = math.sqrt(2) / 2
    assert wider.low.tolist() == pytest.approx([-side, -side])
    assert wider.high.tolist() == pytest.approx([3 * side, math.sqrt(1.5) + side])
    assert pt.Slice(torch.eye(3)).window is None


def test_the_box_is_over_the_inputs():
    plane = pt.Slice(np.eye(3), box=(0, [1, 2, 3]))
    assert plane.box.high.tolist() == [1, 2, 3]
    assert pt.Slice(np.eye(3)).box is None


def test_a_slice_is_frozen_and_a_copy():
    points = np.eye(3)
    plane = pt.Slice(points)
    points[0] = 9
    assert plane.origin.tolist() == [1, 0, 0]
    for array in (plane.points, plane.origin, plane.basis, plane.coordinates):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


@pytest.mark.parametrize(
    ("points", "options", "message"),
    [
        (np.zeros((3, 2)), {}, "the first 2 points coincide"),
        (np.ones((2, 4)), {}, "the first 2 points coincide"),
        (np.array([[0.0, 0], [1, 1], [3, 3]]), {}, "the first 3 points lie on one line"),
        (np.array([[0.0, 0], [1, 1], [1, 1 + 1e-8]]), {}, "lie on one line"),
        (np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]]), {}, "lie on one plane"),
        (np.random.default_rng(0).random((4, 2)), {}, "the first 4 points lie on one plane"),
        (np.eye(5, 4), {}, None),
        (np.zeros((1, 3)), {}, "two points for a line"),
        (np.zeros(3), {}, "two points for a line"),
        (np.zeros((2, 0)), {}, "coincide"),
        ("ab", {}, "slice: points is not numeric"),
        (np.array([[0.0, np.nan], [1, 1]]), {}, "NaN or infinity"),
        (np.eye(3), {"box": (1, 0)}, "the box is empty"),
        (np.eye(3), {"box": ([0, 0], [1, 1])}, "2 coordinates"),
        (np.eye(3), {"margin": -0.1}, "margin=-0.1"),
        (np.eye(3), {"margin": math.nan}, "margin=nan"),
        (np.eye(3), {"margin": math.inf}, "margin=inf"),
        (np.eye(3), {"margin": "wide"}, "margin is not numeric"),
        (np.eye(3), {"margin": [1, 2]}, r"margin=\[1, 2\]"),
    ],
)
def test_bad_slices(points, options, message):
    if message is None:
        assert pt.Slice(points, **options).dimension == 4
        return
    with pytest.raises(InputError, match=message):
        pt.Slice(points, **options)
