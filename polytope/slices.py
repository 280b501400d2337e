"""A two-dimensional slice of the input space, and what the network does on it.

The plane is given isometric coordinates (an orthonormal basis), so that the section of an
l_2 ball around a point of the plane is a true circle.  Everything here is evaluated on a grid
in bands of rows: memory does not grow with the number of units.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import torch
from contourpy import LineType, contour_generator

from polytope.errors import InputError
from polytope.network.engine import Engine, LayerState, gather_windows
from polytope.network.ir import Max, Piecewise
from polytope.rows import as_logits
from polytope.sets import Box

#: Three points span a plane if the smaller side of their parallelogram's orthogonal frame is
#: at least this part of the larger: below it the basis would be rounding noise.
COLLINEAR = 1e-6
#: Values (points x widest layer) that one band of the grid may hold: 64 MB in float64.
BAND_VALUES = 2**23


@dataclass(frozen=True)
class Slice:
    """The plane through three points, with isometric coordinates.

    Attributes
    ----------
    origin : float64 (d,)
        The point with coordinates (0, 0).
    basis : float64 (2, d)
        Two orthonormal directions.
    coordinates : float64 (3, 2)
        Where the three points are.
    """

    origin: np.ndarray
    basis: np.ndarray
    coordinates: np.ndarray

    @classmethod
    def through(cls, points: np.ndarray) -> Slice:
        """The slice through three points (3, d), the first two level with each other.

        Raises
        ------
        InputError
            If they are not three, or lie on one line.
        """
        flat = np.asarray(points, dtype=np.float64).reshape(len(points), -1)
        if len(flat) != 3:
            raise InputError(f"a slice goes through three points, got {len(flat)}")
        along, other = flat[1] - flat[0], flat[2] - flat[0]
        first = np.linalg.norm(along)
        direction = along / first if first > 0 else along
        across = other - (other @ direction) * direction
        second = np.linalg.norm(across)
        if min(first, second) <= COLLINEAR * max(first, second, np.linalg.norm(other)):
            raise InputError("the three points lie on one line (or coincide): choose others")
        basis = np.stack([direction, across / second])
        return cls(flat[0], basis, (flat - flat[0]) @ basis.T)

    def lift(self, coordinates: np.ndarray) -> np.ndarray:
        """Points (..., d) of coordinates (..., 2)."""
        return np.asarray(self.origin + coordinates @ self.basis)

    def ball(self, center: np.ndarray, radius: float, p: float, corners: int = 720) -> np.ndarray:
        """Outline (corners, 2) of an l_p ball's section, around a point of the plane."""
        angle = np.linspace(0, 2 * np.pi, corners)
        directions = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        size = np.linalg.norm(directions @ self.basis, ord=p, axis=1)
        return np.asarray(center + directions * (radius / size)[:, None])

    def clip(self, outline: np.ndarray, box: Box) -> np.ndarray:
        """The part of a convex polygon (k, 2) inside the box: corners (m, 2), exact."""
        for i in range(len(self.origin)):
            normal, offset = self.basis[:, i], self.origin[i]
            for side, bound in ((1.0, box.high[i] - offset), (-1.0, offset - box.low[i])):
                if np.isfinite(bound) and len(outline):
                    outline = _cut(outline, side * normal, float(bound))
        return outline


def _cut(outline: np.ndarray, normal: np.ndarray, bound: float) -> np.ndarray:
    """The part of a convex polygon where ``normal @ u <= bound``."""
    # The points that span the plane often lie on the box: their rounding must not cut it away.
    excess = outline @ normal - bound - 1e-12 * (1 + abs(bound))
    corners: list[np.ndarray] = []
    for k in range(len(outline)):
        here, before = excess[k], excess[k - 1]
        if (here > 0) != (before > 0):
            corners.append(
                outline[k - 1] + (outline[k] - outline[k - 1]) * before / (before - here)
            )
        if here <= 0:
            corners.append(outline[k])
    return np.array(corners).reshape(-1, 2)


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
