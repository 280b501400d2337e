"""DeepFool: Moosavi-Dezfooli et al. (CVPR 2016), steps to the nearest linearised decision."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from polytope.attacks.attack import Attack
from polytope.attacks.pgd import rival_order
from polytope.attacks.steps import sizes, steepest
from polytope.attacks.task import Task
from polytope.errors import InputError
from polytope.inputs import positive_int
from solvers.norms import dual_exponent


@dataclass(frozen=True)
class DeepFool(Attack):
    """Steps to the nearest decision hyperplane of the network's linearisation; every norm.

    It minimises the distance, so it takes no radius. Coordinates at the end of the box do not
    count in a step that would lead out of it.

    Parameters
    ----------
    steps : int
        Linearisations.
    overshoot : float
        The sum of the steps is lengthened by this part: the paper's 0.02.
    classes : int
        Only so many other classes are looked at, those highest at the point: 9 in the paper
        (the ten highest, the label among them).

    Raises
    ------
    InputError
        If a number is not positive, or the overshoot is negative.
    """

    steps: int = 50
    overshoot: float = 0.02
    classes: int = 9

    def __post_init__(self) -> None:
        positive_int(self.steps, "steps")
        positive_int(self.classes, "classes")
        given = self.overshoot
        number = isinstance(given, int | float | np.number) and not isinstance(given, bool)
        if not (number and 0 <= given < math.inf):
            raise InputError(f"overshoot: got {given!r}, expected a number of at least 0")

    def propose(self, task: Task) -> np.ndarray:
        """Candidates (n, d): the first adversarial iterate of each point."""
        points, (low, high) = task.x.flatten(1), task.limits()
        order = rival_order(task)[:, : self.classes]
        total, best = torch.zeros_like(points), torch.full_like(points, torch.nan)
        rows = torch.arange(len(points), device=points.device)
        for k in range(self.steps + 1):
            far = ((1 + self.overshoot) * total[rows]).clamp(low[rows], high[rows])
            with torch.enable_grad():
                z = (points[rows] + far).requires_grad_()
                leads = task.leads(z, rows)
                over = leads.amax(dim=1) >= 0
                best[rows[over]] = far[over]
                if k == self.steps or task.expired or bool(over.all()):
                    break
                shown = leads.gather(1, order[rows])
                length, move = _nearest(shown, z, far <= low[rows], far >= high[rows], task.p)
            going = ~over & torch.isfinite(length)
            rows, length, move = rows[going], length[going], move[going]
            total[rows] = (total[rows] + length[:, None] * move).clamp(low[rows], high[rows])
        return np.asarray((points + best).cpu().numpy())


def _nearest(
    leads: torch.Tensor, z: torch.Tensor, least: torch.Tensor, most: torch.Tensor, p: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distance (m,) and direction (m, d) to the nearest of the linearised decisions.

    Parameters
    ----------
    leads : tensor (m, k)
        Of the classes looked at, depending on z (m, d).
    least, most : bool tensor (m, d)
        Coordinates at the low and the high end of the box.
    p : float
    """
    nearest = torch.full_like(leads.detach()[:, 0], math.inf)
    normal = torch.zeros_like(z.detach())
    for lead in leads.unbind(dim=1):
        (gradient,) = torch.autograd.grad(lead.sum(), z, retain_graph=True)
        stuck = (least & (gradient < 0)) | (most & (gradient > 0))
        gradient = gradient.masked_fill(stuck, 0.0)
        size = sizes(gradient, dual_exponent(p))
        distance = torch.where(size > 0, -lead.detach() / size, math.inf)
        nearer = distance < nearest
        nearest = torch.where(nearer, distance, nearest)
        normal = torch.where(nearer[:, None], gradient, normal)
    return nearest, steepest(normal, p, torch.ones_like(nearest))
