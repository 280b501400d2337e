"""Readers of the usual files of data sets: IDX, npz, .ts series, folders of pictures.

Nothing is unpickled.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from polytope.errors import FileProblem
from polytope.examples import Examples
from polytope.network.store import BROKEN

#: IDX's codes of numbers (big-endian).
IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
#: Names of the arrays of points and labels in an .npz file.
POINT_KEYS, LABEL_KEYS = ("x", "X"), ("y", "Y")
#: Endings of pictures.
PICTURES = (".png", ".ppm", ".pgm", ".jpg", ".jpeg", ".bmp")
#: Largest value of a pixel of one byte.
LEVELS = 255


def read_idx(path: Path) -> np.ndarray:
    """The array of an IDX file, plain or packed by gzip, in the machine's byte order.

    Raises
    ------
    FileProblem
        If the file is missing, damaged or of another kind.
    """
    content = _read(path)
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise FileProblem(f"'{path}' is no gzip file, or is damaged: get it again") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in IDX_TYPES:
        raise FileProblem(f"'{path}' is no IDX file: it does not begin with IDX's magic number")
    kind, axes = np.dtype(IDX_TYPES[content[2]]), content[3]
    head, body = content[4 : 4 + 4 * axes], content[4 + 4 * axes :]
    shape = tuple(int(n) for n in np.frombuffer(head[: len(head) // 4 * 4], ">u4"))
    if len(shape) != axes or len(body) != kind.itemsize * math.prod(shape):
        raise FileProblem(
            f"'{path}' is a damaged IDX file: its head announces an array of shape {shape} of "
            f"{kind.itemsize}-byte numbers, but {len(body)} bytes follow; get it again"
        )
    return np.frombuffer(body, kind).reshape(shape).astype(kind.newbyteorder("="))


def read_npz(path: Path) -> Examples:
    """Pictures from an .npz file with arrays x and y: bytes are divided by 255.

    Raises
    ------
    FileProblem
        If the file is missing, damaged, or holds something else.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("not an archive")
            names = [
                next((k for k in keys if k in archive), None) for keys in (POINT_KEYS, LABEL_KEYS)
            ]
            if None in names:
                raise FileProblem(
                    f"'{path}' holds {', '.join(archive.files[:8]) or 'nothing'}; expected the "
                    "arrays x and y"
                )
            x, y = (archive[str(name)] for name in names)
    except FileNotFoundError as error:
        raise FileProblem(f"there is no file '{path}': check the path") from error
    except FileProblem:
        raise
    except (*BROKEN, zlib.error) as error:
        raise FileProblem(
            f"'{path}' is no .npz file of plain numbers, or is damaged: get or save it again"
        ) from error
    except OSError as error:
        raise FileProblem(f"'{path}' cannot be read: {error.strerror or error}") from error
    return pictures(x, y, path)


def pictures(x: np.ndarray, y: np.ndarray, path: Path) -> Examples:
    """Pictures as (n, channels, height, width) in float32; bytes are divided by 255.

    Parameters
    ----------
    x : array (n, height, width) or (n, height, width, 1 or 3) or (n, 1 or 3, height, width)
    y : array (n,)

    Raises
    ------
    FileProblem
        If they are not pictures with labels.
    """
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        x = np.moveaxis(x, 3, 1)
    if x.ndim != 4 or x.shape[1] not in (1, 3) or x.dtype not in (np.uint8, np.float32, np.float64):
        raise FileProblem(
            f"'{path}': got points of shape {x.shape} and type {x.dtype}, expected pictures: "
            "bytes (or floats in [0, 1]) of shape (n, height, width) or (n, height, width, 3)"
        )
    if y.shape not in (x.shape[:1], (len(x), 1)) or y.dtype.kind not in "iu" or (y < 0).any():
        raise FileProblem(
            f"'{path}': got labels of shape {y.shape} and type {y.dtype} for {len(x)} pictures, "
            "expected a class from 0 for each"
        )
    scale = np.float32(LEVELS if x.dtype == np.uint8 else 1)
    x = np.ascontiguousarray(x).astype(np.float32) / scale
    if not (np.isfinite(x).all() and (x >= 0).all() and (x <= 1).all()):
        raise FileProblem(f"'{path}': floating pixels must lie in [0, 1]")
    return Examples(x, y.reshape(-1))


