"""The plain network of ROLL's Table 1, trained as the paper says."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from tests.data import data_path

SIGMA = 0.3081


@dataclass(frozen=True)
class Trained:
    """A trained network and the normalised test points."""

    model: torch.nn.Sequential
    test: np.ndarray
    accuracy: float
    sigma: float


def train_vanilla(epochs: int) -> Trained:
    """4 x 300 ReLU, SGD with Nesterov momentum 0.5, rate 0.01, batch 64, 55,000 points."""
    torch.manual_seed(0)
    train, test = (np.load(data_path("mnist", f"{part}.npz")) for part in ("train", "test"))
    x, held_out = (
        torch.as_tensor((part["x"].reshape(-1, 784) / 255.0 - 0.1307) / SIGMA).float()
        for part in (train, test)
    )
    y = torch.as_tensor(train["y"].astype(np.int64))[:55000]
    widths = (784, 300, 300, 300, 300)
    layers: list[torch.nn.Module] = []
    for before, after in pairwise(widths):
        layers += [torch.nn.Linear(before, after), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(300, 10))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.5, nesterov=True)
    for _ in range(epochs):
        for batch in torch.randperm(55000).split(64):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimiser.step()
    with torch.no_grad():
        right = model(held_out).argmax(1).numpy() == test["y"]
    return Trained(model, held_out.double().numpy(), float(right.mean()), SIGMA)


def percentiles(margins: np.ndarray) -> np.ndarray:
    """Percentiles 25, 50, 75 and 100, in units of 1e-4."""
    return 1e4 * np.percentile(margins, [25, 50, 75, 100])
