"""Certificates: a claim and its proof, as a file that `polytope.checker` reads."""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from polytope.errors import FileProblem
from polytope.tables import check_writable, write_file


@dataclass(frozen=True)
class Certificate:
    """A claim and its proof: see `polytope.checker`.

    Attributes
    ----------
    header : mapping
        The claim. "robust": network, norm, radius, label, target, and the witness's distance.
        "safe": network, and the number of parts of the property.  And the `engine` whose work is
        the proof; a `note` says why it is not the one that found the bound.
    arrays : mapping of str to array
        The point and the box, or the box and the unsafe outputs of each part; the witness, the
        slopes of the root's lines, the trees, and the multipliers; or the patterns of the linear
        regions, the ways between them, and the multipliers.
    """

    header: Mapping[str, object]
    arrays: Mapping[str, np.ndarray] = field(repr=False)

    @property
    def lower(self) -> float:
        """The radius that is claimed; NaN for a property."""
        if self.header["claim"] != "robust":
            return math.nan
        return float.fromhex(str(self.header["radius"]))

    def to_bytes(self) -> bytes:
        """The file's content: a compressed zip of a JSON header and arrays."""
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("header.json", json.dumps(dict(self.header), indent=1))
            for name, array in self.arrays.items():
                content = io.BytesIO()
                np.save(content, array, allow_pickle=False)
                file.writestr(f"{name}.npy", content.getvalue())
        return stream.getvalue()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the certificate to a file.

        Raises
        ------
        FileProblem
            If it cannot be written.
        """
        target = check_writable(path)
        content = self.to_bytes()
        write_file(target, lambda name: _write(name, content))


def _write(path: os.PathLike[str], content: bytes) -> None:
    try:
        with open(path, "wb") as file:
            file.write(content)
    except OSError as error:
        raise FileProblem(f"cannot write '{path}': {error.strerror or error}") from error
