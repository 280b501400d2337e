"""The rows of regions as floats, with their rounding, compiled."""

from __future__ import annotations

import numpy as np

from polytope.network.engine import Engine
from polytope.regions import cross_kernels as kernels
from polytope.regions.domain import Domain
from polytope.regions.program import compile_program


class RegionRows:
    """Halfspaces that hold in a region of a bounded domain, pattern by pattern.

    Parameters
    ----------
    net : Engine
    domain : Domain
        Bounded, without an l_2 ball.
    """

    def __init__(self, net: Engine, domain: Domain) -> None:
        self._net, self._program = net, compile_program(net, domain)
        self._frame = np.column_stack([domain.A, -domain.b])
        low, high = domain.limits
        self._reach = np.maximum(np.abs(low), np.abs(high))
        k, values, units = domain.dimension, len(self._program.base), net.units
        m = net.rows + len(domain.A)
        self._maps = kernels.Maps(
            np.zeros((values, k + 1)), np.zeros((values, 2)), np.zeros((units, k + 1)),
            np.zeros((units, 2)), np.zeros((units, 2)), np.zeros((k + 5, values)), np.zeros(k + 1),
            np.zeros(values, np.int64), np.zeros(units, np.int64), np.zeros(values, np.int64),
        )  # fmt: skip
        self._region = kernels.Region(
            np.zeros((m, k)), np.zeros(m), np.zeros((m, 2)), np.zeros(m, np.int64),
            np.zeros(m, np.int64), np.zeros(m, np.bool_),
            np.zeros(len(self._program.layers) + 1, np.int64),
        )  # fmt: skip

    def of(self, pieces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows ``A u <= b`` (m, k), (m,) that all points of a region of the domain satisfy.

        Rounding is taken into account: b is larger by what it can be off within the domain.
        Rows of the domain that are no bounds of single coordinates are among them.
        """
        m, _, _ = kernels.region_rows(
            self._program, self._frame, self._net.rows, pieces.astype(np.uint16), -1, self._maps,
            self._region,
        )  # fmt: skip
        region = self._region
        A, b = region.A[:m].copy(), region.b[:m].copy()
        own = region.ids[:m] >= self._net.rows
        keep = A.any(axis=1) & ~(own & (np.count_nonzero(A, axis=1) == 1))
        slack = region.error[:m, 0] * self._reach.sum() + region.error[:m, 1]
        unit = 2.0**-51 * (np.abs(b) + np.abs(A) @ self._reach)
        return A[keep], (b + slack * (1 + 1e-12) + unit * (own == 0))[keep]