def read_series(path: Path, names: Sequence[str] | None = None) -> Examples:
    """Series of different lengths from a .ts file (of timeseriesclassification.com).

    Parameters
    ----------
    path : path
        Its lines after ``@data``: channels separated by ``:``, numbers by commas, then the
        class.
    names : sequence of str, optional
        The classes' names in their order; by default those of the line ``@classLabel``.

    Returns
    -------
    series : Examples
        (n, longest, channels) in float32, with lengths.

    Raises
    ------
    FileProblem
        Naming the line that cannot be read.
    """
    try:
        lines = _read(path).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise FileProblem(f"'{path}' is no .ts file: it is not text") from error
    at = next((i for i, line in enumerate(lines) if line.strip().lower() == "@data"), None)
    if at is None:
        raise FileProblem(f"'{path}' is no .ts file: it has no line @data")
    if names is None:
        heads = [line.split() for line in lines[:at] if line.lower().startswith("@classlabel ")]
        names = heads[0][2:] if heads else []
    series: list[np.ndarray] = []
    labels: list[int] = []
    for number, line in enumerate(lines[at + 1 :], start=at + 2):
        if not line.strip():
            continue
        *channels, name = line.strip().split(":")
        try:
            values = np.array([[float(v) for v in row.split(",")] for row in channels], np.float64)
            if not np.isfinite(values).all() or values.ndim != 2:
                raise ValueError
            if series and values.shape[0] != series[0].shape[1]:
                raise ValueError
            labels.append(list(names).index(name))
        except ValueError as error:
            raise FileProblem(
                f"'{path}', line {number}: expected channels of equally many numbers, the same "
                f"number of channels in each line, and a class of {', '.join(names) or 'none'}"
            ) from error
        series.append(values.T)
    if not series:
        raise FileProblem(f"'{path}' holds no series")
    lengths = np.array([len(s) for s in series])
    x = np.zeros((len(series), int(lengths.max()), series[0].shape[1]), np.float32)
    for row, values in enumerate(series):
        x[row, : len(values)] = values
    return Examples(x, np.array(labels), lengths)


def read_folder(path: Path, size: tuple[int, int], grey: bool = False) -> Examples:
    """Pictures of a folder that has a folder for each class, as GTSRB's.

    Parameters
    ----------
    path : path
        The classes are its folders in the order of their names (as numbers, if they all are).
    size : (height, width)
        Pictures of another size are resized (bilinear).
    grey : bool
        One channel instead of red, green, blue.

    Raises
    ------
    FileProblem
        If there are no pictures, one cannot be read, or Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise FileProblem(
            f"'{path}' holds pictures, which are read by Pillow: pip install pillow"
        ) from error
    if not path.is_dir():
        raise FileProblem(f"there is no folder '{path}': check the path")
    folders = [entry for entry in path.iterdir() if entry.is_dir()]
    numbers = all(entry.name.isdecimal() for entry in folders)
    order: Callable[[Path], tuple[int, str]] = lambda entry: (  # noqa: E731
        int(entry.name) if numbers else 0, entry.name
    )  # fmt: skip
    x: list[np.ndarray] = []
    y: list[int] = []
    for label, folder in enumerate(sorted(folders, key=order)):
        for file in sorted(folder.iterdir()):
            if file.suffix.lower() not in PICTURES:
                continue
            try:
                with Image.open(file) as picture:
                    own = picture.convert("L" if grey else "RGB")
                    if own.size != size[::-1]:
                        own = own.resize(size[::-1], Image.Resampling.BILINEAR)
                    x.append(np.asarray(own))
            except (OSError, ValueError, SyntaxError) as error:
                raise FileProblem(
                    f"'{file}' is no picture that Pillow reads, or damaged"
                ) from error
            y.append(label)
    if not x:
        raise FileProblem(
            f"'{path}' holds no pictures: expected a folder for each class with "
            f"{', '.join(PICTURES)} files"
        )
    return pictures(np.stack(x), np.array(y), path)


def _read(path: Path) -> bytes:
    """The bytes of a file."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise FileProblem(f"there is no file '{path}': check the path") from error
    except OSError as error:
        raise FileProblem(f"'{path}' cannot be read: {error.strerror or error}") from error
