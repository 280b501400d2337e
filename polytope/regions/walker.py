"""One worker of the splitting engine: its stack of cells, and what the kernels ask Python for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from polytope.network.engine import Engine
from polytope.regions import split_arrays as arrays
from polytope.regions import split_kernels as kernels
from polytope.regions.cell_kernels import SLOTS
from polytope.regions.domain import Domain
from polytope.regions.exact_maps import ExactMaps
from polytope.regions.exact_vertices import exact_vertices, homogeneous_floats
from polytope.regions.parts import Part
from polytope.regions.program import Program
from polytope.regions.start_cells import INFINITY, Cell

#: Regions that a walk hands over at a time.
CHUNK = 512


class TooManyFacets(Exception):
    """A cell has more facets than the compiled kernels have bits for: cross facets instead."""


@dataclass(frozen=True, eq=False)
class Job:
    """What is common to all cells of one enumeration."""

    net: Engine
    frame: Domain
    program: Program
    keys: np.ndarray
    border: int


class Walker:
    """One worker's stack and work space."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.exact = ExactMaps(job.net, job.frame)
        self.verdicts = 0
        k, units = job.frame.dimension, job.net.units
        values = len(job.program.base)
        slots = max((layer.slots for layer in job.net.layers), default=1)
        self._stack = arrays.new_stack(8 + 2 * units, 2 ** (k + 3), k, units)
        self._rows = arrays.Rows(
            np.zeros((values, k + 1)), np.zeros((values, 2)), np.zeros((units, k + 1)),
            np.zeros((units, 2)), np.zeros((units, 2)),
            np.column_stack([job.frame.A, -job.frame.b]), np.zeros((k + 1, values)),
            np.zeros((3, values)), np.zeros(values, np.int64), np.zeros(values), np.zeros(k + 1),
            np.zeros((k + 5, values)),
        )  # fmt: skip
        self._fixed = (
            np.zeros(slots, np.int64), np.zeros((SLOTS + 1 + 3 * k, k + 3)),
            np.zeros(values, np.bool_), np.zeros(units, np.bool_),
        )  # fmt: skip
        self._scratch = arrays.new_scratch(self._stack.masks.shape[1], k, self._fixed)
        self._found = arrays.new_found(CHUNK, k, units)
        self._state = np.zeros(7, np.int64)
        self._taken: list[Part] = []

    def run(
        self,
        cell: Cell,
        stop: tuple[int, int],
        halt: Callable[[], bool],
        limit: int | None = None,
    ) -> tuple[list[Part], list[Cell]]:
        """Split one cell down to its regions, or to the cells at a position in the network.

        Returns
        -------
        (regions found, cells not split on: they are at `stop`, or the search was halted or has
        found about `limit` regions)
        """
        state = self._state
        state[:] = 0
        state[arrays.TOP] = -1
        state[arrays.STOP_LAYER], state[arrays.STOP_UNIT] = stop
        state[arrays.BORDER] = self.job.net.rows + self.job.border
        self._push(cell)
        self._taken, roots = [], []
        number = 0
        while True:
            reason = kernels.walk(
                self.job.program, self.job.keys, self.job.net.rows, self._stack, self._rows,
                self._scratch, self._found, state,
            )  # fmt: skip
            if reason == arrays.DONE:
                break
            if reason == arrays.ROOT:
                roots.append(self._pop())
            elif reason == arrays.FULL:
                number += int(state[arrays.REGIONS])
                self._drain()
                if halt() or (limit is not None and number >= limit):
                    break
            elif reason == arrays.DOUBT:
                self._settle(*self._open_step())
            else:
                self._make_room(reason)
        self._drain()
        while state[arrays.TOP] >= 0:
            roots.append(self._pop())
        return self._taken, roots

    def clip(self, cell: Cell, row: int) -> Cell | None:
        """The part of a cell on the inner side of a row of the frame."""
        state, k = self._state, self.job.frame.dimension
        state[:] = 0
        state[arrays.TOP] = -1
        self._push(cell)
        number = self.job.net.rows + row
        while True:
            self._scratch.row[:k], self._scratch.row[k] = (
                self.job.frame.A[row],
                -self.job.frame.b[row],
            )
            reason = kernels.clip(
                self.job.program,
                self.job.net.rows,
                self._stack,
                self._rows,
                self._scratch,
                state,
                number,
            )
            if reason == arrays.DONE:
                return self._pop() if state[arrays.TOP] >= 0 else None
            if reason == arrays.DOUBT:
                pieces = self._stack.pieces[0]
                self._settle(pieces, number)
            else:
                self._make_room(reason)

    def _push(self, cell: Cell) -> None:
        """Put a cell on the stack."""
        while len(cell.points) > self._stack.masks.shape[1]:
            self._grow(1, 2)
        top, count = int(self._state[arrays.TOP]) + 1, len(cell.points)
        stack = self._stack
        stack.points[top, :count], stack.masks[top, :count] = cell.points, cell.masks
        stack.slots[top], stack.pieces[top], stack.step[top] = cell.slots, cell.pieces, cell.step
        stack.used[top], stack.shared[top] = cell.used, cell.shared
        stack.step[top, arrays.COUNT], stack.step[top, arrays.FRESH] = count, 1
        self._state[arrays.TOP] = top

    def _pop(self) -> Cell:
        """Take the top cell off the stack."""
        stack, top = self._stack, int(self._state[arrays.TOP])
        count = int(stack.step[top, arrays.COUNT])
        self._state[arrays.TOP] = top - 1
        return Cell(
            stack.points[top, :count].copy(), stack.masks[top, :count].copy(),
            stack.slots[top].copy(), int(stack.used[top]), int(stack.shared[top]),
            stack.pieces[top].copy(), stack.step[top].copy(),
        )  # fmt: skip

    def _drain(self) -> None:
        """Take the finished regions over."""
        regions, facets = self._state[arrays.REGIONS], self._state[arrays.FACETS]
        found = self._found
        self._taken.append(Part(
            found.pieces[:regions].copy(), found.points[:regions].copy(),
            found.keys[:regions].copy(), found.facet_region[:facets].copy(),
            found.facet_row[:facets].copy(), found.facet_key[:facets].copy(),
            found.facet_point[:facets].copy(), found.facet_plain[:facets].copy(),
        ))  # fmt: skip
        self._state[arrays.REGIONS] = self._state[arrays.FACETS] = 0

    def _grow(self, cells: int, points: int) -> None:
        """More room on the stack."""
        old = self._stack
        depth, room = old.masks.shape
        k, units = self.job.frame.dimension, self.job.net.units
        new = arrays.new_stack(depth * cells, room * points, k, units)
        for name in old._fields:
            source, target = getattr(old, name), getattr(new, name)
            target[tuple(slice(n) for n in source.shape)] = source
        given = self._scratch.given
        self._stack = new
        self._scratch = arrays.new_scratch(room * points, k, self._fixed)
        self._scratch.given[: len(given)] = given

    def _make_room(self, reason: int) -> None:
        """What the kernels asked for."""
        if reason == arrays.NEED_SLOTS:
            raise TooManyFacets
        self._grow(*((1, 2) if reason == arrays.NEED_POINTS else (2, 1)))

    def _open_step(self) -> tuple[np.ndarray, int]:
        """The pieces and the row that the cell at the top waits for."""
        stack, top = self._stack, int(self._state[arrays.TOP])
        step = stack.step[top]
        layer = self.job.net.layers[int(step[arrays.LAYER])]
        unit, slot = int(step[arrays.UNIT]), int(step[arrays.SLOT])
        pieces = stack.pieces[top].copy()
        pieces[layer.first_unit + unit] = int(step[arrays.WINNER]) if layer.is_max else slot
        return pieces, layer.first_row + unit * layer.slots + slot

    def _settle(self, pieces: np.ndarray, row: int) -> None:
        """Decide a row exactly, and make the vertices as good as floats can be."""
        self.verdicts += 1
        stack, top, job = self._stack, int(self._state[arrays.TOP]), self.job
        count, k = int(stack.step[top, arrays.COUNT]), job.frame.dimension
        used = [s for s in range(SLOTS) if int(stack.used[top]) >> s & 1]
        ids = [int(stack.slots[top, s]) for s in used]
        proper = [i for i in ids if i != INFINITY]
        exact = self.exact.rows(pieces, [*proper, row])
        rows = np.zeros((len(ids), k + 1), dtype=object)
        rows[[i != INFINITY for i in ids]] = exact[:-1]
        rows[[i == INFINITY for i in ids], k] = -1
        masks = stack.masks[top, :count]
        incidence = np.array([[bool(int(m) >> s & 1) for s in used] for m in masks])
        vertices = exact_vertices(rows, incidence, stack.points[top, :count, : k + 1])
        sides = (vertices * exact[-1]).sum(axis=1)
        self._scratch.given[:count] = [(side > 0) - (side < 0) for side in sides]
        floats = homogeneous_floats(vertices)
        stack.points[top, :count, : k + 1] = floats
        stack.points[top, :count, k + 1] = 2.0**-51 * np.abs(floats[:, :k]).max(axis=1)
        stack.points[top, :count, k + 2] = (1 + 2.0**-40) * np.abs(floats[:, :k]).sum(axis=1)
        self._state[arrays.FORCED] = 1
