"""Networks that many tests share: compiled once per process, and a sampler of a region."""

from __future__ import annotations

import functools
import itertools
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from polytope.errors import Notice
from polytope.model import Network, compile
from polytope.region import Region
from tests.zoo import ZOO

NAMES = [name for name, _, _ in ZOO]
#: One of each way that the engine can go wrong, for the slower tests.
FEW = [
    "linear", "single_logit", "linear_sequence", "conv2d", "conv_transpose1d", "residual",
    "batch_norm1d", "avg_pool1d", "max_pool2d", "prelu_channels", "hardtanh", "relu6", "abs",
    "maximum", "maxout", "max_over_all", "broadcast_add", "in_place", "rnn", "leaky_cell",
    "zero_biases", "duplicated_neurons", "dead_units", "affine_only", "one_input",
]  # fmt: skip

every_kind = pytest.mark.parametrize("name", NAMES)
few_kinds = pytest.mark.parametrize("name", FEW)


@functools.cache
def compiled(name: str) -> tuple[Network, nn.Module]:
    """A network of the zoo and its source, by name."""
    make, shape = next((make, shape) for other, make, shape in ZOO if other == name)
    model = make()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using padding='same'")
        warnings.simplefilter("ignore", Notice)
        return compile(model, shape), model


def dense(*widths: int, seed: int = 0, scale: float = 1.0) -> Network:
    """A fully connected ReLU network with random weights of He's size."""
    rng = np.random.default_rng(seed)
    layers = [
        (scale * rng.normal(size=(m, n)) * np.sqrt(2 / n), scale * rng.normal(size=m) / 3)
        for n, m in itertools.pairwise(widths)
    ]
    return compile(layers)


def points(net: Network, count: int = 4, seed: int = 1) -> np.ndarray:
    """Random points (count, d)."""
    return np.random.default_rng(seed).normal(size=(count, net.input_size))


def source_outputs(model: nn.Module, net: Network, z: np.ndarray) -> np.ndarray:
    """The source module on flat points, one by one if it mixes the rows of a batch."""
    shaped = torch.tensor(z.reshape(-1, *net.input_shape))
    with torch.no_grad():
        outputs, first = model(shaped), model(shaped[:1])
        if outputs.numel() != len(shaped) * first.numel() or not torch.allclose(outputs[:1], first):
            outputs = torch.stack([model(row[None]) for row in shaped])
    return outputs.reshape(len(shaped), -1).numpy()


def pieces(net: Network, z: np.ndarray) -> np.ndarray:
    """The pieces of all units at flat points."""
    with torch.no_grad():
        return net.pieces(torch.tensor(z.reshape(-1, *net.input_shape))).numpy()


def sample_region(region: Region, count: int = 1000, farthest: float = 10.0) -> np.ndarray:
    """Points inside a region by hit-and-run in 50 chains, in steps of at most `farthest`."""
    rng = np.random.default_rng(0)
    A, b = region.A[~region.zero_rows], region.b[~region.zero_rows]
    z = np.repeat(region.point[None], 50, axis=0)
    found = []
    for _ in range(-(-count // len(z))):
        step = rng.normal(size=z.shape)
        step /= np.linalg.norm(step, axis=1, keepdims=True)
        slope, room = step @ A.T, np.maximum(b - z @ A.T, 0)
        ends = []
        for sign in (1, -1):
            toward = np.where(sign * slope > 0, sign * slope, np.nan)
            ratios = np.where(np.isnan(toward), farthest, room / toward)
            ends.append(sign * ratios.min(axis=1, initial=farthest))
        z = z + rng.uniform(ends[1], ends[0])[:, None] * step
        found.append(z)
    return np.concatenate(found)[:count]
