"""Which units change their pieces across the shared facets of a complex."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polytope.network.ir import Layer
from polytope.regions.complex import Complex

#: Pieces compared at once.
BLOCK_PIECES = 2**24


def flipped_units(found: Complex, edges: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (position in `edges`, unit) of what changes: two int64 arrays, ascending.

    Parameters
    ----------
    found : Complex
    edges : int64 array, optional
        Positions in ``found.edges``; all by default.
    """
    ends = found.edges if edges is None else found.edges[edges]
    size = max(1, BLOCK_PIECES // max(1, found.pieces.shape[1]))
    where, units = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for start in range(0, len(ends), size):
        i, j = ends[start : start + size].T
        edge, unit = np.nonzero(found.pieces[i] != found.pieces[j])
        where.append(edge + start)
        units.append(unit)
    return np.concatenate(where), np.concatenate(units)


def layer_of(layers: Sequence[Layer], units: np.ndarray) -> np.ndarray:
    """The layer of each unit, numbered through all layers."""
    starts = np.array([layer.first_unit for layer in layers], dtype=np.int64)
    return np.asarray(np.searchsorted(starts, units, side="right") - 1)
