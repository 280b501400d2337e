"""Data: the digits and the network shipped with the package, and points read from files."""

from __future__ import annotations

import os
import zlib
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pandas as pd

from polytope.errors import FileProblem, InputError
from polytope.model import Network, load
from polytope.network.store import BROKEN

#: Names under which an .npz file may hold the points and the labels.
POINT_KEYS = ("X", "x", "points", "data")
LABEL_KEYS = ("y", "Y", "labels", "label")
#: Largest pixel of scikit-learn's digits.
DIGIT_LEVELS = 16


def digits() -> tuple[np.ndarray, np.ndarray]:
    """One hundred real test digits, ten of each class, that no training has seen.

    Returns
    -------
    X : float64 array (100, 64)
        8 x 8 pixels, row by row, divided by 16: in [0, 1].
    y : int64 array (100,)
        Classes 0 to 9.

    Notes
    -----
    From the test part of the *Optical Recognition of Handwritten Digits* data of Alpaydin
    and Kaynak (UCI), as scikit-learn ships it (CC BY 4.0).
    """
    file = files("polytope") / "data" / "digits_test.npz"
    with as_file(file) as path, np.load(path, allow_pickle=False) as archive:
        return archive["x"].astype(np.float64) / DIGIT_LEVELS, archive["y"].astype(np.int64)


def digits_network() -> Network:
    """The 64-32-32-10 ReLU network that `polytope.demo_training` trained on other digits."""
    with as_file(files("polytope") / "data" / "digits_network.npz") as path:
        return load(path)


def load_points(
    path: str | os.PathLike[str], scale: float | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Points, and labels where there are any, from a file.

    Parameters
    ----------
    path : path
        ``.npz`` with an array X (or x, points, data) and, at will, y (or Y, labels, label);
        ``.npy`` with the points; ``.csv`` with one point a row, where a column named y,
        label or labels is taken for the labels.
    scale : float, optional
        What the points are divided by. Pixels stored as whole numbers are refused without
        it: whether the network was trained on x or x / 255 is not for us to guess.

    Returns
    -------
    X : float64 array (n, ...)
    y : int64 array (n,) or None

    Raises
    ------
    FileProblem
        If the file is missing, damaged, of another kind, or holds no points.
    InputError
        For points that are not numbers, whole-number points without `scale`, a scale that
        is not positive, or labels that do not fit the points.
    """
    source = Path(path)
    if scale is not None and not 0 < scale < np.inf:
        raise InputError(f"scale: got {scale:g}, expected a positive number to divide the data by")
    readers = {".npz": _read_npz, ".npy": _read_npy, ".csv": _read_csv}
    if source.suffix.lower() not in readers:
        raise FileProblem(f"'{source}': expected points in an .npz, .npy or .csv file")
    try:
        points, labels = readers[source.suffix.lower()](source)
    except FileNotFoundError as error:
        raise FileProblem(f"there is no file '{source}': check the path") from error
    except FileProblem:
        raise
    except (*BROKEN, zlib.error) as error:
        kind = source.suffix.lower()
        raise FileProblem(
            f"'{source}' cannot be read as an array of numbers: it is no {kind} file, is "
            "damaged, or holds Python objects; save plain numbers again"
        ) from error
    except OSError as error:
        raise FileProblem(f"'{source}' cannot be read: {error.strerror or error}") from error
    return _as_points(points, scale, source), _as_labels(labels, points, source)


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The arrays of an .npz file."""
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("not an archive")
        point_key = next((key for key in POINT_KEYS if key in archive.files), None)
        label_key = next((key for key in LABEL_KEYS if key in archive.files), None)
        if point_key is None:
            found = ", ".join(archive.files[:8]) or "nothing"
            raise FileProblem(
                f"'{path}' holds no points: expected an array named {', '.join(POINT_KEYS)}; "
                f"found {found}"
            )
        return archive[point_key], None if label_key is None else archive[label_key]


def _read_npy(path: Path) -> tuple[np.ndarray, None]:
    """The array of an .npy file."""
    found = np.load(path, allow_pickle=False)
    if not isinstance(found, np.ndarray):
        raise ValueError("not an array")
    return found, None


def _read_csv(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Points and labels of a .csv file, with or without a line of names."""
    table = pd.read_csv(path, header=None, dtype=str, skip_blank_lines=True)
    names = table.iloc[0].astype(str).str.strip().tolist()
    if all(pd.to_numeric(table.iloc[0], errors="coerce").notna()):
        return table.to_numpy().astype(np.float64), None
    body = table.iloc[1:]
    at = [i for i, name in enumerate(names) if name in LABEL_KEYS]
    points = body.drop(columns=at[:1]).to_numpy().astype(np.float64)
    return points, body[at[0]].to_numpy().astype(np.float64) if at else None


def _as_points(points: np.ndarray, scale: float | None, path: Path) -> np.ndarray:
    """Points in float64, divided by `scale`."""
    if points.dtype.kind not in "fiu":
        raise InputError(f"'{path}': the points are {points.dtype}, expected numbers")
    if points.ndim < 2:
        raise InputError(
            f"'{path}': the points have shape {points.shape}, expected one point a row: (n, ...)"
        )
    if points.dtype.kind in "iu" and scale is None:
        high = int(points.max()) if points.size else 0
        raise InputError(
            f"'{path}': the points are whole numbers ({points.dtype}, up to {high}); say what "
            "the network's inputs were divided by, --scale 255 for pixels (or --scale 1)"
        )
    return points.astype(np.float64) / (1.0 if scale is None else scale)


def _as_labels(labels: np.ndarray | None, points: np.ndarray, path: Path) -> np.ndarray | None:
    """One whole number for each point."""
    if labels is None:
        return None
    if labels.dtype.kind not in "fiu" or (labels != np.floor(labels)).any():
        raise InputError(f"'{path}': the labels must be whole numbers, the index of the class")
    if labels.shape not in ((len(points),), (len(points), 1)):
        raise InputError(
            f"'{path}': got labels of shape {labels.shape} for {len(points)} points, expected "
            "one for each"
        )
    return labels.reshape(-1).astype(np.int64)
