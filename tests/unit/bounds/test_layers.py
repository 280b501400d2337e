"""Bounds of layers and outputs on every kind of network, and the options that must not matter."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import polytope as pt
from polytope.bounds.crown import crown, function_bounds
from polytope.bounds.inputs import InputSet
from polytope.bounds.interval import Walk
from polytope.bounds.layers import LayerBounds, allowed_pieces, layer_bounds
from polytope.bounds.linear_nodes import pull
from polytope.bounds.slopes import optimised_bounds
from polytope.errors import InputError
from polytope.network.build import GraphBuilder
from polytope.network.engine import Engine, apply
from polytope.network.ir import Input, Max, Piecewise
from tests.nets import FEW, NAMES, compiled, dense


def tensor(values: object) -> torch.Tensor:
    """In float64."""
    return torch.tensor(values, dtype=torch.float64)


def balls(net: pt.Network, p: float, box: bool, seed: int = 0) -> InputSet:
    """Three sets: a point, a small and a larger ball, around different centers."""
    rng = np.random.default_rng(seed)
    center = tensor(rng.normal(size=(3, net.input_size)) / 2)
    sides = (center - 0.1, center + 0.3) if box else (None, None)
    return InputSet.from_ball(center, tensor([0.0, 0.1, 0.6]), p, *sides)


def samples(X: InputSet, count: int = 100, seed: int = 0) -> torch.Tensor:
    """Points (count, n, d) of a batch of sets."""
    rng = np.random.default_rng(seed)
    low, high = X.low[None], X.high[None]
    z = low + tensor(rng.uniform(size=(count, *X.low.shape))) * (high - low)
    z[::4] = torch.where(tensor(rng.uniform(size=z[::4].shape)) < 0.5, low, high)
    if X.center is not None and X.radius is not None:
        step = z - X.center
        size = torch.linalg.vector_norm(step, X.p, dim=2, keepdim=True)
        step = step * torch.where(size > 0, X.radius[:, None] / size, 0.0).clamp(max=1)
        z = torch.minimum(torch.maximum(X.center + step * (1 - 1e-15), low), high)
    return z


def holds(L: LayerBounds, z: torch.Tensor, outside: torch.Tensor | None = None) -> None:
    """The layers' bounds hold at points (count, n, d), up to the rounding of the values."""
    net, count = L.net, len(z)
    for k, state in enumerate(net.sweep(z.reshape(-1, *net.input_shape))):
        if state.layer is None:
            break
        values = state.values.detach().reshape(count, z.shape[1], -1)
        low, high = L.lower[k] - 1e-12, L.upper[k] + 1e-12
        fine = (values >= low) & (values <= high)
        assert (fine if outside is None else fine | outside[..., None]).all()


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_network(name: str) -> None:
    """Layers, outputs, the linear function and its minimiser, in balls met with boxes or not."""
    net, _ = compiled(name)
    C = tensor(np.random.default_rng(1).normal(size=(3, net.output_size)))
    for p, box in ((1, True), (2, False), (math.inf, True), (2, True)):
        X = balls(net, p, box)
        L, F = crown(net, X, C)
        assert torch.isfinite(F.lower).all()
        assert not L.empty.any()
        z = torch.cat([samples(X), F.minimiser.transpose(0, 1)])
        holds(L, z)
        outputs = net.forward(z.reshape(-1, *net.input_shape)).detach()
        values = outputs.reshape(len(z), len(X), -1) @ C.T
        lines = torch.einsum("nsd,knd->kns", F.a, z) + F.offset
        assert (values >= lines - 1e-12).all()
        assert (values >= F.lower - 1e-12).all()
        attained = torch.einsum("nsd,nsd->ns", F.a, F.minimiser) + F.offset
        torch.testing.assert_close(attained, F.lower, atol=1e-10, rtol=1e-12)
        assert (values[:, 0] - F.lower[0]).abs().max() <= 1e-10


