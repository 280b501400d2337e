"""The cells that a domain is split from: boxes of points and rays, cut by the domain's rows.

A coordinate with two bounds gives two ends, one with a single bound an end and a ray; where a
domain is bounded without saying so along the axes, a frame a little larger is put around it
and cut away again; a coordinate with no bound at all is cut at 0, and the regions found on the
two sides are put together at the end.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg

from polytope.regions.cell_kernels import SLOTS
from polytope.regions.domain import Domain
from polytope.regions.exact_maps import ExactMaps
from polytope.regions.exact_vertices import exact_vertices, homogeneous_floats
from polytope.regions.program import Program

#: The slot of the facet at infinity.
INFINITY = -1
#: Hyperplanes whose unit normals have a smaller last pivot are not taken as independent: any
#: choice is right, this one keeps the first vertex at a reasonable distance.
INDEPENDENT = 1e-6


@dataclass(frozen=True, eq=False)
class Cell:
    """A cell outside the compiled stack (see `split_arrays.Stack`).

    Attributes
    ----------
    points : float64 (n, k + 3)
    masks : uint64 (n,)
    slots : int64 (64,)
    used, shared : uint64
    pieces : uint16 (units,)
    step : int64 (7,)
    """

    points: np.ndarray
    masks: np.ndarray
    slots: np.ndarray
    used: int
    shared: int
    pieces: np.ndarray
    step: np.ndarray


@dataclass(frozen=True)
class Start:
    """Where the splitting begins.

    Attributes
    ----------
    frame : Domain
        The domain with the rows of the frame added after its own.
    cells : tuple of (points, masks, row ids of the slots)
        Row ids count from 0 over the rows of `frame`; `INFINITY` is the facet at infinity.
    cuts : int64 (rows,)
        Rows of the domain that the cells have still to be cut by.
    halved : bool
        The cells are parts of one domain, cut at hyperplanes that are no unit's.
    """

    frame: Domain
    cells: tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]
    cuts: np.ndarray
    halved: bool


def start_cells(domain: Domain) -> Start:
    """The first cells of a domain (without an l_2 ball)."""
    k = domain.dimension
    ends: list[list[tuple[float, int] | None]] = []  # per axis: (bound, row) below and above
    axis_rows = _axis_rows(domain)
    rows, offsets = [domain.A], [domain.b]
    extra = len(domain.A)
    limits = None
    split: list[int] = []
    for axis in range(k):
        both = [axis_rows.get((axis, side)) for side in (-1, 1)]
        if both == [None, None] or None in both:
            if limits is None:
                limits = domain.limits
            low, high = limits[0][axis], limits[1][axis]
            wide = 1.0 + (high - low if np.isfinite(high - low) else 0.0)
            for place, (side, bound) in enumerate(((-1, low - wide), (1, high + wide))):
                if both[place] is None and np.isfinite(bound):
                    row = np.zeros((1, k))
                    row[0, axis] = side
                    rows.append(row)
                    offsets.append(np.array([side * bound]))
                    both[place] = (float(bound), extra)
                    extra += 1
        if both == [None, None]:
            # Cut at 0: u >= 0 first, u <= 0 second.
            for side in (-1, 1):
                row = np.zeros((1, k))
                row[0, axis] = side
                rows.append(row)
                offsets.append(np.zeros(1))
            split.append(axis)
            both = [(0.0, extra), (0.0, extra + 1)]
            extra += 2
        ends.append(both)
    frame = replace(domain, A=np.concatenate(rows), b=np.concatenate(offsets))
    cells = []
    for halves in itertools.product((0, 1), repeat=len(split)):
        own = list(ends)
        for axis, half in zip(split, halves, strict=True):
            own[axis] = [ends[axis][0], None] if half == 0 else [None, ends[axis][1]]
        cells.append(_product(own))
    kept = {row for _, row in axis_rows.values()}
    cuts = np.array([i for i in range(len(domain.A)) if i not in kept], dtype=np.int64)
    return Start(frame, tuple(cells), cuts, bool(split))


def _axis_rows(domain: Domain) -> dict[tuple[int, int], tuple[float, int]]:
    """The tightest rows along the axes: (axis, side) to (bound, row)."""
    found: dict[tuple[int, int], tuple[float, int]] = {}
    for i, (a, b) in enumerate(zip(domain.A, domain.b, strict=True)):
        axes = np.flatnonzero(a)
        if len(axes) != 1 or abs(a[axes[0]]) != 1:
            continue
        axis, side = int(axes[0]), int(a[axes[0]])
        bound = float(side * b)
        known = found.get((axis, side))
        if known is None or side * bound < side * known[0]:
            found[axis, side] = (bound, i)
    return found


def _product(
    ends: list[list[tuple[float, int] | None]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The product of intervals and half-lines."""
    k = len(ends)
    choices = [[side for side in (0, 1) if both[side] is not None] for both in ends]
    ids: list[int] = []
    slot_of: dict[tuple[int, int], int] = {}
    for axis, both in enumerate(ends):
        for side in (0, 1):
            end = both[side]
            if end is not None:
                slot_of[axis, side] = len(ids)
                ids.append(end[1])
    points, masks = [], []
    for corner in itertools.product(*choices):
        point = [ends[axis][side][0] for axis, side in enumerate(corner)]  # type: ignore[index]
        points.append([*point, 1.0, 0.0, (1 + 2.0**-40) * sum(abs(x) for x in point)])
        masks.append(sum(1 << slot_of[axis, side] for axis, side in enumerate(corner)))
    rays = [axis for axis in range(k) if None in ends[axis]]
    infinity = len(ids)
    for axis in rays:
        direction = np.zeros(k + 3)
        direction[axis] = 1.0 if ends[axis][1] is None else -1.0
        direction[k + 2] = 1.0
        points.append(list(direction))
        tight = sum(1 << slot for (other, _), slot in slot_of.items() if other != axis)
        masks.append(tight | (1 << infinity))
    if rays:
        ids.append(INFINITY)
    if len(ids) > SLOTS:
        raise OverflowError("more facets than a cell has slots for")
    return np.array(points), np.array(masks, dtype=np.uint64), np.array(ids, dtype=np.int64)


