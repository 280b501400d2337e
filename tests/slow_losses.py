"""ROLL and MMR written from their equations: loops over points and units, one gradient each.

Nothing of `polytope.training` is used: pre-activations are read by hooks on the user's module,
each unit's gradient is a reverse pass of its own, and autograd goes through all of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import nn

from solvers.norms import dual_exponent
from solvers.projection import project_to_hyperplane


class Abs(nn.Module):
    """The absolute value, as a layer that hooks can see."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.abs()


class Held:
    """A module in evaluation mode whose BatchNorm statistics are those of one batch.

    They are functions of the parameters, so gradients go through them.
    """

    def __init__(self, model: nn.Module, x: torch.Tensor) -> None:
        self._model = model
        self._statistics: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}
        with self._normalised():
            model(x)

    @contextlib.contextmanager
    def _normalised(self) -> Iterator[None]:
        """While it lasts, BatchNorm layers use the statistics that they first saw."""
        handles = [
            module.register_forward_hook(self._normalise)
            for module in self._model.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _normalise(self, module: Any, args: tuple[torch.Tensor], _: object) -> torch.Tensor:
        (z,) = args
        shape = (1, -1, *(1,) * (z.ndim - 2))
        if module not in self._statistics:
            channels = z.transpose(0, 1).flatten(1)
            mean = channels.mean(1)
            self._statistics[module] = mean, ((channels - mean[:, None]) ** 2).mean(1)
        mean, variance = (t.reshape(shape) for t in self._statistics[module])
        found = (z - mean) / torch.sqrt(variance + module.eps)
        if module.affine:
            found = found * module.weight.reshape(shape) + module.bias.reshape(shape)
        return found

    def modules(self) -> Iterator[nn.Module]:
        return self._model.modules()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        with self._normalised():
            return self._model(x)


Model = nn.Module | Held
KINKED = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Hardtanh, Abs, nn.MaxPool2d, nn.MaxPool1d)


@contextlib.contextmanager
def seen(model: Model) -> Iterator[list[tuple[nn.Module, torch.Tensor]]]:
    """What each activation reads while the model runs, in order."""
    found: list[tuple[nn.Module, torch.Tensor]] = []
    handles = [
        module.register_forward_pre_hook(lambda m, args: found.append((m, args[0])))
        for module in model.modules()
        if isinstance(module, KINKED)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def rows_of(module: nn.Module, z: torch.Tensor) -> list[torch.Tensor]:
    """The rows of one activation at one point that bound its piece, as scalars."""
    if isinstance(module, nn.Hardtanh):
        low, high = module.min_val, module.max_val
        found = []
        for value in z.flatten():
            if value <= high:
                found.append(value - low)
            if value > low:
                found.append(value - high)
        return found
    if isinstance(module, nn.MaxPool2d | nn.MaxPool1d):
        size = module.kernel_size
        planes = z.reshape(-1, *z.shape[-2:]) if isinstance(module, nn.MaxPool2d) else (
            z.reshape(-1, 1, z.shape[-1])
        )  # fmt: skip
        height = size if isinstance(module, nn.MaxPool2d) else 1
        found = []
        for plane in planes:
            tall, wide = plane.shape[0] // height, plane.shape[1] // size
            for i, j in product(range(tall), range(wide)):
                window = plane[height * i : height * (i + 1), size * j : size * (j + 1)].flatten()
                best = window.max()
                found += [value - best for value in window if value != best]
        return found
    return list(z.flatten())


def everything(
    model: Model, x: torch.Tensor
) -> Iterator[tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor, torch.Tensor]]:
    """For each point: its rows, their gradients, its logits, and the logits' gradients."""
    for point in x:
        single = point.unsqueeze(0).clone().requires_grad_()
        with seen(model) as found:
            logits = model(single).flatten()
        rows = [row for module, z in found for row in rows_of(module, z[0])]
        gradients = [gradient_of(row, single) for row in rows]
        if len(logits) == 1:
            logits = torch.stack([0 * logits[0], logits[0]])
        jacobian = torch.stack([gradient_of(logit, single) for logit in logits])
        yield rows, gradients, logits, jacobian