@pytest.mark.parametrize("name", FEW)
def test_constraints_on_pieces(name: str) -> None:
    """Points whose pieces are allowed lie within the bounds; no set with such a point is empty."""
    net, _ = compiled(name)
    X = balls(net, math.inf, False, seed=3)
    z = samples(X, 60)
    taken = net.pieces(z.reshape(-1, *net.input_shape)).reshape(60, 3, -1)
    C = tensor(np.random.default_rng(1).normal(size=(2, net.output_size)))
    rng = np.random.default_rng(2)
    for point in (1, 4, 10):
        fixed = torch.where(torch.tensor(rng.random(taken[point].shape) < 0.4), taken[point], -1)
        L = layer_bounds(net, X, allowed_pieces(net, fixed))
        assert not L.empty.any()
        differs = ((fixed >= 0) & (fixed != taken)).any(dim=2)
        assert not differs[point].any()
        holds(L, z, differs)
        outputs = net.forward(z.reshape(-1, *net.input_shape)).detach().reshape(60, 3, -1)
        for F in (function_bounds(L, C), optimised_bounds(L, C, steps=3)):
            assert ((outputs @ C.T >= F.lower - 1e-12) | differs[..., None]).all()
        free = layer_bounds(net, X)
        L = layer_bounds(net, X, allowed_pieces(net, fixed), (free.lower, free.upper))
        holds(L, z, differs)
        for a, b, c, d in zip(L.lower, free.lower, L.upper, free.upper, strict=True):
            assert (a >= b).all()
            assert (c <= d).all()


