"""Finished steps in files, so that an interrupted run goes on where it was.

A step's result is a handful of arrays. Its file is named after the step and its settings, and
holds the settings: another scale, other data or another setting is another file, never a stale
number.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from polytope.errors import FileProblem
from polytope.tables import write_file

#: The entry of a file that holds the settings.
SETTINGS = "settings"
#: Hexadecimal digits of a key: 48 bits among a few hundred steps.
DIGITS = 12


def key_of(settings: Mapping[str, Any]) -> str:
    """A short name of some settings (JSON values): equal for equal ones."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def step_path(folder: Path, name: str, settings: Mapping[str, Any], suffix: str) -> Path:
    """The file of a step: its name, as far as file names allow, and its settings' key."""
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
    return folder / f"{plain}-{key_of({'step': name, **settings})}{suffix}"


def save_step(path: Path, settings: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Write a result; a crash leaves no half file.

    Raises
    ------
    FileProblem
        If it cannot be written.
    """
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in result.items()}
    arrays[SETTINGS] = np.asarray(json.dumps(settings, sort_keys=True))
    write_file(path, lambda file: np.savez(file, **arrays))


def load_step(path: Path, settings: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
    """Read a result back; None if there is no file.

    Raises
    ------
    FileProblem
        If the file is damaged or belongs to other settings.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile) or SETTINGS not in archive.files:
                raise ValueError("not a step")
            found = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        return None
    except (zipfile.BadZipFile, ValueError, EOFError, KeyError) as error:
        raise FileProblem(
            f"'{path}' is damaged, or is not the result of a step: delete it to have the step "
            "done again"
        ) from error
    except OSError as error:
        raise FileProblem(f"'{path}' cannot be read: {error.strerror or error}") from error
    if json.loads(str(found.pop(SETTINGS))) != json.loads(json.dumps(settings)):
        raise FileProblem(
            f"'{path}' was made with other settings: delete it to have the step done again"
        )
    return found
