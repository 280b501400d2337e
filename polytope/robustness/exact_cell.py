"""The adversarial part of a linear region from exact arithmetic, where floats say too little."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from polytope.network.engine import Engine
from polytope.regions.domain import Domain
from polytope.regions.exact_crossing import row_ids
from polytope.regions.exact_maps import ExactMaps
from polytope.robustness.cell import Cell

UNIT = 2.0**-52


def exact_cell(net: Engine, pieces: np.ndarray, x: np.ndarray, label: int, target: int) -> Cell:
    """The steps from a point into the part of a region where `target` is as high as `label`.

    Parameters
    ----------
    net : Engine
        Piecewise linear.
    pieces : int (units,)
        Of the region.
    x : float64 (d,)
    label, target : int

    Returns
    -------
    Cell
        Every row is the exact one, its largest coefficient 1 (or all of them 0 and the offset
        -1, where it proves the part empty), rounded once.
    """
    d = len(x)
    maps = ExactMaps(net, Domain(d, None, None, np.zeros((0, d)), np.zeros(0)))
    outputs = maps.layer(len(net.layers), pieces).integers
    if len(outputs) == 1:
        outputs = np.vstack([np.zeros_like(outputs), outputs])
    lead = outputs[label] - outputs[target]
    rows = [*maps.rows(pieces, row_ids(net, 0, pieces)), lead]
    normals, offsets = [], []
    for row in rows:
        value = sum((int(a) * Fraction(float(v)) for a, v in zip(row[:-1], x, strict=True)),
                    Fraction(int(row[-1])))  # fmt: skip
        largest = max((abs(int(a)) for a in row[:-1]), default=0)
        if largest:
            normals.append([float(Fraction(int(a), largest)) for a in row[:-1]])
            offsets.append(-float(value / largest))
        elif value > 0:
            normals.append([0.0] * d)
            offsets.append(-1.0)
    A, b = np.array(normals).reshape(-1, d), np.array(offsets)
    return Cell(A, b, UNIT * np.abs(A).sum(axis=1), UNIT * np.abs(b) + 1e-300)


def rows_that_cut(cell: Cell, low: np.ndarray, high: np.ndarray) -> Cell | None:
    """The rows of a cell of steps that hold not all over a box of steps.

    Parameters
    ----------
    cell : Cell
    low, high : float64 (d,)
        Finite, around zero.

    Returns
    -------
    Cell or None
        None if a row alone proves that the cell has no point in the box. Rows that hold all over
        the box, within rounding, are left out: that makes the cell no smaller.
    """
    far = np.maximum(-low, high)
    size = np.abs(cell.A) @ far + np.abs(cell.b)
    error = cell.normal_error * far.max(initial=0.0) + cell.offset_error
    error = 1.01 * error + (len(low) + 4) * UNIT * size
    up, down = np.maximum(cell.A, 0.0), np.minimum(cell.A, 0.0)
    if (up @ low + down @ high - cell.b > error).any():
        return None
    keep = up @ high + down @ low > cell.b - error
    keep[:1] |= not keep.any()
    return Cell(cell.A[keep], cell.b[keep], cell.normal_error[keep], cell.offset_error[keep])
