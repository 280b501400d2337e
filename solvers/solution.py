"""What a solver returns: a status that says what to do, and the evidence for it."""

from dataclasses import dataclass
from enum import Enum, unique

import numpy as np

from solvers.problem import FloatArray

__all__ = ["Duals", "Solution", "Stats", "Status"]


@unique
class Status(Enum):
    """How a solve ended; the value is advice for people."""

    OPTIMAL = "Optimal within tolerance; take check.safe_dual_bound where you need a proof."
    INFEASIBLE = "No point satisfies the constraints; `ray` holds Farkas multipliers (LP, QP)."
    UNBOUNDED = "The objective falls for ever along `ray`; add the bound that is missing."
    INFEASIBLE_OR_UNBOUNDED = (
        "Infeasible or unbounded, the solver does not know which; bound every variable and solve "
        "again."
    )
    TIME_LIMIT = "Time ran out; [dual_bound, value] is the interval reached, allow more time."
    ITERATION_LIMIT = (
        "A limit on iterations, nodes or solutions was reached; [dual_bound, value] is the "
        "interval so far. Try another backend."
    )
    MEMORY_LIMIT = "Memory ran out; [dual_bound, value] is the interval so far."
    INTERRUPTED = "Stopped by the user; [dual_bound, value] is the interval so far."
    NUMERICAL = (
        "The answer failed our check or the solver broke down; rescale the data, loosen `tol`, or "
        "try another backend."
    )
    UNKNOWN = "The solver gave no answer, even cold and without presolve; try another backend."


@dataclass(frozen=True, eq=False)
class Duals:
    """Multipliers, in one convention for every backend: each is d(value) / d(bound).

    Attributes
    ----------
    rows : array (m,)
        y: y_i >= 0 where the lower bound of row i binds, <= 0 where the upper one does.
    columns : array (n,)
        Reduced costs ``z = c + Px - A'y``: z_j >= 0 at the lower bound, <= 0 at the upper one.
        Always recomputed from y, never read from a solver.
    """

    rows: FloatArray
    columns: FloatArray


@dataclass(frozen=True)
class Stats:
    """What the solve cost. Counts are -1 where the solver does not tell."""

    backend: str
    seconds: float = 0.0
    iterations: int = -1
    nodes: int = -1
    attempts: int = 1
    message: str = ""


@dataclass(frozen=True, eq=False)
class Solution:
    """The outcome of one solve.

    Attributes
    ----------
    status : Status
    x : array (n,) or None
        A feasible point, checked; the best known where the status is not OPTIMAL.
    value : float
        The objective at x, recomputed; +inf without x, -inf when unbounded.
    dual_bound : float
        A claimed lower bound on the optimum: the dual objective at `duals` for LP and QP (reduced
        costs within tolerance forgiven on unbounded columns), the solver's own for a MIP, lowered
        by its tolerances. A claim is no proof: see `solver_word` and `check.safe_dual_bound`.
    duals : Duals or None
        Never present for a MIP.
    ray : array or None
        INFEASIBLE: Farkas multipliers (m,), signed as `Duals.rows`. UNBOUNDED: a direction (n,)
        of descent that stays feasible. Checked within tolerance; None where nothing passed.
    stats : Stats
    """

    status: Status
    stats: Stats
    x: FloatArray | None = None
    value: float = np.inf
    dual_bound: float = -np.inf
    duals: Duals | None = None
    ray: FloatArray | None = None

    @property
    def solver_word(self) -> tuple[str, ...]:
        """Names of the fields that nothing here supports but the solver's word.

        Never a proof, however many digits they have: a MIP's "infeasible", "unbounded" and dual
        bound, and so its "optimal", come from a search that is not checked. For LP and QP the
        multipliers or the ray support them, within tolerance. ``x`` and ``value`` are always
        checked.
        """
        ended = (Status.INFEASIBLE, Status.UNBOUNDED, Status.INFEASIBLE_OR_UNBOUNDED)
        if (self.ray if self.status in ended else self.duals) is not None:
            return ()
        status = ("status",) if self.status in (Status.OPTIMAL, *ended) else ()
        return status if self.dual_bound == -np.inf else (*status, "dual_bound")
