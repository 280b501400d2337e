"""Checkpoints: the state of a training in a file, from which it goes on bit for bit.

The file is a line of magic, the SHA-256 of what follows, and torch's own format (which does
not notice a damaged weight by itself). It is read with ``weights_only=True``: tensors and plain
values, never code. It is written beside the old one and moved there in one step.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from polytope.errors import FileProblem
from polytope.network.store import BROKEN
from polytope.tables import write_file

MAGIC = b"polytope training 1\n"
DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True, eq=False)
class State:
    """A training between two steps.

    Attributes
    ----------
    epoch, step : int
        The epoch at work, from 1, and how many of its steps are done.
    seconds : float
        Time spent so far.
    model, optimizer : dict
        Their ``state_dict`` (copied).
    sums : dict of str to float
        Each loss summed over the examples of this epoch so far.
    history : dict of str to list of float
        One number for each epoch done.
    best, best_epoch, best_score : dict or None, int, float
        The weights chosen so far where the best epoch counts.
    """

    epoch: int
    step: int
    seconds: float
    model: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    sums: dict[str, float] = field(default_factory=dict)
    history: dict[str, list[float]] = field(default_factory=dict)
    best: dict[str, torch.Tensor] | None = None
    best_epoch: int = 0
    best_score: float = float("inf")


def save_state(path: str | os.PathLike[str], state: State, made_by: Mapping[str, Any]) -> None:
    """Write a checkpoint; a crash leaves the old file or the new one.

    Parameters
    ----------
    path : path
    state : State
    made_by : mapping
        What the training is (settings, data, shapes), as JSON values: `load_state` compares.

    Raises
    ------
    FileProblem
        If the file cannot be written.
    """
    held = {entry.name: getattr(state, entry.name) for entry in fields(state)}
    stream = io.BytesIO()
    torch.save({"made_by": json.dumps(made_by, sort_keys=True), **held}, stream)
    payload = stream.getvalue()
    content = MAGIC + hashlib.sha256(payload).digest() + payload
    write_file(Path(path), lambda file: file.write_bytes(content))


def load_state(path: str | os.PathLike[str], made_by: Mapping[str, Any]) -> State | None:
    """Read a checkpoint of this training; None if there is no file.

    Raises
    ------
    FileProblem
        If the file is damaged, of another kind, or of another training: naming the setting
        that differs.
    """
    target = Path(path)
    try:
        content = target.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FileProblem(f"'{target}' cannot be read: {error.strerror or error}") from error
    payload = content[len(MAGIC) + DIGEST :]
    digest = content[len(MAGIC) : len(MAGIC) + DIGEST]
    if not content.startswith(MAGIC):
        raise FileProblem(
            f"'{target}' is no checkpoint of a training; give another file name, or delete it"
        )
    if hashlib.sha256(payload).digest() != digest:
        raise FileProblem(
            f"'{target}' is a damaged checkpoint: its content does not fit its check sum; delete "
            "it to train from the start"
        )
    try:
        held = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        found = json.loads(held.pop("made_by"))
        state = State(**held)
    except (*BROKEN, pickle.UnpicklingError) as error:
        raise FileProblem(
            f"'{target}' is a checkpoint that this polytope cannot read; delete it to train from "
            "the start"
        ) from error
    _require_same(target, found, json.loads(json.dumps(made_by)))
    return state


def _require_same(target: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse the checkpoint of another training."""
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise FileProblem(
                f"'{target}' is the checkpoint of another training: its {name} was "
                f"{_short(found.get(name))}, now {_short(wanted.get(name))}; give another file "
                "name, or delete it to train from the start"
            )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "..."
