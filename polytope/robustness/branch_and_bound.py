"""The exact distance to the nearest adversarial point, by branch and bound over units' pieces.

Nodes wait in the order of their proved lower bounds.  A batch of them is bounded by CROWN over
the ball of the radius found so far (`polytope.robustness.nodes`), what is left by one small
program each (`node_programs`), and what is still open is branched on a unit's pieces.  The best
witness and the least bound of what is open are the interval at any time.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from polytope.bounds.inputs import InputSet
from polytope.model import Network
from polytope.robustness.cell import Cell, cell_distance
from polytope.robustness.node_programs import nearest
from polytope.robustness.nodes import branches, judge, polyhedra
from polytope.sets import Box

#: Nodes that are bounded together.
BATCH = 64
#: Units that a node is branched on at once while few nodes wait: bounding a batch of one costs
#: nearly as much as one of many.
DEPTH = 4
#: Candidates whose target is no farther below the label than this, relative to it, are tried.
NEAR = 1e-7
#: Rows of a region are tightened by this much of their size to find a witness inside of it.
INSIDE = 1e-11


@dataclass(order=True)
class Node:
    """A part of the input set: nothing adversarial in it is nearer than `lower`.

    `known` (2, values) are its parent's bounds of what the layers read, which hold in it too.
    """

    lower: float
    number: int
    target: int = field(compare=False)
    fixed: np.ndarray = field(compare=False)
    known: np.ndarray = field(compare=False)


@dataclass
class Tree:
    """The state of one point's search.

    Attributes
    ----------
    lower, upper : float
        The interval reached.
    nodes, programs : int
        Nodes bounded, and programs solved.
    """

    net: Network
    x: np.ndarray
    label: int
    p: float
    box: Box | None
    upper: float
    improve: Callable[[np.ndarray, int], float]
    tol: float = 1e-9
    heap: list[Node] = field(default_factory=list)
    closed: float = math.inf
    nodes: int = 0
    programs: int = 0
    count: int = 0
    ends: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))

    @property
    def lower(self) -> float:
        """Nothing adversarial is nearer."""
        waiting = self.heap[0].lower if self.heap else math.inf
        return min(waiting, self.closed, self.upper)

    @property
    def radius(self) -> float:
        """What has to be searched: a little less than the best witness."""
        return self.upper * (1 - self.tol / 4)

    def start(self, targets: list[int]) -> None:
        """One node for each target."""
        nodes = self.net.graph.nodes
        sizes = [nodes[nodes[layer.node].inputs[0]].size for layer in self.net.layers]
        self.ends = np.cumsum([0, *sizes])
        nothing = np.stack([np.full(self.ends[-1], -np.inf), np.full(self.ends[-1], np.inf)])
        for target in targets:
            self._push(0.0, target, np.full(self.net.units, -1, dtype=np.int16), nothing)

    def run(self, deadline: float) -> bool:
        """Go on until the interval is closed (True) or time is up."""
        while self.heap and self.heap[0].lower < self.radius:
            if time.perf_counter() >= deadline:
                return False
            batch: list[Node] = []
            while self.heap and len(batch) < BATCH and self.heap[0].lower < self.radius:
                batch.append(heapq.heappop(self.heap))
            self._expand(batch)
        return True

    def _push(self, lower: float, target: int, fixed: np.ndarray, known: np.ndarray) -> None:
        heapq.heappush(self.heap, Node(lower, self.count, target, fixed, known))
        self.count += 1

    def _expand(self, batch: list[Node]) -> None:
        """Bound some nodes and branch on those that stay open."""
        fixed = np.stack([node.fixed for node in batch])
        lead = torch.zeros(len(batch), self.net.output_size, dtype=torch.float64)
        rows = torch.arange(len(batch))
        lead[rows, self.label] += 1.0
        lead[rows, torch.tensor([node.target for node in batch])] -= 1.0
        radius = self.radius
        given = torch.as_tensor(np.stack([node.known for node in batch]))
        parts = [slice(a, b) for a, b in itertools.pairwise(self.ends.tolist())]
        known = [given[:, 0, part] for part in parts], [given[:, 1, part] for part in parts]
        judged = judge(self.net, self._inputs(len(batch), radius), fixed, lead, known)
        self.nodes += len(batch)
        alive = np.flatnonzero(judged.alive)
        if not len(alive):
            return
        cells, choices = polyhedra(self.net, judged, fixed), branches(self.net, judged, DEPTH)
        steps, open_ = [], []
        for i in alive.tolist():
            normal, offset = cells.of(i)
            found = nearest(normal, offset, self.x, self.p, self.box, radius)
            self.programs += 1
            lower = max(found.lower, batch[i].lower)
            if found.step is not None:
                steps.append((found.step, batch[i].target))
            if not choices[i] and lower < radius:
                lower = max(lower, self._leaf(normal, offset, batch[i].target, steps))
            if lower < radius:
                open_.append((i, lower))
        self._try(steps)
        tighter = np.stack(
            [torch.cat(side, dim=1).numpy() for side in (judged.bounds.lower, judged.bounds.upper)],
            axis=1,
        )
        room = BATCH // max(1, len(open_))
        for i, lower in open_:
            if not choices[i]:
                self.closed = min(self.closed, lower)
                continue
            for pieces in _children(choices[i], room):
                child = batch[i].fixed.copy()
                for unit, piece in pieces:
                    child[unit] = piece
                self._push(lower, batch[i].target, child, tighter[i])

    def _leaf(
        self, normal: np.ndarray, offset: np.ndarray, target: int,
        steps: list[tuple[np.ndarray, int]],
    ) -> float:  # fmt: skip
        """The distance of a linear region's adversarial part, and a candidate a little inside."""
        zero = np.zeros(len(normal))
        inner = offset + INSIDE * (np.abs(normal).sum(axis=1) + np.abs(offset))
        found = cell_distance(Cell(normal, -offset, zero, zero), self.x, self.p, self.box)
        inside = cell_distance(Cell(normal, -inner, zero, zero), self.x, self.p, self.box)
        if inside.step is not None:
            steps.append((inside.step, target))
        return found.lower

    def _inputs(self, count: int, radius: float) -> InputSet:
        """The ball of a radius met with the box, so many times."""
        x = torch.as_tensor(self.x).expand(count, -1).contiguous()
        low = high = None
        if self.box is not None:
            low, high = (
                torch.as_tensor(side.copy()).expand(count, -1).contiguous()
                for side in (self.box.low, self.box.high)
            )
        return InputSet.from_ball(
            x, torch.full((count,), radius, dtype=torch.float64), self.p, low, high
        )

    def _try(self, steps: list[tuple[np.ndarray, int]]) -> None:
        """Candidates that the network decides otherwise become the new upper bound."""
        if not steps:
            return
        points = self.x + np.stack([step for step, _ in steps])
        if self.box is not None:
            points = np.clip(points, self.box.low, self.box.high)
        logits = self.net.logits(points)
        size = np.linalg.norm(points - self.x, ord=self.p, axis=1)
        for i, (_, target) in enumerate(steps):
            near = NEAR * (1.0 + abs(logits[i, self.label]))
            if logits[i, target] >= logits[i, self.label] - near and size[i] < self.upper:
                self.upper = min(self.upper, self.improve(points[i], target))


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
