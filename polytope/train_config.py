"""The file of ``polytope train``: TOML, every key checked before anything is read or trained."""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

import polytope.training as training
from polytope.datasets import load_points
from polytope.errors import FileProblem, InputError
from polytope.examples import Examples
from polytope.named_datasets import Dataset, load_dataset
from polytope.training.loss import TrainingLoss
from polytope.training.networks import SLOPE, WIDTHS, convolutional, fully_connected
from polytope.training.recipe import Recipe
from polytope.training.recurrent import EachLength, ScoRNN
from polytope.training.schedules import Ramp

Section = TypeVar("Section")


def _losses() -> dict[str, Callable[..., TrainingLoss]]:
    """The losses of `polytope.training` by name, and MMR as it was published."""
    public = [getattr(training, name) for name in training.__all__]
    classes = [kind for kind in public if isinstance(kind, type) and is_dataclass(kind)]
    losses = [kind for kind in classes if issubclass(kind, TrainingLoss)]
    made = {kind.__name__: kind for kind in losses if not inspect.isabstract(kind)}
    return {**made, "kMMR": training.MMR.published}


#: What a ``kind`` of [[loss]] makes.
LOSSES = _losses()
#: Kinds of [network] beside the named sizes.
FULL, CONVOLUTIONAL, RECURRENT = "fully_connected", "convolutional", "scornn"
KINDS = (FULL, CONVOLUTIONAL, RECURRENT, "cnn", *WIDTHS)
#: Parameters of a loss that the file does not give.
GIVEN = ("model", "input_shape")


@dataclass(frozen=True)
class DataSettings:
    """[data]: a data set by name, or two files of points with labels.

    Attributes
    ----------
    name : str, optional
        See `load_dataset`.
    train, test : str, optional
        Files as for `load_points`, relative to the configuration's folder.
    scale : float, optional
        What the points of these files are divided by.
    validation : int
        Examples for training that are set aside, drawn by `seed`.
    seed : int
    """

    name: str | None = None
    train: str | None = None
    test: str | None = None
    scale: float | None = None
    validation: int = 0
    seed: int = 0

    def read(self, folder: Path, data: str | None) -> tuple[Dataset, Examples | None]:
        """The data, and what is set aside for validation.

        Raises
        ------
        FileProblem, InputError
        """
        own = (self.train, self.test)
        if (self.name is None) == (own == (None, None)) or own.count(None) == 1:
            raise InputError(
                "[data]: give either name (such as 'digits'), or the files train and test"
            )
        if self.name is not None:
            if self.scale is not None:
                raise InputError(
                    "[data]: scale is for your own files; a named data set has its own"
                )
            found = load_dataset(self.name, data)
        else:
            parts = [_own(folder / str(file), self.scale) for file in own]
            if parts[0].shape != parts[1].shape:
                raise InputError(
                    f"[data]: the points of train have shape {parts[0].shape}, those of test "
                    f"{parts[1].shape}; expected the same"
                )
            classes = max(part.classes for part in parts)
            found = Dataset("own", parts[0], parts[1], classes)
        if self.validation == 0:
            return found, None
        train, validation = found.train.split(self.validation, self.seed)
        return Dataset(found.name, train, found.test, found.classes), validation


