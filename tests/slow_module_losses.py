"""The losses that run a module, point by point and coordinate by coordinate from the equations."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from tests.slow_losses import Model, gradient_of

Value = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]


def logits_of(model: Model, point: torch.Tensor) -> torch.Tensor:
    """The logits of one point; a single one f is (0, f)."""
    logits = model(point.unsqueeze(0)).flatten()
    return torch.stack([0 * logits[0], logits[0]]) if len(logits) == 1 else logits


def probabilities(logits: torch.Tensor) -> list[torch.Tensor]:
    powers = [torch.exp(logit - logits.max()) for logit in logits]
    return [power / sum(powers) for power in powers]


def entropy(model: Model, point: torch.Tensor, label: int) -> torch.Tensor:
    return -torch.log(probabilities(logits_of(model, point))[label])


def tangent(model: Model, point: torch.Tensor, label: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The cross entropy and its gradient."""
    here = point.clone().requires_grad_()
    value = entropy(model, here, label)
    return value, gradient_of(value, here).reshape(point.shape)


def slow_llr_parts(
    model: Model, point: torch.Tensor, label: int, delta: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Eq. 5 of LLR, and the predicted change."""
    value, slope = tangent(model, point, label)
    change = sum(d * s for d, s in zip(delta.flatten(), slope.flatten(), strict=True))
    return abs(entropy(model, point + delta, label) - value - change), abs(change)


def slow_llr(
    model: Model, x: torch.Tensor, y: torch.Tensor, delta: torch.Tensor, lam: float, mu: float
) -> torch.Tensor:
    """Eq. 8 without the task."""
    total = x.new_zeros(())
    for point, label, moved in zip(x, y.tolist(), delta, strict=True):
        violation, change = slow_llr_parts(model, point, label, moved)
        total = total + lam * violation + mu * change
    return total / len(x)


def into_ball(
    delta: torch.Tensor, point: torch.Tensor, eps: float, p: float,
    box: tuple[float, float] | None,
) -> torch.Tensor:  # fmt: skip
    """One perturbation brought into the ball, then into the box."""
    if p == math.inf:
        edge = torch.tensor(eps, dtype=delta.dtype)
        delta = torch.minimum(torch.maximum(delta, -edge), edge)
    elif math.sqrt(sum(d * d for d in delta.flatten().tolist())) > eps:
        delta = eps * delta / math.sqrt(sum(d * d for d in delta.flatten().tolist()))
    if box is not None:
        delta = torch.minimum(torch.maximum(point + delta, torch.tensor(box[0]).double()),
                              torch.tensor(box[1]).double()) - point  # fmt: skip
    return delta


def drawn(
    x: torch.Tensor, seed: int, eps: float, p: float, box: tuple[float, float] | None
) -> torch.Tensor:
    """Starts drawn uniformly from the ball, in the documented order of draws."""
    generator = torch.Generator().manual_seed(seed)
    if p == math.inf:
        noise = eps * (2 * torch.rand(x.shape, generator=generator, dtype=x.dtype) - 1)
    else:
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        radii = torch.rand((len(x), 1), generator=generator, dtype=x.dtype)
        for i, radius in enumerate(radii.flatten().tolist()):
            noise[i] *= eps * radius ** (1 / x[0].numel()) / noise[i].square().sum().sqrt()
    return torch.stack([into_ball(d, z, eps, p, box) for d, z in zip(noise, x, strict=True)])


def slow_adam_ascent(
    model: Model, x: torch.Tensor, y: torch.Tensor, start: torch.Tensor, steps: int, rate: float,
    eps: float, p: float, box: tuple[float, float] | None,
) -> torch.Tensor:  # fmt: skip
    """Algorithm 1 of LLR, steps 5 to 9, with Adam written out."""
    found = []
    for point, label, begin in zip(x, y.tolist(), start, strict=True):
        delta, first, second = begin.clone(), torch.zeros_like(begin), torch.zeros_like(begin)
        for t in range(1, steps + 1):
            here = delta.clone().requires_grad_()
            value, slope = tangent(model, point, label)
            gap = entropy(model, point + here, label) - value.detach() - (
                here * slope.detach()).sum()  # fmt: skip
            gradient = gradient_of(abs(gap), here).reshape(point.shape).detach()
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            move = (first / (1 - 0.9**t)) / (torch.sqrt(second / (1 - 0.999**t)) + 1e-8)
            delta = into_ball(delta + rate * move, point, eps, p, box)
        found.append(delta)
    return torch.stack(found)


def slow_pgd(
    value: Callable[[torch.Tensor, int], torch.Tensor], x: torch.Tensor, start: torch.Tensor,
    steps: int, eps: float, p: float, box: tuple[float, float] | None,
) -> torch.Tensor:  # fmt: skip
    """Projected gradient ascent with steps of 2 eps / steps; value(moved point, row)."""
    found = []
    for i, (point, begin) in enumerate(zip(x, start, strict=True)):
        delta = begin.clone()
        for _ in range(steps):
            here = (point + delta).requires_grad_()
            gradient = gradient_of(value(here, i), here).reshape(point.shape).detach()
            move = gradient.sign() if p == math.inf else gradient / gradient.square().sum().sqrt()
            delta = into_ball(delta + 2 * eps / steps * move, point, eps, p, box)
        found.append(delta)
    return torch.stack(found)


def slow_entropy(model: Model, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return sum(entropy(model, z, k) for z, k in zip(x, y.tolist(), strict=True)) / len(x)


def slow_divergence(model: Model, clean: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
    """The Kullback-Leibler divergence of the predictions at two points."""
    p, q = probabilities(logits_of(model, clean)), probabilities(logits_of(model, moved))
    return sum(a * torch.log(a / b) for a, b in zip(p, q, strict=True))


def slow_trades(
    model: Model, x: torch.Tensor, y: torch.Tensor, delta: torch.Tensor, beta: float
) -> torch.Tensor:
    apart = sum(slow_divergence(model, z, z + d) for z, d in zip(x, delta, strict=True))
    return slow_entropy(model, x, y) + beta * apart / len(x)


def slow_cure(model: Model, x: torch.Tensor, y: torch.Tensor, h: float) -> torch.Tensor:
    total = x.new_zeros(())
    for point, label in zip(x, y.tolist(), strict=True):
        _, slope = tangent(model, point, label)
        signs = slope.detach().sign()
        _, turned = tangent(model, point + h * signs / math.sqrt(max(1, signs.abs().sum())), label)
        total = total + ((turned - slope) ** 2).sum()
    return total / len(x)


def slow_cross_lipschitz(model: Model, x: torch.Tensor) -> torch.Tensor:
    total = x.new_zeros(())
    for point in x:
        here = point.clone().requires_grad_()
        gradients = [gradient_of(logit, here) for logit in logits_of(model, here)]
        total = total + sum(
            ((a - b) ** 2).sum() for a in gradients for b in gradients
        ) / len(gradients) ** 2  # fmt: skip
    return total / len(x)
