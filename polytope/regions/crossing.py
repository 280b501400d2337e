"""Regions by crossing facets, in any dimension: breadth-first, or the nearest first.

From a region with a known interior point the compiled simplex method finds every facet with a
point on it; behind each lies one region, and one step on is a point inside it.  The walk is
complete when no facet leads to a new region, because the regions of a convex domain are
connected through facets.  What floats leave open is settled in integers, and counted.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from polytope.network.engine import Engine
from polytope.network.exact_ops import ExactArray
from polytope.regions import cross_kernels as kernels
from polytope.regions.complex import Complex
from polytope.regions.domain import Domain
from polytope.regions.exact_crossing import facets_behind, pattern_behind, point_inside, row_ids
from polytope.regions.exact_maps import ExactMaps
from polytope.regions.nearest import Sections
from polytope.regions.program import Program, compile_program
from solvers.simplex import work as simplex_work

#: Regions that one worker expands between two looks at the result.
BATCH = 512


@dataclass(eq=False)
class Walk:
    """What has been found so far: all that a walk needs to go on.

    Attributes
    ----------
    pieces, seeds, points : lists of arrays, by region
        Pattern (uint16); a point on the facet it was found through, or inside; a point inside,
        once the region is expanded.
    crossed : list of int
        Row of the facet it was found through; -1: the seed is inside.
    expanded : list of bool
    distance : list of float
        From the start, in coordinates (0 in a breadth-first walk).
    edges, edge_rows, edge_points : lists of arrays (n, 2), (n,), (n, k)
        Regions i < j with a common facet, the row as seen from i, a point on the facet: written
        when i was expanded, so j may still be waiting.
    verdicts : int
        Exact verdicts so far.
    """

    pieces: list[np.ndarray] = field(default_factory=list)
    seeds: list[np.ndarray] = field(default_factory=list)
    crossed: list[int] = field(default_factory=list)
    points: list[np.ndarray] = field(default_factory=list)
    expanded: list[bool] = field(default_factory=list)
    distance: list[float] = field(default_factory=list)
    edges: list[np.ndarray] = field(default_factory=list)
    edge_rows: list[np.ndarray] = field(default_factory=list)
    edge_points: list[np.ndarray] = field(default_factory=list)
    verdicts: int = 0

    def add(self, pieces: np.ndarray, seed: np.ndarray, crossed: int, distance: float) -> int:
        """Enter a region that was not known; its number."""
        self.pieces.append(pieces)
        self.seeds.append(seed)
        self.points.append(seed)
        self.crossed.append(crossed)
        self.expanded.append(False)
        self.distance.append(distance)
        return len(self.pieces) - 1

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as arrays, for a file."""
        k = self.seeds[0].size
        return {
            "pieces": np.array(self.pieces), "seeds": np.array(self.seeds),
            "points": np.array(self.points), "crossed": np.array(self.crossed),
            "expanded": np.array(self.expanded), "distance": np.array(self.distance),
            "edges": np.concatenate([np.zeros((0, 2), np.int64), *self.edges]),
            "edge_rows": np.concatenate([np.zeros(0, np.int64), *self.edge_rows]),
            "edge_points": np.concatenate([np.zeros((0, k)), *self.edge_points]),
            "verdicts": np.array(self.verdicts),
        }  # fmt: skip

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Walk:
        """The walk that `arrays` wrote."""
        return cls(
            pieces=list(arrays["pieces"].astype(np.uint16)), seeds=list(arrays["seeds"]),
            crossed=arrays["crossed"].tolist(), points=list(arrays["points"]),
            expanded=arrays["expanded"].tolist(), distance=arrays["distance"].tolist(),
            edges=[arrays["edges"]], edge_rows=[arrays["edge_rows"]],
            edge_points=[arrays["edge_points"]], verdicts=int(arrays["verdicts"]),
        )  # fmt: skip


#: A facet of an expanded region: (region, row, pattern behind it, point on it).
Crossed = tuple[int, int, np.ndarray, np.ndarray]


