"""Every loss equals the loops of tests/slow_losses.py, in its value and in all gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from polytope.training import MMR, ROLL, RegionMargin, Regulariser
from polytope.training.captured import capture
from polytope.training.frozen import freeze
from polytope.training.gradients import Budget
from polytope.training.pairs import geometry_of
from tests.slow_losses import Held, slow_mmr, slow_region_margin, slow_roll
from tests.training_nets import CHAINS, MODULES, batch, gradients_of, make

every_module = pytest.mark.parametrize("name", MODULES)
#: Bytes so few that points, pairs and input coordinates are all taken in parts.
SCARCE = 2500


def case(name: str, count: int = 3) -> tuple[nn.Module, tuple[int, ...], torch.Tensor, Any]:
    model, shape = make(name)
    x, y = batch(shape, count)
    return model, shape, x, y % 2 if name == "few_inputs" else y


def same(loss: torch.Tensor, wanted: torch.Tensor, model: nn.Module) -> None:
    """Equal values and gradients, up to rounding."""
    assert loss.shape == ()
    torch.testing.assert_close(loss, wanted, rtol=1e-11, atol=1e-12)
    ours, theirs = gradients_of(loss, model), gradients_of(wanted, model)
    largest = max(float(g.abs().max()) for g in theirs.values())
    for key, gradient in theirs.items():
        torch.testing.assert_close(ours[key], gradient, rtol=0, atol=1e-10 * max(1, largest))


@pytest.mark.parametrize("gamma", [100, 60, "max"])
@every_module
def test_roll(name: str, gamma: float | str) -> None:
    model, shape, x, _ = case(name)
    wanted = 1.5 * slow_roll(model, x, 0.7, gamma)
    ways = [("auto", 2**29), ("perturbation", 2**29), ("auto", SCARCE), ("perturbation", SCARCE)]
    if name in CHAINS:
        ways += [("gram", 2**29), ("dynamic", 2**29), ("dynamic", SCARCE)]
    if gamma != "max":
        ways += [("backprop", 2**29)]
    for method, memory in ways:
        loss = ROLL(model, shape, C=0.7, gamma=gamma, weight=1.5, method=method, memory=memory)
        same(loss(x), wanted, model)


@every_module
def test_roll_on_sampled_axes(name: str) -> None:
    model, shape, x, _ = case(name)
    inputs = int(np.prod(shape))
    drawn = torch.randperm(inputs, generator=torch.Generator().manual_seed(3))[:2]
    loss = ROLL(model, shape, C=0.7, axes=2)
    found = loss(x, generator=torch.Generator().manual_seed(3))
    same(found, slow_roll(model, x, 0.7, 100, drawn), model)
    torch.manual_seed(3)
    torch.testing.assert_close(loss(x), found)
    whole = ROLL(model, shape, C=0.7, axes=inputs)
    same(whole(x), slow_roll(model, x, 0.7, 100), model)


@pytest.mark.parametrize("p", [1, 2, 3, np.inf])
@every_module
def test_region_margin(name: str, p: float) -> None:
    model, shape, x, _ = case(name)
    for box in (None, (0, 1)):
        wanted = 2 * slow_region_margin(model, x, p, box)
        for memory in (2**29, SCARCE):
            same(
                RegionMargin(model, shape, p=p, box=box, weight=2, memory=memory)(x), wanted, model
            )


@pytest.mark.parametrize("p", [1, 2, np.inf])
@every_module
def test_mmr(name: str, p: float) -> None:
    model, shape, x, y = case(name)
    for box in (None, (0, 1)):
        for k_b, k_d in ((1, 1), (4, "all")):
            wanted = 1.5 * slow_mmr(model, x, y, 0.5, 0.7, p, box, k_b, k_d)
            loss = MMR(model, shape, 0.5, 0.7, p=p, box=box, k_b=k_b, k_d=k_d, weight=1.5,
                       memory=SCARCE if k_b == 4 else 2**29)  # fmt: skip
            same(loss(x, y), wanted, model)


@pytest.mark.parametrize("name", ["relu", "pools", "recurrent"])
def test_one_part_of_mmr_alone(name: str) -> None:
    """Without gamma_b it is the ablation of the paper's Table 2."""
    model, shape, x, y = case(name)
    same(MMR(model, shape, None, 0.7)(x, y), slow_mmr(model, x, y, None, 0.7, 2), model)
    same(MMR(model, shape, 0.5, None)(x), slow_mmr(model, x, y, 0.5, None, 2), model)