def gradient_of(value: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
    (gradient,) = torch.autograd.grad(value, point, create_graph=True, retain_graph=True,
                                      allow_unused=True)  # fmt: skip
    return torch.zeros(point.numel(), dtype=point.dtype) if gradient is None else gradient.flatten()


def slow_roll(
    model: Model,
    x: torch.Tensor,
    C: float,
    gamma: float | str,
    axes: torch.Tensor | None = None,
) -> torch.Tensor:
    """Eq. 7, 9 and 10."""
    total = x.new_zeros(())
    for rows, gradients, _, _ in everything(model, x):
        losses = []
        for row, gradient in zip(rows, gradients, strict=True):
            square = sum(g * g for g in (gradient if axes is None else gradient[axes]))
            if axes is not None:
                square = square * len(gradient) / len(axes)
            losses.append(square + C * torch.clamp(1 - abs(row), min=0))
        losses.sort(key=torch.Tensor.item, reverse=True)
        count = 1 if gamma == "max" else int(len(losses) * gamma / 100)
        total = total + sum(losses[:count]) / count
    return total / len(x)


def slow_distance(
    row: torch.Tensor,
    gradient: torch.Tensor,
    point: torch.Tensor,
    p: float,
    box: tuple[float, float] | None,
) -> torch.Tensor:
    """The distance to one hyperplane; infinite if there is none in reach."""
    if not gradient.any():
        return torch.tensor(torch.inf, dtype=point.dtype)
    if box is not None:
        low, high = box[0] - point.flatten(), box[1] - point.flatten()
        return project_to_hyperplane(gradient, row, low, high, p, engine="torch").distance
    q = dual_exponent(p)
    size = gradient.abs().max() if q == torch.inf else (gradient.abs() ** q).sum() ** (1 / q)
    return abs(row) / size


def slow_region_margin(
    model: Model, x: torch.Tensor, p: float, box: tuple[float, float] | None = None
) -> torch.Tensor:
    """Eq. 4 of ROLL, the regulariser alone."""
    nearest = []
    for point, (rows, gradients, _, _) in zip(x, everything(model, x), strict=True):
        found = [slow_distance(r, g, point, p, box) for r, g in zip(rows, gradients, strict=True)]
        least = min(found, key=torch.Tensor.item)
        if torch.isfinite(least):
            nearest.append(least)
    return -sum(nearest) / len(nearest)


def slow_mmr(
    model: Model,
    x: torch.Tensor,
    y: torch.Tensor,
    gamma_b: float | None,
    gamma_d: float | None,
    p: float,
    box: tuple[float, float] | None = None,
    k_b: int = 1,
    k_d: int | str = 1,
) -> torch.Tensor:
    """Eq. 5 and 6."""
    total = x.new_zeros(())
    points = zip(x, y.tolist(), everything(model, x), strict=True)
    for point, label, (rows, gradients, logits, jacobian) in points:
        if gamma_b is not None:
            near = [slow_distance(r, g, point, p, box)
                    for r, g in zip(rows, gradients, strict=True)]  # fmt: skip
            near.sort(key=torch.Tensor.item)
            total = total + sum(torch.clamp(1 - d / gamma_b, min=0) for d in near[:k_b]) / k_b
        if gamma_d is not None:
            signed = []
            for s in range(len(logits)):
                if s != label:
                    gap = logits[label] - logits[s]
                    size = slow_distance(gap, jacobian[label] - jacobian[s], point, p, box)
                    signed.append(size if gap >= 0 or not torch.isfinite(size) else -size)
            signed.sort(key=torch.Tensor.item)
            count = len(signed) if k_d == "all" else k_d
            hinges = [torch.clamp(1 - d / gamma_d, min=0) for d in signed[:count]]
            total = total + sum(hinges) / count
    return total / len(x)
