"""`load_dataset`: the papers' data by name, from a folder of the user; digits come with polytope.

Nothing is downloaded. A data set NAME lies in a folder of that name inside $POLYTOPE_DATA (or
``data=``); the layouts that are looked for are in `LAYOUTS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from polytope.data_files import LEVELS, read_folder, read_idx, read_npz, read_series
from polytope.errors import FileProblem, InputError
from polytope.examples import Examples

#: The environment variable that names the folder of the data.
VARIABLE = "POLYTOPE_DATA"
#: Largest pixel of scikit-learn's digits.
DIGIT_LEVELS = 16
#: Height and width that the pictures of these data sets are brought to.
SIDE = (32, 32)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled data, divided as it was published.

    Attributes
    ----------
    name : str
    train, test : Examples
        Pictures (n, channels, height, width) or series (n, longest, channels), float32.
    classes : int
    """

    name: str
    train: Examples
    test: Examples
    classes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one picture; of the longest series for training."""
        return self.train.shape


def load_dataset(name: str, data: str | os.PathLike[str] | None = None) -> Dataset:
    """A data set by its name.

    Parameters
    ----------
    name : str
        "digits", which comes with polytope, or "mnist", "fashion_mnist", "gtsrb", "cifar10",
        "japanese_vowels", read from files.
    data : path, optional
        The folder that holds a folder NAME; by default that of $POLYTOPE_DATA.

    Raises
    ------
    InputError
        For an unknown name.
    FileProblem
        Where the files are missing, saying which go where, and if one cannot be read.
    """
    if name == "digits":
        return _digits()
    if name not in LAYOUTS:
        raise InputError(
            f"data: there is no data set {name!r}; expected one of digits, {', '.join(LAYOUTS)}"
        )
    root = data if data is not None else os.environ.get(VARIABLE)
    wanted = " or ".join(f"({', '.join(layout.files)})" for layout in LAYOUTS[name])
    if not root:
        raise FileProblem(
            f"the data set {name!r} is read from files: set {VARIABLE} (or --data) to a folder, "
            f"and put into its folder '{name}' the files {wanted}"
        )
    folder = Path(root) / name
    for layout in LAYOUTS[name]:
        found = layout.find(folder)
        if found is not None:
            train, test = layout.read(found)
            return Dataset(name, train, test, max(train.classes, test.classes))
    raise FileProblem(
        f"the data set {name!r} is not in '{folder}': put there the files {wanted}, or set "
        f"{VARIABLE} (or --data) to the folder that holds '{name}'"
    )


@dataclass(frozen=True)
class Layout:
    """Files or folders of a data set, and how they are read.

    Attributes
    ----------
    files : tuple of str
        Names in the data set's folder; an IDX file may end in ``.gz`` as well.
    read : callable
        From their paths to the examples for training and test.
    """

    files: tuple[str, ...]
    read: Callable[[Mapping[str, Path]], tuple[Examples, Examples]]

    def find(self, folder: Path) -> dict[str, Path] | None:
        """The paths by name, if all are there."""
        paths = {}
        for name in self.files:
            plain = folder / name.rstrip("/")
            there = [p for p in (plain, plain.with_name(plain.name + ".gz")) if p.exists()]
            if not there:
                return None
            paths[name] = there[0]
        return paths


def _npz(paths: Mapping[str, Path]) -> tuple[Examples, Examples]:
    return read_npz(paths["train.npz"]), read_npz(paths["test.npz"])


def _idx(paths: Mapping[str, Path]) -> tuple[Examples, Examples]:
    train, test = (_idx_pair(paths, part) for part in ("train", "t10k"))
    return train, test


def _idx_pair(paths: Mapping[str, Path], part: str) -> Examples:
    images, labels = paths[f"{part}-images-idx3-ubyte"], paths[f"{part}-labels-idx1-ubyte"]
    x, y = read_idx(images), read_idx(labels)
    if x.ndim != 3 or x.dtype != np.uint8 or y.shape != x.shape[:1]:
        raise FileProblem(
            f"'{images}' and '{labels}' hold arrays of shapes {x.shape} and {y.shape}, expected "
            "pictures of bytes (n, height, width) and a label for each"
        )
    return Examples(x[:, None].astype(np.float32) / np.float32(LEVELS), y)


def _folders(paths: Mapping[str, Path]) -> tuple[Examples, Examples]:
    return read_folder(paths["train/"], SIDE), read_folder(paths["test/"], SIDE)


def _vowels(paths: Mapping[str, Path]) -> tuple[Examples, Examples]:
    train, test = (read_series(paths[name]) for name in VOWELS)
    return train, test


def _digits() -> Dataset:
    """The 1,797 digits that come with polytope, divided as `polytope.demo_training` does.

    Of the *Optical Recognition of Handwritten Digits* data of Alpaydin and Kaynak (UCI), as
    scikit-learn ships it (CC BY 4.0): 8 x 8 pixels from 0 to 16, here divided by 16.
    """
    file = files("polytope") / "data" / "digits.npz"
    with as_file(file) as path, np.load(path, allow_pickle=False) as archive:
        train, test = (
            Examples(
                archive[f"x_{part}"].reshape(-1, 1, 8, 8).astype(np.float32) / DIGIT_LEVELS,
                archive[f"y_{part}"],
            )
            for part in ("train", "test")
        )
    return Dataset("digits", train, test, 10)


VOWELS = ("JapaneseVowels_TRAIN.ts", "JapaneseVowels_TEST.ts")
NPZ = Layout(("train.npz", "test.npz"), _npz)
IDX = Layout(
    (
        "train-images-idx3-ubyte", "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte",
    ),
    _idx,
)  # fmt: skip
FOLDERS = Layout(("train/", "test/"), _folders)
#: The layouts of each data set, the first that is there is read.
LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "mnist": (NPZ, IDX),
    "fashion_mnist": (NPZ, IDX),
    "gtsrb": (NPZ, FOLDERS),
    "cifar10": (NPZ, FOLDERS),
    "japanese_vowels": (Layout(VOWELS, _vowels),),
}
