"""``polytope regions``: the graph of a network's linear regions, from the command line."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from polytope.enumeration import region_graph, resume
from polytope.errors import FileProblem, InputError, Notice
from polytope.graph import RegionGraph
from polytope.model import Network
from polytope.options import (
    BAD_USE,
    EXIT_CODES,
    INTERRUPTED,
    OK,
    points_at,
    read_count,
    read_model,
    read_norm,
    read_place,
    read_positive,
    read_shape,
)
from polytope.region_plot import plot_regions
from polytope.regions.domain import Domain, as_domain
from polytope.report import counter, graph_summary, say, working
from polytope.sets import Ball, BoxLike
from polytope.slices import Slice
from polytope.tables import check_writable, write_file, write_table

GRAPHS = (".graphml", ".npz")
TABLES = (".csv", ".json", ".parquet")
PICTURES = (".png", ".pdf", ".svg")
EXAMPLES = """\
examples:
  polytope regions model.onnx --box -1 1 --out graph.graphml
  polytope regions model.onnx --slice data.npz:0,1,2 --box 0 1 --plot regions.png
  polytope regions model.onnx --box 0 1 --save state.npz     (Ctrl-C, or a crash)
  polytope regions model.onnx --resume state.npz             (goes on from there)

Without --box, --ball or --slice the domain is the whole input space. The first run compiles
the engine, which takes about half a minute; later ones start at once.
"""


Parser = TypeVar("Parser", bound=argparse.ArgumentParser)


@dataclass(frozen=True)
class _Marked:
    """Inputs that a picture marks, and their labels if they are known."""

    points: np.ndarray
    labels: np.ndarray | None


def add_regions(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command to those of a parser."""
    own = commands.add_parser(
        "regions",
        help="find all linear regions of your network in a box, a ball or on a slice",
        description="Find the linear regions of a network in a domain, and which of them share "
        "a facet.",
        epilog=f"{EXAMPLES}\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    own.add_argument(
        "model", metavar="MODEL", help="an .onnx file, or an .npz file written by Network.save"
    )
    own.add_argument(
        "--input-shape", metavar="N,N,...", type=read_shape,
        help="shape of one input, such as 1,28,28, if the model leaves it open",
    )  # fmt: skip
    domain = own.add_argument_group("domain")
    domain.add_argument(
        "--box", metavar=("LOW", "HIGH"), nargs=2, type=float,
        help="inputs with all coordinates in [LOW, HIGH]; it limits a slice, too",
    )  # fmt: skip
    domain.add_argument(
        "--ball", metavar=("FILE:ROW", "RADIUS"), nargs=2,
        help="the ball around a point: a row (from 0) of an .npz, .npy or .csv file",
    )  # fmt: skip
    domain.add_argument(
        "--norm", metavar="P", type=read_norm, help="of the ball: 1, 2 (default) or inf"
    )
    domain.add_argument(
        "--slice", metavar="FILE:ROWS", type=read_place,
        help="the line or plane through two or three points: rows of a file, as in X.npz:0,1,2",
    )  # fmt: skip
    domain.add_argument(
        "--margin", metavar="M", type=float,
        help="limit the slice to the rectangle around its points, wider by this part of its "
        "longer side",
    )  # fmt: skip
    domain.add_argument(
        "--scale", metavar="S", type=float,
        help="divide the points of files by S; needed for whole numbers (pixels: 255)",
    )  # fmt: skip
    search = own.add_argument_group("search")
    search.add_argument(
        "--max-regions", metavar="N", type=read_count, help="stop after N regions (N in all)"
    )
    search.add_argument(
        "--time-limit", metavar="SECONDS", type=read_positive, help="stop after so long"
    )
    search.add_argument(
        "--start", metavar="FILE:ROW", type=read_place,
        help="walk from this point (default: from one inside the domain)",
    )  # fmt: skip
    search.add_argument(
        "--order", choices=("breadth", "nearest"),
        help="walk breadth-first, or take the region nearest to --start next",
    )  # fmt: skip
    search.add_argument(
        "--workers", metavar="N", type=read_count, help="threads (default: one for each core)"
    )
    search.add_argument(
        "--save", metavar="FILE", type=Path,
        help="save the search to this new .npz file every half minute, to --resume from",
    )  # fmt: skip
    search.add_argument(
        "--resume", metavar="FILE", type=Path,
        help="go on with a saved search; its domain, start and order are those it began with",
    )  # fmt: skip
    result = own.add_argument_group("result")
    result.add_argument(
        "--out", metavar="FILE", type=Path, action="append", default=[],
        help="save the graph (.graphml; .npz, which can be resumed), or a table of its regions "
        "(.csv, .json, .parquet); can be given several times",
    )  # fmt: skip
    result.add_argument(
        "--plot", metavar="FILE", type=Path,
        help="draw a domain of two dimensions (.png, .pdf, .svg)",
    )  # fmt: skip
    own.set_defaults(run=_regions)


