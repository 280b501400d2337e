"""The entry point against backends that lie, fail, or change their mind."""

import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest

from solvers import (
    Backend,
    Capabilities,
    Duals,
    LinearProgram,
    MixedIntegerProgram,
    ProblemError,
    QuadraticProgram,
    Session,
    Solution,
    SolverError,
    Stats,
    Status,
    UnsupportedProblemError,
    get,
    solve,
)

LP = LinearProgram([1, 1], [[1, 2]], 2, lower=0, upper=10)
STATS = Stats("scripted")
ONE = np.ones(1)


@dataclass
class Scripted(Backend):
    """Answers from a list, then honestly."""

    name: ClassVar[str] = "scripted"
    capabilities: ClassVar[Capabilities] = Capabilities(lp=True, mip=True, duals=True)
    answers: list[Solution]
    presolves: list[bool] = field(default_factory=list)

    def run(self, problem, *, tol, time_limit, presolve, start):
        self.presolves.append(presolve)
        if self.answers:
            return self.answers.pop(0)
        return get("highs").run(
            problem, tol=tol, time_limit=time_limit, presolve=presolve, start=start
        )


def _optimal(x, y):
    return Solution(Status.OPTIMAL, STATS, x=np.array(x), duals=Duals(np.array(y), np.zeros(2)))


WRONG = {
    "nan": _optimal([np.nan, 1.0], [0.5]),
    "infinite": _optimal([np.inf, 1.0], [0.5]),
    "no point": Solution(Status.OPTIMAL, STATS),
    "infeasible point": _optimal([0.0, 0.5], [0.5]),
    "outside its bounds": _optimal([-1.0, 1.5], [0.5]),
    "not optimal": _optimal([1.0, 1.0], [0.5]),
    "nan duals": _optimal([0.0, 1.0], [np.nan]),
    "dual of the wrong sign": _optimal([0.0, 1.0], [-0.5]),
    "unknown": Solution(Status.UNKNOWN, STATS),
    "stuck": Solution(Status.ITERATION_LIMIT, STATS),
    "infeasible, it says": Solution(Status.INFEASIBLE, STATS, ray=np.array([1.0])),
    "unbounded, it says": Solution(Status.UNBOUNDED, STATS, ray=np.array([-1.0, 0.0])),
}
CLAIMS = {"infeasible, it says", "unbounded, it says"}


@pytest.mark.parametrize("name", [name for name in WRONG if name not in CLAIMS])
def test_a_wrong_answer_is_retried_without_presolve(name):
    backend = Scripted([WRONG[name]])
    found = solve(LP, backend)
    assert found.status is Status.OPTIMAL
    assert found.value == pytest.approx(1.0)
    assert found.stats.attempts == 2
    assert backend.presolves == [True, False]


@pytest.mark.parametrize("name", list(WRONG))
def test_a_wrong_answer_given_twice_is_no_answer(name):
    found = solve(LP, Scripted([WRONG[name]] * 2 if name not in CLAIMS else [WRONG[name]]))
    assert found.status in (Status.NUMERICAL, Status.UNKNOWN, Status.ITERATION_LIMIT)
    assert found.dual_bound <= 1.0 <= found.value
    assert found.ray is None


def test_right_duals_of_the_wrong_point_are_not_trusted():
    far = LinearProgram([1e-9, 1], [[1, 1]], 1, lower=0, upper=10)
    found = solve(far, Scripted([_optimal([0.0, 1.0], [1.0])] * 2))
    assert found.status is Status.NUMERICAL


def test_mip_integers_are_exact_after_the_polish():
    mip = MixedIntegerProgram([-1, -1], [True, False], [[1, 1]], 0, 2.5, 0, 2)
    close = Solution(Status.OPTIMAL, STATS, x=np.array([1 + 5e-7, 1.5 - 5e-7]), dual_bound=-2.5)
    found = solve(mip, Scripted([close]))
    assert found.status is Status.OPTIMAL
    assert found.x is not None
    assert found.x[0] == 1
    assert found.x[1] == pytest.approx(1.5, abs=1e-12)


def test_mip_that_is_infeasible_once_rounded_is_not_optimal():
    mip = MixedIntegerProgram([0, 0], [True, False], [[1e6, 1]], 0.5, 0.5, [0, 0], [2, 0.2])
    close = Solution(Status.OPTIMAL, STATS, x=np.array([3e-7, 0.2]), dual_bound=0.0)
    assert solve(mip, Scripted([close])).status is Status.NUMERICAL


