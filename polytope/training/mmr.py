"""MMR: maximum margin regularisation (Croce, Andriushchenko, Hein, AISTATS 2019).

Source: arXiv 1810.07481, Eq. 4 (the signed decision distance), 5 (MMR) and 6 (kMMR).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Literal

import torch
from torch import nn

from polytope.errors import InputError
from polytope.inputs import as_norm, require_inside
from polytope.rows import classes_of
from polytope.sets import BoxLike, as_box
from polytope.training.pairs import decision_rows, geometry_of, nearest_rows, sum_over_pairs
from polytope.training.regulariser import Regulariser
from polytope.training.schedules import Ramp, finite, value_at
from solvers.norms import NormLike


@dataclass(frozen=True, eq=False)
class MMR(Regulariser):
    """Hinges on the distances to the region's boundary and to the decision boundary.

    ``mean_i max(0, 1 - d_B^i / gamma_b) + mean_j max(0, 1 - d_D^j / gamma_d)`` over the k_b
    nearest hyperplanes of the region and the k_d nearest of the decision, with the signed d_D of
    the true label: one of each is Eq. 5, more are Eq. 6. `MMR.published` has the paper's
    schedules.

    Parameters
    ----------
    model : torch.nn.Module
    input_shape : tuple of int
        Shape of one input, without the batch.
    gamma_b, gamma_d : float, optional
        Margins asked for, positive. Without gamma_b only the decision counts (the ablation of
        Table 2), without gamma_d only the regions.
    p : number or "inf"
        The norm of the distances.
    box : Box or pair (low, high), optional
        Distances inside the box (appendix A.1); the paper trains without.
    k_b : int, float or Ramp
        Hyperplanes of the region: a whole number, or a share of the units below 1, or a
        `Ramp` of shares.
    k_d : int or "all"
        Decision hyperplanes; "all" are the other classes, K - 1.
    weight : float or Ramp
        Lambda.
    method : {"auto", "gram", "dynamic", "perturbation", "backprop"}
        How the norms are found among which the nearest are chosen; see `ROLL`.
    batch_norm, memory
        See `ROLL`.

    Notes
    -----
    The loss is a mean over the batch. Distances use the true gradients, also at the borders of
    images, where a convolution's filter is cut. Rows that are nowhere zero have no hyperplane
    and no hinge; so has a class that is ahead by a constant, or by more than the box allows.

    Raises
    ------
    InputError
        For unusable settings, points or labels.
    UnsupportedOperation, SmoothActivation
        Naming the operation that has no linear regions.
    """

    gamma_b: float | None = None
    gamma_d: float | None = None
    _: KW_ONLY
    p: NormLike = 2
    box: BoxLike = None
    k_b: int | float | Ramp = 1
    k_d: int | Literal["all"] = 1

    @classmethod
    def published(
        cls,
        model: nn.Module,
        input_shape: Sequence[int] | int,
        gamma_b: float | None,
        gamma_d: float | None,
        *,
        weight: float,
        epochs: int = 100,
        p: NormLike = 2,
        ramp: float = 10,
        **settings: object,
    ) -> MMR:
        """KMMR as the paper trains it (section 5 and appendix B).

        The nearest 10% of the units at the start and 2% in the last epoch, all decision
        hyperplanes, and a weight that grows to its value over the first 10 epochs (`ramp`).
        """
        return cls(
            model, input_shape, gamma_b, gamma_d, p=p, weight=Ramp(0, weight, ramp),
            k_b=Ramp(0.10, 0.02, epochs), k_d="all", **settings,  # type: ignore[arg-type]
        )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("gamma_b", "gamma_d"):
            value = getattr(self, name)
            if value is not None:
                number = finite(value, f"MMR: {name}")
                if number <= 0:
                    raise InputError(f"MMR: {name}: got {number:g}, expected a positive distance")
                object.__setattr__(self, name, number)
        if self.gamma_b is None and self.gamma_d is None:
            raise InputError("MMR: gamma_b and gamma_d: got neither; give at least one margin")
        object.__setattr__(self, "p", as_norm(self.p))
        object.__setattr__(self, "box", as_box(self.box, self._captured.net.input_size))
        self._check_counts()
        self._method(torch.empty(0), self.p == 2)

    def _check_counts(self) -> None:
        """Refuse numbers of hyperplanes that the network does not have."""
        net = self._captured.net
        ends = [self.k_b.start, self.k_b.end] if isinstance(self.k_b, Ramp) else []
        if isinstance(self.k_b, float):
            ends = [self.k_b]
        for share in ends:
            if not 0 < share < 1:
                raise InputError(
                    f"MMR: k_b: got the share {share:g} of the units, expected one between 0 and "
                    "1; a number of hyperplanes is a whole number"
                )
        if not isinstance(self.k_b, Ramp | float):
            _count(self.k_b, net.units, "k_b", f"the network has {net.units} units")
        others = classes_of(net) - 1
        if self.k_d != "all":
            _count(self.k_d, others, "k_d", f"there are {others} other classes")

    def __call__(self, x: object, y: object = None, *, epoch: float | None = None) -> torch.Tensor:
        """The loss of a batch.

        Parameters
        ----------
        x : tensor (batch, *input_shape)
            In the module's dtype and on its device, inside the box.
        y : tensor (batch,)
            True labels; not needed without gamma_d.
        epoch : float, optional
            Counted from 1; needed if a setting is a `Ramp`.

        Returns
        -------
        tensor ()
        """
        weight = self._weight(epoch)
        p, box = as_norm(self.p), as_box(self.box, self._captured.net.input_size)
        with self._full_precision():
            frozen = self._freeze(x)
            require_inside(frozen.x, box)
            labels = None if self.gamma_d is None else self._labels(y, frozen.x)
            nearest = 0 if self.gamma_b is None else self._nearest(epoch)
            geometry = geometry_of(frozen, labels, p, box, self._budget, nearest)
            parts: list[tuple[torch.Tensor, torch.Tensor, float]] = []
            if self.gamma_b is not None:
                method = self._method(frozen.x, p == 2)
                found = nearest_rows(geometry, nearest, self.gamma_b, method)
                parts.append((*found, self.gamma_b))
            if self.gamma_d is not None:
                others = frozen.logits.shape[1] - 1
                count = others if self.k_d == "all" else int(self.k_d)
                parts.append((*decision_rows(geometry, count), self.gamma_d))
            samples, rows, margins, shares = _joined(parts)
            scale = weight / len(frozen.x)

            def hinge(distance: torch.Tensor, part: slice) -> torch.Tensor:
                return scale * (shares[part] * (1 - distance / margins[part]).clamp(min=0)).sum()

            loss = sum_over_pairs(geometry, samples, rows, hinge)
            return self._checked(loss)

    def _nearest(self, epoch: object) -> int:
        """How many hyperplanes of the region count in an epoch."""
        if isinstance(self.k_b, int):
            return self.k_b
        share = value_at(self.k_b, epoch, "MMR")
        return max(1, math.floor(share * self._captured.net.units + 1e-9))


def _joined(
    parts: list[tuple[torch.Tensor, torch.Tensor, float]],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The pairs whose hinge is not zero: points, rows, margins, and one over k of their part."""
    found = []
    for distance, row, margin in parts:
        samples, column = (distance < margin).nonzero(as_tuple=True)
        picked = row[samples, column]
        margins = torch.full_like(distance[samples, column], margin)
        found.append((samples, picked, margins, torch.full_like(margins, 1 / distance.shape[1])))
    samples, rows, margins, shares = (torch.cat(column) for column in zip(*found, strict=True))
    return samples, rows, margins, shares


def _count(value: object, most: int, name: str, why: str) -> None:
    """Refuse what is no whole number from 1 to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"MMR: {name}: got {value!r}, expected a whole number of at least 1")
    if value > most:
        raise InputError(f"MMR: {name}: got {value}, but {why}; use at most {most}")