@dataclass(frozen=True)
class NetworkSettings:
    """[network]: a kind, and what it needs (see `polytope.training.networks`).

    Attributes
    ----------
    kind : str
        "fully_connected" with `widths`; "convolutional" with `channels` and `widths`; "cnn",
        MMR's; a named size (fc1, fc10, roll, toy, recurjac); "scornn" with `units`.
    start, activation, slope, normalise
        As in `fully_connected`.
    precision : {"float32", "float64"}
    """

    kind: str
    widths: list[int] | None = None
    channels: list[int] | None = None
    units: int | None = None
    activation: str | None = None
    slope: float | None = None
    start: str | None = None
    normalise: list[float] | None = None
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(
                f"[network]: kind: got {self.kind!r}, expected one of {', '.join(KINDS)}"
            )
        needs = {FULL: {"widths"}, CONVOLUTIONAL: {"widths", "channels"}, RECURRENT: {"units"}}
        own = needs.get(self.kind, set())
        for name in ("widths", "channels", "units"):
            if name in own and getattr(self, name) is None:
                raise InputError(f"[network]: {self.kind!r} needs {name}")
            if name not in own and getattr(self, name) is not None:
                raise InputError(f"[network]: {self.kind!r} takes no {name}")
        if self.kind == RECURRENT:
            for name in ("activation", "start", "normalise"):
                if getattr(self, name) is not None:
                    raise InputError(f"[network]: {RECURRENT!r} takes no {name}")
        if self.slope is not None and self.activation != "leaky_relu" and self.kind != RECURRENT:
            raise InputError("[network]: slope is that of activation = 'leaky_relu' below zero")
        if self.normalise is not None and len(self.normalise) != 2:
            raise InputError("[network]: normalise: expected [mean, deviation]")
        if self.precision not in ("float32", "float64"):
            raise InputError(
                f"[network]: precision: got {self.precision!r}, expected 'float32' or 'float64'"
            )

    def build(self, data: Dataset, seed: int) -> nn.Module:
        """The untrained network, drawn from a seed; torch's own random state is left as it was."""
        if (data.train.lengths is not None) != (self.kind == RECURRENT):
            raise InputError(
                f"[network]: kind {self.kind!r} does not fit the data {data.name!r}: "
                f"{RECURRENT!r} is for series, the other kinds are for points of one shape"
            )
        slope = SLOPE if self.slope is None else self.slope
        options: dict[str, Any] = {
            "activation": self.activation or "relu",
            "slope": slope,
            "start": self.start or "torch",
            "normalise": None if self.normalise is None else tuple(self.normalise),
        }
        model: nn.Module
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            if self.kind == RECURRENT:
                model = ScoRNN(data.shape[1], data.classes, self.units or 0, slope=slope)
            elif self.kind == "cnn":
                model = convolutional(data.shape, data.classes, **options)
            elif self.kind == CONVOLUTIONAL:
                model = convolutional(
                    data.shape, data.classes, self.channels or [], self.widths or [], **options
                )
            else:
                widths = WIDTHS.get(self.kind, self.widths)
                model = fully_connected(data.shape, widths or [], data.classes, **options)
        return model.to(getattr(torch, self.precision))


@dataclass(frozen=True)
class LossSettings:
    """One [[loss]]: its kind, and what it is made with."""

    kind: str
    settings: Mapping[str, Any]

    def build(self, model: nn.Module, data: Dataset, epochs: int) -> TrainingLoss:
        """The loss of a module.

        Raises
        ------
        InputError, UnsupportedOperation, SmoothActivation
            As the loss does.
        """
        settings = dict(self.settings)
        make = LOSSES[self.kind]
        if "epochs" in inspect.signature(make).parameters:
            settings.setdefault("epochs", epochs)
        try:
            if data.train.lengths is None:
                return make(model, data.shape, **settings)
            if isinstance(make, type):
                return EachLength(model, make, **settings)
        except TypeError as error:
            raise InputError(f"[[loss]] {self.kind}: {error}") from error
        raise InputError(f"[[loss]] {self.kind}: is for points of one shape; use MMR for series")


@dataclass(frozen=True)
class TrainConfig:
    """A configuration that has been read and checked.

    Attributes
    ----------
    folder : Path
        Of the file: its own paths are relative to it.
    data, network, training, losses
        The sections.
    """

    folder: Path
    data: DataSettings
    network: NetworkSettings
    training: Recipe
    losses: tuple[LossSettings, ...]


