"""Batched torch rows of `solvers.projection`, for any device; and what both engines share.

The laws are those of the compiled engine: a Newton step for all unfinished rows at once for
p > 1, sorting for p = 1.
"""

from __future__ import annotations

import math
from enum import IntEnum

import torch
from torch import Tensor

from solvers.norms import vector_norm

# A sum of d non-negative products carries a relative error below (d + 1) ulp; a reach that falls
# short of |residual| by no more than twice that (and 4 for short rows) is counted as equal.
REACH_SLACK_ULP = 2.0
# Weights beyond 2^+-900 are moved by the exact factor 2^-+100 so that their sums neither
# overflow nor fall among the subnormal numbers.
FAR_EXPONENT = 900
SHIFT_EXPONENT = 100
LARGEST = torch.finfo(torch.float64).max


class ProjectionStatus(IntEnum):
    """What `Projection.status` says of a row."""

    OPTIMAL = 0  # distance is attained at delta
    ON_PLANE = 1  # the residual is 0: distance 0, delta 0, gradient 0
    UNREACHABLE = 2  # the box does not meet the hyperplane (or only beyond the largest float)
    ZERO_NORMAL = 3  # w = 0 is no hyperplane: distance 0 if the residual is 0, else infinite


def weights_and_room(
    normal: Tensor, sign: Tensor, lower: Tensor, upper: Tensor
) -> tuple[Tensor, Tensor]:
    """Return a = |w| and the room c of each coordinate in the direction that lowers |r|."""
    downward = sign.unsqueeze(-1) * normal > 0
    return normal.abs(), torch.where(downward, -lower, upper)


def torch_rows(
    w: Tensor, r: Tensor, lower: Tensor, upper: Tensor, p: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Solve rows (n, d) in float64; return distance, multiplier, status and delta."""
    sign = torch.where(r > 0, 1.0, -1.0).to(r)
    a, c = weights_and_room(w, sign, lower, upper)
    candidate = (a > 0) & (c > 0)
    a = torch.where(candidate, a, 0.0)
    _, exponent = torch.frexp(a.amax(-1))
    shift = torch.where(exponent > FAR_EXPONENT, 2.0**-SHIFT_EXPONENT, 1.0).to(r)
    shift = torch.where(exponent < -FAR_EXPONENT, 2.0**SHIFT_EXPONENT, shift)
    a, goal = a * shift.unsqueeze(-1), r.abs() * shift
    reach = torch.where(candidate, a * c, 0.0).sum(-1)
    slack = (REACH_SLACK_ULP * w.shape[-1] + 4.0) * torch.finfo(r.dtype).eps
    moving = (goal > 0) & (reach >= goal * (1.0 - slack)) & candidate.any(-1)
    candidate &= moving.unsqueeze(-1)
    a, c = torch.where(candidate, a, 0.0), torch.where(candidate, c, 0.0)
    goal = torch.where(moving, goal, 0.0)
    if p == 1.0:
        m, price = _knapsack(a, c, goal)
        distance = vector_norm(m, p)
    else:
        m, free = _newton(a, c, goal, p)
        distance = vector_norm(m, p)
        price = _price(a, c, m, free, distance, p)
    solved = moving & torch.isfinite(distance)
    on_plane = r == 0
    unsolved = torch.where(on_plane, 0.0, math.inf).to(r)
    distance = torch.where(solved, distance, unsolved)
    multiplier = sign * torch.where(solved, shift / price, unsolved)
    status = torch.where(on_plane, ProjectionStatus.ON_PLANE, ProjectionStatus.UNREACHABLE)
    status = torch.where(solved, ProjectionStatus.OPTIMAL, status)
    status = torch.where((w != 0).any(-1), status, ProjectionStatus.ZERO_NORMAL)
    delta = torch.where(sign.unsqueeze(-1) * w > 0, -m, m)
    delta = torch.where((distance == math.inf).unsqueeze(-1), math.nan, delta)
    return distance, multiplier, status.to(torch.int8), delta


def _knapsack(a: Tensor, c: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    """Return m, filled by descending weight (p = 1), and the marginal weight."""
    weight, order = a.sort(dim=-1, descending=True, stable=True)
    cap = c.gather(-1, order)
    scale = torch.where(goal > 0, goal, 1.0).unsqueeze(-1)
    share = (weight * cap / scale).clamp(max=1.0)
    before = torch.nn.functional.pad(share.cumsum(-1), (1, 0))[:, :-1]
    take = torch.minimum(share, (1.0 - before).clamp(min=0.0))
    fill = torch.minimum(cap, take * scale / torch.where(weight > 0, weight, 1.0))
    used = (before < 1.0) & (weight > 0)
    last = (used.sum(-1, keepdim=True) - 1).clamp(min=0)
    return torch.zeros_like(a).scatter(-1, order, fill), weight.gather(-1, last).squeeze(-1)


def _newton(a: Tensor, c: Tensor, goal: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Return m (p > 1) and which coordinates stay below their caps."""
    m, below = c.clone(), torch.zeros_like(c, dtype=torch.bool)
    rows = torch.arange(len(a), device=a.device)
    free, used = a > 0, torch.zeros_like(goal)
    while len(rows):
        weight = torch.where(free, a, 0.0)
        reference = weight.amax(-1)
        reference = torch.where(reference > 0, reference, 1.0)
        ratio = weight / reference.unsqueeze(-1)
        g = free.to(a) if p == math.inf else ratio if p == 2.0 else ratio ** (1.0 / (p - 1.0))
        slope = (ratio * g).sum(-1)
        step = (goal - used).clamp(min=0.0) / reference / torch.where(slope > 0, slope, 1.0)
        reached = step.clamp(max=LARGEST).unsqueeze(-1) * g
        full = free & (c <= reached)
        open_ = full.any(-1)
        done = ~open_
        reached = torch.where((step >= LARGEST).unsqueeze(-1) & (g > 0), math.inf, reached)
        m[rows[done]] = torch.where(free, reached, c)[done]
        below[rows[done]] = free[done]
        used = used + torch.where(full, a * c, 0.0).sum(-1)
        free = (free & ~full)[open_]
        rows, a, c, goal, used = rows[open_], a[open_], c[open_], goal[open_], used[open_]
    return m, below


def _price(a: Tensor, c: Tensor, m: Tensor, free: Tensor, distance: Tensor, p: float) -> Tensor:
    """Return the residual that one more unit of distance removes (p > 1), 1 / |multiplier|."""
    size = distance.unsqueeze(-1)
    if p == math.inf:
        return torch.where(c >= size, a, 0.0).sum(-1)
    each = a / (m / torch.where(size > 0, size, 1.0)) ** (p - 1.0)
    rated = free & (m > 0)
    heaviest = torch.where(rated, a, -1.0).argmax(-1, keepdim=True)
    capped = torch.where(m > 0, each, math.inf).amin(-1)
    return torch.where(rated.any(-1), each.gather(-1, heaviest).squeeze(-1), capped)
