"""The evidence that a traversal leaves behind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polytope.pattern import PatternLayout


@dataclass(frozen=True, eq=False)
class Traversal:
    """What the traversal of one point found, and the evidence for it.

    Every row of an explored region is a way out whose hyperplane is not within the radius, or
    leads to a pattern that is explored, or closed, or was still waiting when the search ended.

    Attributes
    ----------
    patterns : uint8 (n, bytes)
        All patterns that were met, packed as `ActivationPattern` packs them.
    status : int8 (n,)
        Of each: `WAITING`, `EXPLORED`, `CLOSED` (no point of its region within the radius: by
        its weights) or `FLAT` (no inside, in exact arithmetic); see `traversal_arrays`.
    key : float64 (n,)
        Least distance at which a straight path can come in, of the ways that were found.
    bound : float64 (n,)
        Proved lower bound of each region's distance, -1 where none was computed.
    proof : int64 (n, 2)
        Where in `row` and `weight` the proof of `bound` begins, and how many it has.
    way : int64 (m, 4)
        Explored region and row, of every way out that a program closed; and where the proof
        begins, and how many weights it has. The row itself is an equality: the weight of its
        other side is written negative. Row `net.rows` plus a class stands for the part where this
        class is as high as the label.
    way_bound : float64 (m,)
    row, weight : int64 (...), float64 (...)
        The rows and weights of all proofs.
    radius : float
        How far was searched.
    complete : bool
        Whether nothing is left within the radius.
    regions, rows, hyperplanes : int
        Counts: regions explored, patterns whose rows were computed, distances to hyperplanes in
        the box.
    region_programs, facet_programs, decision_programs, exact_verdicts : int
        Programs of regions, of facets, of decision rows; questions to exact arithmetic.
    exactness : str
        "safe-float": all bounds hold whatever the rounding.
    """

    patterns: np.ndarray
    status: np.ndarray
    key: np.ndarray
    bound: np.ndarray
    proof: np.ndarray
    way: np.ndarray
    way_bound: np.ndarray
    row: np.ndarray
    weight: np.ndarray
    radius: float
    complete: bool
    regions: int
    rows: int
    hyperplanes: int
    region_programs: int
    facet_programs: int
    decision_programs: int
    exact_verdicts: int
    exactness: str = "safe-float"

    @property
    def programs(self) -> int:
        """Programs solved."""
        return self.region_programs + self.facet_programs + self.decision_programs


def packed(patterns: np.ndarray, layout: PatternLayout) -> np.ndarray:
    """Patterns (n, units) packed row by row as `ActivationPattern` does: uint8 (n, bytes)."""
    bits, start = [np.zeros((len(patterns), 0), np.uint8)], 0
    for count, number in layout:
        planes = max(1, (number - 1).bit_length())
        block = patterns[:, None, start : start + count] >> np.arange(planes)[:, None]
        bits.append((block & 1).astype(np.uint8).reshape(len(patterns), planes * count))
        start += count
    return np.packbits(np.concatenate(bits, axis=1), axis=1)


def unpacked(packed: np.ndarray, layout: PatternLayout) -> np.ndarray:
    """The inverse of `packed`: uint16 (n, units)."""
    bits, at = np.unpackbits(packed, axis=1), 0
    blocks = [np.zeros((len(packed), 0), np.uint16)]
    for count, number in layout:
        planes = max(1, (number - 1).bit_length())
        block = bits[:, at : at + planes * count].reshape(len(packed), planes, count)
        powers = 2 ** np.arange(planes, dtype=np.uint16)
        blocks.append((block * powers[:, None]).sum(axis=1, dtype=np.uint16))
        at += planes * count
    return np.concatenate(blocks, axis=1)