def _regions(arguments: argparse.Namespace) -> int:
    """``polytope regions``."""
    _check(arguments)
    net = read_model(arguments.model, arguments.input_shape)
    begun = None
    if arguments.resume is not None:
        begun = RegionGraph.load(arguments.resume, net)
        domain: Ball | Slice | BoxLike = None
        over, marked = begun.domain, None
    else:
        domain, marked = _domain(arguments, net)
        over = as_domain(net, domain)
    if arguments.plot is not None:
        _check_plane(over, arguments.slice is not None)
    save = arguments.save or arguments.resume
    start = _start(arguments, net)
    seconds = time.perf_counter()
    with (
        warnings.catch_warnings(record=True) as caught,
        counter("starting (the first run compiles the engine)", "regions found") as progress,
    ):
        warnings.simplefilter("always", Notice)
        if begun is not None:
            graph = resume(
                begun, max_regions=arguments.max_regions, workers=arguments.workers,
                time_limit=arguments.time_limit, progress=progress, save=save,
            )  # fmt: skip
        else:
            graph = region_graph(
                net, domain, arguments.max_regions, start, order=arguments.order,
                workers=arguments.workers, time_limit=arguments.time_limit, progress=progress,
                save=save,
            )  # fmt: skip
        progress(len(graph))
    seconds = time.perf_counter() - seconds
    for warning in caught:
        if not issubclass(warning.category, Notice):
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    jobs = _jobs(graph, arguments, marked)
    if save is not None and any(issubclass(w.category, Notice) for w in caught):
        jobs.append(("search", save, graph.save))  # the disk was full: is it still?
    written, failed = _write(jobs)
    with working("summing up"):
        lines = graph_summary(graph, seconds, 0 if begun is None else len(begun))
    for line in lines:
        say(line, sys.stdout)
    for kind, path in written:
        say(f"{kind:<15}{path}", sys.stdout)
    for error in failed:
        say(f"polytope: error: {error}")
    if graph.stopped:
        kept = [path for _, path in written if path.suffix.lower() == ".npz"]
        if save is not None and save not in [path for _, path, _ in jobs]:
            kept.append(save)
        say(_how_to_go_on(arguments, kept))
    if graph.stopped == "interrupt":
        return INTERRUPTED
    return BAD_USE if failed else OK


def _check(arguments: argparse.Namespace) -> None:
    """Refuse options that do not go together, and files that cannot be written.

    Raises
    ------
    InputError, FileProblem
    """
    given = {name for name, value in vars(arguments).items() if value is not None}
    for option, others in (
        ("ball", ("box", "slice")),
        ("resume", ("box", "ball", "slice", "start", "order")),
    ):
        both = [other for other in others if {option, other} <= given]
        if both:
            raise InputError(f"--{option} and --{both[0]} do not go together: leave one out")
    for option, needed in (
        ("margin", ["slice"]), ("norm", ["ball"]), ("scale", ["slice", "ball", "start"]),
    ):  # fmt: skip
        if option in given and not given & set(needed):
            names = " or ".join(f"--{name}" for name in needed)
            raise InputError(f"--{option} belongs to {names}, which is missing")
    if arguments.order == "nearest" and arguments.start is None and arguments.resume is None:
        raise InputError("--order nearest needs --start FILE:ROW, the point to be near to")
    _check_outputs(arguments)


def _check_outputs(arguments: argparse.Namespace) -> None:
    """Refuse output files of other kinds, that cannot be written, or that something is lost by.

    Raises
    ------
    FileProblem
    """
    targets: list[tuple[str, Path, tuple[str, ...]]]
    targets = [("--out", path, (*GRAPHS, *TABLES)) for path in arguments.out]
    if arguments.save is not None:
        targets.append(("--save", arguments.save, (".npz",)))
    if arguments.plot is not None:
        targets.append(("--plot", arguments.plot, PICTURES))
    places = [arguments.slice, arguments.start]
    sources = [arguments.model, *(place[0] for place in places if place is not None)]
    if arguments.ball is not None:
        sources.append(arguments.ball[0].rpartition(":")[0])
    kept = {Path(source).resolve() for source in sources}
    for option, path, suffixes in targets:
        if path.suffix.lower() not in suffixes:
            raise FileProblem(
                f"{option}: cannot write '{path}': expected a name in {', '.join(suffixes)}"
            )
        check_writable(path)
        if path.resolve() in kept:
            raise FileProblem(
                f"{option}: '{path}' is written by this command twice, or is the model or the "
                "data that it reads; give another name"
            )
        kept.add(path.resolve())
    if arguments.resume is None and arguments.save is not None and arguments.save.exists():
        raise FileProblem(
            f"--save: '{arguments.save}' exists: go on with it by --resume {arguments.save}, "
            "delete it, or give another name"
        )


