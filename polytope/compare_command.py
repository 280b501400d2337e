"""``polytope compare``: engines and attacks on the same points, from the command line."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from polytope.datasets import load_points
from polytope.errors import InputError
from polytope.options import (
    EXIT_CODES,
    FAILED,
    INTERRUPTED,
    OK,
    read_model,
    read_norm,
    read_positive,
    read_rows,
    read_shape,
    read_words,
)
from polytope.report import Status, say, status_line
from polytope.robustness.compare import CrossCheck, cross_check
from polytope.robustness.interval import Progress
from polytope.sets import as_box
from polytope.tables import check_table_path, write_table

METHODS = ("branch_and_bound", "traversal", "mip")
ATTACKS = ("pgd", "linear_region")
EXAMPLES = """\
examples:
  polytope compare model.onnx --data X.npz --norm inf --box 0 1
  polytope compare model.onnx --data X.npz --norm 2 --methods auto,mip:scip --attacks none
  polytope compare model.onnx --data X.npz --box 0 1 --radius 0.3 --rows 0:20 --out table.csv

A verdict for each point: "agree" (all intervals are closed, at one distance), "within gap" (some
are open, nothing contradicts anything), "disagree" (two cannot both be right: a folder with the
programs, the points and the seeds is written). With disagreements the exit code is 1.
"""
#: Short names for the table's narrow columns.
SHORT = {
    "branch_and_bound": "b&b", "traversal": "trav.", "linear_region": "regions",
    "carlini_wagner": "c&w",
}  # fmt: skip

Parser = TypeVar("Parser", bound=argparse.ArgumentParser)


def add_compare(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command to those of a parser."""
    own = commands.add_parser(
        "compare",
        help="the minimal adversarial perturbation by several engines and attacks, side by side",
        description="For each point: how near the decision changes, by several engines that must "
        "agree, and how far attacks stay from that.",
        epilog=f"{EXAMPLES}\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    own.add_argument(
        "model", metavar="MODEL", help="an .onnx file, or an .npz file written by Network.save"
    )
    own.add_argument(
        "--data", metavar="FILE", required=True,
        help="points: .npz (arrays X and, at will, y), .npy, or .csv (labels in a column y)",
    )  # fmt: skip
    own.add_argument(
        "--scale", metavar="S", type=float,
        help="divide the points by S; needed for whole numbers (pixels: 255)",
    )  # fmt: skip
    own.add_argument(
        "--input-shape", metavar="N,N,...", type=read_shape,
        help="shape of one input, such as 1,28,28, if the model leaves it open",
    )  # fmt: skip
    own.add_argument(
        "--rows", metavar="A:B", type=read_rows, default=slice(0, 10),
        help="only the rows from A to B - 1, or one row (default: 0:10; all rows: 0:)",
    )  # fmt: skip
    own.add_argument(
        "--norm", metavar="P", type=read_norm, default=2.0, help="1, 2 or inf (default: 2)"
    )
    own.add_argument(
        "--box", metavar=("LOW", "HIGH"), nargs=2, type=float,
        help="only inputs with all coordinates in [LOW, HIGH] count (default: all inputs)",
    )  # fmt: skip
    own.add_argument(
        "--radius", metavar="R", type=read_positive,
        help="also say on which side of R each distance lies",
    )  # fmt: skip
    own.add_argument(
        "--methods", metavar="M,M,...", type=read_words, default=list(METHODS),
        help="auto, branch_and_bound, traversal, mip, or mip:SOLVER (highs, scip, pulp, scipy, "
        f"cvxpy) (default: {','.join(METHODS)})",
    )  # fmt: skip
    own.add_argument(
        "--attacks", metavar="A,A,...", type=read_words, default=list(ATTACKS),
        help="pgd, linear_region, deepfool, carlini_wagner (norm 2 alone); of a fixed size: "
        "fgsm:EPS, fgsm_20:EPS, untargeted:EPS, random_targeted:EPS, multi_targeted:EPS; or none "
        f"(default: {','.join(ATTACKS)})",
    )  # fmt: skip
    own.add_argument(
        "--time-limit", metavar="SECONDS", type=read_positive, default=60.0,
        help="for each point and method (default: 60)",
    )  # fmt: skip
    own.add_argument(
        "--seed", metavar="N", type=int, default=0, help="of all that is random (default: 0)"
    )
    own.add_argument(
        "--out", metavar="FILE", type=Path,
        help="save the table: .csv, .json (infinite bounds are null) or .parquet",
    )  # fmt: skip
    own.add_argument(
        "--reproduce", metavar="DIR", type=Path, default=Path("."),
        help="folder for what reproduces a disagreement (default: this one)",
    )  # fmt: skip
    own.set_defaults(run=_compare)


