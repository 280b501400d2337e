"""What `minimal_perturbation` returns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, overload

import numpy as np

from polytope.region import Region, region_at
from polytope.robustness.query import Query

if TYPE_CHECKING:
    import pandas as pd

    from polytope.certificate import Certificate
    from polytope.robustness.branch_and_bound import Branched
    from polytope.robustness.mip import MixedIntegerRun
    from polytope.robustness.traversal import Traversal

#: What an engine leaves behind, from which its bound can be proved again.
Evidence: TypeAlias = "Branched | Traversal | MixedIntegerRun"


@dataclass(frozen=True)
class Statistics:
    """What the search of one point took.

    Attributes
    ----------
    seconds : float
        Wall time, the attack included.
    attack_upper : float
        Distance of the witness that the attack found; inf without one.
    theorem_lower : float
        What Theorem 3.1 of MMR proves alone (one linear region); NaN if it was not asked.
    crown_lower : float
        The largest radius that CROWN proves alone; NaN if it was not asked.
    regions, nodes, programs : int
        Linear regions explored, nodes bounded, and programs solved.
    trace : tuple of (seconds, lower, upper)
        Each change of the interval.
    """

    seconds: float
    attack_upper: float = float("inf")
    theorem_lower: float = float("nan")
    crown_lower: float = float("nan")
    regions: int = 0
    nodes: int = 0
    programs: int = 0
    trace: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True, eq=False)
class Perturbation:
    """The interval that was proved for the minimal adversarial perturbation of one point.

    Attributes
    ----------
    lower : float
        Proved: no point of the box nearer than this (in the asked norm) changes the decision;
        inf if none at all does.
    upper : float
        Distance of `witness`, rounded up; inf if none was found.
    native_upper : float
        Distance of `native_witness`; inf without one.
    exact : bool
        Whether upper - lower is within the tolerance, relative to upper (or both are inf).
    status : str
        "exact", "interval", "misclassified" (distance 0), "unreachable" (proved: nothing in the
        box changes the decision); where a radius was asked for: "robust" (lower is at least the
        radius), "not robust" (upper is at most the radius), or "undecided".
    stopped : str
        Why the search ended early: "time_limit", "memory", "interrupt", "engine" (it had nothing
        left to do, as `explain` says), or "" if it did not.
    exactness : str
        "rational": `lower` was proved by a certificate that the checker of exact arithmetic has
        accepted; "safe-float": every rounding error is taken off; "float": computed in float64,
        as the error bounds of this (deep) network are too wide to be useful.
    label, target : int
        The class left, and the class that the witness goes to (-1 without one).
    witness : float64 (d,)
        In the box, and adversarial in exact arithmetic; NaN without one.
    native_witness : float64 (d,)
        In the source model's dtype and in the box, and decided otherwise by the source model
        itself; NaN without one.
    method : str
        The engine.
    explain : str
        Which engine was taken and why, and what it ended with.
    claimed : float
        The distance that a solver of mixed-integer programs claims: its word, not a proof; NaN
        where none was asked.
    stats : Statistics
    evidence : Branched, Traversal, MixedIntegerRun or None
        The nodes or regions with their multipliers, from which a proof can be written; None
        where none was needed, or the row was read from a file.
    """

    lower: float
    upper: float
    native_upper: float
    exact: bool
    status: str
    stopped: str
    exactness: str
    label: int
    target: int
    witness: np.ndarray = field(repr=False)
    native_witness: np.ndarray = field(repr=False)
    method: str
    explain: str
    claimed: float
    stats: Statistics = field(repr=False)
    evidence: Evidence | None = field(repr=False)
    query: Query = field(repr=False)

    def certificate(self, time_limit: float = 600.0) -> Certificate:
        """A proof of `lower`, with the witness, that `pt.check` reads.

        What the traversal found is proved by the regions that it explored; all else, and where
        they are not enough (`note` in the header says why), by a new branch and bound, which leans
        on fewer bounds than the engine's.

        Parameters
        ----------
        time_limit : float
            Seconds.

        Raises
        ------
        InputError
            If no proof was found: nothing is proved (lower is 0 and there is no witness), or time
            was up.
        """
        from polytope.robustness.robust_certificate import make_certificate  # compiled code

        return make_certificate(
            self.query, self.lower, self.witness, self.upper, time_limit, self.evidence
        )

    @property
    def region(self) -> Region | None:
        """The linear region of the witness; None without a witness."""
        if np.isnan(self.witness).any():
            return None
        return region_at(self.query.net, self.witness)


#: Columns of a table, in order.
COLUMNS = (
    "label", "target", "lower", "upper", "native_upper", "exact", "status", "stopped",
    "exactness", "method", "claimed",
)  # fmt: skip
STATISTICS = (
    "theorem_lower", "crown_lower", "attack_upper", "regions", "nodes", "programs", "seconds",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Perturbations(Sequence[Perturbation]):
    """The results of several points, one `Perturbation` each."""

    rows: tuple[Perturbation, ...]

    def __len__(self) -> int:
        """Number of points."""
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Perturbation: ...

    @overload
    def __getitem__(self, index: slice) -> Perturbations: ...

    def __getitem__(self, index: int | slice) -> Perturbation | Perturbations:
        """One point's result, or those of several."""
        return Perturbations(self.rows[index]) if isinstance(index, slice) else self.rows[index]

    def __iter__(self) -> Iterator[Perturbation]:
        """Point by point."""
        return iter(self.rows)

    @property
    def lower(self) -> np.ndarray:
        """Lower ends: float64 (n,)."""
        return np.array([row.lower for row in self.rows])

    @property
    def upper(self) -> np.ndarray:
        """Upper ends: float64 (n,)."""
        return np.array([row.upper for row in self.rows])

    @property
    def exact(self) -> np.ndarray:
        """Which intervals are closed: bool (n,)."""
        return np.array([row.exact for row in self.rows], dtype=bool)

    def to_frame(self) -> pd.DataFrame:
        """A pandas table, one line per point."""
        import pandas as pd  # slow to import, and only needed here

        columns = {name: [getattr(row, name) for row in self.rows] for name in COLUMNS}
        columns |= {name: [getattr(row.stats, name) for row in self.rows] for name in STATISTICS}
        return pd.DataFrame(columns)
