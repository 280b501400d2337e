"""The robust loss of Wong and Kolter: cross entropy of the margins that the dual bound proves.

Source: Wong and Kolter, ICML 2018 (arXiv 1711.00851), Theorem 2 and Eq. 12.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from polytope.errors import InputError, UnsupportedOperation
from polytope.inputs import as_norm
from polytope.rows import classes_of
from polytope.sets import BoxLike, as_box
from polytope.training.accumulate import accumulated
from polytope.training.ball import perturbations_around
from polytope.training.captured_loss import CapturedLoss
from polytope.training.dual import Around, Constants, DualNetwork, dual_bytes
from polytope.training.frozen import Frozen
from polytope.training.gradients import spans
from polytope.training.schedules import Ramp, not_negative, value_at
from solvers.norms import NormLike


@dataclass(frozen=True, eq=False)
class WongKolter(CapturedLoss):
    """The cross entropy of ``-J``, where J bounds ``f_y - f_k`` from below in a ball.

    It is the loss of a whole step, never below the cross entropy at any point of the ball.

    Parameters
    ----------
    model : torch.nn.Module
        Piecewise linear, without maxima.
    input_shape : tuple of int
        Shape of one input, without the batch.
    eps : float or Ramp
        Radius of the ball, at least 0; the paper lets it grow over the first epochs.
    p : number or "inf"
        Norm of the ball.
    box : Box or pair (low, high), optional
        For p = inf: the ball is cut off at the box, which has to hold the points.
    batch_norm, memory
        See `ROLL`.

    Notes
    -----
    The loss is a mean over the batch. All hidden units are bounded by backward passes of their
    own, as in the paper, so that a step costs some ``units`` times a plain one; points are taken
    in chunks that fit `memory`, at least one at a time.

    Raises
    ------
    InputError
        For unusable settings, points or labels.
    UnsupportedOperation, SmoothActivation
        Naming the operation that has no parallel lines.
    """

    replaces_task: ClassVar[bool] = True

    eps: float | Ramp
    _: KW_ONLY
    p: NormLike = math.inf
    box: BoxLike = None

    def __post_init__(self) -> None:
        super().__post_init__()
        net = self._captured.net
        for layer in net.layers:
            if layer.is_max:
                raise UnsupportedOperation(
                    f"WongKolter: {net.graph.nodes[layer.node].name!r} is a maximum, which the "
                    "dual network has no parallel lines for; use strides or average pooling in "
                    "its place, or another loss"
                )
        object.__setattr__(self, "eps", not_negative(self.eps, "WongKolter: eps"))
        object.__setattr__(self, "p", as_norm(self.p))
        object.__setattr__(self, "box", as_box(self.box, net.input_size))
        if self.box is not None and self.p != math.inf:
            raise InputError(
                f"WongKolter: box: a ball is cut off at a box for p='inf' only, got p={self.p:g}; "
                "use box=None, which bounds more than is asked for"
            )

    def __call__(self, x: object, y: object = None, *, epoch: float | None = None) -> torch.Tensor:
        """The loss of a batch.

        Parameters
        ----------
        x : tensor (batch, *input_shape)
            In the module's dtype and on its device, inside the box.
        y : tensor (batch,)
            Labels.
        epoch : float, optional
            Counted from 1; needed if eps is a `Ramp`.

        Returns
        -------
        tensor ()
        """
        with self._full_precision():
            frozen = self._freeze(x)
            labels = self._labels(y, frozen.x)
            around = self._around(frozen.x, epoch)

            def terms(c: Constants, _: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
                for part in self._chunks(frozen):
                    margins = self._margins(c, around, labels, part)
                    yield F.cross_entropy(-margins, labels[part], reduction="sum") / len(labels)

            return self._checked(accumulated(terms, frozen.constants))

    def margins(self, x: object, y: object = None, *, epoch: float | None = None) -> torch.Tensor:
        """The bounds J of ``f_y - f_k`` for each class k, without a graph: (batch, classes).

        A point whose bounds are all positive but its own label's, which is 0, is robust, up to
        rounding. Parameters are those of a call.
        """
        with torch.no_grad(), self._full_precision():
            frozen = self._freeze(x)
            labels = self._labels(y, frozen.x)
            around = self._around(frozen.x, epoch)
            return torch.cat([
                self._margins(frozen.constants, around, labels, part)
                for part in self._chunks(frozen)
            ])  # fmt: skip

    def _chunks(self, frozen: Frozen) -> list[slice]:
        """Parts of the batch that fit into memory."""
        size = dual_bytes(frozen.net, frozen.x.element_size())
        return spans(len(frozen.x), max(1, self.memory // size))

    def _around(self, x: torch.Tensor, epoch: object) -> Around:
        """The sets around the points."""
        radius, p = value_at(self.eps, epoch, "WongKolter"), as_norm(self.p)
        if self.box is None:
            return Around(x.flatten(1), radius, p)
        ball = perturbations_around(x, radius, p, self.box)
        low, high = (
            ball.project(torch.full_like(x, side)).flatten(1) for side in (-radius, radius)
        )
        return Around(x.flatten(1) + (low + high) / 2, (high - low) / 2, p)

    def _margins(
        self, c: Constants, around: Around, labels: torch.Tensor, part: slice
    ) -> torch.Tensor:
        """J of some of the points: (points, classes)."""
        net, own = self._captured.net, labels[part]
        classes = classes_of(net)
        one = torch.eye(classes, dtype=around.middle.dtype, device=own.device)
        a = (one[own].unsqueeze(1) - one)[:, :, classes - net.output_size :]
        dual = DualNetwork(self._captured, around.at(part), c)
        low, _ = dual.bounds(len(net.graph.nodes) - 1, a)
        return low
