"""ROLL: losses that enlarge linear regions (Lee, Alvarez-Melis, Jaakkola, ICLR 2019).

Source: arXiv 1907.03207, Eq. 4 (`RegionMargin`), Eq. 7, 9 and 10 (`ROLL`), appendices C and D.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

import torch

from polytope.errors import InputError
from polytope.inputs import as_norm, require_inside
from polytope.sets import BoxLike, as_box
from polytope.training.accumulate import accumulated
from polytope.training.frozen import Frozen
from polytope.training.gradients import (
    TrainingMethod,
    normals,
    row_norms,
    rows_of_units,
    spans,
    weighted_squares,
)
from polytope.training.gram import (
    Chain,
    chain_of,
    products_of,
    squared_norms,
    sum_of_squares,
)
from polytope.training.pairs import geometry_of, nearest_rows, sum_over_pairs
from polytope.training.regulariser import Regulariser
from polytope.training.schedules import finite
from solvers.norms import NormLike

Constants = Mapping[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class ROLL(Regulariser):
    """The mean relaxed loss ``||grad z||_2^2 + C max(0, 1 - |z|)`` of a point's units (Eq. 9).

    Parameters
    ----------
    model : torch.nn.Module
    input_shape : tuple of int
        Shape of one input, without the batch.
    C : float
        Weight of the hinge, at least 0.
    gamma : float or "max"
        The mean is over the int(N gamma / 100) largest relaxed losses of the N units; 100 is
        the plain mean, "max" the largest alone (Eq. 7).
    axes : int, optional
        Take this many input coordinates, drawn anew at each call, and scale by D / axes: an
        unbiased estimate (Eq. 10); for gamma = 100.
    weight : float or Ramp
        Lambda.
    method : {"auto", "gram", "dynamic", "perturbation", "backprop"}
        "gram" takes squared norms from Gram matrices and never forms the gradients
        (fully connected chains); "dynamic" is appendix D, "perturbation" section 4.1 and
        appendix C, "backprop" one reverse pass per unit. All give the same.
    batch_norm : {"running", "batch"}, optional
        For a module whose BatchNorm layers are in training mode: hold the running statistics,
        or those of the batch, fixed over the inputs. None refuses such a module.
    memory : int
        Bytes that one chunk of gradients may take.

    Notes
    -----
    The loss is a mean over the batch. A unit with several breakpoints has a row for each that
    bounds its piece, a maximum one per candidate that lost (appendix E); |z| is then what the
    row is at the point. Draws are torch's, so `torch.manual_seed` repeats them.

    Raises
    ------
    InputError
        For unusable settings or points.
    UnsupportedOperation, SmoothActivation
        Naming the operation that has no linear regions.
    """

    _: KW_ONLY
    C: float = 1.0
    gamma: float | str = 100.0
    axes: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "C", finite(self.C, "ROLL: C"))
        if self.C < 0:
            raise InputError(f"ROLL: C: got {self.C:g}, expected at least 0")
        self._check_gamma()
        self._check_axes()
        self._method(torch.empty(0), True)

    def _check_gamma(self) -> None:
        if self.gamma == "max":
            return
        gamma = finite(self.gamma, "ROLL: gamma")
        object.__setattr__(self, "gamma", gamma)
        if not 0 < gamma <= 100:
            raise InputError(
                f"ROLL: gamma: got {gamma:g}, expected a percentage above 0 and up to 100, or 'max'"
            )
        units = self._captured.net.units
        if int(units * gamma / 100) < 1:
            raise InputError(
                f"ROLL: gamma: {gamma:g} percent of {units} units is less than one unit; use at "
                f"least {100 / units:.3g}, or gamma='max' for the largest loss alone"
            )

    def _check_axes(self) -> None:
        if self.axes is None:
            return
        inputs = self._captured.net.input_size
        if isinstance(self.axes, bool) or not isinstance(self.axes, int) or self.axes < 1:
            raise InputError(
                f"ROLL: axes: got {self.axes!r}, expected a whole number of at least 1"
            )
        if self.axes > inputs:
            raise InputError(
                f"ROLL: axes: got {self.axes}, but an input has {inputs} coordinates; use None "
                "for all of them"
            )
        if self.gamma != 100:
            raise InputError(
                f"ROLL: axes: sampled axes estimate the plain mean only (Eq. 10); got "
                f"gamma={self.gamma!r}, use gamma=100 or all axes"
            )
        if self.method not in ("auto", "perturbation"):
            raise InputError(
                f"ROLL: axes: sampled axes are perturbations, got method={self.method!r}; leave "
                "it at 'auto'"
            )

    def __call__(
        self,
        x: object,
        y: object = None,
        *,
        epoch: float | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """The loss of a batch.

        Parameters
        ----------
        x : tensor (batch, *input_shape)
            In the module's dtype and on its device.
        y : object, optional
            Not used: the loss needs no labels.
        epoch : float, optional
            Needed if the weight is a `Ramp`.
        generator : torch.Generator, optional
            Draws the axes; on the CPU. torch's own by default.

        Returns
        -------
        tensor ()
        """
        del y
        return self.with_logits(x, epoch=epoch, generator=generator)[1]

    def with_logits(
        self,
        x: object,
        *,
        epoch: float | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The outputs and the loss from one forward pass, which spares the module's own.

        The outputs (batch, classes) are those of the module in evaluation mode (with
        ``batch_norm="batch"`` those of its training mode); a single logit f is (0, f), and a
        trailing softmax is taken off.
        """
        weight = self._weight(epoch)
        with self._full_precision():
            frozen = self._freeze(x)
            loss = weight * (
                self._plain(frozen, generator) if self.gamma == 100 else self._top(frozen)
            )
            return frozen.logits, self._checked(loss)

    def _hinge(self, values: torch.Tensor) -> torch.Tensor:
        return self.C * (1 - values.abs()).clamp(min=0)

    def _plain(self, frozen: Frozen, generator: torch.Generator | None) -> torch.Tensor:
        """Eq. 9 with gamma = 100, or Eq. 10."""
        net, x = frozen.net, frozen.x
        method = self._method(x, True) if self.axes is None else "perturbation"
        hinge = self._hinge(frozen.values)
        weights: torch.Tensor | float
        if frozen.active is None:
            weights = 1 / (len(x) * net.rows)
            hinge = hinge.sum() * weights
        else:
            count = frozen.active.sum(1, keepdim=True).clamp(min=1)
            weights = frozen.active.to(x.dtype) / (len(x) * count)
            hinge = (hinge * weights).sum()
        chain = chain_of(net) if method == "gram" else None
        if chain is not None:
            return hinge + self._gram(frozen, chain, weights)
        drawn = self._axes(net.input_size, x.device, generator)
        return hinge + self._squares(frozen, method, weights, drawn)

    def _axes(
        self, inputs: int, device: torch.device, generator: torch.Generator | None
    ) -> torch.Tensor | None:
        """The axes of this call; None for all."""
        if self.axes is None:
            return None
        return torch.randperm(inputs, generator=generator)[: self.axes].to(device)

    def _squares(
        self,
        frozen: Frozen,
        method: TrainingMethod,
        weights: torch.Tensor | float,
        drawn: torch.Tensor | None,
    ) -> torch.Tensor:
        """The weighted sum of squared derivatives, in chunks of points and axes."""
        x, inputs = frozen.x, frozen.net.input_size
        count = inputs if drawn is None else len(drawn)
        size, block = self._budget.points_and_axes(frozen.net, x, count)
        factor = inputs / count

        def terms(c: Constants, _: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
            for points in spans(len(x), size):
                for part in spans(count, block):
                    axes = part if drawn is None else drawn[part]
                    yield factor * weighted_squares(frozen, method, c, points, axes, weights)

        return accumulated(terms, frozen.constants)

    def _gram(self, frozen: Frozen, chain: Chain, weights: torch.Tensor | float) -> torch.Tensor:
        """The weighted sum of squared norms of a chain, in chunks of points."""
        net, x = frozen.net, frozen.x
        size = self._budget.chain_points(net, x)
        totals = isinstance(weights, float) and all(layer.slots == 1 for layer in net.layers)
        products = products_of(frozen, chain, totals)

        def terms(c: Constants, others: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
            own = products.restored(others)
            if totals:
                yield len(x) * weights * own.matrices[0].square().sum()
            for points in spans(len(x), size):
                if totals:
                    yield weights * sum_of_squares(frozen, own, c, points)
                    continue
                found = squared_norms(frozen, own, c, points)
                rows = torch.cat(rows_of_units(net, found, len(x[points])), 1)
                yield (rows * (weights if isinstance(weights, float) else weights[points])).sum()

        return accumulated(terms, frozen.constants, *products.flat())

    def _top(self, frozen: Frozen) -> torch.Tensor:
        """Eq. 9 with gamma below 100, or Eq. 7."""
        net, x = frozen.net, frozen.x
        method = self._method(x, True)
        chain = chain_of(net) if method == "gram" else None
        if chain is not None:
            return self._top_of_chain(frozen, chain)
        with torch.no_grad():
            squares = row_norms(frozen, 2.0, method, self._budget).square()
            relaxed = squares + self._hinge(frozen.values)
            weights = self._chosen(relaxed, frozen.active) / len(x)
        hinge = (self._hinge(frozen.values) * weights).sum()
        samples, rows = weights.nonzero(as_tuple=True)
        if len(rows) >= len(x) * net.input_size:
            return hinge + self._squares(frozen, method, weights, None)
        pairs = self._budget.pairs(net, x)

        def terms(c: Constants, _: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
            for part in spans(len(rows), pairs):
                normal, order = normals(frozen, c, samples[part], rows[part])
                own = weights[samples[part], rows[part]][order]
                yield (own * normal.square().sum(1)).sum()

        return hinge + accumulated(terms, frozen.constants)

    def _top_of_chain(self, frozen: Frozen, chain: Chain) -> torch.Tensor:
        """The same for a chain, whose squared norms are differentiable as they are."""
        net, x = frozen.net, frozen.x
        size = self._budget.chain_points(net, x)
        products = products_of(frozen, chain, False)

        def terms(c: Constants, others: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
            own = products.restored(others[1:])
            for points in spans(len(x), size):
                values = others[0][points]
                found = squared_norms(frozen, own, c, points)
                relaxed = torch.cat(rows_of_units(net, found, len(values)), 1) + self._hinge(values)
                active = None if frozen.active is None else frozen.active[points]
                yield (relaxed * self._chosen(relaxed.detach(), active)).sum() / len(x)

        return accumulated(terms, frozen.constants, frozen.values, *products.flat())

    def _chosen(self, relaxed: torch.Tensor, active: torch.Tensor | None) -> torch.Tensor:
        """One over their number for the largest losses of each point, 0 for the others."""
        if active is not None:
            relaxed = torch.where(active, relaxed, -torch.inf)
            units = active.sum(1, keepdim=True)
        else:
            units = torch.full_like(relaxed[:, :1], relaxed.shape[1]).long()
        share = 0.0 if self.gamma == "max" else float(self.gamma)
        count = (units.double() * share / 100).floor().long().clamp(min=1)
        count = torch.minimum(count, units)
        order = relaxed.argsort(dim=1, descending=True)
        rank = torch.arange(relaxed.shape[1], device=relaxed.device) < count
        mean = rank.to(relaxed.dtype) / count.clamp(min=1)
        return torch.zeros_like(relaxed).scatter_(1, order, mean)


@dataclass(frozen=True, eq=False)
class RegionMargin(Regulariser):
    """Minus the distance to the nearest hyperplane of a point's region (ROLL, Eq. 4).

    Parameters
    ----------
    model, input_shape, weight, batch_norm, memory
        As in `ROLL`.
    p : number or "inf"
        The norm; 2 in the paper.
    box : Box or pair (low, high), optional
        Only steps inside the box count.
    method : {"auto", "gram", "dynamic", "perturbation", "backprop"}
        How the norms are found among which the nearest is chosen.

    Notes
    -----
    The loss is ``-weight`` times the mean distance of the points that have a hyperplane in
    reach; a point without any has no margin to enlarge and is left out. As the paper says, the
    loss is rigid and has no lower bound: `ROLL` is its relaxation.
    """

    _: KW_ONLY
    p: NormLike = 2
    box: BoxLike = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "p", as_norm(self.p))
        object.__setattr__(self, "box", as_box(self.box, self._captured.net.input_size))
        self._method(torch.empty(0), self.p == 2)

    def __call__(self, x: object, y: object = None, *, epoch: float | None = None) -> torch.Tensor:
        """The loss of a batch: parameters as in `ROLL`; no labels are needed."""
        del y
        weight = self._weight(epoch)
        box = as_box(self.box, self._captured.net.input_size)
        with self._full_precision():
            frozen = self._freeze(x)
            require_inside(frozen.x, box)
            p = as_norm(self.p)
            geometry = geometry_of(frozen, None, p, box, self._budget, 1)
            distance, row = nearest_rows(
                geometry, 1, torch.inf, self._method(frozen.x, p == 2)
            )  # fmt: skip
            samples, column = torch.isfinite(distance).nonzero(as_tuple=True)
            scale = -weight / max(1, len(samples))
            loss = sum_over_pairs(
                geometry, samples, row[samples, column], lambda found, _: scale * found.sum()
            )
            return self._checked(loss)
