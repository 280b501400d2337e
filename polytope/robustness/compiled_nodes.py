"""Bounds of nodes by the compiled kernels, for networks that fit into a few arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from polytope.robustness.flat import Flat, FlatNetwork
from polytope.robustness.node import Judged, Node
from polytope.robustness.node_kernels import Work, bound_node
from polytope.robustness.query import Query


@dataclass(eq=False)
class CompiledNodes:
    """Bounds nodes of one query one at a time.

    Attributes
    ----------
    network : FlatNetwork
    query : Query
    batch, depth : int
        Nodes worth taking together, and units worth branching on at once.
    """

    network: FlatNetwork
    query: Query
    batch: int = 32
    depth: int = 1
    _radius: float = -1.0
    _flat: Flat | None = None
    _work: Work | None = None
    _leads: dict[int, np.ndarray] = field(default_factory=dict)

    def known(self) -> np.ndarray:
        """What is known of the root's values: nothing (2, values)."""
        values = self.network.values
        return np.stack([np.full(values, -np.inf), np.full(values, np.inf)])

    def judge(self, nodes: Sequence[Node], radius: float) -> list[Judged | None]:
        """What is known of each node within a radius; None: nothing adversarial is in it."""
        flat = self.around(radius)
        low, high = self.limits(radius)
        found: list[Judged | None] = []
        for node in nodes:
            work, known = self.room(node.fixed), node.known.copy()
            rows = bound_node(
                flat, node.fixed, self.lead(node.target), known[0], known[1], low, high,
                radius, self.query.p, work,
            )  # fmt: skip
            found.append(self.judged(work, rows, known) if rows else None)
        return found

    def around(self, radius: float) -> Flat:
        """The arrays around the point, for this radius or a larger one."""
        if self._flat is None or radius > self._radius:
            self._flat, self._radius = self.network.at(self.query, radius), radius
        return self._flat

    def limits(self, radius: float) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest steps (d,) within a radius and the box, rounded outwards."""
        low, high = self.query.steps(radius)
        low, high = np.nextafter(low, -np.inf), np.nextafter(high, np.inf)
        if self.query.box is not None:
            low, high = np.where(low > 0, 0.0, low), np.where(high < 0, 0.0, high)
        return low, high

    def judged(self, work: Work, rows: int, known: np.ndarray) -> Judged:
        """What a kernel left in its scratch."""
        normal, height = work.rows[:rows].copy(), work.heights[:rows].copy()
        bad = ~(np.isfinite(normal).all(axis=1) & np.isfinite(height))
        normal[bad], height[bad] = 0.0, -1.0
        choices = self._choices(work)
        pieces = None if choices else np.log2(work.pieces).astype(np.int64)
        return Judged(normal, height, choices, known, pieces)

    def _choices(self, work: Work) -> list[tuple[int, list[int]]]:
        """Open units, the best to branch on first, with the pieces they may take."""
        order = np.argsort(-work.score, kind="stable")[: self.depth]
        return [
            (unit, [k for k in range(int(bits).bit_length()) if bits >> k & 1])
            for unit, bits in zip(order.tolist(), work.pieces[order].tolist(), strict=True)
            if bits & (bits - 1)
        ]

    def lead(self, target: int) -> np.ndarray:
        """Coefficients (outputs,) of the label's lead over a class."""
        if target not in self._leads:
            self._leads[target] = self.query.lead(target)
        return self._leads[target]

    def room(self, fixed: np.ndarray) -> Work:
        """Scratch with rows for all fixed pieces."""
        flat, net = self.network.flat, self.network.net
        most = max([2, *(int(k) - 1 for k in flat.winners)])
        rows = 1 + most * int((fixed >= 0).sum())
        if self._work is not None and len(self._work.rows) >= rows:
            return self._work
        units, d = net.units, net.input_size
        corners = int(flat.layers[:, 4].max()) + 2
        rows = max(64, 2 * rows)
        self._work = Work(
            np.zeros((units, 4)), np.zeros(units, np.int64), np.zeros(len(flat.table)),
            np.zeros(units), np.zeros(d), np.zeros(units, np.int64), np.zeros(units),
            np.zeros((rows, d)), np.zeros(rows), np.zeros(corners), np.zeros(corners),
        )  # fmt: skip
        return self._work
