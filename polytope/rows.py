"""Rows: the hyperplanes behind which units change their pieces, one by one.

A unit has one row per breakpoint, a maximum one per candidate.  The residual of a row is
oriented so that it is at most 0 in the region; rows from ``net.rows`` on are the decision rows
``f_s - f_c`` of a class c.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from polytope.errors import InputError
from polytope.network.engine import Constants, Decide, Engine, LayerState, gather_windows
from polytope.network.ir import Layer, Max, Piecewise
from polytope.network.rounding import rounding_bounds

#: The rigorous error bounds grow with the product of the absolute weights: on a network of many
#: layers they exceed every number in it. A number counts as zero if it is within its bound and
#: below this part of the largest one in its layer: what float64 really loses is some 1e-15 per
#: layer, so a hyperplane of a trained unit is never taken for a pruned one.
NEGLIGIBLE = 1e-9


def classes_of(net: Engine) -> int:
    """Number of classes: a single logit is a binary decision (class 1 if it is positive)."""
    return max(2, net.output_size)


def as_logits(outputs: torch.Tensor) -> torch.Tensor:
    """Outputs (..., K) as logits; a single one becomes (0, f)."""
    if outputs.shape[-1] > 1:
        return outputs
    return torch.cat([torch.zeros_like(outputs), outputs], dim=-1)


def negligible(net: Engine, values: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
    """Which numbers (batch, rows) are zero up to rounding, by `NEGLIGIBLE`: bool (batch, rows)."""
    sizes = values.detach().abs()
    zero = sizes <= error
    for layer in net.layers:
        own = sizes[:, layer.row_slice]
        zero[:, layer.row_slice] &= own <= NEGLIGIBLE * own.amax(dim=1, keepdim=True)
    return zero


@dataclass(frozen=True)
class RowTable:
    """Values of all rows of a batch, the decision rows last, and their rounding errors.

    Attributes
    ----------
    residual, value_error, normal_error : tensor (batch, rows + classes)
        As in `Hyperplanes`; the column of the class itself has residual -inf.
    active : tensor (batch, rows), bool
    logits : tensor (batch, classes)
    """

    residual: torch.Tensor
    value_error: torch.Tensor
    normal_error: torch.Tensor
    active: torch.Tensor
    logits: torch.Tensor


def row_table(
    net: Engine,
    x: torch.Tensor,
    states: list[LayerState],
    pieces: torch.Tensor,
    classes: torch.Tensor,
    c: Constants,
) -> RowTable:
    """Put the layers of a finished sweep side by side and add the rounding errors."""
    bounds = rounding_bounds(net, x.detach(), pieces)
    residuals, actives = [], [torch.zeros(len(x), 0, dtype=torch.bool, device=x.device)]
    values, normals = [], []
    for state, bound in zip(states[:-1], bounds[:-1], strict=True):
        residual, active = layer_rows(net, state, c)
        residuals.append(residual)
        actives.append(active)
        values.append(_row_errors(net, state, bound.value, c))
        normals.append(_row_errors(net, state, bound.gradient, c))
    logits = as_logits(states[-1].values)
    index = classes[:, None]
    own = torch.nn.functional.one_hot(classes, logits.shape[1]).bool()
    value, gradient = (as_logits(e) for e in (bounds[-1].value, bounds[-1].gradient))
    rounded = torch.finfo(x.dtype).eps * logits.detach().abs()
    value = value + rounded
    residuals.append((logits - logits.gather(1, index)).masked_fill(own, -torch.inf))
    values.append(value + value.gather(1, index))
    normals.append(gradient + gradient.gather(1, index))
    return RowTable(
        torch.cat(residuals, 1), torch.cat(values, 1), torch.cat(normals, 1),
        torch.cat(actives, 1), logits,
    )  # fmt: skip


def pieces_of_states(states: list[LayerState], x: torch.Tensor) -> torch.Tensor:
    """Pieces (batch, units) that a finished sweep took."""
    none = torch.zeros(len(x), 0, dtype=torch.int64, device=x.device)
    return torch.cat([none, *(s.pieces.flatten(1) for s in states if s.pieces is not None)], 1)


def row_values(
    net: Engine,
    x: torch.Tensor,
    pieces: torch.Tensor,
    rows: torch.Tensor,
    classes: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Residual, value error and normal error of one row per point: three tensors (batch,)."""
    states = list(net.sweep(x, None, given_pieces(pieces)))
    c = net.constants(x.dtype, x.device)
    table = row_table(net, x, states, pieces, classes, c)
    index = rows[:, None]
    found = (table.residual, table.value_error, table.normal_error)
    residual, value_error, normal_error = (t.gather(1, index).squeeze(1) for t in found)
    return residual, value_error, normal_error


