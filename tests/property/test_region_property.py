"""Regions and distances of random and degenerate networks against exact rational arithmetic."""

from __future__ import annotations

import functools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from polytope.distances import boundary_distance, decision_distance
from polytope.margins import count_complete_regions, directional_margin
from polytope.model import Network
from polytope.network.engine import Engine
from polytope.network.ir import Max
from polytope.network.source import Imported
from polytope.region import Region, region_at
from solvers.norms import dual_exponent
from tests.nets import compiled, pieces, points, sample_region
from tests.oracle.random_graphs import KINDS, VARIANTS, random_graph, random_point
from tests.oracle.rational import AffineMap, affine_exact, pieces_exact, run_exact

#: Small enough for fractions; one of every operation that makes or moves a row.
SMALL = [
    "linear", "leaky_relu", "prelu", "hardtanh", "relu6", "abs", "clamp", "maximum", "minimum",
    "maxout", "max_over_all", "zero_biases", "duplicated_neurons", "dead_units", "one_input",
    "affine_only", "residual_add", "broadcast_add", "in_place", "conv1d", "conv_transpose1d",
    "avg_pool1d", "max_pool1d", "batch_norm1d", "rnn_cell",
]  # fmt: skip

networks = st.builds(
    lambda kind, variant, seed: (kind, variant, seed),
    st.sampled_from(KINDS), st.sampled_from(VARIANTS), st.integers(0, 200),
)  # fmt: skip


@functools.lru_cache(maxsize=64)
def made(kind: str, variant: str, seed: int) -> Network:
    return Network(Imported(random_graph(kind, variant, seed)))


def exact_rows(net: Engine, region: Region) -> list[tuple[list[Fraction], Fraction]]:
    """The rows of a region as the definition gives them, from exact affine maps."""
    maps = affine_exact(net.graph, region.pattern.pieces.tolist())
    rows = []
    for i in range(len(region.units)):
        unit = region.units[i]
        layer = net.layers[unit.layer]
        op = net.graph.nodes[layer.node].op
        normals, offsets = maps[unit.layer]
        if isinstance(op, Max):
            assert unit.pair is not None
            winner, other = unit.pair
            normal = [a - b for a, b in zip(normals[other], normals[winner], strict=True)]
            rows.append((normal, offsets[winner] - offsets[other]))
            continue
        breakpoints = net.graph.constants[op.breakpoints]
        shape = (*net.graph.nodes[layer.node].shape, layer.slots)
        limit = Fraction(float(np.broadcast_to(breakpoints, shape).reshape(-1, layer.slots)[
            unit.unit, unit.slot]))  # fmt: skip
        sign = 1 if unit.piece <= unit.slot else -1
        assert unit.beyond == unit.slot + (unit.piece <= unit.slot)
        rows.append(([sign * a for a in normals[unit.unit]], sign * (limit - offsets[unit.unit])))
    return rows


def distance_1(row: np.ndarray, exact: list[Fraction]) -> Fraction:
    pairs = zip(row.tolist(), exact, strict=True)
    return sum((abs(Fraction(a) - b) for a, b in pairs), Fraction(0))


def check_rows(net: Engine, region: Region) -> None:
    """A, b, jacobian and offset are exact within their own error bounds."""
    for i, (normal, bound) in enumerate(exact_rows(net, region)):
        assert distance_1(region.A[i], normal) <= Fraction(float(region.normal_error[i]))
        assert abs(Fraction(float(region.b[i])) - bound) <= Fraction(float(region.offset_error[i]))
    gradients, offsets = last_map(net, region)
    for k, (normal, offset) in enumerate(zip(gradients, offsets, strict=True)):
        assert distance_1(region.jacobian[k], normal) <= Fraction(float(region.jacobian_error[k]))
        error = Fraction(float(region.value_error[k]))
        assert abs(Fraction(float(region.offset[k])) - offset) <= error


def last_map(net: Engine, region: Region) -> AffineMap:
    return affine_exact(net.graph, region.pattern.pieces.tolist())[-1]


def check_membership(net: Engine, region: Region, z: np.ndarray) -> bool:
    """In exact arithmetic: the same pattern means A z <= b, and A z < b the same pattern."""
    point = [Fraction(float(v)) for v in z.reshape(-1)]
    rows = exact_rows(net, region)
    slacks = [
        bound - sum((a * v for a, v in zip(normal, point, strict=True)), Fraction(0))
        for normal, bound in rows
    ]
    same = pieces_exact(net.graph, z) == region.pattern.pieces.tolist()
    if same:
        assert all(slack >= 0 for slack in slacks)
        assert region.contains(z.reshape(-1))
        gradients, offsets = last_map(net, region)
        for normal, offset, value in zip(gradients, offsets, run_exact(net.graph, z), strict=True):
            assert value == offset + sum(a * v for a, v in zip(normal, point, strict=True))
    # A row that is identically zero has no inside: its piece means nothing.
    proper = [s for s, (normal, bound) in zip(slacks, rows, strict=True) if any(normal) or bound]
    if all(slack > 0 for slack in proper) and len(proper) == len(rows):
        assert same
    return same


