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
from polytope.sets import Box
from polytope.training.accumulate import accumulated
from polytope.training.first import Shared, norms_by_gram, shared_norms
from polytope.training.frozen import Frozen, pull
from polytope.training.gradients import Budget, TrainingMethod, normals, row_norms, spans
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
    shared : Shared, or None
        Norms that all points share; None with a box, where distances are no ratios.
    budget : Budget
    """

    frozen: Frozen
    values: torch.Tensor
    labels: torch.Tensor | None
    p: float
    slack: tuple[torch.Tensor, torch.Tensor] | None
    shared: Shared | None
    budget: Budget

    @property
    def leaves(self) -> tuple[torch.Tensor, ...]:
        """What distances are made of beside the constants: values, shared norms, Gram matrix."""
        if self.shared is None:
            return (self.values,)
        gram = () if self.shared.gram is None else (self.shared.gram,)
        return self.values, self.shared.norms, *gram

    def chunks(self, pairs: int) -> list[slice]:
        """Parts of the pairs that fit into memory."""
        return spans(pairs, self.budget.pairs(self.frozen.net, self.frozen.x))


def geometry_of(
    frozen: Frozen,
    labels: torch.Tensor | None,
    p: float,
    box: Box | None,
    budget: Budget,
    count: int,
) -> Geometry:
    """Put the decision rows behind the others, and measure the box from the points.

    About `count` rows of each point's region will be asked for.
    """
    values = frozen.values
    if labels is not None:
        logits = frozen.logits
        values = torch.cat([values, logits.gather(1, labels.unsqueeze(1)) - logits], 1)
    if box is not None:
        points = frozen.x.flatten(1).double()
        low, high = (
            torch.as_tensor(side.copy(), device=points.device) for side in (box.low, box.high)
        )
        slack = low - points, high - points
        return Geometry(frozen, values, labels, p, slack, None, budget)
    pairs = count if len(frozen.net.layers) > 1 else 0
    pairs = len(frozen.x) * (pairs + values.shape[1] - frozen.net.rows)
    shared = shared_norms(frozen, dual_exponent(p), budget.memory, pairs)
    return Geometry(frozen, values, labels, p, None, shared, budget)


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
        distance, row, _ = nearest_in_box(
            free, count, lambda samples, rows: distances(geometry, samples, rows)
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
        found = distances(geometry, samples, rows).reshape(others.shape)
    found = torch.where(torch.isfinite(found), found, torch.inf)
    best = found.topk(count, dim=1, largest=False)
    return best.values, rows.reshape(others.shape).gather(1, best.indices)


def distances(geometry: Geometry, samples: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Distances of pairs without a graph, chunk by chunk."""
    c, leaves = geometry.frozen.detached, [leaf.detach() for leaf in geometry.leaves]
    parts = [geometry.values.new_zeros(0)]
    for part in geometry.chunks(len(rows)):
        parts.append(pair_distances(geometry, c, leaves, samples[part], rows[part]))
    return torch.cat(parts)


def pair_distances(
    geometry: Geometry,
    c: Constants,
    leaves: Sequence[torch.Tensor],
    samples: torch.Tensor,
    rows: torch.Tensor,
) -> torch.Tensor:
    """Distances of one chunk of pairs, differentiable in the constants and the leaves.

    Parameters
    ----------
    geometry : Geometry
    c : mapping
        Constants, detached or leaves.
    leaves : sequence of tensor
        Likewise: what stands for ``geometry.leaves``.
    samples, rows : tensor (pairs,)

    Returns
    -------
    tensor (pairs,)
        inf where there is no hyperplane, or the box does not reach it; the sign of a decision
        row's value is kept.
    """
    value = leaves[0][samples, rows]
    left = torch.arange(len(rows), device=rows.device)
    distance = value.new_zeros(len(rows))
    if geometry.shared is not None:
        known = (rows < len(geometry.shared.known)).nonzero().flatten()
        known = known[geometry.shared.known[rows[known]]]
        found = _ratio(value[known].abs(), leaves[1][rows[known]])
        distance = distance.index_put((known,), found)
        left = torch.ones_like(rows, dtype=torch.bool).index_fill(0, known, False).nonzero()
        left = left.flatten()
    if len(left):
        if len(leaves) > 2:
            found, order = _by_gram(geometry, c, leaves[2], samples[left], rows[left])
            left = left[order]
            found = _ratio(value[left].abs(), found)
        else:
            normal, order = _all_normals(geometry, c, samples[left], rows[left])
            left = left[order]
            found = _distance(geometry, normal, value[left], samples[left])
        distance = distance.index_put((left,), found)
    behind = (rows >= geometry.frozen.net.rows) & (value.detach() < 0)
    return torch.where(behind, -distance, distance)


def _by_gram(
    geometry: Geometry,
    c: Constants,
    gram: torch.Tensor,
    samples: torch.Tensor,
    rows: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """l_2 norms of the normals of rows behind the first layer, and which pair each is."""
    assert geometry.shared is not None
    frozen, node = geometry.frozen, geometry.shared.node
    a, order = _all_normals(geometry, c, samples, rows, node)
    norms, doubtful = norms_by_gram(a, gram)
    if bool(doubtful.any()):
        some = doubtful.nonzero().flatten()
        normal = pull(frozen, node, a[some].reshape(-1, *frozen.net.graph.nodes[node].shape),
                      samples[order][some], c)  # fmt: skip
        norms = norms.index_put((some,), vector_norm(normal, dim=1))
    return norms, order


def sum_over_pairs(
    geometry: Geometry,
    samples: torch.Tensor,
    rows: torch.Tensor,
    term: Callable[[torch.Tensor, slice], torch.Tensor],
) -> torch.Tensor:
    """``sum term(distances of a chunk, the chunk)``, with gradients to the parameters."""

    def terms(c: Constants, others: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        for part in geometry.chunks(len(rows)):
            found = pair_distances(geometry, c, others, samples[part], rows[part])
            yield term(found, part)

    return accumulated(terms, geometry.frozen.constants, *geometry.leaves)


def _all_normals(
    geometry: Geometry, c: Constants, samples: torch.Tensor, rows: torch.Tensor, stop: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Normals of rows and decision rows, and which pair each is; see `pull` for `stop`."""
    frozen = geometry.frozen
    split = frozen.net.rows
    last = (rows >= split).nonzero().flatten()
    inner = (rows < split).nonzero().flatten()
    found, order = normals(frozen, c, samples[inner], rows[inner], stop)
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
    decisions = pull(frozen, final, a, points, c, stop)
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
