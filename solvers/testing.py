# ruff: noqa: D102 - a test's name is its summary
"""The contract that every backend passes, ours and third parties'.

In a test file of yours (pytest must be installed)::

    from solvers.testing import BackendContract

    class TestMySolver(BackendContract):
        backend = "mysolver"          # a registered name, or a Backend

Tests of what `Capabilities` denies are skipped. Every number below was worked out by hand.
"""

import time
from collections.abc import Callable
from typing import ClassVar, Final

import numpy as np
import pytest

from solvers.backend import Backend
from solvers.check import rational_dual_bound, rational_farkas, ray_holds, safe_dual_bound
from solvers.problem import (
    FloatArray,
    LinearProgram,
    MixedIntegerProgram,
    Problem,
    QuadraticProgram,
)
from solvers.registry import get
from solvers.session import Session
from solvers.solution import Solution, Status
from solvers.solve import solve

__all__ = ["BackendContract"]

CLOSE: Final = 1e-7
"""`RESIDUAL_SLACK` times the default tolerance: what `solve` lets pass on problems of size one."""


class BackendContract:
    """Subclass it, set `backend`; pytest does the rest."""

    backend: ClassVar[str | Backend]

    @property
    def _backend(self) -> Backend:
        return get(self.backend) if isinstance(self.backend, str) else self.backend

    def _solve(self, problem: Problem, start: FloatArray | None = None) -> Solution:
        if not self._backend.capabilities.supports(problem):
            pytest.skip(f"{self._backend.name} does not solve a {type(problem).__name__}")
        return solve(problem, self._backend, start=start)

    def _optimal(self, problem: Problem, value: float, x: list[float] | None = None) -> Solution:
        found = self._solve(problem)
        assert found.status is Status.OPTIMAL, found
        assert found.value == pytest.approx(value, abs=CLOSE)
        assert found.x is not None
        assert found.value == problem.objective(found.x)
        if x is not None:
            np.testing.assert_allclose(found.x, x, atol=CLOSE)
        assert found.dual_bound <= found.value
        if isinstance(problem, MixedIntegerProgram):
            assert found.duals is None
            assert "status" in found.solver_word
        elif self._backend.capabilities.duals:
            self._check_duals(problem, found)
            assert found.solver_word == ()
        return found

    def _check_duals(self, problem: Problem, found: Solution) -> None:
        """Signs, stationarity, complementarity and strong duality."""
        assert found.duals is not None
        assert found.x is not None
        y, z = found.duals.rows, found.duals.columns
        np.testing.assert_allclose(z, problem.gradient(found.x) - problem.A.T @ y, atol=1e-12)
        activity = problem.A @ found.x
        for multiplier, value, low, high in (
            (y, activity, problem.row_lower, problem.row_upper),
            (z, found.x, problem.lower, problem.upper),
        ):
            assert np.all((multiplier <= CLOSE) | (value - low <= CLOSE))
            assert np.all((multiplier >= -CLOSE) | (high - value <= CLOSE))
        assert found.dual_bound == pytest.approx(found.value, abs=10 * CLOSE)
        safe = safe_dual_bound(problem, y, found.x)
        exact = rational_dual_bound(problem, y, found.x)
        assert safe == -np.inf or (exact is not None and safe <= exact)

    # Optimal

    def test_optimal(self) -> None:
        self._optimal(LinearProgram([1, 1], [[1, 2]], 2, lower=0, upper=10), 1.0, [0, 1])

    def test_dual_of_an_upper_row_is_negative(self) -> None:
        found = self._optimal(LinearProgram([-2, -1], [[1, 1]], row_upper=3, lower=0), -6.0, [3, 0])
        if found.duals is not None:
            np.testing.assert_allclose(found.duals.rows, [-2], atol=CLOSE)
            np.testing.assert_allclose(found.duals.columns, [0, 1], atol=CLOSE)

    def test_dual_of_a_range_row(self) -> None:
        for sign, value in ((1.0, 1.0), (-1.0, -4.0)):
            found = self._optimal(LinearProgram([sign], [[1]], 1, 4), value)
            if found.duals is not None:
                np.testing.assert_allclose(found.duals.rows, [sign], atol=CLOSE)

    def test_equality_rows(self) -> None:
        A = [[1, 1, 1], [1, -1, 0]]
        self._optimal(LinearProgram([1, 2, 3], A, [6, 0], [6, 0], 0), 9.0, [3, 3, 0])

    def test_free_variables(self) -> None:
        A = [[1, 1], [1, -1]]
        self._optimal(LinearProgram([1, 0], A, [-2, -4], np.inf), -3.0, [-3, 1])

    def test_fixed_variables(self) -> None:
        problem = LinearProgram([1, 1], [[1, 1]], 3, lower=[2, 0], upper=[2, 9])
        self._optimal(problem, 3.0, [2, 1])

    def test_no_rows(self) -> None:
        self._optimal(LinearProgram([1, -1, 0], lower=-1, upper=2), -3.0)

    def test_zero_rows_that_hold(self) -> None:
        A = [[0, 0], [1, 1], [0, 0]]
        self._optimal(LinearProgram([1, 1], A, [-1, 1, 0], [1, 5, 0], 0), 1.0)

    def test_degenerate(self) -> None:
        A = np.concatenate([np.tile([[1.0, 1.0]], (6, 1)), [[2, 2], [1, 0], [0, 1], [1, 2]]])
        row_upper = np.array([1, 1, 1, 1, 1, 1, 2, 1, 1, 2.0])
        self._optimal(LinearProgram([-1, -1], A, -np.inf, row_upper, 0), -1.0)

    def test_dependent_equalities(self) -> None:
        A = [[1, 1], [2, 2], [-1, -1]]
        self._optimal(LinearProgram([1, 2], A, [1, 2, -1], [1, 2, -1], 0), 1.0, [1, 0])

    def test_beales_example_does_not_cycle(self) -> None:
        A = [[0.25, -60, -0.04, 9], [0.5, -90, -0.02, 3], [0, 0, 1, 0]]
        problem = LinearProgram([-0.75, 150, -0.02, 6], A, -np.inf, [0, 0, 1], 0)
        self._optimal(problem, -0.05, [0.04, 0, 1, 0])

    def test_column_that_stands_nowhere(self) -> None:
        self._optimal(LinearProgram([0, 1], [[0, 1]], 1, lower=[2, 0], upper=[2, 9]), 1.0, [2, 1])

    def test_tiny_coefficients_are_not_lost(self) -> None:
        tiny = 1e-12
        problem = LinearProgram([tiny, 2 * tiny], [[tiny, tiny]], tiny, lower=0, upper=9)
        found = self._solve(problem)
        assert found.status is Status.OPTIMAL
        assert found.x is not None
        np.testing.assert_allclose(found.x, [1, 0], atol=CLOSE)

    def test_huge_coefficients(self) -> None:
        huge = 1e12
        self._optimal(LinearProgram([1], [[huge]], huge, lower=0), 1.0, [1])

    # Infeasible and unbounded

    @pytest.mark.parametrize(
        "problem",
        [
            LinearProgram([0, 0], [[1, 1]], 3, lower=0, upper=1),
            LinearProgram([1, -1], [[1, 1], [2, 2]], [-np.inf, 6], [2, np.inf]),
            LinearProgram([1], [[0]], row_upper=-1),
            LinearProgram([1], [[0]], row_lower=1e-20),
            LinearProgram([-1, 0], [[1, -1], [1, -1]], [-np.inf, 1], [0, np.inf], 0),
        ],
        ids=["box", "parallel-rows", "zero-row", "tiny-zero-row", "dual-infeasible-too"],
    )
    def test_infeasible_with_farkas_proof(self, problem: LinearProgram) -> None:
        found = self._solve(problem)
        assert found.status is Status.INFEASIBLE, found
        assert found.x is None
        assert found.value == np.inf
        assert found.ray is not None
        assert rational_farkas(problem, found.ray)

    @pytest.mark.parametrize(
        "problem",
        [
            LinearProgram([-1, 0], [[1, -1]], row_upper=0, lower=0),
            LinearProgram([1, 0]),
            LinearProgram([-1, -1], [[1, -2], [-2, 1]], row_upper=1, lower=0),
        ],
        ids=["half-plane", "no-rows", "cone"],
    )
    def test_unbounded_with_ray(self, problem: LinearProgram) -> None:
        found = self._solve(problem)
        assert found.status is Status.UNBOUNDED, found
        assert found.value == -np.inf
        assert found.x is not None
        assert found.ray is not None
        assert ray_holds(problem, found.ray)

    # Starts

    def test_a_wrong_start_changes_nothing(self) -> None:
        start = np.array([-7.0, 1e3])
        problems: list[tuple[Problem, float]] = [
            (LinearProgram([1, 1], [[1, 2]], 2, lower=0, upper=10), 1.0),
            (QuadraticProgram([0, 0], 2 * np.eye(2), [[1, 1]], 2, lower=0, upper=10), 2.0),
            (MixedIntegerProgram([1, 1], True, [[1, 2]], 3, lower=0, upper=10), 2.0),
        ]
        for problem, value in problems:
            if self._backend.capabilities.supports(problem):
                found = solve(problem, self._backend, start=start)
                assert found.status is Status.OPTIMAL
                assert found.value == pytest.approx(value, abs=CLOSE)

    # Limits

    @pytest.mark.parametrize("limit", [0.0, 0.2])
    def test_time_limit(self, limit: float) -> None:
        if not self._backend.capabilities.time_limit:
            pytest.skip(f"{self._backend.name} has no time limit")
        rng = np.random.default_rng(0)
        n = 600 if self._backend.capabilities.lp else 1500
        A, c = rng.normal(size=(n, n)), rng.normal(size=n)
        problem: Problem = LinearProgram(c, A, -1, 1, -1, 1)
        if self._backend.capabilities.mip:  # a market split: small and very hard
            A = rng.integers(0, 100, size=(5, 40)).astype(float)
            half = np.floor(A.sum(axis=1) / 2)
            slack = np.concatenate([A, np.eye(5), -np.eye(5)], axis=1)
            upper = np.concatenate([np.ones(40), np.full(10, np.inf)])
            cost = np.concatenate([np.zeros(40), np.ones(10)])
            whole = np.arange(50) < 40
            problem = MixedIntegerProgram(cost, whole, slack, half, half, 0, upper)
        elif not self._backend.capabilities.lp:
            problem = QuadraticProgram(c, np.eye(n), A, -1, 1, -1, 1)
        begin = time.perf_counter()
        found = solve(problem, self._backend, time_limit=limit)
        assert time.perf_counter() - begin < limit + 3.0  # the clock of a busy machine
        assert found.status is Status.TIME_LIMIT, found
        assert found.dual_bound <= found.value
        if isinstance(problem, MixedIntegerProgram):
            assert found.dual_bound <= 1.0 + CLOSE  # the optimum, by hours of search
            assert "status" not in found.solver_word

    # Sessions

    def test_session_follows_every_change(self) -> None:
        base = LinearProgram([1, 1], [[1, 2]], 2, lower=0, upper=10)
        self._solve(base)
        with Session(base, self._backend) as session:
            steps: list[tuple[Callable[[], None], float]] = [
                (lambda: None, 1.0),
                (lambda: session.change_objective([1, 3]), 2.0),
                (lambda: session.change_row_bounds(0, 4, np.inf), 4.0),
                (lambda: session.change_bounds([0], 0, 3), 4.5),
                (lambda: session.add_rows([[0, 1], [1, 0]], [1, -9], np.inf), 5.0),
                (lambda: session.delete_rows([1]), 4.5),
                (lambda: session.change_row_bounds([0, 1], [2, -np.inf], [np.inf, 1]), 2.5),
            ]
            for change, value in steps:
                change()
                found = session.solve()
                assert found.status is Status.OPTIMAL, found
                assert found.value == pytest.approx(value, abs=CLOSE)
                cold = solve(session.problem, self._backend)
                assert cold.value == pytest.approx(value, abs=CLOSE)
            session.change_bounds([0, 1], 0, 0.25)
            found = session.solve()
            assert found.status is Status.INFEASIBLE
            assert found.ray is not None
            assert rational_farkas(session.problem, found.ray)
            session.change_bounds([0, 1], 0, 10)
            assert session.solve().status is Status.OPTIMAL

    def test_qp_session_follows_every_change(self) -> None:
        base = QuadraticProgram([0, 0], 2 * np.eye(2), [[1, 1]], 2, lower=0, upper=10)
        self._solve(base)
        with Session(base, self._backend) as session:
            steps: list[tuple[Callable[[], None], float]] = [
                (lambda: None, 2.0),
                (lambda: session.change_objective([-2, 0]), -0.5),
                (lambda: session.change_row_bounds(0, 4, 4), 3.5),
                (lambda: session.change_bounds([0], 0, 1), 8.0),
                (lambda: session.add_rows([[1, -1]], -1, np.inf), np.inf),
                (lambda: session.change_bounds([0], 0, 10), 3.5),
                (lambda: session.delete_rows([0]), -1.0),
            ]
            for change, value in steps:
                change()
                found = session.solve()
                if value == np.inf:  # x <= 1, x + y = 4 and y <= x + 1 leave nothing
                    assert found.status is Status.INFEASIBLE
                    assert found.ray is not None
                    assert rational_farkas(session.problem, found.ray)
                    continue
                assert found.status is Status.OPTIMAL, found
                assert found.value == pytest.approx(value, abs=CLOSE)

    def test_session_time_limit_is_per_solve(self) -> None:
        base: Problem = LinearProgram([1, 1], [[1, 2]], 2, lower=0, upper=10)
        if not self._backend.capabilities.lp:
            base = QuadraticProgram(base.c, np.eye(2), base.A, 2, lower=0, upper=10)
        self._solve(base)
        with Session(base, self._backend) as session:
            for k in range(20):
                session.change_row_bounds(0, 2.0 + k, np.inf)
                time.sleep(0.01)
                assert session.solve(time_limit=0.1).status is Status.OPTIMAL

    def test_warm_resolve_saves_iterations(self) -> None:
        if not self._backend.capabilities.incremental:
            pytest.skip(f"{self._backend.name} is not incremental")
        rng = np.random.default_rng(1)
        A = rng.normal(size=(60, 40))
        problem: Problem = LinearProgram(rng.normal(size=40), A, -5, 5, -1, 1)
        if not self._backend.capabilities.lp:
            problem = QuadraticProgram(problem.c, np.eye(40), A, -0.3, 0.3, -1, 1)
        with Session(problem, self._backend) as session:
            first = session.solve()
            assert first.stats.iterations > 10
            session.change_row_bounds(0, 0.99 * problem.row_lower[0], 0.99 * problem.row_upper[0])
            assert session.solve().stats.iterations < first.stats.iterations // 2

    # Mixed-integer

    def test_mip(self) -> None:
        problem = MixedIntegerProgram([-5, -4, -3], True, [[2, 3, 1], [4, 1, 2]], -np.inf, [5, 11])
        problem = problem.updated(lower=np.zeros(3), upper=np.full(3, 3.0))
        found = self._optimal(problem, -14.0)
        assert found.x is not None
        assert np.array_equal(found.x, np.round(found.x))
        assert found.duals is None
        assert found.dual_bound == pytest.approx(-14.0, rel=2 * CLOSE)

    def test_mixed_mip_accepts_a_start(self) -> None:
        problem = MixedIntegerProgram([-1, -1], [True, False], [[3, 2]], row_upper=7.5, lower=0)
        problem = problem.updated(upper=np.array([2.0, 1.3]))
        found = self._solve(problem, start=np.array([1.0, 1.0]))
        assert found.status is Status.OPTIMAL
        assert found.x is not None
        np.testing.assert_allclose(found.x, [1, 1.3] if found.x[0] == 1 else [2, 0.75], atol=CLOSE)
        assert found.value == pytest.approx(-2.75, abs=CLOSE)

    def test_mip_gap_is_closed(self) -> None:
        # Two points within 1e-5: a solver left at its relative gap of 1e-4 may stop at either.
        cost = [-1.0, -1.0 - 1e-5]
        self._optimal(MixedIntegerProgram(cost, True, [[1, 1]], 0, 1, 0, 1), cost[1], [0, 1])

    def test_big_m_is_not_leaked_through(self) -> None:
        # z = 1e-7 passes for an integer at a tolerance of 1e-6: no answer is allowed, 0 is not.
        problem = MixedIntegerProgram([0, 1], [False, True], [[1, -1e6]], row_upper=0, lower=0)
        problem = problem.updated(lower=[0.1, 0], upper=[0.1, 1])
        found = self._solve(problem)
        assert (found.status, found.value) in ((Status.OPTIMAL, 1.0), (Status.NUMERICAL, np.inf))
        assert found.dual_bound <= 1.0

    def test_mip_with_fractional_bounds(self) -> None:
        # HiGHS 1.15.1 presolves this to "infeasible" unless the bounds are rounded first.
        problem = MixedIntegerProgram([-1, 1], True, [[-1, -1]], 0, np.inf, -0.01, 0.3)
        self._optimal(problem, 0.0, [0, 0])

    def test_mip_without_integers(self) -> None:
        problem = MixedIntegerProgram([2, -1], False, [[1, 2]], -9, 0, [0, -3], [3, -1])
        self._optimal(problem, 1.0, [0, -1])

    def test_mip_with_integers_nowhere(self) -> None:
        problem = MixedIntegerProgram([0, 1], [True, False], [[0, 1]], 0.5, np.inf, 0, 9)
        self._optimal(problem.updated(lower=[1.5, 0]), 0.5)

    def test_infeasible_mip(self) -> None:
        found = self._solve(MixedIntegerProgram([1, 1], True, [[2, 2]], 3, 3, 0, 5))
        assert found.status is Status.INFEASIBLE
        assert found.x is None
        assert found.solver_word == ("status", "dual_bound")  # no ray proves it

    def test_unbounded_mip(self) -> None:
        found = self._solve(MixedIntegerProgram([-1, 0], True, [[1, -1]], 0, 0, 0))
        assert found.status in (Status.UNBOUNDED, Status.INFEASIBLE_OR_UNBOUNDED)

    def test_miqp(self) -> None:
        problem = MixedIntegerProgram([-3.2, 0], True, [[1, 1]], 0, 4, 0, 4, P=2 * np.eye(2))
        self._optimal(problem, 4 - 6.4, [2, 0])

    # Quadratic

    def test_qp_inside_and_on_the_boundary(self) -> None:
        P = np.array([[2.0, 0.0], [0.0, 2.0]])
        self._optimal(QuadraticProgram([-2, -2], P, [[1, 1]], row_upper=5), -2.0, [1, 1])
        self._optimal(QuadraticProgram([-2, -2], P, [[1, 1]], row_upper=1), -1.5, [0.5, 0.5])
        self._optimal(QuadraticProgram([-2, -2], P, lower=2, upper=3), 0.0, [2, 2])

    def test_qp_with_singular_p(self) -> None:
        P = np.array([[2.0, 0.0], [0.0, 0.0]])
        self._optimal(QuadraticProgram([-1, 1], P, [[0, 1]], -1, 1), -1.25, [0.5, -1])

    def test_infeasible_qp(self) -> None:
        problem = QuadraticProgram([0, 0], np.eye(2), [[1, 1]], 3, lower=0, upper=1)
        found = self._solve(problem)
        assert found.status is Status.INFEASIBLE
        assert found.ray is not None
        assert rational_farkas(problem, found.ray)

    def test_unbounded_qp(self) -> None:
        problem = QuadraticProgram([0, -1], np.diag([1.0, 0.0]), [[1, 0]], 0)
        found = self._solve(problem)
        assert found.status is Status.UNBOUNDED, found
        assert found.ray is not None
        assert ray_holds(problem, found.ray)
