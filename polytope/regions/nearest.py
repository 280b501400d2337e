"""How far regions and facets are from a point, and whether they enter an l_2 ball.

The projection of a point onto {A u <= b} is a least-distance problem (Lawson and Hanson,
Solving Least Squares Problems, chapter 23), solved by non-negative least squares.  Floats
decide where the distance is clearly on one side of the radius; else the rows that the projection
lies on are solved in rational arithmetic, and the answer is checked by the optimality conditions.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from scipy.optimize import nnls

from polytope.network.engine import Engine
from polytope.regions.domain import Domain
from polytope.regions.exact_crossing import row_ids
from polytope.regions.exact_maps import ExactMaps

#: Part of a distance that small least-squares problems in float64 are not trusted with.
BLURRED = 1e-8


class Sections:
    """The regions of a network as rows over a domain's coordinates.

    Parameters
    ----------
    net : Engine
    domain : Domain
    exact : ExactMaps
    """

    def __init__(self, net: Engine, domain: Domain, exact: ExactMaps) -> None:
        self.net, self.domain, self.exact = net, domain, exact
        self.verdicts = 0

    def distance(self, center: np.ndarray, pieces: np.ndarray) -> float:
        """Distance (l_2, in coordinates) from a point to a region of the domain, in floats."""
        A, b = _floats(self._rows(pieces))
        return float(np.linalg.norm(_projection(A, b, center)[0]))

    def _rows(self, pieces: np.ndarray) -> np.ndarray:
        return self.exact.rows(pieces, row_ids(self.net, len(self.domain.A), pieces))

    def in_ball(self, pieces: np.ndarray, row: int) -> bool:
        """Whether a facet has points inside the domain's l_2 ball (not only on its sphere)."""
        assert self.domain.ball is not None
        center, radius = self.domain.ball
        rows = self._rows(pieces)
        rows = np.vstack([rows, -self.exact.row(pieces, row)[None]])
        A, b = _floats(rows)
        step, active = _projection(A, b, center)
        distance = float(np.linalg.norm(step))
        if abs(distance - radius) > BLURRED * (radius + np.abs(center).max(initial=0.0)):
            return distance < radius
        self.verdicts += 1
        return _square_distance(rows, active, center) < Fraction(radius) ** 2

    def in_round(self, pieces: np.ndarray, row: int | None, point: np.ndarray) -> np.ndarray:
        """A point inside a region (or a facet of it) and inside the domain's l_2 ball.

        Parameters
        ----------
        pieces : int array (units,)
            A region that enters the ball.
        row : int or None
            The facet's row.
        point : float64 (k,)
            Inside the region or the facet, perhaps not in the ball.
        """
        assert self.domain.ball is not None
        center, radius = self.domain.ball
        if np.linalg.norm(point - center) < radius:
            return point
        rows = self._rows(pieces)
        if row is not None:
            rows = np.vstack([rows, -self.exact.row(pieces, row)[None]])
        foot, _ = _projection(*_floats(rows), center)
        # From the foot towards the point, half of the way that is in the ball.
        way = point - center - foot
        a, b, c = way @ way, foot @ way, foot @ foot - radius**2
        reach = (np.sqrt(max(b * b - a * c, 0.0)) - b) / a
        return np.asarray(center + foot + 0.5 * reach * way)


def _floats(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Integer rows with a normal as floats with largest entry 1."""
    proper = rows[[any(row[:-1]) for row in rows]]
    scaled = np.array([
        [float(Fraction(int(v), max(abs(int(u)) for u in row[:-1]))) for v in row]
        for row in proper
    ]).reshape(-1, rows.shape[1])  # fmt: skip
    return scaled[:, :-1], -scaled[:, -1]


def _projection(A: np.ndarray, b: np.ndarray, center: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """The way from a point to {A u <= b} (infinite if that is empty), and the rows it ends on."""
    # With d = u - center: -A d >= -(b - A center); nnls on [(-A)'; (-h)'] against (0, ..., 0, 1).
    height = A @ center - b
    if not (height > 0).any():
        return np.zeros_like(center), []
    scale = float(np.abs(height).max())
    table = np.vstack([-A.T, height[None] / scale])
    target = np.zeros(len(table))
    target[-1] = 1.0
    weights, _ = nnls(table, target, maxiter=50 * len(A))
    residual = table @ weights - target
    if abs(residual[-1]) <= 1e-14:
        return np.full_like(center, np.inf), []
    step = -residual[:-1] / residual[-1] * scale
    return step, [int(i) for i in np.flatnonzero(weights > 0)]


def square_distance(rows: np.ndarray, center: np.ndarray) -> Fraction | None:
    """The exact squared distance from a point to {rows [u, 1] <= 0}, which is not empty.

    None if the rows that the projection lies on were not found in floats.
    """
    _, active = _projection(*_floats(rows), center)
    return _settled(rows, active, center)


def _square_distance(rows: np.ndarray, active: Sequence[int], center: np.ndarray) -> Fraction:
    """The exact squared distance, from the rows that the projection lies on.

    Raises
    ------
    RuntimeError
        If they are not those of the projection.
    """
    found = _settled(rows, active, center)
    if found is None:
        raise RuntimeError(
            "the distance of a facet from the ball's center could not be settled exactly; "
            "please report the network, or change the radius slightly"
        )
    return found


def _settled(rows: np.ndarray, active: Sequence[int], center: np.ndarray) -> Fraction | None:
    """The same, None if they are not those."""
    proper = [row for row in rows if any(row[:-1])]
    at = [Fraction(float(c)) for c in center]
    chosen = [[Fraction(int(v)) for v in proper[i]] for i in active]
    heights = [_dot(row[:-1], at) + row[-1] for row in chosen]
    gram = [[_dot(p[:-1], q[:-1]) for q in chosen] for p in chosen]
    weights = _solved(gram, heights)
    foot = [
        c - sum(w * row[i] for w, row in zip(weights, chosen, strict=True))
        for i, c in enumerate(at)
    ]
    inside = all(
        sum(int(a) * u for a, u in zip(row[:-1], foot, strict=True)) + int(row[-1]) <= 0
        for row in proper
    )
    if not inside or any(w < 0 for w in weights):
        return None
    return sum(((u - c) ** 2 for u, c in zip(foot, at, strict=True)), Fraction(0))


def _dot(a: Sequence[Fraction], b: Sequence[Fraction]) -> Fraction:
    return sum((x * y for x, y in zip(a, b, strict=True)), Fraction(0))


def _solved(matrix: list[list[Fraction]], right: list[Fraction]) -> list[Fraction]:
    """A solution of a consistent linear system; unknowns without a pivot are 0."""
    table = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    size, rank, pivots = len(table), 0, []
    for column in range(size):
        pivot = next((r for r in range(rank, size) if table[r][column] != 0), None)
        if pivot is None:
            continue
        table[rank], table[pivot] = table[pivot], table[rank]
        head = table[rank][column]
        table[rank] = [v / head for v in table[rank]]
        for r in range(size):
            if r != rank and table[r][column] != 0:
                factor = table[r][column]
                table[r] = [v - factor * h for v, h in zip(table[r], table[rank], strict=True)]
        pivots.append(column)
        rank += 1
    solution = [Fraction(0)] * size
    for r, column in enumerate(pivots):
        solution[column] = table[r][-1]
    return solution