def layer_rows(net: Engine, state: LayerState, c: Constants) -> tuple[torch.Tensor, torch.Tensor]:
    """Residuals of a layer's rows, and which bound the current piece: (batch, units * slots)."""
    layer, node, pieces = piecewise_state(net, state)
    own = pieces.flatten(1).unsqueeze(2)
    slots = torch.arange(layer.slots, device=own.device)
    if isinstance(node, Piecewise):
        breakpoints = _per_unit(c[node.breakpoints], net, layer)
        above = torch.where(own <= slots, 1.0, -1.0).to(state.values.dtype)
        residual = (state.values.unsqueeze(2) - breakpoints) * above
        active = (own == slots) | (own == slots + 1)
        return residual.flatten(1), active.flatten(1)
    assert isinstance(node, Max)
    index = c[node.index]
    candidates = gather_windows(state.values, index, -torch.inf)
    winner = candidates.gather(2, own)
    positions = index.unsqueeze(0).expand(len(own), *index.shape)
    active = (index >= 0) & (positions != positions.gather(2, own))
    residual = torch.where(active, candidates - winner, torch.zeros_like(candidates))
    return residual.flatten(1), active.flatten(1)


def layer_slopes(net: Engine, state: LayerState, c: Constants) -> torch.Tensor:
    """Derivatives of a layer's oriented rows along each direction: (batch, directions, rows)."""
    layer, node, pieces = piecewise_state(net, state)
    assert state.gradients is not None
    spread = state.gradients.expand(len(pieces), *state.gradients.shape[1:])
    own = pieces.flatten(1).unsqueeze(2)
    if isinstance(node, Piecewise):
        slots = torch.arange(layer.slots, device=own.device)
        sign = torch.where(own <= slots, 1.0, -1.0).to(spread.dtype)
        return (spread.unsqueeze(3) * sign.unsqueeze(1)).flatten(2)
    assert isinstance(node, Max)
    index = c[node.index]
    winner = index.unsqueeze(0).expand(len(own), *index.shape).gather(2, own).squeeze(2)
    chosen = spread.gather(2, winner.unsqueeze(1).expand(-1, spread.shape[1], -1))
    return (gather_windows(spread, index, 0.0) - chosen.unsqueeze(3)).flatten(2)


def _row_errors(net: Engine, state: LayerState, error: torch.Tensor, c: Constants) -> torch.Tensor:
    """Errors of a layer's rows from those of its pre-activations.

    A subtraction adds its own rounding, which the factor covers (the operands' errors are
    never below one rounding of the operands, except at exact inputs, whose difference is
    rounded once: that is added from the values).
    """
    layer, node, pieces = piecewise_state(net, state)
    unit = torch.finfo(error.dtype).eps
    if isinstance(node, Piecewise):
        breakpoints = _per_unit(c[node.breakpoints], net, layer).abs().detach()
        rounded = torch.where(
            breakpoints > 0, unit * (state.values.detach().abs().unsqueeze(2) + breakpoints), 0.0
        )
        return (error.unsqueeze(2) + rounded).flatten(1)
    assert isinstance(node, Max)
    index = c[node.index]
    candidates = gather_windows(error, index, 0.0)
    sizes = gather_windows(state.values.detach().abs(), index, 0.0)
    own = pieces.flatten(1).unsqueeze(2)
    both = candidates + candidates.gather(2, own) + unit * (sizes + sizes.gather(2, own))
    return both.flatten(1)


def piecewise_state(net: Engine, state: LayerState) -> tuple[Layer, Piecewise | Max, torch.Tensor]:
    """The layer, operation and pieces of a state that is not the output's."""
    assert state.layer is not None
    assert state.pieces is not None
    op = net.graph.nodes[state.layer.node].op
    assert isinstance(op, Piecewise | Max)
    return state.layer, op, state.pieces


def _per_unit(constant: torch.Tensor, net: Engine, layer: Layer) -> torch.Tensor:
    """A constant (*broadcastable, k) as (units, k)."""
    shape = net.graph.nodes[layer.node].shape
    return constant.expand(*shape, constant.shape[-1]).reshape(layer.units, -1)


def given_pieces(pieces: torch.Tensor) -> Decide:
    """A `decide` that takes the pieces (batch, units) as given."""

    def decide(layer: Layer, values: torch.Tensor, gradients: torch.Tensor | None) -> torch.Tensor:
        del values, gradients
        return pieces[:, layer.unit_slice]

    return decide


