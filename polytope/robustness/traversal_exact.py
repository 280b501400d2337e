"""Exact arithmetic for what the traversal's floats leave open.

Hyperplanes that coincide are crossed together, a row that is identically zero is no boundary and
its piece is recomputed behind every other one, and a region without an inside is none.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from polytope.network.engine import Engine
from polytope.network.exact_ops import ExactArray
from polytope.network.ir import Max
from polytope.regions.domain import Domain
from polytope.regions.exact_crossing import row_ids
from polytope.regions.exact_interior import interior_point
from polytope.regions.exact_maps import ExactMaps


class ExactRegions:
    """The rows of patterns around a point, exactly.

    Parameters
    ----------
    net : Engine
    domain : Domain
        The box, or all inputs.
    x : float64 (k,)
        The point in the domain's coordinates.
    """

    def __init__(self, net: Engine, domain: Domain, x: np.ndarray) -> None:
        self.net, self.x = net, x
        self.maps = ExactMaps(net, domain)
        self.verdicts = 0

    def start(self, inward: np.ndarray) -> np.ndarray:
        """The pattern (units,) of a region with an inside that touches the point.

        Parameters
        ----------
        inward : int64 (k,)
            A direction into the domain: signs, 0 where both are open.  What ties along it is
            decided by the first coordinate, then the second, and so on.
        """
        self.verdicts += 1
        point = ExactArray.from_floats(np.append(self.x, 1.0)).integers
        ways = np.vstack([inward[None], np.eye(len(self.x), dtype=np.int64)])
        return self.maps.germ_pieces(point, ways.astype(object))

    def row(self, pieces: np.ndarray, row: int) -> tuple[np.ndarray, float, float, float]:
        """A row ``a d + c <= 0`` over steps from the point, rounded once.

        Returns
        -------
        (a (k,), c, bound on the errors of a, bound on that of c)
            All zero if the row is.
        """
        self.verdicts += 1
        found = self.maps.row(pieces, row)
        size = max(abs(int(v)) for v in found)
        if size == 0:
            return np.zeros(len(self.x)), 0.0, 0.0, 0.0
        largest = max((abs(int(v)) for v in found[:-1]), default=0) or size
        value = Fraction(int(found[-1]))
        for a, x in zip(found[:-1], self.x, strict=True):
            value += int(a) * Fraction(float(x))
        normal = np.array([float(Fraction(int(a), largest)) for a in found[:-1]])
        lead = float(value / largest)
        spread = 2.0**-52 if normal.any() else 0.0
        error = 0.0 if value == 0 or not normal.any() else 2.0**-52 * abs(lead) + 1e-300
        return normal, lead, spread, error

    def flat(self, pieces: np.ndarray) -> bool:
        """Whether a pattern's region has no inside in the domain."""
        self.verdicts += 1
        ids = row_ids(self.net, self.maps.domain_rows, pieces)
        return interior_point(self.maps.rows(pieces, ids)) is None

    def opposed(self, pieces: np.ndarray) -> bool:
        """Whether two rows of a pattern are the two sides of one hyperplane: it is flat then."""
        self.verdicts += 1
        rows = self.maps.rows(pieces, row_ids(self.net, self.maps.domain_rows, pieces))
        seen = {tuple(row) for row in rows.tolist() if any(row)}
        return any(tuple(-v for v in row) in seen for row in seen)

    def behind(self, pieces: np.ndarray, row: int) -> np.ndarray:
        """The pattern (units,) behind a facet on the hyperplane of a row.

        Near the facet's inside only the units change whose own hyperplane holds the facet, or
        which are identically zero there.  Behind it their rows are primitive integers that are
        equal to the facet's, opposite to it, or zero.
        """
        self.verdicts += 1
        facet = self.maps.row(pieces, row)
        result = pieces.astype(np.int64)
        for layer in self.net.layers:
            own = row_ids(self.net, 0, result)
            own = own[(own >= layer.row_slice.start) & (own < layer.row_slice.stop)]
            op = self.net.graph.nodes[layer.node].op
            if isinstance(op, Max):  # places of a window that are empty are no candidates
                index = self.net.graph.constants[op.index].reshape(-1)
                own = own[index[own - layer.first_row] >= 0]
            rows = self.maps.rows(result, own)
            side = np.array([_side(r, facet) for r in rows], dtype=object)
            near = np.flatnonzero([s is not None for s in side])
            unit, slot = np.divmod(own[near] - layer.first_row, layer.slots)
            for u in np.unique(unit).tolist():
                mine = near[unit == u]
                places = dict(zip(slot[unit == u].tolist(), side[mine].tolist(), strict=True))
                at = layer.first_unit + u
                if layer.is_max:
                    rivals = sorted([*places, int(result[at])])
                    first = layer.first_row + u * layer.slots
                    result[at] = self._winner(result, at, first, rivals, facet)
                else:
                    result[at] = _piece(int(result[at]), places)
        return result

    def _winner(
        self, pieces: np.ndarray, unit: int, first: int, rivals: list[int], facet: np.ndarray
    ) -> int:
        """Of the candidates of a maximum that meet on a facet the one that wins behind it."""
        trial = pieces.copy()
        best = rivals[0]
        for candidate in rivals[1:]:
            trial[unit] = best
            if _side(self.maps.row(trial, first + candidate), facet) == 1:
                best = candidate
        return best


def _side(row: np.ndarray, facet: np.ndarray) -> int | None:
    """The sign of a row behind a facet, None if it is not zero all over the facet."""
    if not row.any():
        return 0
    if (row == facet).all():
        return 1
    return -1 if (row == -facet).all() else None


def _piece(piece: int, sides: dict[int, int]) -> int:
    """The piece behind a facet of a unit, some of whose breakpoints are met there.

    Parameters
    ----------
    piece : int
        On this side.
    sides : dict of int to int
        For each breakpoint that is met the sign of its row, which points out of the piece.
    """
    beyond = piece
    for slot in sorted(sides):
        above = sides[slot] != 0 and (piece > slot) != (sides[slot] == 1)
        if above and beyond <= slot:
            beyond = slot + 1
        elif not above and beyond > slot:
            beyond = slot
    return beyond
