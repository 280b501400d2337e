"""`Run`: a training at work, one step at a time, and its state between two steps."""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from polytope.errors import Diverged, InputError, PolytopeError
from polytope.examples import Examples
from polytope.network.torch_module import tensors_of
from polytope.training.checkpoint import State
from polytope.training.evaluation import batches, evaluate, logits_of
from polytope.training.recipe import Recipe

#: Name of the loss of the task in the history.
TASK = "cross_entropy"


class Loss(Protocol):
    """What `train` adds to the cross-entropy: any loss of this package, or your own.

    One with an attribute ``replaces_task`` that is true (adversarial training, TRADES) stands
    in for the cross-entropy.
    """

    def __call__(self, x: torch.Tensor, y: torch.Tensor, *, epoch: float) -> torch.Tensor:
        """A scalar for a batch of points (n, *shape) with labels (n,), epochs counted from 1."""


class Run:
    """A training at work.

    Parameters
    ----------
    model, examples, recipe, losses, validation
        As in `train`.
    """

    def __init__(
        self,
        model: nn.Module,
        examples: Examples,
        recipe: Recipe,
        losses: Sequence[Loss],
        validation: Examples | None,
    ) -> None:
        self.model, self.examples, self.recipe = model, examples, recipe
        self.validation = validation
        self.losses = dict(zip(_names(losses), losses, strict=True))
        self._replaced = _replaces(model, self.losses)
        self.optimizer = recipe.optimizer_for(model)
        if len(examples) % recipe.batch == 1 and any(
            isinstance(layer, _BatchNorm) for layer in model.modules()
        ):
            raise InputError(
                f"train: {len(examples)} examples in batches of {recipe.batch} leave a batch of "
                "one, which has no statistics for BatchNorm; use another batch size"
            )
        self.steps = math.ceil(len(examples) / recipe.batch)
        self.epoch, self.at = 1, 0
        self.history: dict[str, list[float]] = {"epoch": []}
        self._sums: dict[str, float] = {}
        self._best: dict[str, torch.Tensor] | None = None
        self._best_epoch, self._best_score = 0, math.inf
        self._before, self._begun = 0.0, time.perf_counter()
        self._order = np.empty(0, dtype=np.int64)
        self._order_of = 0

    # Where it stands -----------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch > self.recipe.epochs

    @property
    def total(self) -> int:
        """Steps of the whole training."""
        return self.recipe.epochs * self.steps

    @property
    def done(self) -> int:
        """Steps done."""
        return (self.epoch - 1) * self.steps + self.at

    @property
    def seconds(self) -> float:
        """Time spent, earlier runs included."""
        return self._before + time.perf_counter() - self._begun

    def made_by(self) -> dict[str, Any]:
        """What makes this training another one than others: for the checkpoint."""
        return {
            **self.recipe.as_dict(),
            "network": repr(self.model),
            "parameters": {
                name: [*tensor.shape, str(tensor.dtype)] for name, tensor in tensors_of(self.model)
            },
            "losses": {
                name: re.sub(" at 0x[0-9a-fA-F]+", "", repr(loss))
                for name, loss in self.losses.items()
            },
            "examples": _digest(self.examples),
            "validation": None if self.validation is None else _digest(self.validation),
        }

    def state(self) -> State:
        """A copy of where it stands."""
        return State(
            self.epoch, self.at, self.seconds, _copied(self.model.state_dict()),
            deepcopy(self.optimizer.state_dict()), dict(self._sums),
            {name: list(column) for name, column in self.history.items()},
            self._best, self._best_epoch, self._best_score,
        )  # fmt: skip

    def restore(self, state: State) -> None:
        """Go back to a state."""
        self.model.load_state_dict(state.model)
        self.optimizer.load_state_dict(deepcopy(state.optimizer))
        self.epoch, self.at = state.epoch, state.step
        self._sums = dict(state.sums)
        self.history = {name: list(column) for name, column in state.history.items()}
        self._best, self._best_epoch = state.best, state.best_epoch
        self._best_score = state.best_score
        self._before, self._begun = state.seconds, time.perf_counter()

    def finish(self) -> int:
        """Put the chosen weights into the module, in evaluation mode: their epoch."""
        self.model.eval()
        if not self.ended or self._best is None:
            return self.epoch - 1
        self.model.load_state_dict(self._best)
        return self._best_epoch

    # Steps ---------------------------------------------------------------------------------

    def step(self) -> None:
        """One step of the optimiser, and after the last of an epoch what is measured then.

        Raises
        ------
        Diverged
            At a loss that is not finite, or after a step that led to such parameters.
        """
        recipe = self.recipe
        if self._order_of != self.epoch:
            self._order = _generator(recipe.seed, self.epoch).permutation(len(self.examples))
            self._order_of = self.epoch
        rows = self._order[self.at * recipe.batch : (self.at + 1) * recipe.batch]
        torch.manual_seed(int(_generator(recipe.seed, self.epoch, self.at + 1).integers(2**62)))
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate_at(self.epoch)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        for x, y in batches(self.model, self.examples, rows):
            self._backward(x, y, len(y) / len(rows), len(y))
        self.optimizer.step()
        self._require_finite()
        self.at += 1
        if self.at == self.steps:
            self._close_epoch()

    def _backward(self, x: torch.Tensor, y: torch.Tensor, share: float, count: int) -> None:
        """Add the gradients of one group of a batch, weighted by its share."""
        terms: dict[str, torch.Tensor] = {}
        if not self._replaced:
            terms[TASK] = functional.cross_entropy(logits_of(self.model, x, y), y)
        for name, loss in self.losses.items():
            try:
                terms[name] = loss(x, y, epoch=self.epoch)
            except PolytopeError as error:
                if type(error) is PolytopeError:  # values that overflow, not a wrong setting
                    raise Diverged(f"{self._place}: {error}") from error
                raise
        for name, term in terms.items():
            value = float(term.detach())
            if not math.isfinite(value):
                raise Diverged(
                    f"{self._place}: the loss {name} is {value}; lower the learning rate or its "
                    "weight"
                )
            self._sums[name] = self._sums.get(name, 0.0) + count * value
        total = share * torch.stack(list(terms.values())).sum()
        total.backward()  # type: ignore[no-untyped-call]

    def _require_finite(self) -> None:
        """Refuse NaN and infinity in the parameters, naming the first, and whence it came."""
        named = [(n, p) for n, p in self.model.named_parameters() if p.grad is not None]
        # A finite sum has finite terms, and is many times cheaper than looking at each of them.
        if all(math.isfinite(float(p.detach().sum())) for _, p in named):
            return
        for what in ("gradient", "parameter"):
            for name, parameter in named:
                tensor = parameter.grad if what == "gradient" else parameter
                if tensor is not None and not bool(torch.isfinite(tensor).all()):
                    raise Diverged(
                        f"{self._place}: the {what} of {name!r} holds NaN or infinity, though the "
                        f"losses ({', '.join(self._sums)}) are finite; lower the learning rate"
                    )

    @property
    def _place(self) -> str:
        return f"epoch {self.epoch}, batch {self.at + 1} of {self.steps}"

    def _close_epoch(self) -> None:
        """Measure, choose, and go on to the next epoch."""
        row: dict[str, float] = {"epoch": self.epoch, "rate": self.recipe.rate_at(self.epoch)}
        row |= {name: total / len(self.examples) for name, total in self._sums.items()}
        if self.validation is not None:
            found = evaluate(self.model, self.validation)
            row |= {"validation_error": found.error, "validation_loss": found.loss}
            if self.recipe.choose != "last":
                score = found.error if self.recipe.choose == "error" else found.loss
                if score < self._best_score:
                    self._best_score, self._best_epoch = score, self.epoch
                    self._best = _copied(self.model.state_dict())
        row["seconds"] = self.seconds
        for name, value in row.items():
            self.history.setdefault(name, []).append(value)
        self.epoch, self.at, self._sums = self.epoch + 1, 0, {}


