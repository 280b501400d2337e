"""What is unsafe: outputs in a polyhedron for inputs in a box, or in another of each.

Numbers are kept as the rationals that were written.  Where a float has to bound them for a proof
it is rounded outwards, so that what is proved of the floats holds for the rationals; a witness is
checked against the rationals themselves.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np

from polytope.errors import InputError
from polytope.model import Network
from polytope.sets import Box

#: Parts of a disjunction, multiplied out, that are too many to be searched one by one.
PARTS = 100_000


@dataclass(frozen=True, eq=False)
class Unsafe:
    """Inputs in a box whose outputs satisfy ``A y <= b``, all rows of it.

    Attributes
    ----------
    low, high : tuple of Fraction (d,)
        The box, exactly.
    A : float64 (m, outputs)
        Exact: rows whose coefficients are no floats are scaled to whole numbers.
    limits : tuple of Fraction (m,)
        The right sides, exactly.
    """

    low: tuple[Fraction, ...]
    high: tuple[Fraction, ...]
    A: np.ndarray
    limits: tuple[Fraction, ...]

    @property
    def box(self) -> Box:
        """The least box of floats around the exact one."""
        return Box(
            np.array([float_below(v) for v in self.low]),
            np.array([float_above(v) for v in self.high]),
        )

    @property
    def b(self) -> np.ndarray:
        """The right sides rounded upwards: float64 (m,)."""
        return np.array([float_above(v) for v in self.limits])

    def holds(self, outputs: Sequence[Fraction]) -> bool:
        """Whether outputs are unsafe, exactly."""
        return all(
            sum(Fraction(row[k]) * outputs[k] for k in np.flatnonzero(row).tolist()) <= limit
            for row, limit in zip(self.A, self.limits, strict=True)
        )


@dataclass(frozen=True, eq=False)
class Property:
    """A disjunction: an input is unsafe if it is so for any of its parts.

    Attributes
    ----------
    inputs, outputs : int
    parts : tuple of Unsafe
        Without those whose box is empty, or that say something false: none of them is needed.
    source : str
        Where it comes from, for messages.
    """

    inputs: int
    outputs: int
    parts: tuple[Unsafe, ...]
    source: str

    def check(self, net: Network) -> None:
        """Refuse a network with other inputs or outputs.

        Raises
        ------
        InputError
        """
        if (self.inputs, self.outputs) != (net.input_size, net.output_size):
            raise InputError(
                f"{self.source}: declares {self.inputs} inputs and {self.outputs} outputs, but the "
                f"network has {net.input_size} and {net.output_size}; it belongs to another model"
            )


@dataclass(frozen=True)
class Row:
    """``sum of coefficients * variables + constant <= 0``.

    Attributes
    ----------
    inputs, outputs : mapping of int to Fraction
        Coefficients that are not zero, by the variable's number.
    constant : Fraction
    place : str
        Where it stands, for messages.
    """

    inputs: Mapping[int, Fraction]
    outputs: Mapping[int, Fraction]
    constant: Fraction
    place: str


#: A formula: a disjunction of conjunctions of rows.
Choices: TypeAlias = "list[tuple[Row, ...]]"


def both(formulas: Sequence[Choices], place: str) -> Choices:
    """All of some formulas at once, multiplied out.

    Raises
    ------
    InputError
        If that makes too many parts.
    """
    count = math.prod(len(own) for own in formulas)
    if count > PARTS:
        raise InputError(
            f"{place}: the disjunctions multiply out to {count:,} parts, more than {PARTS:,}; "
            "split the property into several files"
        )
    chosen = itertools.product(*formulas)
    return [tuple(itertools.chain.from_iterable(rows)) for rows in chosen]


def property_of(formulas: Sequence[Choices], inputs: int, outputs: int, source: str) -> Property:
    """The property that all of some formulas together describe.

    Raises
    ------
    InputError
        As `both` and `unsafe_part` do.
    """
    found = (unsafe_part(rows, inputs, outputs, source) for rows in both(formulas, source))
    return Property(inputs, outputs, tuple(part for part in found if part is not None), source)


def unsafe_part(rows: Sequence[Row], inputs: int, outputs: int, source: str) -> Unsafe | None:
    """The conjunction of some rows; None if nothing satisfies it.

    Parameters
    ----------
    rows : sequence of Row
        Over one input each, or over outputs only.
    inputs, outputs : int
    source : str

    Raises
    ------
    InputError
        For rows over several inputs or over inputs and outputs together, for an input without a
        bound, and for coefficients that no float can hold.
    """
    low: list[Fraction | None] = [None] * inputs
    high: list[Fraction | None] = [None] * inputs
    kept: list[tuple[dict[int, Fraction], Fraction, str]] = []
    for row in rows:
        if not row.inputs and not row.outputs:
            if row.constant > 0:
                return None
        elif row.inputs:
            number, coefficient = _single(row)
            bound = -row.constant / coefficient
            if coefficient > 0:
                old = high[number]
                high[number] = bound if old is None else min(old, bound)
            else:
                old = low[number]
                low[number] = bound if old is None else max(old, bound)
        else:
            kept.append((dict(row.outputs), -row.constant, row.place))
    below, above = _bounded(low, "lower", source), _bounded(high, "upper", source)
    if any(a > b for a, b in zip(below, above, strict=True)):
        return None
    A, limits = np.zeros((len(kept), outputs)), []
    for r, (coefficients, limit, place) in enumerate(kept):
        scale = _scale(coefficients.values(), place)
        for number, value in coefficients.items():
            A[r, number] = float(value * scale)
        limits.append(limit * scale)
    return Unsafe(tuple(below), tuple(above), A, tuple(limits))


def _single(row: Row) -> tuple[int, Fraction]:
    """The one input of a row, and its coefficient."""
    if row.outputs or len(row.inputs) > 1:
        what = "inputs and outputs together" if row.outputs else "several inputs"
        raise InputError(
            f"{row.place}: a constraint on {what} is not supported; expected a bound on one input "
            "(<= X_0 1.0), or a linear constraint on outputs (<= Y_0 Y_1)"
        )
    return next(iter(row.inputs.items()))


def _bounded(side: Sequence[Fraction | None], name: str, source: str) -> list[Fraction]:
    """A side of the box, all of it."""
    open_ = [f"X_{i}" for i, value in enumerate(side) if value is None]
    if open_:
        few = ", ".join(open_[:5]) + (f", ... ({len(open_)} in all)" if len(open_) > 5 else "")
        raise InputError(
            f"{source}: no {name} bound for {few}; a search needs a bounded box: add an assertion "
            f"such as (assert ({'>=' if name == 'lower' else '<='} {open_[0]} 0.0))"
        )
    return [value for value in side if value is not None]


def _scale(values: Iterable[Fraction], place: str) -> Fraction:
    """A factor that makes coefficients floats: 1 if they are."""
    given = list(values)
    if all(Fraction(float(v)) == v for v in given):
        return Fraction(1)
    scale = Fraction(math.lcm(*(v.denominator for v in given)))
    if not all(Fraction(float(v * scale)) == v * scale for v in given):
        raise InputError(
            f"{place}: the coefficients have too many digits to be used exactly; write them with "
            "at most 15 significant digits"
        )
    return scale


def float_below(value: Fraction) -> float:
    """The largest float that is not above a rational."""
    near = float(value)
    return near if Fraction(near) <= value else math.nextafter(near, -math.inf)


def float_above(value: Fraction) -> float:
    """The least float that is not below a rational."""
    near = float(value)
    return near if Fraction(near) >= value else math.nextafter(near, math.inf)