@pytest.mark.parametrize("name", SMALL)
def test_small_networks_in_fractions(name: str) -> None:
    net, _ = compiled(name)
    x = points(net)[0]
    region = net.region(x)
    check_rows(net, region)
    inside = sample_region(region, 50)[::10]
    steps = np.random.default_rng(0).normal(size=inside.shape)
    answers = [
        check_membership(net, region, z.reshape(net.input_shape))
        for z in (*inside, *(inside + 0.3 * steps), *(inside + 3 * steps))
    ]
    assert any(answers)
    if net.rows:
        assert not all(answers)


@given(networks)
@example(("maxout", "ties", 3))
@example(("mlp", "duplicate", 0))
@example(("pool", "huge", 1))
def test_random_networks_in_fractions(which: tuple[str, str, int]) -> None:
    _, variant, seed = which
    net = made(*which)
    x = random_point(net.graph, variant, seed)
    region = region_at(net, x)
    assume(np.isfinite(region.A).all() and np.isfinite(region.b).all())
    if region.pattern.pieces.tolist() == pieces_exact(net.graph, x):
        assert region.contains(x)
    check_rows(net, region)
    rng = np.random.default_rng(seed)
    for scale in (1e-3, 0.3, 2.0):
        z = x + scale * rng.normal(size=x.shape)
        check_membership(net, region, np.round(z) if variant == "ties" else z)


@given(networks, st.sampled_from([1.0, 1.5, 2.0, 3.0, np.inf]), st.booleans())
def test_distances_are_the_least_over_the_rows(
    which: tuple[str, str, int], p: float, boxed: bool
) -> None:
    _, variant, seed = which
    net = made(*which)
    x = random_point(net.graph, variant, seed)
    region = region_at(net, x)
    assume(np.isfinite(region.A).all() and np.abs(region.A).max(initial=0) < 1e150)
    box = (x.reshape(-1) - 1e9, x.reshape(-1) + 1e9) if boxed else None
    found = boundary_distance(net, x, p, box)
    keep = ~region.zero_rows
    A, b = region.A[keep], region.b[keep]
    largest = np.abs(A).max(axis=1, initial=0)
    room = np.maximum(b - A @ region.point, 0) / largest
    norms = np.linalg.norm(A / largest[:, None], dual_exponent(p), axis=1)
    wanted = (room / norms).min(initial=np.inf)
    if boxed and wanted > 1e8:
        assert found.distance[0] >= 1e8
    else:
        sure = (region.error_band(x)[0][keep] / np.maximum(largest, 1e-300)).max(initial=0)
        assert found.distance[0] == pytest.approx(wanted, rel=1e-9, abs=max(sure, 1e-13))


@given(networks)
def test_zero_distance_means_a_boundary(which: tuple[str, str, int]) -> None:
    """On a grid, where pre-activations are often 0: distance 0 iff a proper row is tight."""
    kind, _, seed = which
    net = made(kind, "ties", seed)
    x = random_point(net.graph, "ties", seed)
    region = region_at(net, x)
    point = [Fraction(float(v)) for v in x.reshape(-1)]
    tight = False
    for normal, bound in exact_rows(net, region):
        value = sum((a * v for a, v in zip(normal, point, strict=True)), Fraction(0))
        tight |= any(normal) and value == bound
    exact = pieces_exact(net.graph, x) == region.pattern.pieces.tolist()
    assume(exact)  # division by pooling windows may round a tie away
    found = boundary_distance(net, x).distance[0]
    assert found <= 1e-12 if tight else found > 0
    assert (len(count_complete_regions(net, x).ties) == 1) == tight


@given(networks, st.integers(0, 50))
def test_margins_stay_inside_and_reach_the_end(which: tuple[str, str, int], ray: int) -> None:
    _, variant, seed = which
    assume(variant not in ("tiny", "huge"))
    net = made(*which)
    x = random_point(net.graph, variant, seed)
    step = np.random.default_rng(ray).normal(size=x.shape)
    ratio = directional_margin(net, x, step)[0, 0]
    search = directional_margin(net, x, step, "bisection")[0, 0]
    if np.isinf(ratio):
        assert np.isinf(search) or search > 1e6
    else:
        assert -1e-9 * (1 + ratio) <= ratio - search <= 1e-7 + 1e-9 * ratio


@given(networks)
def test_decision_distance_is_signed(which: tuple[str, str, int]) -> None:
    _, variant, seed = which
    net = made(*which)
    x = random_point(net.graph, variant, seed)
    logits = net.logits(x)[0]
    assume(np.isfinite(logits).all())
    for label in range(3):
        found = decision_distance(net, x, [label])
        others = np.delete(logits, label)
        if found.distance[0] > 0:
            assert logits[label] > others.max()
        elif found.distance[0] < 0:
            assert logits[label] < others.max()
        else:
            assert logits[label] == others.max()


@given(networks)
def test_gradients_agree_however_computed(which: tuple[str, str, int]) -> None:
    _, variant, seed = which
    net = made(*which)
    x = random_point(net.graph, variant, seed)
    region = region_at(net, x)
    assert (pieces(net, x.reshape(1, -1))[0] == region.pattern.pieces).all()
    points_ = torch.tensor(x[None], requires_grad=True)
    outputs = net.forward(points_).flatten()
    for k, output in enumerate(outputs):
        (gradient,) = torch.autograd.grad(output, points_, retain_graph=True)
        scale = max(float(np.abs(region.jacobian).max()), 1e-300)
        np.testing.assert_allclose(
            region.jacobian[k] / scale, gradient.numpy().reshape(-1) / scale, atol=1e-10
        )