def _compare(arguments: argparse.Namespace) -> int:
    """Run the command."""
    target = None if arguments.out is None else check_table_path(arguments.out)
    net = read_model(arguments.model, arguments.input_shape)
    box = None if arguments.box is None else (arguments.box[0], arguments.box[1])
    as_box(box, net.input_size)
    X, y = load_points(arguments.data, arguments.scale)
    rows = np.arange(len(X))[arguments.rows]
    if not len(rows):
        raise InputError(f"--rows: none of the {len(X)} rows is selected; use 0:{len(X)}")
    attacks = [] if arguments.attacks == ["none"] else arguments.attacks
    begun = time.perf_counter()
    with _progress(rows) as shown:
        found = cross_check(
            net, X[rows], None if y is None else y[rows], arguments.norm, box, arguments.methods,
            attacks, radius=arguments.radius, time_limit=arguments.time_limit,
            seed=arguments.seed, out=arguments.reproduce, callback=shown,
        )  # fmt: skip
    frame = found.to_frame()
    frame.insert(0, "row", rows)
    if target is not None:
        write_table(frame, target)
    _show(found, rows)
    for line in _summary(found, arguments.norm, box, time.perf_counter() - begun):
        say(line, sys.stdout)
    if target is not None:
        say(f"table   {target}", sys.stdout)
    for row, reason in zip(rows, found.reason, strict=True):
        if reason:
            say(f"polytope: row {row}: {reason}")
    for folder in found.files:
        say(f"polytope: to reproduce it: {folder}")
    unfinished = sum(
        any(result[i].stopped == "interrupt" for result in found.methods.values())
        for i in range(len(found))
    )
    if unfinished:
        say(
            f"polytope: stopped by Ctrl-C: {unfinished} of {len(found)} rows were not finished; "
            "their intervals hold, but can be improved"
        )
        return INTERRUPTED
    return FAILED if len(found.files) else OK


class _Shown:
    """A callback that shows the interval at work."""

    def __init__(self, rows: np.ndarray, status: Status) -> None:
        self._rows, self._status = rows, status

    def __call__(self, method: str, progress: Progress) -> None:
        """Show where a method is."""
        self._status(
            f"{method}: row {self._rows[progress.row]} ({progress.row + 1} of {len(self._rows)}): "
            f"{progress.lower:.6f} to {progress.upper:.6f} after {progress.seconds:.1f} s"
        )


@contextmanager
def _progress(rows: np.ndarray) -> Iterator[_Shown]:
    """The interval at work on stderr, where that is a terminal."""
    with status_line("attacking") as status:
        yield _Shown(rows, status)


def _show(found: CrossCheck, rows: np.ndarray) -> None:
    """Print the table."""
    table = Table("row", "lower", "upper", box=SIMPLE_HEAD, padding=0)
    seconds = {name: [r.stats.seconds for r in rs] for name, rs in found.methods.items()}
    for name in found.methods:
        table.add_column(f"{SHORT.get(name, name)} s")
    for name in found.attacks:
        table.add_column(f"{SHORT.get(name, name)}/opt")
    if found.at_radius is not None:
        table.add_column("at radius")
    table.add_column("verdict")
    for column in table.columns:
        column.justify, column.no_wrap = "right", True
    ratios = {name: found.ratios(name) for name in found.attacks}
    for i in range(len(found)):
        cells = [str(rows[i]), f"{found.lower[i]:.6f}", f"{found.upper[i]:.6f}"]
        cells += [f"{seconds[name][i]:.2f}" for name in found.methods]
        cells += [_ratio(float(ratios[name][i])) for name in found.attacks]
        if found.at_radius is not None:
            cells.append(str(found.at_radius[i]))
        verdict = str(found.verdict[i])
        style = {"agree": "", "within gap": "dim"}.get(verdict, "bold red")
        table.add_row(*cells, verdict, style=style)
    console = Console(file=sys.stdout, highlight=False)
    wide = console.measure(table, options=console.options.update(width=10**4)).maximum
    Console(file=sys.stdout, highlight=False, width=max(wide, console.width)).print(table)


def _ratio(value: float) -> str:
    """A distance over the optimum."""
    if math.isnan(value):
        return "-"
    return "none" if math.isinf(value) else f"{value:.4f}"


def _summary(
    found: CrossCheck, p: float, box: tuple[float, float] | None, seconds: float
) -> list[str]:
    """How many agree, and how near the attacks came."""
    count = len(found)
    norm = "inf" if p == math.inf else f"{p:g}"
    where = "all inputs" if box is None else f"inputs in [{box[0]:g}, {box[1]:g}]"
    parts = [
        f"{int((found.verdict == name).sum())} {name}"
        for name in ("agree", "within gap", "disagree")
    ]
    lines = [f"of {count} points {', '.join(parts)} (l_{norm} distance, {where})"]
    for name, rows in found.methods.items():
        closed = int(rows.exact.sum())
        spent = [row.stats.seconds for row in rows]
        text = f"closed by proof ({', '.join(sorted({row.exactness for row in rows}))})"
        if name.startswith("mip"):
            near = [abs(r.claimed - r.upper) <= 1e-6 * r.upper for r in rows]
            closed, text = int(np.sum(near)), "claimed as optimal by the solver"
        lines.append(
            f"{name}: {closed} of {count} {text}, median {np.median(spent):.2f} s, "
            f"longest {max(spent):.2f} s"
        )
    for name in found.attacks:
        ratio = found.ratios(name)
        ratio = ratio[np.isfinite(ratio)]
        best, far = int((ratio <= 1 + 1e-6).sum()), int((ratio > 1.1).sum())
        lines.append(
            f"{name}: at the optimum on {best} of {count} points (to 1e-6), more than 10% above it "
            f"on {far}"
        )
    lines.append(f"{seconds:.1f} s in all")
    return lines
