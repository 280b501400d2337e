"""The perturbations that a loss counts with: an l_2 or l_inf ball around each point, in a box."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from polytope.errors import InputError
from polytope.inputs import as_norm, require_inside
from polytope.sets import BoxLike, as_box
from solvers.norms import NormLike


@dataclass(frozen=True, eq=False)
class Perturbations:
    """The perturbations of a batch.

    Attributes
    ----------
    radius : float
        At least 0.
    p : float
        2 or inf.
    low, high : tensor (batch, *input_shape), or None
        The box minus the points.
    """

    radius: float
    p: float
    low: torch.Tensor | None
    high: torch.Tensor | None

    def project(self, delta: torch.Tensor) -> torch.Tensor:
        """Bring perturbations (batch, *input_shape) into the ball, and then into the box.

        The box holds the points, so the second step makes no perturbation longer. For l_inf it
        is the nearest point of both, as for l_2 without a box.
        """
        if self.p == math.inf:
            delta = delta.clamp(-self.radius, self.radius)
        else:
            sizes = _sizes(delta)
            shrunk = delta * (self.radius / sizes.clamp(min=torch.finfo(delta.dtype).tiny))
            delta = torch.where(sizes > self.radius, shrunk, delta)
        return delta if self.low is None else delta.clamp(self.low, self.high)

    def drawn(self, x: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """Perturbations drawn uniformly from the ball, and then brought into the box."""
        if self.p == math.inf:
            noise = 2 * _random(torch.rand, x, generator) - 1
        else:
            noise = _random(torch.randn, x, generator)
            size = _random(torch.rand, x.flatten(1)[:, :1], generator) ** (1 / x[0].numel())
            noise = noise / _sizes(noise) * size.reshape(-1, *(1,) * (x.ndim - 1))
        return self.project(self.radius * noise)

    def steepest(self, gradient: torch.Tensor) -> torch.Tensor:
        """Steps of size 1 along which a function grows fastest; 0 where the gradient is."""
        if self.p == math.inf:
            return gradient.sign()
        largest = gradient.flatten(1).abs().amax(1).reshape(-1, *(1,) * (gradient.ndim - 1))
        relative = gradient / torch.where(largest > 0, largest, torch.ones_like(largest))
        return relative / _sizes(relative).clamp(min=1.0)


def perturbations_around(
    x: torch.Tensor, radius: float, p: NormLike, box: BoxLike
) -> Perturbations:
    """The perturbations of points (batch, *input_shape).

    Raises
    ------
    InputError
        If a point is outside the box.
    """
    found = as_box(box, x[0].numel())
    if found is None:
        return Perturbations(radius, as_norm(p), None, None)
    require_inside(x, found)
    low, high = (
        torch.as_tensor(side.copy(), dtype=x.dtype, device=x.device).reshape(x.shape[1:]) - x
        for side in (found.low, found.high)
    )
    # A point on the box in float64 may be beyond it by a rounding of its own dtype.
    return Perturbations(radius, as_norm(p), low.clamp(max=0), high.clamp(min=0))


def as_ball_norm(p: NormLike, what: str) -> float:
    """The norm of a ball that can be projected on in closed form.

    Raises
    ------
    InputError
        For anything but 2 and inf.
    """
    exponent = as_norm(p)
    if exponent not in (2.0, math.inf):
        raise InputError(f"{what}: p: got {p!r}, expected 2 or 'inf'")
    return exponent


def _sizes(delta: torch.Tensor) -> torch.Tensor:
    """l_2 norms of perturbations: (batch, 1, ...)."""
    sizes: torch.Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
    return sizes.reshape(-1, *(1,) * (delta.ndim - 1))


def _random(draw: object, like: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Numbers drawn on the CPU, so that a seed gives the same on every device."""
    assert callable(draw)
    found: torch.Tensor = draw(like.shape, generator=generator, dtype=like.dtype)
    return found.to(like.device)
