"""The robust loss against dense matrices and samples of the ball."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from polytope.errors import UnsupportedOperation
from polytope.rows import as_logits
from polytope.training import Ramp, WongKolter
from tests.slow_dual import slow_margins
from tests.training_nets import MODULES, batch, gradients_of, make

EPS = 0.15
SEQUENTIAL = ["relu", "leaky", "prelu", "abs", "one_layer", "few_inputs", "batch_norm1d",
              "weight_norm", "conv", "conv_transpose"]  # fmt: skip
LINED = [name for name in MODULES if name != "pools"]


def case(name: str) -> tuple[Any, tuple[int, ...], torch.Tensor, torch.Tensor]:
    model, shape = make(name)
    x, y = batch(shape)
    return model, shape, x, y % 2 if name == "few_inputs" else y


@pytest.mark.parametrize(("p", "box"), [(1, None), (2, None), (math.inf, None), (math.inf, (0, 1))])
@pytest.mark.parametrize("name", SEQUENTIAL)
def test_against_dense_matrices(name: str, p: float, box: tuple[float, float] | None) -> None:
    model, shape, x, y = case(name)
    rows = [slow_margins(model, z, k, EPS, p, box) for z, k in zip(x, y.tolist(), strict=True)]
    wanted = -sum(torch.log_softmax(-row, 0)[k] for row, k in zip(rows, y, strict=True)) / len(x)
    for memory in (2**29, 1000):
        loss = WongKolter(model, shape, EPS, p=p, box=box, memory=memory)
        torch.testing.assert_close(loss.margins(x, y), torch.stack(rows).detach())
        found = loss(x, y)
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
        ours, theirs = gradients_of(found, model), gradients_of(wanted, model)
        for key, gradient in theirs.items():
            torch.testing.assert_close(ours[key], gradient, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("p", [2, math.inf])
@pytest.mark.parametrize("name", LINED)
def test_bounds_hold(name: str, p: float) -> None:
    """At samples of the ball's surface."""
    model, shape, x, y = case(name)
    loss = WongKolter(model, shape, EPS, p=p)
    margins, value = loss.margins(x, y), loss(x, y).item()
    generator = torch.Generator().manual_seed(0)
    worst = torch.full_like(margins, torch.inf)
    for _ in range(100):
        delta = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        size = torch.linalg.vector_norm(delta.flatten(1), p, dim=1)
        moved = x + EPS * delta / size.reshape(-1, *(1,) * len(shape))
        logits = as_logits(model(moved).flatten(1)).detach()
        worst = torch.minimum(worst, logits.gather(1, y[:, None]) - logits)
        assert value >= F.cross_entropy(logits, y).item() - 1e-12
    assert (margins <= worst + 1e-12).all()
    assert torch.equal(margins.gather(1, y[:, None]), torch.zeros(len(x), 1).double())


@pytest.mark.parametrize("name", LINED)
def test_without_a_ball_it_is_the_cross_entropy(name: str) -> None:
    model, shape, x, y = case(name)
    wanted = F.cross_entropy(as_logits(model(x)), y)
    loss = WongKolter(model, shape, Ramp(0, EPS, 10))
    torch.testing.assert_close(loss(x, y, epoch=0), wanted)
    assert loss(x, y, epoch=10).item() > loss(x, y, epoch=5).item() > wanted.item()


def test_statistics_of_the_batch() -> None:
    model, shape = make("residual")
    x, y = batch(shape, 4)
    loss = WongKolter(model, shape, 0.0, batch_norm="batch")
    model.train()
    torch.testing.assert_close(loss(x, y), F.cross_entropy(model(x), y))


def test_maxima_are_refused() -> None:
    with pytest.raises(UnsupportedOperation, match="is a maximum"):
        WongKolter(*make("pools"), EPS)


def test_it_makes_a_network_provable() -> None:
    """Four corners of a square: after training all points are proved at the radius."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(),
                          nn.Linear(16, 2)).double()  # fmt: skip
    x = torch.rand(40, 2, dtype=torch.float64).round() + 0.1 * torch.rand(40, 2).double()
    y = (x.round().sum(1) % 2).long()
    loss = WongKolter(model, (2,), Ramp(0, 0.2, 30))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)

    def proved() -> float:
        bounds = loss.margins(x, y, epoch=30)
        return float(((bounds > 0).sum(1) == 1).double().mean())

    assert proved() < 0.6
    for epoch in range(1, 101):
        optimiser.zero_grad()
        loss(x, y, epoch=epoch).backward()
        optimiser.step()
    assert proved() == 1.0
