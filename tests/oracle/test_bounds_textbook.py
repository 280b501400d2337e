"""CROWN against a textbook version in numpy, and against linear programs that cannot be beaten."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

import polytope as pt
from polytope.bounds.crown import function_bounds
from polytope.bounds.inputs import InputSet
from polytope.bounds.layers import LayerBounds, allowed_pieces, layer_bounds
from polytope.bounds.slopes import optimised_bounds
from tests.nets import compiled, dense

RADIUS = 0.6

Weights = list[tuple[np.ndarray, np.ndarray]]


def weights_of(*widths: int, seed: int) -> Weights:
    rng = np.random.default_rng(seed)
    return [
        (rng.normal(size=(m, n)) * np.sqrt(2 / n), rng.normal(size=m) / 3)
        for n, m in itertools.pairwise(widths)
    ]


def textbook_crown(layers: Weights, center: np.ndarray, radius: float, q: float) -> list:
    """Pre-activation bounds of a ReLU network: Zhang et al. 2018, adaptive slopes, one ball.

    Hidden layers are intersected with interval bounds; q is the dual norm.
    """
    box = center - radius, center + radius
    bounds: list[tuple[np.ndarray, np.ndarray]] = []
    for k, (weight, bias) in enumerate(layers):
        ends = []
        for sign in (1, -1):
            A, c = sign * weight, sign * bias
            for (W, b), (low, high) in zip(reversed(layers[:k]), reversed(bounds), strict=True):
                slope_up = np.where(low >= 0, 1.0, np.where(high <= 0, 0.0, high / (high - low)))
                shift = np.where((low < 0) & (high > 0), -slope_up * low, 0.0)
                slope_low = np.where(low >= 0, 1.0, np.where(high > -low, 1.0, 0.0))
                slope_low = np.where(high <= 0, 0.0, slope_low)
                c = c + np.minimum(A, 0) @ shift
                A = np.maximum(A, 0) * slope_low + np.minimum(A, 0) * slope_up
                c, A = c + A @ b, A @ W
            ends.append(A @ center + c - radius * np.linalg.norm(A, ord=q, axis=1))
        low, high = ends[0], -ends[1]
        if k < len(layers) - 1:
            up, down = np.maximum(weight, 0), np.minimum(weight, 0)
            low = np.maximum(low, up @ box[0] + down @ box[1] + bias)
            high = np.minimum(high, up @ box[1] + down @ box[0] + bias)
        bounds.append((low, high))
        box = np.maximum(low, 0), np.maximum(high, 0)
    return bounds


@pytest.mark.parametrize(("p", "q"), [(1, math.inf), (2, 2), (math.inf, 1)])
@pytest.mark.parametrize("seed", range(4))
def test_same_numbers_as_the_textbook(p: float, q: float, seed: int) -> None:
    """Every bound is the textbook's to 1e-10."""
    layers = weights_of(5, 12, 11, 9, 3, seed=seed)
    net = pt.compile(layers)
    center = np.random.default_rng(seed).normal(size=5)
    X = InputSet.from_ball(
        torch.tensor(center)[None], torch.tensor([RADIUS], dtype=torch.float64), p
    )
    expected = textbook_crown(layers, center, RADIUS, q)
    L = layer_bounds(net, X, skip_decided=False)
    F = function_bounds(L, torch.eye(3).double())
    found = [*zip(L.lower, L.upper, strict=True), (F.lower, None)]
    open_units = 0
    for (low, high), (mine_low, mine_high) in zip(expected, found, strict=True):
        np.testing.assert_allclose(mine_low[0], low, atol=1e-10)
        if mine_high is not None:
            np.testing.assert_allclose(mine_high[0], high, atol=1e-10)
            open_units += ((low < 0) & (high > 0)).sum()
    assert open_units > 0


class Program:
    """The triangle relaxation of a network as one linear program over all nodes' values."""

    def __init__(self, L: LayerBounds, layers: Weights, sample: int) -> None:
        low, high = (v[sample].numpy() for v in (L.inputs.low, L.inputs.high))
        self.limits = list(zip(low, high, strict=True))
        self.equal: list[tuple[dict[int, float], float]] = []
        self.less: list[tuple[dict[int, float], float]] = []
        ball = L.inputs
        if ball.center is not None and ball.radius is not None:
            assert ball.p == 1
            self._one_norm(ball.center[sample].numpy(), float(ball.radius[sample]))
        last = list(range(len(low)))
        for k, (W, b) in enumerate(layers):
            z = [self._variable(-math.inf, math.inf) for _ in b]
            for i, row in enumerate(W):
                self.equal.append(({**dict(zip(last, row, strict=True)), z[i]: -1.0}, -b[i]))
            last = z
            if k == len(layers) - 1:
                break
            last = [
                self._relu(i, float(L.lower[k][sample, j]), float(L.upper[k][sample, j]))
                for j, i in enumerate(z)
            ]
        self.outputs = last

    def _variable(self, low: float, high: float) -> int:
        self.limits.append((low, high))
        return len(self.limits) - 1

    def _relu(self, z: int, low: float, high: float) -> int:
        self.limits[z] = (low, high)
        y = self._variable(0.0, math.inf)
        self.less.append(({z: 1.0, y: -1.0}, 0.0))
        if high <= 0:
            self.less.append(({y: 1.0}, 0.0))
        elif low >= 0:
            self.less.append(({y: 1.0, z: -1.0}, 0.0))
        else:
            slope = high / (high - low)
            self.less.append(({y: 1.0, z: -slope}, -slope * low))
        return y

    def _one_norm(self, center: np.ndarray, radius: float) -> None:
        sizes = [self._variable(0.0, math.inf) for _ in center]
        for i, (c, s) in enumerate(zip(center, sizes, strict=True)):
            self.less.append(({i: 1.0, s: -1.0}, c))
            self.less.append(({i: -1.0, s: -1.0}, -c))
        self.less.append((dict.fromkeys(sizes, 1.0), radius))

    def least(self, c: np.ndarray) -> float:
        """The least value of a function of the outputs; inf if there is no point."""
        count = len(self.limits)
        tables = []
        for rows in (self.less, self.equal):
            A, b = np.zeros((len(rows), count)), np.zeros(len(rows))
            for i, (row, right) in enumerate(rows):
                A[i, list(row)], b[i] = list(row.values()), right
            tables.append((A, b))
        cost = np.zeros(count)
        cost[self.outputs] = c
        found = linprog(cost, *tables[0], *tables[1], bounds=self.limits, method="highs")
        return math.inf if found.status == 2 else float(found.fun)


