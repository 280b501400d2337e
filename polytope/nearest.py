"""The nearest rows inside a box, by the order of their distances without it (MMR, A.1)."""

from __future__ import annotations

from collections.abc import Callable

import torch

#: Projections made for a point before the unboxed distances are looked at again.
FIRST_BLOCK = 4

#: Distances inside the box of pairs (points, rows).
Project = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def nearest_in_box(
    free: torch.Tensor, count: int, project: Project
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """The `count` nearest rows inside a box: distances, rows, and projections made.

    A distance inside the box is never below the one without it, so rows are projected in the
    order of the latter, until the best found is below all that are left.

    Parameters
    ----------
    free : tensor (batch, rows)
        Distances without the box; inf for what is no boundary.
    count : int
    project : callable

    Returns
    -------
    distance, row : tensor (batch, count)
        Ascending; inf (and row 0) where there are fewer.
    made : int
    """
    batch, total = free.shape
    best = free.new_full((batch, max(count, 1)), torch.inf)
    where = torch.zeros((batch, max(count, 1)), dtype=torch.int64, device=free.device)
    if total == 0:
        return best, where, 0
    ordered, order = free.sort(dim=1)
    open_rows = torch.arange(batch, device=free.device)
    position, block, made = 0, max(FIRST_BLOCK, count), 0
    while len(open_rows) and position < total:
        end = min(position + block, total)
        needed = ordered[open_rows, position:end] < best[open_rows, -1:]
        pick, column = needed.nonzero(as_tuple=True)
        samples, rows = open_rows[pick], order[open_rows[pick], position + column]
        table = free.new_full((len(open_rows), end - position), torch.inf)
        table[pick, column] = project(samples, rows)
        made += len(rows)
        joined = torch.cat([best[open_rows], table], 1)
        names = torch.cat([where[open_rows], order[open_rows, position:end]], 1)
        kept = joined.topk(best.shape[1], dim=1, largest=False)
        best[open_rows] = kept.values
        where[open_rows] = names.gather(1, kept.indices)
        position, block = end, 2 * block
        if position < total:
            open_rows = open_rows[ordered[open_rows, position] < best[open_rows, -1]]
    return best, where, made
