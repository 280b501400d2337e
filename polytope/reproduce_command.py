"""``polytope reproduce``: tables and figures of the papers, published beside measured."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TypeVar, get_args

from polytope.errors import InputError
from polytope.options import EXIT_CODES, INTERRUPTED, OK
from polytope.report import say, status_line
from polytope.reproduce.items import ITEMS
from polytope.reproduce.reproduce import find_item, reproduce
from polytope.reproduce.run import Scale

Parser = TypeVar("Parser", bound=argparse.ArgumentParser)


def add_reproduce(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command to those of a parser."""
    width = max(len(item.name) for item in ITEMS)
    listed = "\n".join(f"  {item.name:{width}}  {item.title}" for item in ITEMS)
    own = commands.add_parser(
        "reproduce",
        help="train and measure again what the papers report, published beside measured",
        description="Trains or loads networks, measures, and prints published beside measured "
        "numbers; writes a table (.csv), a picture (.png, .pdf) and the text. A run that was "
        "stopped goes on where it was.",
        epilog=f"items:\n{listed}\n\nexample:\n  polytope reproduce recurjac-figure2 --scale smoke"
        f"\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    own.add_argument("item", metavar="ITEM", help="one of the items below")
    own.add_argument(
        "--scale", metavar="SCALE", default="small",
        help="smoke: about a minute, on digits that come with polytope; small: some minutes on two "
        "cores, and it says what it shortens; full: the paper's settings (default: small)",
    )  # fmt: skip
    own.add_argument(
        "--data", metavar="DIR", type=Path,
        help="folder of the data sets, with a folder for each (default: $POLYTOPE_DATA)",
    )  # fmt: skip
    own.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("reproduced"),
        help="folder of tables, pictures, finished steps and trained networks (default: "
        "reproduced)",
    )  # fmt: skip
    own.set_defaults(run=_reproduce)


def _reproduce(arguments: argparse.Namespace) -> int:
    """Run the command."""
    item = find_item(arguments.item)
    if arguments.scale not in get_args(Scale):
        raise InputError(
            f"--scale: got {arguments.scale!r}, expected one of {', '.join(get_args(Scale))}"
        )
    begun = time.perf_counter()
    try:
        with status_line(item.name) as status:
            shown = ""

            def progress(step: str, done: int, total: int) -> None:
                nonlocal shown
                if step != shown and not sys.stderr.isatty():
                    say(f"{time.perf_counter() - begun:7.0f} s  {step}")
                shown = step
                count = f" {done} of {total}" if total else ""
                status(f"{item.name}: {step}{count} ({time.perf_counter() - begun:.0f} s)")

            found = reproduce(
                item.name, arguments.scale, data=arguments.data, out=arguments.out,
                progress=progress,
            )  # fmt: skip
    except KeyboardInterrupt:
        say(
            f"polytope: stopped by Ctrl-C; finished steps are in '{arguments.out}', the same "
            "command goes on from there"
        )
        return INTERRUPTED
    say(found.text, sys.stdout)
    say(f"\n{time.perf_counter() - begun:.0f} s", sys.stdout)
    for path in found.files:
        say(f"{path}", sys.stdout)
    return OK
