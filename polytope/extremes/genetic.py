"""Gradient distortion of networks of any size: ROLL's genetic algorithm, and its mean by samples.

Lee, Alvarez-Melis, Jaakkola, Towards robust, locally linear deep networks (ICLR 2019), section
5.3 and appendix J.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from polytope.model import Network
from solvers.norms import vector_norm

#: Part of the population that is kept, and the range of the crossover's factor.
KEEP, LEAST, MOST = 0.25, -0.25, 1.25
#: Gradients computed at once.
BLOCK = 2**9


@dataclass(frozen=True, eq=False)
class Gradients:
    """Gradients of one function of the outputs, against the one at a point.

    Attributes
    ----------
    net : Network
    function : float64 (outputs,)
    origin : float64 (d,)
        The gradient at the point.
    r : float
        The norm of the differences.
    """

    net: Network
    function: np.ndarray
    origin: np.ndarray
    r: float

    def distortion(self, points: np.ndarray) -> np.ndarray:
        """``||grad(z) - grad(x)||_r`` of points (n, d), in floats: (n,)."""
        found = []
        for begin in range(0, len(points), BLOCK):
            z = torch.as_tensor(points[begin : begin + BLOCK])
            with torch.enable_grad():
                z = z.reshape(-1, *self.net.input_shape).clone().requires_grad_()
                value = (self.net.forward(z).flatten(1) @ torch.as_tensor(self.function)).sum()
                (gradient,) = torch.autograd.grad(value, z, allow_unused=True)
            flat = torch.zeros_like(z) if gradient is None else gradient
            found.append(vector_norm(flat.flatten(1) - torch.as_tensor(self.origin), self.r))
        return np.asarray(torch.cat(found).numpy())


def evolve(
    gradients: Gradients,
    low: np.ndarray,
    high: np.ndarray,
    population: int,
    epochs: int,
    seed: int,
    halt: Callable[[], bool],
) -> tuple[np.ndarray, np.ndarray]:
    """The last population and the best of all epochs (n, d), and their distortions (n,).

    In each epoch the quarter with the largest distortions stays and the rest becomes ``alpha c +
    (1 - alpha) c'`` of pairs of it, alpha uniform in [-0.25, 1.25], clipped to the box
    [low, high]; there is no mutation.
    """
    rng = np.random.default_rng(seed)
    points = rng.uniform(low, high, (population, len(low)))
    kept = max(2, int(KEEP * population))
    best, size = points[:0], np.zeros(0)
    for epoch in range(epochs + 1):
        found = gradients.distortion(points)
        order = np.argsort(-found, kind="stable")
        top = order[:kept]
        best, size = np.concatenate([best, points[top]]), np.concatenate([size, found[top]])
        first = np.argsort(-size, kind="stable")[:kept]
        best, size = best[first], size[first]
        if epoch == epochs or halt():
            break
        parents = points[top]
        pairs = rng.integers(0, kept, (2, population - kept))
        alpha = rng.uniform(LEAST, MOST, (population - kept, 1))
        children = alpha * parents[pairs[0]] + (1 - alpha) * parents[pairs[1]]
        points = np.concatenate([parents, np.clip(children, low, high)])
    return best, size


def expected(
    gradients: Gradients, low: np.ndarray, high: np.ndarray, samples: int, seed: int
) -> tuple[float, float]:
    """Mean distortion over uniform samples of a box, and the mean's standard error."""
    rng = np.random.default_rng([seed, 1])
    total, square, done = 0.0, 0.0, 0
    while done < samples:
        count = min(BLOCK, samples - done)
        found = gradients.distortion(rng.uniform(low, high, (count, len(low))))
        total, square, done = (
            total + float(found.sum()),
            square + float(found @ found),
            done + count,
        )
    mean = total / done
    spread = max(0.0, square / done - mean * mean)
    return mean, float(np.sqrt(spread / max(1, done - 1)))
