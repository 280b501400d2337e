"""An attack on one part of a property: corners, random points, projected gradients, in one batch.

It proves nothing: what it finds is checked like every other witness.
"""

from __future__ import annotations

import itertools
import time

import numpy as np
import torch

from polytope.model import Network
from polytope.verification.property import Unsafe

#: Points attacked side by side, where memory allows.
POINTS = 256
#: Numbers of the widest node that a batch may hold.
NUMBERS = 2**22
#: Inputs up to which all corners are among the first points.
CORNERS = 6
#: Gradient steps; their lengths fall from the first to the last part of the box's width.
STEPS, FIRST, LAST = 30, 0.25, 0.002
#: Steps more after the first unsafe point, so that it is not unsafe by rounding alone.
DEEPER = 4


def attack(net: Network, unsafe: Unsafe, seed: int, deadline: float) -> tuple[np.ndarray, float]:
    """The point that is found deepest in the unsafe set.

    Parameters
    ----------
    net : Network
    unsafe : Unsafe
    seed : int
    deadline : float
        Of `time.perf_counter`.

    Returns
    -------
    point : float64 (d,)
    margin : float
        The largest of ``A y - b`` there, in float64: at most 0 where it is unsafe.
    """
    starts = _starts(net, unsafe, np.random.default_rng(seed))
    return descend(net, unsafe, starts, FIRST, deadline)


def descend(
    net: Network, unsafe: Unsafe, starts: np.ndarray, first: float, deadline: float
) -> tuple[np.ndarray, float]:
    """Projected gradient steps on the margin from some points (n, d); as `attack` returns."""
    box = unsafe.box
    low, high = torch.as_tensor(box.low.copy()), torch.as_tensor(box.high.copy())
    A, b = torch.as_tensor(unsafe.A), torch.as_tensor(unsafe.b)
    x = torch.as_tensor(starts)
    best, best_margin, left = starts[0], np.inf, STEPS
    for step in range(STEPS + 1):
        x = x.detach().requires_grad_(step < STEPS)
        margins = _margins(net, x, A, b)
        deepest = int(margins.argmin())
        if float(margins[deepest].detach()) < best_margin:
            best_margin = float(margins[deepest].detach())
            best = x[deepest].detach().numpy().copy()
        if best_margin <= 0:
            left = min(left, DEEPER)
        if left == 0 or step == STEPS or time.perf_counter() >= deadline:
            break
        left -= 1
        (gradient,) = torch.autograd.grad(margins.sum(), x)
        length = first * (LAST / first) ** (step / (STEPS - 1))
        moved = x.detach() - length * (high - low) * gradient.sign()
        x = torch.minimum(torch.maximum(moved, low), high)
    return best, best_margin


def _margins(net: Network, x: torch.Tensor, A: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The largest of ``A y - b`` at each point (n,); without rows every point is unsafe."""
    outputs = net.forward(x.reshape(len(x), *net.input_shape)).flatten(1)
    if not len(b):
        return 0.0 * outputs.sum(dim=1)
    return (outputs @ A.T - b).amax(dim=1)


def _starts(net: Network, unsafe: Unsafe, rng: np.random.Generator) -> np.ndarray:
    """The middle, corners, and random points of the box: (n, d)."""
    box, d = unsafe.box, net.input_size
    widest = max(node.size for node in net.graph.nodes)
    count = int(np.clip(NUMBERS // widest, 4, POINTS))
    if d <= CORNERS:
        corners = np.array(list(itertools.product([0.0, 1.0], repeat=d)))
    else:
        corners = rng.integers(0, 2, (count // 4, d)).astype(np.float64)
    inner = rng.uniform(size=(max(count - len(corners) - 1, 1), d))
    parts = np.concatenate([np.full((1, d), 0.5), corners, inner])[:count]
    return np.asarray(np.clip(box.low + parts * (box.high - box.low), box.low, box.high))
