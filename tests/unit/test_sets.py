"""Boxes and polytopes: what they hold and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polytope.errors import InputError
from polytope.sets import Ball, Box, HPolytope, as_box


def test_box_contains_its_sides() -> None:
    box = Box(np.array([0.0, -np.inf]), np.array([1.0, 2.0]))
    z = np.array([[0, 0], [1, 2], [0.5, -1e300], [-1e-12, 0], [0.5, 2.1]])
    assert box.contains(z).tolist() == [True, True, True, False, False]
    with pytest.raises(InputError, match="z: got shape"):
        box.contains(np.zeros((1, 3)))


def test_box_is_frozen_and_a_copy() -> None:
    low = np.zeros(2)
    box = Box(low, np.ones(2))
    low[0] = 5
    assert box.low.tolist() == [0, 0]
    with pytest.raises(ValueError, match="read-only"):
        box.low[0] = 1
    low[1] = 7  # the caller's array stays writable


@pytest.mark.parametrize(
    ("box", "low", "high"),
    [
        ((0, 1), [0, 0, 0], [1, 1, 1]),
        ([-1.5, np.inf], [-1.5] * 3, [np.inf] * 3),
        ((np.array([0, 1, 2]), 3), [0, 1, 2], [3, 3, 3]),
        ((0, torch.tensor([1.0, 2.0, 3.0])), [0, 0, 0], [1, 2, 3]),
        (([0, 1, 2], [0, 1, 2]), [0, 1, 2], [0, 1, 2]),
        (Box(np.zeros((1, 3)), np.ones((1, 3))), [0, 0, 0], [1, 1, 1]),
    ],
)
def test_as_box(box: object, low: list[float], high: list[float]) -> None:
    found = as_box(box, 3)  # type: ignore[arg-type]
    assert found is not None
    assert found.low.tolist() == low
    assert found.high.tolist() == high


def test_no_box_is_no_box() -> None:
    assert as_box(None, 3) is None


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((1, 0), "lower bound 1 is above the upper bound 0 at coordinate 0"),
        (([0, 0, 5], [1, 1, 4]), "above the upper bound 4 at coordinate 2"),
        ((np.nan, 1), "a bound is NaN"),
        ((np.inf, np.inf), "it is empty"),
        ((-np.inf, -np.inf), "it is empty"),
        ("ab", "expected None, a pair"),
        (3, "expected None, a pair"),
        ((0, 1, 2), "expected None, a pair"),
        (("a", "b"), "not numeric"),
        (([0, [1]], 1), "not numeric"),
        (([0, 0], [1, 1]), "2 coordinates, but the network has 3 inputs"),
        (([0, 0], [1, 1, 1]), "2 lower and 3 upper bounds"),
        ((0, [1, 1]), "3 lower and 2 upper bounds"),
        (Box(np.zeros(2), np.ones(2)), "2 coordinates, but the network has 3 inputs"),
    ],
)
def test_bad_boxes(box: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_box(box, 3)  # type: ignore[arg-type]


def test_bad_bounds() -> None:
    with pytest.raises(InputError, match="not numeric"):
        Box("a", "b")  # type: ignore[arg-type]


def test_polytope() -> None:
    polytope = HPolytope(np.array([[1.0, 1.0], [-1.0, 0.0]]), np.array([1.0, 0.0]))
    z = np.array([[0.5, 0.5], [0.5, 0.6], [-0.1, 0]])
    assert polytope.contains(z).tolist() == [True, False, False]
    assert polytope.contains(z, tolerance=0.2).all()
    nothing = HPolytope(np.array([[0.0, 0.0]]), np.array([-1.0]))
    assert not nothing.contains(z).any()


@pytest.mark.parametrize(
    ("A", "b", "message"),
    [
        (np.ones(2), np.ones(2), "expected \\(rows, d\\)"),
        (np.ones((2, 2)), np.ones(3), "expected \\(rows, d\\)"),
        (np.full((1, 2), np.nan), np.ones(1), "must be finite"),
        (np.ones((1, 2)), np.array([np.inf]), "must be finite"),
        ("a", np.ones(1), "not numeric"),
    ],
)
def test_bad_polytopes(A: np.ndarray, b: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        HPolytope(A, b)


def test_ball_contains_what_is_near_in_its_norm() -> None:
    z = np.array([[0.0, 0.0], [0.6, 0.6], [0.5, 0.5], [1.0, 0.0], [1.0, 1.0], [1.1, 0.0]])
    expected = {
        1: [True, False, True, True, False, False],
        2: [True, True, True, True, False, False],
        "inf": [True, True, True, True, True, False],
    }
    for p, inside in expected.items():
        ball = Ball(np.zeros((1, 2)), 1, p)
        assert ball.contains(z).tolist() == inside
        assert ball.p == float(p)
    with pytest.raises(ValueError, match="read-only"):
        ball.center[0] = 1
    with pytest.raises(InputError, match="z: got shape"):
        ball.contains(np.zeros((1, 3)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", 1), "Ball: center is not numeric"),
        (([np.inf, 0], 1), "center must be finite"),
        (([], 1), "center must be finite"),
        (([0, 0], 0), "got radius=0, expected one positive finite"),
        (([0, 0], -1), "expected one positive finite"),
        (([0, 0], np.inf), "whole space is domain=None"),
        (([0, 0], np.nan), "expected one positive finite"),
        (([0, 0], [1, 2]), "expected one positive finite"),
        (([0, 0], "a"), "radius is not numeric"),
        (([0, 0], 1, 0.5), "Ball: norm p: got 0.5"),
    ],
)
def test_bad_balls(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Ball(*arguments)  # type: ignore[arg-type]
