"""Activation patterns: which piece every unit is in; and the one convention for ties.

The convention: a piece is open below and closed above, ``t_{j-1} < z <= t_j``, so a ReLU whose
pre-activation is exactly 0 is inactive (ROLL's mask ``z > 0``), and of several equal
candidates of a maximum the first wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from polytope.errors import InputError

#: (units, pieces) of each layer.
PatternLayout = tuple[tuple[int, int], ...]


def piece_of(values: torch.Tensor, breakpoints: torch.Tensor) -> torch.Tensor:
    """Piece of each value: the number of breakpoints strictly below it.

    Parameters
    ----------
    values : tensor (batch, *shape)
    breakpoints : tensor (*broadcastable to shape, pieces - 1), ascending

    Returns
    -------
    int64 tensor (batch, *shape)
    """
    pieces = (values > breakpoints[..., 0]).long()
    for j in range(1, breakpoints.shape[-1]):
        pieces += values > breakpoints[..., j]
    return pieces


def winner_of(candidates: torch.Tensor) -> torch.Tensor:
    """The first largest along the last axis (int64)."""
    return candidates.argmax(dim=-1)


@dataclass(frozen=True)
class ActivationPattern:
    """The piece of every unit of a network, packed into bytes and hashable.

    Attributes
    ----------
    packed : bytes
        The pieces in as few bits as their layer needs (one for ReLU).
    layout : tuple of (units, pieces)
        The layers, in topological order.
    """

    packed: bytes
    layout: PatternLayout

    @classmethod
    def from_pieces(cls, pieces: np.ndarray, layout: PatternLayout) -> ActivationPattern:
        """Pack an integer array with one piece per unit.

        Raises
        ------
        InputError
            If there is not one whole number for each unit, or a unit has no such piece.
        """
        units = sum(count for count, _ in layout)
        values = np.asarray(pieces)
        if values.shape != (units,):
            raise InputError(
                f"a pattern needs one piece for each of {units} units, got shape {values.shape}"
            )
        if values.dtype.kind not in "iub":
            raise InputError(f"pieces are whole numbers, got {values.dtype}")
        limits = np.repeat([number for _, number in layout], [count for count, _ in layout])
        if units and (values.min() < 0 or (values >= limits).any()):
            raise InputError("a pattern has a piece that its unit does not have")
        bits, start = [], 0
        for count, number in layout:
            block = values[start : start + count].astype(np.uint32)
            planes = np.arange(_bits(number), dtype=np.uint32)
            bits.append(((block[None, :] >> planes[:, None]) & 1).astype(np.uint8).reshape(-1))
            start += count
        return cls(np.packbits(np.concatenate(bits) if bits else np.zeros(0, np.uint8)).tobytes(),
                   layout)  # fmt: skip

    @cached_property
    def pieces(self) -> np.ndarray:
        """The piece of every unit: int64 (units,), read-only."""
        bits = np.unpackbits(np.frombuffer(self.packed, np.uint8))
        blocks, start = [np.zeros(0, np.int64)], 0
        for count, number in self.layout:
            planes = _bits(number)
            block = bits[start : start + count * planes].reshape(planes, count).astype(np.int64)
            blocks.append((block << np.arange(planes)[:, None]).sum(axis=0))
            start += count * planes
        result = np.concatenate(blocks)
        result.setflags(write=False)
        return result

    def flip(self, unit: int, piece: int) -> ActivationPattern:
        """The pattern with one unit moved to another piece.

        Raises
        ------
        InputError
            If there is no such unit, or it has no such piece.
        """
        if not 0 <= unit < len(self):
            raise InputError(f"got unit {unit}, but the pattern has {len(self)} units (0 first)")
        pieces = self.pieces.copy()
        pieces[unit] = piece
        return ActivationPattern.from_pieces(pieces, self.layout)

    def __len__(self) -> int:
        """Number of units."""
        return sum(count for count, _ in self.layout)


def _bits(pieces: int) -> int:
    """Bits that hold a piece."""
    return max(1, (pieces - 1).bit_length())
