"""`Recipe`: the settings of a training, checked when they are made."""

from __future__ import annotations

from dataclasses import KW_ONLY, asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

from polytope.errors import InputError
from polytope.training.schedules import finite

#: Names of the optimisers.
OptimizerName = Literal["adam", "amsgrad", "sgd", "nesterov"]
#: Which epoch's weights are kept: the last, or the best on the validation examples.
Choice = Literal["last", "error", "loss"]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Parameters
    ----------
    epochs : int
        Passes over the examples.
    batch : int
        Examples of a step; the last step of an epoch takes what is left.
    optimizer : {"adam", "amsgrad", "sgd", "nesterov"}
        AMSGrad is Adam with the largest second moment so far; "nesterov" is SGD with
        Nesterov's momentum.
    rate : float
        Learning rate, positive.
    momentum : float
        Of "sgd" (0 is none) and "nesterov" (positive), below 1.
    weight_decay : float
        At least 0; the l_2 penalty of torch's optimisers.
    drop : int
        The last `drop` epochs go at a tenth of the rate (MMR: 10 of 100).
    choose : {"last", "error", "loss"}
        Keep the weights of the last epoch, or of the one with the least error or
        cross-entropy on the validation examples; the earliest of equal ones.
    seed : int
        Orders the examples and draws what the losses and dropout draw.

    Raises
    ------
    InputError
        Naming the setting that is not usable.
    """

    epochs: int
    _: KW_ONLY
    batch: int = 128
    optimizer: OptimizerName = "adam"
    rate: float = 1e-3
    momentum: float = 0.0
    weight_decay: float = 0.0
    drop: int = 0
    choose: Choice = "last"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch", 1), ("drop", 0), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(
                    f"training: {name}: got {value!r}, expected a whole number of at least {least}"
                )
        if self.drop > self.epochs:
            raise InputError(
                f"training: drop: got the last {self.drop} of {self.epochs} epochs; use at most all"
            )
        for name, options in (("optimizer", OptimizerName), ("choose", Choice)):
            if getattr(self, name) not in get_args(options):
                raise InputError(
                    f"training: {name}: got {getattr(self, name)!r}, expected one of "
                    f"{', '.join(get_args(options))}"
                )
        for name in ("rate", "momentum", "weight_decay"):
            object.__setattr__(self, name, finite(getattr(self, name), f"training: {name}"))
        if self.rate <= 0:
            raise InputError(f"training: rate: got {self.rate:g}, expected a positive number")
        if self.weight_decay < 0:
            raise InputError(
                f"training: weight_decay: got {self.weight_decay:g}, expected at least 0"
            )
        self._check_momentum()

    def _check_momentum(self) -> None:
        if not 0 <= self.momentum < 1:
            raise InputError(
                f"training: momentum: got {self.momentum:g}, expected at least 0 and below 1"
            )
        if self.optimizer == "nesterov" and not self.momentum:
            raise InputError("training: momentum: 'nesterov' needs one above 0, such as 0.9")
        if self.momentum and self.optimizer not in ("sgd", "nesterov"):
            raise InputError(
                f"training: momentum: got {self.momentum:g}, but {self.optimizer!r} has none; "
                "leave it out, or use 'sgd' or 'nesterov'"
            )

    def optimizer_for(self, model: nn.Module) -> torch.optim.Optimizer:
        """A new optimiser of the module's parameters.

        Raises
        ------
        InputError
            If it has none that could be trained.
        """
        parameters = [p for p in model.parameters() if p.requires_grad]
        if not parameters:
            raise InputError("train: the module has no parameters that require a gradient")
        shared: dict[str, Any] = {"lr": self.rate, "weight_decay": self.weight_decay}
        if self.optimizer in ("adam", "amsgrad"):
            return torch.optim.Adam(parameters, amsgrad=self.optimizer == "amsgrad", **shared)
        return torch.optim.SGD(
            parameters, momentum=self.momentum, nesterov=self.optimizer == "nesterov", **shared
        )

    def rate_at(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 1."""
        return self.rate / 10 if epoch > self.epochs - self.drop else self.rate

    def as_dict(self) -> dict[str, Any]:
        """The settings by name, for files."""
        return asdict(self)
