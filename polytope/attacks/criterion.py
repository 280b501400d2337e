"""What counts as adversarial: another class, or a target, at least as high as the label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from polytope.errors import InputError
from polytope.inputs import as_labels


@dataclass(frozen=True)
class Criterion:
    """The decision that attacks try to change, for each point of a batch.

    Attributes
    ----------
    labels : int array (n,)
    targets : int array (n,) or None
        The only class that counts for each point; None: any other than the label.
    """

    labels: np.ndarray
    targets: np.ndarray | None = None

    def select(self, rows: np.ndarray) -> Criterion:
        """The criterion of some of the points, in the order given."""
        return Criterion(self.labels[rows], None if self.targets is None else self.targets[rows])

    def leads(self, logits: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """How far each class that counts is above the label; -inf for the others.

        Parameters
        ----------
        logits : tensor (m, classes)
        rows : tensor (m,), optional
            The point that each row of logits belongs to; by default one each.

        Returns
        -------
        tensor (m, classes)
            Differentiable; some entry is at least 0 where the point is adversarial.
        """
        pick = slice(None) if rows is None else rows.cpu().numpy()
        labels = torch.as_tensor(self.labels[pick], device=logits.device)[:, None]
        classes = torch.arange(logits.shape[1], device=logits.device)
        if self.targets is None:
            counted = classes != labels
        else:
            counted = classes == torch.as_tensor(self.targets[pick], device=logits.device)[:, None]
        return torch.where(counted, logits - logits.gather(1, labels), -torch.inf)


def as_criterion(labels: torch.Tensor, target: object, classes: int) -> Criterion:
    """A criterion from checked labels and what the user gave as the target.

    Raises
    ------
    InputError
        If a target is no class of the network, or is the label itself.
    """
    own = labels.numpy()
    if target is None:
        return Criterion(own)
    given = np.full(len(own), target) if np.ndim(target) == 0 else target  # type: ignore[arg-type]
    try:
        targets = as_labels(given, len(own), classes).numpy()
    except InputError as error:
        raise InputError(f"target{str(error).removeprefix('y')}") from error
    same = np.flatnonzero(targets == own)
    if len(same):
        raise InputError(
            f"target: class {targets[same[0]]} is the label of row {same[0]} itself; give another "
            "class, or target=None for any other class"
        )
    return Criterion(own, targets)
