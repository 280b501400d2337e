"""Nodes that lean on the bounds of their root alone, so that a checker can follow them.

Open units keep the lines that the root's bounds give them; only fixed units change.  So all that
is known of a node is in the root's bounds and slopes, its fixed pieces, and one list of
multipliers (see `polytope.checker`).  It takes about twice as many nodes as bounds that are made
anew, each of which is several times as fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polytope.network.ir import Layer, Max
from polytope.robustness.compiled_nodes import CompiledNodes
from polytope.robustness.kept_kernels import bound_kept
from polytope.robustness.node import Judged, Node
from polytope.robustness.node_kernels import bound_node


@dataclass(frozen=True, eq=False)
class Root:
    """What a proof's root knows.

    Attributes
    ----------
    low, high : float64 (values,)
        Bounds of all that units read, within the radius.
    lines : float64 (units, 4)
        Slopes and intercepts of the lines below and above each unit.
    below : int64 (units,)
        Of maxima: the value that is the lower line.
    weights : float64 (table,)
        Of maxima: the upper line's.
    pieces : int64 (units,)
        The pieces that each unit may take, as bits.
    """

    low: np.ndarray
    high: np.ndarray
    lines: np.ndarray
    below: np.ndarray
    weights: np.ndarray
    pieces: np.ndarray


class KeptNodes(CompiledNodes):
    """Bounds nodes by the lines of a root that is bounded once, within one radius."""

    def root(self, radius: float) -> Root:
        """Bound the root."""
        flat, (low, high) = self.around(radius), self.limits(radius)
        fixed = np.full(self.network.net.units, -1, dtype=np.int16)
        work, known = self.room(fixed), CompiledNodes.known(self)
        # The lead plays no part in the bounds of the layers.
        lead = np.zeros(self.network.net.output_size)
        bound_node(
            flat, fixed, lead, known[0], known[1], low, high, radius, self.query.p, work
        )  # fmt: skip
        self._root = Root(
            known[0], known[1], work.lines.copy(), work.below.copy(), work.weights.copy(),
            work.pieces.copy(),
        )  # fmt: skip
        return self._root

    def judge(self, nodes: Sequence[Node], radius: float) -> list[Judged | None]:
        """What the root's lines say of each node within the root's radius."""
        root, flat, (low, high) = self._root, self.around(radius), self.limits(radius)
        found: list[Judged | None] = []
        for node in nodes:
            work = self.room(node.fixed)
            rows = bound_kept(
                flat, node.fixed, self.lead(node.target), root.lines, root.below, root.weights,
                root.pieces, root.low, root.high, low, high, radius, self.query.p, work,
            )  # fmt: skip
            found.append(self.judged(work, rows, node.known) if rows else None)
        return found

    def count_rows(self, fixed: np.ndarray) -> int:
        """The inequalities of a node's fixed pieces."""
        count = 0
        for layer in self.network.net.layers:
            own = fixed[layer.unit_slice]
            taken = own[own >= 0]
            if layer.is_max:
                windows = self._windows(layer)
                count += int((windows[own >= 0].sum(axis=1) - 1).sum())
            else:
                count += int((taken < layer.slots).sum() + (taken > 0).sum())
        return count

    def _windows(self, layer: Layer) -> np.ndarray:
        """Which candidates there are: bool (units, candidates)."""
        op = self.network.net.graph.nodes[layer.node].op
        assert isinstance(op, Max)
        return np.asarray(self.network.net.graph.constants[op.index] >= 0)
