"""Problems as free MPS files with every digit: what a disagreement between solvers is sent as.

All solvers read them. Columns are called x0, x1, ..., rows r0, r1, ...; every bound is written out,
since readers disagree about those left out.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array, tril

from solvers.errors import ProblemError
from solvers.problem import (
    FloatArray,
    LinearProgram,
    MixedIntegerProgram,
    Problem,
    QuadraticProgram,
)

__all__ = ["read_mps", "write_mps"]


def write_mps(problem: Problem, path: str | Path, comment: str = "") -> None:
    """Write a problem; the file means the same, to the last bit.

    Rows without bounds are left out. A row with two bounds is written as one with a range where
    that is exact, else as two, the second called r{i}_low. A quadratic objective is written as
    QUADOBJ.

    Parameters
    ----------
    problem : LinearProgram, QuadraticProgram or MixedIntegerProgram
    path : str or Path
    comment : str
        Written on top, each line after a star: seeds, versions, whatever reproduces it.
    """
    lines = [f"* {line}" for line in comment.splitlines()]
    lines += ["NAME program", "ROWS", " N cost"]
    rows = list(_rows(problem))
    lines += [f" {kind} {name}" for _, kind, name, _, _ in rows]
    lines += ["COLUMNS", *_columns(problem, rows), "RHS"]
    lines += [f" RHS {name} {right!r}" for _, _, name, right, _ in rows if right]
    lines += ["RANGES"]
    lines += [f" RNG {name} {width!r}" for _, _, name, _, width in rows if width]
    lines += ["BOUNDS", *_bounds(problem)]
    if problem.quadratic is not None:
        lower = tril(problem.quadratic).tocoo()
        entries = zip(*lower.coords, lower.data.tolist(), strict=True)
        lines += ["QUADOBJ", *(f" x{j} x{i} {value!r}" for i, j, value in entries)]
    Path(path).write_text("\n".join([*lines, "ENDATA", ""]))


_Row = tuple[int, str, str, float, float]  # index, kind, name, right-hand side, range


def _rows(problem: Problem) -> Iterator[_Row]:
    bounds = zip(problem.row_lower.tolist(), problem.row_upper.tolist(), strict=True)
    for i, (low, high) in enumerate(bounds):
        if low == high:
            yield i, "E", f"r{i}", low, 0.0
        elif np.isinf(low) and np.isinf(high):
            continue
        elif np.isinf(low):
            yield i, "L", f"r{i}", high, 0.0
        elif np.isinf(high):
            yield i, "G", f"r{i}", low, 0.0
        elif high - (high - low) == low and np.isfinite(high - low):
            yield i, "L", f"r{i}", high, high - low
        else:
            yield i, "L", f"r{i}", high, 0.0
            yield i, "G", f"r{i}_low", low, 0.0


def _columns(problem: Problem, rows: list[_Row]) -> Iterator[str]:
    indices = [i for i, *_ in rows]
    columns = csr_array(problem.A[indices]).tocsc()
    integer = isinstance(problem, MixedIntegerProgram)
    within = False
    for j, cost in enumerate(problem.c.tolist()):
        if isinstance(problem, MixedIntegerProgram) and problem.integrality[j] != within:
            within = not within
            yield f" MARKER 'MARKER' '{'INTORG' if within else 'INTEND'}'"
        yield f" x{j} cost {cost!r}"
        for k in range(columns.indptr[j], columns.indptr[j + 1]):
            yield f" x{j} {rows[columns.indices[k]][2]} {float(columns.data[k])!r}"
    if integer and within:
        yield " MARKER 'MARKER' 'INTEND'"


def _bounds(problem: Problem) -> Iterator[str]:
    bounds = zip(problem.lower.tolist(), problem.upper.tolist(), strict=True)
    for j, (low, high) in enumerate(bounds):
        if low == high:
            yield f" FX BND x{j} {low!r}"
        elif np.isinf(low) and np.isinf(high):
            yield f" FR BND x{j}"
        else:
            yield f" MI BND x{j}" if np.isinf(low) else f" LO BND x{j} {low!r}"
            yield f" PL BND x{j}" if np.isinf(high) else f" UP BND x{j} {high!r}"


def read_mps(path: str | Path) -> Problem:
    """Read a file that `write_mps` wrote, or another free MPS file that minimises.

    Returns
    -------
    LinearProgram, QuadraticProgram or MixedIntegerProgram
        Rows and columns in the order of the file.

    Raises
    ------
    ProblemError
        Where a line is not understood; the message quotes it.
    """
    reader = _Reader()
    section = ""
    for number, line in enumerate(Path(path).read_text().splitlines(), 1):
        if not line.strip() or line.startswith("*"):
            continue
        words = line.split()
        if not line[0].isspace():
            section = words[0]
            continue
        try:
            getattr(reader, "read_" + section.lower())(words)
        except (AttributeError, IndexError, KeyError, ValueError) as error:
            raise ProblemError(
                f"{path}, line {number}: {line.strip()!r} under {section or 'no section'} is not "
                "understood; expected free MPS that minimises."
            ) from error
    return reader.problem()


class _Reader:
    """One method per section, called with the words of each of its lines."""

    def __init__(self) -> None:
        self.kinds: dict[str, str] = {}
        self.rows: dict[str, int] = {}
        self.columns: dict[str, int] = {}
        self.cost: dict[int, float] = {}
        self.entries: list[tuple[int, int, float]] = []
        self.right: dict[str, float] = {}
        self.ranges: dict[str, float] = {}
        self.lower: dict[int, float] = {}
        self.upper: dict[int, float] = {}
        self.integer: set[int] = set()
        self.bowl: list[tuple[int, int, float]] = []
        self._within = False

    def read_rows(self, words: list[str]) -> None:
        kind, name = words
        self.kinds[name] = kind
        if kind in ("L", "G", "E"):
            self.rows[name] = len(self.rows)
        elif kind != "N":
            raise ValueError(kind)

    def read_columns(self, words: list[str]) -> None:
        if words[1] == "'MARKER'":
            self._within = words[2] == "'INTORG'"
            return
        j = self.columns.setdefault(words[0], len(self.columns))
        if self._within:
            self.integer.add(j)
        for row, value in _pairs(words[1:]):
            if self.kinds[row] == "N":
                self.cost[j] = value
            else:
                self.entries.append((self.rows[row], j, value))

    def read_rhs(self, words: list[str]) -> None:
        self.right |= {row: value for row, value in _pairs(words[1:]) if self.rows[row] >= 0}

    def read_ranges(self, words: list[str]) -> None:
        self.ranges |= {row: value for row, value in _pairs(words[1:]) if self.rows[row] >= 0}

    def read_bounds(self, words: list[str]) -> None:
        kind, j = words[0], self.columns[words[2]]
        value = float(words[3]) if len(words) > 3 else np.inf
        if kind in ("FX", "LO", "FR", "MI"):
            self.lower[j] = value if kind in ("FX", "LO") else -np.inf
        if kind in ("FX", "UP", "FR", "PL"):
            self.upper[j] = value if kind in ("FX", "UP") else np.inf
        if kind not in ("FX", "LO", "UP", "FR", "MI", "PL"):
            raise ValueError(kind)

    def read_quadobj(self, words: list[str]) -> None:
        i, j, value = self.columns[words[0]], self.columns[words[1]], float(words[2])
        self.bowl += [(i, j, value)] if i == j else [(i, j, value), (j, i, value)]

    def problem(self) -> Problem:
        n = len(self.columns)
        low, high = np.full(len(self.rows), -np.inf), np.full(len(self.rows), np.inf)
        for name, i in self.rows.items():
            kind, right, width = self.kinds[name], self.right.get(name, 0.0), self.ranges.get(name)
            low[i] = -np.inf if kind == "L" else right
            high[i] = np.inf if kind == "G" else right
            if width is not None and kind == "L":
                low[i] = right - abs(width)
            elif width is not None and (kind == "G" or width > 0):
                high[i] = right + abs(width)
            elif width is not None:
                low[i] = right - abs(width)
        c = _filled(self.cost, n, 0.0)
        A = _matrix(self.entries, (len(self.rows), n))
        rest = (A, low, high, _filled(self.lower, n, 0.0), _filled(self.upper, n, np.inf))
        P = _matrix(self.bowl, (n, n)) if self.bowl else None
        if self.integer:
            mask = np.isin(np.arange(n), sorted(self.integer))
            return MixedIntegerProgram(c, mask, *rest, P=P)
        return LinearProgram(c, *rest) if P is None else QuadraticProgram(c, P, *rest)


def _pairs(words: list[str]) -> Iterator[tuple[str, float]]:
    return zip(words[::2], map(float, words[1::2]), strict=True)


def _filled(values: dict[int, float], size: int, default: float) -> FloatArray:
    return np.array([values.get(j, default) for j in range(size)])


def _matrix(entries: Iterable[tuple[int, int, float]], shape: tuple[int, int]) -> csr_array:
    rows, columns, values = zip(*entries, strict=True) if entries else ((), (), ())
    return csr_array((values, (rows, columns)), shape=shape, dtype=np.float64)
