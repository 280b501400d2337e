"""Attacks of others: foolbox's, or any callable, behind the same proofs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
import torch

from polytope.attacks.attack import Attack
from polytope.attacks.task import Task
from polytope.errors import InputError
from polytope.model import Network
from polytope.rows import as_logits

Model: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
#: ``attack(model, x, y)``: candidates like x (NaN where it has none).
Candidates: TypeAlias = Callable[[Model, torch.Tensor, torch.Tensor], object]


class Module(torch.nn.Module):
    """A network as a torch module, for tools that expect one: logits in the input's dtype.

    Parameters
    ----------
    net : Network
    count : callable, optional
        Told the number of points at each evaluation.
    """

    def __init__(self, net: Network, count: Callable[[int], None] | None = None) -> None:
        super().__init__()
        self._net, self._count = net, count

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes), computed in float64."""
        if self._count is not None:
            self._count(len(x))
        points = x.double().reshape(-1, *self._net.input_shape)
        return as_logits(self._net.forward(points).flatten(1)).to(x.dtype)


@dataclass(frozen=True)
class External(Attack):
    """A foolbox attack, or any callable ``(model, x, y) -> candidates``.

    Parameters
    ----------
    attack : foolbox attack or callable
        A callable is given the model (a torch module; differentiable), the points and the
        labels (or the targets, where the task has them) and returns candidates in the shape of
        the points.
    radii : sequence of float, optional
        For foolbox's attacks of fixed size: the radii to try, each point keeping its nearest
        adversarial result.
    dtype : torch.dtype
        Of the points that the attack is given: some attacks of foolbox only take float32.

    Raises
    ------
    InputError
        For an attack that cannot be called, radii that are not positive, or another dtype.

    Notes
    -----
    foolbox wants one finite interval for all inputs: it is given the hull of the box, or, where
    a side is open, the range of the points widened by itself. Its norm is its own; distances
    are reported in the norm asked for.
    """

    attack: Any
    radii: Sequence[float] | None = None
    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        if not callable(self.attack):
            raise InputError(
                f"External: got {type(self.attack).__name__}, expected a foolbox attack or a "
                "callable (model, x, y) that returns candidates"
            )
        if self.radii is not None and not (
            len(self.radii) and all(0 < radius < math.inf for radius in self.radii)
        ):
            raise InputError(f"radii: got {self.radii!r}, expected positive numbers, at least one")
        if self.dtype not in (torch.float32, torch.float64):
            raise InputError(f"dtype: got {self.dtype}, expected torch.float64 or torch.float32")

    def propose(self, task: Task) -> np.ndarray:
        """Candidates (n, d) from the attack.

        Raises
        ------
        InputError
            If it returns no numbers, or not one candidate for each point.
        """

        def count(points: int) -> None:
            task.queries[:] += -(-points // len(task))

        model = Module(task.net, count)
        x = task.x.to(self.dtype)
        criterion = task.criterion
        wanted = criterion.labels if criterion.targets is None else criterion.targets
        y = torch.as_tensor(wanted, device=x.device)
        with torch.enable_grad():
            if is_foolbox(self.attack):
                return self._foolbox(task, model, x, y)
            return _as_candidates(self.attack(model, x, y), task)

    def _foolbox(
        self, task: Task, model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor
    ) -> np.ndarray:
        """Run a foolbox attack; of several radii each point keeps its nearest result."""
        foolbox = import_module("foolbox")
        fixed = isinstance(self.attack, foolbox.attacks.base.FixedEpsilonAttack)
        if fixed and self.radii is None:
            raise InputError(
                f"External: {type(self.attack).__name__} perturbs by a fixed size; give the sizes "
                "to try as radii=[...]"
            )
        kinds = foolbox.criteria
        kind = kinds.Misclassification if task.criterion.targets is None else (
            kinds.TargetedMisclassification
        )  # fmt: skip
        shown = foolbox.PyTorchModel(model.eval(), bounds=_interval(task), device=x.device)
        radii = list(self.radii) if fixed and self.radii is not None else [None]
        found, _, success = self.attack(shown, x, kind(y), epsilons=radii)
        best = np.full((len(task), x[0].numel()), np.nan)
        nearest = np.full(len(task), math.inf)
        for candidates, changed in zip(found, success, strict=True):
            flat = _as_candidates(candidates, task)
            size = np.linalg.norm(flat - task.points, ord=task.p, axis=1)
            better = changed.cpu().numpy() & (size < nearest)
            nearest[better], best[better] = size[better], flat[better]
        return best


def is_foolbox(attack: object) -> bool:
    """Whether an attack is foolbox's, by its class: foolbox itself is not imported."""
    return any(c.__module__.split(".")[0] == "foolbox" for c in type(attack).__mro__)


def _interval(task: Task) -> tuple[float, float]:
    """One finite interval that holds all inputs."""
    points = task.points
    low, high = float(points.min()), float(points.max())
    width = max(high - low, 1.0)
    if task.box is None:
        return low - width, high + width
    sides = float(task.box.low.min()), float(task.box.high.max())
    return (
        sides[0] if math.isfinite(sides[0]) else low - width,
        sides[1] if math.isfinite(sides[1]) else high + width,
    )


def _as_candidates(values: object, task: Task) -> np.ndarray:
    """What an attack returned, as float64 (n, d).

    Raises
    ------
    InputError
        If it is not one candidate for each point.
    """
    try:
        array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values
        flat = np.asarray(array, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"External: the attack returned {type(values).__name__}, expected candidates in the "
            "shape of the points"
        ) from error
    if flat.size != task.points.size or len(flat) != len(task):
        raise InputError(
            f"External: the attack returned shape {flat.shape}, expected one candidate for each "
            f"of {len(task)} points of {task.points.shape[1]} coordinates (NaN where it has none)"
        )
    return flat.reshape(len(task), -1)