def unit_cells(
    program: Program, exact: ExactMaps, domain: Domain
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] | None:
    """The cones between k independent hyperplanes of the first layer, for unbounded domains.

    They need no hyperplane of ours, and their rays meet deeper layers in general position.

    Returns
    -------
    list of (points, masks, row ids of the slots, pieces (units,)), or None
        None if the first layer has no k independent units of one breakpoint.
    """
    k = domain.dimension
    first, end, _, units, slots, is_max, first_row, _ = program.layers[0]
    if slots != 1 or is_max or units < k:
        return None
    normals = program.base[first:end, :k]
    sizes = np.linalg.norm(normals, axis=1)
    scaled = normals / np.where(sizes > 0, sizes, 1.0)[:, None]
    triangle, chosen = scipy.linalg.qr(scaled.T, mode="r", pivoting=True)
    if abs(triangle[k - 1, k - 1]) < INDEPENDENT:
        return None
    chosen = np.sort(chosen[:k])
    ids = first_row + chosen
    apex = np.ones((1, k), dtype=bool)
    cells = []
    for sides in itertools.product((0, 1), repeat=k):
        pieces = np.zeros(exact.net.units, dtype=np.uint16)
        pieces[chosen] = sides
        rows = np.zeros((k + 1, k + 1), dtype=object)
        rows[:k] = exact.rows(pieces, ids)
        rows[k, k] = -1
        incidence = np.vstack([np.append(apex, False)[None], ~np.eye(k, k + 1, dtype=bool)])
        inward = -np.linalg.inv(np.where(sides, -1.0, 1.0)[:, None] * normals[chosen])
        hint = np.zeros((k + 1, k + 1))
        hint[0, k] = 1.0
        hint[1:, :k] = inward.T
        floats = homogeneous_floats(exact_vertices(rows, incidence, hint))
        points = np.column_stack([
            floats, 2.0**-51 * np.abs(floats[:, :k]).max(axis=1),
            (1 + 2.0**-40) * np.abs(floats[:, :k]).sum(axis=1),
        ])  # fmt: skip
        masks = (incidence * (1 << np.arange(k + 1))).sum(axis=1).astype(np.uint64)
        cells.append((points, masks, np.append(ids, INFINITY), pieces))
    return cells
