"""The exact distance to the nearest adversarial point, by branch and bound over units' pieces.

Nodes wait in the order of their proved lower bounds.  A batch of them is bounded by CROWN over
the ball of a radius, what is left by one small program each (`node_programs`), and what is still
open is branched on a unit's pieces.  A node that is refuted within the radius waits on, with the
radius as its bound, unless nothing farther counts.

The radius is that of the best witness, while the nodes become few.  Where they do not, it is
drawn nearer to the bound proved so far, so that this one grows whatever the witness is worth, and
widened again once all nodes are refuted within it.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from polytope.robustness.cell import Cell, CellDistance, cell_distance
from polytope.robustness.exact_cell import exact_cell, rows_that_cut
from polytope.robustness.interval import Interval
from polytope.robustness.node import Judged, Node, NodeBounds
from polytope.robustness.node_programs import NodePrograms
from polytope.robustness.query import Query
from polytope.robustness.witness import lp_norm
from polytope.sets import Box

#: Candidates whose target is no farther below the label than this, relative to it, are tried.
NEAR = 1e-7
#: Rows of a region are tightened by this much of their size to find a witness inside of it.
INSIDE = 1e-11
#: Units times inputs up to which a region that rounding leaves open is taken up exactly.
EXACT = 2**15
#: A radius is given up when so much time has passed, in seconds or as a part of all time spent,
#: without the bound of all nodes reaching it.
PATIENCE, SHARE = 2.0, 0.5
#: Part of the way from the bound to the radius that a radius given up is drawn back to.
NEARER = 0.5
#: Where nothing bounds the search it ends at so many times the size of the point.
FARTHEST = 1e12
#: A radius is widened by so many times what it proved.
WIDER = 1.0


@dataclass(frozen=True, eq=False)
class Leaf:
    """A node that needed no branching: nothing adversarial in it is nearer than `lower`.

    Attributes
    ----------
    target : int
    fixed : int16 (units,)
        The piece that each unit takes; -1 for open ones.
    lower : float
    within : float
        The radius that its bounds were taken within.
    multipliers : float64 (rows,) or None
        Of the node's rows; None if the bounds alone refuted it.
    """

    target: int
    fixed: np.ndarray
    lower: float
    within: float
    multipliers: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Branched:
    """How a search by branch and bound went.

    Attributes
    ----------
    leaves : tuple of Leaf
        They cover all points of the box nearer than the lower bound, and prove it.
    nodes, programs : int
        Nodes bounded (some several times, within larger radii), and programs solved.
    waiting : int
        Nodes left open when it stopped.
    """

    leaves: tuple[Leaf, ...]
    nodes: int
    programs: int
    waiting: int


def branch_and_bound(
    query: Query, interval: Interval, bounds: NodeBounds, first: float = math.inf
) -> Branched:
    """Search until the interval is settled or has to stop.

    Parameters
    ----------
    query : Query
        In l_1, l_2 or l_inf.
    interval : Interval
        With a witness, or the query with a radius or a bounded box.
    bounds : NodeBounds
        Of this query.
    first : float
        The radius to begin with, where the witness is farther.
    """
    tree = _Tree(query, interval, bounds, first)
    while tree.step():
        pass
    return Branched(tuple(tree.leaves()), tree.nodes, tree.programs.solved, len(tree.heap))


class _Tree:
    """The state of a search."""

    def __init__(self, query: Query, interval: Interval, bounds: NodeBounds, first: float) -> None:
        self.query, self.interval, self.bounds = query, interval, bounds
        self.programs = NodePrograms(query)
        self.heap: list[Node] = []
        self.shut: list[Leaf] = []
        self.closed = math.inf
        self.nodes = self.count = 0
        self.pace = 0.0  # seconds a node, of the last batch
        self.far, self.bounded = self._far()
        self.radius = min(self._goal(), first)
        if math.isinf(interval.upper) and not self.bounded:
            self.radius = min(self.radius, float(np.abs(query.x).max(initial=0.0)) or 1.0)
        self.begun = self.since = time.perf_counter()
        self.from_lower = interval.lower
        self.root = bounds.known()
        self.size = self.root.nbytes + 2 * query.net.units + 300
        for target in query.targets:
            fixed = np.full(query.net.units, -1, dtype=np.int16)
            self._push(interval.lower, target, fixed, self.root, self.radius)

    def leaves(self) -> Iterator[Leaf]:
        """All leaves, the waiting ones with what is proved of them."""
        yield from self.shut
        for node in self.heap:
            yield Leaf(node.target, node.fixed, node.lower, node.within, node.multipliers)

    def step(self) -> bool:
        """Bound one batch of nodes; False when the search is over."""
        interval = self.interval
        self._prove()
        interval.held = self.size * len(self.heap) + 2 * self.query.net.units * len(self.shut)
        if interval.stopped or not self.heap or self.heap[0].lower >= self._goal():
            return False
        self._choose_radius()
        batch: list[Node] = []
        left = (interval.deadline - time.perf_counter()) / max(self.pace, 1e-9)
        while (
            self.heap
            and len(batch) < max(1, min(self.bounds.batch, left))
            and self.heap[0].lower < min(self.radius, self._goal())
        ):
            batch.append(heapq.heappop(self.heap))
        begun = time.perf_counter()
        try:
            self._expand(batch)
        except BaseException:
            for node in batch:
                heapq.heappush(self.heap, node)
            raise
        self.pace = (time.perf_counter() - begun) / len(batch)
        return True

    def _goal(self) -> float:
        """What has to be searched: the radius asked for, or a little less than the witness."""
        query, interval = self.query, self.interval
        nearest = interval.upper * (1 - query.tol / 4)
        if query.radius is not None:
            return min(query.radius, nearest)
        return min(nearest, self.far)

    def _far(self) -> tuple[float, bool]:
        """A radius that there is nothing beyond, or nothing worth searching; and which."""
        low, high = self.query.steps()
        step = np.maximum(np.abs(low), np.abs(high))
        reach = float(lp_norm(step[None], self.query.p)[0]) * (1 + 1e-9)
        farthest = FARTHEST * max(1.0, float(np.abs(self.query.x).max(initial=0.0)))
        return min(reach, farthest), reach <= farthest

    def _prove(self) -> None:
        """Tell the interval what the waiting nodes prove."""
        waiting = self.heap[0].lower if self.heap else math.inf
        goal = self._goal()
        lower = min(waiting, self.closed)
        none = math.isinf(self.interval.upper) and self.query.radius is None
        if lower >= goal and none and self.bounded:
            lower = math.inf  # The whole box is refuted.
        elif math.isinf(lower):
            lower = goal
        self.interval.prove(lower)

    def _choose_radius(self) -> None:
        """Draw the radius nearer where it takes too long, widen it once it is proved."""
        now, lower, goal = time.perf_counter(), self.heap[0].lower, self._goal()
        self.radius = min(self.radius, goal)
        if lower >= self.radius:
            wider = self.radius + WIDER * max(self.radius - self.from_lower, NEARER * self.radius)
            self._start_from(min(goal, wider), lower, now)
        elif now - self.since > max(PATIENCE, SHARE * (now - self.begun)):
            self._start_from(lower + NEARER * (self.radius - lower), lower, now)

    def _start_from(self, radius: float, lower: float, now: float) -> None:
        """Take another radius."""
        self.radius, self.from_lower, self.since = radius, lower, now

    def _push(
        self, lower: float, target: int, fixed: np.ndarray, known: np.ndarray, within: float
    ) -> None:
        heapq.heappush(self.heap, Node(lower, self.count, target, fixed, known, within))
        self.count += 1

    def _expand(self, batch: list[Node]) -> None:
        """Bound some nodes and branch on those that stay open."""
        radius, goal = min(self.radius, self._goal()), self._goal()
        for node in batch:
            if node.within < radius:
                node.known, node.within = self.root, radius
        judged = self.bounds.judge(batch, radius)
        self.nodes += len(batch)
        steps: list[tuple[np.ndarray, int]] = []
        open_: list[tuple[Node, Judged, float]] = []
        done: list[tuple[Node, np.ndarray | None]] = []
        for node, found in zip(batch, judged, strict=True):
            if found is None:
                done.append((node, None))
                continue
            near = self.programs.nearest(found.normal, found.height, radius)
            lower = max(near.lower, node.lower)
            if near.step is not None:
                steps.append((near.step, node.target))
            if not found.choices and lower < radius:
                lower = max(lower, self._leaf(found, node.target, radius, steps))
            if lower >= radius:
                done.append((node, near.multipliers))
            else:
                open_.append((node, found, lower))
        self._try(steps)
        room = self.bounds.batch // max(1, len(open_))
        for node, found, lower in open_:
            if not found.choices:
                if lower < self._goal():
                    lower = max(lower, self._exactly(found, node.target, radius))
                if lower >= radius:
                    done.append((node, None))
                    continue
                self.closed = min(self.closed, lower)
                self.shut.append(Leaf(node.target, node.fixed, lower, radius, None))
                continue
            for pieces in _children(found.choices, room):
                child = node.fixed.copy()
                for unit, piece in pieces:
                    child[unit] = piece
                self._push(lower, node.target, child, found.known, radius)
        for node, multipliers in done:
            if radius >= goal:
                self.shut.append(Leaf(node.target, node.fixed, radius, radius, multipliers))
                self.closed = min(self.closed, radius)
            else:
                again = Node(
                    radius, self.count, node.target, node.fixed, node.known, node.within,
                    multipliers,
                )  # fmt: skip
                heapq.heappush(self.heap, again)
                self.count += 1

    def _leaf(
        self, found: Judged, target: int, radius: float, steps: list[tuple[np.ndarray, int]]
    ) -> float:
        """The distance of a linear region's adversarial part, and a candidate a little inside."""
        zero = np.zeros(len(found.height))
        inner = found.height + INSIDE * (np.abs(found.normal).sum(axis=1) + np.abs(found.height))
        lower = 0.0
        for height in (found.height, inner):
            distance = self._distance(Cell(found.normal, -height, zero, zero), radius)
            if height is found.height:
                lower = distance.lower
            if distance.step is not None:
                steps.append((distance.step, target))
        return lower

    def _exactly(self, found: Judged, target: int, radius: float) -> float:
        """The same with exact rows, where the network is small and rounding left it open."""
        query, size = self.query, self.query.net.units * len(self.query.x)
        if found.pieces is None or size > EXACT:
            return 0.0
        cell = exact_cell(query.net, found.pieces, query.x, query.label, target)
        distance = self._distance(cell, radius)
        if distance.step is not None:
            self._try([(distance.step, target)])
        return distance.lower

    def _distance(self, cell: Cell, radius: float) -> CellDistance:
        """How near a cell of steps comes, within a radius in the box; at most the radius."""
        low, high = self.query.steps(radius)
        low = np.where(low == 0, 0.0, np.nextafter(low, -np.inf))
        high = np.where(high == 0, 0.0, np.nextafter(high, np.inf))
        cutting = rows_that_cut(cell, low, high)
        if cutting is None:
            return CellDistance(radius, None)
        found = cell_distance(cutting, np.zeros(len(low)), self.query.p, Box(low, high))
        return CellDistance(min(found.lower, radius), found.step)

    def _try(self, steps: list[tuple[np.ndarray, int]]) -> None:
        """Offer candidates that the network decides otherwise, the nearest first.

        A program that is nearly infeasible may leave a step that is not finite: no candidate.
        """
        steps = [(step, target) for step, target in steps if np.isfinite(step).all()]
        if not steps:
            return
        query, interval = self.query, self.interval
        points = query.x + np.stack([step for step, _ in steps])
        if query.box is not None:
            points = np.clip(points, query.box.low, query.box.high)
        logits = query.net.logits(points)
        targets = np.array([target for _, target in steps])
        lead = logits[:, query.label] - logits[np.arange(len(steps)), targets]
        size = np.linalg.norm(points - query.x, ord=query.p, axis=1)
        near = lead <= NEAR * (1.0 + np.abs(logits[:, query.label]))
        for i in np.argsort(size, kind="stable").tolist():
            nearer = size[i] < interval.upper * (1 - query.tol / 2)
            if (nearer and near[i]) or (lead[i] < 0 and size[i] < interval.upper):
                interval.offer(points[i])


def _children(
    choices: list[tuple[int, list[int]]], room: int
) -> Iterator[tuple[tuple[int, int], ...]]:
    """All pieces of the first unit, and of as many further ones as there is room for."""
    count, used = 1, 0
    for _, pieces in choices:
        if used and count * len(pieces) > room:
            break
        count, used = count * len(pieces), used + 1
    return itertools.product(
        *([(unit, piece) for piece in pieces] for unit, pieces in choices[:used])
    )
