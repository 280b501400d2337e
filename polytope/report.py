"""What the command line shows: progress, a table of certificates, summaries."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from polytope.graph import RegionGraph
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
    with _progress(*columns) as progress:
        yield Bar(progress, text)


class Counter:
    """A progress callback, ``counter(found)``, for a search whose end is not known."""

    def __init__(self, progress: Progress, before: str, text: str) -> None:
        self._progress, self._text = progress, text
        self._task = progress.add_task(before, total=None)

    def __call__(self, found: int) -> None:
        """Show that `found` things are found so far."""
        self._progress.update(self._task, completed=found, description=self._text)


@contextmanager
def counter(before: str, text: str) -> Iterator[Counter]:
    """A growing number on stderr while the block runs, as `progress_bar` otherwise.

    Parameters
    ----------
    before, text : str
        What is shown before the first thing is found, and from then on.
    """
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed:,.0f}"),
        TimeElapsedColumn(),
    )  # fmt: skip
    with _progress(*columns) as progress:
        yield Counter(progress, before, text)


class Status:
    """A line that says what is at work."""

    def __init__(self, show: Callable[[Text], None]) -> None:
        self._show = show

    def __call__(self, text: str) -> None:
        """Show another text."""
        self._show(Text(text))


@contextmanager
def status_line(text: str) -> Iterator[Status]:
    """A changing line on stderr while the block runs; nothing where that is no terminal."""
    with Console(stderr=True, highlight=False).status(Text(text)) as status:
        yield Status(status.update)


@contextmanager
def working(text: str) -> Iterator[None]:
    """A spinner on stderr while the block runs; nothing where that is no terminal."""
    with Console(stderr=True, highlight=False).status(Text(text)):
        yield


@contextmanager
def _progress(*columns: ProgressColumn) -> Iterator[Progress]:
    """Progress on stderr; a block that fails leaves none behind."""
    with Progress(*columns, console=Console(stderr=True, highlight=False)) as progress:
        try:
            yield progress
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


#: Why a search ended early, in words.
STOPPED = {
    "max_regions": "stopped at --max-regions",
    "time_limit": "stopped at --time-limit",
    "interrupt": "stopped by Ctrl-C",
}


def graph_summary(graph: RegionGraph, seconds: float, before: int = 0) -> list[str]:
    """What was found, how it hangs together, how it was settled, and how fast.

    Parameters
    ----------
    graph : RegionGraph
    seconds : float
        Time of the search.
    before : int
        Regions that an earlier search had found.

    Returns
    -------
    list of str
        Lines in two columns.  Regions are merged for a complete graph only: a partial one
        does not show what is connected.
    """
    count = len(graph)
    if graph.complete:
        extent = "complete: every region of the domain"
    else:
        extent = f"partial: {STOPPED.get(graph.stopped, 'stopped early')}, there are more"
    rows = [("regions", f"{count:,}", extent)]
    each = "nothing is found yet"
    if count:
        ends = np.bincount(graph.edges.reshape(-1), minlength=count)
        each = f"of each region {ends.min()} to {ends.max()}, on average {ends.mean():.2f}"
    rows.append(("shared facets", f"{len(graph.edges):,}", each))
    if graph.complete:
        linear = int(graph.linear_regions().max()) + 1
        rows.append(
            ("linear regions", f"{linear:,}", "after merging neighbours with one affine map")
        )
    rows.append((
        "exact verdicts", f"{graph.exact_verdicts:,}",
        "taken in rational arithmetic, where rounding could not decide",
    ))  # fmt: skip
    new = count - before
    rate = f"{new / seconds if seconds > 0 else math.inf:,.0f} regions a second"
    if before:
        rate = f"{rate}; {before:,} were found before" if new else "all were found before"
    rows.append(("time", f"{seconds:.1f} s", rate))
    wide = max(len(value) for _, value, _ in rows)
    return [f"{name:<15}{value:>{wide}}   {text}" for name, value, text in rows]
