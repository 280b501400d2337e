"""On a CUDA device everything gives what it gives on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import polytope as pt
from polytope.errors import InputError
from polytope.jacobians import Method, layer_gradients
from polytope.margins import count_complete_regions, directional_margin, stability_intervals
from polytope.model import compile
from solvers.projection import project_to_hyperplane
from tests.nets import compiled, dense, few_kinds, points

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device: torch.cuda.is_available() is False"
)
CUDA = torch.device("cuda")
norms = pytest.mark.parametrize("p", [1, 2, 3, np.inf])


def same(got: torch.Tensor | np.ndarray, wanted: object, rtol: float = 1e-9) -> None:
    if isinstance(got, torch.Tensor):
        assert got.device.type == "cuda"
        got = got.cpu().numpy()
    np.testing.assert_allclose(got, np.asarray(wanted), rtol=rtol, atol=1e-11)


@few_kinds
def test_engine(name: str) -> None:
    net, _ = compiled(name)
    x = torch.tensor(points(net).reshape(-1, *net.input_shape))
    same(net.forward(x.to(CUDA)), net.forward(x))
    assert torch.equal(net.pieces(x.to(CUDA)).cpu(), net.pieces(x))
    methods: list[Method] = ["auto", "backprop"]
    for method in methods:
        on_gpu = layer_gradients(net, x.to(CUDA), method)
        for got, wanted in zip(on_gpu, layer_gradients(net, x), strict=True):
            assert got.gradients is not None
            assert wanted.gradients is not None
            same(got.values, wanted.values)
            same(got.gradients.expand(len(x), -1, -1), wanted.gradients.expand(len(x), -1, -1))


@few_kinds
def test_region(name: str) -> None:
    net, _ = compiled(name)
    x = torch.tensor(points(net)[0])
    ours, theirs = net.region(x.to(CUDA)), net.region(x)
    assert ours.pattern == theirs.pattern
    for field in ("A", "b", "jacobian", "offset", "point"):
        same(getattr(ours, field), getattr(theirs, field))
    assert ours.contains(x.to(CUDA)) is True


@norms
@few_kinds
def test_distances(name: str, p: float) -> None:
    net, _ = compiled(name)
    X = torch.tensor(np.clip(points(net, 5), -1, 1))
    for box in (None, (-1, 1)):
        ours, theirs = (pt.boundary_distance(net, x, p, box, k=2) for x in (X.to(CUDA), X))
        same(ours.nearest, theirs.nearest)
        assert (ours.unit == theirs.unit).all()
        signed, wanted = (pt.decision_distance(net, x, None, p, box) for x in (X.to(CUDA), X))
        same(signed.distance, wanted.distance)
        assert (signed.label == wanted.label).all()


@norms
def test_projection(p: float) -> None:
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(200, 30, generator=generator, dtype=torch.float64)
    r = torch.randn(200, generator=generator, dtype=torch.float64)
    low, high = -torch.rand(200, 30, generator=generator), torch.rand(200, 30, generator=generator)
    low, high = low.double() / 4, high.double() / 4
    ours = project_to_hyperplane(*(t.to(CUDA) for t in (w, r, low, high)), p, return_delta=True)
    for engine in ("torch", "compiled"):
        theirs = project_to_hyperplane(w, r, low, high, p, return_delta=True, engine=engine)
        same(ours.distance, theirs.distance)
        assert torch.equal(ours.status.cpu(), theirs.status)


@norms
def test_certify(p: float) -> None:
    net = dense(6, 12, 10, 3)
    X = np.random.default_rng(0).uniform(0, 1, (6, 6))
    for regions in (1, 4):
        ours = pt.certify(net, torch.tensor(X).to(CUDA), None, p, (0, 1), regions)
        theirs = pt.certify(net, X, None, p, (0, 1), regions)
        same(ours.lower, theirs.lower)
        same(ours.upper, theirs.upper)
        assert (ours.status == theirs.status).all()
        assert (ours.regions == theirs.regions).all()


def test_margins() -> None:
    net, _ = compiled("max_pool2d")
    X, directions = points(net), np.random.default_rng(0).normal(size=(3, net.input_size))
    x = torch.tensor(X).to(CUDA)
    same(directional_margin(net, x, directions), directional_margin(net, X, directions))
    same(stability_intervals(net, x).up, stability_intervals(net, X).up)
    assert count_complete_regions(net, x).upper == count_complete_regions(net, X).upper


def test_model_on_the_gpu_and_input_elsewhere() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).to(CUDA).double()
    net = compile(model, (3,))
    assert next(model.parameters()).device.type == "cuda"
    X = torch.tensor(points(net))
    with torch.no_grad():
        same(net.forward(X.to(CUDA)), model(X.to(CUDA)).cpu())
        same(net.native_logits(X.numpy()), model(X.to(CUDA)).cpu())
    with pytest.raises(InputError, match="constants: are on cuda:0, but X is on cpu"):
        pt.boundary_distance(net, X, constants=net.live())
    found = pt.boundary_distance(net, X.to(CUDA), constants=net.live())
    assert isinstance(found.distance, torch.Tensor)
    found.distance.sum().backward()
    assert model[0].weight.grad is not None


@few_kinds
def test_jacobian_bounds(name: str) -> None:
    net, _ = compiled(name)
    balls = [pt.Ball(x, 0.1, 2) for x in points(net)]
    for method in ("recurjac", "fastlip", "recurjac-f0"):
        ours = pt.jacobian_bounds(net, balls, method, device="cuda")
        theirs = pt.jacobian_bounds(net, balls, method)
        np.testing.assert_allclose(ours.lower, theirs.lower, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(ours.upper, theirs.upper, rtol=1e-9, atol=1e-11)
