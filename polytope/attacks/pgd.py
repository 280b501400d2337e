"""Projected gradient descent with restarts, and a bisection on the radius.

Madry et al. (ICLR 2018), on the margin between classes; each restart but the first aims at a
class of its own (the multi-targeted attack of Gowal et al., 2019).  In l_1 the steps are
sparse, as in Croce and Hein, "Mind the box" (ICML 2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from polytope.attacks.attack import Attack
from polytope.attacks.steps import project, sizes, steepest
from polytope.attacks.task import Task
from polytope.inputs import positive_int
from solvers.norms import dual_exponent

#: First and last step of an ascent, relative to the radius; geometric in between.
FIRST_STEP, LAST_STEP = 0.5, 0.01
#: Growth of the radius while nothing is found, and shrinkage below the nearest found.
GROWTH = 4.0
#: Halvings of the way from a point to the nearest found, at the end.
HALVINGS = 20
#: In l_1, the restarts spread their steps over from one coordinate to this part of all.
SPREAD = 0.2


@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient descent in balls whose radius is bisected.

    Parameters
    ----------
    steps : int
        Gradient steps of one ascent.
    restarts : int
        Ascents side by side in each ball: the first from the nearest witness so far, the
        others from random points of the ball.
    rounds : int
        Balls tried for each point.

    Raises
    ------
    InputError
        If one of them is no whole number of at least 1.
    """

    steps: int = 40
    restarts: int = 5
    rounds: int = 10

    def __post_init__(self) -> None:
        for name in ("steps", "restarts", "rounds"):
            positive_int(getattr(self, name), name)

    def copies(self) -> int:
        """Points evaluated at once for each point attacked."""
        return self.restarts

    def propose(self, task: Task) -> np.ndarray:
        """Candidates (n, d): the nearest adversarial iterates."""
        low, high = task.limits()
        reach = sizes(torch.maximum(-low, high), task.p)
        best = torch.full_like(low, torch.nan)
        least = torch.zeros_like(reach)
        nearest = torch.full_like(reach, math.inf)
        radius = torch.minimum(2 * linear_estimate(task), reach)
        generators, order = task.generators(), rival_order(task)
        open_rows = torch.arange(len(task), device=low.device)
        for _ in range(self.rounds):
            if task.expired or not len(open_rows):
                break
            at = open_rows
            size, step = self._ascend(task, at, radius[at], best[at], low, high, order, generators)
            nearer = size < nearest[at]
            nearest[at[nearer]], best[at[nearer]] = size[nearer], step[nearer]
            least[at] = torch.where(size <= radius[at], least[at], radius[at])
            hopeless = (least >= reach) & torch.isinf(nearest)
            larger = torch.minimum(GROWTH * radius, reach)
            radius = torch.where(torch.isinf(nearest), larger, (least + nearest) / 2)
            open_rows = (~hopeless).nonzero().flatten()
        return np.asarray((task.x.flatten(1) + _drawn_in(task, best)).cpu().numpy())

    def _ascend(
        self,
        task: Task,
        at: torch.Tensor,
        radius: torch.Tensor,
        start: torch.Tensor,
        low: torch.Tensor,
        high: torch.Tensor,
        order: torch.Tensor,
        generators: list[np.random.Generator],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Smallest adversarial steps of the points `at` in their balls: sizes and steps.

        The size is inf where none was found.
        """
        p, d = task.p, low.shape[1]
        noise = [generators[i].uniform(-1, 1, (self.restarts, d)) for i in at.tolist()]
        rows = at.repeat_interleave(self.restarts)
        rank = torch.arange(self.restarts, device=at.device).repeat(len(at))
        bound = radius.repeat_interleave(self.restarts)
        low, high = low[rows], high[rows]
        step = torch.as_tensor(np.concatenate(noise), device=at.device) * bound[:, None]
        first = torch.nan_to_num(start).repeat_interleave(self.restarts, 0)
        step = project(torch.where(rank[:, None] == 0, first, step), bound, low, high, p)
        aims = order[rows].gather(1, (rank[:, None] - 1).clamp(min=0) % order.shape[1])
        keep = (
            (SPREAD * d) ** (rank / max(self.restarts - 1, 1)) if SPREAD * d > 1 else rank * 0 + 1
        )
        points = task.x.flatten(1)[rows]
        size = torch.full_like(bound, math.inf)
        best = torch.full_like(step, torch.nan)
        for k in range(self.steps + 1):
            with torch.enable_grad():
                z = (points + step).requires_grad_()
                leads = task.leads(z, rows)
                top = leads.max(dim=1).values
                lead = torch.where(rank == 0, top, leads.gather(1, aims).squeeze(1))
                (gradient,) = torch.autograd.grad(lead.sum(), z)
            now = sizes(step, p)
            nearer = (top.detach() >= 0) & (now < size)
            size, best[nearer] = torch.where(nearer, now, size), step[nearer]
            if k == self.steps or task.expired:
                break
            stuck = ((gradient > 0) & (step >= high)) | ((gradient < 0) & (step <= low))
            length = bound * FIRST_STEP * (LAST_STEP / FIRST_STEP) ** (k / self.steps)
            move = steepest(gradient.masked_fill(stuck, 0.0), p, keep)
            step = project(step + length[:, None] * move, bound, low, high, p)
        table = size.reshape(len(at), -1)
        chosen = table.argmin(dim=1)
        pick = torch.arange(len(at), device=at.device) * self.restarts + chosen
        return table.gather(1, chosen[:, None]).squeeze(1), best[pick]


def linear_estimate(task: Task) -> torch.Tensor:
    """Distance (n,) at which the decision would change, were the network affine and no box.

    Where the gradient is zero, the largest of the other points, or 1: only a scale to start.
    """
    points = task.x.flatten(1)
    rows = torch.arange(len(points), device=points.device)
    with torch.enable_grad():
        z = points.clone().requires_grad_()
        lead = task.leads(z, rows).max(dim=1).values
        (gradient,) = torch.autograd.grad(lead.sum(), z)
    found = -lead.detach() / sizes(gradient, dual_exponent(task.p))
    usable = torch.isfinite(found) & (found > 0)
    other = float(found[usable].max()) if bool(usable.any()) else 1.0
    return torch.where(usable, found, other)


def rival_order(task: Task) -> torch.Tensor:
    """The classes that count for each point (n, k), the nearest to its decision first."""
    rows = torch.arange(len(task), device=task.x.device)
    leads = task.leads(task.x.flatten(1), rows)
    counted = int(torch.isfinite(leads[0]).sum()) if len(leads) else 1
    return leads.argsort(dim=1, descending=True)[:, :counted]


def _drawn_in(task: Task, step: torch.Tensor) -> torch.Tensor:
    """Shorten adversarial steps (n, d) while they stay adversarial; NaN where there is none."""
    rows = torch.isfinite(step).all(dim=1).nonzero().flatten()
    points, far = task.x.flatten(1)[rows], step[rows]
    least, most = torch.zeros(len(rows)).to(far), torch.ones(len(rows)).to(far)
    for _ in range(HALVINGS if len(rows) else 0):
        middle = (least + most) / 2
        with torch.no_grad():
            over = (task.leads(points + middle[:, None] * far, rows) >= 0).any(dim=1)
        most, least = torch.where(over, middle, most), torch.where(over, least, middle)
    result = torch.full_like(step, torch.nan)
    result[rows] = most[:, None] * far
    return result
