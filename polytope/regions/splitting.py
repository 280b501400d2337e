"""All regions of a low-dimensional domain, by splitting cells that know their vertices.

Exact: a vertex is on one side of a hyperplane only if its value there exceeds a bound on all
rounding; what is closer is settled in integers (`polytope.regions.exact`), and the vertices of
that cell are then recomputed from their exact hyperplanes.  Neighbours are matched afterwards:
across a facet on which only its own unit changes, the neighbour's pattern is known; where other
units change too (coincident hyperplanes, units that are identically zero), the two regions are
those whose facets are the same set, recognised by their centers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np

from polytope.network.engine import Engine
from polytope.regions import split_kernels as kernels
from polytope.regions.cell_kernels import SLOTS
from polytope.regions.complex import Complex
from polytope.regions.domain import Domain
from polytope.regions.exact_maps import ExactMaps
from polytope.regions.exact_vertices import exact_vertices, homogeneous_floats
from polytope.regions.parts import Part, complex_of, joined
from polytope.regions.program import Program, compile_program
from polytope.regions.start_cells import INFINITY, Cell, Start, start_cells, unit_cells

#: Regions that one worker finds alone before the rest is divided: below it threads do not pay.
ALONE = 256
#: Cells that the rest is divided into: enough for the workers to end together.
CELLS = 64
#: Seconds between two looks of the calling thread.
LOOK_SECONDS = 0.2
#: Units by which a cell is split on when the rest is divided.
DIVIDE_UNITS = 4
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
        self._stack = _stack(8 + 2 * units, 2 ** (k + 3), k, units)
        self._rows = kernels.Rows(
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
        self._scratch = _scratch(self._stack.masks.shape[1], k, self._fixed)
        self._found = _found(CHUNK, k, units)
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
        state[kernels.TOP] = -1
        state[kernels.STOP_LAYER], state[kernels.STOP_UNIT] = stop
        state[kernels.BORDER] = self.job.net.rows + self.job.border
        self._push(cell)
        self._taken, roots = [], []
        number = 0
        while True:
            reason = kernels.walk(
                self.job.program, self.job.keys, self.job.net.rows, self._stack, self._rows,
                self._scratch, self._found, state,
            )  # fmt: skip
            if reason == kernels.DONE:
                break
            if reason == kernels.ROOT:
                roots.append(self._pop())
            elif reason == kernels.FULL:
                number += int(state[kernels.REGIONS])
                self._drain()
                if halt() or (limit is not None and number >= limit):
                    break
            elif reason == kernels.DOUBT:
                self._settle(*self._open_step())
            else:
                self._make_room(reason)
        self._drain()
        while state[kernels.TOP] >= 0:
            roots.append(self._pop())
        return self._taken, roots

    def clip(self, cell: Cell, row: int) -> Cell | None:
        """The part of a cell on the inner side of a row of the frame."""
        state, k = self._state, self.job.frame.dimension
        state[:] = 0
        state[kernels.TOP] = -1
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
            if reason == kernels.DONE:
                return self._pop() if state[kernels.TOP] >= 0 else None
            if reason == kernels.DOUBT:
                pieces = self._stack.pieces[0]
                self._settle(pieces, number)
            else:
                self._make_room(reason)

    def _push(self, cell: Cell) -> None:
        """Put a cell on the stack."""
        while len(cell.points) > self._stack.masks.shape[1]:
            self._grow(1, 2)
        top, count = int(self._state[kernels.TOP]) + 1, len(cell.points)
        stack = self._stack
        stack.points[top, :count], stack.masks[top, :count] = cell.points, cell.masks
        stack.slots[top], stack.pieces[top], stack.step[top] = cell.slots, cell.pieces, cell.step
        stack.used[top], stack.shared[top] = cell.used, cell.shared
        stack.step[top, kernels.COUNT], stack.step[top, kernels.FRESH] = count, 1
        self._state[kernels.TOP] = top

    def _pop(self) -> Cell:
        """Take the top cell off the stack."""
        stack, top = self._stack, int(self._state[kernels.TOP])
        count = int(stack.step[top, kernels.COUNT])
        self._state[kernels.TOP] = top - 1
        return Cell(
            stack.points[top, :count].copy(), stack.masks[top, :count].copy(),
            stack.slots[top].copy(), int(stack.used[top]), int(stack.shared[top]),
            stack.pieces[top].copy(), stack.step[top].copy(),
        )  # fmt: skip

    def _drain(self) -> None:
        """Take the finished regions over."""
        regions, facets = self._state[kernels.REGIONS], self._state[kernels.FACETS]
        found = self._found
        self._taken.append(Part(
            found.pieces[:regions].copy(), found.points[:regions].copy(),
            found.keys[:regions].copy(), found.facet_region[:facets].copy(),
            found.facet_row[:facets].copy(), found.facet_key[:facets].copy(),
            found.facet_point[:facets].copy(), found.facet_plain[:facets].copy(),
        ))  # fmt: skip
        self._state[kernels.REGIONS] = self._state[kernels.FACETS] = 0

    def _grow(self, cells: int, points: int) -> None:
        """More room on the stack."""
        old = self._stack
        depth, room = old.masks.shape
        k, units = self.job.frame.dimension, self.job.net.units
        new = _stack(depth * cells, room * points, k, units)
        for name in old._fields:
            source, target = getattr(old, name), getattr(new, name)
            target[tuple(slice(n) for n in source.shape)] = source
        given = self._scratch.given
        self._stack = new
        self._scratch = _scratch(room * points, k, self._fixed)
        self._scratch.given[: len(given)] = given

    def _make_room(self, reason: int) -> None:
        """What the kernels asked for."""
        if reason == kernels.NEED_SLOTS:
            raise TooManyFacets
        self._grow(*((1, 2) if reason == kernels.NEED_POINTS else (2, 1)))

    def _open_step(self) -> tuple[np.ndarray, int]:
        """The pieces and the row that the cell at the top waits for."""
        stack, top = self._stack, int(self._state[kernels.TOP])
        step = stack.step[top]
        layer = self.job.net.layers[int(step[kernels.LAYER])]
        unit, slot = int(step[kernels.UNIT]), int(step[kernels.SLOT])
        pieces = stack.pieces[top].copy()
        pieces[layer.first_unit + unit] = int(step[kernels.WINNER]) if layer.is_max else slot
        return pieces, layer.first_row + unit * layer.slots + slot

    def _settle(self, pieces: np.ndarray, row: int) -> None:
        """Decide a row exactly, and make the vertices as good as floats can be."""
        self.verdicts += 1
        stack, top, job = self._stack, int(self._state[kernels.TOP]), self.job
        count, k = int(stack.step[top, kernels.COUNT]), job.frame.dimension
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
        self._state[kernels.FORCED] = 1


def _stack(cells: int, room: int, k: int, units: int) -> kernels.Stack:
    return kernels.Stack(
        np.zeros((cells, room, k + 3)), np.zeros((cells, room), np.uint64),
        np.zeros((cells, SLOTS), np.int64), np.zeros(cells, np.uint64),
        np.zeros(cells, np.uint64), np.zeros((cells, units), np.uint16),
        np.zeros((cells, 7), np.int64),
    )  # fmt: skip


def _scratch(room: int, k: int, fixed: tuple[np.ndarray, ...]) -> kernels.Scratch:
    return kernels.Scratch(
        np.zeros(k + 1), np.zeros(room), np.zeros(room), np.zeros(room, np.int64),
        np.zeros(room, np.int64), np.zeros((room, k + 3)), np.zeros(room, np.uint64), *fixed,
    )  # fmt: skip


def _found(room: int, k: int, units: int) -> kernels.Found:
    facets = room * 16 + SLOTS
    return kernels.Found(
        np.zeros((room, units), np.uint16), np.zeros((room, k)), np.zeros(room, np.uint64),
        np.zeros(facets, np.int64), np.zeros(facets, np.int64), np.zeros(facets, np.uint64),
        np.zeros((facets, k + 1)), np.zeros(facets, np.bool_),
    )  # fmt: skip


class Splitter:
    """The engine on one network and domain (without an l_2 ball).

    The first regions are found by one thread; what is then left is divided into cells, always
    the same ones, that are finished one by one in any order: a search is resumed by naming the
    finished cells and what was in them.

    Parameters
    ----------
    net : Engine
    domain : Domain
        Of low dimension: cells in k dimensions have at least 2^(k/2) vertices.
    workers : int
        Threads.

    Attributes
    ----------
    finished : dict of int to list of Part
        What the finished cells held; -1 is the part that was found first.

    Raises
    ------
    TooManyFacets
        In `begin` and `run`.
    """

    def __init__(self, net: Engine, domain: Domain, workers: int) -> None:
        start = start_cells(domain)
        self.net, self.domain = net, domain
        job = Job(net, start.frame, compile_program(net, domain), _keys(net), len(domain.A))
        self._walkers = [Walker(job) for _ in range(max(1, workers))]
        self._start = start
        self._cells: list[Cell] = []
        self._unfinished: list[Part] = []
        self.finished: dict[int, list[Part]] = {}

    @property
    def regions(self) -> int:
        """Regions found so far, those of start cells counted apart."""
        parts = [part for parts in list(self.finished.values()) for part in parts]
        return sum(len(part.keys) for part in parts)

    @property
    def verdicts(self) -> int:
        """Exact verdicts so far."""
        return sum(walker.verdicts for walker in self._walkers)

    def begin(self, halt: Callable[[], bool]) -> bool:
        """Find the first regions, and divide the rest; False if it was halted before the end."""
        first = self._walkers[0]
        cells = _first_cells(first, self._start, self.domain)
        end = (len(self.net.layers) + 1, 0)
        taken: list[Part] = []
        while cells and sum(len(part.keys) for part in taken) < ALONE:
            pieces, left = first.run(cells.pop(), end, halt, ALONE)
            taken += pieces
            cells += left
            if left and halt():
                self._unfinished = taken
                return False
        self._cells = _divided(first, cells, CELLS, taken)
        self.finished[-1] = taken
        return True

    def run(self, halt: Callable[[], bool], look: Callable[[], None]) -> bool:
        """Finish the cells; True when all are.

        Parameters
        ----------
        halt : callable
            Asked by the threads; True ends the search with what was found.
        look : callable
            Called now and then by the calling thread.
        """
        end = (len(self.net.layers) + 1, 0)
        turn = iter([i for i in range(len(self._cells)) if i not in self.finished])
        lock = threading.Lock()

        def work(walker: Walker) -> None:
            while not halt():
                with lock:
                    i = next(turn, None)
                if i is None:
                    return
                pieces, left = walker.run(self._cells[i], end, halt)
                if left:
                    self._unfinished += pieces
                else:
                    self.finished[i] = pieces

        with ThreadPoolExecutor(len(self._walkers)) as pool:
            threads = [pool.submit(work, walker) for walker in self._walkers]
            while wait(threads, LOOK_SECONDS).not_done:
                look()
            for thread in threads:
                thread.result()
        return len(self.finished) == len(self._cells) + 1

    def arrays(self) -> dict[str, np.ndarray]:
        """The finished cells as arrays, for a file."""
        finished = dict(self.finished)
        numbers = sorted(finished)
        parts = [joined(finished[i]) for i in numbers]
        return {
            "cells": np.array(numbers, dtype=np.int64),
            "regions": np.array([len(part.keys) for part in parts], dtype=np.int64),
            "facets": np.array([len(part.facet_row) for part in parts], dtype=np.int64),
            "verdicts": np.array(self.verdicts),
            **{
                name: np.concatenate([getattr(part, name) for part in parts])
                for name in Part.__dataclass_fields__
            },
        }

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take the finished cells that `arrays` wrote (after `begin`)."""
        regions = np.cumsum([0, *arrays["regions"]])
        facets = np.cumsum([0, *arrays["facets"]])
        for number, cell in enumerate(arrays["cells"].tolist()):
            self.finished[cell] = [Part(**{
                name: arrays[name][
                    slice(facets[number], facets[number + 1]) if name.startswith("facet")
                    else slice(regions[number], regions[number + 1])
                ]
                for name in Part.__dataclass_fields__
            })]  # fmt: skip

    def complex(self, complete: bool, verdicts: int) -> Complex:
        """What was found, in the order of the cells."""
        finished = dict(self.finished)
        taken = [part for i in sorted(finished) for part in finished[i]]
        if not complete:
            taken += self._unfinished
        return complex_of(joined(taken), self.net, self.domain, complete, verdicts)