def _names(losses: Sequence[Loss]) -> list[str]:
    """The losses' names in the history: their classes', numbered where one comes twice."""
    plain = [type(loss).__name__ for loss in losses]
    plain = [getattr(loss, "__name__", p) for p, loss in zip(plain, losses, strict=True)]
    names: list[str] = []
    for number, name in enumerate(plain):
        before = plain[:number].count(name)
        names.append(name if plain.count(name) == 1 else f"{name}_{before + 1}")
    if TASK in names:
        raise InputError(f"train: a loss is called {TASK!r} like that of the task; rename it")
    return names


def _replaces(model: nn.Module, losses: Mapping[str, Loss]) -> bool:
    """Whether a loss stands in for the cross-entropy.

    Raises
    ------
    InputError
        If several do, or a loss was made for another module.
    """
    whole = [name for name, loss in losses.items() if getattr(loss, "replaces_task", False)]
    if len(whole) > 1:
        raise InputError(
            f"train: losses: got {' and '.join(whole)}, each of which is the loss of a whole "
            "step; expected at most one of them"
        )
    for name, loss in losses.items():
        if getattr(loss, "model", model) is not model:
            raise InputError(
                f"train: losses: {name} was made for another module than the one that is trained"
            )
    return bool(whole)


def _copied(tensors: dict[str, Any]) -> dict[str, Any]:
    """Copies on the CPU."""
    return {k: v.detach().cpu().clone() if torch.is_tensor(v) else v for k, v in tensors.items()}


def _generator(*numbers: int) -> np.random.Generator:
    """Draws that depend on these numbers only."""
    return np.random.default_rng(list(numbers))


def _digest(examples: Examples) -> str:
    """The examples' content."""
    digest = hashlib.sha256(repr((examples.x.shape, examples.x.dtype)).encode())
    for array in (examples.x, examples.y, examples.lengths):
        if array is not None:
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]
