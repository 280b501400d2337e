"""Files with changed bytes: each reader gives its result or one of our errors, nothing else."""

from __future__ import annotations

import contextlib
import gzip
import io
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytope.data_files import read_idx, read_npz, read_series
from polytope.datasets import load_points
from polytope.errors import PolytopeError
from polytope.train_config import read_config

PIXELS = np.arange(72, dtype=np.uint8).reshape(9, 4, 2)
CONFIG = b"""[data]
name = "digits"
[network]
kind = "fully_connected"
widths = [32, 32]
[training]
epochs = 8
[[loss]]
kind = "ROLL"
weight = {start = 0, end = 0.1, epochs = 4}
"""


def archive(save: Callable[..., None]) -> bytes:
    stream = io.BytesIO()
    save(stream, x=PIXELS, y=np.arange(9))
    return stream.getvalue()


IDX = struct.pack(">HBB3I", 0, 8, 3, *PIXELS.shape) + PIXELS.tobytes()
SERIES = b"@classLabel true left right\n@data\n1,2,3:4,5,6:right\n7:8:left\n"
FILES: dict[str, tuple[bytes, Callable[[Path], object]]] = {
    "packed.npz": (archive(np.savez_compressed), read_npz),
    "plain.npz": (archive(np.savez), read_npz),
    "points.npz": (archive(np.savez_compressed), lambda path: load_points(path, 255)),
    "idx": (IDX, read_idx),
    "idx.gz": (gzip.compress(IDX), read_idx),
    "series.ts": (SERIES, read_series),
    "config.toml": (CONFIG, read_config),
}


@pytest.mark.parametrize("name", FILES)
@given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=3),
    share=st.one_of(st.just(1.0), st.floats(0, 1)),
)
@settings(max_examples=100)
def test_changed_bytes(name: str, changes: list[tuple[float, int]], share: float) -> None:
    content, read = FILES[name]
    spoiled = bytearray(content)
    for place, value in changes:
        spoiled[int(place * (len(spoiled) - 1))] = value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(spoiled[: round(share * len(spoiled))])
        with contextlib.suppress(PolytopeError):
            read(path)
