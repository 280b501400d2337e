"""CURE and cross-Lipschitz: regularisers of a module's gradients in its inputs.

Sources: Moosavi-Dezfooli et al., CVPR 2019 (arXiv 1811.09716), section 4; Hein and
Andriushchenko, NeurIPS 2017 (arXiv 1705.08475), section 4.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass

import torch

from polytope.training.accumulate import accumulated
from polytope.training.module_loss import Constants, ModuleRegulariser
from polytope.training.schedules import Ramp, not_negative, value_at


@dataclass(frozen=True, eq=False)
class CURE(ModuleRegulariser):
    """How fast the gradient of the cross entropy turns: ``||grad l(x + h z) - grad l(x)||_2^2``.

    z is the sign of ``grad l(x)``, of l_2 norm 1, without a graph.

    Parameters
    ----------
    model : torch.nn.Module
        Any; a smooth one as a gradient of ``grad l`` asks for.
    input_shape : tuple of int
        Shape of one input, without the batch.
    h : float or Ramp
        Length of the step, at least 0; in the paper it grows over five epochs:
        ``Ramp(0, 1.5, 5)``.
    weight : float or Ramp
        4 in the paper (its gamma).
    batch_norm
        See `LLR`.

    Notes
    -----
    The loss is a mean over the batch. As in the paper, the difference is not divided by h.

    Raises
    ------
    InputError
        For unusable settings, points or labels.
    """

    _: KW_ONLY
    weight: float | Ramp = 4.0
    h: float | Ramp = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "h", not_negative(self.h, "CURE: h"))

    def __call__(self, x: object, y: object = None, *, epoch: float | None = None) -> torch.Tensor:
        """The loss of a batch: parameters as in `LLR`."""
        points = self._points(x)
        weight, h = self._weight(epoch), value_at(self.h, epoch, "CURE")
        graph = torch.is_grad_enabled()
        with self._held(points):
            z = points.clone().requires_grad_()
            values, labels = self._task(z, y)
            slope = self._gradient(values, z, create_graph=graph)
            ahead = (points + h * _direction(slope.detach())).requires_grad_()
            turned = self._gradient(self._entropy(ahead, labels), ahead, create_graph=graph)
            loss = weight * (turned - slope).flatten(1).square().sum(1).mean()
        return self._checked(loss, graph)


@dataclass(frozen=True, eq=False)
class CrossLipschitz(ModuleRegulariser):
    """The mean over all pairs of classes of ``||grad f_l(x) - grad f_m(x)||_2^2``.

    With K classes the sum over l and m is divided by K^2, as in the paper.

    Parameters
    ----------
    model : torch.nn.Module
        Any.
    input_shape : tuple of int
        Shape of one input, without the batch.
    weight : float or Ramp
        Lambda.
    batch_norm
        See `LLR`.

    Notes
    -----
    The loss is a mean over the batch. The sum over pairs is ``2 / K`` times the sum over
    classes of ``||grad (f_l - mean f)||^2``, which is taken a class at a time: it costs K times
    a forward pass with two derivatives, and the memory of one. ``create_graph=True`` is refused.

    Raises
    ------
    InputError
        For unusable settings or points.
    """

    def __call__(self, x: object, y: object = None, *, epoch: float | None = None) -> torch.Tensor:
        """The loss of a batch: parameters as in `LLR`; no labels are needed."""
        del y
        points = self._points(x)
        weight = self._weight(epoch)
        with torch.no_grad(), self._held(points):
            classes = self._logits(points).shape[1]
        scale = 2 * weight / (classes * len(points))

        def terms(c: Constants, _: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
            graph = torch.is_grad_enabled()
            for label in range(classes):
                with self._held(points, c):
                    z = points.clone().requires_grad_()
                    logits = self._logits(z, c)
                    centred = logits[:, label] - logits.mean(1)
                    squares = self._gradient(centred, z, create_graph=graph).square().sum()
                yield scale * (squares if graph else squares.detach())

        loss = accumulated(terms, dict(self.model.named_parameters()))
        return self._checked(loss, torch.is_grad_enabled())


def _direction(gradient: torch.Tensor) -> torch.Tensor:
    """The signs of gradients (batch, *input_shape), of l_2 norm 1; 0 where they are."""
    signs = gradient.sign()
    size = signs.flatten(1).abs().sum(1).sqrt().clamp(min=1.0)
    return signs / size.reshape(-1, *(1,) * (signs.ndim - 1))
