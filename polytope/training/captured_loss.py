"""Losses that read the module's compiled graph: its capture, and the checks of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import get_args

import torch
from torch import nn

from polytope.errors import InputError
from polytope.inputs import as_labels
from polytope.jacobians import DEFAULT_MEMORY
from polytope.rows import classes_of
from polytope.training.captured import BatchNormMode, Captured, capture, require_statistics
from polytope.training.checks import points_of, precision, require_finite
from polytope.training.frozen import Frozen, freeze
from polytope.training.gradients import Budget
from polytope.training.loss import TrainingLoss


@dataclass(frozen=True, eq=False)
class CapturedLoss(TrainingLoss):
    """A loss of a module that is captured once, when the loss is made.

    The module's present parameters are read at every call, so an optimiser, a change of device
    or dtype, or loading a checkpoint needs nothing more. The network is the one in evaluation
    mode: dropout is off. Gradients are of first order: ``create_graph=True`` is refused.
    """

    model: nn.Module = field(repr=False)
    input_shape: Sequence[int] | int
    _: KW_ONLY
    batch_norm: BatchNormMode = None
    memory: int = DEFAULT_MEMORY
    _captured: Captured = field(init=False, repr=False)

    def __post_init__(self) -> None:
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
        _, device = precision(self.model, self._name)
        return torch.autocast(device.type, enabled=False)

    def _freeze(self, x: object) -> Frozen:
        """The checks of a batch, and its forward pass.

        Raises
        ------
        InputError
            For unusable points (`points_of`), or a BatchNorm in training mode.
        PolytopeError
            If the values overflow.
        """
        own = require_statistics(self._captured, self.batch_norm, self._name)
        points = points_of(self.model, self._captured.net, x, self._name)
        frozen = freeze(self._captured, points, own, self._name)
        for computed in (frozen.values, frozen.logits):
            require_finite(self.model, computed.detach(), self._name)
        return frozen

    def _labels(self, y: object, x: torch.Tensor) -> torch.Tensor:
        if y is None:
            raise InputError(f"{self._name}: y: got none, expected the label of every point")
        return as_labels(y, len(x), classes_of(self._captured.net)).to(x.device)

    def _checked(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss, if it is finite."""
        require_finite(self.model, loss.detach(), self._name)
        return loss