@pytest.mark.parametrize("name", ["batch_norm1d", "residual"])
def test_statistics_of_the_batch(name: str) -> None:
    """BatchNorm in training mode: the statistics are held over the input, not the weights."""
    model, shape, x, y = case(name, 4)
    held = Held(model, x)
    pairs = [
        (ROLL(model, shape, C=0.7, batch_norm="batch"), lambda: slow_roll(held, x, 0.7, 100)),
        (ROLL(model, shape, C=0.7, gamma=50, batch_norm="batch"),
         lambda: slow_roll(held, x, 0.7, 50)),
        (MMR(model, shape, 0.5, 0.7, k_b=3, k_d="all", batch_norm="batch"),
         lambda: slow_mmr(held, x, y, 0.5, 0.7, 2, None, 3, "all")),
    ]  # fmt: skip
    for loss, wanted in pairs:
        expected = wanted()
        model.train()
        found = loss(x, y)
        model.eval()
        same(found, expected, model)


@pytest.mark.parametrize("name", ["batch_norm1d", "residual"])
def test_running_statistics(name: str) -> None:
    model, shape, x, y = case(name)
    losses: list[Regulariser] = [
        ROLL(model, shape, batch_norm="running"),
        MMR(model, shape, 0.5, 0.7, batch_norm="running"),
    ]
    for loss in losses:
        evaluated = loss(x, y)
        model.train()
        torch.testing.assert_close(loss(x, y), evaluated)
        model.eval()


@pytest.mark.parametrize(("name", "used"), [("wide", True), ("skip", False), ("relu", False)])
def test_gram_matrix_of_the_first_block(name: str, used: bool) -> None:
    """Taken where it saves work, if all else reads the input through the block."""
    model, shape, x, y = case(name)
    frozen = freeze(capture(model, shape, "test"), x, frozenset(), "test")
    geometry = geometry_of(frozen, y, 2, None, Budget(2**29), 5)
    assert geometry.shared is not None
    assert int(geometry.shared.known.sum()) == frozen.net.layers[0].units
    assert (geometry.shared.gram is not None) == used
    assert geometry_of(frozen, y, 1, None, Budget(2**29), 5).leaves[2:] == ()


def test_norms_that_cancel_are_taken_anew() -> None:
    """Two outputs that differ by the tiny difference of two units: the Gram matrix knows it not."""
    model, shape, x, y = case("wide")
    model = nn.Sequential(*model[:2], nn.Linear(5, 3)).double()
    with torch.no_grad():
        model[0].bias.fill_(3.0)
        model[0].weight[1] = model[0].weight[0]
        model[0].weight[1, 4] += 1e-8
        model[2].weight.copy_(torch.eye(3, 5))
        model[2].bias.copy_(torch.tensor([0.0, 1e-9, -4.0]))
    loss = MMR(model, shape, None, 0.7, k_d="all")
    found, wanted = loss(x, y * 0), slow_mmr(model, x, y * 0, None, 0.7, 2, None, 1, "all")
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)
    ours, theirs = gradients_of(found, model), gradients_of(wanted, model)
    for key, gradient in theirs.items():
        torch.testing.assert_close(ours[key], gradient, rtol=1e-5, atol=1e-5)


def test_rows_that_all_points_share() -> None:
    """A first layer of convolutions: its rows' norms come from one sweep, or point by point."""
    model, shape, x, y = case("conv")
    frozen = freeze(capture(model, shape, "test"), x, frozenset(), "test")
    for memory, known in ((2**29, True), (1000, False)):
        shared = geometry_of(frozen, y, 2, None, Budget(memory), 5).shared
        assert shared is not None
        assert bool(shared.known.any()) == known
