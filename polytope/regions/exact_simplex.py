"""A dense simplex in exact integers, for the few questions that rounding cannot settle.

The dictionary has one common denominator, the determinant of the basis, so that every number
in it is an integer and every division is exact (Edmonds; Bareiss).  The steepest column enters,
and after a step of no length the one of Bland's rule, so it ends on degenerate polyhedra too.
Coordinates are free variables, which enter the basis and never leave it: unbounded polyhedra and
those that contain lines are no special case.
"""

from __future__ import annotations

from typing import Any

import numpy as np


class ExactDictionary:
    """Slacks ``s = constant + coefficients @ u >= 0`` over free coordinates u, at a vertex.

    Variables are numbered: coordinates 0 to n - 1, slacks from n on.

    Parameters
    ----------
    table : object array (m, n + 1) of Python ints
        [coefficients | constant] of each slack.
    """

    def __init__(self, table: np.ndarray) -> None:
        rows, columns = table.shape
        self.coordinates = columns - 1
        whole = _whole_numbers()
        big = [[whole(v) for v in row] for row in table.tolist()]
        self._table = np.array(big, dtype=object).reshape(rows, columns)
        self._denominator: Any = whole(1)
        self._basic = np.arange(rows) + self.coordinates
        self._nonbasic = np.arange(self.coordinates)
        # Slacks have the units of their rows; this makes slopes along them comparable.
        sizes = np.abs(table[:, :-1]).max(axis=1, initial=1)
        self._units = np.concatenate([np.full(columns - 1, sizes.max(initial=1)), sizes])

    def at_zero(self, variable: int) -> bool:
        """Whether a variable is one of those that are 0 in the present basis."""
        return bool((self._nonbasic == variable).any())

    def exchange(self, entering: int, leaving: int) -> None:
        """Bring one variable into the basis for another, whose row it occurs in."""
        row = int((self._basic == leaving).argmax())
        self._pivot(row, int((self._nonbasic == entering).argmax()))

    def drop(self, variable: int) -> None:
        """Forget a slack that is in the basis: a row known to be redundant."""
        keep = self._basic != variable
        self._table, self._basic = self._table[keep], self._basic[keep]

    def slopes(self, variable: int) -> dict[int, int]:
        """How a variable of the basis changes with the others, up to one positive factor."""
        row = self._table[int((self._basic == variable).argmax())]
        return {int(v): int(slope) for v, slope in zip(self._nonbasic, row[:-1], strict=True)}

    def below_zero(self, variable: int) -> list[int] | None:
        """A point where one variable is negative and all (other) slacks are at least 0.

        The present basis must satisfy all slacks; the basis that is left does so too.

        Returns
        -------
        list of int (n + 1), or None
            Homogeneous, the last positive; None if there is no such point.
        """
        moved = True
        while (found := self._descent(variable, moved)) is not None:
            column, sign = found
            direction = self._table[:, column] * sign
            row = self._blocking(variable, direction)
            own = np.flatnonzero(self._basic == variable)
            numerator: Any = 0
            divisor: Any = 1
            if len(own):
                numerator, divisor = self._table[own[0], -1], -direction[own[0]]
            if row is None:
                return self._along(column, sign, numerator + divisor, divisor)
            step, scale = self._table[row, -1], -direction[row]
            if step * divisor > numerator * scale:
                return self._along(column, sign, step, scale)
            self._pivot(row, column)
            moved = bool(step > 0)
        return None

    def _descent(self, variable: int, steepest: bool) -> tuple[int, int] | None:
        """A column along which the variable falls, and to which side; None at its least."""
        here = np.flatnonzero(self._nonbasic == variable)
        if len(here):
            return int(here[0]), -1
        slopes = self._table[(self._basic == variable).argmax(), :-1]
        free = self._nonbasic < self.coordinates
        usable = np.flatnonzero((slopes < 0) | (free & (slopes != 0)))
        if not len(usable):
            return None
        variables = self._nonbasic[usable]
        if steepest:
            choice = np.abs(slopes[usable] * self._units[variables]).argmax()
        else:
            choice = variables.argmin()
        column = int(usable[choice])
        return column, 1 if slopes[column] < 0 else -1

    def _blocking(self, variable: int, direction: np.ndarray) -> int | None:
        """The row of the slack that first reaches 0; of several the least variable."""
        slack = (self._basic >= self.coordinates) & (self._basic != variable)
        rows = np.flatnonzero(slack & (direction < 0))
        best: int | None = None
        for row in rows[np.argsort(self._basic[rows])].tolist():
            if best is None or (
                self._table[row, -1] * direction[best] > self._table[best, -1] * direction[row]
            ):
                best = row
        return best

    def _along(self, column: int, sign: int, step: Any, scale: Any) -> list[int]:
        """The coordinates after a step ``step / scale`` of a variable that is at 0."""
        point = [0] * self.coordinates
        for row in np.flatnonzero(self._basic < self.coordinates).tolist():
            value = self._table[row, -1] * scale + sign * self._table[row, column] * step
            point[self._basic[row]] = int(value)
        if self._nonbasic[column] < self.coordinates:
            point[self._nonbasic[column]] = int(sign * step * self._denominator)
        return [*point, int(self._denominator * scale)]

    def _pivot(self, row: int, column: int) -> None:
        """Exchange the basic variable of a row and the one of a column."""
        table, pivot = self._table, self._table[row, column]
        across, down = table[row].copy(), table[:, column].copy()
        table = (pivot * table - np.multiply.outer(down, across)) // self._denominator
        table[:, column] = down
        table[row] = -across
        table[row, column] = self._denominator
        self._table, self._denominator = (table, pivot) if pivot > 0 else (-table, -pivot)
        self._basic[row], self._nonbasic[column] = self._nonbasic[column], self._basic[row]


def _whole_numbers() -> type[Any]:
    """FLINT's integers if installed: 3 to 6 times as fast on the large numbers of pivots."""
    try:
        from flint import fmpz
    except ImportError:
        return int
    return fmpz