def test_a_fractional_incumbent_is_dropped():
    mip = MixedIntegerProgram([-1, -1], True, lower=0, upper=1)
    late = Solution(Status.TIME_LIMIT, STATS, x=np.array([0.5, 1.0]), dual_bound=-2.0)
    found = solve(mip, Scripted([late]))
    assert (found.status, found.x, found.value) == (Status.TIME_LIMIT, None, np.inf)
    assert found.dual_bound == pytest.approx(-2.0, rel=1e-6)
    assert found.dual_bound < -2.0
    assert found.solver_word == ("dual_bound",)


KNAPSACK = MixedIntegerProgram([-2, -3], True, [[2, 2]], 0, 5, 0, 9)  # optimum -6 at (0, 2)


def test_a_feasible_mip_called_infeasible_is_asked_again_without_presolve():
    backend = Scripted([Solution(Status.INFEASIBLE, STATS)])
    found = solve(KNAPSACK, backend)
    assert (found.status, found.value) == (Status.OPTIMAL, -6.0)
    assert backend.presolves[:2] == [True, False]


def test_infeasible_twice_is_claimed_as_the_solvers_word():
    found = solve(KNAPSACK, Scripted([Solution(Status.INFEASIBLE, STATS)] * 2))
    assert found.status is Status.INFEASIBLE
    assert found.solver_word == ("status", "dual_bound")


def test_an_infeasible_relaxation_proves_a_mip_infeasible():
    backend = Scripted([Solution(Status.INFEASIBLE, STATS)])
    found = solve(MixedIntegerProgram([0, 0], True, [[1, 1]], 3, lower=0, upper=1), backend)
    assert found.status is Status.INFEASIBLE
    assert found.ray is not None
    assert found.solver_word == ()
    assert backend.presolves == [True]  # no second run is needed


def test_what_two_runs_do_not_agree_on_is_not_claimed():
    late = Solution(Status.TIME_LIMIT, STATS)
    found = solve(KNAPSACK, Scripted([Solution(Status.INFEASIBLE, STATS), late]))
    assert found.status is Status.TIME_LIMIT


def test_an_unbounded_relaxation_is_not_an_unbounded_mip():
    odd = MixedIntegerProgram([-1, 1], True, [[2, 2]], 3, 3)  # no integers sum to 3/2
    said = Solution(Status.UNBOUNDED, STATS)
    assert solve(odd, Scripted([said] * 2)).status is Status.INFEASIBLE_OR_UNBOUNDED


def test_infeasible_or_unbounded_within_bounds_is_infeasible():
    said = Solution(Status.INFEASIBLE_OR_UNBOUNDED, STATS)
    assert solve(KNAPSACK, Scripted([said] * 2)).status is Status.INFEASIBLE


def test_optimal_far_above_its_own_bound_is_a_search_cut_short():
    said = Solution(Status.OPTIMAL, STATS, x=np.array([1.0, 1.0]), dual_bound=-6.0)
    backend = Scripted([said])
    assert solve(KNAPSACK, backend).value == -6.0
    assert backend.presolves[:2] == [True, False]
    assert solve(KNAPSACK, Scripted([said] * 2)).status is Status.NUMERICAL


def test_a_mips_dual_bound_is_lowered_by_its_tolerances():
    # Costs are halved before a backend hears of them, so it says -3 of the optimum -6.
    said = Solution(Status.TIME_LIMIT, STATS, x=np.array([0.0, 2.0]), dual_bound=-3.0 + 1e-7)
    found = solve(KNAPSACK, Scripted([said]))
    assert -6.0 - 1e-6 < found.dual_bound <= -6.0
    assert found.solver_word == ("dual_bound",)


def test_an_incumbent_is_returned_with_integers():
    said = Solution(Status.TIME_LIMIT, STATS, x=np.array([1e-8, 2 - 1e-8]), dual_bound=-7.0)
    assert solve(KNAPSACK, Scripted([said])).x.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("solution", "word"),
    [
        (Solution(Status.OPTIMAL, STATS, dual_bound=1.0), ("status", "dual_bound")),
        (Solution(Status.OPTIMAL, STATS), ("status",)),
        (Solution(Status.OPTIMAL, STATS, dual_bound=1.0, duals=Duals(ONE, ONE)), ()),
        (Solution(Status.INFEASIBLE, STATS, dual_bound=np.inf), ("status", "dual_bound")),
        (Solution(Status.INFEASIBLE, STATS, dual_bound=np.inf, ray=ONE), ()),
        (Solution(Status.UNBOUNDED, STATS), ("status",)),
        (Solution(Status.UNBOUNDED, STATS, ray=ONE), ()),
        (Solution(Status.INFEASIBLE_OR_UNBOUNDED, STATS), ("status",)),
        (Solution(Status.TIME_LIMIT, STATS, dual_bound=1.0), ("dual_bound",)),
        (Solution(Status.TIME_LIMIT, STATS), ()),
    ],
)
def test_what_rests_on_the_solvers_word(solution, word):
    assert solution.solver_word == word


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tol": 1e-12}, "tol"),
        ({"tol": np.nan}, "tol"),
        ({"time_limit": -1}, "time_limit"),
        ({"time_limit": np.nan}, "time_limit"),
        ({"start": [1.0]}, "start"),
        ({"start": [1.0, np.nan]}, "start"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ProblemError, match=message):
        solve(LP, **arguments)


