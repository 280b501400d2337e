"""`Run`: what an item works with: its scale, its data, and steps that are done only once."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from torch import nn

from polytope.errors import FileProblem
from polytope.model import Network, compile
from polytope.named_datasets import Dataset, load_dataset
from polytope.reproduce.store import key_of, load_step, save_step, step_path
from polytope.training.evaluation import evaluate
from polytope.training.loop import Loss
from polytope.training.recipe import Recipe
from polytope.training.trainer import Trained, train

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Scale = Literal["smoke", "small", "full"]
Value = TypeVar("Value")
#: Called as ``progress(step, done, total)``; total 0 where it is not known.
Progress = Callable[[str, int, int], None]


def silent(step: str, done: int, total: int) -> None:
    """Show nothing."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What an item found.

    Attributes
    ----------
    table : pandas.DataFrame
        Published beside measured.
    figure : matplotlib.figure.Figure
    shortened : tuple of str
        How the run differs from the paper's settings.
    findings : tuple of str
        What the numbers say.
    """

    table: pd.DataFrame
    figure: Figure
    shortened: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained network.

    Attributes
    ----------
    name : str
    key : str
        Of all that it was trained with: part of the settings of what is measured on it.
    model : torch.nn.Module
    net : Network
        The same in float64.
    error : float
        Share of wrong decisions on the test data.
    seconds : float
        Time of the training.
    """

    name: str
    key: str
    model: nn.Module
    net: Network
    error: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Run:
    """An item at work.

    Attributes
    ----------
    item : str
    scale : {"smoke", "small", "full"}
    out : Path
        Steps are kept in its folder ``item/steps``, trained networks in ``models``, where other
        items find them too.
    data : Path, optional
        The folder of the data sets; $POLYTOPE_DATA by default.
    progress : callable
    """

    item: str
    scale: Scale
    out: Path
    data: Path | None = None
    progress: Progress = silent
    _datasets: dict[str, Dataset] = field(default_factory=dict, init=False, repr=False)

    @property
    def folder(self) -> Path:
        """Where the item's own files go."""
        return self.out / self.item

    def pick(self, smoke: Value, small: Value, full: Value) -> Value:
        """The value of this scale."""
        return {"smoke": smoke, "small": small, "full": full}[self.scale]

    def dataset(self, name: str) -> Dataset:
        """A data set; in smoke runs the digits that come with polytope take its place.

        Raises
        ------
        FileProblem
            If its files are missing: saying which go where.
        """
        wanted = "digits" if self.scale == "smoke" else name
        if wanted not in self._datasets:
            try:
                self._datasets[wanted] = load_dataset(wanted, self.data)
            except FileProblem as error:
                raise FileProblem(f"{self.item}: {error}; --scale smoke needs no files") from error
        return self._datasets[wanted]

    def step(
        self, name: str, settings: Mapping[str, Any], work: Callable[[], Mapping[str, Any]]
    ) -> dict[str, np.ndarray]:
        """The result of a step, read back if it was finished before with the same settings.

        Parameters
        ----------
        name : str
            What is done, for people.
        settings : mapping
            All that the result depends on, as JSON values.
        work : callable
            Gives arrays or numbers by name.

        Returns
        -------
        dict of str to array
            The result, and ``seconds``, the time that it took.

        Raises
        ------
        FileProblem
            If the step's file is damaged or cannot be written.
        """
        return self._stored(name, settings, work, partial(self.progress, name, 0, 0))

    def _stored(
        self,
        name: str,
        settings: Mapping[str, Any],
        work: Callable[[], Mapping[str, Any]],
        announce: Callable[[], None],
    ) -> dict[str, np.ndarray]:
        """`step`, which says that it works in its own way."""
        path = step_path(self.made(self.folder / "steps"), name, settings, ".npz")
        found = load_step(path, settings)
        if found is None:
            announce()
            begun = time.perf_counter()
            found = {key: np.asarray(value) for key, value in work().items()}
            found.setdefault("seconds", np.asarray(time.perf_counter() - begun))
            save_step(path, settings, found)
        return found

    def in_parts(
        self,
        name: str,
        settings: Mapping[str, Any],
        count: int,
        size: int,
        work: Callable[[slice], Mapping[str, Any]],
    ) -> dict[str, np.ndarray]:
        """`step` for `count` rows, `size` at a time, each part a step of its own.

        Returns
        -------
        dict of str to array
            The parts' arrays one after another, and ``seconds``, their sum.
        """
        parts = []
        for start in range(0, count, size):
            rows = slice(start, min(start + size, count))
            parts.append(
                self._stored(
                    f"{name} {rows.start} to {rows.stop - 1}", settings, partial(work, rows),
                    partial(self.progress, name, start, count),
                )
            )  # fmt: skip
        joined = {
            key: np.concatenate([np.atleast_1d(part[key]) for part in parts]) for key in parts[0]
        }
        return joined | {"seconds": joined["seconds"].sum()}

    def fit(
        self,
        name: str,
        model: nn.Module,
        data: Dataset,
        recipe: Recipe,
        losses: Sequence[Loss] = (),
        *,
        validation: int = 0,
    ) -> Fitted:
        """Train a network, or take it from its checkpoint.

        Parameters
        ----------
        name : str
        model : torch.nn.Module
            As it begins; changed in place.
        data : Dataset
        recipe : Recipe
        losses : sequence of Loss
            Made for `model`.
        validation : int
            Examples that are set aside to choose an epoch by, as ``recipe.choose`` says.

        Raises
        ------
        KeyboardInterrupt
            If Ctrl-C came before the end; the checkpoint keeps what was done.
        """
        found, key = self.trained(name, model, data, recipe, losses, validation=validation)
        net = compile(deepcopy(model).double(), data.shape)
        return Fitted(name, key, model, net, evaluate(model, data.test).error, found.seconds)

    def trained(
        self,
        name: str,
        model: nn.Module,
        data: Dataset,
        recipe: Recipe,
        losses: Sequence[Loss] = (),
        *,
        validation: int = 0,
    ) -> tuple[Trained, str]:
        """`fit` without compiling, for modules that have no one input shape: and the key."""
        made_by = {
            "data": [data.name, len(data.train)], "validation": validation,
            "recipe": recipe.as_dict(), "network": str(model),
            "losses": [re.sub(" at 0x[0-9a-fA-F]+", "", repr(loss)) for loss in losses],
        }  # fmt: skip
        path = step_path(self.made(self.out / "models"), name, made_by, ".checkpoint")
        examples, rest = data.train.split(validation) if validation else (data.train, None)
        found = train(
            model, examples, recipe, losses=losses, validation=rest, checkpoint=path,
            progress=lambda done, total: self.progress(f"train {name}", done, total),
        )  # fmt: skip
        if not found.finished:
            raise KeyboardInterrupt
        return found, key_of(made_by)

    @staticmethod
    def made(folder: Path) -> Path:
        """A folder, made if it is missing.

        Raises
        ------
        FileProblem
            If it cannot be made.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileProblem(
                f"cannot make the folder '{folder}': {error.strerror or error}; give another --out"
            ) from error
        return folder
