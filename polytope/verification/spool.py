"""Arrays that are written while a search goes on: in memory first, then in a temporary file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import IO

import numpy as np


class Spool:
    """Blocks of arrays, kept in the order in which they came.

    Parameters
    ----------
    memory : int
        Bytes that are kept in memory.

    Attributes
    ----------
    bytes : int
        Of all blocks.
    """

    def __init__(self, memory: int) -> None:
        self.memory, self.bytes = memory, 0
        self._kept: list[tuple[np.ndarray, ...]] = []
        self._file: IO[bytes] | None = None
        self._written: list[int] = []

    def append(self, block: tuple[np.ndarray, ...]) -> None:
        """Keep a block of arrays."""
        size = sum(array.nbytes for array in block)
        if self._file is None and (self.bytes + size <= self.memory or not self._kept):
            self._kept.append(block)
        else:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `close`)
            for array in block:
                np.save(self._file, array, allow_pickle=False)
            self._written.append(len(block))
        self.bytes += size

    def close(self) -> None:
        """Give up what was kept."""
        self._kept, self._written = [], []
        if self._file is not None:
            self._file.close()
            self._file = None

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        """All blocks."""
        yield from self._kept
        if self._file is not None:
            self._file.seek(0)
            for count in self._written:
                yield tuple(np.load(self._file, allow_pickle=False) for _ in range(count))
