"""What the commands share: exit codes, readers of options, and of models and rows of data."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from polytope.datasets import load_points
from polytope.errors import InputError, Notice
from polytope.inputs import as_norm
from polytope.model import Network, compile
from polytope.report import say

Value = TypeVar("Value")

OK, FAILED, BAD_USE, INTERRUPTED = 0, 1, 2, 130
EXIT_CODES = """\
exit codes:
  0    done
  1    the run failed
  2    a mistake in the command, or an unusable model, data or output file
  130  stopped by Ctrl-C; what was finished is shown and saved
"""


def read_model(path: str, shape: tuple[int, ...] | None) -> Network:
    """Compile a model; its notices go to stderr, one line each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", Notice)
        net = compile(path, shape)
    for warning in caught:
        if issubclass(warning.category, Notice):
            say(f"polytope: note: {warning.message}")
    return net


def _argument(kind: str) -> Callable[[Callable[[str], Value]], Callable[[str], Value]]:
    """A reader of one option, whose failures argparse reports with what was expected."""

    def wrap(read: Callable[[str], Value]) -> Callable[[str], Value]:
        def reader(text: str) -> Value:
            try:
                return read(text)
            except ValueError as error:
                raise argparse.ArgumentTypeError(f"got {text!r}, expected {kind}") from error

        return reader

    return wrap


@_argument("1, 2, inf or another number of at least 1")
def read_norm(text: str) -> float:
    """The exponent of a norm."""
    return as_norm(text)


@_argument("a whole number of at least 1")
def read_count(text: str) -> int:
    """A count, such as of regions."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


@_argument("rows as A:B (0:20) or one row (7)")
def read_rows(text: str) -> slice:
    """A range of rows."""
    if ":" not in text:
        row = int(text)
        return slice(row, row + 1 if row != -1 else None)
    parts = [int(part) if part else None for part in text.split(":")]
    if len(parts) > 3 or 0 in parts[2:]:
        raise ValueError
    return slice(*parts)


@_argument("names as in pgd,linear_region")
def read_words(text: str) -> list[str]:
    """Names separated by commas."""
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise ValueError
    return words


@_argument("positive whole numbers as in 1,28,28")
def read_shape(text: str) -> tuple[int, ...]:
    """The shape of an input."""
    sizes = tuple(int(part) for part in text.split(","))
    if min(sizes) < 1:
        raise ValueError
    return sizes


@_argument("a number above 0")
def read_positive(text: str) -> float:
    """A positive number, such as a time or a radius."""
    value = float(text)
    if not 0 < value < np.inf:
        raise ValueError
    return value


@_argument("a file and its rows, as in points.npz:0,1,2")
def read_place(text: str) -> tuple[str, tuple[int, ...]]:
    """Some rows of a file."""
    path, _, rows = text.rpartition(":")
    if not path or path.rpartition(":")[2].lstrip("-").isdecimal():  # no file, or a range 0:3
        raise ValueError
    return path, tuple(int(row) for row in rows.split(","))


def points_at(
    place: tuple[str, tuple[int, ...]], net: Network, scale: float | None, option: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """The points (rows, D), and labels if there are any, in some rows of a file of points.

    Raises
    ------
    FileProblem, InputError
        As `load_points` does, for a row that the file does not have, and for points that do not
        fit the network.
    """
    path, rows = place
    X, y = load_points(path, scale)
    for row in rows:
        if not -len(X) <= row < len(X):
            raise InputError(
                f"{option}: '{path}' has {len(X)} rows, there is no row {row}; rows count from 0"
            )
    chosen = list(rows)
    X = X.reshape(len(X), -1)
    if X.shape[1] != net.input_size:
        raise InputError(
            f"{option}: the points of '{path}' have {X.shape[1]} coordinates, but the network has "
            f"{net.input_size} inputs"
        )
    return X[chosen], None if y is None else y[chosen]