def _domain(
    arguments: argparse.Namespace, net: Network
) -> tuple[Ball | Slice | BoxLike, _Marked | None]:
    """The domain, and the points of a slice.

    Raises
    ------
    InputError, FileProblem
    """
    box = None if arguments.box is None else (arguments.box[0], arguments.box[1])
    if arguments.ball is not None:
        text, radius = arguments.ball
        try:
            place, size = read_place(text), read_positive(radius)
        except argparse.ArgumentTypeError as error:
            raise InputError(f"--ball: {error}") from error
        center, _ = points_at(place, net, arguments.scale, "--ball")
        if len(center) != 1:
            raise InputError(f"--ball: got {len(center)} rows, expected one: the center")
        return Ball(center[0], size, arguments.norm or 2.0), None
    if arguments.slice is None:
        return box, None
    points, labels = points_at(arguments.slice, net, arguments.scale, "--slice")
    if len(points) < 2:
        raise InputError("--slice: got one row, expected two for a line or three for a plane")
    return Slice(points, box, arguments.margin), _Marked(points, labels)


def _start(arguments: argparse.Namespace, net: Network) -> np.ndarray | None:
    """The point to start from.

    Raises
    ------
    InputError, FileProblem
    """
    if arguments.start is None:
        return None
    points, _ = points_at(arguments.start, net, arguments.scale, "--start")
    if len(points) != 1:
        raise InputError(f"--start: got {len(points)} rows, expected one")
    return points


def _check_plane(domain: Domain, sliced: bool) -> None:
    """Refuse to draw what is no bounded plane, before the work.

    Raises
    ------
    InputError
        Saying what to give.
    """
    if domain.dimension != 2:
        raise InputError(
            f"--plot draws domains of two dimensions, this one has {domain.dimension}: give "
            "--slice FILE:ROWS with three rows"
        )
    if not domain.bounded:
        cure = "--box LOW HIGH or --margin 0.2" if sliced else "--box LOW HIGH"
        raise InputError(f"--plot needs a bounded domain: give {cure}")


#: What is written: its kind, where, and by what.
Job = tuple[str, Path, Callable[[Path], None]]


def _jobs(graph: RegionGraph, arguments: argparse.Namespace, marked: _Marked | None) -> list[Job]:
    """The files that were asked for."""
    jobs: list[Job] = []
    for path in arguments.out:
        suffix = path.suffix.lower()
        if suffix == ".npz":
            jobs.append(("graph", path, graph.save))
        elif suffix == ".graphml":
            jobs.append(("graph", path, graph.to_graphml))
        else:
            jobs.append(("table", path, lambda file: write_table(graph.statistics(), file)))
    if arguments.plot is not None:
        title = f"Linear regions of {Path(arguments.model).name}"
        jobs.append(("picture", arguments.plot, lambda file: _draw(graph, marked, title, file)))
    return jobs


def _write(jobs: list[Job]) -> tuple[list[tuple[str, Path]], list[FileProblem]]:
    """Write files, those first that can be gone on from: what was written, what could not be."""
    written, failed = [], []
    for kind, path, write in sorted(jobs, key=lambda job: job[1].suffix.lower() != ".npz"):
        try:
            with working(f"writing {path}"):
                write(path)
        except FileProblem as error:
            failed.append(error)
        else:
            written.append((kind, path))
    return written, failed


def _draw(graph: RegionGraph, marked: _Marked | None, title: str, path: Path) -> None:
    """Draw the graph to a file."""
    points, labels = (None, None) if marked is None else (marked.points, marked.labels)
    figure = plot_regions(graph, points, labels=labels, title=title)
    write_file(path, lambda file: figure.savefig(file))


def _how_to_go_on(arguments: argparse.Namespace, kept: list[Path]) -> str:
    """What to type after an early end, where the search was kept in files."""
    if not kept:
        return "polytope: note: nothing was saved to go on from; --save FILE.npz does so"
    words = ["polytope", "regions", str(arguments.model), "--resume", str(kept[0])]
    if arguments.input_shape is not None:
        words += ["--input-shape", ",".join(str(n) for n in arguments.input_shape)]
    return f"polytope: go on with: {shlex.join(words)}"
