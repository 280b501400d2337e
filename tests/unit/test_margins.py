"""Directional margins two ways, stability of coordinates, counts of complete regions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from polytope.distances import boundary_distance
from polytope.errors import InputError
from polytope.margins import (
    BISECTION_GAP,
    count_complete_regions,
    directional_margin,
    stability_intervals,
)
from polytope.model import compile
from tests.nets import compiled, dense, every_kind, few_kinds, points


@every_kind
def test_ratio_test_is_the_bisection(name: str) -> None:
    net, _ = compiled(name)
    X = points(net, 3)
    directions = np.random.default_rng(4).normal(size=(4, net.input_size))
    ratio = directional_margin(net, X, directions)
    search = directional_margin(net, X, directions, "bisection")
    assert ratio.shape == search.shape == (3, 4)
    assert (np.isinf(ratio) == np.isinf(search)).all()
    finite = np.isfinite(ratio)
    gap = ratio[finite] - search[finite]
    rounding = 1e-9 * (1 + ratio[finite])
    assert (gap >= -rounding).all()
    assert (gap <= BISECTION_GAP + rounding).all()


@few_kinds
def test_margin_is_where_the_region_ends(name: str) -> None:
    net, _ = compiled(name)
    x = points(net, 1)
    region = net.region(x[0])
    for step in np.random.default_rng(5).normal(size=(5, net.input_size)):
        (margin,) = directional_margin(net, x, step)[0]
        if np.isfinite(margin):
            assert region.contains(region.point + 0.999999 * margin * step)
            assert not region.contains(region.point + (1.000001 * margin + 1e-9) * step)
            assert directional_margin(net, x, 4 * step)[0, 0] == pytest.approx(margin / 4)
        else:
            assert region.contains(region.point + 1e9 * step)


def test_margins_by_hand() -> None:
    net = compile([(np.eye(2), np.array([-1.0, 2.0])), (np.ones((1, 2)), None)])
    X = np.array([[0.0, 0.0], [1.0, 0.0]])
    directions = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, -1.0], [0.0, 1.0], [0.0, 0.0]])
    expected = [[1, np.inf, 2, np.inf, np.inf], [0, np.inf, 2, np.inf, np.inf]]
    assert directional_margin(net, X, directions).tolist() == expected
    search = directional_margin(net, X, directions, "bisection")
    np.testing.assert_allclose(search, expected, atol=2e-7)


def test_dead_and_pruned_units_do_not_end_a_region() -> None:
    W = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    net = compile([(W, np.array([0.0, 0.0, -1.0])), (np.ones((2, 3)), None)])
    x, directions = np.array([[-1.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    assert directional_margin(net, x, directions).tolist() == [[1.0, np.inf]]


@few_kinds
def test_stability_intervals_are_margins_along_the_axes(name: str) -> None:
    net, _ = compiled(name)
    X = points(net, 3)
    found = stability_intervals(net, X)
    assert found.down.shape == found.up.shape == (3, *net.input_shape)
    axes = np.eye(net.input_size)
    np.testing.assert_allclose(found.up.reshape(3, -1), directional_margin(net, X, axes))
    np.testing.assert_allclose(found.down.reshape(3, -1), directional_margin(net, X, -axes))


@every_kind
def test_l1_margin_both_ways(name: str) -> None:
    """Proposition 5: the least room along the axes is the closed form min |z| / ||grad||_inf."""
    net, _ = compiled(name)
    X = points(net, 4)
    np.testing.assert_allclose(
        stability_intervals(net, X).l1_margin, boundary_distance(net, X, p=1).distance, rtol=1e-10
    )


def test_chunks_do_not_matter() -> None:
    net, _ = compiled("max_pool2d")
    X = points(net, 5)
    few, many = (stability_intervals(net, X, memory=m) for m in (2**14, 2**29))
    np.testing.assert_allclose(few.up, many.up)
    np.testing.assert_allclose(few.down, many.down)
    directions = np.random.default_rng(0).normal(size=(3, net.input_size))
    np.testing.assert_allclose(
        directional_margin(net, X, directions, memory=1000), directional_margin(net, X, directions)
    )
    assert count_complete_regions(net, X, memory=1000).upper == 5


def test_empty_batches() -> None:
    net = dense(3, 4, 2)
    none = np.zeros((0, 3))
    assert directional_margin(net, none, np.eye(3)).shape == (0, 3)
    found = stability_intervals(net, none)
    assert found.down.shape == found.up.shape == (0, 3)
    assert found.l1_margin.shape == (0,)
    count = count_complete_regions(net, none)
    assert (count.lower, count.upper, len(count.ties)) == (0, 0, 0)


def test_count_by_hand() -> None:
    """Two ReLUs on the axes: four quadrants, each with its own Jacobian."""
    net = compile([(np.eye(2), None), (np.eye(2), None)])
    X = np.array([[1.0, 1], [2, 3], [-1, 1], [-5, 2], [-1, -1], [1, -1], [3, -4.0]])
    count = count_complete_regions(net, X)
    assert (count.lower, count.upper, count.ties.tolist()) == (4, 4, [])
    assert count_complete_regions(net, X[:2]).upper == 1
    assert count_complete_regions(net, X[[0, 0, 0]]).lower == 1


def test_patterns_with_one_jacobian_are_counted_apart() -> None:
    """relu(x) - relu(-x) = x: two patterns, one Jacobian, so the bounds differ."""
    net = compile([(np.array([[1.0], [-1.0]]), None), (np.array([[1.0, -1.0], [0.5, -0.5]]), None)])
    count = count_complete_regions(net, np.array([[1.0], [-2.0], [3.0]]))
    assert (count.lower, count.upper) == (1, 2)


def test_ties_are_reported() -> None:
    net = compile([(np.eye(2), np.array([-1.0, 0.0])), (np.ones((1, 2)), None)])
    X = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 0.0], [2.0, 2.0]])
    assert count_complete_regions(net, X).ties.tolist() == [1, 2]


def test_ties_on_the_input_itself_are_reported() -> None:
    """The first operation is a ReLU, whose rows are exact: no rounding error to hide behind."""
    net = compile(nn.Sequential(nn.ReLU(), nn.Linear(2, 2)).double(), (2,))
    X = np.array([[1.0, -1.0], [0.0, 1.0], [1.0, 0.0]])
    assert count_complete_regions(net, X).ties.tolist() == [1, 2]


def test_null_rows_are_no_ties() -> None:
    """Pruned units and equal candidates are 0 everywhere: not a boundary, so not a tie."""
    W = np.array([[1.0, 0.3], [0.0, 0.0]])
    net = compile([(W, np.zeros(2)), (np.ones((2, 2)), None)])
    assert count_complete_regions(net, np.array([[1.0, 1.0]])).ties.tolist() == []

    class Equal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(2, 3).double(), nn.Linear(2, 3).double()
            self.second.load_state_dict(self.first.state_dict())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.maximum(self.first(x), self.second(x)) + 1

    net = compile(Equal(), (2,))
    assert count_complete_regions(net, np.array([[1.0, 1.0]])).ties.tolist() == []


@every_kind
def test_lower_is_at_most_upper(name: str) -> None:
    net, _ = compiled(name)
    X = points(net, 12)
    count = count_complete_regions(net, np.concatenate([X, X]))
    patterns = {net.region(x).pattern for x in X}
    assert 1 <= count.lower <= count.upper == len(patterns)
    jacobians = np.array([net.region(x).jacobian.flatten() for x in X])
    distinct: list[np.ndarray] = []
    for jacobian in jacobians:
        if all(np.abs(jacobian - other).max(initial=0) > 1e-10 for other in distinct):
            distinct.append(jacobian)
    assert count.lower == len(distinct)


def test_a_deep_network_keeps_its_rows() -> None:
    """Rigorous error bounds say nothing about 30 layers: rows must not vanish in their doubt."""
    net = dense(10, *[40] * 30, 5, seed=4)
    X = points(net, 3)
    directions = np.random.default_rng(0).normal(size=(3, 10))
    ratio = directional_margin(net, X, directions)
    assert np.isfinite(ratio).all()
    gap = ratio - directional_margin(net, X, directions, "bisection")
    assert (gap > -1e-9).all()
    assert (gap < 1.1 * BISECTION_GAP).all()
    count = count_complete_regions(net, X)
    assert count.upper == 3
    assert count.ties.tolist() == []


def test_bad_arguments() -> None:
    net = dense(3, 4, 2)
    with pytest.raises(InputError, match="method: got 'newton'"):
        directional_margin(net, points(net), np.eye(3), "newton")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="directions: got shape"):
        directional_margin(net, points(net), np.eye(2))
    with pytest.raises(InputError, match="directions: NaN"):
        directional_margin(net, points(net), np.full((1, 3), np.nan))
