"""What a proof from regions needs of exact arithmetic: zero rows, flat regions, the start."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from polytope.network.engine import Engine
from polytope.network.ir import Max, Piecewise
from polytope.proofs.region_rows import Steps
from polytope.regions.exact_crossing import row_ids
from polytope.regions.exact_interior import interior_point, multipliers_of_nothing
from polytope.robustness.query import Query
from polytope.robustness.traversal_exact import ExactRegions
from polytope.robustness.traversal_task import exact_regions
from polytope.rows import unit_of_row
from solvers.problem import LinearProgram
from solvers.solution import Status
from solvers.solve import solve

#: Bits of a float; most bits of whole numbers that floats are made to add up to.
BITS, LONGEST = 53, 1900
#: A direction that is this much inside of the rows it has to be inside of is, whatever rounding.
INSIDE = 1e-6


class NoProofError(Exception):
    """Why the evidence does not make a proof."""


class ExactRows:
    """The rows of patterns around the point of a query, exactly.

    Parameters
    ----------
    query : Query
    free : int64 (k,)
        The coordinates that the box leaves free.
    radius : float
        Of the proof.
    """

    def __init__(self, query: Query, free: np.ndarray, radius: float) -> None:
        self.query, self.net, self.free = query, query.net, free
        low, high = np.full(len(query.x), -np.inf), np.full(len(query.x), np.inf)
        if query.box is not None:
            low, high = query.box.low, query.box.high
        self._steps = Steps.around(query.x, query.p, radius, low, high)
        self._made: ExactRegions | None = None

    @property
    def regions(self) -> ExactRegions:
        """Exact arithmetic, once it is needed."""
        if self._made is None:
            self._made = exact_regions(self.query, self.free)
        return self._made

    def row(self, pieces: np.ndarray, row: int) -> tuple[np.ndarray, float, float, float]:
        """A row over the steps, as it is in the network: normal, value, errors of both."""
        normal, lead, spread, error = self.regions.row(pieces, row)
        size = float(self._largest(pieces, row)) or 1.0
        return size * normal, size * lead, 2 * size * spread, 2 * size * error

    def _largest(self, pieces: np.ndarray, row: int) -> Fraction:
        """The largest coefficient of a row of the network; exact rows are scaled."""
        layer, unit, slot = unit_of_row(self.net, row)
        z = self.regions.maps.layer(self.net.layers.index(layer), pieces)
        op = self.net.graph.nodes[layer.node].op
        if isinstance(op, Max):
            index = self.net.graph.constants[op.index].reshape(layer.units, -1)
            winner = index[unit, pieces[layer.first_unit + unit]]
            found = z.integers[index[unit, slot]] - z.integers[winner]
        else:
            found = z.integers[unit]
        largest = max((abs(int(v)) for v in found[:-1]), default=0)
        return Fraction(largest, z.denominator) * Fraction(2) ** z.exponent

    def behind(self, pieces: np.ndarray, row: int) -> np.ndarray:
        """The pattern behind a facet: uint16 (units,)."""
        return self.regions.behind(pieces.astype(np.int64), row).astype(np.uint16)

    def needless(self, pieces: np.ndarray, row: int, inward: np.ndarray) -> bool:
        """Whether a row holds all over the set, or a path has come in through it."""
        exact, steps = self.regions.maps.row(pieces, row), self._steps
        one = (1 / steps.unit).numerator
        value = (exact[:-1] * steps.at[self.free]).sum() + exact[-1] * one
        terms = zip(exact[:-1].tolist(), inward[self.free].tolist(), strict=True)
        if value > 0 or (value == 0 and sum(a * Fraction(v) for a, v in terms) > 0):
            return True
        negative = np.append(-exact[:-1], -value)
        return bool(steps.positive(negative[None], np.zeros(1, dtype=bool))[0])

    def no_inside(self, pieces: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Multipliers that prove that a region has no inside: rows and weights.

        Floats of one row are to be added up, exactly.  None if two rows are opposite, which is
        proof enough.
        """
        maps = self.regions.maps
        numbers = row_ids(self.net, maps.domain_rows, pieces)
        rows = maps.rows(pieces, numbers)
        own = {tuple(row) for row in rows[numbers < self.net.rows].tolist() if any(row[:-1])}
        if any(tuple(-v for v in row) in own for row in own):
            return None
        multipliers = multipliers_of_nothing(rows)
        if multipliers is None:
            raise NoProofError("a region that was left out has an inside")
        used = []
        for number, row, m in zip(numbers.tolist(), rows.tolist(), multipliers, strict=True):
            if m and number < self.net.rows:
                size = self._largest(pieces, number)
                scale = max(map(abs, row[:-1])) / size if size else Fraction(1)
                used.append((number, m * scale))
        return _exact_weights(used)

    def inward(self, pieces: np.ndarray, rows: np.ndarray, sides: np.ndarray) -> np.ndarray:
        """A direction (k,) along which rows through the point fall, away from the box's sides.

        Parameters
        ----------
        pieces : uint16 (units,)
            Of the region that has the rows.
        rows : float64 (m, k)
            Of length 1.
        sides : int64 (k,)
            1 where the point is at the lower side, -1 at the upper one.
        """
        k = len(self.free)
        table = np.concatenate([rows, np.diag(-sides.astype(float))[sides != 0]])
        program = LinearProgram(
            c=np.append(np.zeros(k), -1.0), A=np.column_stack([table, np.ones(len(table))]),
            row_upper=np.zeros(len(table)), lower=np.full(k + 1, -1.0), upper=np.ones(k + 1),
        )  # fmt: skip
        found = solve(program)
        if found.status is Status.OPTIMAL and found.x is not None and found.x[-1] > INSIDE:
            return np.asarray(found.x[:-1])
        maps = self.regions.maps
        point = interior_point(maps.rows(pieces, row_ids(self.net, maps.domain_rows, pieces)))
        if point is None:
            raise NoProofError("the first region has no inside")
        at = zip(point[:-1].tolist(), self.query.x[self.free].tolist(), strict=True)
        return np.array([float(Fraction(a, int(point[-1])) - Fraction(v)) for a, v in at])


