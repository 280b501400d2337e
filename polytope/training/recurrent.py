"""scoRNN: a recurrent network whose transition stays orthogonal, and losses of its lengths.

Source: Helfrich, Willmott, Ye, "Orthogonal recurrent neural networks with scaled Cayley
transform" (ICML 2018), with LeakyReLU as in ROLL (arXiv 1907.03207, appendix H).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from polytope.errors import InputError
from polytope.training.loss import TrainingLoss
from polytope.training.networks import SLOPE


class ScoRNN(nn.Module):
    """``h_t = LeakyReLU(U x_t + b + W h_{t-1})`` from ``h_0 = 0``; logits from the last state.

    ``W = (I + A)^-1 (I - A) D`` with A skew-symmetric, made of the upper triangle of
    `skew`, and D of signs that stay: W is orthogonal whatever the optimiser does.

    Parameters
    ----------
    channels : int
        Numbers of each time step.
    classes : int
    units : int
        Size of the state; 512 in ROLL.
    negative : int, optional
        How many signs of D are -1; half of them by default.
    slope : float
        Of LeakyReLU below zero.

    Raises
    ------
    InputError
        For sizes that are no positive whole numbers, or a slope that is not finite.

    Notes
    -----
    A begins as in the source: 2 x 2 blocks of ``sqrt((1 - cos t) / (1 + cos t))`` with t uniform
    in [0, pi / 2]. Series of any length are taken; ``pt.compile(model, (length, channels))`` is
    the unrolled network of one length.
    """

    signs: torch.Tensor

    def __init__(
        self,
        channels: int,
        classes: int,
        units: int = 512,
        negative: int | None = None,
        slope: float = SLOPE,
    ) -> None:
        super().__init__()
        for name, size in (("channels", channels), ("classes", classes), ("units", units)):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise InputError(
                    f"ScoRNN: {name}: got {size!r}, expected a whole number of at least 1"
                )
        minus = units // 2 if negative is None else negative
        if isinstance(minus, bool) or not isinstance(minus, int) or not 0 <= minus <= units:
            raise InputError(f"ScoRNN: negative: got {minus!r}, expected 0 to {units} signs")
        if not math.isfinite(slope):
            raise InputError(f"ScoRNN: slope: got {slope!r}, expected a finite number")
        self.channels, self.units, self.slope = channels, units, slope
        self.inputs = nn.Linear(channels, units)
        self.outputs = nn.Linear(units, classes)
        self.skew = nn.Parameter(_blocks(units))
        signs = torch.ones(units)
        signs[:minus] = -1
        self.register_buffer("signs", signs)

    def transition(self) -> torch.Tensor:
        """W (units, units), orthogonal to the rounding of its dtype."""
        upper = self.skew.triu(1)
        A = upper - upper.mT
        one = torch.eye(self.units, dtype=A.dtype, device=A.device)
        W: torch.Tensor = torch.linalg.solve(one + A, one - A) * self.signs
        return W

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes) of series (n, length, channels), all of one length."""
        if x.ndim != 3 or x.shape[2] != self.channels:
            raise InputError(
                f"ScoRNN: x: got shape {tuple(x.shape)}, expected (n, length, {self.channels})"
            )
        W = self.transition()
        z = self.inputs(x[:, 0])
        for step in range(1, x.shape[1]):
            h = functional.leaky_relu(z, self.slope)
            z = self.inputs(x[:, step]) + functional.linear(h, W)
        logits: torch.Tensor = self.outputs(functional.leaky_relu(z, self.slope))
        return logits


class EachLength(TrainingLoss):
    """A loss of a recurrent network: that of the unrolled network of the batch's length.

    >>> loss = EachLength(model, ROLL, weight=0.5, C=4.0)  # doctest: +SKIP

    Parameters
    ----------
    model : torch.nn.Module
        Takes series (n, length, channels) of any length.
    kind : class of a loss
        Made once for each length, as ``kind(model, (length, channels), **settings)``.
    **settings
        Of the loss.

    Raises
    ------
    InputError, UnsupportedOperation, SmoothActivation
        As the loss does, at the first batch.
    """

    def __init__(self, model: nn.Module, kind: type[TrainingLoss], **settings: Any) -> None:
        self.model = model
        self._kind, self._settings = kind, settings
        self._made: dict[tuple[int, ...], TrainingLoss] = {}

    @property
    def replaces_task(self) -> bool:  # type: ignore[override]
        """Whether the loss stands in for the cross-entropy."""
        return self._kind.replaces_task

    @property
    def __name__(self) -> str:
        """The loss's name, for the history of a training."""
        return self._kind.__name__

    def __repr__(self) -> str:
        settings = "".join(f", {name}={value!r}" for name, value in self._settings.items())
        return f"EachLength({self._kind.__name__}{settings})"

    def __call__(self, x: object, y: object = None, *, epoch: float | None = None) -> torch.Tensor:
        """The loss of series (n, length, channels), all of one length."""
        if not isinstance(x, torch.Tensor) or x.ndim != 3:
            raise InputError("EachLength: x: expected a tensor of series (n, length, channels)")
        shape = tuple(x.shape[1:])
        if shape not in self._made:
            self._made[shape] = self._kind(self.model, shape, **self._settings)  # type: ignore[call-arg]
        return self._made[shape](x, y, epoch=epoch)


def _blocks(units: int) -> torch.Tensor:
    """The source's first A, its upper triangle: 2 x 2 blocks on the diagonal."""
    found = torch.zeros(units, units)
    angles = torch.rand(units // 2) * (math.pi / 2)
    rows = 2 * torch.arange(units // 2)
    found[rows, rows + 1] = ((1 - angles.cos()) / (1 + angles.cos())).sqrt()
    return found
