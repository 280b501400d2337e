"""The file of a certificate, read without pickle, and the verdict on it."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from polytope.errors import FileProblem

VERSION = 2
KIND = "polytope certificate"
#: Bytes that a certificate may unpack to, and that its header may take.
UNPACKED, HEADER = 2**28, 2**20
PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Certificate(Protocol):
    """What can give the content of a certificate's file."""

    def to_bytes(self) -> bytes:
        """The content."""


@dataclass(frozen=True, eq=False)
class Checked:
    """The checker's verdict.

    Attributes
    ----------
    valid : bool
    claim : str
        "robust": of a point.  "safe": of a property; then `lower` and `upper` mean nothing.
    lower : float
        Proved: no adversarial point of the box is nearer; inf if the radius holds the whole box;
        0 if the proof was rejected.
    upper : float
        Distance of the witness, rounded up; inf without one that holds.
    reason : str
        The step that failed; empty if valid.
    leaves, seconds : int, float
        How much was checked, and how long it took.
    mode : str
        "rational", or "interval": floats with bounds on their rounding.
    header : mapping
        What the claim is about: norm, label and target of a "robust" one.  Empty if it was not
        read.
    x, low, high : float64 (d,) or None
        The point and the box of a "robust" claim, to be compared with one's own.
    """

    valid: bool
    claim: str
    lower: float
    upper: float
    reason: str
    leaves: int
    seconds: float
    mode: str
    header: Mapping[str, object] = field(repr=False)
    x: np.ndarray | None = field(default=None, repr=False)
    low: np.ndarray | None = field(default=None, repr=False)
    high: np.ndarray | None = field(default=None, repr=False)


class Rejected(Exception):
    """A step of a proof that does not hold: the message says which."""


class Fields:
    """The arrays of a certificate, checked as they are taken."""

    def __init__(self, header: dict[str, object], arrays: Mapping[str, np.ndarray]) -> None:
        self.header, self._arrays = header, arrays

    def array(self, name: str, dtype: type, shape: tuple[int, ...] | None) -> np.ndarray:
        """An array of finite numbers (boxes may be infinite) of this kind and shape."""
        found = self._arrays.get(name)
        if found is None or found.dtype != dtype or (shape is not None and found.shape != shape):
            raise Rejected(f"the array {name} is missing, or of another kind or shape")
        if found.dtype.kind == "f" and np.isnan(found).any():
            raise Rejected(f"the array {name} has entries that are not numbers")
        if found.dtype.kind == "f" and name not in ("low", "high") and np.isinf(found).any():
            raise Rejected(f"the array {name} has infinite entries")
        return found


def read(path: str | os.PathLike[str] | io.BytesIO) -> Fields:
    """Read a certificate's file: a zip of a JSON header and arrays, without pickle."""
    arrays: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as file:
            items, left = file.infolist(), UNPACKED
            if len({item.filename for item in items}) < len(items):
                raise Rejected("the certificate has two entries of one name")
            header = json.loads(_content(file, "header.json", HEADER))
            for item in items:
                if item.filename.endswith(".npy"):
                    content = _content(file, item.filename, left)
                    left -= len(content)
                    arrays[item.filename[:-4]] = np.lib.format.read_array(
                        io.BytesIO(content), allow_pickle=False
                    )
    except FileNotFoundError as error:
        raise FileProblem(f"there is no file '{path}': check the path") from error
    except Rejected:
        raise
    except (
        Exception
    ) as error:  # what zipfile, json and numpy raise for damaged files is no contract
        raise Rejected(f"the file is no certificate, or damaged ({error})") from error
    if not isinstance(header, dict) or header.get("kind") != KIND:
        raise Rejected("the file is no certificate")
    if header.get("version") != VERSION:
        raise Rejected(
            f"the certificate is of version {plain(header.get('version'))}, not {VERSION}"
        )
    return Fields(header, arrays)


def _content(file: zipfile.ZipFile, name: str, most: int) -> bytes:
    """An entry, unpacked no further than it may: sizes in the file are its own word."""
    item = file.getinfo(name)
    if item.compress_type not in PACKINGS:
        raise Rejected(f"the certificate is packed in a way that it may not be ({name})")
    with file.open(item) as stream:
        content = stream.read(min(item.file_size, most) + 1)
    if len(content) > most:
        raise Rejected("the certificate unpacks to more than it may")
    return content


def plain(value: object) -> str:
    """What a file says, safe to be shown: one short line of ASCII."""
    return ascii(value)[:100]
