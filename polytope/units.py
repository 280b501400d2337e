"""Which unit, and which of its pieces, is behind each row of a region."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polytope.network.engine import Engine
from polytope.network.ir import Max, Shape


@dataclass(frozen=True)
class RowUnit:
    """The unit behind one row.

    Attributes
    ----------
    layer : int
        Position of the layer in ``net.layers``.
    name, kind : str
        The layer's name in the source model, and its activation.
    unit : int
        Index of the unit in the flattened layer; `index` is the same in the layer's shape.
    slot : int
        The breakpoint, or for a maximum the candidate.
    piece, beyond : int
        The unit's piece in this region, and behind the row.
    pair : tuple of int or None
        For a maximum: flat positions (winner, competitor) among the layer's inputs.
    """

    layer: int
    name: str
    kind: str
    unit: int
    index: Shape
    slot: int
    piece: int
    beyond: int
    pair: tuple[int, int] | None


@dataclass(frozen=True)
class RowUnits:
    """The units behind all rows of a region: arrays of one length, or one `RowUnit` by index."""

    net: Engine
    layer: np.ndarray
    unit: np.ndarray
    slot: np.ndarray
    piece: np.ndarray
    beyond: np.ndarray

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.layer)

    def __getitem__(self, row: int) -> RowUnit:
        """The unit behind one row."""
        number, unit, slot = (int(a[row]) for a in (self.layer, self.unit, self.slot))
        layer = self.net.layers[number]
        node = self.net.graph.nodes[layer.node]
        pair = None
        if isinstance(node.op, Max):
            table = self.net.graph.constants[node.op.index][unit]
            pair = (int(table[int(self.piece[row])]), int(table[slot]))
        index = tuple(int(i) for i in np.unravel_index(unit, node.shape or (1,)))
        return RowUnit(
            number, layer.name, layer.kind, unit, index, slot,
            int(self.piece[row]), int(self.beyond[row]), pair,
        )  # fmt: skip
