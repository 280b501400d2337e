"""Bounds of Jacobians against straight loops written from the paper's formulae."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

import polytope as pt
from polytope.bounds.derivatives import derivatives
from polytope.bounds.fastlip import Interval, fastlip
from polytope.bounds.inputs import InputSet
from polytope.bounds.layers import LayerBounds, layer_bounds
from polytope.bounds.recurjac import Backward
from polytope.bounds.recurjac_forward import forward_jacobian
from tests.oracle import recurjac_loops as loops

KINDS = ["relu", "leaky", "tanh"]
WIDTHS = [(4, 7, 3), (5, 8, 7, 3), (3, 6, 5, 6, 4, 2), (4, 5, 5, 5, 5, 5, 1)]


def network(widths: tuple[int, ...], kind: str, seed: int) -> tuple[pt.Network, list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    layers: list[nn.Module] = []
    weights = []
    for m, n in itertools.pairwise(widths):
        linear = nn.Linear(m, n).double()
        weights.append(rng.normal(size=(n, m)) * math.sqrt(1.5 / m))
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(weights[-1]))
            linear.bias.copy_(torch.tensor(rng.normal(size=n) / 2))
        layers.append(linear)
        layers.append({"relu": nn.ReLU(), "leaky": nn.LeakyReLU(0.3), "tanh": nn.Tanh()}[kind])
    return pt.compile(nn.Sequential(*layers[:-1]), (widths[0],)), weights


def slopes_of(bounds: LayerBounds, kind: str, sample: int) -> loops.Pairs:
    """From the pre-activation bounds, by the paper's cases."""
    found = []
    for node in bounds.net.graph.nodes:
        if type(node.op).__name__ in ("Piecewise", "Smooth"):
            low, high = (
                v[node.inputs[0]][sample].numpy() for v in (bounds.walk.low, bounds.walk.high)
            )
            if kind == "tanh":
                found.append(loops.sigmoid_family_slopes(loops.tanh_slope, low, high))
            else:
                found.append(loops.relu_slopes(low, high, 0.3 if kind == "leaky" else 0.0))
    return found


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("radius", [0.0, 0.02, 0.1, 0.4, 3.0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("widths", WIDTHS)
def test_same_bounds_as_the_loops(
    widths: tuple[int, ...], kind: str, radius: float, compiled: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Backwards, both forwards, Fast-Lip and the improved row sums, all to 1e-10."""
    monkeypatch.setattr("polytope.bounds.chain.WORTH", 0 if compiled else math.inf)
    net, W = network(widths, kind, seed=len(widths))
    rng = np.random.default_rng(0)
    centers = torch.tensor(rng.normal(size=(3, widths[0])))
    X = InputSet.from_ball(centers, torch.full((3,), radius, dtype=torch.float64), math.inf)
    bounds = layer_bounds(net, X)
    units = derivatives(bounds)
    eye = torch.eye(widths[-1]).double()[None]
    recursion = Backward(net, units, eye)
    found = recursion.jacobian()
    f0, f1 = (forward_jacobian(net, units, eye, first) for first in (False, True))
    plain = fastlip(net, units, eye)
    steps = torch.where(found.low > 0, 1.0, torch.where(found.high < 0, -1.0, 0.0)).double()
    along = recursion.along(steps)
    for i in range(3):
        slopes = slopes_of(bounds, kind, i)
        low, high = loops.backward(W, slopes)
        same(found, i, low[0], high[0])
        same(f0, i, *loops.forward(W, slopes))
        same(f1, i, *loops.forward_after_first(W, slopes))
        same(plain, i, *loops.fastlip(W, slopes))
        for j in range(widths[-1]):
            rest = torch.where(steps[i, j] == 0, found.size[i, j], 0.0).sum()
            assert float(rest + along[i, j]) == pytest.approx(
                loops.row_sum(W, slopes, j), rel=1e-10, abs=1e-10
            )


def same(found: Interval, sample: int, low: np.ndarray, high: np.ndarray) -> None:
    """The loops' bounds to 1e-10, on the outside of what they round to."""
    scale = 1 + np.abs(high).max() + np.abs(low).max()
    np.testing.assert_allclose(found.low[sample], low, rtol=0, atol=1e-10 * scale)
    np.testing.assert_allclose(found.high[sample], high, rtol=0, atol=1e-10 * scale)


@pytest.mark.parametrize("kind", KINDS)
def test_the_recursion_is_much_tighter_than_intervals(kind: str) -> None:
    """On six layers and a small ball: not the same numbers by accident."""
    net, _ = network((4, 12, 12, 12, 12, 2), kind, seed=1)
    X = InputSet.from_ball(
        torch.zeros(1, 4).double(), torch.tensor([0.1], dtype=torch.float64), math.inf
    )
    units = derivatives(layer_bounds(net, X))
    eye = torch.eye(2).double()[None]
    recursion, plain = Backward(net, units, eye).jacobian(), fastlip(net, units, eye)
    width = (recursion.high - recursion.low).sum() / (plain.high - plain.low).sum()
    assert width < 0.7
