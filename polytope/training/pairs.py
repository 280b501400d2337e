"""Distances to single rows: pairs of a point and a row, found first and differentiated then.

Rows from ``net.rows`` on are decision rows ``f_y - f_s`` of a point's label y; their distance
is signed: positive where y is ahead of s (MMR, Eq. 4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.linalg import vector_norm

from polytope.nearest import nearest_in_box
from polytope.network.ir import Affine, Gather, Layer, Linear
from polytope.sets import Box
from polytope.training.accumulate import accumulated
from polytope.training.frozen import Frozen, pull
from polytope.training.gradients import Budget, TrainingMethod, normals, row_norms, spans
from polytope.training.gram import matrix_of
from solvers.norms import dual_exponent
from solvers.projection import project_to_hyperplane

Constants = Mapping[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Geometry:
    """A frozen batch with all that distances need.

    Attributes
    ----------
    frozen : Frozen
    values : tensor (batch, rows + classes)
        What the rows are at the points, the decision rows ``f_y - f_s`` last; with its graph.
    labels : tensor (batch,) or None
    p : float
        The norm.
    slack : pair of tensor (batch, d), or None
        The box minus the points, float64.
    budget : Budget
    """

    frozen: Frozen
    values: torch.Tensor
    labels: torch.Tensor | None
    p: float
    slack: tuple[torch.Tensor, torch.Tensor] | None
    budget: Budget

    def chunks(self, pairs: int) -> list[slice]:
        """Parts of the pairs that fit into memory."""
        return spans(pairs, self.budget.pairs(self.frozen.net, self.frozen.x))


def geometry_of(
    frozen: Frozen, labels: torch.Tensor | None, p: float, box: Box | None, budget: Budget
) -> Geometry:
    """Put the decision rows behind the others, and measure the box from the points."""
    values = frozen.values
    if labels is not None:
        logits = frozen.logits
        values = torch.cat([values, logits.gather(1, labels.unsqueeze(1)) - logits], 1)
    slack = None
    if box is not None:
        points = frozen.x.flatten(1).double()
        low, high = (
            torch.as_tensor(side.copy(), device=points.device) for side in (box.low, box.high)
        )
        slack = low - points, high - points
    return Geometry(frozen, values, labels, p, slack, budget)


def nearest_rows(
    geometry: Geometry, count: int, limit: float, method: TrainingMethod
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` nearest hyperplanes of each point's region, without a graph.

    Parameters
    ----------
    geometry : Geometry
    count : int
    limit : float
        Rows at this distance or beyond need not be found.
    method : TrainingMethod

    Returns
    -------
    distance, row : tensor (batch, count)
        Ascending; inf for none.
    """
    frozen = geometry.frozen
    norms = row_norms(frozen, dual_exponent(geometry.p), method, geometry.budget)
    sizes = frozen.values.detach().abs()
    usable = norms > 0
    if frozen.active is not None:
        usable &= frozen.active
    free = torch.where(usable, sizes / torch.where(usable, norms, 1.0), torch.inf)
    free = torch.where(free < limit, free, torch.inf)
    count = min(count, free.shape[1])
    if geometry.slack is None:
        found = free.topk(count, dim=1, largest=False)
        return found.values, found.indices
    with torch.no_grad():
        c, values = frozen.detached, geometry.values.detach()
        distance, row, _ = nearest_in_box(
            free, count, lambda samples, rows: distances(geometry, c, values, samples, rows)
        )
    return torch.where(distance < limit, distance, torch.inf), row


