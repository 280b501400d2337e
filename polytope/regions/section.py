"""A region met with a domain, as halfspaces over the domain's coordinates."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from polytope.errors import InputError
from polytope.network.engine import Engine
from polytope.regions.domain import Domain
from polytope.rows import NEGLIGIBLE
from solvers.norms import dual_exponent
from solvers.problem import LinearProgram
from solvers.session import Session
from solvers.solution import Status
from solvers.solve import solve


@dataclass(frozen=True, eq=False)
class Section:
    """``{u : A u <= b}``, for an l_2 ball as the domain met with the ball.

    Attributes
    ----------
    net : Engine
    domain : Domain
    pieces : int64 array (units,)
        The region's pattern.
    ids : int64 array (rows,)
        The row's id in the project: ``layer.first_row + unit * layer.slots + slot``, and from
        ``net.rows`` on the halfspaces of the domain.
    A, b : float64 array (rows, k), (rows,)
        Pointing outward, computed in floats.
    normal_error, offset_error : float64 array (rows,)
        Bounds on the l_1 norm of the error of each row of A, and on that of b; 0 for the
        domain's own rows.
    scale : float64 array (rows,)
        The l_1 norm of each row over the inputs: what a zero normal is small against.
    start : float64 array (k,) or None
        A point that is meant to lie inside.
    """

    net: Engine
    domain: Domain
    pieces: np.ndarray
    ids: np.ndarray
    A: np.ndarray
    b: np.ndarray
    normal_error: np.ndarray
    offset_error: np.ndarray
    scale: np.ndarray
    start: np.ndarray | None = None

    @classmethod
    def of(
        cls,
        net: Engine,
        domain: Domain,
        pieces: np.ndarray,
        ids: np.ndarray,
        rows: tuple[np.ndarray, np.ndarray],
        errors: tuple[np.ndarray, np.ndarray],
        start: np.ndarray | None = None,
    ) -> Section:
        """From rows ``A z <= b`` over the inputs, and the errors of A and b (see above)."""
        A, b = rows
        normal_error, offset_error = errors
        if domain.basis is not None and domain.origin is not None:
            basis, origin = domain.basis, domain.origin
            unit = (domain.size + 3) * np.finfo(np.float64).eps
            normal_error = normal_error * np.abs(basis).sum(axis=0).max(initial=0.0) + unit * (
                np.abs(A) @ np.abs(basis).sum(axis=0)
            )
            offset_error = (
                offset_error
                + errors[0] * np.abs(origin).max(initial=0.0)
                + unit * (np.abs(A) @ np.abs(origin) + np.abs(b))
            )
            A, b = A @ basis.T, b - A @ origin
        still = np.zeros(len(domain.b))
        return cls(
            net, domain, pieces,
            np.concatenate([ids, net.rows + np.arange(len(domain.b))]),
            np.vstack([A, domain.A]), np.concatenate([b, domain.b]),
            np.concatenate([normal_error, still]), np.concatenate([offset_error, still]),
            np.concatenate([np.abs(rows[0]).sum(axis=1), still]), start,
        )  # fmt: skip

    @property
    def dimension(self) -> int:
        """Number of coordinates."""
        return int(self.A.shape[1])

    @cached_property
    def sizes(self) -> np.ndarray:
        """The l_2 norm of each row of A."""
        return np.asarray(np.linalg.norm(self.A, axis=1))

    @cached_property
    def proper(self) -> np.ndarray:
        """Which rows have a normal, as far as floats can tell: bool (rows,)."""
        sizes = np.abs(self.A).sum(axis=1)
        return np.asarray(sizes > np.minimum(self.normal_error, NEGLIGIBLE * self.scale))

    @cached_property
    def harmless(self) -> np.ndarray:
        """Which of the other rows surely hold in the whole domain: bool (rows,)."""
        low, high = self.sides
        reach = float(np.maximum(np.abs(low), np.abs(high)).max(initial=0.0))
        moved = np.zeros_like(self.normal_error)
        moved[self.normal_error > 0] = self.normal_error[self.normal_error > 0] * reach
        largest = np.abs(self.A).sum(axis=1)
        moved[largest > 0] += largest[largest > 0] * reach
        return np.asarray(~self.proper & (self.b >= moved + self.offset_error))

    def band(self, u: np.ndarray) -> np.ndarray:
        """How far rounding may move ``A u - b`` at one point: (rows,), rigorous."""
        unit = (self.dimension + 2) * np.finfo(np.float64).eps
        largest = np.abs(u).max(initial=0.0)
        return np.asarray(largest * self.normal_error + self.offset_error + unit * self._terms(u))

    def inside(self, u: np.ndarray) -> bool:
        """Whether a point lies in the interior, as far as float64 tells.

        Where the rigorous band says nothing (a network of many layers) it ends, as that of
        `Region.error_band` does, at `NEGLIGIBLE` of the sizes of the row's terms.
        """
        residual = self.A @ u - self.b
        band = np.minimum(self.band(u), NEGLIGIBLE * self._terms(u))
        held = np.where(self.proper, residual < -band, self.b >= -self.offset_error)
        return bool(held.all() and self.domain.contains(u)[0])

    def _terms(self, u: np.ndarray) -> np.ndarray:
        """The sizes of the terms of ``A u - b``, summed: (rows,)."""
        return np.asarray(np.abs(self.A) @ np.abs(u) + np.abs(self.b))

    @cached_property
    def interior(self) -> np.ndarray | None:
        """A point in the interior (see `inside`); None if floats find none."""
        if self.start is not None and self.inside(self.start):
            return self.start
        center, radius = self.largest_ball()
        if center is None or not radius > 0:
            return None
        return center if self.inside(center) else None

    def require_interior(self, what: str) -> np.ndarray:
        """`interior`.

        Raises
        ------
        InputError
            If there is none.
        """
        if self.interior is None:
            raise InputError(
                f"{what}: the region has no interior in the domain (beyond rounding): it does "
                "not reach into it, or only touches it"
            )
        return self.interior

    @cached_property
    def sides(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of each coordinate (k,) that the domain's own rows prove by themselves.

        Those of a box or a window; infinite where no row of the domain is parallel to an axis.
        """
        A, b = self.domain.A, self.domain.b
        low, high = np.full(self.dimension, -np.inf), np.full(self.dimension, np.inf)
        for a, limit in zip(A, b, strict=True):
            (axes,) = np.nonzero(a)
            if len(axes) == 1:
                axis = axes[0]
                bound = limit / a[axis]
                if a[axis] > 0:
                    high[axis] = min(high[axis], np.nextafter(bound, np.inf))
                else:
                    low[axis] = max(low[axis], np.nextafter(bound, -np.inf))
        return low, high

    @cached_property
    def extent(self) -> tuple[np.ndarray, np.ndarray]:
        """Least and largest value of each coordinate (k,): 2 k linear programs; inf if none.

        As accurate as the solver: some 1e-7 of the region's size.  Of a ball's section it is
        that of the halfspaces, which hold the box around the ball.
        """
        center = self.require_interior("bounding box")
        A, room = self.scaled(center)
        scale = float(room.min(initial=np.inf))
        if not 0 < scale < np.inf:
            scale = 1.0
        k = self.dimension
        found = np.empty((2, k))
        with Session(maximisation(np.zeros(k), A, room / scale), "highs") as session:
            for axis, side in itertools.product(range(k), (0, 1)):
                sign = 2.0 * side - 1.0
                cost = np.zeros(k)
                cost[axis] = -sign
                session.change_objective(cost)
                solution = session.solve()
                if solution.status is Status.UNBOUNDED:
                    found[side, axis] = sign * np.inf
                elif solution.x is None:
                    raise InputError(
                        f"bounding box: a linear program ended: {solution.status.value}"
                    )
                else:
                    found[side, axis] = center[axis] + scale * solution.x[axis]
        return found[0], found[1]

    @cached_property
    def bounded(self) -> bool:
        """Whether no coordinate goes on without end; programs are needed in open domains only."""
        return self.domain.bounded or bool(np.isfinite(self.extent).all())

    def require_bounded(self, what: str) -> None:
        """Refuse an unbounded section.

        Raises
        ------
        InputError
            Naming a coordinate along which it has no end.
        """
        if not self.bounded:
            free = np.isinf(self.extent).any(axis=0)
            raise InputError(
                f"{what}: the region is unbounded (coordinate {int(np.argmax(free))} has no "
                "end); give a bounded domain, for instance a box"
            )

    def scaled(self, center: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows with a normal at l_2 length 1, and the room that `center` leaves to each."""
        A, b, size = (part[self.proper] for part in (self.A, self.b, self.sizes))
        return A / size[:, None], (b - A @ center) / size

    def largest_ball(self, p: float = 2.0) -> tuple[np.ndarray | None, float]:
        """Center and radius of a largest l_p ball inside, by one linear program.

        The ball is one of the domain's flat (on a slice: a ball's section); a ball domain
        counts by the box around it.

        Returns
        -------
        center, radius : array (k,) or None, float
            None and -inf if the section is empty, inf if balls of every size fit; else the
            radius is the one that the center proves, up to the rounding of a product per row.

        Raises
        ------
        InputError
            If p is not 2 on an oblique slice, or the linear program cannot be solved.
        """
        basis = self.domain.basis
        if p != 2 and basis is not None and (np.count_nonzero(basis, axis=1) > 1).any():
            raise InputError(
                f"inradius: on a slice only p = 2 is a ball in its coordinates, got p={p:g}"
            )
        A, b = self.A[self.proper], self.b[self.proper]
        if not len(A):
            return np.zeros(self.dimension), np.inf
        size = np.linalg.norm(A, dual_exponent(p), axis=1)
        cost = np.zeros(self.dimension + 1)
        cost[-1] = 1.0
        rows = np.column_stack([A / size[:, None], np.ones(len(A))])
        solution = solve(maximisation(cost, rows, b / size), "highs")
        if solution.status is Status.INFEASIBLE:
            return None, -np.inf
        if solution.status is Status.UNBOUNDED:
            return self.start, np.inf
        if solution.x is None:
            raise InputError(f"inradius: the linear program ended: {solution.status.value}")
        center = solution.x[:-1]
        return center, float(((b - A @ center) / size).min())


def maximisation(cost: np.ndarray, A: np.ndarray, b: np.ndarray) -> LinearProgram:
    """The linear program ``max cost u : A u <= b`` over free u, as a minimisation."""
    k = len(cost)
    return LinearProgram(
        c=-cost, A=A, row_lower=np.full(len(A), -np.inf), row_upper=b,
        lower=np.full(k, -np.inf), upper=np.full(k, np.inf),
    )  # fmt: skip