def read_config(path: Path) -> TrainConfig:
    """Read and check a configuration.

    Raises
    ------
    FileProblem
        If the file is missing or no TOML, naming the place.
    InputError
        For a section or key that is unknown, missing or unusable.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileProblem(f"there is no file '{path}': check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FileProblem(f"'{path}' is no TOML file: {error}") from error
    except OSError as error:
        raise FileProblem(f"'{path}' cannot be read: {error.strerror or error}") from error
    known = ("data", "network", "training", "loss")
    _require_known(content, known, f"'{path}'", "section")
    for name in known[:3]:
        if not isinstance(content.get(name), dict):
            raise InputError(
                f"'{path}': the section [{name}] is missing; see polytope train --help"
            )
    losses = content.get("loss", [])
    if not isinstance(losses, list) or not all(isinstance(entry, dict) for entry in losses):
        raise InputError(f"'{path}': a loss is a section of its own: [[loss]], with two brackets")
    return TrainConfig(
        path.parent,
        _section(DataSettings, content["data"], "[data]"),
        _section(NetworkSettings, content["network"], "[network]"),
        _section(Recipe, content["training"], "[training]"),
        tuple(_loss(entry) for entry in losses),
    )


def _section(kind: type[Section], table: Mapping[str, Any], name: str) -> Section:
    """A section as its dataclass.

    Raises
    ------
    InputError
        For unknown, missing and unusable keys.
    """
    own = {field.name: field for field in fields(kind) if field.init}  # type: ignore[arg-type]
    _require_known(table, tuple(own), name, "key")
    for key, field in own.items():
        if field.default is MISSING and key not in table:
            raise InputError(f"{name}: {key} is missing")
        if key in table and not _fits(table[key], str(field.type)):
            raise InputError(
                f"{name}: {key}: got {table[key]!r}, expected {_in_words(str(field.type))}"
            )
    return kind(**table)


def _loss(table: Mapping[str, Any]) -> LossSettings:
    """One [[loss]].

    Raises
    ------
    InputError
        For an unknown kind, and keys that its loss does not know.
    """
    kind = table.get("kind")
    if kind not in LOSSES:
        raise InputError(f"[[loss]]: kind: got {kind!r}, expected one of {', '.join(LOSSES)}")
    make = LOSSES[str(kind)]
    parameters = inspect.signature(make).parameters
    names = {name for name, entry in parameters.items() if entry.kind is not entry.VAR_KEYWORD}
    if len(names) < len(parameters):  # it hands the others on to its class
        names |= set(inspect.signature(make.__self__).parameters)  # type: ignore[attr-defined]
    known = tuple(name for name in names if name not in GIVEN)
    _require_known(table, ("kind", *sorted(known)), f"[[loss]] {kind}", "key")
    for name, entry in parameters.items():
        needed = entry.default is entry.empty and entry.kind is not entry.VAR_KEYWORD
        if needed and name not in (*GIVEN, *table):
            raise InputError(f"[[loss]] {kind}: {name} is missing")
    settings = {key: _value(value, str(kind), key) for key, value in table.items() if key != "kind"}
    return LossSettings(str(kind), settings)


def _value(value: object, kind: str, key: str) -> object:
    """A setting of a loss: tables with start, end and epochs are ramps."""
    if not isinstance(value, dict):
        return value
    if set(value) != {"start", "end", "epochs"}:
        raise InputError(
            f"[[loss]] {kind}: {key}: got {value!r}, expected a value, or a ramp "
            "{start = 0, end = 2, epochs = 10}"
        )
    return Ramp(**value)


def _require_known(
    table: Mapping[str, object], known: tuple[str, ...], where: str, what: str
) -> None:
    unknown = [key for key in table if key not in known]
    if unknown:
        raise InputError(
            f"{where}: unknown {what} {', '.join(map(repr, unknown))}; known are {', '.join(known)}"
        )


#: Annotations of the sections, what TOML may give for them, and their words.
TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "a text"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "list[int]": ((list,), "whole numbers as in [300, 300]"),
    "list[float]": ((list,), "numbers as in [0.13, 0.31]"),
}


def _type(annotation: str) -> tuple[tuple[type, ...], str]:
    return TYPES.get(annotation.removesuffix(" | None"), TYPES["str"])


def _fits(value: object, annotation: str) -> bool:
    """Whether a TOML value may stand for a field."""
    allowed, _ = _type(annotation)
    if isinstance(value, list):
        inner = TYPES[annotation.removesuffix(" | None")[5:-1]][0] if list in allowed else ()
        return all(isinstance(entry, inner) and not isinstance(entry, bool) for entry in value)
    return isinstance(value, allowed) and not isinstance(value, bool)


def _in_words(annotation: str) -> str:
    return _type(annotation)[1]


def _own(path: Path, scale: float | None) -> Examples:
    """Points with labels of a user's file."""
    x, y = load_points(path, scale)
    if y is None:
        raise FileProblem(f"'{path}' holds no labels: training needs them in an array y")
    return Examples(x.astype("float32"), y)