@pytest.mark.parametrize("name", NAMES)
def test_pulling_back_is_the_transpose(name: str) -> None:
    """``<a, W x> = <pull(a), x>`` for every linear node, to 1e-12."""
    net, _ = compiled(name)
    c = net.constants(torch.float64, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    for node in net.graph.nodes:
        if isinstance(node.op, Input | Piecewise | Max):
            continue
        shapes = [net.graph.nodes[i].shape for i in node.inputs]
        xs = [torch.randn(1, *s, dtype=torch.float64, generator=generator) for s in shapes]
        a = torch.randn(1, *node.shape, dtype=torch.float64, generator=generator)
        ahead = (a * apply(node, xs, c, bias=False).reshape(a.shape)).sum()
        back = sum((g * x).sum() for g, x in zip(pull(node, a, shapes, c), xs, strict=True))
        torch.testing.assert_close(torch.as_tensor(back), ahead, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", ["linear", "residual", "max_pool2d", "maxout", "hardtanh"])
def test_options_that_do_not_change_the_bounds(name: str) -> None:
    """Blocks of any memory, batches or single sets, skipping decided units."""
    net, _ = compiled(name)
    X = balls(net, 2, True)
    C = torch.eye(net.output_size, dtype=torch.float64)
    L = layer_bounds(net, X)
    F = function_bounds(L, C, tensor([1.0] * net.output_size))
    M = layer_bounds(net, X, memory=1)
    G = function_bounds(M, C, tensor([1.0] * net.output_size), memory=1)
    torch.testing.assert_close(F.lower, G.lower, atol=1e-12, rtol=0)
    torch.testing.assert_close(F.a, G.a, atol=1e-12, rtol=0)
    for a, b in zip(F.coefficients, G.coefficients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)
    plain = function_bounds(L, C)
    torch.testing.assert_close(plain.lower + 1, F.lower, atol=1e-12, rtol=0)
    many = function_bounds(L, C.expand(3, -1, -1), torch.ones(3, net.output_size).double())
    torch.testing.assert_close(many.lower, F.lower, atol=1e-12, rtol=0)
    for i in range(3):
        assert X.center is not None
        assert X.radius is not None
        one = InputSet.from_ball(
            X.center[i : i + 1], X.radius[i : i + 1], 2, X.low[i : i + 1], X.high[i : i + 1]
        )
        torch.testing.assert_close(
            crown(net, one, C)[1].lower[0], plain.lower[i], atol=1e-9, rtol=0
        )
    better = optimised_bounds(L, C, steps=5, memory=1)
    torch.testing.assert_close(
        better.lower, optimised_bounds(L, C, steps=5).lower, atol=1e-9, rtol=0
    )
    assert (better.lower >= plain.lower - 1e-12).all()


def test_known_bounds_are_used() -> None:
    """A parent's bounds never get worse in a child, and sharpen its outputs."""
    net = dense(5, 12, 12, 3, seed=2)
    small, large = balls(net, math.inf, False), balls(net, math.inf, False)
    small = InputSet.from_box(small.low + 0.01 * (large.high - large.low), small.high)
    tight, parent = layer_bounds(net, small), layer_bounds(net, large)
    L = layer_bounds(net, large, known=(tight.lower, tight.upper))
    C = torch.eye(3, dtype=torch.float64)
    for a, b in zip(L.lower, tight.lower, strict=True):
        assert (a >= b).all()
    assert (function_bounds(L, C).lower >= function_bounds(parent, C).lower - 1e-12).all()
    assert function_bounds(L, C).lower.sum() > function_bounds(parent, C).lower.sum() + 1e-3


def test_contradictions_are_found() -> None:
    """A unit that cannot take its piece, and a candidate that cannot win, empty the sample."""
    net = pt.compile([(np.array([[1.0]]), np.array([2.0])), (np.array([[1.0]]), np.array([0.0]))])
    X = InputSet.from_box(tensor([[-1.0], [-1.0]]), tensor([[1.0], [1.0]]))
    L = layer_bounds(net, X, allowed_pieces(net, torch.tensor([[0], [1]])))
    assert L.empty.tolist() == [True, False]
    F = function_bounds(L, tensor([[1.0]]))
    assert F.lower[0, 0] == math.inf
    assert abs(F.lower[1, 0] - 1) < 1e-14
    net, _ = compiled("maxout")
    X = balls(net, math.inf, False)
    natural = net.pieces(X.center if X.center is not None else X.low)
    wrong = (natural[:1] + 1) % 3
    Y = InputSet.from_box(X.low[:1], X.high[:1])
    assert layer_bounds(net, Y, allowed_pieces(net, wrong)).empty.all()


def test_open_inputs() -> None:
    """Without a bound on the inputs, what is bounded by the network is bounded here."""
    net, _ = compiled("hardtanh")
    side = torch.full((1, net.input_size), math.inf).double()
    X = InputSet.from_box(-side, side)
    L, F = crown(net, X, torch.eye(3, dtype=torch.float64))
    assert torch.isinf(L.lower[0]).all()
    assert torch.isfinite(F.lower).all()
    net = dense(3, 5, 2)
    side = torch.full((1, 3), math.inf).double()
    L, F = crown(net, InputSet.from_box(-side, side), torch.eye(2, dtype=torch.float64))
    assert (F.lower == -math.inf).all()
    assert not L.empty.any()


def test_huge_and_tiny_weights() -> None:
    """1e12 and 1e-12 side by side; overflow gives -inf, never NaN."""
    rng = np.random.default_rng(0)
    W = [(rng.normal(size=(4, 3)) * 10.0 ** rng.integers(-12, 13, size=(4, 3)), rng.normal(size=4))]
    W.append((rng.normal(size=(2, 4)), rng.normal(size=2)))
    net = pt.compile(W)
    X = balls(net, math.inf, False)
    holds(layer_bounds(net, X), samples(X))
    W[0] = (W[0][0] * 1e290, W[0][1])
    W[1] = (W[1][0] * 1e30, W[1][1])
    net = pt.compile(W)
    L, F = crown(net, X, torch.eye(2, dtype=torch.float64))
    for v in (*L.lower, *L.upper, F.lower):
        assert not torch.isnan(v).any()
    assert (F.lower == -math.inf).any()


def test_walk_of_intervals_holds_everywhere() -> None:
    """The interval method alone is sound, and its walk knows every node."""
    net, _ = compiled("residual")
    X = balls(net, math.inf, False)
    L = layer_bounds(net, X, method="interval")
    holds(L, samples(X))
    assert isinstance(L.walk, Walk)
    assert set(L.walk.low) == set(range(len(net.graph.nodes)))


def test_bad_input() -> None:
    """Wrong dimensions, pieces, known bounds, functions; smooth networks by name."""
    net = dense(3, 5, 2)
    X = balls(net, 2, False)
    C = torch.eye(2, dtype=torch.float64)
    with pytest.raises(InputError, match="4 dimensions"):
        layer_bounds(net, InputSet.from_box(torch.zeros(1, 4), torch.ones(1, 4)))
    with pytest.raises(InputError, match="allowed"):
        layer_bounds(net, X, allowed_pieces(net, torch.full((2, 5), -1)))
    with pytest.raises(InputError, match="known"):
        layer_bounds(net, X, known=([torch.zeros(3, 4)], [torch.zeros(3, 4)]))
    L = layer_bounds(net, X)
    for bad in (torch.eye(3).double(), C[0], C.expand(2, 2, 2)):
        with pytest.raises(InputError, match="C: got shape"):
            function_bounds(L, bad)
    with pytest.raises(InputError, match="d: got shape"):
        function_bounds(L, C, torch.zeros(3))


def test_sums_of_no_and_negative_parts() -> None:
    """Coefficients 0 and negative ones only."""
    build = GraphBuilder()
    x = build.relu(build.input((2,)))
    out = build.concat([build.sum([x, x], [0, 0]), build.sum([x, x], [-1, -2])], 0)
    net = Engine(build.finish(out))
    X = InputSet.from_box(tensor([[-1.0, 0.5]]), tensor([[1.0, 2.0]]))
    F = crown(net, X, torch.eye(4, dtype=torch.float64))[1]
    torch.testing.assert_close(F.lower, tensor([[0.0, 0.0, -3.0, -6.0]]), atol=1e-12, rtol=0)