class Crosser:
    """The engine on one network and domain.

    Parameters
    ----------
    net : Engine
    domain : Domain
    workers : int
        Threads.
    start : float64 array (k,)
        Coordinates of a point of the domain.
    nearest_first : bool
        Expand the region nearest to the start (l_2, in coordinates) instead of the oldest.
    """

    def __init__(
        self, net: Engine, domain: Domain, workers: int, start: np.ndarray, nearest_first: bool
    ) -> None:
        self.net, self.domain, self.nearest_first = net, domain, nearest_first
        self.start = start
        self.program = compile_program(net, domain)
        self.frame = np.column_stack([domain.A, -domain.b])
        self.exact = ExactMaps(net, domain)
        self.limits = np.array(domain.limits)
        self.sections = Sections(net, domain, self.exact)
        self.workers = [_Worker(self.program, self.frame, net) for _ in range(max(1, workers))]

    def begin(self) -> Walk:
        """A walk that knows the region of the start (of those it touches, one inside)."""
        walk = Walk()
        inward = np.zeros((0, len(self.start)), dtype=int)
        slack = self.domain.b - self.domain.A @ self.start
        tight = np.abs(slack) <= 1e-9 * (1 + np.abs(self.domain.b))
        middle = -self.domain.A[tight].sum(axis=0)
        inward = np.vstack([np.round(middle * 2**20)[None], np.eye(len(self.start))])
        corner = ExactArray.from_floats(np.append(self.start, 1.0))
        point = corner.integers
        pieces = self.exact.germ_pieces(point, inward.astype(int).astype(object))
        walk.add(pieces.astype(np.uint16), self.start, -1, 0.0)
        return walk

    def run(self, walk: Walk, max_regions: int | None, halt: Callable[[int], bool]) -> bool:
        """Go on until nothing is left (True), enough is expanded, or `halt` says so.

        Parameters
        ----------
        walk : Walk
            Changed.
        max_regions : int or None
            Regions to expand, those of earlier runs included.
        halt : callable
            Asked after every batch with the number of expanded regions.
        """
        index = {own.tobytes(): i for i, own in enumerate(walk.pieces)}
        waiting = [(walk.distance[i], i) for i, done in enumerate(walk.expanded) if not done]
        heapq.heapify(waiting)
        size = len(self.workers) * (1 if self.nearest_first else BATCH)
        done = sum(walk.expanded)
        while waiting:
            if halt(done) or (max_regions is not None and done >= max_regions):
                return False
            room = size if max_regions is None else min(size, max_regions - done)
            batch = [heapq.heappop(waiting)[1] for _ in range(min(room, len(waiting)))]
            pairs, rows, points = [], [], []
            for region, row, pieces, point in self._expand(walk, batch):
                key = pieces.tobytes()
                known = index.get(key)
                if known is None:
                    near = self.nearest_first
                    distance = self.sections.distance(self.start, pieces) if near else 0.0
                    known = index[key] = walk.add(pieces, point, row, distance)
                    heapq.heappush(waiting, (distance, known))
                if region < known:
                    pairs.append((region, known))
                    rows.append(row)
                    points.append(point)
            if pairs:
                walk.edges.append(np.array(pairs, dtype=np.int64))
                walk.edge_rows.append(np.array(rows, dtype=np.int64))
                walk.edge_points.append(np.array(points))
            done += len(batch)
        return True

    def _expand(self, walk: Walk, batch: list[int]) -> list[Crossed]:
        """All facets of some regions, in the order of the batch."""
        patterns = np.array([walk.pieces[i] for i in batch], dtype=np.uint16)
        seeds = np.array([walk.seeds[i] for i in batch])
        crossed = np.array([walk.crossed[i] for i in batch], dtype=np.int64)
        points, status = np.zeros_like(seeds), np.zeros(len(batch), np.int64)
        bounds = np.linspace(0, len(batch), len(self.workers) + 1).astype(int)

        def work(number: int) -> list[_Found]:
            worker, parts = self.workers[number], []
            at, end = int(bounds[number]), int(bounds[number + 1])
            while at < end:
                count, at = kernels.expand(
                    self.program, self.frame, self.net.rows, patterns, seeds, crossed, at, end,
                    self.limits, worker.maps, worker.region, worker.tools, worker.simplex, points,
                    status, worker.facets,
                )  # fmt: skip
                parts.append(worker.take(count))
            return parts

        if len(self.workers) == 1:
            found = work(0)
        else:
            with ThreadPoolExecutor(len(self.workers)) as pool:
                found = [
                    part for parts in pool.map(work, range(len(self.workers))) for part in parts
                ]
        result: list[Crossed] = []
        for part in found:
            result += self._settled(walk, batch, part)
        for q in np.flatnonzero(status == kernels.OPEN).tolist():
            own = row_ids(self.net, 0, patterns[q]).tolist()
            points[q] = point_inside(self.exact, patterns[q])
            walk.verdicts += 1
            result += self._open_rows(batch[q], patterns[q], own)
        for q, i in enumerate(batch):
            walk.points[i], walk.expanded[i] = points[q], True
        if self.domain.ball is not None:
            result = [
                facet for facet in result
                if self.sections.in_ball(walk.pieces[facet[0]], facet[1])
            ]  # fmt: skip
        return result

    def _settled(self, walk: Walk, batch: list[int], part: _Found) -> list[Crossed]:
        """Facets with what was open decided exactly."""
        result: list[Crossed] = []
        unknown: dict[int, list[int]] = {}
        for q, row, kind, point, pieces in zip(*part, strict=True):
            if kind == kernels.PROVED:
                result.append((batch[q], int(row), pieces, point))
            elif kind == kernels.UNKNOWN:
                unknown.setdefault(int(q), []).append(int(row))
            else:
                walk.verdicts += 1
                own = walk.pieces[batch[q]]
                result.append(
                    (batch[q], int(row), pattern_behind(self.exact, own, int(row), point), point)
                )
        for q, rows in unknown.items():
            walk.verdicts += len(rows)
            result += self._open_rows(batch[q], walk.pieces[batch[q]], rows)
        return result

    def _open_rows(self, region: int, pieces: np.ndarray, asked: list[int]) -> list[Crossed]:
        """The facets among some rows of a region, exactly."""
        return [(region, *behind) for behind in facets_behind(self.exact, pieces, asked)]

    def complex(self, walk: Walk, complete: bool) -> Complex:
        """The expanded regions and the edges between them."""
        keep = np.flatnonzero(walk.expanded)
        number = np.full(len(walk.pieces), -1)
        number[keep] = np.arange(len(keep))
        k = self.domain.dimension
        arrays = walk.arrays()
        edges = number[arrays["edges"]]
        both = (edges >= 0).all(axis=1)
        narrow = not self.net.layout or max(count for _, count in self.net.layout) <= 256
        pieces = np.array([walk.pieces[i] for i in keep]).reshape(len(keep), self.net.units)
        return Complex(
            pieces=pieces.astype(np.uint8 if narrow else np.uint16),
            points=np.array([walk.points[i] for i in keep]).reshape(-1, k),
            edges=edges[both],
            edge_points=arrays["edge_points"][both],
            edge_rows=arrays["edge_rows"][both],
            complete=complete,
            exact_verdicts=walk.verdicts + self.sections.verdicts,
        )


