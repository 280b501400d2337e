"""The file of a certificate: a zip of a JSON header and arrays, read without pickle."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping

import numpy as np

from polytope.errors import FileProblem

VERSION = 1
KIND = "polytope certificate"
#: Bytes that a certificate may unpack to.
UNPACKED = 2**31
#: What zipfile, json and numpy raise for files that are damaged or not theirs.
BROKEN = (
    OSError, ValueError, LookupError, EOFError, RuntimeError, zipfile.BadZipFile,
    NotImplementedError, SyntaxError, TypeError, MemoryError,
)  # fmt: skip


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
            if sum(item.file_size for item in file.infolist()) > UNPACKED:
                raise Rejected("the certificate unpacks to more than it may")
            header = json.loads(file.read("header.json"))
            for item in file.infolist():
                if item.filename.endswith(".npy"):
                    stream = io.BytesIO(file.read(item))
                    arrays[item.filename[:-4]] = np.load(stream, allow_pickle=False)
    except FileNotFoundError as error:
        raise FileProblem(f"there is no file '{path}': check the path") from error
    except BROKEN as error:
        raise Rejected(f"the file is no certificate, or damaged ({error})") from error
    if not isinstance(header, dict) or header.get("kind") != KIND:
        raise Rejected("the file is no certificate")
    if header.get("version") != VERSION:
        raise Rejected(f"the certificate is of version {header.get('version')}, not {VERSION}")
    return Fields(header, arrays)
