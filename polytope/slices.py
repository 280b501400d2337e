"""An affine slice of the input space: the line, plane or larger flat through given points.

The slice has isometric coordinates (an orthonormal basis), so that the section of an l_2 ball
around a point of a plane is a true circle.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from polytope.errors import InputError
from polytope.sets import Box, BoxLike, as_box, as_numbers

#: Points span a slice if each is farther from the flat through those before it than this part
#: of the longest distance from the first: below it the basis would be rounding noise.
COLLINEAR = 1e-6
#: Bits of numbers and of factors whose products (and sums of a few) floats hold exactly.
EDGE_BITS, FACTOR_BITS = 16, 35


@dataclass(frozen=True, eq=False)
class Slice:
    """The flat through ``k + 1`` points of the input space, with isometric coordinates.

    Two points span a line, three a plane.  The first two points are level with each other: the
    first coordinate runs from one to the other.

    Parameters
    ----------
    points : array (k + 1, D) or (k + 1, *input_shape)
        Points in general position, k >= 1.
    box : Box or pair (low, high), optional
        A box on the *inputs* that limits the slice.
    margin : float, optional
        Limits the slice to the rectangle around the points' coordinates, enlarged on every
        side by this part of its longest side.  With neither, the slice is the whole flat.

    Attributes
    ----------
    origin : float64 (D,)
        The first point; its coordinates are 0.
    basis : float64 (k, D)
        Orthonormal directions: up to rounding, or up to 1e-10 where the points are numbers of 16
        bits (such as pixels, or multiples of 1/16).  Then each is an exact combination of the
        edges between the points, and units that coincide on the flat coincide on it as floats
        have it; any other rounding tears them apart into slivers, which would count as regions.
    coordinates : float64 (k + 1, k)
        Where the points are.

    Raises
    ------
    InputError
        If the points are fewer than two, not finite, or lie on a smaller flat (three on one
        line); for a box that does not fit them or lies beside the slice; for a negative margin.
    """

    points: np.ndarray
    box: BoxLike = None
    margin: float | None = None
    origin: np.ndarray = field(init=False, repr=False)
    basis: np.ndarray = field(init=False, repr=False)
    coordinates: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        points = as_numbers(self.points, "slice: points")
        if points.ndim < 2 or len(points) < 2:
            raise InputError(
                f"slice: got points of shape {points.shape}, expected (k + 1, inputs) with two "
                "points for a line or three for a plane"
            )
        points = points.reshape(len(points), -1)
        if not np.isfinite(points).all():
            raise InputError("slice: a point holds NaN or infinity; choose others")
        if self.margin is not None:
            margin = as_numbers(self.margin, "slice: margin")
            if margin.ndim != 0 or not 0 <= float(margin) < np.inf:
                raise InputError(
                    f"slice: got margin={self.margin!r}, expected one number of at least 0"
                )
        edges = points[1:] - points[0]
        basis = _in_span(edges, _orthonormal(edges))
        values = {
            "points": points,
            "origin": points[0].copy(),
            "basis": basis,
            "coordinates": np.vstack([np.zeros(len(basis)), _coordinates(edges, basis)]),
        }
        for name, array in values.items():
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        box = as_box(self.box, points.shape[1])
        if box is not None:
            _require_met(box, points[0], basis)
        object.__setattr__(self, "box", box)

    @property
    def dimension(self) -> int:
        """Number of coordinates."""
        return len(self.basis)

    def lift(self, coordinates: np.ndarray) -> np.ndarray:
        """Points (..., D) of coordinates (..., k)."""
        return np.asarray(self.origin + np.asarray(coordinates) @ self.basis)

    @property
    def window(self) -> Box | None:
        """The rectangle of coordinates that `margin` asks for."""
        if self.margin is None:
            return None
        low, high = self.coordinates.min(axis=0), self.coordinates.max(axis=0)
        wider = self.margin * float((high - low).max())
        return Box(low - wider, high + wider)

    def ball(self, center: np.ndarray, radius: float, p: float, corners: int = 720) -> np.ndarray:
        """Outline (corners, 2) of an l_p ball's section, around a point of the plane."""
        angle = np.linspace(0, 2 * np.pi, corners)
        directions = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        size = np.linalg.norm(directions @ self.basis, ord=p, axis=1)
        return np.asarray(center + directions * (radius / size)[:, None])

    def clip(self, outline: np.ndarray, box: Box) -> np.ndarray:
        """The part of a convex polygon (corners, 2) inside the box: corners (m, 2), exact."""
        for i in range(len(self.origin)):
            normal, offset = self.basis[:, i], self.origin[i]
            for side, bound in ((1.0, box.high[i] - offset), (-1.0, offset - box.low[i])):
                if np.isfinite(bound) and len(outline):
                    outline = _cut(outline, side * normal, float(bound))
        return outline


def _orthonormal(edges: np.ndarray) -> np.ndarray:
    """Gram-Schmidt in order, twice over; a coordinate that is 0 in all edges stays exactly 0.

    Raises
    ------
    InputError
        If an edge lies in the span of those before it.
    """
    longest = float(np.linalg.norm(edges, axis=1).max())
    basis = np.zeros((0, edges.shape[1]))
    for number, edge in enumerate(edges, start=1):
        rest = edge - (basis @ edge) @ basis
        rest = rest - (basis @ rest) @ basis
        size = float(np.linalg.norm(rest))
        if size <= COLLINEAR * longest:
            where = {0: "coincide", 1: "lie on one line (or coincide)", 2: "lie on one plane"}
            what = where.get(number - 1, f"lie on a flat of {number - 1} dimensions")
            raise InputError(f"slice: the first {number + 1} points {what}: choose others")
        basis = np.vstack([basis, rest / size])
    return basis


def _in_span(edges: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """The directions as exact combinations of edges, where floats can hold these."""
    grid = 2.0 ** (np.frexp(np.abs(edges).max())[1] - EDGE_BITS)
    if (edges / grid != np.round(edges / grid)).any():
        return basis
    factors = np.linalg.lstsq(edges.T, basis.T, rcond=None)[0].T
    unit = 2.0 ** (np.frexp(np.abs(factors).max())[1] - FACTOR_BITS)
    return np.asarray((np.round(factors / unit) * unit) @ edges)


def _coordinates(edges: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Coordinates (k, k) of the edges in a basis of their span."""
    return np.asarray(np.linalg.lstsq(basis.T, edges.T, rcond=None)[0].T)


def _require_met(box: Box, origin: np.ndarray, basis: np.ndarray) -> None:
    """Refuse a box that a coordinate misses which is the same on the whole slice.

    Raises
    ------
    InputError
        Naming the coordinate.
    """
    still = ~basis.any(axis=0)
    missed = still & ((origin < box.low) | (origin > box.high))
    if missed.any():
        at = int(np.argmax(missed))
        raise InputError(
            f"slice: coordinate {at} is {origin[at]:g} on the whole slice, outside its box "
            f"[{box.low[at]:g}, {box.high[at]:g}], so nothing is left; widen the box"
        )


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
