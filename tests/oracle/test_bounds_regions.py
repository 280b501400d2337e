"""Bounds against the region graph, which knows every piece of a small network exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

import polytope as pt
from polytope.bounds.crown import crown, function_bounds
from polytope.bounds.inputs import InputSet
from polytope.bounds.layers import allowed_pieces, layer_bounds
from polytope.bounds.slopes import optimised_bounds
from tests.nets import compiled, dense


def tensor(values: object) -> torch.Tensor:
    """In float64."""
    return torch.tensor(values, dtype=torch.float64)


def networks() -> dict[str, pt.Network]:
    """Small networks of two to four inputs, of several kinds."""
    found = {"relu2": dense(2, 6, 5, 3, seed=1), "relu3": dense(3, 5, 4, 2, seed=2)}
    for name in ("leaky_relu", "hardtanh", "abs", "maxout", "residual_add", "duplicated_neurons",
                 "dead_units", "maximum"):  # fmt: skip
        found[name] = compiled(name)[0]
    return found


NETWORKS = networks()


def least_in_region(
    region: pt.Region, row: np.ndarray, offset: float, X: InputSet, sample: int
) -> float:
    """The least value of ``row x + offset`` over a region met with an input set, by an LP."""
    d = len(row)
    low, high = X.low[sample].numpy(), X.high[sample].numpy()
    A, b = region.A, region.b
    cost, limits = row, list(zip(low, high, strict=True))
    if X.center is not None and X.radius is not None:
        center, eye = X.center[sample].numpy(), np.eye(d)
        zero = np.zeros((len(A), d))
        A = np.block([[A, zero], [eye, -eye], [-eye, -eye], [np.zeros(d), np.ones(d)]])
        b = np.concatenate([b, center, -center, [float(X.radius[sample])]])
        cost = np.concatenate([row, np.zeros(d)])
        limits += [(0, None)] * d
    found = linprog(cost, A, b, bounds=limits, method="highs")
    return math.inf if found.status == 2 else float(found.fun) + offset


@pytest.mark.parametrize("p", [1, math.inf])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_true_minimum(name: str, p: float) -> None:
    """No bound is above the true minimum over all regions; a small set's bound is close to it."""
    net = NETWORKS[name]
    rng = np.random.default_rng(7)
    center = np.repeat(rng.normal(size=(1, net.input_size)), 2, axis=0)
    X = InputSet.from_ball(torch.tensor(center), tensor([0.02, 0.5]), p)
    box = pt.Box(X.low[1].numpy(), X.high[1].numpy())
    graph = pt.region_graph(net, box)
    assert graph.complete
    C = rng.normal(size=(2, net.output_size))
    L, F = crown(net, X, torch.tensor(C))
    G = optimised_bounds(L, torch.tensor(C), steps=10)
    regions = [graph.region(i) for i in range(len(graph))]
    for sample in range(2):
        for j, row in enumerate(C):
            true = min(
                least_in_region(r, row @ r.jacobian, float(row @ r.offset), X, sample)
                for r in regions
            )
            assert F.lower[sample, j] <= G.lower[sample, j] + 1e-9
            assert G.lower[sample, j] <= true + 1e-7
            if sample == 0:
                assert true - float(F.lower[sample, j]) <= 0.02


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_full_assignments_are_the_regions(name: str) -> None:
    """With every unit's piece fixed, the bound is the region's affine map, and no more."""
    net = NETWORKS[name]
    low, high = -np.ones(net.input_size), np.ones(net.input_size)
    graph = pt.region_graph(net, pt.Box(low, high))
    count = min(len(graph), 20)
    pieces = torch.tensor(np.array([graph.pattern(i).pieces for i in range(count)]))
    X = InputSet.from_box(*(torch.tensor(v).expand(count, -1).contiguous() for v in (low, high)))
    L = layer_bounds(net, X, allowed_pieces(net, pieces))
    assert not L.empty.any()
    assert not L.undecided.any()
    F = function_bounds(L, torch.eye(net.output_size).double())
    G = optimised_bounds(L, torch.eye(net.output_size).double(), steps=200, rate=0.2)
    for i in range(count):
        region = graph.region(i)
        np.testing.assert_allclose(F.a[i], region.jacobian, atol=1e-12)
        np.testing.assert_allclose(F.offset[i], region.offset, atol=1e-12)
        whole = region.offset - np.abs(region.jacobian).sum(axis=1)
        np.testing.assert_allclose(F.lower[i], whole, atol=1e-11)
        for j in range(net.output_size):
            true = least_in_region(region, region.jacobian[j], float(region.offset[j]), X, i)
            assert F.lower[i, j] <= G.lower[i, j] + 1e-12 <= true + 1e-9


def test_patterns_that_do_not_occur() -> None:
    """Emptiness is proved for some of the patterns without a region, and for none with one."""
    net = NETWORKS["relu2"]
    low, high = torch.full((1, 2), -0.3).double(), torch.full((1, 2), 0.3).double()
    graph = pt.region_graph(net, pt.Box(low[0].numpy(), high[0].numpy()))
    real = {tuple(graph.pattern(i).pieces) for i in range(len(graph))}
    rng = np.random.default_rng(0)
    tried = rng.integers(0, 2, size=(400, net.units))
    tried = np.concatenate([tried, np.array(sorted(real))])
    X = InputSet.from_box(*(v.expand(len(tried), -1).contiguous() for v in (low, high)))
    L = layer_bounds(net, X, allowed_pieces(net, torch.tensor(tried)))
    F = function_bounds(L, torch.eye(3).double())
    known = np.array([tuple(row) in real for row in tried])
    assert not L.empty[known].any()
    assert L.empty[~known].float().mean() > 0.5
    assert torch.isinf(F.lower[L.empty]).all()
    assert torch.isfinite(F.lower[~L.empty]).all()
