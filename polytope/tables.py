"""Tables of results in files: .csv, .json or .parquet by suffix, written in one step."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from polytope.errors import FileProblem

SUFFIXES = (".csv", ".json", ".parquet")


def check_writable(path: str | os.PathLike[str]) -> Path:
    """Make sure, before any work, that a file can be written there.

    Raises
    ------
    FileProblem
        Saying what stands in the way: a missing folder, a folder of that name, no right.
    """
    target = Path(path)
    if target.is_dir():
        raise FileProblem(f"cannot write '{target}': it is a folder; give a file name")
    if not target.parent.is_dir():
        raise FileProblem(f"cannot write '{target}': there is no folder '{target.parent}'")
    probe = _temporary(target)
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise FileProblem(f"cannot write '{target}': {error.strerror or error}") from error
    return target


def check_table_path(path: str | os.PathLike[str]) -> Path:
    """`check_writable` for a table: its suffix is one that `write_table` knows.

    Raises
    ------
    FileProblem
        For another suffix, and as `check_writable` does.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in SUFFIXES:
        raise FileProblem(f"cannot write '{target}': expected a name in {', '.join(SUFFIXES)}")
    return check_writable(target)


def write_table(frame: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write a table: a crash leaves the old file or the new one, never a half.

    JSON has no infinity: an infinite bound (no witness found; nothing reachable) is null
    there, and the column `status` tells which.

    Raises
    ------
    FileProblem
        If the file cannot be written.
    """
    target = Path(path)
    writers: dict[str, Callable[[Path], object]] = {
        ".csv": lambda file: frame.to_csv(file, index=False),
        ".json": lambda file: frame.to_json(file, orient="records", indent=1, double_precision=15),
        ".parquet": lambda file: frame.to_parquet(file, index=False),
    }
    write_file(target, writers[target.suffix.lower()])


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then move it there in one step.

    Raises
    ------
    FileProblem
        If the file cannot be written.
    """
    temporary = _temporary(path)
    try:
        try:
            write(temporary)
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
    except OSError as error:
        raise FileProblem(f"cannot write '{path}': {error.strerror or error}") from error


def _temporary(path: Path) -> Path:
    """A new hidden name in the same folder, with the same suffix."""
    return path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")
