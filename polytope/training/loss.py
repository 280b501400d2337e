"""What every loss of `polytope.training` is, and how they make up one training step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from polytope.errors import InputError
from polytope.rows import as_logits


class TrainingLoss(ABC):
    """A loss of a module on a batch: ``loss(x, y, epoch=epoch)`` is a scalar to differentiate.

    Attributes
    ----------
    replaces_task : bool
        True: the loss of a whole training step, taken instead of the cross entropy
        (`Adversarial`, `TRADES`, `WongKolter`). False: to be added to it.
    model : torch.nn.Module
        The module that is trained; read at every call.
    """

    replaces_task: ClassVar[bool]
    model: nn.Module

    @abstractmethod
    def __call__(self, x: object, y: object = None, *, epoch: float | None = None) -> torch.Tensor:
        """The loss of points x (batch, *input_shape) with labels y, in an epoch from 1: ()."""

    @property
    def _name(self) -> str:
        return type(self).__name__


def total_loss(
    model: nn.Module,
    losses: Sequence[TrainingLoss],
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    epoch: float | None = None,
) -> torch.Tensor:
    """The loss of one training step: that of the task plus all that is added to it.

    The task's loss is the one of `losses` that replaces it, if there is one, and the cross
    entropy of ``model(x)`` otherwise (a single output f counts as the logits (0, f)).

    Parameters
    ----------
    model : torch.nn.Module
        Its outputs (batch, classes) are logits.
    losses : sequence of TrainingLoss
        Made for this module; may be empty.
    x : tensor (batch, *input_shape)
    y : tensor (batch,), int64
    epoch : float, optional
        Counted from 1.

    Returns
    -------
    tensor ()

    Raises
    ------
    InputError
        If two of the losses replace that of the task, or one was made for another module.
    """
    whole = [type(loss).__name__ for loss in losses if loss.replaces_task]
    if len(whole) > 1:
        raise InputError(
            f"losses: got {' and '.join(whole)}, each of which is the loss of a whole step; "
            "expected at most one of them, with losses that are added"
        )
    for loss in losses:
        if loss.model is not model:
            raise InputError(
                f"losses: {type(loss).__name__} was made for another module than the one given; "
                "make it for the module that is trained"
            )
    parts = [loss(x, y, epoch=epoch) for loss in losses]
    if not whole:
        parts.insert(0, F.cross_entropy(as_logits(model(x)), y))
    return torch.stack(parts).sum()
