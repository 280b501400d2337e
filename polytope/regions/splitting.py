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
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np

from polytope.errors import FileProblem
from polytope.network.engine import Engine
from polytope.regions.cell_kernels import SLOTS
from polytope.regions.complex import Complex
from polytope.regions.domain import Domain
from polytope.regions.parts import Part, complex_of, joined
from polytope.regions.program import compile_program
from polytope.regions.split_arrays import WINNER
from polytope.regions.start_cells import INFINITY, Cell, Start, start_cells, unit_cells
from polytope.regions.walk import check_lengths
from polytope.regions.walker import Job, Walker

#: Regions that one worker finds alone before the rest is divided: below it threads do not pay.
ALONE = 256
#: Cells that the rest is divided into: enough for the workers to end together.
CELLS = 64
#: Seconds between two looks of the calling thread.
LOOK_SECONDS = 0.2
#: Units by which cells are split on when the rest is divided.
DIVIDE_UNITS = 4


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

    def parts(self, halt: Callable[[], bool]) -> Iterator[Part]:
        """All regions, part by part as they are found, by one thread; nothing is kept.

        The end is early where `halt` says so: then ``halt()`` was True.
        """
        if not self.begin(halt):
            yield from self._unfinished
            return
        yield from self.finished.pop(-1)
        end = (len(self.net.layers) + 1, 0)
        for cell in self._cells:
            pieces, left = self._walkers[0].run(cell, end, halt)
            yield from pieces
            if left:
                return

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
        """Take the finished cells that `arrays` wrote (after `begin`).

        Raises
        ------
        FileProblem
            If they do not fit together.
        """
        names = list(Part.__dataclass_fields__)
        facet_names = [name for name in names if name.startswith("facet")]
        check_lengths(
            arrays,
            {
                "cells": ("regions", "facets"),
                "pieces": [name for name in names if name not in facet_names],
                facet_names[0]: facet_names,
            },
        )
        if (
            arrays["regions"].sum() != len(arrays["pieces"])
            or arrays["facets"].sum() != len(arrays[facet_names[0]])
            or not set(arrays["cells"].tolist()) <= {-1, *range(len(self._cells))}
        ):
            raise FileProblem("the saved search is damaged: cells are missing")
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
        step[WINNER] = -1
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
    """Cells cut on, some units of each at a time, until there are enough."""
    net = walker.job.net
    ends = np.cumsum([layer.units for layer in net.layers])
    for position in range(DIVIDE_UNITS, net.units, DIVIDE_UNITS):
        if not 0 < len(cells) < number:
            break
        goal = int(np.searchsorted(ends, position, side="left"))
        stop = (goal, position - (int(ends[goal - 1]) if goal else 0))
        after: list[Cell] = []
        for cell in cells:
            pieces, left = walker.run(cell, stop, lambda: False)
            taken += pieces
            after += left
        cells = after
    return cells