def test_unsupported_kind_names_a_backend_that_does_it():
    with pytest.raises(UnsupportedProblemError, match=r"quadratic program; .* do: highs"):
        solve(QuadraticProgram([1], [[1]]), "scipy")


def test_unsupported_kind_names_the_package_that_does_it(monkeypatch):
    module = sys.modules["solvers.solve"]  # the name means the function
    monkeypatch.setattr(module, "available", lambda: ("highs", "scipy"))
    with pytest.raises(UnsupportedProblemError, match=r"mixed-integer .* pip install pyscipopt"):
        solve(MixedIntegerProgram([1], True, P=[[1]]))


def test_ctrl_c_during_a_search_is_a_status():
    rng = np.random.default_rng(0)
    A = rng.integers(0, 100, size=(5, 40)).astype(float)
    half = np.floor(A.sum(axis=1) / 2)
    slack = np.concatenate([A, np.eye(5), -np.eye(5)], axis=1)
    cost = np.concatenate([np.zeros(40), np.ones(10)])
    upper = np.concatenate([np.ones(40), np.full(10, np.inf)])
    mip = MixedIntegerProgram(cost, np.arange(50) < 40, slack, half, half, 0, upper)
    # Not sent where the search has ended, whatever the reason: it would stop pytest instead.
    stop = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    stop.start()
    begin = time.perf_counter()
    found = solve(mip, "highs", time_limit=20)
    stop.cancel()
    assert found.status is Status.INTERRUPTED, found
    assert time.perf_counter() - begin < 10
    assert found.dual_bound <= found.value


class TestSession:
    def test_bad_changes_leave_it_as_it_was(self):
        with Session(LP) as session:
            for change in (
                lambda: session.change_objective([1]),
                lambda: session.change_objective([1, np.nan]),
                lambda: session.change_row_bounds(1, 0, 1),
                lambda: session.change_row_bounds(-1, 0, 1),
                lambda: session.change_row_bounds([0.5], 0, 1),
                lambda: session.change_row_bounds(0, 2, 1),
                lambda: session.change_bounds([0, 0], 0, 1),
                lambda: session.change_bounds([0, 1], [0, 0, 0], 1),
                lambda: session.add_rows([[1]]),
                lambda: session.add_rows([[1, np.inf]]),
                lambda: session.delete_rows([7]),
            ):
                with pytest.raises(ProblemError):
                    change()
            assert session.solve().value == pytest.approx(1.0)

    def test_closed_session_refuses(self):
        session = Session(LP)
        session.close()
        session.close()
        with pytest.raises(SolverError, match="closed"):
            session.solve()
        with pytest.raises(SolverError, match="closed"):
            session.change_bounds(0, 0, 1)

    def test_empty_changes(self):
        with Session(LP) as session:
            session.delete_rows([])
            session.add_rows(np.zeros((0, 2)))
            session.change_bounds([], 0, 1)
            assert session.solve().value == pytest.approx(1.0)

    def test_zero_row_made_false_by_its_bounds(self):
        with Session(LinearProgram([1], [[0.0]], -1, 1, 0, 1)) as session:
            assert session.solve().status is Status.OPTIMAL
            session.change_row_bounds(0, 1e-20, 1)
            assert session.solve().status is Status.INFEASIBLE
            session.change_row_bounds(0, 0, 1)
            assert session.solve().status is Status.OPTIMAL

    def test_a_warm_answer_that_fails_is_replaced_by_a_cold_one(self):
        with Session(LP, Scripted([WRONG["not optimal"]])) as session:
            assert session.solve().value == pytest.approx(1.0)

    def test_mip_and_qp(self):
        with Session(MixedIntegerProgram([-2, -3], True, [[2, 2]], 0, 5, 0, 9)) as session:
            assert session.solve().value == -6
            session.change_row_bounds(0, 0, 7)
            assert session.solve().value == -9
        with Session(QuadraticProgram([0, 0], np.eye(2), [[1, 1]], 2)) as session:
            assert session.solve().value == pytest.approx(1.0)
            session.change_row_bounds(0, 4, np.inf)
            assert session.solve().value == pytest.approx(4.0)
            session.change_objective([-9, 0])
            assert session.solve().value == pytest.approx(-40.5)