def _first_cells(walker: Walker, start: Start, domain: Domain) -> list[Cell]:
    """The first cells, cut by the rows of the domain."""
    job = walker.job
    units = unit_cells(job.program, walker.exact, start.frame) if start.halved else None
    cuts = start.cuts
    pieces = np.zeros(job.net.units, np.uint16)
    given = [(*cell, pieces) for cell in start.cells]
    if units is not None:
        given, cuts = units, np.arange(len(domain.A))
    cells = []
    for points, masks, ids, own in given:
        slots = np.full(SLOTS, INFINITY, np.int64)
        shift = job.net.rows if units is None else 0
        slots[: len(ids)] = np.where(ids == INFINITY, INFINITY, ids + shift)
        step = np.zeros(7, np.int64)
        step[kernels.WINNER] = -1
        cell: Cell | None = Cell(points, masks, slots, (1 << len(ids)) - 1, 0, own, step)
        for row in cuts:
            cell = None if cell is None else walker.clip(cell, int(row))
        if cell is not None:
            cells.append(cell)
    return cells


def _keys(net: Engine) -> np.ndarray:
    """A random word for every piece of every unit."""
    pieces = max((layer.pieces for layer in net.layers), default=1)
    rng = np.random.default_rng(0)
    return rng.integers(0, 2**64, (net.units, pieces), dtype=np.uint64)


def _divided(walker: Walker, cells: list[Cell], number: int, taken: list[Part]) -> list[Cell]:
    """Cells cut on, a unit of each at a time, until there are enough; finished ones are taken."""
    net = walker.job.net
    ends = np.cumsum([layer.units for layer in net.layers])
    while 0 < len(cells) < number:
        after: list[Cell] = []
        for cell in cells:
            layer, unit = int(cell.step[kernels.LAYER]), int(cell.step[kernels.UNIT])
            done = (int(ends[layer - 1]) if layer else 0) + unit if layer < len(ends) else net.units
            position = min(net.units, done + DIVIDE_UNITS)
            goal = int(np.searchsorted(ends, position, side="left"))
            stop = (goal, position - (int(ends[goal - 1]) if goal else 0))
            pieces, left = walker.run(cell, stop, lambda: False)
            taken += pieces
            after += left
        if all(cell.step[kernels.LAYER] == len(ends) - 1 for cell in after) or not after:
            return after
        cells = after
    return cells
