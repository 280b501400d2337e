"""How far the interval closes on networks of 784 inputs: minutes, so a command of its own.

    OMP_NUM_THREADS=1 SECONDS_A_POINT=60 pytest -n 0 -s tests/benchmarks/test_large_networks.py

For each network and norm: how many of the first correctly decided test images are solved, and
the median width of the interval, relative to its upper end, beside that of Theorem 3.1 alone and
of CROWN alone with the same upper end.
"""

import os

import numpy as np
import pytest
import torch

import polytope as pt
from tests.data import data_path

SECONDS = float(os.environ.get("SECONDS_A_POINT", "60"))
POINTS = int(os.environ.get("POINTS", "10"))
NETWORKS = {
    "mnistfc 256x2": ("mnist", ("mnistfc", "mnist-net_256x2.onnx")),
    "F-MNIST MMR 4x200": ("fashion_mnist", ("models", "fashion_mnist_mmr_4x200.npz")),
    "F-MNIST MMR 6x200": ("fashion_mnist", ("models", "fashion_mnist_mmr_6x200.npz")),
    "F-MNIST MMR 20x100": ("fashion_mnist", ("models", "fashion_mnist_mmr_20x100.npz")),
}


def load(name):
    """A network, and the first images that it decides correctly."""
    folder, parts = NETWORKS[name]
    path = data_path(*parts)
    if path.suffix == ".npz":
        with np.load(path) as file:
            depth = sum(key.startswith("W") for key in file)
            net = pt.compile([(file[f"W{i}"], file[f"b{i}"]) for i in range(depth)])
    else:
        net = pt.compile(str(path))
    with np.load(data_path(folder, "test.npz")) as file:
        images, labels = (file[key] for key in sorted(file, key=lambda key: -file[key].ndim))
    X, y = images[:200].reshape(200, -1) / 255, labels[:200].astype(int)
    right = np.flatnonzero(net.predict(X) == y)[:POINTS]
    return net, X[right], y[right]


@pytest.mark.parametrize("p", [1, 2, "inf"])
@pytest.mark.parametrize("name", NETWORKS)
def test_width(name, p):
    torch.set_num_threads(1)
    net, X, y = load(name)
    found = pt.minimal_perturbation(net, X, y, p, (0, 1), time_limit=SECONDS)
    finite = np.isfinite(found.upper)

    def width(lower):
        part = (found.upper[finite] - np.array(lower)[finite]) / found.upper[finite]
        return np.median(part) if finite.any() else np.nan

    theorem = [row.stats.theorem_lower for row in found]
    crown = [row.stats.crown_lower for row in found]
    assert (found.lower >= np.nan_to_num(crown)).all()
    seconds = [row.stats.seconds for row in found]
    print(
        f"\n| {name} | l_{p} | {int(found.exact.sum())} of {len(found)} | "
        f"{width(found.lower):.1%} | {max(0, width(crown)):.1%} | {width(theorem):.1%} | "
        f"{np.median(seconds):.1f} |"
    )
