"""What a step holds at once, measured operation by operation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from polytope.training import LLR, MMR, ROLL, CrossLipschitz, RegionMargin, WongKolter

#: One chunk may take this many bytes.
MEMORY = 2**20
POINTS, INPUTS, WIDTH = 24, 96, 64


class Held(TorchDispatchMode):
    """The most bytes that tensors made since held at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                self._alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._alive = {key: v for key, v in self._alive.items() if not v[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return found


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(INPUTS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(),
        nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 5),
    ).double()  # fmt: skip


def peak(loss: Any) -> int:
    x = torch.rand(POINTS, INPUTS, dtype=torch.float64)
    y = torch.arange(POINTS) % 5
    loss(x, y)
    with Held() as held:
        loss(x, y).backward()
    return held.peak


LOSSES = {
    "roll_perturbation": lambda m, b: ROLL(m, (INPUTS,), method="perturbation", memory=b),
    "roll_dynamic": lambda m, b: ROLL(m, (INPUTS,), method="dynamic", memory=b),
    "roll_gram": lambda m, b: ROLL(m, (INPUTS,), method="gram", memory=b),
    "roll_top": lambda m, b: ROLL(m, (INPUTS,), gamma=50, method="perturbation", memory=b),
    "margin": lambda m, b: RegionMargin(m, (INPUTS,), p="inf", memory=b),
    "mmr": lambda m, b: MMR(m, (INPUTS,), 9, 9, p=1, k_b=100, k_d="all", memory=b),
    "mmr_box": lambda m, b: MMR(
        m, (INPUTS,), 9, 9, box=(0, 1), k_b=100, k_d="all", memory=b),
    "wong_kolter": lambda m, b: WongKolter(m, (INPUTS,), 0.1, memory=b),
}  # fmt: skip


@pytest.mark.parametrize("kind", LOSSES)
def test_a_step_keeps_to_its_chunk(kind: str) -> None:
    """Beside the chunk: parameters, their gradients, and some numbers for each point and row."""
    model = network()
    beside = 3 * sum(p.numel() for p in model.parameters()) * 8
    beside += 20 * POINTS * 3 * WIDTH * 8
    small, large = (peak(LOSSES[kind](model, memory)) for memory in (MEMORY, 2**29))
    assert small <= MEMORY + beside
    if kind != "roll_gram":  # which needs less than the chunk in one piece
        assert large > 2 * small


@pytest.mark.parametrize("loss", [LLR, CrossLipschitz])
def test_losses_of_the_module_hold_few_steps(loss: Any) -> None:
    """Some plain steps, however many classes or inner steps there are."""
    model = network()
    x, y = torch.rand(POINTS, INPUTS, dtype=torch.float64), torch.arange(POINTS) % 5
    with Held() as plain:
        nn.functional.cross_entropy(model(x), y).backward()
    if loss is LLR:
        assert peak(LLR(model, (INPUTS,), 0.1, steps=20)) < 4 * plain.peak
    else:
        assert peak(CrossLipschitz(model, (INPUTS,))) < 4 * plain.peak
