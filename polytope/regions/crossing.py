"""Regions by crossing facets, in any dimension: breadth-first, or the nearest first.

From a region with a known interior point the compiled simplex method finds every facet with a
point on it; behind each lies one region, and one step on is a point inside it.  The walk is
complete when no facet leads to a new region, because the regions of a convex domain are
connected through facets.  What floats leave open is settled in integers, and counted.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np

from polytope.network.engine import Engine
from polytope.network.exact_ops import ExactArray
from polytope.regions import cross_kernels as kernels
from polytope.regions.complex import Complex
from polytope.regions.domain import Domain
from polytope.regions.exact_crossing import facets_behind, pattern_behind, point_inside, row_ids
from polytope.regions.exact_maps import ExactMaps
from polytope.regions.expander import Expanded, Expander
from polytope.regions.nearest import Sections
from polytope.regions.program import compile_program
from polytope.regions.walk import Walk

#: Regions that one worker expands at most between two looks at the result; the first time; and
#: the seconds from which on they are halved.
BATCH, FIRST, SLOW = 512, 32, 0.5
#: Batches that wait for each further thread, so that none is idle.
AHEAD = 3


class Crossed(NamedTuple):
    """Facets of a batch of regions, in its order.

    Attributes
    ----------
    region, row : int64 (n,)
        Number in the batch; row id.
    point : float64 (n, k)
    pieces : uint16 (n, units)
        The pattern behind.
    """

    region: np.ndarray
    row: np.ndarray
    point: np.ndarray
    pieces: np.ndarray


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
        self.exact = ExactMaps(net, domain)
        self.sections = Sections(net, domain, self.exact)
        self.threads = 1 if nearest_first else max(1, workers)
        self.free: SimpleQueue[Expander] = SimpleQueue()
        program = compile_program(net, domain)
        for _ in range(self.threads):
            self.free.put(Expander(program, domain, net))

    def begin(self) -> Walk:
        """A walk that knows the region of the start (of those it touches, one inside)."""
        walk = Walk(self.net.units, self.domain.dimension)
        inward = np.zeros((0, len(self.start)), dtype=int)
        slack = self.domain.b - self.domain.A @ self.start
        tight = np.abs(slack) <= 1e-9 * (1 + np.abs(self.domain.b))
        middle = -self.domain.A[tight].sum(axis=0)
        inward = np.vstack([np.round(middle * 2**20)[None], np.eye(len(self.start))])
        corner = ExactArray.from_floats(np.append(self.start, 1.0))
        point = corner.integers
        pieces = self.exact.germ_pieces(point, inward.astype(int).astype(object))
        walk.enter(pieces.astype(np.uint16)[None])
        walk.seeds[0], walk.crossed[0] = self.start, -1
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
        # Regions are expanded in the order in which they wait, and entered in that order,
        # whatever the threads are doing.
        left = np.flatnonzero(~walk.expanded[: walk.count])
        waiting = list(zip(walk.distance[left].tolist(), left.tolist(), strict=True))
        heapq.heapify(waiting)
        done = walk.count - len(left)
        ahead: deque[tuple[np.ndarray, Future[Expanded]]] = deque()
        most = 1 if self.nearest_first else BATCH
        size = min(most, FIRST)
        with ThreadPoolExecutor(self.threads) as pool:
            while waiting or ahead:
                room = np.inf if max_regions is None else max_regions - done
                room -= sum(len(batch) for batch, _ in ahead)
                while waiting and room > 0 and len(ahead) < AHEAD * self.threads - AHEAD + 1:
                    take = range(int(min(size, room, len(waiting))))
                    batch = np.array([heapq.heappop(waiting)[1] for _ in take])
                    ahead.append((batch, self._submit(walk, batch, pool)))
                    room -= len(batch)
                if not ahead or halt(done):
                    return False
                batch, future = ahead.popleft()
                expanded = future.result()
                count, facets = self._settled(walk, batch, expanded, partial(halt, done))
                fresh = self._enter(walk, batch, facets)
                for entry in zip(walk.distance[fresh].tolist(), fresh.tolist(), strict=True):
                    heapq.heappush(waiting, entry)
                walk.expanded[batch[:count]] = True
                if count < len(batch):
                    return False
                done += count
                size = max(1, size // 2) if expanded.seconds > SLOW else min(most, 2 * size)
        return True

    def _submit(self, walk: Walk, batch: np.ndarray, pool: ThreadPoolExecutor) -> Future[Expanded]:
        """Begin to expand a batch of regions, at once or in a thread."""
        arguments = walk.pieces[batch], walk.seeds[batch], walk.crossed[batch]
        if self.threads > 1:
            return pool.submit(self._expand, *arguments)
        now: Future[Expanded] = Future()
        now.set_result(self._expand(*arguments))
        return now

    def _expand(self, patterns: np.ndarray, seeds: np.ndarray, crossed: np.ndarray) -> Expanded:
        """Expand regions with the next room that is free."""
        expander = self.free.get()
        try:
            return expander.expand(patterns, seeds, crossed)
        finally:
            self.free.put(expander)

    def _enter(self, walk: Walk, batch: np.ndarray, facets: Crossed) -> np.ndarray:
        """Enter facets and the regions behind them; the numbers of the new ones."""
        number = batch[facets.region]
        first = walk.count
        known, fresh = walk.enter(facets.pieces)
        new = np.arange(first, walk.count)
        walk.seeds[new] = facets.point[fresh]
        walk.crossed[new] = self._from_behind(facets.row[fresh], walk.pieces[number[fresh]])
        if self.nearest_first:
            walk.distance[new] = [
                self.sections.distance(self.start, own) for own in facets.pieces[fresh]
            ]
        outward = number < known
        walk.edges.append(np.column_stack([number, known])[outward])
        walk.edge_rows.append(facets.row[outward])
        walk.edge_points.append(facets.point[outward])
        return new

    def _settled(
        self, walk: Walk, batch: np.ndarray, expanded: Expanded, halt: Callable[[], bool]
    ) -> tuple[int, Crossed]:
        """All facets of the regions of a batch: of the first ones, if halted before exact work."""
        found, points, status, _ = expanded
        patterns = walk.pieces[batch]
        proved = found.kind == kernels.PROVED
        open_ = {*found.region[~proved].tolist(), *np.flatnonzero(status == kernels.OPEN).tolist()}
        count, settled = len(batch), []
        for q in sorted(open_):
            if halt():
                count = q
                break
            own = found.region == q
            unknown = found.row[own & (found.kind == kernels.UNKNOWN)]
            if status[q] == kernels.OPEN:
                points[q], unknown = (
                    point_inside(self.exact, patterns[q]), row_ids(self.net, 0, patterns[q])
                )  # fmt: skip
            behind = facets_behind(self.exact, patterns[q], unknown.tolist())
            unclear = np.flatnonzero(own & (found.kind == kernels.UNCLEAR)).tolist()
            for f in unclear:
                row, point = int(found.row[f]), found.point[f]
                behind.append((row, pattern_behind(self.exact, patterns[q], row, point), point))
            settled += [(q, row, point, pieces) for row, pieces, point in behind]
            walk.verdicts += len(unknown) + len(unclear) + int(status[q] == kernels.OPEN)
        arrays = [getattr(found, name)[proved] for name in Crossed._fields]
        if settled:
            more = zip(*settled, strict=True)
            arrays = [np.concatenate(both) for both in zip(arrays, more, strict=True)]
            order = np.argsort(arrays[0], kind="stable")
            arrays = [array[order] for array in arrays]
        keep = arrays[0] < count
        facets = Crossed(*(array[keep] for array in arrays))
        if self.domain.ball is not None:
            facets = self._in_ball(patterns, facets)
            for q in range(count):
                points[q] = self.sections.in_round(patterns[q], None, points[q])
        walk.points[batch[:count]] = points[:count]
        return count, facets

    def _in_ball(self, patterns: np.ndarray, facets: Crossed) -> Crossed:
        """The facets that enter the domain's l_2 ball, with points inside it."""
        keep = []
        for f, (q, row) in enumerate(zip(facets.region, facets.row, strict=True)):
            if self.sections.in_ball(patterns[q], int(row)):
                keep.append(f)
                facets.point[f] = self.sections.in_round(patterns[q], int(row), facets.point[f])
        return Crossed(*(array[keep] for array in facets))

    def _from_behind(self, rows: np.ndarray, pieces: np.ndarray) -> np.ndarray:
        """The ids that rows of regions with these pieces have in the regions behind them."""
        result = rows.copy()
        for layer in self.net.layers:
            local = rows - layer.first_row
            own = np.flatnonzero((local >= 0) & (local < layer.units * layer.slots))
            if layer.is_max and len(own):
                unit = local[own] // layer.slots
                winner = pieces[own, layer.first_unit + unit]
                result[own] = layer.first_row + unit * layer.slots + winner
        return result

    def complex(self, walk: Walk, complete: bool) -> Complex:
        """The expanded regions and the edges between them."""
        keep = np.flatnonzero(walk.expanded[: walk.count])
        number = np.full(walk.count, -1)
        number[keep] = np.arange(len(keep))
        arrays = walk.arrays()
        edges = number[arrays["edges"]]
        both = (edges >= 0).all(axis=1)
        narrow = not self.net.layout or max(count for _, count in self.net.layout) <= 256
        return Complex(
            pieces=walk.pieces[keep].astype(np.uint8 if narrow else np.uint16),
            points=walk.points[keep],
            edges=edges[both],
            edge_points=arrays["edge_points"][both],
            edge_rows=arrays["edge_rows"][both],
            complete=complete,
            exact_verdicts=walk.verdicts + self.sections.verdicts,
        )
