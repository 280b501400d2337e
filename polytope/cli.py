"""The commands of ``polytope``: ``demo`` and ``certify`` here, the others in files of their own.

Tables go to stdout, progress and messages to stderr.  A mistake of the user is one line on
stderr, beginning with ``polytope: error:``.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from polytope.check_command import add_check
from polytope.compare_command import add_compare
from polytope.datasets import load_points
from polytope.demo import REGIONS, run_demo
from polytope.errors import Diverged, EquivalenceError, FileProblem, InputError, PolytopeError
from polytope.options import (
    BAD_USE,
    EXIT_CODES,
    FAILED,
    INTERRUPTED,
    OK,
    read_count,
    read_model,
    read_norm,
    read_rows,
    read_shape,
)
from polytope.regions_command import add_regions
from polytope.report import Report, progress_bar, say
from polytope.reproduce_command import add_reproduce
from polytope.robustness.certificates import Certificates
from polytope.robustness.theorem import certify
from polytope.sets import as_box
from polytope.tables import check_table_path, check_writable, write_file, write_table
from polytope.train_command import add_train
from polytope.verify_command import add_verify


class _Parser(argparse.ArgumentParser):
    """Reports a mistake in one line; takes -1e3 and -inf for numbers, not for options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._negative_number_matcher = re.compile(
            r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$|-inf$", re.IGNORECASE
        )

    def error(self, message: str) -> NoReturn:
        say(f"polytope: error: {message} (see {self.prog} --help)")
        raise SystemExit(BAD_USE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        The words after ``polytope``; by default those of this process.
    """
    try:
        arguments = _parser().parse_args(argv)
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else BAD_USE
    except KeyboardInterrupt:
        say("polytope: stopped by Ctrl-C; what is not shown above was not finished")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has gone; keep Python from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (Diverged, EquivalenceError) as error:
        say(f"polytope: error: {_one_line(error)}")
        return FAILED
    except PolytopeError as error:
        say(f"polytope: error: {_one_line(error)}")
        return BAD_USE
    except MemoryError:
        say("polytope: error: out of memory; choose fewer --rows or --max-regions")
        return FAILED


def _parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        prog="polytope",
        description="Exact analysis of piecewise-linear neural networks.",
        epilog=EXIT_CODES,
        formatter_class=layout,
    )
    parser.add_argument("--version", action="version", version=f"polytope {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    demo = commands.add_parser(
        "demo",
        help="certify 100 digits on a small network that comes with polytope, and draw it",
        description="Certify handwritten digits on a small network, both shipped with polytope: "
        "a table of proved bounds, and a picture of linear regions with certified balls. Writes "
        "polytope-demo.png and polytope-demo.csv.",
        epilog=EXIT_CODES,
        formatter_class=layout,
    )
    _add_search(demo, REGIONS)
    demo.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("."),
        help="folder of the picture and the table (default: this one; made if missing)",
    )  # fmt: skip
    demo.set_defaults(run=_demo)

    own = commands.add_parser(
        "certify",
        help="certify the decisions of your own network on your own data",
        description="For each point: a proved lower bound of the distance to the nearest change "
        "of decision, a verified upper bound, and whether they meet.",
        epilog="example:\n  polytope certify model.onnx --data X.npz --norm inf --box 0 1 "
        f"--rows 0:20 --out result.csv\n\n{EXIT_CODES}",
        formatter_class=layout,
    )
    own.add_argument(
        "model", metavar="MODEL", help="an .onnx file, or an .npz file written by Network.save"
    )
    own.add_argument(
        "--data", metavar="FILE", required=True,
        help="points: .npz (arrays X and, at will, y), .npy, or .csv (labels in a column y); "
        "where there are labels, a wrong decision has robustness 0",
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
        "--box", metavar=("LOW", "HIGH"), nargs=2, type=float,
        help="only inputs with all coordinates in [LOW, HIGH] count (default: all inputs)",
    )  # fmt: skip
    _add_search(own, 1)
    own.add_argument(
        "--out", metavar="FILE", type=Path,
        help="save the table: .csv, .json (infinite bounds are null) or .parquet",
    )  # fmt: skip
    own.set_defaults(run=_certify)

    add_compare(commands)
    add_check(commands)
    add_regions(commands)
    add_verify(commands)
    add_train(commands)
    add_reproduce(commands)
    return parser


def _add_search(parser: argparse.ArgumentParser, regions: int) -> None:
    """The options of a search for the nearest change of decision."""
    parser.add_argument(
        "--norm",
        metavar="P",
        type=read_norm,
        default=2.0,
        help="1, 2, inf or any P >= 1 (default: 2)",
    )
    parser.add_argument(
        "--max-regions", "--regions", metavar="N", type=read_count, default=regions,
        help="linear regions to explore for each point; 1 is the theorem on the point's own "
        f"region (default: {regions})",
    )  # fmt: skip
    parser.add_argument(
        "--rows", metavar="A:B", type=read_rows, default=slice(None),
        help="only the rows from A to B - 1, or one row (default: all)",
    )  # fmt: skip


def _demo(arguments: argparse.Namespace) -> int:
    """``polytope demo``."""
    folder: Path = arguments.out
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileProblem(
            f"cannot make the folder '{folder}': {error.strerror or error}; give another --out"
        ) from error
    picture = check_writable(folder / "polytope-demo.png")
    table = check_table_path(folder / "polytope-demo.csv")
    begun = time.perf_counter()
    with progress_bar("certifying digits") as bar:
        demo = run_demo(arguments.norm, arguments.max_regions, arguments.rows, bar)
    seconds = time.perf_counter() - begun
    report = Report(demo.rows, demo.result, arguments.norm, (0.0, 1.0), seconds)
    write_table(report.frame(), table)
    if demo.pictured:
        figure = demo.figure()
        write_file(picture, lambda path: figure.savefig(path))
    report.show()
    if demo.pictured:
        rows = ", ".join(str(demo.rows[i]) for i in demo.pictured)
        say(
            f"\npicture {picture}\n  the plane through the digits of rows {rows}: linear regions, "
            "the decision boundary, and\n  the ball around each digit in which the decision is "
            "proved not to change",
            sys.stdout,
        )
    else:
        say("\nno picture: it needs three correctly classified digits; choose more --rows",
            sys.stdout)  # fmt: skip
    say(f"table   {table}", sys.stdout)
    return _finish(demo.result, bar.unfinished)


def _certify(arguments: argparse.Namespace) -> int:
    """``polytope certify``."""
    target = None if arguments.out is None else check_table_path(arguments.out)
    net = read_model(arguments.model, arguments.input_shape)
    box = None if arguments.box is None else (arguments.box[0], arguments.box[1])
    as_box(box, net.input_size)
    X, y = load_points(arguments.data, arguments.scale)
    rows = np.arange(len(X))[arguments.rows]
    if not len(rows) and len(X):
        raise InputError(f"--rows: none of the {len(X)} rows is selected; use 0:{len(X)}")
    labels = None if y is None else y[rows]
    begun = time.perf_counter()
    with progress_bar("certifying") as bar:
        result = certify(
            net, X[rows], labels, arguments.norm, box, arguments.max_regions, progress=bar
        )
    report = Report(rows, result, arguments.norm, box, time.perf_counter() - begun)
    if target is not None:
        write_table(report.frame(), target)
    report.show()
    if target is not None:
        say(f"table   {target}", sys.stdout)
    return _finish(result, bar.unfinished)


def _finish(result: Certificates, unfinished: int) -> int:
    """The exit code of a run, and a word about one that was stopped."""
    if not unfinished:
        return OK
    say(
        f"polytope: stopped by Ctrl-C: {unfinished} of {len(result)} rows were not finished; "
        "their bounds hold, but can be improved"
    )
    return INTERRUPTED


def _one_line(error: Exception) -> str:
    """A message without line breaks."""
    return " ".join(str(error).split())


def _version() -> str:
    """The installed version."""
    try:
        return version("polytope-nn")
    except PackageNotFoundError:
        return "(not installed)"
