"""Properties in VNN-LIB 2.0, through the package `vnnlib` (optional)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, TypeAlias

from polytope.errors import InputError
from polytope.verification.property import Choices, Property, Row, both, property_of

Linear: TypeAlias = "dict[tuple[str, int], Fraction]"


def read_version_2(text: str, source: str) -> Property:
    """Read a property of one network.

    Parameters
    ----------
    text : str
    source : str
        Where it comes from, for messages.

    Raises
    ------
    InputError
        Without the package, for what it refuses, and for what is not supported: several networks,
        hidden variables, strict or other comparisons, nonlinear terms.
    """
    try:
        import vnnlib
    except ImportError as error:
        raise InputError(
            f"{source}: is written in VNN-LIB 2.0, which needs the package vnnlib: "
            "pip install vnnlib"
        ) from error
    try:
        query = vnnlib.parse_query_string(text)
    except vnnlib.VNNLibException as error:
        raise InputError(f"{source}: {_reason(str(error))}") from error
    if len(query.networks) != 1:
        raise InputError(f"{source}: speaks of {len(query.networks)} networks; expected one")
    network = query.networks[0]
    if network.hidden:
        raise InputError(
            f"{source}: constrains hidden values ({network.hidden[0].name}); expected inputs and "
            "outputs only"
        )
    reader = _Reader(source)
    inputs = reader.declare("X", network.inputs)
    outputs = reader.declare("Y", network.outputs)
    formulas = [reader.formula(assertion.expr) for assertion in query.assertions]
    return property_of(formulas, inputs, outputs, source)


def _reason(message: str) -> str:
    """What the package says in one line; it lists errors of types as JSON."""
    try:
        first = json.loads(message)["errors"][0]
        return f"line {first['line']}: {first['message']}: {first['hint']}"
    except (ValueError, LookupError, TypeError):
        return message


class _Reader:
    """Turns the package's nodes into rows; nodes are told apart by the names of their classes."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._places: dict[str, tuple[str, int, list[int]]] = {}

    def declare(self, letter: str, definitions: Any) -> int:
        """Number the elements of the inputs or outputs, one tensor after another."""
        total = 0
        for definition in definitions:
            shape = [int(n) for n in definition.shape]
            self._places[definition.name] = (letter, total, shape)
            size = 1
            for n in shape:
                size *= n
            total += size
        return total

    def formula(self, node: Any) -> Choices:
        """A formula, multiplied out."""
        kind = type(node).__name__
        if kind == "Or":
            return list(itertools.chain.from_iterable(map(self.formula, node.args)))
        if kind == "And":
            return both([self.formula(part) for part in node.args], self._source)
        if kind not in ("LessEqual", "GreaterEqual", "Equal"):
            raise InputError(
                f"{self._source}: '{node}' is not supported; expected <=, >=, ==, and, or"
            )
        left, right = self._linear(node.lhs), self._linear(node.rhs)
        signs = {"LessEqual": (1,), "GreaterEqual": (-1,), "Equal": (1, -1)}[kind]
        return [tuple(self._row(left, right, sign, str(node)) for sign in signs)]

    def _row(self, left: Linear, right: Linear, sign: int, text: str) -> Row:
        """``sign (left - right) <= 0``."""
        both = {v: sign * (left.get(v, Fraction(0)) - right.get(v, Fraction(0)))
                for v in {**left, **right}}  # fmt: skip
        inputs, outputs = (
            {i: c for (own, i), c in both.items() if own == letter and c} for letter in ("X", "Y")
        )
        constant = both.get(("", 0), Fraction(0))
        return Row(inputs, outputs, constant, f"{self._source}, '{text}'")

    def _linear(self, node: Any) -> Linear:
        """A linear term; the constant as the variable ("", 0)."""
        kind = type(node).__name__
        if kind == "Var":
            return {self._variable(node): Fraction(1)}
        if kind in ("Float", "Int", "IntExpr", "Literal"):
            return {("", 0): Fraction(node.lexeme)}
        if kind == "Negate":
            return {v: -c for v, c in self._linear(node.expr).items()}
        if kind in ("Plus", "Minus"):
            return self._sum(self._signed(node, kind))
        if kind == "Multiply":
            factor, rest = Fraction(1), {("", 0): Fraction(1)}
            for part in map(self._linear, node.args):
                if set(part) == {("", 0)}:
                    factor *= part["", 0]
                elif set(rest) != {("", 0)}:
                    raise InputError(f"{self._source}: '{node}' is not linear; expected linear")
                else:
                    rest = part
            return {v: factor * c for v, c in rest.items()}
        raise InputError(f"{self._source}: '{node}' is not supported; expected a linear term")

    def _signed(self, node: Any, kind: str) -> Iterator[tuple[int, Linear]]:
        """The parts of a sum or a difference with their signs."""
        if kind == "Plus":
            yield from ((1, self._linear(part)) for part in node.args)
        else:
            yield 1, self._linear(node.head)
            yield from ((-1, self._linear(part)) for part in node.rest)

    def _sum(self, parts: Iterator[tuple[int, Linear]]) -> Linear:
        total: Linear = {}
        for sign, part in parts:
            for v, c in part.items():
                total[v] = total.get(v, Fraction(0)) + sign * c
        return total

    def _variable(self, node: Any) -> tuple[str, int]:
        """The number of an element of the inputs or outputs."""
        letter, first, shape = self._places[node.name]
        at = 0
        for index, size in zip(node.indices, shape, strict=True):
            at = at * size + int(index)
        return letter, first + at
