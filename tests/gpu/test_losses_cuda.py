"""Every loss on a GPU is that on the CPU, in its value and its gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

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
from tests.training_nets import batch, gradients_of, make

pytestmark = [
    pytest.mark.skipif(
        not torch.cuda.is_available(),
        reason="needs a CUDA device: torch.cuda.is_available() is False",
    ),
    pytest.mark.filterwarnings("ignore::polytope.errors.Notice"),
]

LOSSES: dict[str, Callable[[nn.Module, tuple[int, ...]], Any]] = {
    "roll": lambda m, s: ROLL(m, s),
    "margin": lambda m, s: RegionMargin(m, s),
    "mmr": lambda m, s: MMR(m, s, 0.5, 0.5, k_b=3, k_d="all"),
    "mmr_box": lambda m, s: MMR(m, s, 0.5, 0.5, box=(0, 1)),
    "llr": lambda m, s: LLR(m, s, 0.1, steps=3),
    "adversarial": lambda m, s: Adversarial(m, s, 0.1, p=2, box=(0, 1)),
    "trades": lambda m, s: TRADES(m, s, 0.1),
    "cure": lambda m, s: CURE(m, s, h=0.1),
    "cross_lipschitz": lambda m, s: CrossLipschitz(m, s),
    "wong_kolter": lambda m, s: WongKolter(m, s, 0.1),
    "wong_kolter_box": lambda m, s: WongKolter(m, s, 0.1, box=(0, 1)),
}


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("name", ["relu", "hardtanh", "conv", "residual"])
def test_same_as_on_the_cpu(name: str, kind: str) -> None:
    model, shape = make(name)
    x, y = batch(shape)
    there = copy.deepcopy(model).cuda()
    found = []
    for own, points, labels in ((model, x, y), (there, x.cuda(), y.cuda())):
        torch.manual_seed(0)
        loss = LOSSES[kind](own, shape)(points, labels)
        found.append((loss.item(), gradients_of(loss, own)))
    (cpu, ours), (cuda, theirs) = found
    assert cuda == pytest.approx(cpu, rel=1e-8)
    for key, gradient in ours.items():
        torch.testing.assert_close(theirs[key].cpu(), gradient, rtol=1e-6, atol=1e-8)
