"""Facets and redundant rows of ``{u : A u <= b}`` from an interior point, each with its proof.

Made for very many small polyhedra (k <= 20 coordinates, up to some hundreds of rows): one dense
dictionary is carried from row to row. For each open row the simplex method raises ``a_i u`` from
the vertex where the last one ended, the row with the least way to go first:

- every step on the way meets a hyperplane; one that is met alone is a facet, and the segment from
  the interior point to a point beyond it pierces the facet: the witness;
- a row that has no way up is redundant, and the dictionary holds its multipliers;
- all rows at their maximum are closed together, and redundant ones leave the dictionary.

Neither is believed before it is proved from the rows themselves, rounding and the rows' own errors
included (`solvers._simplex_proofs`). What cannot be proved, like duplicated rows and rows that
touch at a vertex, is UNDECIDED, for exact arithmetic to settle.

Source: the method is the textbook one (Chvatal, Linear Programming, 1983); redundancy by linear
programs from an interior point is Clarkson's (FOCS 1994).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from solvers._simplex_kernels import FACET, REDUNDANT, UNDECIDED, ZERO, Bools, search
from solvers._simplex_proofs import REALS, WHOLES, Floats, Ints
from solvers.compiled import kernel
from solvers.errors import ProblemError

__all__ = [
    "FACET",
    "REDUNDANT",
    "UNDECIDED",
    "ZERO",
    "Facets",
    "Work",
    "facets",
    "facets_kernel",
    "work",
]


class Work(NamedTuple):
    """Scratch of `facets_kernel`; see `work`."""

    grid: Floats
    real: Floats
    whole: Ints


@dataclass(frozen=True)
class Facets:
    """The result of `facets`.

    Attributes
    ----------
    verdict : int64 (m,)
        FACET, REDUNDANT, ZERO (the normal is exactly zero) or UNDECIDED per row; UNDECIDED too
        for rows that were not asked about.
    points : float64 (m, k)
        For a FACET, a point that has slack in all other rows and is within rounding of the
        hyperplane: shifted onto it, it is in the relative interior of the facet. NaN elsewhere.
    multipliers : float64 (m, k)
        For a REDUNDANT row i, approximate multipliers > 0 of `rows`, with
        ``a_i = multipliers[i] @ A[rows[i]]`` up to rounding; then 0.
    rows : int64 (m, k)
        Rows of the multipliers; then -1. Exact multipliers of these rows exist and prove the
        row redundant, except where a finite `reach` was needed for the proof.
    pivots : int
    """

    verdict: Ints
    points: Floats
    multipliers: Floats
    rows: Ints
    pivots: int


def work(m: int, k: int) -> Work:
    """Room for polyhedra of up to m rows in exactly k coordinates."""
    return Work(
        np.zeros((3, k, max(k + m, 2 * k))),
        np.zeros((REALS, k + m)),
        np.zeros((WHOLES, k + m), np.int64),
    )


@kernel
def facets_kernel(
    A: Floats, b: Floats, err: Floats, depth: Ints, rank: Ints, start: Floats, reach: float,
    ask: Bools, verdict: Ints, witness: Floats, support: Ints, work: Work,
) -> int:  # fmt: skip
    """Settle the rows of ``{u : A u <= b}``, compiled, without allocation; see `facets`.

    Parameters
    ----------
    A, b : float64 (m, k), (m,), finite
    err : float64 (m, 2)
        Bounds on the error of every entry of a row's normal and on that of its b; 0: exact.
    depth : int64 (m,), rank : int64 (n,)
        The true normals of all rows with ``depth >= l`` lie in one space of at most ``rank[l]``
        dimensions (``rank[0] = k``).
    start : float64 (k,)
        A point inside; the true polyhedron must have an interior. Nothing else is assumed of it,
        but near a hyperplane, less is decided.
    reach : float
        Bound on ``|u_c - start_c|`` over the polyhedron, infinite if there is none.
    ask : bool (m,)
        The rows to settle; the others are constraints only (facets known already, a domain's).
    verdict : integer (m,), written
    witness : float64 (m, k), written
        Per FACET its point, per REDUNDANT row its multipliers, then 0; other rows are left alone.
    support : int64 (m, k), written
        Per REDUNDANT row the rows of the multipliers, then -1; other rows are left alone.
    work : Work
        From `work`, for at least m rows and exactly k coordinates.

    Returns
    -------
    int
        Pivots made.
    """
    return search(
        A, b, err, depth, rank,
        start, reach, ask, verdict, witness,
        support, work.grid, work.real, work.whole,
    )  # fmt: skip


def facets(
    A: npt.ArrayLike,
    b: npt.ArrayLike,
    start: npt.ArrayLike,
    *,
    error: npt.ArrayLike = 0.0,
    reach: float = np.inf,
    ask: npt.ArrayLike | None = None,
    depth: npt.ArrayLike | None = None,
    rank: npt.ArrayLike | None = None,
) -> Facets:
    """Decide which rows of ``{u : A u <= b}`` are facets and which are redundant, with proofs.

    Parameters
    ----------
    A, b : float64 (m, k), (m,)
        Finite. Rows may be duplicated, zero or badly scaled; the polyhedron may be unbounded and
        contain lines, but must have an interior.
    start : float64 (k,)
        A point in the interior, the deeper the better.
    error : float, (m,) or (m, 2)
        Bounds on the absolute error of every entry of a row, or of its normal and of its b
        separately. A verdict holds for all rows within them. 0: the floats are exact.
    reach : float
        Bound on ``|u_c - start_c|`` over the polyhedron. A finite one makes proofs of redundancy
        cheaper, and possible where a row is not exactly a combination of rows.
    ask : bool (m,), optional
        The rows to settle; the others are constraints only. Default: all.
    depth, rank : int64 (m,), (n,), optional
        What is known of the true normals where errors hide it: all rows with ``depth >= l`` lie
        in one space of at most ``rank[l]`` dimensions. As many members of a proof span it, and
        redundancy can be proved without a bound on the polyhedron.

    Returns
    -------
    Facets
        REDUNDANT rows are strictly redundant, or touch in a face of lower dimension; the latter is
        proved for rows through the origin only (``b == 0`` exactly). Duplicates of a facet, other
        rows that touch, and rows that rounding cannot tell are UNDECIDED.

    Raises
    ------
    ProblemError
        For malformed arguments, or a start that is outside.
    """
    A = np.ascontiguousarray(A, dtype=np.float64)
    b = np.ascontiguousarray(b, dtype=np.float64)
    start = np.ascontiguousarray(start, dtype=np.float64)
    if A.ndim != 2 or b.shape != A.shape[:1] or start.shape != A.shape[1:]:
        raise ProblemError(
            f"got A {A.shape}, b {b.shape} and start {start.shape}, expected (m, k), (m,) and (k,)"
        )
    if not (np.isfinite(A).all() and np.isfinite(b).all() and np.isfinite(start).all()):
        raise ProblemError("A, b and start must be finite: leave out the rows without a bound")
    m, k = A.shape
    err = np.asarray(error, dtype=np.float64)
    if err.shape not in ((), (m,), (m, 2)) or not (np.isfinite(err) & (err >= 0.0)).all():
        raise ProblemError(
            f"error must be finite, >= 0, and a number, ({m},) or ({m}, 2); got shape {err.shape}"
        )
    err = np.broadcast_to(err[:, None] if err.ndim == 1 else err, (m, 2)).copy()
    if not reach > 0.0:
        raise ProblemError(f"reach must be positive, infinite where there is no bound; got {reach}")
    asked = np.ones(m, np.bool_) if ask is None else np.ascontiguousarray(ask)
    if asked.shape != (m,) or asked.dtype != np.bool_:
        raise ProblemError(f"ask must be bool ({m},); got {asked.dtype} {asked.shape}")
    depths = np.zeros(m, np.int64) if depth is None else np.ascontiguousarray(depth, np.int64)
    ranks = np.array([k]) if rank is None else np.ascontiguousarray(rank, np.int64)
    if depths.shape != (m,) or ranks.ndim != 1 or not ((depths >= 0) & (depths < len(ranks))).all():
        raise ProblemError(
            f"depth must be ({m},) with values from 0 to {len(ranks) - 1}, the entries of rank"
        )
    size = np.abs(b) + np.abs(A) @ np.abs(start)
    doubt = (k + 4) * 2.0**-52 * size + err[:, 1] + err[:, 0] * np.abs(start).sum()
    outside = np.flatnonzero(b - A @ start < -doubt)
    if len(outside):
        raise ProblemError(
            f"start violates row {outside[0]} (and {len(outside) - 1} more): it must be inside"
        )
    verdict = np.zeros(m, np.int64)
    witness = np.zeros((m, k))
    support = np.full((m, k), -1, np.int64)
    pivots = facets_kernel(
        A, b, err, depths, ranks, start, float(reach), asked, verdict, witness, support,
        work(m, k),
    )  # fmt: skip
    points = np.where((verdict == FACET)[:, None], witness, np.nan)
    multipliers = np.where((verdict == REDUNDANT)[:, None], witness, 0.0)
    return Facets(verdict, points, multipliers, support, int(pivots))
