"""What the sums of a network say beforehand: full matrices, waists, multiples of one another."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np

from polytope.network.engine import Engine
from polytope.regions.sums import Sums


def dense_blocks(first: np.ndarray, sums: Sums) -> tuple[np.ndarray, np.ndarray]:
    """The layers whose weights are one full matrix: `dense_at` and `dense` of a program."""
    at, blocks, offset = np.full((len(first) - 1, 3), -1, dtype=np.int64), [np.zeros(0)], 0
    for layer, (low, high) in enumerate(itertools.pairwise(first)):
        terms = slice(sums.start[low], sums.start[high])
        units = sums.source[terms]
        if not len(units) or sums.weight_error[terms].any():
            continue
        begin, size = units.min(), units.max() + 1 - units.min()
        if len(units) == size * (high - low):
            blocks.append(sums.weight[terms].reshape(high - low, size).T.reshape(-1))
            at[layer] = offset, begin, size
            offset += len(units)
    return at, np.concatenate(blocks)


def waists(net: Engine, first: np.ndarray, sums: Sums) -> np.ndarray:
    """The layers through which all that comes later passes: bool (layers,)."""
    waist = np.zeros(len(net.layers), dtype=np.bool_)
    for number, layer in enumerate(net.layers):
        end = first[number + 1]
        direct = sums.base[end:, :-1].any() or sums.base_error[end:, :-1].any()
        later = sums.source[sums.start[end] :]
        waist[number] = not direct and (later >= layer.first_unit).all()
    return waist


def multiples(first: np.ndarray, sums: Sums) -> np.ndarray:
    """Which values of a layer are exact multiples of an earlier one: `alike` of a program.

    Found by rounded ratios, confirmed in rationals.
    """
    alike = np.arange(1, first[-1] + 1, dtype=np.int64)
    for low, high in itertools.pairwise(first.tolist()):
        seen: dict[bytes, list[int]] = {}
        for v in range(low, high):
            terms = sums.terms(v)
            row = np.concatenate([sums.base[v], sums.weight[terms]])
            vague = sums.base_error[v].any() or sums.weight_error[terms].any()
            if vague or not row.any():
                continue
            ratios = (row / row[np.argmax(np.abs(row))]).astype(np.float32) + np.float32(0)
            group = seen.setdefault(sums.source[terms].tobytes() + ratios.tobytes(), [])
            for other in group:
                own = np.concatenate([sums.base[other], sums.weight[sums.terms(other)]])
                factor = _factor(row, own)
                if factor:
                    alike[v] = factor * (other + 1)
                    break
            else:
                group.append(v)
    return alike


def _factor(row: np.ndarray, other: np.ndarray) -> int:
    """The sign of the factor between two rows, 0 if they are no exact multiples."""
    at = int(np.argmax(np.abs(other)))
    factor = Fraction(float(row[at])) / Fraction(float(other[at]))
    if any(
        Fraction(float(a)) != factor * Fraction(float(b)) for a, b in zip(row, other, strict=True)
    ):
        return 0
    return 1 if factor > 0 else -1
