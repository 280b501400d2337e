"""The attack of Carlini and Wagner, "Towards evaluating the robustness of neural networks" (2017).

Adam on ``|z - x|_2^2 + c max(lead of the label, 0)``, with c found by bisection.  In coordinates
with two finite bounds z is a tanh, so that it stays in the box; the others are free.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from polytope.attacks.attack import Attack
from polytope.attacks.pgd import linear_estimate
from polytope.attacks.steps import sizes
from polytope.attacks.task import Task
from polytope.errors import InputError
from polytope.inputs import positive_int

#: How far from the ends of the box a tanh starts, relative to its half width: at the ends
#: themselves it has no gradient (the authors' value).
EDGE = 1e-6
#: Factor on c while nothing is found.
GROWTH = 10.0


@dataclass(frozen=True)
class CarliniWagner(Attack):
    """Carlini and Wagner's attack; it minimises the l_2 distance, and takes p = 2 alone.

    Parameters
    ----------
    steps : int
        Steps of Adam for each value of c.
    searches : int
        Values of c tried for each point.
    rate : float
        Adam's rate: in the tanh's argument, and in free coordinates relative to the distance of
        an affine network.

    Raises
    ------
    InputError
        If a number is not positive.
    """

    steps: int = 200
    searches: int = 9
    rate: float = 0.05

    def __post_init__(self) -> None:
        positive_int(self.steps, "steps")
        positive_int(self.searches, "searches")
        if not 0 < self.rate < math.inf:
            raise InputError(f"rate: got {self.rate!r}, expected a positive number such as 0.05")

    def check(self, p: float) -> None:
        """Refuse norms other than l_2."""
        if p != 2:
            raise InputError(
                f"CarliniWagner: got p={p:g}, but it minimises the l_2 distance; pass p=2, or use "
                "PGD or LinearRegion"
            )

    def propose(self, task: Task) -> np.ndarray:
        """Candidates (n, d): the nearest adversarial iterates."""
        points = task.x.flatten(1)
        variables = _Variables.around(task)
        estimate = linear_estimate(task)
        lead = self._margins(task, points)
        # An affine network needs c to be twice its squared distance over its lead: begin above.
        c = 4 * estimate**2 / (-lead).clamp(min=torch.finfo(lead.dtype).tiny)
        least, most = torch.zeros_like(c), torch.full_like(c, math.inf)
        best, nearest = torch.full_like(points, torch.nan), torch.full_like(c, math.inf)
        for _ in range(self.searches):
            if task.expired:
                break
            size, z = self._descend(task, variables, c, estimate)
            nearer, found = size < nearest, torch.isfinite(size)
            nearest, best[nearer] = torch.where(nearer, size, nearest), z[nearer]
            most, least = torch.where(found, c, most), torch.where(found, least, c)
            c = torch.where(torch.isfinite(most), (least + most) / 2, GROWTH * c)
        return np.asarray(best.cpu().numpy())

    def _descend(
        self, task: Task, variables: _Variables, c: torch.Tensor, estimate: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Smallest adversarial iterates for given c: distances (inf where none) and points."""
        points = task.x.flatten(1)
        free = variables.start.clone().requires_grad_()
        optimiser = torch.optim.Adam([free], lr=self.rate)
        size = torch.full_like(c, math.inf)
        best = torch.full_like(points, torch.nan)
        scale = estimate[:, None]
        for _ in range(self.steps):
            with torch.enable_grad():
                z = variables.point(free, points, scale)
                lead = self._margins(task, z)
                step = z - points
                loss = ((step**2).sum(dim=1) + c * (-lead).clamp(min=0)) / estimate**2
                optimiser.zero_grad()
                loss.sum().backward()  # type: ignore[no-untyped-call]
            now = sizes(step.detach(), 2)
            nearer = (lead.detach() >= 0) & (now < size)
            size, best[nearer] = torch.where(nearer, now, size), z.detach()[nearer]
            optimiser.step()
            if task.expired:
                break
        return size, best

    @staticmethod
    def _margins(task: Task, z: torch.Tensor) -> torch.Tensor:
        """The highest lead over the label at each point."""
        rows = torch.arange(len(z), device=z.device)
        return task.leads(z, rows).max(dim=1).values


@dataclass(frozen=True)
class _Variables:
    """The change of variables: z = middle + half tanh(w) where the box is closed, else x + w."""

    closed: torch.Tensor
    middle: torch.Tensor
    half: torch.Tensor
    start: torch.Tensor

    @classmethod
    def around(cls, task: Task) -> _Variables:
        points = task.x.flatten(1)
        low, high = (points + side for side in task.limits())
        closed = torch.isfinite(low) & torch.isfinite(high)
        middle = torch.where(closed, (low + high) / 2, 0.0)
        half = torch.where(closed, (high - low) / 2, 0.0)
        wide = torch.where(half > 0, half, 1.0)
        inside = ((points - middle) / wide).clamp(EDGE - 1, 1 - EDGE)
        start = torch.where(closed, torch.atanh(torch.where(closed, inside, 0.0)), 0.0)
        return cls(closed, middle, half, start)

    def point(self, free: torch.Tensor, points: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """The points that the variables stand for."""
        return torch.where(
            self.closed, self.middle + self.half * torch.tanh(free), points + scale * free
        )
