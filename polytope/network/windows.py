"""Index tables of pooling windows, plain and adaptive."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from polytope.errors import InputError
from polytope.network.ir import Shape


def window_index(
    shape: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool = False,
    padding_end: Sequence[int] | None = None,
) -> tuple[np.ndarray, Shape, np.ndarray]:
    """Windows of a pooling over the trailing axes of an array.

    `padding_end` is the padding behind each axis where it differs from that before it.

    Returns
    -------
    index : int64 array (outputs, window)
        Flat positions, -1 outside the array.
    out_shape : tuple
        The leading axes of `shape`, then the pooled sizes.
    padded_count : int64 array (outputs,)
        Cells of each window inside the array and its padding (torch's divisor with
        ``count_include_pad``: a window that ceil_mode lets run over the padding is cut).
    """
    rank = len(kernel)
    lead, spatial = tuple(shape[:-rank]), tuple(shape[-rank:])
    starts, counts = [], []
    ends = padding if padding_end is None else padding_end
    for n, k, s, p, e, d in zip(spatial, kernel, stride, padding, ends, dilation, strict=True):
        room = n + p + e - d * (k - 1) - 1
        size = (-(-room // s) if ceil_mode else room // s) + 1
        if ceil_mode and (size - 1) * s >= n + p:
            size -= 1
        if size < 1:
            raise InputError(
                f"pooling of size {tuple(kernel)} does not fit an input of shape {tuple(shape)}"
            )
        start = np.arange(size) * s - p
        cells = start[:, None] + d * np.arange(k)[None, :]
        counts.append((cells < n + e).sum(axis=1))
        starts.append(np.where((cells >= 0) & (cells < n), cells, -1))
    return _windows(lead, spatial, starts, counts)


def adaptive_windows(
    shape: Sequence[int], output: Sequence[int]
) -> tuple[np.ndarray, Shape, np.ndarray]:
    """Windows of adaptive pooling: from floor(i n / m) to ceil((i + 1) n / m)."""
    rank = len(output)
    lead, spatial = tuple(shape[:-rank]), tuple(shape[-rank:])
    cells, counts = [], []
    for n, m in zip(spatial, output, strict=True):
        begin = np.arange(m) * n // m
        end = -(-(np.arange(1, m + 1) * n) // m)
        table = begin[:, None] + np.arange(int((end - begin).max()))[None, :]
        cells.append(np.where(table < end[:, None], table, -1))
        counts.append(end - begin)
    return _windows(lead, spatial, cells, counts)


def _windows(
    lead: Shape, spatial: Shape, cells: list[np.ndarray], counts: list[np.ndarray]
) -> tuple[np.ndarray, Shape, np.ndarray]:
    """Combine per-axis tables of cells (-1 is none) to flat windows."""
    index = np.zeros((1, 1), dtype=np.int64)
    count = np.ones(1, dtype=np.int64)
    for n, table, number in zip(spatial, cells, counts, strict=True):
        inside = (index[:, None, :, None] >= 0) & (table[None, :, None, :] >= 0)
        joined = np.where(inside, index[:, None, :, None] * n + table[None, :, None, :], -1)
        index = joined.reshape(index.shape[0] * table.shape[0], -1)
        count = (count[:, None] * number[None, :]).reshape(-1)
    channels = math.prod(lead)
    step = math.prod(spatial)
    shifts = (np.arange(channels) * step)[:, None, None]
    full = np.where(index[None] >= 0, index[None] + shifts, -1).reshape(-1, index.shape[1])
    sizes = tuple(table.shape[0] for table in cells)
    return full, (*lead, *sizes), np.tile(count, channels)
