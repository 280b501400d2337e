"""ROLL's Table 2: a training step with each form of the loss, as ratios to a plain step.

784 - 4 x 300 - 10 as initialised, batch 64, SGD with Nesterov momentum, float32. Run with
``OMP_NUM_THREADS=1 pytest tests/benchmarks/test_training_speed.py -n 0 -s``; on a machine with a
GPU the same is measured there. Plain and regularised steps are timed in turns, so that a ratio
is of the same minutes. Published, on a GPU: back-propagation 242, perturbation 20.7, three
samples 2.3.

MMR beside it: FC1 and FC10 of the paper with its schedules in the first epoch, batch 128; the
other losses on FC1 with a smooth unit, Wong and Kolter's on FC1 and a CNN.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from polytope.training import (
    CURE,
    LLR,
    MMR,
    ROLL,
    TRADES,
    Adversarial,
    CrossLipschitz,
    TrainingLoss,
    WongKolter,
    total_loss,
)

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
on_devices = pytest.mark.parametrize("device", DEVICES)


def mlp(*widths: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths[:-1]):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(*widths[-2:]))


def seconds(work: Callable[[], None], device: str, repeats: int) -> float:
    """Time of one call, over `repeats` of them: CPU time on a CPU, which may be shared."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    if device == "cuda":
        torch.cuda.synchronize()
    begin = clock()
    for _ in range(repeats):
        work()
    if device == "cuda":
        torch.cuda.synchronize()
    return (clock() - begin) / repeats


def ratio(
    step: Callable[[], None], plain: Callable[[], None], device: str, turns: int, repeats: int = 1
) -> tuple[float, float, float]:
    """Medians of the plain step, of the other, and of their ratio turn by turn."""
    plain()
    step()
    pairs = [(seconds(plain, device, 10), seconds(step, device, repeats)) for _ in range(turns)]
    base, other = (statistics.median(column) for column in zip(*pairs, strict=True))
    return base, other, statistics.median(b / a for a, b in pairs)


def report(name: str, measured: tuple[float, float, float], published: str = "") -> None:
    base, other, times = measured
    print(f"  {name:38s} {other * 1e3:9.2f} ms   plain {base * 1e3:6.2f} ms   ratio {times:7.1f}"
          f"   {published}", flush=True)  # fmt: skip


@on_devices
def test_table2(device: str) -> None:
    model = mlp(784, 300, 300, 300, 300, 10).to(device)
    # Rate 0: the same work, but the share of active units, on which times depend, stays half.
    optimiser = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.5, nesterov=True)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 784, generator=generator).to(device)
    y = torch.randint(0, 10, (64,), generator=generator).to(device)

    def step(loss: ROLL | None = None, once: bool = False) -> None:
        optimiser.zero_grad()
        if loss is None:
            total = F.cross_entropy(model(x), y)
        elif once:
            logits, value = loss.with_logits(x)
            total = F.cross_entropy(logits, y) + value
        else:
            total = F.cross_entropy(model(x), y) + loss(x)
        total.backward()
        optimiser.step()

    print(f"\nROLL Table 2 on {device}, {torch.get_num_threads()} thread(s)")
    gpu = device == "cuda"
    three = ROLL(model, (784,), axes=3, weight=1e-3)
    report("3 samples", ratio(lambda: step(three), step, device, 15, 10), "published 2.3")
    report("3 samples, one forward pass", ratio(lambda: step(three, True), step, device, 15, 10))
    for method in ("gram", "dynamic", "perturbation"):
        loss = ROLL(model, (784,), method=method, weight=1e-3)
        turns = 9 if gpu or method == "gram" else 2
        published = "published 20.7" if method == "perturbation" else ""
        report(f"full, {method}", ratio(lambda loss=loss: step(loss), step, device, turns),
               published)  # fmt: skip
    if gpu:
        loss = ROLL(model, (784,), method="backprop", weight=1e-3)
        report("full, backprop", ratio(lambda: step(loss), step, device, 2), "published 242")


@on_devices
@pytest.mark.parametrize("name", ["FC1", "FC10", "CNN"])
def test_mmr(name: str, device: str) -> None:
    torch.manual_seed(0)
    shape: tuple[int, ...] = (784,)
    if name == "FC1":
        model = mlp(784, 1024, 10)
    elif name == "FC10":
        model = mlp(784, 124, *[104] * 7, 86, 86, 10)
    else:
        shape = (1, 28, 28)
        model = nn.Sequential(
            nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(),
            nn.Flatten(), nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10),
        )  # fmt: skip
    model.to(device)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.0)
    x, y = torch.rand(128, *shape).to(device), torch.randint(0, 10, (128,)).to(device)

    def step(loss: MMR | None = None) -> None:
        optimiser.zero_grad()
        total = F.cross_entropy(model(x), y)
        if loss is not None:
            total = total + loss(x, y, epoch=1)
        total.backward()
        optimiser.step()

    print(f"\nMMR of {name} on {device}, batch 128, first epoch")
    for p in (2, "inf", 1):
        loss = MMR.published(model, shape, 0.4, 0.4, weight=1, p=p)
        turns = 2 if name == "CNN" and device == "cpu" else 5
        report(f"l_{p}", ratio(lambda loss=loss: step(loss), step, device, turns))
        if name == "CNN" and device == "cpu":
            return


@on_devices
def test_other_losses(device: str) -> None:
    torch.manual_seed(0)
    smooth = nn.Sequential(nn.Linear(784, 1024), nn.Softplus(), nn.Linear(1024, 10)).to(device)
    plain = mlp(784, 1024, 10).to(device)
    convolutional = nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10),
    ).to(device)  # fmt: skip
    losses: list[tuple[str, TrainingLoss, int]] = [
        ("LLR, 2 steps", LLR(smooth, (784,), 0.1, steps=2), 128),
        ("LLR, 10 steps", LLR(smooth, (784,), 0.1), 128),
        ("adversarial, 2 steps", Adversarial(smooth, (784,), 0.1, steps=2), 128),
        ("adversarial, 10 steps", Adversarial(smooth, (784,), 0.1), 128),
        ("TRADES, 10 steps", TRADES(smooth, (784,), 0.1), 128),
        ("CURE", CURE(smooth, (784,)), 128),
        ("cross-Lipschitz, 10 classes", CrossLipschitz(smooth, (784,)), 128),
        ("Wong-Kolter, FC1, l_inf", WongKolter(plain, (784,), 0.1), 128),
        ("Wong-Kolter, FC1, l_2", WongKolter(plain, (784,), 0.3, p=2), 128),
        ("Wong-Kolter, CNN, 8 points", WongKolter(convolutional, (1, 28, 28), 0.1), 8),
    ]
    print(f"\nOther losses on {device}, batch 128")
    for name, loss, count in losses:
        shape = (1, 28, 28) if loss.model is convolutional else (784,)
        x = torch.rand(count, *shape).to(device)
        y = torch.randint(0, 10, (count,)).to(device)
        optimiser = torch.optim.Adam(loss.model.parameters(), lr=0.0)

        def step(used: list[TrainingLoss], x=x, y=y, loss=loss, optimiser=optimiser) -> None:
            optimiser.zero_grad()
            total_loss(loss.model, used, x, y, epoch=1).backward()
            optimiser.step()

        turns = 2 if count == 8 and device == "cpu" else 5
        report(name, ratio(lambda s=step, u=loss: s([u]), lambda s=step: s([]), device, turns))
