"""One thread of the crossing engine: the facets of a batch of regions, in floats."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np

from polytope.network.engine import Engine
from polytope.regions import cross_kernels as kernels
from polytope.regions.domain import Domain
from polytope.regions.program import Program
from solvers.simplex import work as simplex_work

#: Facets that there is room for between two looks at the result, at least.
ROOM = 2**14


class Expanded(NamedTuple):
    """What floats say of a batch of regions.

    Attributes
    ----------
    facets : kernels.Facets
        In the order of the batch; some of them, by `kind`, not proved.
    points : float64 (n, k)
        A point inside each region.
    status : int64 (n,)
        Whether that point was found.
    seconds : float
        What it took.
    """

    facets: kernels.Facets
    points: np.ndarray
    status: np.ndarray
    seconds: float


class Expander:
    """The room that one thread works in."""

    def __init__(self, program: Program, domain: Domain, net: Engine) -> None:
        self._program, self._rows = program, net.rows
        self._frame = np.column_stack([domain.A, -domain.b])
        self._limits = np.array(domain.limits)
        k, values, units = domain.dimension, len(program.base), net.units
        m = sum(layer.units * layer.slots for layer in net.layers) + len(domain.A)
        self._maps = kernels.Maps(
            np.zeros((values, k + 1)), np.zeros((values, 2)), np.zeros((units, k + 1)),
            np.zeros((units, 2)), np.zeros((units, 2)), np.zeros((k + 5, values)), np.zeros(k + 1),
            np.zeros(values, np.int64), np.zeros(units, np.int64), np.zeros(values, np.int64),
        )  # fmt: skip
        self._region = kernels.Region(
            np.zeros((m, k)), np.zeros(m), np.zeros((m, 2)), np.zeros(m, np.int64),
            np.zeros(m, np.int64), np.zeros(m, np.bool_),
            np.zeros(len(program.layers) + 1, np.int64),
        )  # fmt: skip
        self._tools = kernels.Tools(
            np.zeros(m, np.bool_), np.zeros(m, np.int64), np.zeros((m, k)),
            np.zeros((m, k), np.int64),
        )  # fmt: skip
        self._simplex = simplex_work(m, k)
        room = max(4 * m, ROOM)
        self._facets = kernels.Facets(
            np.zeros(room, np.int64), np.zeros(room, np.int64), np.zeros(room, np.int64),
            np.zeros((room, k)), np.zeros((room, units), np.uint16),
        )  # fmt: skip

    def expand(self, patterns: np.ndarray, seeds: np.ndarray, crossed: np.ndarray) -> Expanded:
        """Find the facets of some regions; see `cross_kernels.expand`."""
        seconds = time.perf_counter()
        points, status = np.zeros_like(seeds), np.zeros(len(seeds), np.int64)
        parts, at = [], 0
        while at < len(seeds):
            count, done = kernels.expand(
                self._program, self._frame, self._rows, patterns, seeds, crossed, at, len(seeds),
                self._limits, self._maps, self._region, self._tools, self._simplex, points,
                status, self._facets,
            )  # fmt: skip
            parts.append([array[:count].copy() for array in self._facets])
            at = done
        facets = kernels.Facets(*map(np.concatenate, zip(*parts, strict=True)))
        return Expanded(facets, points, status, time.perf_counter() - seconds)
