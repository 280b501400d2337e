"""The fast gradient sign method, in one step or several.

Goodfellow et al. (ICLR 2015); with steps, Kurakin et al. (2017), of which FGSM-20 in LLR's
Table 2 is the case of 20 steps of a tenth of the radius.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch

from polytope.attacks.attack import Attack
from polytope.attacks.steps import ball_radius, positive_size, project, steepest
from polytope.attacks.task import Task
from polytope.inputs import positive_int

#: Step of an attack with several, relative to the radius (LLR, appendix F.1).
STEP = 0.1


@dataclass(frozen=True)
class FGSM(Attack):
    """Steps along the sign of the gradient of the cross-entropy; nothing is random.

    In l_inf the sign; in other norms the direction of steepest ascent.

    Parameters
    ----------
    eps : float
        Radius of the ball, in the norm of the call.
    steps : int
        1 for the fast gradient sign method; 20 for FGSM-20.
    step : float, optional
        Size of a step: by default `eps` for a single one, else a tenth of it.

    Raises
    ------
    InputError
        If a number is not positive.

    Notes
    -----
    Every iterate counts, not the last alone. The cross-entropy is ``log(1 + sum exp(leads))``
    over the classes that count; its gradient has the direction of that of
    ``log sum exp(leads)``, which does not vanish where the network is sure.
    """

    eps: float
    _: KW_ONLY
    steps: int = 1
    step: float | None = None

    def __post_init__(self) -> None:
        positive_size(self.eps, "FGSM: eps")
        positive_int(self.steps, "steps")
        if self.step is not None:
            positive_size(self.step, "FGSM: step")

    def radius(self) -> float:
        """The ball's."""
        return float(self.eps)

    def propose(self, task: Task) -> np.ndarray:
        """Candidates (n, d): the first adversarial iterate of each point."""
        points, (low, high) = task.x.flatten(1), task.limits()
        bound = torch.full_like(points[:, 0], ball_radius(self.eps))
        length = self.step or self.eps * (1.0 if self.steps == 1 else STEP)
        step, best = torch.zeros_like(points), torch.full_like(points, torch.nan)
        rows = torch.arange(len(points), device=points.device)
        for k in range(self.steps + 1):
            with torch.enable_grad():
                z = (points + step)[rows].requires_grad_()
                leads = task.leads(z, rows)
                (gradient,) = torch.autograd.grad(leads.logsumexp(dim=1).sum(), z)
            over = leads.amax(dim=1) >= 0
            best[rows[over]] = step[rows[over]]
            rows, gradient = rows[~over], gradient[~over]
            if k == self.steps or task.expired or not len(rows):
                break
            move = length * steepest(gradient, task.p, torch.ones_like(bound[rows]))
            step[rows] = project(step[rows] + move, bound[rows], low[rows], high[rows], task.p)
        return np.asarray((points + best).cpu().numpy())
