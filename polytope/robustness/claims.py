"""What solvers of mixed-integer programs said about a query: claims, kept apart from proofs."""

from __future__ import annotations

from dataclasses import dataclass

from polytope.robustness.tightening import Tighten
from solvers.problem import MixedIntegerProgram
from solvers.solution import Status


@dataclass(frozen=True)
class Attempt:
    """One run of a solver.

    Attributes
    ----------
    status : Status
    claimed_value : float
        Distance of its point, as it claims; inf where it has none.
    claimed_lower : float
        Nothing adversarial is nearer, as it claims, lowered by its tolerances.
    proved : float
        Distance of the witness that its point was proved to lead to; inf where it leads to none.
    seconds : float
    nodes : int
        -1 where the solver does not tell.
    message : str
        What the solver itself calls its status.
    wrong : str
        Why this was not believed; empty where nothing contradicts it.
    """

    status: Status
    claimed_value: float
    claimed_lower: float
    proved: float
    seconds: float
    nodes: int
    message: str
    wrong: str


@dataclass(frozen=True, eq=False)
class TargetRun:
    """One target class.

    Attributes
    ----------
    target : int
    proved_lower : float
        Nothing adversarial of this class is nearer, by CROWN.
    refuted : bool
        CROWN proves that there is nothing within the reach.
    attempts : tuple of Attempt
        The last is the one that counts; empty where no solver was asked.
    binaries : int
        Integer columns of the program.
    program : MixedIntegerProgram or None
        What was solved last; `solvers.mps.write_mps` writes it.
    unit : float
        Distance that one unit of the program's length stands for.
    """

    target: int
    proved_lower: float
    refuted: bool = False
    attempts: tuple[Attempt, ...] = ()
    binaries: int = 0
    program: MixedIntegerProgram | None = None
    unit: float = 1.0

    @property
    def status(self) -> Status | None:
        """How the last attempt ended."""
        return self.attempts[-1].status if self.attempts else None

    @property
    def retries(self) -> int:
        """Attempts after the first."""
        return max(0, len(self.attempts) - 1)

    @property
    def seconds(self) -> float:
        """Of all attempts."""
        return sum(attempt.seconds for attempt in self.attempts)

    @property
    def claimed_lower(self) -> float:
        """What is claimed of this class, or proved where that is more."""
        return max(self.proved_lower, self.attempts[-1].claimed_lower if self.attempts else 0.0)

    @property
    def contradicted(self) -> bool:
        """Whether even the last attempt is not believed."""
        return bool(self.attempts) and bool(self.attempts[-1].wrong)

    @property
    def finished(self) -> bool:
        """Whether the class was searched to the end."""
        return self.refuted or self.status in (Status.OPTIMAL, Status.INFEASIBLE)


@dataclass(frozen=True, eq=False)
class MixedIntegerRun:
    """What a solver said about a query.

    Attributes
    ----------
    solver : str
    tighten : "crown", "lp" or "mip"
    targets : tuple of TargetRun
        In the order in which they were solved.
    claimed_lower : float
        Nothing adversarial is nearer than this, by the solver's word: no proof, and not part of
        the interval.
    seconds : float
    """

    solver: str
    tighten: Tighten
    targets: tuple[TargetRun, ...]
    claimed_lower: float
    seconds: float

    @property
    def finished(self) -> bool:
        """Whether every class was searched to the end."""
        return all(run.finished for run in self.targets)

    @property
    def contradicted(self) -> bool:
        """Whether a witness, or a point that could not be proved, speaks against the solver."""
        return any(run.contradicted for run in self.targets)
