"""Gradients of the bounds with respect to weights and radii: for training on certificates."""

from __future__ import annotations

import math

import pytest
import torch

from polytope.bounds.crown import crown
from polytope.bounds.inputs import InputSet
from tests.nets import compiled, dense


@pytest.mark.parametrize("rule", ["adaptive", "parallel"])
@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_gradients_of_weights(p: float, rule: str) -> None:
    """`torch.autograd.gradcheck` through layers, lines and the input set."""
    net = dense(3, 5, 4, 2, seed=1)
    names = [k for k, v in net.graph.constants.items() if v.dtype.kind == "f" and v.ndim == 2]
    plain = net.constants(torch.float64, torch.device("cpu"))
    center = torch.tensor([[0.3, -0.2, 0.5], [0.1, 0.9, -0.4]], dtype=torch.float64)
    C = torch.eye(2, dtype=torch.float64)

    def bounds(radius: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        constants = {**plain, **dict(zip(names, weights, strict=True))}
        X = InputSet.from_ball(center, radius, p)
        return crown(net, X, C, rule=rule, constants=constants)[1].lower  # type: ignore[arg-type]

    radius = torch.tensor([0.2, 0.5], dtype=torch.float64, requires_grad=True)
    weights = [plain[k].clone().requires_grad_() for k in names]
    assert torch.autograd.gradcheck(bounds, (radius, *weights), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("name", ["conv2d", "max_pool2d", "residual", "hardtanh", "maxout", "abs"])
def test_gradients_are_finite(name: str) -> None:
    """Through convolutions, maxima and every kind of unit; zero radius and decided units too."""
    net, _ = compiled(name)
    plain = net.constants(torch.float64, torch.device("cpu"))
    grown = {
        k: v.clone().requires_grad_() if v.is_floating_point() else v for k, v in plain.items()
    }
    torch.manual_seed(0)
    center = torch.randn(3, net.input_size, dtype=torch.float64)
    for p in (1, 2, math.inf):
        X = InputSet.from_ball(center, torch.tensor([0.0, 0.1, 1.0], dtype=torch.float64), p)
        C = torch.eye(net.output_size, dtype=torch.float64)
        crown(net, X, C, constants=grown)[1].lower.sum().backward()
    found = [v.grad for v in grown.values() if v.grad is not None]
    assert found
    assert all(torch.isfinite(g).all() for g in found)
    assert any((g != 0).any() for g in found)
