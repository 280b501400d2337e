"""Reader of properties in VNN-LIB: version 1.0 as the verification competition uses it, and 2.0.

Version 1.0 is read here: declarations of ``X_i`` and ``Y_i``, and assertions of ``<=``, ``>=``,
``and`` and ``or`` over linear terms.  Together they say what is unsafe; disjunctions may mix
bounds on inputs and constraints on outputs.  Version 2.0 is read by the package `vnnlib`
(`polytope.vnnlib2`).

Numbers are read as the exact rationals that stand in the file.

Source: Demarchi et al., Supporting Standardization of Neural Networks Verification with VNNLIB
and CoCoNet, 2023; the files of VNN-COMP.
"""

from __future__ import annotations

import gzip
import itertools
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeAlias

from polytope.errors import FileProblem, InputError
from polytope.verification.property import Choices, Property, Row, both, property_of
from polytope.vnnlib2 import read_version_2

#: Bytes of a file, unpacked, that are too many.
BYTES = 2**28
#: Digits of an exponent that no property needs; 1e999999999 would be a number of that length.
EXPONENT = 4
#: Commands of SMT-LIB that say nothing about the property.
SILENT = ("set-logic", "set-option", "set-info", "check-sat", "get-model", "exit")

_TOKEN = re.compile(r"\s+|;[^\n]*|[()]|[^\s();]+")
_NAME = re.compile(r"([XY])_(0|[1-9][0-9]{0,8})\Z")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\Z")


class Word(NamedTuple):
    """A word of the file and its line."""

    text: str
    line: int


class Group(NamedTuple):
    """What stands between two parentheses, and the line of the first."""

    items: list[Term]
    line: int


Term: TypeAlias = "Word | Group"


def read_property(path: str | os.PathLike[str]) -> Property:
    """Read a property.

    Parameters
    ----------
    path : path
        A .vnnlib file, or one packed as .vnnlib.gz.

    Returns
    -------
    Property

    Raises
    ------
    FileProblem
        If the file is missing, empty, damaged or too large.
    InputError
        For what cannot be read, naming the line and what was expected; for inputs without
        bounds; and for version 2.0 without the package `vnnlib`.
    """
    source = Path(path)
    text = _text(source)
    if re.match(r"\s*\(\s*vnnlib-version", re.sub(r";[^\n]*", "", text[:4096])):
        return read_version_2(text, source.name)
    return _Reader(source.name).read(text)


def _text(path: Path) -> str:
    """The text of a file."""
    if not path.exists():
        raise FileProblem(f"{path}: no such file")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise FileProblem(f"{path}: cannot be read: {reason}") from error
    if len(data) > BYTES:
        raise FileProblem(f"{path}: longer than {BYTES >> 20} MB, which no property should be")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileProblem(f"{path}: is no text; expected a VNN-LIB file") from error
    if not text.strip():
        raise FileProblem(f"{path}: is empty")
    return text


