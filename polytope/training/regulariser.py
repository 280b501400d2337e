"""What all regularisers share: the module, its capture, the checks of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar, get_args

import torch
from torch import nn

from polytope.errors import InputError
from polytope.inputs import as_batch, as_labels
from polytope.jacobians import DEFAULT_MEMORY
from polytope.rows import classes_of
from polytope.training.captured import (
    BatchNormMode,
    Captured,
    capture,
    precision,
    require_finite,
    require_statistics,
)
from polytope.training.frozen import Frozen, freeze
from polytope.training.gradients import Budget, TrainingMethod, choose_method
from polytope.training.loss import TrainingLoss
from polytope.training.schedules import Ramp, as_weight, value_at


@dataclass(frozen=True, eq=False)
class Regulariser(TrainingLoss):
    """A loss of a module's linear regions, to be added to the loss of the task.

    Called as ``loss(x, y, epoch=epoch)`` inside any training loop; it returns a scalar tensor
    whose gradient reaches the module's parameters. The module is captured once, when the
    regulariser is made; its present parameters are read at every call, so an optimiser, a
    change of device or dtype, or loading a checkpoint needs nothing more. The pieces, and which
    rows are nearest, carry no gradient, as in the papers.

    The network that is regularised is the one in evaluation mode: dropout is off. Gradients are
    of first order: ``create_graph=True`` is refused.
    """

    replaces_task: ClassVar[bool] = False

    model: nn.Module = field(repr=False)
    input_shape: Sequence[int] | int
    _: KW_ONLY
    weight: float | Ramp = 1.0
    method: TrainingMethod = "auto"
    batch_norm: BatchNormMode = None
    memory: int = DEFAULT_MEMORY
    _captured: Captured = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", as_weight(self.weight, self._name))
        if self.batch_norm not in (None, *get_args(get_args(BatchNormMode)[0])):
            raise InputError(
                f"{self._name}: batch_norm: got {self.batch_norm!r}, expected None, 'running' or "
                "'batch'"
            )
        if isinstance(self.memory, bool) or not isinstance(self.memory, int) or self.memory <= 0:
            raise InputError(
                f"{self._name}: memory: got {self.memory!r}, expected a positive number of bytes"
            )
        captured = capture(self.model, self.input_shape, self._name)
        object.__setattr__(self, "_captured", captured)

    @property
    def _budget(self) -> Budget:
        return Budget(self.memory)

    def _full_precision(self) -> torch.autocast:
        """Autocast off: gradients of gradients need the parameters' own precision."""
        _, device = precision(self._captured, self._name)
        return torch.autocast(device.type, enabled=False)

    def _weight(self, epoch: object) -> float:
        return value_at(self.weight, epoch, self._name)

    def _method(self, x: torch.Tensor, euclidean: bool) -> TrainingMethod:
        return choose_method(
            self._captured.net, self.method, x.device, euclidean, self._name
        )  # fmt: skip

    def _freeze(self, x: object) -> Frozen:
        """The checks of a batch, and its forward pass.

        Raises
        ------
        InputError
            For points of another shape, dtype or device than the module's, NaN, none at all, or
            points that ask for a gradient.
        PolytopeError
            If the values overflow.
        """
        own = require_statistics(self._captured, self.batch_norm, self._name)
        dtype, device = precision(self._captured, self._name)
        points = as_batch(self._captured.net, x, dtype, "x")
        if not len(points):
            raise InputError(f"{self._name}: x: got an empty batch, expected at least one point")
        if isinstance(x, torch.Tensor):
            if x.requires_grad:
                raise InputError(
                    f"{self._name}: x requires a gradient, but the loss is differentiable in the "
                    "parameters only; pass x.detach()"
                )
            if x.dtype != dtype:
                raise InputError(
                    f"{self._name}: x: got {x.dtype}, but the model is {dtype}; convert one of them"
                )
        if points.device != device:
            raise InputError(
                f"{self._name}: x: is on {points.device}, but the model is on {device}; move one "
                "of them"
            )
        frozen = freeze(self._captured, points, own, self._name)
        for computed in (frozen.values, frozen.logits):
            require_finite(self._captured, computed.detach(), self._name)
        return frozen

    def _labels(self, y: object, x: torch.Tensor) -> torch.Tensor:
        if y is None:
            raise InputError(f"{self._name}: y: got none, expected the label of every point")
        return as_labels(y, len(x), classes_of(self._captured.net)).to(x.device)

    def _checked(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss, if it is finite."""
        require_finite(self._captured, loss.detach(), self._name)
        return loss