def _exact_weights(used: list[tuple[int, Fraction]]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and weights, each weight (but for one factor) as floats that add up to it exactly."""
    common = math.lcm(*(weight.denominator for _, weight in used))
    rows, floats = [], []
    for row, weight in used:
        left, place = int(weight * common), 0
        while left:
            if place > LONGEST:
                raise NoProofError("the multipliers of a region without inside are too long")
            if left % 2**BITS:
                rows.append(row)
                floats.append(math.ldexp(left % 2**BITS, place - LONGEST // 2))
            left, place = left >> BITS, place + BITS
    return np.array(rows, dtype=np.int64), np.array(floats)


def pieces_meet(net: Engine) -> bool:
    """Whether the pieces of all units have one value where they meet, exactly."""
    for layer in net.layers:
        node = net.graph.nodes[layer.node]
        if not isinstance(node.op, Piecewise):
            continue
        tables = [
            net.graph.constants[k]
            for k in (node.op.breakpoints, node.op.slopes, node.op.intercepts)
        ]
        each = [
            np.broadcast_to(t, (*node.shape, t.shape[-1])).reshape(layer.units, t.shape[-1])
            for t in tables
        ]
        n = layer.slots
        for row in np.unique(np.concatenate(each, axis=1), axis=0).tolist():
            whole = [Fraction(v) for v in row]
            at, slope, rest = whole[:n], whole[n : 2 * n + 1], whole[2 * n + 1 :]
            for i in range(n):
                if slope[i] * at[i] + rest[i] != slope[i + 1] * at[i] + rest[i + 1]:
                    return False
    return True