@dataclass(eq=False)
class _Reader:
    """Reads one file of version 1.0."""

    source: str
    sizes: dict[str, set[int]] = field(default_factory=lambda: {"X": set(), "Y": set()})

    def read(self, text: str) -> Property:
        """The property."""
        formulas: list[Choices] = []
        for group in self._groups(text):
            head = self._head(group)
            if head in ("declare-const", "declare-fun"):
                self._declare(group)
            elif head == "assert":
                formulas.append(self._assertion(group))
            elif head not in SILENT:
                self._refuse(group.line, f"'{head}' is not supported", "declare-const or assert")
        inputs, outputs = self._count("X", "inputs"), self._count("Y", "outputs")
        return property_of(formulas, inputs, outputs, self.source)

    def _refuse(self, line: int, got: str, expected: str) -> NoReturn:
        raise InputError(f"{self.source}, line {line}: {got}; expected {expected}")

    def _groups(self, text: str) -> Iterator[Group]:
        """The commands of a file."""
        open_: list[Group] = []
        line = 1
        for match in _TOKEN.finditer(text):
            token = match.group()
            if token == "(":
                open_.append(Group([], line))
            elif token == ")":
                if not open_:
                    self._refuse(line, "a ')' too many", "a command such as (assert ...)")
                closed = open_.pop()
                if open_:
                    open_[-1].items.append(closed)
                else:
                    yield closed
            elif not token.isspace() and not token.startswith(";"):
                if not open_:
                    self._refuse(line, f"got '{token[:40]}'", "a command such as (assert ...)")
                open_[-1].items.append(Word(token, line))
            line += token.count("\n")
        if open_:
            self._refuse(open_[0].line, "this '(' is never closed", "a ')' before the end")

    def _head(self, group: Group) -> str:
        """The first word of a group."""
        head = group.items[0] if group.items else None
        if not isinstance(head, Word):
            self._refuse(group.line, "got '(' without a word after it", "an operator or a command")
        return head.text

    def _declare(self, group: Group) -> None:
        """``(declare-const X_0 Real)``."""
        last = group.items[-1]
        right = len(group.items) == (3 if self._head(group) == "declare-const" else 4)
        name = group.items[1] if len(group.items) > 1 else None
        if not right or last[0] != "Real" or not isinstance(name, Word):
            self._refuse(group.line, "got another declaration", "(declare-const X_0 Real)")
        match = _NAME.match(name.text)
        if match is None:
            self._refuse(
                name.line, f"got the name '{name.text[:40]}'", "X_0, X_1, ... and Y_0, Y_1, ..."
            )
        known = self.sizes[match[1]]
        if int(match[2]) in known:
            self._refuse(name.line, f"'{name.text}' is declared twice", "one declaration of each")
        known.add(int(match[2]))

    def _count(self, letter: str, name: str) -> int:
        """How many inputs or outputs there are."""
        known = self.sizes[letter]
        if not known:
            raise InputError(
                f"{self.source}: declares no {name}; expected (declare-const {letter}_0 Real)"
            )
        if max(known) + 1 != len(known):
            missing = next(i for i in range(max(known)) if i not in known)
            raise InputError(
                f"{self.source}: declares {letter}_{max(known)} but not {letter}_{missing}"
            )
        return len(known)

    def _assertion(self, group: Group) -> Choices:
        """``(assert FORMULA)``."""
        if len(group.items) != 2:
            self._refuse(group.line, f"an assert of {len(group.items) - 1} formulas", "one")
        return self._formula(group.items[1])

    def _formula(self, term: Term) -> Choices:
        """A formula, multiplied out."""
        if isinstance(term, Word):
            self._refuse(term.line, f"got '{term.text[:40]}'", "a formula such as (<= Y_0 Y_1)")
        head, rest = self._head(term), term.items[1:]
        if head in ("and", "or") and not rest:
            self._refuse(term.line, f"an empty '{head}'", f"({head} FORMULA ...)")
        if head == "or":
            return list(itertools.chain.from_iterable(self._formula(item) for item in rest))
        if head == "and":
            parts = [self._formula(item) for item in rest]
            return both(parts, f"{self.source}, line {term.line}")
        if head not in ("<=", ">="):
            why = " (a strict one has no closed set of points)" if head in ("<", ">") else ""
            self._refuse(term.line, f"'{head}' is not supported{why}", "<=, >=, and, or")
        if len(rest) != 2:
            self._refuse(term.line, f"'{head}' of {len(rest)} terms", "two")
        left, right = (self._linear(item) for item in rest)
        sign = 1 if head == "<=" else -1
        zero = Fraction(0)
        difference = {v: sign * (left.get(v, zero) - right.get(v, zero)) for v in {**left, **right}}
        inputs, outputs = (
            {i: c for (own, i), c in difference.items() if own == letter and c}
            for letter in ("X", "Y")
        )
        constant = difference.get(("", 0), zero)
        return [(Row(inputs, outputs, constant, f"{self.source}, line {term.line}"),)]

    def _linear(self, term: Term) -> dict[tuple[str, int], Fraction]:
        """A linear term: coefficients by variable, the constant as the variable ("", 0)."""
        if isinstance(term, Word):
            match = _NAME.match(term.text)
            if match is None:
                return {("", 0): self._number(term)}
            if int(match[2]) not in self.sizes[match[1]]:
                self._refuse(
                    term.line, f"'{term.text}' is not declared",
                    f"(declare-const {term.text} Real) before it",
                )  # fmt: skip
            return {(match[1], int(match[2])): Fraction(1)}
        head, parts = self._head(term), [self._linear(item) for item in term.items[1:]]
        if head not in ("+", "-", "*") or not parts:
            self._refuse(term.line, f"'{head}' of {len(parts)} terms", "a linear term in +, -, *")
        if head == "*":
            return self._product(parts, term.line)
        total: dict[tuple[str, int], Fraction] = {}
        for position, part in enumerate(parts):
            minus = head == "-" and (position > 0 or len(parts) == 1)
            for variable, value in part.items():
                total[variable] = total.get(variable, Fraction(0)) + (-value if minus else value)
        return total

    def _product(
        self, parts: list[dict[tuple[str, int], Fraction]], line: int
    ) -> dict[tuple[str, int], Fraction]:
        """A product of constants and at most one term with variables."""
        factor, result = Fraction(1), {("", 0): Fraction(1)}
        for part in parts:
            if set(part) == {("", 0)}:
                factor *= part["", 0]
            elif set(result) != {("", 0)}:
                self._refuse(line, "a product of variables", "a linear term")
            else:
                result = part
        return {variable: factor * value for variable, value in result.items()}

    def _number(self, word: Word) -> Fraction:
        """A number, exactly."""
        match = _NUMBER.match(word.text)
        if match is None:
            self._refuse(word.line, f"got '{word.text[:40]}'", "a number, X_i or Y_i")
        if match[2] and len(match[2].lstrip("eE+-").lstrip("0")) > EXPONENT:
            self._refuse(word.line, f"got '{word.text[:40]}'", "a number of usual size")
        return Fraction(word.text)
