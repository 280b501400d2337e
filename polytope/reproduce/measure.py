"""What several items need: points in float64, percentages, percentiles."""

from __future__ import annotations

import numpy as np

from polytope.examples import Examples

#: Percentiles of ROLL's tables.
PERCENTILES = (25, 50, 75, 100)


def points(examples: Examples, rows: slice = slice(None)) -> np.ndarray:
    """Points (n, d) in float64."""
    return examples.x[rows].reshape(len(examples.x[rows]), -1).astype(np.float64)


def percent(share: float) -> float:
    """A share in percent, to two digits after the point."""
    return round(100 * float(share), 2)


def quartiles(margins: np.ndarray, unit: float) -> dict[str, float]:
    """Percentiles 25, 50, 75, 100 in a unit, to three digits: ``P25`` and so on."""
    found = np.percentile(margins, PERCENTILES) / unit
    return {f"P{p}": float(f"{v:.3g}") for p, v in zip(PERCENTILES, found, strict=True)}
