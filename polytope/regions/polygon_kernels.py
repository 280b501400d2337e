"""Compiled: cut a convex polygon by halfplanes."""

from __future__ import annotations

import numpy as np

from solvers.compiled import kernel


def clip(start: np.ndarray, normals: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """The part (m, 2) of a convex polygon (corners, 2) where ``normals s + residual <= 0``."""
    most = len(start) + len(residual)
    corners, spare, height = np.empty((most, 2)), np.empty((most, 2)), np.empty(most)
    corners[: len(start)] = start
    count = _clip(corners, len(start), normals, residual, spare, height)
    return corners[:count].copy()


@kernel
def _clip(
    corners: np.ndarray,
    count: int,
    normals: np.ndarray,
    residual: np.ndarray,
    spare: np.ndarray,
    height: np.ndarray,
) -> int:
    """Cut the first `count` corners in place; how many there are then."""
    for row in range(len(residual)):
        outside = 0
        for i in range(count):
            height[i] = (
                normals[row, 0] * corners[i, 0] + normals[row, 1] * corners[i, 1] + residual[row]
            )
            if height[i] > 0:
                outside += 1
        if outside == 0:
            continue
        kept = 0
        for i in range(count):
            before = i - 1 if i > 0 else count - 1
            if (height[i] > 0) != (height[before] > 0):
                part = height[before] / (height[before] - height[i])
                for axis in range(2):
                    step = corners[i, axis] - corners[before, axis]
                    spare[kept, axis] = corners[before, axis] + part * step
                kept += 1
            if height[i] <= 0:
                for axis in range(2):
                    spare[kept, axis] = corners[i, axis]
                kept += 1
        count = kept
        for i in range(count):
            for axis in range(2):
                corners[i, axis] = spare[i, axis]
    return count
