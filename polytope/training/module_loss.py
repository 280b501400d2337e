"""Losses that run the module itself, whatever its operations are, and differentiate through it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar, get_args

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from polytope.errors import InputError
from polytope.inputs import as_labels, positive_int
from polytope.model import as_shape
from polytope.network.torch_module import tensors_of
from polytope.rows import as_logits
from polytope.sets import BoxLike, as_box
from polytope.training.ball import Perturbations, as_ball_norm, perturbations_around
from polytope.training.captured import BatchNormMode
from polytope.training.checks import (
    points_of,
    precision,
    require_finite,
    require_logits,
    require_module,
)
from polytope.training.loss import TrainingLoss
from polytope.training.schedules import Ramp, not_negative, value_at
from polytope.training.statistics import held
from solvers.norms import NormLike

Constants = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class _Inputs:
    """What a module takes."""

    input_shape: tuple[int, ...]

    @property
    def input_size(self) -> int:
        return math.prod(self.input_shape)


@dataclass(frozen=True, eq=False)
class ModuleLoss(TrainingLoss):
    """A loss that calls the module, which need not be piecewise linear.

    Its outputs (batch, classes) are taken as logits; a single one f is (0, f). Whatever the loss
    changes of the module while it runs is put back.
    """

    model: nn.Module = field(repr=False)
    input_shape: Sequence[int] | int

    def __post_init__(self) -> None:
        module = require_module(self.model, self._name)
        if all(not p.is_floating_point() for _, p in tensors_of(module)):
            raise InputError(
                f"{self._name}: the model has no parameters, so there is nothing to train; pass "
                "the module whose parameters the optimiser changes"
            )
        shape = as_shape(self.input_shape)
        if shape is None:
            raise InputError(
                f"{self._name}: input_shape: got None, expected the shape of one input without "
                "the batch, for instance (1, 28, 28)"
            )
        object.__setattr__(self, "input_shape", shape)

    def _points(self, x: object) -> torch.Tensor:
        """The points of a batch, checked and without a graph."""
        shape = as_shape(self.input_shape)
        assert shape is not None
        return points_of(self.model, _Inputs(shape), x, self._name).detach()

    def _labels(self, y: object, logits: torch.Tensor) -> torch.Tensor:
        if y is None:
            raise InputError(f"{self._name}: y: got none, expected the label of every point")
        require_logits(logits, self._name)
        return as_labels(y, len(logits), logits.shape[1]).to(logits.device)

    def _logits(self, z: torch.Tensor, c: Constants | None = None) -> torch.Tensor:
        """The module's outputs at points, as logits (batch, classes).

        With tensors c in the place of its parameters, if there are any.

        Raises
        ------
        InputError
            If it does not return a row of numbers for each point.
        """
        outputs = self.model(z) if c is None else functional_call(self.model, dict(c), (z,))
        if not isinstance(outputs, torch.Tensor) or len(outputs) != len(z) or outputs.ndim < 2:
            got = (
                tuple(outputs.shape)
                if isinstance(outputs, torch.Tensor)
                else type(outputs).__name__
            )
            raise InputError(
                f"{self._name}: the model returned {got} for {len(z)} points, expected logits "
                f"of shape ({len(z)}, classes)"
            )
        return as_logits(outputs.flatten(1))

    def _entropy(self, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The cross entropy (batch,) of each point with its label."""
        return F.cross_entropy(self._logits(z), labels, reduction="none")

    def _task(self, z: torch.Tensor, y: object) -> tuple[torch.Tensor, torch.Tensor]:
        """The same with the user's labels, and these as checked."""
        logits = self._logits(z)
        labels = self._labels(y, logits)
        return F.cross_entropy(logits, labels, reduction="none"), labels

    def _gradient(
        self, values: torch.Tensor, z: torch.Tensor, create_graph: bool = False
    ) -> torch.Tensor:
        """The gradient of each point's value in its coordinates: like z."""
        if values.requires_grad:
            (found,) = torch.autograd.grad(
                values.sum(), z, create_graph=create_graph, retain_graph=True, allow_unused=True
            )
            if found is not None:
                gradient: torch.Tensor = found
                return gradient
        raise InputError(
            f"{self._name}: the model's outputs have no gradient in its inputs; remove what cuts "
            "it (detach, argmax, rounding, no_grad) from its forward pass"
        )

    def _checked(self, loss: torch.Tensor, graph: bool) -> torch.Tensor:
        """The loss, if it is finite; without a graph if the caller wants none."""
        require_finite(self.model, loss.detach(), self._name)
        return loss if graph else loss.detach()