#: Arrays of facets: region of the batch, row, kind, point, pieces.
_Found = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class _Worker:
    """Room for one thread."""

    def __init__(self, program: Program, frame: np.ndarray, net: Engine) -> None:
        k, values, units = frame.shape[1] - 1, len(program.base), net.units
        m = sum(layer.units * layer.slots for layer in net.layers) + len(frame)
        self.maps = kernels.Maps(
            np.zeros((values, k + 1)), np.zeros((values, 2)), np.zeros((units, k + 1)),
            np.zeros((units, 2)), np.zeros((units, 2)), np.zeros((k + 5, values)), np.zeros(k + 1),
        )  # fmt: skip
        self.region = kernels.Region(
            np.zeros((m, k)), np.zeros(m), np.zeros((m, 2)), np.zeros(m, np.int64),
            np.zeros(m, np.int64), np.zeros(len(program.layers) + 1, np.int64),
        )  # fmt: skip
        self.tools = kernels.Tools(
            np.zeros(m, np.bool_), np.zeros(m, np.int64), np.zeros((m, k)),
            np.zeros((m, k), np.int64),
        )  # fmt: skip
        self.simplex = simplex_work(m, k)
        room = max(4 * m, 32 * BATCH)
        self.facets = kernels.Facets(
            np.zeros(room, np.int64), np.zeros(room, np.int64), np.zeros(room, np.int64),
            np.zeros((room, k)), np.zeros((room, units), np.uint16),
        )  # fmt: skip

    def take(self, count: int) -> _Found:
        """The facets written so far."""
        facets = self.facets
        return tuple(array[:count].copy() for array in facets)  # type: ignore[return-value]