def decision_rows(geometry: Geometry, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` smallest signed distances to the decision rows, without a graph.

    Returns
    -------
    distance, row : tensor (batch, count)
        Ascending; inf for none. A class that is ahead by a constant, or by more than the box
        can make up for, has no hyperplane to be moved and counts as none.
    """
    frozen = geometry.frozen
    batch, classes = frozen.logits.shape
    assert geometry.labels is not None
    device = frozen.x.device
    others = torch.arange(classes - 1, device=device).expand(batch, -1)
    others = others + (others >= geometry.labels.unsqueeze(1))
    samples = torch.arange(batch, device=device).unsqueeze(1).expand_as(others).flatten()
    rows = frozen.net.rows + others.flatten()
    with torch.no_grad():
        c, values = frozen.detached, geometry.values.detach()
        found = distances(geometry, c, values, samples, rows).reshape(others.shape)
    found = torch.where(torch.isfinite(found), found, torch.inf)
    best = found.topk(count, dim=1, largest=False)
    return best.values, rows.reshape(others.shape).gather(1, best.indices)


def distances(
    geometry: Geometry,
    c: Constants,
    values: torch.Tensor,
    samples: torch.Tensor,
    rows: torch.Tensor,
) -> torch.Tensor:
    """Distances of pairs, chunk by chunk; for a result without a graph."""
    parts = [values.new_zeros(0)]
    for part in geometry.chunks(len(rows)):
        parts.append(pair_distances(geometry, c, values, samples[part], rows[part]))
    return torch.cat(parts)


def pair_distances(
    geometry: Geometry,
    c: Constants,
    values: torch.Tensor,
    samples: torch.Tensor,
    rows: torch.Tensor,
) -> torch.Tensor:
    """Distances of one chunk of pairs, differentiable in the constants and the values.

    Parameters
    ----------
    geometry : Geometry
    c : mapping
        Constants, detached or leaves.
    values : tensor (batch, rows + classes)
        Likewise.
    samples, rows : tensor (pairs,)

    Returns
    -------
    tensor (pairs,)
        inf where there is no hyperplane, or the box does not reach it; the sign of a decision
        row's value is kept.
    """
    frozen = geometry.frozen
    distance = values.new_zeros(len(rows))
    rest = torch.ones_like(rows, dtype=torch.bool)
    if geometry.slack is None:
        for layer, norm in _shared_norms(frozen, c, dual_exponent(geometry.p), rows):
            mine = ((rows >= layer.row_slice.start) & (rows < layer.row_slice.stop)).nonzero()
            mine = mine.flatten()
            units = (rows[mine] - layer.first_row) // layer.slots
            value = values[samples[mine], rows[mine]]
            distance = distance.index_put((mine,), _ratio(value.abs(), norm[units]))
            rest[mine] = False
    left = rest.nonzero().flatten()
    if len(left):
        normal, order = _all_normals(geometry, c, samples[left], rows[left])
        left = left[order]
        value = values[samples[left], rows[left]]
        distance = distance.index_put((left,), _distance(geometry, normal, value, samples[left]))
    decision = rows >= frozen.net.rows
    behind = decision & (values.detach()[samples, rows] < 0)
    return torch.where(behind, -distance, distance)


def sum_over_pairs(
    geometry: Geometry,
    samples: torch.Tensor,
    rows: torch.Tensor,
    term: Callable[[torch.Tensor, slice], torch.Tensor],
) -> torch.Tensor:
    """``sum term(distances of a chunk, the chunk)``, with gradients to the parameters."""

    def terms(c: Constants, others: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        for part in geometry.chunks(len(rows)):
            found = pair_distances(geometry, c, others[0], samples[part], rows[part])
            yield term(found, part)

    return accumulated(terms, geometry.frozen.constants, geometry.values)


def _all_normals(
    geometry: Geometry, c: Constants, samples: torch.Tensor, rows: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Normals of rows and decision rows, and which pair each is."""
    frozen = geometry.frozen
    split = frozen.net.rows
    last = (rows >= split).nonzero().flatten()
    inner = (rows < split).nonzero().flatten()
    found, order = normals(frozen, c, samples[inner], rows[inner])
    if not len(last):
        return found, inner[order]
    assert geometry.labels is not None
    points, outputs = samples[last], frozen.net.output_size
    a = frozen.x.new_zeros(len(last), frozen.logits.shape[1])
    a.scatter_(1, geometry.labels[points].unsqueeze(1), 1.0)
    a.scatter_(1, (rows[last] - split).unsqueeze(1), -1.0)
    final = len(frozen.net.graph.nodes) - 1
    shape = frozen.net.graph.output_shape
    a = a[:, a.shape[1] - outputs :].reshape(len(last), *shape)
    decisions = pull(frozen, final, a, points, c)
    return torch.cat([found, decisions]), torch.cat([inner[order], last])


def _distance(
    geometry: Geometry, normal: torch.Tensor, value: torch.Tensor, samples: torch.Tensor
) -> torch.Tensor:
    """Unsigned distances to hyperplanes with these normals and values."""
    if geometry.slack is None:
        return _ratio(value.abs(), vector_norm(normal, dual_exponent(geometry.p), dim=1))
    low, high = (side[samples] for side in geometry.slack)
    return project_to_hyperplane(
        normal.double(), value.double(), low, high, geometry.p
    ).distance.to(value.dtype)


def _ratio(size: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
    """``size / norm``; inf without a normal."""
    proper = norm > 0
    divided = size / torch.where(proper, norm, torch.ones_like(norm))
    return torch.where(proper, divided, torch.inf)


def _shared_norms(
    frozen: Frozen, c: Constants, q: float, rows: torch.Tensor
) -> list[tuple[Layer, torch.Tensor]]:
    """Norms of units that a fully connected layer feeds straight from the input.

    They are the same for every point, so they are taken once and not per pair.
    """
    found = []
    for layer in frozen.net.layers:
        block = _block_from_input(frozen, layer)
        if block and bool((rows < layer.row_slice.stop).any()):
            matrix = matrix_of(frozen.net, block, frozen.net.input_size, c)
            found.append((layer, vector_norm(matrix, q, dim=1)))
    return found


def _block_from_input(frozen: Frozen, layer: Layer) -> tuple[int, ...] | None:
    """The nodes from the input to a layer, if they are fully connected and elementwise."""
    if layer.is_max:
        return None
    nodes, block = frozen.net.graph.nodes, []
    number, dense = nodes[layer.node].inputs[0], False
    while number:
        op = nodes[number].op
        if isinstance(op, Linear):
            if len(nodes[number].shape) != 1:
                return None
            dense = True
        elif not (isinstance(op, Affine) or op == Gather(None)):
            return None
        block.append(number)
        number = nodes[number].inputs[0]
    return tuple(reversed(block)) if dense else None
