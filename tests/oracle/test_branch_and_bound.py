"""Branch and bound over pieces: against every linear region of small networks, and the digits."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from torch import nn

import polytope as pt
from polytope.robustness.branch_and_bound import Tree
from polytope.robustness.cell import adversarial_cell, cell_distance
from polytope.robustness.witness import exact_witnesses
from tests.data import data_path

NORMS = (1.0, 2.0, math.inf)


class Residual(nn.Module):
    """A residual sum, a pool of pairs, and leaky units."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(d, 6), nn.Linear(6, 6)
        self.pool, self.last = nn.MaxPool1d(2), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = x + nn.functional.leaky_relu(self.second(x), 0.1)
        return self.last(self.pool(x.unsqueeze(1)).squeeze(1))


def networks(seed: int) -> list[pt.Network]:
    torch.manual_seed(seed)
    d = 2 + seed % 2
    dense = nn.Sequential(nn.Linear(d, 7), nn.ReLU(), nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3))
    clipped = nn.Sequential(nn.Linear(d, 5), nn.Hardtanh(), nn.Linear(5, 4), nn.LeakyReLU(0.2),
                            nn.Linear(4, 2))  # fmt: skip
    return [pt.compile(m.double(), (d,)) for m in (dense, clipped, Residual(d))]


def solve(
    net: pt.Network,
    x: np.ndarray,
    label: int,
    p: float,
    box: pt.Box,
    targets: list[int],
    upper: float,
) -> Tree:
    def improve(point: np.ndarray, target: int) -> float:
        del target
        step = (point - x)[None]
        return float(exact_witnesses(net, x[None], step, np.array([label]), box, p)[0][0])

    tree = Tree(net, x, label, p, box, upper, improve)
    tree.start(targets)
    assert tree.run(time.perf_counter() + 60)
    return tree


def brute_force(
    net: pt.Network, x: np.ndarray, label: int, p: float, box: pt.Box, targets: list[int]
) -> float:
    """The least distance to the adversarial part of any linear region in the box."""
    graph = pt.region_graph(net, box)
    assert graph.complete
    found = [
        cell_distance(adversarial_cell(graph.region(i), label, t), x, p, box).lower
        for i in range(len(graph)) for t in targets
    ]  # fmt: skip
    return min(found)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("p", NORMS)
def test_every_region_of_small_networks(seed: int, p: float) -> None:
    rng = np.random.default_rng(seed)
    for net in networks(seed):
        d = net.input_size
        box = pt.Box(np.full(d, -2.0), np.full(d, 2.0))
        x = rng.uniform(-1, 1, d)
        label = int(net.predict(x[None])[0])
        targets = [t for t in range(net.output_size) if t != label]
        far = np.where(x < 0, box.high, box.low) - x
        reach = float(np.linalg.norm(far, ord=p)) * 1.01
        tree = solve(net, x, label, p, box, targets, reach)
        expected = brute_force(net, x, label, p, box, targets)
        assert tree.lower <= tree.upper <= reach
        if math.isinf(expected):
            assert tree.upper == reach  # nothing as near as that
            assert tree.lower == pytest.approx(reach, rel=1e-9)
        else:
            assert tree.lower == pytest.approx(expected, rel=1e-8)
            assert tree.upper == pytest.approx(expected, rel=1e-8)


def test_one_of_the_real_digits() -> None:
    net = pt.compile(str(data_path("digits", "digits_64_32_32_10.onnx")))
    with np.load(data_path("digits", "digits_64_32_32_10.npz")) as file:
        x, label = file["points"][9].astype(float), int(file["labels"][9])
        optimum = float(file["linf_optimum"][9])
    box = pt.Box(np.zeros(64), np.ones(64))
    upper = pt.certify(net, x[None], p="inf", box=(0, 1)).upper[0]
    tree = solve(net, x, label, math.inf, box, [t for t in range(10) if t != label], upper)
    assert tree.upper == pytest.approx(optimum, rel=1e-10)
    assert tree.lower == pytest.approx(optimum, rel=1e-9)