@dataclass(frozen=True, eq=False)
class ModuleRegulariser(ModuleLoss):
    """A loss of a module's gradients in its inputs, to be added to the loss of the task.

    The network that counts is the one in evaluation mode: dropout is off. BatchNorm layers in
    training mode need `batch_norm`: with "batch" the statistics of the batch's own points serve
    all others too, with "running" the running ones.
    """

    replaces_task: ClassVar[bool] = False

    _: KW_ONLY
    weight: float | Ramp = 1.0
    batch_norm: BatchNormMode = None

    def __post_init__(self) -> None:
        super().__post_init__()
        weight = not_negative(self.weight, f"{self._name}: weight (lambda)")
        object.__setattr__(self, "weight", weight)
        if self.batch_norm not in (None, *get_args(get_args(BatchNormMode)[0])):
            raise InputError(
                f"{self._name}: batch_norm: got {self.batch_norm!r}, expected None, 'running' or "
                "'batch'"
            )

    def _weight(self, epoch: object) -> float:
        return value_at(self.weight, epoch, self._name)

    @contextmanager
    def _held(self, x: torch.Tensor, c: Constants | None = None) -> Iterator[None]:
        """The module as a function of single points, in full precision, with gradients on."""
        _, device = precision(self.model, self._name)
        with (
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
            held(self.model, lambda: self._logits(x, c), self.batch_norm, self._name),
        ):
            yield


@dataclass(frozen=True, eq=False)
class BallLoss(ModuleLoss):
    """A loss that searches perturbations of its points in a ball."""

    eps: float | Ramp
    _: KW_ONLY
    p: NormLike = math.inf
    box: BoxLike = None
    steps: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "eps", not_negative(self.eps, f"{self._name}: eps"))
        object.__setattr__(self, "p", as_ball_norm(self.p, self._name))
        shape = as_shape(self.input_shape)
        assert shape is not None
        object.__setattr__(self, "box", as_box(self.box, math.prod(shape)))
        positive_int(self.steps, f"{self._name}: steps")

    def _around(self, points: torch.Tensor, epoch: object) -> Perturbations:
        """The perturbations of points in an epoch."""
        radius = value_at(self.eps, epoch, self._name)
        return perturbations_around(points, radius, self.p, self.box)

    def _given(self, delta: object, points: torch.Tensor) -> torch.Tensor:
        """Perturbations that the user found.

        Raises
        ------
        InputError
            If they are not finite numbers, one for each coordinate of the points.
        """
        found = torch.as_tensor(delta, dtype=points.dtype, device=points.device).detach()
        if found.shape != points.shape or not bool(torch.isfinite(found).all()):
            raise InputError(
                f"{self._name}: delta: got shape {tuple(found.shape)}, expected finite "
                f"perturbations of the points, {tuple(points.shape)}"
            )
        return found

    def _climbed(
        self,
        value: Callable[[torch.Tensor], torch.Tensor],
        start: torch.Tensor,
        ball: Perturbations,
    ) -> torch.Tensor:
        """Perturbations after projected gradient ascent, by steps of ``2 eps / steps``.

        Parameters
        ----------
        value : callable
            The values (batch,) of perturbations.
        start : tensor (batch, *input_shape)
        ball : Perturbations
        """
        delta = start
        for _ in range(self.steps):
            z = delta.detach().requires_grad_()
            move = ball.steepest(self._gradient(value(z), z))
            delta = ball.project(delta + 2 * ball.radius / self.steps * move)
        return delta.detach()
