"""Branch and bound over the pieces of units, for sets that meet too many regions to enumerate.

A node fixes the pieces of some units.  CROWN under these pieces decides others, and a question
(`Question`) bounds what it asks for over the node from above; nodes whose bound is not above what
is known already are dropped, and so are those that a linear program over the fixed pieces' rows
proves empty.  Nodes without room are looked at in exact arithmetic, and then branched on layer by
layer: where hyperplanes meet in a point, all patterns are feasible there.  Where all units are
decided the node is a part of one linear region, which the question settles.  The node with the
largest bound comes first, so that at any time the largest bound of the nodes that are left is an
upper bound over the whole set.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from polytope.bounds.inputs import InputSet
from polytope.bounds.layers import LayerBounds, allowed_pieces, layer_bounds
from polytope.extremes.cells import CellPrograms
from polytope.extremes.inside import Inside
from polytope.network.engine import Engine
from polytope.robustness.nodes import heights, piece_rows

#: Nodes branched on at once, at most; the seconds of a step from which on they are halved, and
#: below which they are doubled.
BATCH, SLOW, QUICK = 128, 1.0, 0.3
#: Bounds above the best value by less than this part of it do not count as above.
CLOSE = 1e-12
#: Nodes that leave less room than this part of the set's size may be flat: exact arithmetic says.
THIN = 1e-9
#: Bytes that the waiting nodes may hold.
MEMORY = 2**30


class Question(ABC):
    """What is maximised; an answer that is proved is known to the question itself."""

    @property
    @abstractmethod
    def lower(self) -> float:
        """The largest value that is proved so far."""

    @abstractmethod
    def bound(self, bounds: LayerBounds) -> np.ndarray:
        """Upper bounds (n,) over n nodes."""

    @abstractmethod
    def weigh(self, bounds: LayerBounds) -> np.ndarray:
        """How much is gained by fixing a unit's piece: (n, units), at least 0."""

    @abstractmethod
    def settle(self, pieces: np.ndarray, near: np.ndarray) -> float:
        """A proved upper bound of what the region of a pattern has; may raise `lower`.

        -inf where the region has no inside in the set.  `near` is a point of its closure.
        """

    @abstractmethod
    def offer(self, points: np.ndarray) -> None:
        """Points (n, d) that may raise `lower`."""


@dataclass(frozen=True, eq=False)
class Node:
    """A node that waits.

    Attributes
    ----------
    bound : float
    fixed : int16 (units,)
        The piece of each unit, -1 where it is open.
    known : float64 (2, values)
        Bounds of what the layers read.
    unit : int
        To branch on next; -1 if all are decided.
    pieces : tuple of int
        Those that the unit may take; all units' pieces where all are decided.
    near : float64 (d,)
        A point that the rows of the fixed pieces do not exclude.
    """

    bound: float
    fixed: np.ndarray
    known: np.ndarray
    unit: int
    pieces: tuple[int, ...]
    near: np.ndarray


@dataclass(frozen=True)
class Searched:
    """How a search ended.

    Attributes
    ----------
    upper : float
        Proved over the whole set.
    complete : bool
        Nothing is left.
    nodes, leaves : int
        Nodes bounded, and regions settled.
    """

    upper: float
    complete: bool
    nodes: int
    leaves: int


