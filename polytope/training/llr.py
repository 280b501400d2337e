"""LLR: local linearity regularisation (Qin et al., NeurIPS 2019).

Source: arXiv 1907.02610, Eq. 5, 6 and 8, Algorithm 1, appendix F.2.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch

from polytope.errors import InputError
from polytope.training.ball import Perturbations
from polytope.training.module_loss import BallLoss, ModuleRegulariser
from polytope.training.schedules import Ramp, finite, not_negative, value_at


@dataclass(frozen=True, eq=False)
class LLR(ModuleRegulariser, BallLoss):
    """The violation of the loss's linear approximation, and the change that it predicts.

    ``lambda g + mu |delta' grad l(x)|`` with ``g = |l(x + delta) - l(x) - delta' grad l(x)|`` of
    the cross entropy l, at the delta of the ball where g is largest: Adam's ascent on g from a
    random start (at 0 it has no gradient), brought back into the ball after each step. The
    gradient of the loss reaches ``grad l``, and none reaches delta.

    Parameters
    ----------
    model : torch.nn.Module
        Any; the paper's are smooth (softplus), as a gradient of ``grad l`` asks for.
    input_shape : tuple of int
        Shape of one input, without the batch.
    eps : float or Ramp
        Radius of the ball, at least 0; the paper lets it grow from 0.
    p : 2 or "inf"
        Norm of the ball.
    box : Box or pair (low, high), optional
        Perturbed points stay inside; the points have to be.
    steps : int
        Of Adam.
    step : float
        Adam's, positive.
    weight, mu : float or Ramp
        Lambda and mu, at least 0.
    batch_norm : {"running", "batch"}, optional
        For a module whose BatchNorm layers are in training mode: take the running statistics,
        or those of the clean batch for the perturbed points too (the paper's way). None refuses
        such a module.

    Notes
    -----
    The loss is a mean over the batch. With ``steps=50, weight=1, mu=0`` it is the mean of the
    paper's measure gamma(eps, x), a lower bound of the true maximum; `parts` has it by point.
    It costs some ``2 steps + 10`` forward passes, and the memory of a few plain steps.

    Raises
    ------
    InputError
        For unusable settings, points or labels.
    """

    _: KW_ONLY
    weight: float | Ramp = 4.0
    mu: float | Ramp = 3.0
    step: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "mu", not_negative(self.mu, "LLR: mu"))
        object.__setattr__(self, "step", finite(self.step, "LLR: step"))
        if self.step <= 0:
            raise InputError(f"LLR: step: got {self.step:g}, expected a positive number")

    def __call__(
        self,
        x: object,
        y: object = None,
        *,
        epoch: float | None = None,
        generator: torch.Generator | None = None,
        delta: object = None,
    ) -> torch.Tensor:
        """The loss of a batch.

        Parameters
        ----------
        x : tensor (batch, *input_shape)
            In the module's dtype and on its device, inside the box.
        y : tensor (batch,)
            Labels.
        epoch : float, optional
            Counted from 1; needed if a setting is a `Ramp`.
        generator : torch.Generator, optional
            Draws the start; on the CPU. torch's own by default.
        delta : tensor (batch, *input_shape), optional
            Perturbations to take instead of searching them.

        Returns
        -------
        tensor ()
        """
        weight, mu = self._weight(epoch), value_at(self.mu, epoch, "LLR")
        violation, change = self.parts(x, y, epoch=epoch, generator=generator, delta=delta)
        return (weight * violation + mu * change).mean()

    def parts(
        self,
        x: object,
        y: object = None,
        *,
        epoch: float | None = None,
        generator: torch.Generator | None = None,
        delta: object = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The violation g and the predicted change ``|delta' grad l|`` of each point: (batch,).

        Parameters are those of a call.
        """
        points = self._points(x)
        ball = self._around(points, epoch)
        graph = torch.is_grad_enabled()
        with self._held(points):
            z = points.clone().requires_grad_()
            base, labels = self._task(z, y)
            slope = self._gradient(base, z, create_graph=graph)
            if delta is None:
                tangent = _Tangent(base.detach(), slope.detach())
                found = self._search(points, labels, tangent, ball.drawn(points, generator), ball)
            else:
                found = self._given(delta, points)
            violation = _Tangent(base, slope).violation(
                self._entropy(points + found, labels), found
            )
            change = (found * slope).flatten(1).sum(1).abs()
        return self._checked(violation, graph), self._checked(change, graph)

    def _search(
        self,
        points: torch.Tensor,
        labels: torch.Tensor,
        tangent: _Tangent,
        start: torch.Tensor,
        ball: Perturbations,
    ) -> torch.Tensor:
        """The perturbations at which Adam's ascent on the violation ends."""
        delta = start.clone().requires_grad_()
        optimiser = torch.optim.Adam([delta], lr=self.step, maximize=True)
        for _ in range(self.steps):
            violation = tangent.violation(self._entropy(points + delta, labels), delta)
            delta.grad = self._gradient(violation, delta)
            optimiser.step()
            with torch.no_grad():
                delta.copy_(ball.project(delta))
        return delta.detach()


@dataclass(frozen=True, eq=False)
class _Tangent:
    """The linear approximation of the loss at each point: values (batch,) and gradients."""

    base: torch.Tensor
    slope: torch.Tensor

    def violation(self, moved: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
        """``|l(x + delta) - l(x) - delta' grad l(x)|`` (batch,)."""
        return (moved - self.base - (delta * self.slope).flatten(1).sum(1)).abs()
