"""What the regularisers of linear regions share: a weight, and how gradients are computed."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch

from polytope.training.captured_loss import CapturedLoss
from polytope.training.gradients import TrainingMethod, choose_method
from polytope.training.schedules import Ramp, not_negative, value_at


@dataclass(frozen=True, eq=False)
class Regulariser(CapturedLoss):
    """A loss of a module's linear regions, to be added to the loss of the task.

    Called as ``loss(x, y, epoch=epoch)`` inside any training loop; it returns a scalar tensor
    whose gradient reaches the module's parameters (see `CapturedLoss`). The pieces, and which
    rows are nearest, carry no gradient, as in the papers.
    """

    replaces_task: ClassVar[bool] = False

    _: KW_ONLY
    weight: float | Ramp = 1.0
    method: TrainingMethod = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "weight", not_negative(self.weight, f"{self._name}: weight (lambda)")
        )
        super().__post_init__()

    def _weight(self, epoch: object) -> float:
        return value_at(self.weight, epoch, self._name)

    def _method(self, x: torch.Tensor, euclidean: bool) -> TrainingMethod:
        return choose_method(
            self._captured.net, self.method, x.device, euclidean, self._name
        )  # fmt: skip
