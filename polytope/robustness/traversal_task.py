"""What is fixed for the traversal of the regions around one point."""

from __future__ import annotations

import math

import numpy as np

from polytope.model import Network
from polytope.regions.domain import as_domain
from polytope.regions.program import Program
from polytope.robustness.point_program import point_program
from polytope.robustness.query import Query
from polytope.robustness.traversal_arrays import Task
from polytope.robustness.traversal_exact import ExactRegions


def free_steps(query: Query) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The coordinates (k,) that the box leaves free, and its sides as seen from the point.

    The sides (k,) are rounded outward.
    """
    low, high = query.steps()
    free = np.flatnonzero(low < high)
    below, above = (
        np.where(side == 0, 0.0, np.nextafter(side, way))[free]
        for side, way in ((low, -np.inf), (high, np.inf))
    )
    return free, below, above


def new_task(query: Query, free: np.ndarray, low: np.ndarray, high: np.ndarray) -> Task:
    """The arrays of a task, its radius not yet set: see `set_radius`."""
    net = query.net
    program = point_program(net, query.x, free)
    layer_of = np.repeat(
        np.arange(len(net.layers)), [layer.units * layer.slots for layer in net.layers]
    )
    return Task(
        program, net.rows, np.array([query.lead(t) for t in query.targets]), low.copy(),
        high.copy(), np.stack([low, high]), query.p, _never(net, program),
        layer_of.astype(np.int64),
    )  # fmt: skip


def set_radius(task: Task, radius: float) -> None:
    """Limit the steps of a task to a radius."""
    wide = np.nextafter(radius, np.inf)
    task.low[:] = np.maximum(task.sides[0], -wide)
    task.high[:] = np.minimum(task.sides[1], wide)


def exact_regions(query: Query, free: np.ndarray) -> ExactRegions:
    """The same regions in exact arithmetic."""
    domain = as_domain(query.net, query.box)
    return ExactRegions(query.net, domain, query.x if domain.basis is None else query.x[free])


def reach(query: Query, low: np.ndarray, high: np.ndarray) -> float:
    """How far the box reaches from the point; inf if it does not end."""
    extent = np.linalg.norm(np.maximum(high, -low), ord=query.p) * (1 + 1e-9)
    return float(extent) if math.isfinite(extent) else math.inf


def _never(net: Network, program: Program) -> np.ndarray:
    """Rows that are identically zero whatever the pieces (pruned units): bool (rows,)."""
    never = np.zeros(net.rows, dtype=np.bool_)
    nothing = ~(program.base.any(axis=1) | program.base_error.any(axis=1))
    nothing &= program.start[1:] == program.start[:-1]
    for number, layer in enumerate(net.layers):
        if not layer.is_max:
            first, end, _, units, slots, _, _, offset = program.layers[number].tolist()
            breaks = program.breaks[offset : offset + units * slots].reshape(units, slots)
            never[layer.row_slice] = (nothing[first:end, None] & (breaks == 0)).reshape(-1)
    return never
