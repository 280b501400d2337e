"""Training on perturbed points: adversarial training and TRADES.

Sources: Madry et al., ICLR 2018 (arXiv 1706.06083); Zhang et al., ICML 2019 (arXiv 1901.08573);
the share and the steps as in MMR (arXiv 1810.07481, appendix B).
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from polytope.errors import InputError
from polytope.training.module_loss import BallLoss
from polytope.training.schedules import Ramp, finite, not_negative, value_at
from polytope.training.statistics import evaluation

#: Spread of TRADES' start around a point: at the point itself the divergence has no gradient.
START = 1e-3


@dataclass(frozen=True, eq=False)
class Adversarial(BallLoss):
    """The cross entropy at points that projected gradient ascent has moved.

    It is the loss of a whole step. Ascent starts at random in the ball and takes steps of
    ``2 eps / steps``, along the gradient's sign for l_inf and the normalised gradient for l_2.

    Parameters
    ----------
    model : torch.nn.Module
    input_shape : tuple of int
        Shape of one input, without the batch.
    eps : float or Ramp
        Radius of the ball, at least 0.
    p : 2 or "inf"
        Norm of the ball.
    box : Box or pair (low, high), optional
        Perturbed points stay inside; the points have to be.
    steps : int
        Of the ascent.
    share : float
        In (0, 1]: only this part of the batch is moved, its first points; 0.5 is MMR's setting
        (batches are shuffled).

    Notes
    -----
    The ascent sees the module in evaluation mode; the loss is that of the module as it is, so in
    training mode BatchNorm takes, and follows, the statistics of the moved batch.

    Raises
    ------
    InputError
        For unusable settings, points or labels.
    """

    replaces_task: ClassVar[bool] = True

    _: KW_ONLY
    share: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "share", finite(self.share, "Adversarial: share"))
        if not 0 < self.share <= 1:
            raise InputError(
                f"Adversarial: share: got {self.share:g}, expected a part of the batch above 0 "
                "and up to 1"
            )

    def __call__(
        self,
        x: object,
        y: object = None,
        *,
        epoch: float | None = None,
        generator: torch.Generator | None = None,
        delta: object = None,
    ) -> torch.Tensor:
        """The loss of a batch: parameters as in `LLR`."""
        points = self._points(x)
        if delta is None:
            found = self.perturb(points, y, epoch=epoch, generator=generator)
        else:
            found = self._given(delta, points)
        loss, _ = self._task(points + found, y)
        return self._checked(loss.mean(), torch.is_grad_enabled())

    def perturb(
        self,
        x: object,
        y: object = None,
        *,
        epoch: float | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """The perturbations (batch, *input_shape) found for a batch; 0 beyond the share."""
        points = self._points(x)
        with torch.enable_grad(), evaluation(self.model):
            labels = self._labels(y, self._logits(points))
            count = math.ceil(self.share * len(points))
            moved, own = points[:count], labels[:count]
            ball = self._around(moved, epoch)
            found = self._climbed(
                lambda delta: self._entropy(moved + delta, own), ball.drawn(moved, generator), ball
            )
        return torch.cat([found, torch.zeros_like(points[count:])])


@dataclass(frozen=True, eq=False)
class TRADES(BallLoss):
    """The cross entropy plus beta times how far the outputs move within the ball.

    ``CE(f(x), y) + beta KL(p(x) || p(x + delta))``, where p is the softmax of the outputs and
    delta increases the divergence by projected gradient ascent. It is the loss of a whole step.

    Parameters
    ----------
    model, input_shape, eps, p, box, steps
        As in `Adversarial`.
    beta : float or Ramp
        At least 0; 6 and 1 in the paper (its 1 / lambda).

    Notes
    -----
    The ascent sees the module in evaluation mode; both terms are those of the module as it is,
    one pass for the points and one for the perturbed ones.

    Raises
    ------
    InputError
        For unusable settings, points or labels.
    """

    replaces_task: ClassVar[bool] = True

    _: KW_ONLY
    beta: float | Ramp = 6.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "beta", not_negative(self.beta, "TRADES: beta"))

    def __call__(
        self,
        x: object,
        y: object = None,
        *,
        epoch: float | None = None,
        generator: torch.Generator | None = None,
        delta: object = None,
    ) -> torch.Tensor:
        """The loss of a batch: parameters as in `LLR`."""
        points = self._points(x)
        beta = value_at(self.beta, epoch, "TRADES")
        if delta is None:
            found = self.perturb(points, epoch=epoch, generator=generator)
        else:
            found = self._given(delta, points)
        logits = self._logits(points)
        task = F.cross_entropy(logits, self._labels(y, logits))
        apart = _divergence(logits, self._logits(points + found)).mean()
        return self._checked(task + beta * apart, torch.is_grad_enabled())

    def perturb(
        self,
        x: object,
        *,
        epoch: float | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """The perturbations (batch, *input_shape) found for a batch; they need no labels."""
        points = self._points(x)
        ball = self._around(points, epoch)
        with torch.enable_grad(), evaluation(self.model):
            logits = self._logits(points).detach()
            noise = torch.randn(points.shape, generator=generator, dtype=points.dtype)
            return self._climbed(
                lambda delta: _divergence(logits, self._logits(points + delta)),
                ball.project(START * noise.to(points.device)),
                ball,
            )


def _divergence(clean: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
    """``KL(softmax(clean) || softmax(moved))`` of each point (batch,)."""
    own, other = clean.log_softmax(1), moved.log_softmax(1)
    return (own.exp() * (own - other)).sum(1)
