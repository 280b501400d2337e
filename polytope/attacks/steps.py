"""Steps inside an l_p ball met with a box: projection, steepest ascent, sizes, radii."""

from __future__ import annotations

import math

import numpy as np
import torch

from polytope.errors import InputError
from solvers.norms import dual_exponent

#: Halvings of the multiplier in a projection: a step may fall short of the sphere by 1e-9 of it.
HALVINGS = 30
#: Attacks of fixed size keep inside their ball by this part of its radius, so that a distance is
#: within the radius although it is rounded up; far less than the radius itself is known to.
INSIDE = 1e-9


def sizes(step: torch.Tensor, p: float) -> torch.Tensor:
    """l_p norms (m,) of steps (m, d)."""
    norms: torch.Tensor = torch.linalg.vector_norm(step, ord=p, dim=1)
    return norms


def project(
    step: torch.Tensor, radius: torch.Tensor, low: torch.Tensor, high: torch.Tensor, p: float
) -> torch.Tensor:
    """Bring steps into the l_p ball met with the box.

    Parameters
    ----------
    step : tensor (m, d)
    radius : tensor (m,)
    low, high : tensor (m, d)
        The box around the point, ``low <= 0 <= high``.
    p : float

    Returns
    -------
    tensor (m, d)
        The nearest such step in l_2 for p = 1, 2 and inf; for other norms the step is shrunk
        toward 0, which stays in the box.

    Notes
    -----
    For p = 1 and 2 the answer is ``clip(shrink_t(step), low, high)`` with the least multiplier t
    that fits the ball (soft thresholding or division); its size falls with t, so bisection
    finds it.
    """
    bound = radius[:, None]
    inside = step.clamp(low, high)
    if p == math.inf:
        return inside.clamp(-bound, bound)
    size = sizes(inside, p)
    over = size > radius
    if not bool(over.any()):
        return inside
    if p not in (1.0, 2.0):
        return torch.where(
            over[:, None], inside * (radius / size.clamp(min=radius))[:, None], inside
        )
    big = step.abs().amax(dim=1)
    least, most = torch.zeros_like(radius), torch.ones_like(radius)
    for _ in range(HALVINGS):
        middle = (least + most) / 2
        fits = sizes(_shrunk(step, middle, big, p).clamp(low, high), p) <= radius
        most, least = torch.where(fits, middle, most), torch.where(fits, least, middle)
    return torch.where(over[:, None], _shrunk(step, most, big, p).clamp(low, high), inside)


def _shrunk(step: torch.Tensor, t: torch.Tensor, big: torch.Tensor, p: float) -> torch.Tensor:
    """Steps shrunk from t = 0 (not at all) to t = 1 (to nothing)."""
    if p == 2:
        return step * (1 - t)[:, None]
    return step.sign() * (step.abs() - (t * big)[:, None]).clamp(min=0)


def steepest(gradient: torch.Tensor, p: float, keep: torch.Tensor) -> torch.Tensor:
    """Directions of l_p size 1 along which a function grows fastest.

    Parameters
    ----------
    gradient : tensor (m, d)
        Zero where a coordinate cannot move.
    p : float
    keep : tensor (m,)
        For p = 1: how many coordinates share the step (the single steepest alone makes slow,
        jagged progress).

    Returns
    -------
    tensor (m, d)
        Zero where the gradient is.
    """
    if p == math.inf:
        return gradient.sign()
    if p == 1:
        order = gradient.abs().argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        sparse = torch.where(order < keep[:, None], gradient.sign(), 0.0)
        return sparse / sparse.abs().sum(dim=1, keepdim=True).clamp(min=1)
    largest = gradient.abs().amax(dim=1, keepdim=True)
    relative = torch.where(largest > 0, gradient / largest, 0.0)
    direction = relative.sign() * relative.abs() ** (dual_exponent(p) - 1)
    size = sizes(direction, p)[:, None]
    return torch.where(size > 0, direction / size, 0.0)


def ball_radius(eps: float) -> float:
    """The radius to which an attack of fixed size projects: `eps`, less `INSIDE` of it."""
    return float(eps) * (1 - INSIDE)


def positive_size(value: object, name: str) -> None:
    """Refuse what is no positive finite number.

    Raises
    ------
    InputError
        Naming the setting.
    """
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not (number and 0 < value < math.inf):  # type: ignore[operator]
        raise InputError(
            f"{name}: got {value!r}, expected a positive number, in units of the network's input"
        )
