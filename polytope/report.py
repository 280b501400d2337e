"""What the command line shows: a progress bar, a table of certificates, a summary."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from polytope.robustness.certificates import Certificates


def say(message: str, stream: TextIO | None = None) -> None:
    """Write a line as it is, to stderr unless told otherwise."""
    out = sys.stderr if stream is None else stream
    out.write(message + "\n")


class Bar:
    """A progress callback, ``bar(done, total)``, that remembers what is unfinished."""

    def __init__(self, progress: Progress, text: str) -> None:
        self._progress = progress
        self._task = progress.add_task(text, total=None)
        self.unfinished = 0

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` rows are finished."""
        self.unfinished = total - done
        self._progress.update(self._task, completed=done, total=total)


@contextmanager
def progress_bar(text: str) -> Iterator[Bar]:
    """A bar on stderr while the block runs; where that is no terminal, its end state only.

    A block that fails leaves no bar behind.
    """
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True, highlight=False)) as progress:
        try:
            yield Bar(progress, text)
        except BaseException:
            progress.live.transient = True
            raise


@dataclass(frozen=True)
class Report:
    """A certified batch, ready to be shown.

    Attributes
    ----------
    rows : int64 (n,)
        Rows of the data.
    result : Certificates
    p : float
    box : pair of float or None
    seconds : float
        Time of the whole run.
    """

    rows: np.ndarray
    result: Certificates
    p: float
    box: tuple[float, float] | None
    seconds: float

    def frame(self) -> pd.DataFrame:
        """The table that is saved: the row in the data, then all columns of the result."""
        table = self.result.to_frame()
        table.insert(0, "row", self.rows)
        return table

    def show(self) -> None:
        """Print the table and the summary to stdout."""
        console = Console(file=sys.stdout, highlight=False)
        r = self.result
        table = Table("row", "class", "lower bound", "upper bound", "exact", "regions", "seconds")
        for column in table.columns:
            column.justify = "right"
        for i in range(len(r)):
            table.add_row(
                str(self.rows[i]), str(r.label[i]), f"{r.lower[i]:.6f}", f"{r.upper[i]:.6f}",
                _verdict(str(r.status[i])), str(r.regions[i]), f"{r.seconds[i]:.3f}",
                style="" if r.status[i] == "exact" else "dim",
            )  # fmt: skip
        console.print(table)
        for line in self.summary():
            say(line, sys.stdout)

    def summary(self) -> list[str]:
        """A few lines: how many exact, the median bounds, the time."""
        r, count = self.result, len(self.result)
        if not count:
            return ["no rows: nothing to certify"]
        norm = "inf" if self.p == math.inf else f"{self.p:g}"
        where = (
            "all inputs" if self.box is None else f"inputs in [{self.box[0]:g}, {self.box[1]:g}]"
        )
        alone = int(((r.status == "exact") & (r.regions <= 1)).sum())
        parts = [
            f"{int((r.status == 'exact').sum())} of {count} exact ({alone} by one region alone)"
        ]
        for status, text in (
            ("interval", "with a gap"),
            ("unreachable", "that nothing in the box can change"),
            ("misclassified", "misclassified (robustness 0)"),
        ):
            found = int((r.status == status).sum())
            if found:
                parts.append(f"{found} {text}")
        return [
            ", ".join(parts),
            f"median lower bound {np.median(r.lower):.4f}, median upper bound "
            f"{np.median(r.upper):.4f} (l_{norm} distance, {where})",
            f"{count} {'row' if count == 1 else 'rows'} in {self.seconds:.1f} s",
        ]


def _verdict(status: str) -> str:
    """A status as the table's answer to "exact?"."""
    return {"exact": "yes", "interval": "no"}.get(status, status)
