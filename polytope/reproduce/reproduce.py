"""`reproduce`: an item from beginning to end, with its table, picture and text in files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from polytope.errors import InputError
from polytope.reproduce.item import Item
from polytope.reproduce.items import ITEMS
from polytope.reproduce.run import Outcome, Progress, Run, Scale, silent
from polytope.tables import check_writable, write_file, write_table


@dataclass(frozen=True, eq=False)
class Reproduced:
    """A table or figure made again.

    Attributes
    ----------
    item : Item
    outcome : Outcome
    text : str
        Title, table, what the scale shortened, what the numbers say.
    files : tuple of Path
        The table (.csv), the picture (.png, .pdf) and the text (.txt).
    """

    item: Item
    outcome: Outcome
    text: str
    files: tuple[Path, ...]


def find_item(name: str) -> Item:
    """An item by its name.

    Raises
    ------
    InputError
        For an unknown name: the message lists those there are.
    """
    for item in ITEMS:
        if item.name == name:
            return item
    raise InputError(
        f"reproduce: there is no item {name!r}; expected one of "
        f"{', '.join(item.name for item in ITEMS)}"
    )


def reproduce(
    name: str,
    scale: Scale = "small",
    *,
    data: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] = "reproduced",
    progress: Progress = silent,
) -> Reproduced:
    """Make a table or figure of a paper again, and write it into files.

    Parameters
    ----------
    name : str
        Such as "mmr-table3"; `ITEMS` has them all.
    scale : {"smoke", "small", "full"}
        "smoke" takes about a minute, on digits that come with polytope; "small" some minutes on
        two cores; "full" has the paper's settings.
    data : path, optional
        The folder of the data sets; $POLYTOPE_DATA by default.
    out : path
        Steps and trained networks are kept there: a run that was stopped goes on from them.
    progress : callable, optional
        Called as ``progress(step, done, total)``.

    Returns
    -------
    Reproduced

    Raises
    ------
    InputError
        For an unknown item or scale.
    FileProblem
        Where data is missing (saying which files go where), a kept step is damaged, or nothing
        can be written.
    """
    item = find_item(name)
    if scale not in get_args(Scale):
        raise InputError(f"scale: got {scale!r}, expected one of {', '.join(get_args(Scale))}")
    run = Run(name, scale, Path(out), None if data is None else Path(data), progress)
    run.made(run.folder)
    stem = f"{name}-{scale}"
    files = tuple(
        check_writable(run.folder / f"{stem}{suffix}")
        for suffix in (".csv", ".png", ".pdf", ".txt")
    )
    outcome = item.work(run)
    text = as_text(item, scale, outcome)
    write_table(outcome.table, files[0])
    for picture in files[1:3]:
        write_file(picture, lambda path: outcome.figure.savefig(path, dpi=150))
    write_file(files[3], lambda path: path.write_text(text + "\n"))
    return Reproduced(item, outcome, text, files)


def as_text(item: Item, scale: Scale, outcome: Outcome) -> str:
    """What is printed: title, table, what was shortened, findings."""
    table = outcome.table.to_string(index=False, na_rep="-", float_format=lambda v: f"{v:.4g}")
    lines = [f"{item.name}: {item.title}", f"({item.source})", "", table, ""]
    if outcome.shortened:
        lines.append(f"{scale}: {'; '.join(outcome.shortened)}")
    return "\n".join([*lines, *outcome.findings])
