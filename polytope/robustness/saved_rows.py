"""Rows of a batch in a file: each is saved as it ends, so that nothing is lost.

One line of JSON a row, after a line that says what was asked; floats are written so that they
come back the same.  A last line that was cut off by a kill is not read.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from polytope.errors import FileProblem
from polytope.model import Network
from polytope.robustness.perturbation import Perturbation, Statistics
from polytope.robustness.query import Query
from polytope.sets import Box

#: What a file begins with.
KIND = "polytope minimal perturbations 1"
FIELDS = (
    "lower", "upper", "native_upper", "exact", "status", "stopped", "exactness", "label",
    "target", "method", "explain", "claimed",
)  # fmt: skip


def question(net: Network, x: np.ndarray, labels: np.ndarray, *settings: object) -> str:
    """A digest of all that decides the rows, but not the time limit."""
    digest = hashlib.sha256(net.graph.hash.encode())
    for array in (x, labels):
        digest.update(np.ascontiguousarray(array).tobytes())
    for value in settings:
        for part in [value.low, value.high] if isinstance(value, Box) else [value]:
            text = part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode()
            digest.update(b"%d:" % len(text) + text)
    return digest.hexdigest()


class SavedRows:
    """The rows that a file holds, and a place for further ones.

    Parameters
    ----------
    path : path
        Made if it does not exist; otherwise of the same question.
    asked : str
        `question` of this batch.

    Raises
    ------
    FileProblem
        If the file cannot be written, is of another kind, or answers another question.
    """

    def __init__(self, path: str | os.PathLike[str], asked: str) -> None:
        self._path = Path(path)
        self._lines: dict[int, dict[str, Any]] = {}
        try:
            if self._path.exists() and self._path.stat().st_size:
                self._read(asked)
            else:
                self._path.write_text(json.dumps({"kind": KIND, "question": asked}) + "\n")
        except (OSError, UnicodeDecodeError) as error:
            raise FileProblem(f"save: {path}: {error}") from error

    def _read(self, asked: str) -> None:
        """Take the finished rows over, and cut off what was half written."""
        text = self._path.read_text()
        whole = text[: text.rfind("\n") + 1]
        lines = whole.splitlines()
        try:
            head = json.loads(lines[0])
            if not isinstance(head, dict) or head.get("kind") != KIND:
                raise ValueError
            same = head["question"] == asked
            rows = [json.loads(line) for line in lines[1:]]
            self._lines = {int(row["row"]): row for row in rows if not row["stopped"]}
            for row in self._lines:
                self._result(row)
        except (ValueError, IndexError, KeyError, TypeError) as error:
            raise FileProblem(
                f"save: {self._path} is no file of minimal perturbations, or damaged; give "
                "another name"
            ) from error
        if not same:
            raise FileProblem(
                f"save: {self._path} answers another question (network, points, norm, box, "
                "target, radius, method, tolerance or seed differ); give another name, or delete it"
            )
        if len(whole) != len(text):
            os.truncate(self._path, len(whole.encode()))

    def __contains__(self, row: int) -> bool:
        """Whether a row is finished."""
        return row in self._lines

    def get(self, row: int, query: Query) -> Perturbation:
        """A finished row, without its evidence."""
        return Perturbation(**self._result(row), evidence=None, query=query)

    def _result(self, row: int) -> dict[str, Any]:
        """What a line says, as a `Perturbation` takes it."""
        line = self._lines[row]
        stats = dict(line["stats"])
        stats["trace"] = tuple(tuple(entry) for entry in stats["trace"])
        found: dict[str, Any] = {name: line[name] for name in FIELDS}
        for name in ("witness", "native_witness"):
            found[name] = np.array(line[name], dtype=np.float64)
        return found | {"stats": Statistics(**stats)}

    def put(self, row: int, found: Perturbation) -> None:
        """Write a row."""
        line: dict[str, object] = {"row": row} | {name: getattr(found, name) for name in FIELDS}
        line |= {
            "witness": found.witness.tolist(), "native_witness": found.native_witness.tolist(),
            "stats": vars(found.stats),
        }  # fmt: skip
        try:
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise FileProblem(f"save: {self._path}: row {row} was not written: {error}") from error