def row_normals(
    net: Engine,
    x: torch.Tensor,
    pieces: torch.Tensor,
    samples: torch.Tensor,
    rows: torch.Tensor,
    classes: torch.Tensor,
    constants: Constants | None = None,
    memory: int = 2**29,
) -> torch.Tensor:
    """Normals of single rows by one reverse pass: (pairs, input size).

    Parameters
    ----------
    net : Engine
    x : tensor (batch, *input_shape)
    pieces : tensor (batch, units)
    samples, rows : tensor (pairs,)
        Point and row of each pair; rows from ``net.rows`` on are decision rows.
    classes : tensor (batch,)
    constants : mapping, optional
        Constants that carry gradients; the normals are then differentiable.
    memory : int
        Bytes for one block of pairs.
    """
    widest = sum(node.size for node in net.graph.nodes) + sum(
        layer.units * layer.slots for layer in net.layers
    )
    block = max(1, memory // (4 * widest * x.element_size()))
    parts = [
        _normals(net, x, pieces, samples[i : i + block], rows[i : i + block], classes, constants)
        for i in range(0, len(samples), block)
    ]
    return torch.cat(parts) if parts else x.new_zeros(0, net.input_size)


def _normals(
    net: Engine,
    x: torch.Tensor,
    pieces: torch.Tensor,
    samples: torch.Tensor,
    rows: torch.Tensor,
    classes: torch.Tensor,
    constants: Constants | None,
) -> torch.Tensor:
    """One block of `row_normals`."""
    c = net.constants(x.dtype, x.device) if constants is None else constants
    with torch.enable_grad():
        points = x[samples].detach().requires_grad_()
        total = points.sum() * 0
        for state in net.sweep(points, None, given_pieces(pieces[samples]), constants):
            if state.layer is None:
                mine = (rows >= net.rows).nonzero().flatten()
                if len(mine):
                    logits = as_logits(state.values)[mine]
                    chosen = logits.gather(1, classes[samples[mine]][:, None])
                    total = (
                        total + (logits - chosen).gather(1, (rows[mine] - net.rows)[:, None]).sum()
                    )
                continue
            place = state.layer.row_slice
            mine = ((rows >= place.start) & (rows < place.stop)).nonzero().flatten()
            if len(mine):
                assert state.pieces is not None
                part = LayerState(state.layer, state.values[mine], state.pieces[mine], None)
                residual, _ = layer_rows(net, part, c)
                total = total + residual.gather(1, (rows[mine] - place.start)[:, None]).sum()
        (gradient,) = torch.autograd.grad(total, points, create_graph=constants is not None)
    return gradient.flatten(1)


def neighbour_piece(net: Engine, pieces: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The piece behind a row: (pairs,) from pieces (pairs, units) and rows (pairs,)."""
    result = torch.zeros_like(rows)
    for layer in net.layers:
        place = layer.row_slice
        mine = ((rows >= place.start) & (rows < place.stop)).nonzero().flatten()
        local = rows[mine] - place.start
        slot = local % layer.slots
        if layer.is_max:
            result[mine] = slot
        else:
            own = pieces[mine, layer.first_unit + local // layer.slots]
            result[mine] = torch.where(own <= slot, slot + 1, slot)
    return result


def unit_of_row(net: Engine, row: int) -> tuple[Layer, int, int]:
    """The layer, the unit within it, and the slot (breakpoint or candidate) of a row."""
    for layer in net.layers:
        place = layer.row_slice
        if place.start <= row < place.stop:
            local = row - place.start
            return layer, local // layer.slots, local % layer.slots
    raise InputError(f"row {row} is not one of the network's {net.rows} rows")


def oriented_part(
    net: Engine,
    number: int,
    state: LayerState,
    zero: LayerState,
    value_error: torch.Tensor,
    gradient_error: torch.Tensor,
) -> list[np.ndarray]:
    """One layer's rows of a region's A and b, their errors, and unit, slot and pieces of each."""
    layer, pieces, gradients = state.layer, state.pieces, state.gradients
    assert layer is not None
    assert pieces is not None
    assert gradients is not None
    c = net.constants(state.values.dtype, state.values.device)
    residual, active = layer_rows(net, zero, c)
    rows = active[0].nonzero().flatten()
    unit, slot = rows // layer.slots, rows % layer.slots
    piece = pieces.flatten()[unit]
    normals, place, beyond = _oriented(net, layer, gradients[0], unit, slot, piece)
    errors = [
        sum((error[0][where] for where in place), torch.zeros_like(residual[0][rows]))
        for error in (gradient_error, value_error)
    ]
    offset = -residual[0][rows]
    rounding = torch.finfo(offset.dtype).eps * offset.abs()
    arrays = [normals, offset, errors[0], errors[1] + rounding]
    arrays += [torch.full_like(unit, number), unit, slot, piece, beyond]
    return [array.cpu().numpy() for array in arrays]


def _oriented(
    net: Engine,
    layer: Layer,
    gradients: torch.Tensor,
    unit: torch.Tensor,
    slot: torch.Tensor,
    piece: torch.Tensor,
) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    """Normals (rows, d) pointing outward, the pre-activations they come from, pieces beyond."""
    op = net.graph.nodes[layer.node].op
    if isinstance(op, Max):
        index = net.constants(gradients.dtype, gradients.device)[op.index]
        competitor, winner = index[unit, slot], index[unit, piece]
        normals = gradients[:, competitor] - gradients[:, winner]
        return normals.T.contiguous(), [competitor, winner], slot
    sign = torch.where(piece <= slot, 1.0, -1.0).to(gradients.dtype)
    beyond = torch.where(piece <= slot, slot + 1, slot)
    return (gradients[:, unit] * sign).T.contiguous(), [unit], beyond
