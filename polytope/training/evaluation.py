"""Error and cross-entropy of a module on labelled examples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from polytope.errors import InputError
from polytope.examples import Examples
from polytope.network.torch_module import dtype_and_device
from polytope.rows import as_logits
from polytope.training.checks import require_logits

#: Points evaluated at once.
BATCH = 1000


@dataclass(frozen=True)
class Evaluation:
    """What a module does on examples.

    Attributes
    ----------
    error : float
        Share of wrong decisions, in [0, 1]; the first of equal logits is the decision.
    loss : float
        Mean cross-entropy.
    """

    error: float
    loss: float


def batches(
    model: nn.Module, examples: Examples, rows: np.ndarray
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Points and labels of some rows in the module's dtype and on its device.

    Series come grouped by length, without what they were filled up with.
    """
    dtype, device = dtype_and_device(model)
    for part, length in examples.groups(rows):
        points = examples.x[part] if length is None else examples.x[part, :length]
        yield (
            torch.from_numpy(points).to(device=device, dtype=dtype),
            torch.from_numpy(examples.y[part]).to(device),
        )


def logits_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The module's outputs as logits (n, classes); a single output f is (0, f).

    Raises
    ------
    InputError
        If the outputs are not one logit for each class, or probabilities.
    """
    outputs = model(x)
    if not isinstance(outputs, torch.Tensor) or outputs.ndim != 2 or len(outputs) != len(x):
        shape = tuple(outputs.shape) if torch.is_tensor(outputs) else type(outputs).__name__
        raise InputError(f"the module gives {shape} for {len(x)} points, expected (n, classes)")
    require_logits(outputs, "the module")
    logits = as_logits(outputs)
    if int(y.max()) >= logits.shape[1]:
        raise InputError(
            f"a label is {int(y.max())}, but the module has {logits.shape[1]} outputs; classes "
            "count from 0"
        )
    return logits


def evaluate(model: nn.Module, examples: Examples) -> Evaluation:
    """Error and cross-entropy in evaluation mode; the module's mode is put back.

    Parameters
    ----------
    model : torch.nn.Module
        Gives logits (n, classes), in its own dtype and on its own device.
    examples : Examples

    Raises
    ------
    InputError
        If there are no examples, or the module does not fit them.
    """
    if not len(examples):
        raise InputError("evaluate: got no examples, expected at least one")
    was_training = model.training
    model.eval()
    wrong, loss = 0, 0.0
    try:
        with torch.no_grad():
            for start in range(0, len(examples), BATCH):
                rows = np.arange(start, min(start + BATCH, len(examples)))
                for x, y in batches(model, examples, rows):
                    logits = logits_of(model, x, y)
                    wrong += int((logits.argmax(1) != y).sum())
                    loss += float(functional.cross_entropy(logits.double(), y, reduction="sum"))
    finally:
        model.train(was_training)
    return Evaluation(wrong / len(examples), loss / len(examples))
