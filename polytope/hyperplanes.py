"""Every hyperplane of the regions of a batch: its value, its dual norm, and their errors.

A *row* is a hyperplane behind which one unit changes its piece: a unit has one row per
breakpoint, a maximum one per candidate.  The residual of a row is oriented so that it is at
most 0 in the region, and the decision rows ``f_s - f_c`` come last.  Norms are accumulated
layer by layer and, where a single point is too large, over blocks of input coordinates, so
that (points x rows x inputs) never stands in memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch

from polytope.errors import InputError
from polytope.jacobians import Method, chunk_rows, layer_gradients
from polytope.network.engine import Constants, Decide, Engine, LayerState
from polytope.network.ir import Max, Piecewise
from polytope.rows import (
    as_logits,
    classes_of,
    negligible,
    pieces_of_states,
    piecewise_state,
    row_table,
)
from solvers.norms import vector_norm


@dataclass(frozen=True)
class Hyperplanes:
    """The rows of a batch of regions, and the decision rows of a class.

    Attributes
    ----------
    residual : tensor (batch, rows)
        Oriented value at the point: at most 0 inside the region (up to rounding).
    active : tensor (batch, rows), bool
        Whether the row bounds the current piece; the others (a farther breakpoint of the
        unit, the winner of a maximum itself) are implied.
    norm : tensor (batch, rows)
        l_q norm of the gradient, q dual to p.
    value_error, normal_error : tensor (batch, rows)
        Bounds on the rounding error of the residual, and of the gradient in l_1.
    null : tensor (batch, rows), bool
        Rows that are identically zero, in gradient and value, and so no boundary: a pruned
        unit, two equal candidates (see `NEGLIGIBLE`).
    pieces : tensor (batch, units)
    logits : tensor (batch, classes)
    classes : tensor (batch,)
        The class whose decision is analysed.
    decision, decision_norm, decision_value_error, decision_normal_error
        The same for the rows ``f_s - f_c`` (batch, classes); column c is not a row: its
        residual is -inf.
    """

    residual: torch.Tensor
    active: torch.Tensor
    norm: torch.Tensor
    value_error: torch.Tensor
    normal_error: torch.Tensor
    null: torch.Tensor
    pieces: torch.Tensor
    logits: torch.Tensor
    classes: torch.Tensor
    decision: torch.Tensor
    decision_norm: torch.Tensor
    decision_value_error: torch.Tensor
    decision_normal_error: torch.Tensor

    def select(self, points: list[int]) -> Hyperplanes:
        """The hyperplanes of some of the points."""
        return Hyperplanes(**{f.name: getattr(self, f.name)[points] for f in fields(self)})

    def distances(self) -> torch.Tensor:
        """Distance to every row (batch, rows), computed in float; inf where it is no boundary."""
        return _ratio((-self.residual).clamp(min=0), self.norm, self.active & ~self.null)

    def safe_distances(self) -> torch.Tensor:
        """A proved lower bound of every row's distance: rounding errors taken off.

        Only a normal that is zero by structure (no path of nonzero weights reaches the unit)
        is no boundary here; one that merely rounds to zero gets the bound 0.
        """
        room = (-self.residual - self.value_error).clamp(min=0)
        return _ratio(room, self.norm + self.normal_error, self.active)

    def decision_distances(self) -> torch.Tensor:
        """Signed distance to each decision row (batch, classes): negative where s is ahead.

        Where ``f_s - f_c`` is constant it is 0 for a tie, and infinite otherwise.
        """
        return signed_distances(self.decision, self.decision_norm)

    def safe_decision_distances(self) -> torch.Tensor:
        """A proved lower bound of the distance to each decision row, 0 if it is passed."""
        finite = torch.isfinite(self.decision)
        room = (-self.decision - self.decision_value_error).clamp(min=0).where(finite, 0)
        return _ratio(room, self.decision_norm + self.decision_normal_error, finite)


def signed_distances(decision: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
    """Distances to decision rows of these values and norms: see `decision_distances`."""
    finite = torch.isfinite(decision)
    size = _ratio(decision.abs().where(finite, 0), norm, finite)
    size = torch.where(decision == 0, torch.zeros_like(size), size)
    return torch.where(decision > 0, -size, size)


def _ratio(room: torch.Tensor, norm: torch.Tensor, usable: torch.Tensor) -> torch.Tensor:
    """``room / norm``, 0 at zero room on a true normal, inf without a normal."""
    proper = usable & (norm > 0)
    divided = room / torch.where(proper, norm, torch.ones_like(norm))
    return torch.where(proper, divided, torch.full_like(divided, torch.inf))


def hyperplanes(
    net: Engine,
    x: torch.Tensor,
    q: float,
    classes: torch.Tensor | None = None,
    method: Method = "auto",
    constants: Constants | None = None,
    decide: Decide | None = None,
    memory: int = 2**29,
) -> Hyperplanes:
    """The hyperplanes of the regions of one chunk of points (see `chunk_size`).

    Parameters
    ----------
    net : Engine
    x : tensor (batch, *input_shape)
    q : float
        Exponent of the norm of the gradients.
    classes : tensor (batch,), optional
        Class whose decision rows are wanted; the predicted one by default.
    method, constants, decide
        See `polytope.jacobians.layer_gradients`.
    memory : int
        Bytes; if one point exceeds it, input coordinates are taken in blocks.
    """
    size = net.input_size
    fit = chunk_rows(net, size, x.element_size(), memory)
    c = net.constants(x.dtype, x.device) if constants is None else constants
    if fit >= 1:
        blocks: list[slice | None] = [None]
    else:
        width = max(1, chunk_rows(net, 1, x.element_size(), memory))
        blocks = [slice(start, start + width) for start in range(0, size, width)]
    norms: list[torch.Tensor] = []
    states: list[LayerState] = []
    for number, block in enumerate(blocks):
        states = []
        sweep = layer_gradients(net, x, method, constants, decide, block)
        for index, state in enumerate(sweep):
            if state.layer is None and classes is None:
                classes = as_logits(state.values).argmax(dim=1)
            part = _row_norms(net, state, c, q, classes)
            if number == 0:
                norms.append(part)
            else:
                norms[index] = vector_norm(torch.stack([norms[index], part]), q, dim=0)
            states.append(LayerState(state.layer, state.values, state.pieces, None))
    assert classes is not None
    pieces = pieces_of_states(states, x)
    table = row_table(net, x, states, pieces, classes, c)
    norm = torch.cat([n.expand(len(x), -1) for n in norms], 1)
    split = net.rows
    residual, value_error = table.residual[:, :split], table.value_error[:, :split]
    normal_error = table.normal_error[:, :split]
    null = negligible(net, norm[:, :split], normal_error) & negligible(net, residual, value_error)
    return Hyperplanes(
        residual=residual,
        active=table.active,
        norm=norm[:, :split],
        value_error=value_error,
        normal_error=normal_error,
        null=null,
        pieces=pieces,
        logits=table.logits,
        classes=classes,
        decision=table.residual[:, split:],
        decision_norm=norm[:, split:],
        decision_value_error=table.value_error[:, split:],
        decision_normal_error=table.normal_error[:, split:],
    )


@dataclass(frozen=True)
class DecisionRows:
    """The decision rows of a batch alone.

    Attributes
    ----------
    classes : tensor (batch,)
        The class c whose decision is analysed.
    value : tensor (batch, classes)
        ``f_s - f_c``; column c is not a row: -inf.
    normal : tensor (batch, classes, inputs)
        Its gradient in the point's region.
    """

    classes: torch.Tensor
    value: torch.Tensor
    normal: torch.Tensor

    def distances(self, q: float) -> torch.Tensor:
        """Signed distances (batch, classes) without a box, by l_q norms of the normals."""
        return signed_distances(self.value, _norm(self.normal.transpose(1, 2), q))


def decision_rows(
    net: Engine,
    x: torch.Tensor,
    classes: torch.Tensor | None = None,
    constants: Constants | None = None,
) -> DecisionRows:
    """The decision rows of one chunk of points: a forward pass, and a reverse one for each class.

    Parameters
    ----------
    net, x, classes, constants
        As for `hyperplanes`.
    """
    with torch.enable_grad():
        points = x.detach().requires_grad_()
        *_, last = net.sweep(points, None, None, constants)
        logits = as_logits(last.values)
        if classes is None:
            classes = logits.detach().argmax(dim=1)
        index = classes[:, None]
        value = logits - logits.gather(1, index)
        normals = [
            torch.autograd.grad(
                value[:, s].sum(), points, retain_graph=True, create_graph=constants is not None,
                materialize_grads=True, allow_unused=True,
            )[0].flatten(1)
            for s in range(value.shape[1])
        ]  # fmt: skip
    own = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, index, value=True)
    if constants is None:
        value = value.detach()
    return DecisionRows(classes, value.masked_fill(own, -torch.inf), torch.stack(normals, 1))


def decision_chunk(net: Engine, x: torch.Tensor, memory: int) -> int:
    """How many of the points may be given to `decision_rows` at once (at least one).

    Raises
    ------
    InputError
        If the budget is not positive.
    """
    _require_positive(memory)
    graph = 4 * sum(node.size for node in net.graph.nodes)
    own = graph + 2 * classes_of(net) * net.input_size
    return max(1, memory // (own * x.element_size()))


def chunk_size(net: Engine, x: torch.Tensor, memory: int) -> int:
    """How many of the points may be given to `hyperplanes` at once (at least one).

    Raises
    ------
    InputError
        If the budget is not positive.
    """
    _require_positive(memory)
    own = 6 * (net.rows + net.units + 1) * x.element_size()
    return max(1, min(chunk_rows(net, net.input_size, x.element_size(), memory), memory // own))


def _require_positive(memory: int) -> None:
    if memory <= 0:
        raise InputError(f"memory: got {memory} bytes, expected a positive number")


def _norm(gradients: torch.Tensor, q: float) -> torch.Tensor:
    """l_q norms over the directions (batch, directions, n), scaled where powers would not fit."""
    norm: torch.Tensor = torch.linalg.vector_norm(gradients, q, dim=1)
    if q in (1.0, math.inf):
        return norm
    limits = torch.finfo(norm.dtype)
    least = (limits.tiny / limits.eps) ** (1 / q)
    most = (limits.max / gradients.shape[1]) ** (1 / q)
    fits = (norm.detach() >= least) & (norm.detach() <= most)
    return norm if bool(fits.all()) else vector_norm(gradients, q, dim=1)


def _row_norms(
    net: Engine, state: LayerState, c: Constants, q: float, classes: torch.Tensor | None
) -> torch.Tensor:
    """l_q norms over the directions of a layer's rows, or of the decision rows."""
    gradients = state.gradients
    assert gradients is not None
    if state.layer is None:
        outputs = as_logits(gradients)
        assert classes is not None
        index = classes[:, None, None].expand(-1, outputs.shape[1], 1)
        spread = outputs.expand(len(classes), -1, -1)
        return _norm(spread - spread.gather(2, index), q)
    layer, node, pieces = piecewise_state(net, state)
    if isinstance(node, Piecewise):
        norm = _norm(gradients, q)
        return torch.repeat_interleave(norm, layer.slots, dim=1)
    assert isinstance(node, Max)
    index = c[node.index]
    positions = index.unsqueeze(0).expand(len(pieces), *index.shape)
    winners = positions.gather(2, pieces.flatten(1).unsqueeze(2)).squeeze(2)
    spread = gradients.expand(len(pieces), *gradients.shape[1:])
    chosen = spread.gather(2, winners.unsqueeze(1).expand(-1, spread.shape[1], -1))
    columns = [
        _norm(spread[:, :, index[:, j].clamp(min=0)] - chosen, q) for j in range(layer.slots)
    ]
    return torch.stack(columns, dim=2).flatten(1)
