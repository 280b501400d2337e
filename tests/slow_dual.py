"""The dual bound of Wong and Kolter for a sequential module: dense matrices, one unit at a time.

Linear stretches between the activations become matrices by running them on unit vectors.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from solvers.norms import dual_exponent
from tests.slow_losses import Abs

Stretch = tuple[torch.Tensor, torch.Tensor]
ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.PReLU, Abs)


def stretches(
    model: nn.Sequential, shape: tuple[int, ...]
) -> tuple[list[Stretch], list[Callable[[torch.Tensor], torch.Tensor]]]:
    """Matrices and offsets of the linear stretches, and the activations between them."""
    found, acts, run = [], [], list(model)
    part: list[nn.Module] = []
    for module in [*run, None]:
        if module is not None and not isinstance(module, ACTIVATIONS):
            part.append(module)
            continue
        size = int(torch.Size(shape).numel())
        layers = nn.Sequential(*part)
        zero = layers(torch.zeros(1, *shape, dtype=torch.float64))
        columns = [
            (layers(one.reshape(1, *shape)) - zero).flatten()
            for one in torch.eye(size, dtype=torch.float64)
        ]
        found.append((torch.stack(columns, 1), zero.flatten()))
        shape, part = tuple(zero.shape[1:]), []
        if module is not None:
            acts.append(module)
    return found, acts


def slow_margins(
    model: nn.Sequential, point: torch.Tensor, label: int, eps: float, p: float,
    box: tuple[float, float] | None = None,
) -> torch.Tensor:  # fmt: skip
    """Lower bounds of ``f_label - f_k`` in the ball, by Algorithm 1."""
    linear, acts = stretches(model, tuple(point.shape))
    middle, lines = point.flatten(), []

    def least(row: torch.Tensor) -> torch.Tensor:
        """The least value of ``row x`` in the ball."""
        if box is not None:
            low, high = (middle - eps).clamp(min=box[0]), (middle + eps).clamp(max=box[1])
            return sum(r * (a if r > 0 else b) for r, a, b in zip(row, low, high, strict=True))
        q = dual_exponent(p)
        size = row.abs().max() if q == torch.inf else (row.abs() ** q).sum() ** (1 / q)
        return row @ middle - eps * size if row.any() else row @ middle

    def lower(row: torch.Tensor, depth: int) -> torch.Tensor:
        """A lower bound of a function of what activation `depth` reads."""
        total = point.new_zeros(())
        for k in range(depth, -1, -1):
            matrix, offset = linear[k]
            total = total + row @ offset
            row = row @ matrix
            if k:
                passed = []
                for weight, (slope, below, above) in zip(row, lines[k - 1], strict=True):
                    total = total + weight * (below if weight > 0 else above)
                    passed.append(weight * slope)
                row = torch.stack(passed)
        return total + least(row)

    for k, act in enumerate(acts):
        own = []
        for one in torch.eye(len(linear[k][1]), dtype=torch.float64):
            low, high = lower(one, k), -lower(-one, k)
            corners = [low, high] + ([torch.zeros_like(low)] if low < 0 < high else [])
            values = [act(t.reshape(1)).squeeze() for t in corners]
            if not low < high:  # a unit that is the same all over the ball
                own.append(((values[0] / low).detach(), torch.tensor(0.0), torch.tensor(0.0)))
                continue
            slope = (values[1] - values[0]) / (high - low)
            gaps = [v - slope * t for t, v in zip(corners, values, strict=True)]
            own.append((slope, min(gaps), max(gaps)))
        lines.append(own)
    classes = len(linear[-1][1])
    rows = torch.eye(classes, dtype=torch.float64) if classes > 1 else torch.tensor([[0.0], [1.0]])
    rows = rows.double()
    return torch.stack([lower(rows[label] - row, len(acts)) for row in rows])