@pytest.mark.parametrize("branch", [False, True])
@pytest.mark.parametrize("p", [1, math.inf])
@pytest.mark.parametrize("seed", range(3))
def test_linear_program_is_the_limit(seed: int, p: float, branch: bool) -> None:
    """CROWN <= optimised CROWN <= the LP of the same bounds, which the optimiser approaches.

    In a branch the multipliers of the fixed units are needed for that.
    """
    layers = weights_of(4, 7, 6, 2, seed=seed)
    net = pt.compile(layers)
    rng = np.random.default_rng(seed)
    center = torch.tensor(rng.normal(size=(1, 4)))
    X = InputSet.from_ball(center, torch.tensor([3.0 if p == 1 else 1.0], dtype=torch.float64), p)
    allowed = None
    if branch:
        fixed = torch.full((1, net.units), -1)
        root = layer_bounds(net, X)
        at = root.undecided[0].nonzero().flatten()[:3]
        fixed[0, at] = net.pieces(center)[0, at]
        allowed = allowed_pieces(net, fixed)
    L = layer_bounds(net, X, allowed)
    C = torch.tensor(rng.normal(size=(3, 2)))
    plain = function_bounds(L, C).lower[0].numpy()
    better = optimised_bounds(L, C, steps=400, rate=0.05).lower[0].numpy()
    program = Program(L, layers, 0)
    limits = np.array([program.least(row) for row in C.numpy()])
    assert (plain <= better + 1e-12).all()
    assert (better <= limits + 1e-7).all()
    gap = (limits - plain).sum()
    assert gap > 0.01
    assert (limits - better).sum() <= 0.1 * gap


def test_multipliers_of_a_branch() -> None:
    """Where units are held to the pieces that the center does not take, only multipliers help."""
    layers = weights_of(4, 7, 6, 2, seed=0)
    net = pt.compile(layers)
    center = torch.tensor(np.random.default_rng(0).normal(size=(1, 4)))
    X = InputSet.from_ball(center, torch.tensor([1.0], dtype=torch.float64), "inf")
    at = layer_bounds(net, X).undecided[0].nonzero().flatten()
    gains = []
    for unit in at.tolist():
        fixed = torch.full((1, net.units), -1)
        fixed[0, unit] = 1 - net.pieces(center)[0, unit]
        L = layer_bounds(net, X, allowed_pieces(net, fixed))
        C = torch.eye(2, dtype=torch.float64)
        limit = np.array([Program(L, layers, 0).least(row) for row in C.numpy()])
        found = [optimised_bounds(L, C, steps=100, multipliers=m).lower[0] for m in (False, True)]
        assert (found[1].numpy() <= limit + 1e-7).all()
        gains.append(float((found[1] - found[0]).sum()))
    assert max(gains) > 0.1


def test_convolutions_are_their_unrolled_matrices() -> None:
    """A convolutional network and the dense one with the same matrices have the same bounds."""
    for name in ("conv2d_groups", "conv_transpose2d", "residual"):
        net, _ = compiled(name)
        center = torch.tensor(np.random.default_rng(0).normal(size=(2, net.input_size)))
        X = InputSet.from_ball(center, torch.tensor([0.05, 0.5], dtype=torch.float64), 2)
        first = net.layers[0]
        size = net.graph.nodes[net.graph.nodes[first.node].inputs[0]].size
        base = next(iter(net.sweep(torch.zeros(1, *net.input_shape).double()))).values
        eye = torch.eye(net.input_size).double().reshape(-1, *net.input_shape)
        columns = next(iter(net.sweep(eye))).values - base
        flat = pt.compile([(columns.T.numpy(), base[0].numpy()), (np.eye(size), np.zeros(size))])
        L = layer_bounds(net, X, skip_decided=False)
        M = layer_bounds(flat, X, skip_decided=False)
        np.testing.assert_allclose(L.lower[0], M.lower[0], atol=1e-11)
        np.testing.assert_allclose(L.upper[0], M.upper[0], atol=1e-11)


def test_intervals_are_never_better() -> None:
    """CROWN is intersected with intervals, and tightens them somewhere."""
    net = dense(6, 20, 20, 20, 4, seed=5)
    X = InputSet.from_box(-torch.ones(1, 6).double() / 4, torch.ones(1, 6).double() / 4)
    plain, tight = layer_bounds(net, X, method="interval"), layer_bounds(net, X)
    ratios = []
    for a, b, c, d in zip(plain.lower, tight.lower, tight.upper, plain.upper, strict=True):
        assert (a <= b).all()
        assert (c <= d).all()
        ratios.append(float(((c - b) / (d - a)).mean()))
    assert ratios[-1] < 0.5
