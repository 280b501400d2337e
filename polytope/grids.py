"""What the network does on a plane, on a grid: regions, decisions, and the lines between them.

Everything is evaluated in bands of rows: memory does not grow with the number of units.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import torch
from contourpy import LineType, contour_generator

from polytope.network.engine import Engine, LayerState, gather_windows
from polytope.network.ir import Max, Piecewise
from polytope.rows import as_logits
from polytope.slices import Slice

#: Values (points x widest layer) that one band of the grid may hold: 64 MB in float64.
BAND_VALUES = 2**23


@dataclass(frozen=True)
class Sweep:
    """The network on the grid of a slice.

    Attributes
    ----------
    u, v : float64 (columns,), (rows,)
        The grid.
    region : int64 (rows, columns)
        A number for each activation pattern (a hash: equal patterns, equal numbers).
    logits : float64 (rows, columns, classes)
    borders : tuple of float64 (k, 2)
        Lines along which a unit changes its piece.
    """

    u: np.ndarray
    v: np.ndarray
    region: np.ndarray
    logits: np.ndarray
    borders: tuple[np.ndarray, ...]

    @cached_property
    def classes(self) -> np.ndarray:
        """The decided class (rows, columns)."""
        return np.asarray(self.logits.argmax(axis=2))

    def decision_lines(self) -> list[np.ndarray]:
        """Lines along which the decision changes."""
        lines: list[np.ndarray] = []
        for c in np.unique(self.classes)[:-1]:
            others = np.delete(self.logits, c, axis=2).max(axis=2)
            lines += _zero_lines(self.u, self.v, self.logits[:, :, c] - others)
        return lines


def sweep_slice(net: Engine, plane: Slice, u: np.ndarray, v: np.ndarray) -> Sweep:
    """Evaluate the network on a grid, and trace where its units change their pieces."""
    widest = max([net.input_size, *(layer.units * layer.slots for layer in net.layers)])
    height = max(1, BAND_VALUES // (widest * len(u)))
    mixer = np.random.default_rng(0)
    weights = torch.as_tensor(mixer.integers(-(2**62), 2**62, net.units))
    regions, logits, borders = [], [], []
    for start in range(0, len(v) - 1, height):
        rows = v[start : start + height + 1]
        grid = np.stack(np.meshgrid(u, rows), axis=-1).reshape(-1, 2)
        x = torch.as_tensor(plane.lift(grid)).reshape(-1, *net.input_shape)
        region = torch.zeros(len(x), dtype=torch.int64)
        with torch.no_grad():
            for state in net.sweep(x):
                if state.layer is None:
                    outputs = as_logits(state.values).numpy()
                    continue
                assert state.pieces is not None
                region += (state.pieces.flatten(1) * weights[state.layer.unit_slice]).sum(dim=1)
                for change in _changes(net, state):
                    borders += _zero_lines(u, rows, change.reshape(len(rows), len(u)))
        last = start + height >= len(v) - 1
        keep = len(rows) if last else len(rows) - 1
        regions.append(region.numpy().reshape(len(rows), -1)[:keep])
        logits.append(outputs.reshape(len(rows), len(u), -1)[:keep])
    return Sweep(u, v, np.concatenate(regions), np.concatenate(logits), tuple(borders))


def _changes(net: Engine, state: LayerState) -> Iterator[np.ndarray]:
    """Functions on the grid, one for each hyperplane seen, that are zero where a piece ends."""
    assert state.layer is not None
    node = net.graph.nodes[state.layer.node]
    c = net.constants(state.values.dtype, state.values.device)
    if isinstance(node.op, Piecewise):
        shaped = state.values.reshape(-1, *node.shape).unsqueeze(-1)
        signed = (shaped - c[node.op.breakpoints]).flatten(1)
    else:
        assert isinstance(node.op, Max)
        candidates = gather_windows(state.values, c[node.op.index], -torch.inf)
        two = candidates.topk(2, dim=-1)
        best, second = two.values[..., :1], two.values[..., 1:]
        winner = two.indices[..., :1] == torch.arange(candidates.shape[-1])
        signed = torch.where(winner, best - second, candidates - best)
        signed = signed[..., :-1].flatten(1)
    seen = (signed > 0).any(dim=0) & (signed <= 0).any(dim=0)
    yield from signed[:, seen].T.numpy()


def _zero_lines(u: np.ndarray, v: np.ndarray, values: np.ndarray) -> list[np.ndarray]:
    """The lines along which grid values are zero."""
    finite = np.ma.masked_invalid(values)
    generator = contour_generator(u, v, finite, line_type=LineType.Separate)
    return cast("list[np.ndarray]", generator.lines(0.0))
