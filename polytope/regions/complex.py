"""The complex of regions that an engine found: what every engine hands over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Complex:
    """Regions of full dimension inside a domain, and which of them share a facet.

    Coordinates are the domain's (see `polytope.regions.domain.Domain`), k of them.

    Attributes
    ----------
    pieces : uint8 or uint16 array (n, units)
        The piece of every unit in each region, in the order of `ActivationPattern.pieces`.
    points : float64 array (n, k)
        A point in the interior of each region.
    edges : int64 array (m, 2)
        Regions (i < j) that share a facet, each pair once.
    edge_points : float64 array (m, k)
        A point in the relative interior of the shared facet.
    edge_rows : int64 array (m,)
        The id of one hyperplane that the facet lies on, as a row of region i
        (``layer.first_row + unit * layer.slots + slot``).
    complete : bool
        Whether every region of the domain was found.
    exact_verdicts : int
        How often rounding could not decide and rational arithmetic did.
    """

    pieces: np.ndarray
    points: np.ndarray
    edges: np.ndarray
    edge_points: np.ndarray
    edge_rows: np.ndarray
    complete: bool
    exact_verdicts: int = 0
