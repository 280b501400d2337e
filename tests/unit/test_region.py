"""A region is the network: its rows, its affine map, its sets, on every kind of layer."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn

from polytope.errors import InputError
from polytope.model import Network, compile
from polytope.pattern import ActivationPattern
from polytope.region import Region
from tests.nets import (
    compiled,
    dense,
    every_kind,
    few_kinds,
    pieces,
    points,
    sample_region,
    source_outputs,
)


def axes(*rows: tuple[list[float], float]) -> Network:
    """A network whose region around 0 is {z : row z <= bound}: one ReLU per row."""
    weight = np.array([row for row, _ in rows])
    bias = -np.array([bound for _, bound in rows])
    return compile([(weight, bias), (np.ones((1, len(rows))), None)])


@every_kind
def test_affine_map_is_the_source_inside(name: str) -> None:
    net, model = compiled(name)
    region = net.region(points(net)[0])
    z = sample_region(region)
    assert region.contains(z).all()
    expected = source_outputs(model, net, z)
    scale = np.abs(region.offset) + np.abs(z) @ np.abs(region.jacobian).T
    assert (np.abs(region.affine(z) - expected) <= 1e-9 * scale.max(axis=1, keepdims=True)).all()
    assert (np.abs(region.affine(z) - expected).max(axis=1)
            <= 1e-9 * np.abs(expected).max(axis=1)).all()  # fmt: skip


@every_kind
def test_rows_hold_exactly_where_the_pattern_agrees(name: str) -> None:
    net, _ = compiled(name)
    region = net.region(points(net)[0])
    inside = sample_region(region, 500)
    step = np.random.default_rng(2).normal(size=inside.shape)
    z = np.concatenate([inside, inside + 0.5 * step, inside + 2 * step])
    residual, band = z @ region.A.T - region.b, region.error_band(z)
    agrees = (pieces(net, z) == region.pattern.pieces).all(axis=1)
    assert not (agrees & (residual > band).any(axis=1)).any()
    proper = ~region.zero_rows
    assert agrees[(residual < -band)[:, proper].all(axis=1)].all()
    assert agrees.any()
    if proper.any():
        assert not agrees.all()
        assert ((np.abs(residual) <= band)[:, proper].mean()) < 1e-3


@every_kind
def test_units_name_the_unit_behind_each_row(name: str) -> None:
    """Just behind a row that is a facet, only that unit (and its equals) changes its piece."""
    net, _ = compiled(name)
    region = net.region(points(net)[0])
    assert len(region.units) == len(region.A) == len(region.b)
    behind = facet_points(region)
    home = region.pattern.pieces
    for row, z in behind:
        unit = region.units[row]
        layer = net.layers[unit.layer]
        flat = layer.first_unit + unit.unit
        changed = pieces(net, z[None])[0]
        assert (unit.name, unit.kind) == (layer.name, layer.kind)
        assert home[flat] == unit.piece
        assert changed[flat] == unit.beyond != unit.piece
        shape = net.graph.nodes[layer.node].shape
        assert np.ravel_multi_index(unit.index, shape) == unit.unit
        assert (unit.pair is None) == (not layer.is_max)
        first = np.flatnonzero(changed != home)[0]
        assert first >= layer.first_unit
    assert behind or net.rows == 0 or region.coincident


def facet_points(region: Region) -> list[tuple[int, np.ndarray]]:
    """Points just behind facets, found by shooting rays, with the row they crossed."""
    proper = np.flatnonzero(~region.zero_rows)
    A, b = region.A[proper], region.b[proper]
    found = []
    for step in np.random.default_rng(3).normal(size=(30, A.shape[1])):
        slope, room = A @ step, b - A @ region.point
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(slope > 1e-9, room / slope, np.inf)
        if len(ratios) == 0 or not ratios.min() < 1e6:
            continue
        order = np.argsort(ratios)
        second = ratios[order[1]] if len(order) > 1 else np.inf
        if second > ratios[order[0]] * (1 + 1e-6) + 1e-9:
            reach = min(0.5 * (ratios[order[0]] + second), ratios[order[0]] * (1 + 1e-7) + 1e-8)
            found.append((int(proper[order[0]]), region.point + reach * step))
    return found


@pytest.mark.parametrize("name", ["maxout", "max_pool2d", "maximum", "minimum", "max_over_all"])
def test_pairs_are_the_competing_inputs(name: str) -> None:
    net, _ = compiled(name)
    region = net.region(points(net)[0])
    states = list(net.sweep(torch.tensor(region.point.reshape(1, *net.input_shape))))
    seen = 0
    for row in range(len(region.units)):
        unit = region.units[row]
        if unit.pair is None:
            continue
        winner, competitor = unit.pair
        values = states[unit.layer].values[0].numpy()
        assert values[winner] >= values[competitor]
        gap = float(region.A[row] @ region.point - region.b[row])
        assert gap == pytest.approx(values[competitor] - values[winner], abs=1e-12)
        seen += 1
    assert seen


def test_hardtanh_rows_and_their_pieces() -> None:
    model = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Hardtanh(-1.0, 2.0), nn.Linear(3, 1))
    model.double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [1.0], [1.0]]) * torch.tensor([[-4], [1], [4]]))
    region = compile(model, (1,)).region(np.array([1.0]))
    rows = [(u.unit, u.slot, u.piece, u.beyond) for u in map(region.units.__getitem__, range(4))]
    # -4 is below -1: one row; 1 is between: two rows; 4 is above 2: one row.
    assert rows == [(0, 0, 0, 1), (1, 0, 1, 0), (1, 1, 1, 2), (2, 1, 2, 1)]
    assert region.A[:, 0].tolist() == [-4, -1, 1, -4]
    assert region.b.tolist() == [-1, 1, 2, -2]


@few_kinds
def test_region_of_a_pattern_is_that_of_the_point(name: str) -> None:
    net, _ = compiled(name)
    x = points(net, 2)
    own, other = net.region(x[0]), net.region(x[1])
    again = net.region(x[1], own.pattern)
    assert again.pattern == own.pattern
    np.testing.assert_allclose(again.A, own.A, rtol=0, atol=1e-12)
    np.testing.assert_allclose(again.b, own.b, rtol=0, atol=1e-12)
    np.testing.assert_allclose(again.jacobian, own.jacobian, atol=1e-12)
    if own.pattern != other.pattern:
        assert not own.contains(x[1])
        assert hash(own.pattern) != hash(other.pattern)
    assert own.contains(x[0])


def test_pattern_of_a_pooling_layer_packs_and_flips() -> None:
    net, _ = compiled("max_pool2d")
    x = points(net, 1)
    pattern = net.region(x[0]).pattern
    assert len(pattern) == net.units
    assert pattern.pieces.tolist() == pieces(net, x)[0].tolist()
    pool = next(layer for layer in net.layers if layer.is_max)
    flipped = pattern.flip(pool.first_unit, 3)
    assert flipped.pieces[pool.first_unit] == 3
    assert (flipped == pattern) == (pattern.pieces[pool.first_unit] == 3)
    with pytest.raises(InputError, match="piece"):
        pattern.flip(pool.first_unit, 4)
    with pytest.raises(InputError, match="another network"):
        net.region(x[0], ActivationPattern.from_pieces(np.zeros(1, int), ((1, 2),)))


def test_a_point_on_a_boundary_belongs_to_both_regions() -> None:
    """The convention: a ReLU at exactly 0 is inactive, and the region is closed."""
    net = axes(([1.0, 0.0], 1.0), ([0.0, 1.0], 1.0))
    on = np.array([1.0, 0.25])
    region, beyond = net.region(on), net.region(on + np.array([1e-9, 0]))
    assert region.pattern.pieces.tolist() == [0, 0]
    assert beyond.pattern.pieces.tolist() == [1, 0]
    assert region.contains(on)
    assert beyond.contains(on)


def test_first_of_equal_candidates_wins() -> None:
    net, _ = compiled("maxout")
    layer = net.layers[0]
    values = torch.zeros(1, 15)
    node = net.graph.nodes[layer.node]
    from polytope.network.engine import natural_pieces

    tied = natural_pieces(node, values, net.constants(torch.float64, torch.device("cpu")))
    assert tied.flatten().tolist() == [0] * layer.units


def test_zero_rows_are_kept_and_decided_by_their_offset() -> None:
    weights = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    net = compile([(weights, np.array([0.0, 0.0, -1.0, 2.0])), (np.ones((1, 4)), None)])
    region = net.region(np.array([-1.0, 0.5]))
    assert region.zero_rows.tolist() == [False, True, True, True]
    assert region.b.tolist() == [0.0, 0.0, 1.0, 2.0]
    assert not region.empty_by_offset
    assert region.contains(np.array([-5.0, 100.0]))
    impossible = net.region(region.point, region.pattern.flip(2, 1))
    assert impossible.empty_by_offset
    assert not impossible.contains(region.point)
    center = impossible.chebyshev_center()
    assert center.center is None
    assert center.radius == -np.inf
    # A pruned unit (normal and offset 0) has no meaning: either of its pieces is fine.
    assert not net.region(region.point, region.pattern.flip(1, 1)).empty_by_offset


def test_dead_units_of_the_zoo() -> None:
    net, _ = compiled("dead_units")
    region = net.region(points(net)[0])
    zero = {(region.units[i].layer, region.units[i].unit) for i in np.flatnonzero(region.zero_rows)}
    assert {(0, 0), (0, 1), (1, 3)} <= zero


def test_coincident_rows_are_grouped() -> None:
    rng = np.random.default_rng(0)
    base, other = rng.normal(size=(2, 3))
    weights = np.stack([base, other, 3 * base, -base / 7, base, [0.5, -1.0, 0], [-1.0, 2.0, 0]])
    bias = np.array([0.3, 0.3, 0.9, -0.3 / 7, 0.31, 0.1, -0.2])
    net = compile([(weights, bias), (rng.normal(size=(2, 7)), None)])
    groups = [group.tolist() for group in net.region(np.array([0.2, -1.0, 0.4])).coincident]
    assert sorted(groups) == [[0, 2, 3], [5, 6]]


def test_far_parallel_rows_are_not_coincident() -> None:
    """Nearly parallel normals with huge offsets are different hyperplanes."""
    net = axes(([1.0, 1e-6], 1e8), ([1.0, 2e-6], 1e8), ([2.0, 2e-6], 2e8))
    groups = [group.tolist() for group in net.region(np.zeros(2)).coincident]
    assert groups == [[0, 2]]


def test_duplicated_neurons_of_the_zoo_are_coincident() -> None:
    net, _ = compiled("duplicated_neurons")
    region = net.region(points(net)[0])
    group = region.coincident[0]
    units = {(region.units[int(i)].layer, region.units[int(i)].unit) for i in group}
    assert units == {(0, 0), (0, 1), (0, 2)}


def reference_center(region: Region, p: float, box: tuple[float, float] | None) -> float:
    """The radius by cvxpy."""
    q = {1: np.inf, 2: 2, np.inf: 1}[p]
    keep = ~region.zero_rows
    A, b = region.A[keep], region.b[keep]
    z, r = cp.Variable(A.shape[1]), cp.Variable()
    limits = [A @ z + r * np.linalg.norm(A, q, axis=1) <= b, r >= 0]
    if box is not None:
        limits += [z + r <= box[1], z - r >= box[0]]
    problem = cp.Problem(cp.Maximize(r), limits)
    problem.solve(solver="CLARABEL")
    return float(r.value) if problem.status == "optimal" else np.inf


@pytest.mark.parametrize("p", [1, 2, np.inf])
@pytest.mark.parametrize("name", ["linear", "conv1d", "hardtanh", "maxout", "rnn", "one_input"])
def test_chebyshev_center(name: str, p: float) -> None:
    net, _ = compiled(name)
    for x in np.clip(points(net, 2), -1.9, 1.9):
        region = net.region(x)
        found = region.chebyshev_center(box=(-2, 2), p=p)
        assert found.center is not None
        assert found.radius == pytest.approx(reference_center(region, p, (-2, 2)), abs=1e-6)
        # It is the center: every step of the radius in the p-norm stays inside.
        steps = np.random.default_rng(0).normal(size=(200, len(x)))
        steps *= found.radius / np.linalg.norm(steps, p, axis=1, keepdims=True)
        assert region.contains(found.center + (1 - 1e-9) * steps).all()
        free = region.chebyshev_center(p=p)
        if np.isfinite(free.radius):
            assert free.radius == pytest.approx(reference_center(region, p, None), abs=1e-6)
            assert free.radius >= found.radius - 1e-9


def test_chebyshev_center_of_shapes() -> None:
    square = axes(([1, 0], 1), ([-1, 0], 1), ([0, 2], 2), ([0, -1], 3)).region(np.zeros(2))
    found = square.chebyshev_center()
    assert found.radius == pytest.approx(1)
    assert found.center is not None
    assert found.center[0] == pytest.approx(0)
    triangle = axes(([-1, 0], 0), ([0, -1], 0), ([1, 1], 1)).region(np.full(2, 0.25))
    assert triangle.chebyshev_center().radius == pytest.approx(1 / (2 + np.sqrt(2)))
    assert triangle.chebyshev_center(p="inf").radius == pytest.approx(1 / 4)
    wedge = axes(([1, 0], 0), ([0, 1], 0)).region(np.full(2, -1.0))
    assert wedge.chebyshev_center().radius == np.inf
    assert wedge.chebyshev_center(box=(-1, 1)).radius == pytest.approx(0.5)
    frozen = wedge.chebyshev_center(box=([-1, -1], [-1, 1]))
    assert frozen.radius == pytest.approx(0, abs=1e-9)
    assert frozen.center is not None
    assert frozen.center[0] == -1
    outside = wedge.chebyshev_center(box=(0.5, 1))
    assert outside.center is None
    assert outside.radius == -np.inf
    half_open = wedge.chebyshev_center(box=(-np.inf, np.inf))
    assert half_open.radius == np.inf


def test_chebyshev_center_does_not_depend_on_the_scale() -> None:
    for scale in (1e-200, 1e-90, 1.0, 1e90, 1e200):
        rows = [([scale, 0.0], scale), ([-scale, 0], scale), ([0, scale], scale), ([0, -1.0], 1.0)]
        assert axes(*rows).region(np.zeros(2)).chebyshev_center().radius == pytest.approx(1)


def bounded_by_programs(region: Region) -> bool:
    """Whether every coordinate is bounded both ways, by 2 d linear programs."""
    keep = ~region.zero_rows
    A, b = region.A[keep], region.b[keep]
    if len(A) == 0:
        return False
    A, b = A / np.abs(A).max(axis=1, keepdims=True), b / np.abs(A).max(axis=1)
    for direction in np.vstack([np.eye(A.shape[1]), -np.eye(A.shape[1])]):
        if linprog(-direction, A, b, bounds=(None, None)).status == 3:
            return False
    return True


def test_is_bounded_against_programs() -> None:
    answers = []
    for seed in range(30):
        net = dense(2 + seed % 2, 8 + seed % 5, 6, 2, seed=seed)
        region = net.region(points(net, 1, seed)[0])
        expected = bounded_by_programs(region)
        assert region.is_bounded() == expected
        answers.append(expected)
    assert 5 < sum(answers) < 25


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([([1, 0], 1), ([-1, 0], 1), ([0, 1], 1), ([0, -1], 1)], True),
        ([([1, 0], 1), ([-1, 0], 1), ([0, 1], 1)], False),
        ([([1, 0], 1), ([-1, 0], 1), ([2, 0], 2), ([-3, 0], 1)], False),  # a strip
        ([([1, 1], 1), ([-1, 0], 1), ([0, -1], 1)], True),
        ([([1e-8, 0], 1), ([-1, 0], 1), ([0, 1e8], 1), ([0, -1], 1)], True),
        ([([1, 0], 1), ([-1, 0], 1), ([0, 1], 1), ([0, -1], 1), ([0, 0], 1)], True),
    ],
)
def test_is_bounded_of_shapes(rows: list[tuple[list[float], float]], expected: bool) -> None:
    assert axes(*rows).region(np.zeros(2)).is_bounded() is expected


def test_a_network_without_units_has_one_region() -> None:
    net, _ = compiled("affine_only")
    region = net.region(points(net)[0])
    assert region.A.shape == (0, 4)
    assert not region.is_bounded()
    assert region.coincident == ()
    assert region.contains(np.full(4, 1e30))
    assert region.chebyshev_center().radius == np.inf
    assert region.chebyshev_center(box=(0, 2)).radius == pytest.approx(1)


def test_a_deep_network_keeps_its_rows() -> None:
    """Rigorous error bounds say nothing about 30 layers: rows must not vanish in their doubt."""
    net = dense(10, *[40] * 30, 5, seed=4)
    for x in points(net, 3):
        region = net.region(x)
        assert not region.zero_rows.any()
        assert region.normal_error.max() > np.abs(region.A).max()
        z = sample_region(region, 200)
        agrees = (pieces(net, z) == region.pattern.pieces).all(axis=1)
        assert agrees.mean() > 0.99
        assert region.contains(z).all()
        outside = z + np.random.default_rng(0).normal(size=z.shape)
        assert not (pieces(net, outside) == region.pattern.pieces).all(axis=1).any()
        assert not region.contains(outside).any()
        np.testing.assert_allclose(region.affine(z), net.logits(z), rtol=1e-9)


def test_contains_takes_points_and_batches() -> None:
    net, _ = compiled("conv2d")
    region = net.region(points(net)[0])
    flat = region.point
    assert region.contains(flat) is True
    assert region.contains(flat.reshape(net.input_shape)) is True
    assert region.contains(torch.tensor(flat)) is True
    batch = region.contains(flat[None])
    assert isinstance(batch, np.ndarray)
    assert batch.shape == (1,)
    assert region.contains(np.zeros((0, 60))).shape == (0,)
    assert region.polytope.contains(flat, 1e-12).all()
    with pytest.raises(InputError, match="z: got shape"):
        region.contains(np.zeros(3))
    with pytest.raises(InputError, match="z: NaN"):
        region.contains(np.full(60, np.nan))


def test_a_region_is_of_one_point() -> None:
    net = dense(2, 3, 2)
    for x in (np.zeros((2, 2)), np.zeros((0, 2))):
        with pytest.raises(InputError, match="expected one"):
            net.region(x)
