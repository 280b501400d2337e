"""Gradients of every loss against finite differences, on each kind of layer, in float64.

The step stays in the same pieces, axes and nearest rows: random weights are away from kinks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from polytope.training import (
    CURE,
    LLR,
    MMR,
    ROLL,
    TRADES,
    Adversarial,
    CrossLipschitz,
    RegionMargin,
    WongKolter,
)
from tests.slow_module_losses import drawn
from tests.training_nets import MODULES, SMOOTH, batch, make

STEP = 1e-6
EPS = 0.15
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
LOSSES: dict[str, Callable[[nn.Module, tuple[int, ...]], Loss]] = {
    "roll": lambda m, s: ROLL(m, s, C=0.7),
    "roll_perturbation": lambda m, s: ROLL(m, s, C=0.7, method="perturbation"),
    "roll_top": lambda m, s: ROLL(m, s, C=0.7, gamma=50),
    "roll_max": lambda m, s: ROLL(m, s, C=0.7, gamma="max"),
    "roll_axes": lambda m, s: frozen_axes(ROLL(m, s, C=0.7, axes=2)),
    "margin": lambda m, s: RegionMargin(m, s),
    "margin_box": lambda m, s: RegionMargin(m, s, p="inf", box=(0, 1)),
    "mmr_1": lambda m, s: MMR(m, s, 0.9, 0.9, p=1, k_b=3, k_d="all"),
    "mmr_2": lambda m, s: MMR(m, s, 0.9, 0.9, p=2, k_b=3, k_d="all"),
    "mmr_inf": lambda m, s: MMR(m, s, 0.9, 0.9, p=np.inf, k_b=3, k_d="all"),
    "mmr_2_box": lambda m, s: MMR(m, s, 0.9, 0.9, p=2, box=(0, 1), k_b=3, k_d="all"),
    "mmr_inf_box": lambda m, s: MMR(m, s, 0.9, 0.9, p=np.inf, box=(0, 1), k_b=3, k_d="all"),
}
MODULE_LOSSES: dict[str, Callable[[nn.Module, tuple[int, ...]], Loss]] = {
    "llr": lambda m, s: frozen_attack(LLR(m, s, EPS)),
    "llr_2": lambda m, s: frozen_attack(LLR(m, s, EPS, p=2, box=(0, 1), steps=3)),
    "adversarial": lambda m, s: frozen_attack(Adversarial(m, s, EPS, steps=3)),
    "trades": lambda m, s: frozen_attack(TRADES(m, s, EPS, steps=3)),
    "cure": lambda m, s: CURE(m, s, h=0.1),
    "cross_lipschitz": lambda m, s: CrossLipschitz(m, s),
}
DUAL_LOSSES: dict[str, Callable[[nn.Module, tuple[int, ...]], Loss]] = {
    "wong_kolter": lambda m, s: WongKolter(m, s, EPS),
    "wong_kolter_2": lambda m, s: WongKolter(m, s, EPS, p=2),
    "wong_kolter_box": lambda m, s: WongKolter(m, s, EPS, box=(0, 1)),
}


def frozen_attack(loss: LLR | Adversarial | TRADES) -> Loss:
    """The loss at the perturbations that it found for the weights as they were."""
    found: list[torch.Tensor] = []

    def frozen(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if not found:
            seeded = torch.Generator().manual_seed(1)
            if isinstance(loss, LLR):
                found.append(drawn(x, 1, EPS, float(loss.p), None))
            elif isinstance(loss, Adversarial):
                found.append(loss.perturb(x, y, generator=seeded))
            else:
                found.append(loss.perturb(x, generator=seeded))
        return loss(x, y, delta=found[0])

    return frozen


def frozen_axes(loss: ROLL) -> Loss:
    return lambda x, y: loss(x, y, generator=torch.Generator().manual_seed(1))


def differences_agree(loss: Callable[[], torch.Tensor], model: nn.Module) -> None:
    """Directional derivatives along random directions of all parameters at once."""
    parameters = list(model.parameters())
    found = torch.autograd.grad(loss(), parameters, allow_unused=True)
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        directions = [
            torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters
        ]
        analytic = sum(
            (g * d).sum().item() for g, d in zip(found, directions, strict=True) if g is not None
        )
        ends = []
        for sign in (STEP, -2 * STEP, STEP):
            with torch.no_grad():
                for parameter, direction in zip(parameters, directions, strict=True):
                    parameter.add_(direction, alpha=sign)
            ends.append(loss().item())
        numeric = (ends[0] - ends[1]) / (2 * STEP)
        assert analytic == pytest.approx(numeric, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("which", LOSSES)
@pytest.mark.parametrize("name", MODULES)
def test_gradients(name: str, which: str) -> None:
    model, shape = make(name)
    x, y = batch(shape)
    y = y % 2 if name == "few_inputs" else y
    loss = LOSSES[which](model, shape)
    differences_agree(lambda: loss(x, y), model)


@pytest.mark.parametrize("which", MODULE_LOSSES)
@pytest.mark.parametrize("name", [*MODULES, *SMOOTH])
def test_gradients_of_losses_of_any_module(name: str, which: str) -> None:
    model, shape = make(name)
    x, y = batch(shape)
    y = y % 2 if name in ("few_inputs", "smooth_conv") else y
    loss = MODULE_LOSSES[which](model, shape)
    differences_agree(lambda: loss(x, y), model)


@pytest.mark.parametrize("which", DUAL_LOSSES)
@pytest.mark.parametrize("name", [name for name in MODULES if name != "pools"])
def test_gradients_of_dual_bounds(name: str, which: str) -> None:
    model, shape = make(name)
    x, y = batch(shape)
    y = y % 2 if name == "few_inputs" else y
    loss = DUAL_LOSSES[which](model, shape)
    differences_agree(lambda: loss(x, y), model)


@pytest.mark.parametrize("name", ["batch_norm1d", "residual"])
def test_gradients_through_the_statistics_of_the_batch(name: str) -> None:
    model, shape = make(name)
    x, y = batch(shape, 4)
    losses = [
        ROLL(model, shape, batch_norm="batch"),
        MMR(model, shape, 0.9, 0.9, batch_norm="batch"),
        WongKolter(model, shape, EPS, batch_norm="batch"),
        CURE(model, shape, h=0.1, batch_norm="batch"),
        CrossLipschitz(model, shape, batch_norm="batch"),
        frozen_attack(LLR(model, shape, EPS, batch_norm="batch")),
    ]
    model.train()
    for loss in losses:
        differences_agree(lambda loss=loss: loss(x, y), model)
