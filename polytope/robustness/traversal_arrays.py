"""The arrays of the compiled traversal: what is fixed, the region at hand, what was found."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polytope.network.engine import Engine
from polytope.regions import cross_kernels
from polytope.regions.program import Program
from polytope.robustness.projection_kernels import Space, Weights, space, weights

#: What is known of a pattern: it waits in the queue, its region was explored, it has no point
#: within the radius, its region has no inside.
WAITING, EXPLORED, CLOSED, FLAT = range(4)
#: Entries of `Found.state`.
COUNT, HEAP, PROOFS, WAYS, CANDIDATES, OPEN, DOUBTS, STAGE, CURRENT, RESUMED = range(10)
#: Entries of `Found.figures`.
REGIONS, ROWS, HYPERPLANES, REGION_PROGRAMS, FACET_PROGRAMS, DECISION_PROGRAMS = range(6)
#: Entries of `Found.numbers`: the key that was popped last, and the radius.
LOWER, RADIUS = range(2)
#: Rows that a linear program comes to use at most; it needs about as many as bind.
ROWS_IN_USE = 64


class Task(NamedTuple):
    """What is fixed for one point.  Coordinates are those the box leaves free; 0 is the point.

    Attributes
    ----------
    program : Program
        Of the network; the last layer has no units, its values are the outputs.
    net_rows : int
    leads : float64 (targets, outputs)
        The label's lead over every class that counts.
    low, high : float64 (k,)
        Of the box and of the radius, finite.
    sides : float64 (2, k)
        Of the box alone.
    p : float
    never : bool (net_rows,)
        Rows that are identically zero whatever the pieces: no boundary anywhere.
    layer_of : int64 (net_rows,)
    """

    program: Program
    net_rows: int
    leads: np.ndarray
    low: np.ndarray
    high: np.ndarray
    sides: np.ndarray
    p: float
    never: np.ndarray
    layer_of: np.ndarray


class Place(NamedTuple):
    """The region that is looked at.

    Attributes
    ----------
    maps, region
        See `polytope.regions.cross_kernels`; `region` has room for a decision row after its own.
    c, length : float64 (room,)
        Values at the point (outward) and l_2 norms of the rows.
    kind : int64 (room,)
        0, 1 if the row is identically zero, 2 if that is not clear, 3 if other hyperplanes may
        coincide with it.
    probe, draw : float64 (room, 3), (2, k + 1)
        What tells hyperplanes apart, and the random numbers it is made of.
    where : int64 (net_rows + targets,)
        Number of the row with an id, or -1.
    frame, forms : float64 (0, k + 1), int64 (values,)
        No rows of a domain; the forms of the values (see `form_kernels`).
    weights, cone : Weights
    space : Space
        For `projection_kernels`.
    cone_rows, cone_sides, cone_lead : float64 (room, k), (2, k), (2, room)
        The rows that meet in a point.
    table, vectors, lists, basis, rows, columns
        Room for `region_distance`.
    line, size, step : float64 (k,)
    query, number : uint16 (1, units), int64 (2,)
        A pattern to be looked up, its number.
    """

    maps: cross_kernels.Maps
    region: cross_kernels.Region
    c: np.ndarray
    length: np.ndarray
    kind: np.ndarray
    probe: np.ndarray
    draw: np.ndarray
    where: np.ndarray
    frame: np.ndarray
    forms: np.ndarray
    weights: Weights
    space: Space
    cone: Weights
    cone_rows: np.ndarray
    cone_sides: np.ndarray
    cone_lead: np.ndarray
    table: np.ndarray
    vectors: np.ndarray
    lists: np.ndarray
    basis: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    line: np.ndarray
    size: np.ndarray
    step: np.ndarray
    query: np.ndarray
    number: np.ndarray


class Found(NamedTuple):
    """All patterns that were met.

    Attributes
    ----------
    patterns : uint16 (room, units)
    table : int64 (4 * room,)
        See `polytope.regions.index_kernels`.
    status : int64 (room,)
    best, own : float64 (room,)
        Least distance at which a path can come in, of the ways found so far; lower bound of the
        region's own distance (-1: not computed).
    proof : int64 (room, 2)
        Begin and number of the weights that prove `own`; before it is computed, those that prove
        how far the facet is that it was met behind.
    proof_row, proof_weight : int64 (...), float64 (...)
    way : int64 (..., 4)
        Region, row, begin and number of the weights: programs of facets that are not crossed, and
        of decision rows.
    way_bound : float64 (...)
    heap_key, heap_own : float64 (...), int64 (...)
        A binary heap.
    candidate : float64 (room, k + 3)
        Region, target, bound and step to what may be an adversarial point.
    open_row, open_key : int64 (...), float64 (...)
        Ways out of the current region that are left to exact arithmetic.
    doubt : int64 (...)
        Rows of the current region that may be identically zero.
    state, figures, numbers : int64 (10,), int64 (6,), float64 (2,)
    """

    patterns: np.ndarray
    table: np.ndarray
    status: np.ndarray
    best: np.ndarray
    own: np.ndarray
    proof: np.ndarray
    proof_row: np.ndarray
    proof_weight: np.ndarray
    way: np.ndarray
    way_bound: np.ndarray
    heap_key: np.ndarray
    heap_own: np.ndarray
    candidate: np.ndarray
    open_row: np.ndarray
    open_key: np.ndarray
    doubt: np.ndarray
    state: np.ndarray
    figures: np.ndarray
    numbers: np.ndarray


def new_place(net: Engine, program: Program, p: float, targets: int) -> Place:
    """Room for one region."""
    k, values, units = program.base.shape[1] - 1, len(program.base), net.units
    m = sum(layer.units * layer.slots for layer in net.layers) + 1
    maps = cross_kernels.Maps(
        np.zeros((values, k + 1)), np.zeros((values, 2)), np.zeros((units, k + 1)),
        np.zeros((units, 2)), np.zeros((units, 2)), np.zeros((k + 5, values)), np.zeros(k + 1),
        np.zeros(values, np.int64), np.zeros(units, np.int64), np.zeros(values, np.int64),
    )  # fmt: skip
    region = cross_kernels.Region(
        np.zeros((m, k)), np.zeros(m), np.zeros((m, 2)), np.zeros(m, np.int64),
        np.zeros(m, np.int64), np.zeros(m, np.bool_), np.zeros(len(program.layers) + 1, np.int64),
    )  # fmt: skip
    columns = 0 if p == 2 else 2 * k if p == 1 else k
    few = min(m, k + 8)
    most = 0 if p == 2 else min(m, k + 8, ROWS_IN_USE)
    # Any fixed numbers do; these say the same of a network on every machine.
    draw = np.random.default_rng(0).uniform(0.5, 1.5, (2, k + 1))
    return Place(
        maps, region, np.zeros(m), np.zeros(m), np.zeros(m, np.int64), np.zeros((m, 3)), draw,
        np.zeros(net.rows + targets, np.int64), np.zeros((0, k + 1)), np.zeros(values, np.int64),
        weights(m + 1),
        space(few, k), weights(m + 1), np.zeros((m, k)), np.zeros((2, k)), np.zeros((2, m)),
        np.zeros(most * (columns + most)), np.zeros((9, columns + most)),
        np.zeros((2, columns + most), np.int64), np.zeros(most, np.int64), np.zeros(m, np.int64),
        np.zeros(2 * k, np.int64),
        np.zeros(k), np.zeros(k), np.zeros(k), np.zeros((1, units), np.uint16),
        np.zeros(2, np.int64),
    )  # fmt: skip


def new_found(room: int, net: Engine, k: int, targets: int) -> Found:
    """Nothing found yet, room for so many patterns."""
    m = sum(layer.units * layer.slots for layer in net.layers) + 1
    return Found(
        np.zeros((room, net.units), np.uint16), np.full(4 * room, -1, np.int64),
        np.zeros(room, np.int64), np.zeros(room), np.zeros(room),
        np.zeros((room, 2), np.int64), np.zeros(16 * room, np.int64), np.zeros(16 * room),
        np.zeros((room, 4), np.int64), np.zeros(room), np.zeros(2 * room),
        np.zeros(2 * room, np.int64), np.zeros((targets, k + 3)), np.zeros(m, np.int64),
        np.zeros(m), np.zeros(m, np.int64), np.zeros(10, np.int64), np.zeros(6, np.int64),
        np.zeros(2),
    )  # fmt: skip


#: Arrays of `Found` that grow together with the patterns, with the proofs, with the ways out,
#: with the queue.
GROWING = (
    ("patterns", "status", "best", "own", "proof"),
    ("proof_row", "proof_weight"),
    ("way", "way_bound"),
    ("heap_key", "heap_own"),
)


def held(found: Found) -> int:
    """Bytes of the arrays."""
    return sum(array.nbytes for array in found)
