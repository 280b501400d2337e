"""The networks whose regions are known: torch's default initialisation, seed 0.

Counts are of activation regions of full dimension, in the box [-1, 1]^d and in the whole space;
those of two inputs are confirmed by `tests.oracle.regions_2d`. The degenerate networks are where
most tools miscount or refuse: lines that coincide, lines through one point, rows that are zero.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Counted:
    """A network with its numbers of regions."""

    name: str
    widths: tuple[int, ...]
    in_box: int
    in_space: int

    def model(self) -> nn.Sequential:
        """The network, in float32."""
        model = relu_net(*self.widths)
        with torch.no_grad():
            _DAMAGE.get(self.name, _nothing)(model)
        return model


GENERIC = (
    Counted("A1", (2, 16, 16, 1), 127, 572),
    Counted("A2", (2, 32, 32, 32, 2), 1180, 5355),
    Counted("S4", (4, 8, 8, 2), 275, 2188),
    Counted("S6", (6, 7, 7, 2), 337, 2649),
    Counted("T5", (5, 6, 6, 2), 77, 899),
    Counted("B1", (4, 16, 16, 2), 6658, 41280),
    Counted("B2", (6, 12, 12, 2), 7990, 141154),
    Counted("B3", (10, 10, 10, 2), 24954, 171088),
)
DEGENERATE = (
    Counted("zero_biases", (2, 8, 8, 1), 29, 29),
    Counted("duplicated", (2, 8, 8, 1), 17, 159),
    Counted("rescaled", (2, 8, 8, 1), 22, 156),
    Counted("pruned", (2, 8, 8, 1), 12, 101),
)
COUNTED = {net.name: net for net in (*GENERIC, *DEGENERATE)}


def relu_net(*widths: int, seed: int = 0) -> nn.Sequential:
    """Linear layers with ReLU between them, as torch initialises them after `manual_seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Linear(n, m) for n, m in itertools.pairwise(widths)]
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))[:-1]


def _nothing(model: nn.Sequential) -> None:
    """Leave a network as it is."""


def _zero_biases(model: nn.Sequential) -> None:
    """Every line of the first layer passes through the origin."""
    for layer in model[::2]:
        layer.bias.zero_()


def _duplicate(model: nn.Sequential) -> None:
    """Neuron 3 of the first layer takes the weights and bias of neuron 2."""
    model[0].weight[3] = model[0].weight[2]
    model[0].bias[3] = model[0].bias[2]


def _rescale(model: nn.Sequential) -> None:
    """The first layer times 2^-36 and the second times 2^36: the same function, exactly."""
    model[0].weight *= 2.0**-36
    model[0].bias *= 2.0**-36
    model[2].weight *= 2.0**36


def _prune(model: nn.Sequential) -> None:
    """One neuron of each layer has no weights and no bias."""
    for layer, neuron in ((0, 5), (2, 4)):
        model[layer].weight[neuron] = 0
        model[layer].bias[neuron] = 0


_DAMAGE = {
    "zero_biases": _zero_biases,
    "duplicated": _duplicate,
    "rescaled": _rescale,
    "pruned": _prune,
}