class Tree:
    """One search.

    Parameters
    ----------
    net : Engine
        Piecewise linear.
    inputs : InputSet
        One set.
    question : Question
    inside : Inside
        Of the same set: nodes that floats cannot tell from flat ones are looked at exactly.
    """

    def __init__(self, net: Engine, inputs: InputSet, question: Question, inside: Inside) -> None:
        self._net, self._inputs, self._question = net, inputs, question
        self._inside, self._cells = inside, CellPrograms(inputs)
        nodes = net.graph.nodes
        self._sizes = [nodes[nodes[layer.node].inputs[0]].size for layer in net.layers]
        self._heap: list[tuple[float, int, Node]] = []
        self._count = self._bounded = self._leaves = 0
        self._dropped = -math.inf
        self._batch = 1

    def run(self, halt: Callable[[int], bool], max_regions: int | None = None) -> Searched:
        """Search until nothing is left, `halt` says so, or memory is used up."""
        values = sum(self._sizes)
        open_ = np.stack([np.full(values, -np.inf), np.full(values, np.inf)])
        root = np.full(self._net.units, -1, np.int16)
        self._judge(root[None], open_[None], np.full(1, np.inf))
        complete = True
        while self._heap and not self._closed(-self._heap[0][0]):
            held = len(self._heap) * (values * 16 + self._net.units * 2 + 8 * self._net.input_size)
            full = held > MEMORY or (max_regions is not None and self._leaves >= max_regions)
            if full or halt(self._leaves):
                complete = False
                break
            begin = time.perf_counter()
            self._step()
            spent = time.perf_counter() - begin
            if spent > SLOW:
                self._batch = max(1, self._batch // 2)
            elif spent < QUICK:
                self._batch = min(BATCH, 2 * self._batch)
        rest = -self._heap[0][0] if self._heap else -math.inf
        upper = max(self._question.lower, self._dropped, rest)
        return Searched(upper, complete, self._bounded, self._leaves)

    def _closed(self, bound: float) -> bool:
        """Whether a bound is not above the best value."""
        return bound <= self._question.lower * (1 + CLOSE)

    def _step(self) -> None:
        """Branch on the nodes with the largest bounds."""
        fixed: list[np.ndarray] = []
        known: list[np.ndarray] = []
        limits: list[float] = []
        while self._heap and len(fixed) < self._batch and not self._closed(-self._heap[0][0]):
            _, _, node = heapq.heappop(self._heap)
            if node.unit < 0:
                self._leaves += 1
                found = self._question.settle(np.array(node.pieces), node.near)
                self._dropped = max(self._dropped, min(found, node.bound))
                continue
            for piece in node.pieces:
                child = node.fixed.copy()
                child[node.unit] = piece
                fixed.append(child)
                known.append(node.known)
                limits.append(node.bound)
        if fixed:
            self._judge(np.stack(fixed), np.stack(known), np.array(limits))

    def _judge(self, fixed: np.ndarray, known: np.ndarray, limits: np.ndarray) -> None:
        """Bound some nodes, and keep those that count."""
        net, question, n = self._net, self._question, len(fixed)
        self._bounded += n
        ends = np.cumsum([0, *self._sizes])
        given = torch.as_tensor(known)
        sides = tuple([given[:, side, a:b] for a, b in itertools.pairwise(ends)] for side in (0, 1))
        with torch.no_grad():
            allowed = allowed_pieces(net, torch.as_tensor(fixed.astype(np.int64)))
            bounds = layer_bounds(net, self._sets(n), allowed, (sides[0], sides[1]))
            value = np.minimum(question.bound(bounds), limits)
            alive = ~bounds.empty.numpy() & (value > question.lower * (1 + CLOSE))
            self._drop(value[~bounds.empty.numpy() & ~alive])
            if not alive.any():
                return
            weight = np.where(bounds.undecided.numpy(), question.weigh(bounds) + 1e-300, -1.0)
            rows = piece_rows(net, bounds, fixed.astype(np.int64))
        none = torch.zeros(n, 0, dtype=torch.float64)
        tighter = np.stack(
            [torch.cat([none, *side], 1).numpy() for side in (bounds.lower, bounds.upper)], axis=1
        )
        count = len(self._cells.middle)
        empty = np.zeros((n, 0, count)), np.zeros((n, 0))
        normal, height = heights(rows, self._cells.middle) if rows else empty
        points = []
        for i in np.flatnonzero(alive).tolist():
            own = normal[i].any(axis=1) | (height[i] > 0)
            room = self._cells.room(normal[i][own], height[i][own])
            if room is None:
                continue
            weights = weight[i]
            if room.depth <= THIN:
                pieces, open_ = _decided(bounds, i)
                if self._inside.flat(pieces, open_):
                    continue
                weights = _first_layer(net, weights)
            points.append(room.point)
            self._push(bounds, i, (float(value[i]), fixed[i], tighter[i]), weights, room.point)
        if points:
            question.offer(np.stack(points))

    def _push(
        self, bounds: LayerBounds, i: int, node: tuple[float, np.ndarray, np.ndarray],
        weights: np.ndarray, near: np.ndarray,
    ) -> None:  # fmt: skip
        """Keep a node, with the unit to branch on next."""
        unit = int(weights.argmax())
        if weights[unit] < 0:
            unit, pieces = -1, tuple(_decided(bounds, i)[0].tolist())
        else:
            layers = bounds.net.layers
            number = next(k for k, layer in enumerate(layers) if unit < layer.unit_slice.stop)
            local = unit - layers[number].first_unit
            pieces = tuple(bounds.pieces[number][i, local].nonzero().flatten().tolist())
        self._count += 1
        kept = Node(*node, unit, pieces, near)
        heapq.heappush(self._heap, (-kept.bound, self._count, kept))

    def _drop(self, values: np.ndarray) -> None:
        """Nodes that do not count, but whose bounds do, to the last digits."""
        self._dropped = max(self._dropped, float(values.max(initial=-math.inf)))

    def _sets(self, count: int) -> InputSet:
        """The set, so many times."""
        one = self._inputs
        parts = [
            None if part is None else part.expand(count, *part.shape[1:]).contiguous()
            for part in (one.low, one.high, one.center, one.radius)
        ]
        assert parts[0] is not None
        assert parts[1] is not None
        return replace(
            one, low=parts[0], high=parts[1], center=parts[2], radius=parts[3], same=True
        )


def _decided(bounds: LayerBounds, i: int) -> tuple[np.ndarray, np.ndarray]:
    """The pieces of one node's units (of those that are open any one), and which are open."""
    none = torch.zeros(0, dtype=torch.int64)
    pieces = torch.cat([none, *(p[i].to(torch.int64).argmax(dim=1) for p in bounds.pieces)])
    return pieces.numpy(), bounds.undecided[i].numpy()


def _first_layer(net: Engine, weights: np.ndarray) -> np.ndarray:
    """Weights of the first layer that has open units alone."""
    for layer in net.layers:
        own = weights[layer.unit_slice]
        if (own >= 0).any():
            result = np.full_like(weights, -1.0)
            result[layer.unit_slice] = own
            return result
    return weights
