"""The arrays on which cells are split: a stack of cells, maps of the cell at hand, results."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polytope.regions.cell_kernels import SLOTS

#: Why the walk returned.
DONE, ROOT, DOUBT, FULL, NEED_POINTS, NEED_CELLS, NEED_SLOTS = range(7)

# Columns of Stack.step.
COUNT, LAYER, UNIT, SLOT, WINNER, FRESH, ZERO = range(7)
#: Positions of Walk.state.
TOP, FORCED, REGIONS, FACETS, STOP_LAYER, STOP_UNIT, BORDER = range(7)


class Stack(NamedTuple):
    """Cells that wait, the last one first.

    Attributes
    ----------
    points : float64 (cells, room, k + 3)
    masks : uint64 (cells, room)
    slots : int64 (cells, 64)
        Row id of each facet.
    used, shared : uint64 (cells,)
        Slots in use; slots with which another row was found to coincide.
    pieces : uint16 (cells, units)
    step : int64 (cells, 7)
        Extreme points, layer, unit, slot, winner (-1: not yet chosen), 1 if the rows of the
        layer have to be computed, 1 if some unit is identically zero here.
    """

    points: np.ndarray
    masks: np.ndarray
    slots: np.ndarray
    used: np.ndarray
    shared: np.ndarray
    pieces: np.ndarray
    step: np.ndarray


class Rows(NamedTuple):
    """Maps of the cell at hand: of values, and of unit outputs (see `row_kernels`).

    `frame` are the rows [a | -b] of the domain, exact.  For layers of units with one breakpoint
    `lines` (k + 1, values) are the rows of ``z - breakpoint`` and `blur` (3, values) their
    `band_of`, laid out for looking at all units at once; `flags` and `totals`
    (values,) are work space.
    """

    rows: np.ndarray
    errors: np.ndarray
    out: np.ndarray
    out_error: np.ndarray
    out_size: np.ndarray
    frame: np.ndarray
    lines: np.ndarray
    blur: np.ndarray
    flags: np.ndarray
    totals: np.ndarray
    work: np.ndarray
    sums: np.ndarray


class Scratch(NamedTuple):
    """Work space of one step."""

    row: np.ndarray
    values: np.ndarray
    bands: np.ndarray
    signs: np.ndarray
    given: np.ndarray
    fresh: np.ndarray
    fresh_masks: np.ndarray
    winners: np.ndarray
    solve: np.ndarray
    zero_value: np.ndarray
    zero_out: np.ndarray


class Found(NamedTuple):
    """Finished regions and their facets, until Python takes them.

    Attributes
    ----------
    pieces : uint16 (room, units)
    points : float64 (room, k)
    keys : uint64 (room,)
    facet_region, facet_row : int64 (facet room,)
    facet_key : uint64 (facet room,)
        Key of the pattern with the one unit of the row changed.
    facet_point : float64 (facet room, k + 1)
        Center of the facet's extreme points, and a bound on its error.
    facet_plain : bool (facet room,)
        No other unit changes its piece across the facet: the key is the neighbour's.
    """

    pieces: np.ndarray
    points: np.ndarray
    keys: np.ndarray
    facet_region: np.ndarray
    facet_row: np.ndarray
    facet_key: np.ndarray
    facet_point: np.ndarray
    facet_plain: np.ndarray


def new_stack(cells: int, room: int, k: int, units: int) -> Stack:
    """Room for so many cells of so many extreme points each."""
    return Stack(
        np.zeros((cells, room, k + 3)), np.zeros((cells, room), np.uint64),
        np.zeros((cells, SLOTS), np.int64), np.zeros(cells, np.uint64),
        np.zeros(cells, np.uint64), np.zeros((cells, units), np.uint16),
        np.zeros((cells, 7), np.int64),
    )  # fmt: skip


def new_scratch(room: int, k: int, fixed: tuple[np.ndarray, ...]) -> Scratch:
    """Work space for cells of so many extreme points; `fixed` does not depend on that."""
    return Scratch(
        np.zeros(k + 1), np.zeros(room), np.zeros(room), np.zeros(room, np.int64),
        np.zeros(room, np.int64), np.zeros((room, k + 3)), np.zeros(room, np.uint64), *fixed,
    )  # fmt: skip


def new_found(room: int, k: int, units: int) -> Found:
    """Room for so many regions."""
    facets = room * 16 + SLOTS
    return Found(
        np.zeros((room, units), np.uint16), np.zeros((room, k)), np.zeros(room, np.uint64),
        np.zeros(facets, np.int64), np.zeros(facets, np.int64), np.zeros(facets, np.uint64),
        np.zeros((facets, k + 1)), np.zeros(facets, np.bool_),
    )  # fmt: skip
