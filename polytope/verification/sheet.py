"""What the compiled bounds of sub-boxes read, and the room they work in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from polytope.robustness.flat import UNIT, Flat, FlatNetwork
from polytope.sets import Box


class Sheet(NamedTuple):
    """A network around the middle of a root box, and what is unsafe.

    Attributes
    ----------
    flat : Flat
        With the constants of the middle; its costs are not used.
    runs : int64 (values,)
        First unit of a value's terms where they are one run of units, else -1.
    size, error : float64 (values,)
        The most that a value's affine part reaches in the root box; and what the rounding of the
        constant and the weights themselves adds to the value there.
    unit : float
        Bound on the relative rounding of all sums of a pass: at most one operation for each value,
        unit and input goes into any number, with room for their products.
    width : float64 (d,)
        Of the root box.
    A, b : float64 (m, outputs), (m,)
        Unsafe are outputs with ``A y <= b``.
    """

    flat: Flat
    runs: np.ndarray
    size: np.ndarray
    error: np.ndarray
    unit: float
    width: np.ndarray
    A: np.ndarray
    b: np.ndarray


class Work(NamedTuple):
    """Scratch and results of `box_kernels.bound_box`.

    Attributes
    ----------
    fixed : int16 (units,)
        Input: the pieces that units must take, -1 for open ones.
    lines : float64 (units, 4)
        Slope and intercept of the lower line, then of the upper one.
    below : int64 (units,)
        For maxima the value that is the lower line.
    weights : float64 (table,)
        For maxima the upper line's weights; its intercept is in `lines`.
    coefficients : float64 (units,)
        Zero between calls.
    gradient : float64 (d,)
    pieces : int64 (units,)
        Result: the pieces left, as bits.
    slopes : float64 (units, d)
        Result: how each undecided unit changes with the inputs, roughly.
    sway : float64 (units,)
        Result: what the rows weigh the units' outputs with, summed over the rows.
    rows, heights : float64 (m + rows of fixed units, d), (m + ...)
        Result: unsafe inputs of the box are steps with ``rows step + heights <= 0``; the first m
        are those of the outputs.
    ends, values : float64 (corners,)
    outputs : float64 (units,)
        The units' largest sizes; of `worst_margin`, their values.
    cost : float64 (values,)
        What a weight of 1 on the value adds to the rounding.
    reach : float64 (units,)
    """

    fixed: np.ndarray
    lines: np.ndarray
    below: np.ndarray
    weights: np.ndarray
    coefficients: np.ndarray
    gradient: np.ndarray
    pieces: np.ndarray
    slopes: np.ndarray
    sway: np.ndarray
    rows: np.ndarray
    heights: np.ndarray
    ends: np.ndarray
    values: np.ndarray
    outputs: np.ndarray
    cost: np.ndarray
    reach: np.ndarray


@dataclass(frozen=True, eq=False)
class Root:
    """A root box as steps from its middle, rounded outwards.

    Attributes
    ----------
    middle, low, high : float64 (d,)
        Every point of the box is the middle plus a step between `low` and `high`.
    """

    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray


def root_of(box: Box) -> Root:
    """The steps that cover a bounded box."""
    middle = np.clip(box.low / 2 + box.high / 2, box.low, box.high)
    low, high = box.low - middle, box.high - middle
    low = np.where(low == 0, 0.0, np.nextafter(low, -np.inf))
    high = np.where(high == 0, 0.0, np.nextafter(high, np.inf))
    return Root(middle, low, high)


def sheet_of(network: FlatNetwork, root: Root, A: np.ndarray, b: np.ndarray) -> Sheet:
    """The arrays for one root box and one set of unsafe outputs.

    Parameters
    ----------
    network : FlatNetwork
    root : Root
    A, b : float64 (m, outputs), (m,)
    """
    flat, sums, x = network.flat, network.sums, root.middle
    far = np.maximum(np.abs(root.low), np.abs(root.high))
    where = np.abs(x) + far
    weight = np.abs(sums.base[:, :-1])
    constant = sums.base[:, :-1] @ x + sums.base[:, -1]
    error = (len(x) + 2) * UNIT * (weight @ np.abs(x) + np.abs(sums.base[:, -1]))
    error += sums.base_error[:, :-1] @ where + sums.base_error[:, -1]
    size = 1.01 * (weight @ far + np.abs(constant) + error)
    if sums.weight_error.any():
        reach = network.unit_sizes(size)
        owner = np.repeat(np.arange(network.values), np.diff(sums.start))
        error += np.bincount(owner, sums.weight_error * reach[sums.source], network.values)
    return Sheet(
        flat._replace(constant=constant, cost=error), _runs(sums.start, sums.source), size, error,
        4 * (network.values + network.net.units + len(x) + 32) * UNIT, root.high - root.low,
        np.ascontiguousarray(A), np.ascontiguousarray(b),
    )  # fmt: skip


def _runs(start: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Where the terms of each value are one run of units (sources are in order), its first."""
    runs = np.full(len(start) - 1, -1, dtype=np.int64)
    some = np.flatnonzero(start[1:] > start[:-1])
    first, last = source[start[some]], source[start[some + 1] - 1]
    whole = last - first + 1 == start[some + 1] - start[some]
    runs[some[whole]] = first[whole]
    return runs


def work_for(sheet: Sheet, fixed_rows: int) -> Work:
    """Scratch with room for the rows of the outputs and so many of fixed units."""
    flat = sheet.flat
    units, d = int(flat.layers[-1, 2]), flat.base.shape[1]
    rows, corners = len(sheet.b) + fixed_rows, int(flat.layers[:, 4].max()) + 2
    return Work(
        np.full(units, -1, np.int16), np.zeros((units, 4)), np.zeros(units, np.int64),
        np.zeros(len(flat.table)), np.zeros(units), np.zeros(d), np.zeros(units, np.int64),
        np.zeros((units, d)), np.zeros(units), np.zeros((rows, d)), np.zeros(rows),
        np.zeros(corners), np.zeros(corners), np.zeros(units), np.zeros(len(flat.base)),
        np.zeros(units),
    )  # fmt: skip
