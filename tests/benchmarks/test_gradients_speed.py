"""Gradients of all units of a 784-4x300-10 network, batch 64 (ROLL, Table 2), and d_D.

Run with ``pytest tests/benchmarks/test_gradients_speed.py -n 0 -s``; on a machine with a GPU
the same is measured there. Each figure is a ratio within one run on one machine.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import polytope as pt
from polytope.jacobians import layer_gradients

SIZES = (784, 300, 300, 300, 300, 10)
BATCH = 64


def mlp() -> pt.Network:
    rng = np.random.default_rng(0)
    return pt.compile(
        [
            (rng.normal(size=(n, m)) * (2 / m) ** 0.5, 0.1 * rng.normal(size=n))
            for m, n in itertools.pairwise(SIZES)
        ]
    )


def seconds(work: Callable[[], object], device: str, repeats: int = 5) -> float:
    """Median wall time after a warm-up."""

    def once() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    once()
    return statistics.median(once() for _ in range(repeats))


def sweep(net: pt.Network, x: torch.Tensor, method: str) -> None:
    for _ in layer_gradients(net, x, method):
        pass


def backprop(net: pt.Network, x: torch.Tensor, share: int) -> None:
    """Every `share`-th unit's gradient by its own reverse pass through its own layers."""
    c = net.constants(x.dtype, x.device)
    keys = [node.constants for node in net.graph.nodes if type(node.op).__name__ == "Linear"]
    points = x.clone().requires_grad_()
    h = points
    for weight, bias in keys[:-1]:
        z = torch.nn.functional.linear(h, c[weight], c[bias])
        for unit in range(0, z.shape[1], share):
            torch.autograd.grad(z[:, unit].sum(), points, retain_graph=True)
        h = torch.relu(z)


DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("device", DEVICES)
def test_gradients(device: str, dtype: torch.dtype) -> None:
    net = mlp()
    x = torch.randn(BATCH, SIZES[0], dtype=dtype, device=device)
    share = 1 if device == "cuda" else 30
    reverse = share * seconds(lambda: backprop(net, x, share), device, 3)
    times = {m: seconds(lambda m=m: sweep(net, x, m), device) for m in ("perturbation", "dynamic")}
    side = 4096 if device == "cuda" else 1500
    square = torch.randn(side, side, dtype=dtype, device=device)
    peak = 2 * side**3 / seconds(lambda: square @ square, device)
    flops = 2 * BATCH * SIZES[0] * sum(m * n for m, n in itertools.pairwise(SIZES))
    print(f"\n{device} {dtype}: back-propagation {reverse:.3f} s, peak {peak / 1e9:.0f} GFLOP/s")
    for method, spent in times.items():
        print(
            f"  {method:13s} {spent * 1e3:8.1f} ms   {reverse / spent:6.1f} x back-propagation   "
            f"{flops / spent / peak:5.2f} of the matrix product (dead units counted)"
        )


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip


def dense() -> nn.Module:
    widths = [m for n in SIZES[1:-1] for m in (nn.LazyLinear(n), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *widths, nn.LazyLinear(SIZES[-1]))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("make", [dense, conv])
def test_decision_distance(make: Callable[[], nn.Module], device: str) -> None:
    """d_D in l_2 beside torch.func's Jacobian of the logits, and beside every row's norm."""
    torch.manual_seed(0)
    module = make().double()
    x = torch.rand(BATCH, 1, 28, 28, dtype=torch.float64)
    module(x)
    net, module, x = pt.compile(module, (1, 28, 28)), module.to(device), x.to(device)

    def peer() -> torch.Tensor:
        jacobian = torch.func.vmap(torch.func.jacrev(lambda z: module(z[None])[0]))(x).flatten(2)
        logits = module(x)
        own = logits.argmax(1)[:, None]
        normal = jacobian - jacobian.gather(1, own[:, :, None].expand(-1, -1, jacobian.shape[2]))
        room = logits.gather(1, own) - logits
        return (room / normal.norm(dim=2)).nan_to_num(torch.inf).min(1).values

    found = pt.decision_distance(net, x)
    torch.testing.assert_close(found.distance, peer(), rtol=1e-8, atol=1e-12)
    ours = seconds(lambda: pt.decision_distance(net, x), device)
    others = {
        "torch.func.jacrev": seconds(peer, device),
        "d_B, every row": seconds(lambda: pt.boundary_distance(net, x), device, 3),
    }
    print(f"\n{device} {make.__name__}: d_D of {BATCH} points {ours * 1e3:.1f} ms")
    for name, spent in others.items():
        print(f"  {name:18s} {spent * 1e3:8.1f} ms   {spent / ours:6.1f} times ours")
