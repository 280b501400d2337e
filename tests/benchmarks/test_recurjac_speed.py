"""RecurJac on 784-1024-512-256-128-64-32-10 beside a plain numpy loop of the same recursion.

Run with ``OMP_NUM_THREADS=1 pytest tests/benchmarks/test_recurjac_speed.py -n 0 -s``: one core.
The loop is the paper's algorithm entry by entry, vectors over the units of a layer, as one would
write it first; where it would take minutes a part of its entries is timed and scaled.  Also:
Fast-Lip, both forward versions, and a batch of points against one point at a time.  Where there
is a GPU, the batch runs on it too.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

import polytope as pt
from polytope.bounds.derivatives import Derivatives, Slopes, derivatives
from polytope.bounds.fastlip import fastlip
from polytope.bounds.inputs import InputSet
from polytope.bounds.layers import layer_bounds
from polytope.bounds.recurjac import Backward
from polytope.bounds.recurjac_forward import forward_jacobian

SIZES = (784, 1024, 512, 256, 128, 64, 32, 10)
#: Every so many-th column of a layer is timed in the loop.
SHARE = 8
Pairs = list[tuple[np.ndarray, np.ndarray]]


def pyramid() -> pt.Network:
    rng = np.random.default_rng(0)
    return pt.compile(
        [
            (rng.normal(size=(n, m)) * (2 / m) ** 0.5, 0.1 * rng.normal(size=n))
            for m, n in itertools.pairwise(SIZES)
        ]
    )


def entry(
    W: list[np.ndarray], slopes: Pairs, walls: Pairs, layer: int, j: int, column: np.ndarray,
    upper: bool,
) -> float:  # fmt: skip
    """One entry's bound: the recursion of the paper with vectors over a layer's units."""
    lam, mu = slopes[layer]
    last = layer == len(W) - 2
    L, U = (side[j] for side in ((W[-1], W[-1]) if last else walls[layer + 1]))
    up, down = (mu, lam) if upper else (lam, mu)
    if last:
        product = L * column
        return float(up @ np.maximum(product, 0) + down @ np.minimum(product, 0))
    open_ = (L < 0) & (U > 0) & (lam != mu)
    plus, minus = np.maximum(column, 0), np.minimum(column, 0)
    ahead, behind = (U, L) if upper else (L, U)
    paid = float((mu * (plus * ahead + minus * behind))[open_].sum())
    agree = (column >= 0) == (L >= 0)
    merged = np.where(open_, 0.0, np.where(agree, up, down) * column)
    return paid + entry(W, slopes, walls, layer + 1, j, W[layer + 1] @ merged, upper)


def loop(W: list[np.ndarray], slopes: Pairs, known: Pairs) -> tuple[float, float]:
    """Seconds of the whole loop, and how far its entries are from the known ones."""
    seconds, worst = 0.0, 0.0
    for layer in range(len(W) - 2, -1, -1):
        columns = range(0, W[layer].shape[1], SHARE)
        begin = time.perf_counter()
        found = [
            [
                entry(W, slopes, known, layer, j, W[layer][:, k], upper)
                for upper in (False, True)
                for j in range(SIZES[-1])
            ]
            for k in columns
        ]
        seconds += (time.perf_counter() - begin) * W[layer].shape[1] / len(columns)
        low, high = np.hsplit(np.array(found), 2)
        alive = slice(None) if layer == 0 else ~((slopes[layer - 1][1] == 0)[::SHARE])
        for mine, own in zip(known[layer], (low, high), strict=True):
            worst = max(worst, np.abs(mine[:, ::SHARE].T - own)[alive].max())
    return seconds, worst / max(np.abs(side).max() for side in known[0])


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    work()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def prepared(
    net: pt.Network, radius: float, device: str = "cpu", count: int = 1
) -> tuple[InputSet, Derivatives, torch.Tensor]:
    x = torch.tensor(np.random.default_rng(1).uniform(size=(count, SIZES[0])), device=device)
    sets = InputSet.from_ball(
        x, torch.full((count,), radius, dtype=x.dtype, device=device), math.inf
    )
    eye = torch.eye(SIZES[-1], dtype=x.dtype, device=device)[None]
    return sets, derivatives(layer_bounds(net, sets)), eye


@pytest.mark.parametrize("radius", [1e-4, 1e-3, 5e-3, 0.02, 0.1])
def test_backward_beside_the_loop(radius: float) -> None:
    torch.set_num_threads(1)
    net = pyramid()
    with torch.no_grad():
        _, units, eye = prepared(net, radius)
        mine = seconds(lambda: Backward(net, units, eye).jacobian())
        recursion = Backward(net, units, eye)
        jacobian = recursion.jacobian()
        plain = seconds(lambda: fastlip(net, units, eye))
    slopes, walls = [], [(jacobian.low[0].numpy(), jacobian.high[0].numpy())]
    for number in sorted(units):
        own = units[number]
        assert isinstance(own, Slopes)
        slopes.append((own.low[0].numpy(), own.high[0].numpy()))
        outer = recursion.outer[number]
        walls.append((outer.low[0].numpy(), outer.high[0].numpy()))
    W = [net.graph.constants[node.op.weight] for node in net.graph.nodes
         if type(node.op).__name__ == "Linear"]  # fmt: skip
    theirs, off = loop(W, slopes, walls)
    open_units = sum(int((lam != mu).sum()) for lam, mu in slopes)
    print(
        f"\nradius {radius:g}: {open_units} open units; RecurJac-B {mine:.3f} s, the loop "
        f"{theirs:.1f} s, {theirs / mine:.0f} times; Fast-Lip {plain:.4f} s; entries agree to "
        f"{off:.0e}"
    )
    assert off <= 1e-9
    assert theirs >= 10 * mine


@pytest.mark.parametrize("radius", [1e-3, 0.02])
def test_forwards(radius: float) -> None:
    torch.set_num_threads(1)
    net = pyramid()
    with torch.no_grad():
        _, units, eye = prepared(net, radius)
        f1 = seconds(lambda: forward_jacobian(net, units, eye, True), 1)
        f0 = seconds(lambda: forward_jacobian(net, units, eye, False), 1)
    print(f"\nradius {radius:g}: RecurJac-F1 {f1:.2f} s, RecurJac-F0 {f0:.2f} s")
    assert f1 < 60


DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("widths", [SIZES, (784, *[20] * 10, 10), (64, 32, 32, 10)])
def test_batches(widths: tuple[int, ...], device: str) -> None:
    """A batch of points against as many single ones, from the ball to the bounds."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    net = pt.compile(
        [
            (rng.normal(size=(n, m)) * (2 / m) ** 0.5, 0.1 * rng.normal(size=n))
            for m, n in itertools.pairwise(widths)
        ]
    )
    count = 8 if widths == SIZES else 64
    x = rng.uniform(size=(count, widths[0]))
    balls = [pt.Ball(row, 1e-3, math.inf) for row in x]
    together = seconds(lambda: pt.jacobian_bounds(net, balls, device=device), 2)
    single = seconds(lambda: [pt.jacobian_bounds(net, b, device=device) for b in balls], 1)
    print(
        f"\n{device}, {len(widths) - 1} layers of up to {max(widths[1:])}: {count} points together "
        f"{1e3 * together / count:.1f} ms each, alone {1e3 * single / count:.1f} ms"
    )
