"""The traps of each library: a tiny model that springs it, or a fake library that does."""

import time
from importlib.metadata import version
from types import SimpleNamespace

import highspy
import numpy as np
import pulp as pulp_library
import pytest

from solvers import (
    LinearProgram,
    MixedIntegerProgram,
    QuadraticProgram,
    Session,
    Stats,
    Status,
    solve,
)
from solvers.backends import cvxpy, daqp, highs, pulp, scip
from solvers.solution import Solution

INF = np.inf
LP = LinearProgram([1, 1], [[1, 2]], 2, lower=0, upper=10)
QP = QuadraticProgram([0, 0], 2 * np.eye(2), [[1, 1]], 2, lower=0, upper=10)
MIP = MixedIntegerProgram([-5, -4], True, [[2, 3], [4, 1]], -INF, [5, 11], 0, 3)


def _run(backend, problem, time_limit=60.0, presolve=True):
    return backend.run(problem, tol=1e-9, time_limit=time_limit, presolve=presolve, start=None)


def _market_split(feasible_slack):
    """Small and hopeless: equal halves of five sums of forty; with slack, easy to start."""
    rng = np.random.default_rng(0)
    A = rng.integers(0, 100, size=(5, 40)).astype(float)
    half = np.floor(A.sum(axis=1) / 2)
    if not feasible_slack:
        return MixedIntegerProgram(np.zeros(40), True, A, half, half, 0, 1)
    slack = np.concatenate([A, np.eye(5), -np.eye(5)], axis=1)
    cost = np.concatenate([np.zeros(40), np.ones(10)])
    upper = np.concatenate([np.ones(40), np.full(10, INF)])
    return MixedIntegerProgram(cost, np.arange(50) < 40, slack, half, half, 0, upper)


class TestHighs:
    def test_infeasible_by_presolve_but_not_in_truth(self):
        """Why the bounds of integers are rounded: the solver itself, given them as they are."""
        model = highspy.Highs()
        model.setOptionValue("output_flag", False)
        for cost in (-1.0, 1.0):
            model.addCol(cost, -0.01, 0.3, 0, [], [])
        model.addRow(0.0, INF, 2, [0, 1], [-1.0, -1.0])
        model.changeColsIntegrality(2, [0, 1], [highspy.HighsVarType.kInteger] * 2)
        model.run()
        wrong = model.getModelStatus() == highspy.HighsModelStatus.kInfeasible
        found = solve(MixedIntegerProgram([-1, 1], True, [[-1, -1]], 0, INF, -0.01, 0.3), "highs")
        assert found.status is Status.OPTIMAL
        assert found.value == 0.0
        assert wrong or version("highspy") != "1.15.1"

    def test_a_stall_at_the_root_is_given_up_and_tried_again(self):
        hopeless = _market_split(True)
        first = _run(highs.HighsBackend(patience=0.0), hopeless, 5.0)
        assert first.status is Status.ITERATION_LIMIT
        found = solve(hopeless, highs.HighsBackend(patience=0.0), time_limit=0.5)
        assert found.status is Status.TIME_LIMIT
        assert found.stats.attempts == 2

    @pytest.mark.parametrize(
        ("seconds", "nodes", "given_up"), [(9.0, 1, False), (11.0, 1, True), (11.0, 2, False)]
    )
    def test_only_a_search_long_at_its_root_is_given_up(self, seconds, nodes, given_up):
        engine = highs._HighsEngine(MIP, 1e-9, 0, True)
        engine.watch(10.0)
        stopped = []
        told = SimpleNamespace(running_time=seconds, mip_node_count=nodes)
        event = SimpleNamespace(data_out=told, interrupt=lambda: stopped.append(True))
        engine._highs.cbMipInterrupt.callbacks[-1](event)
        assert bool(stopped) == engine._stalled == given_up

    def test_the_second_attempt_has_another_seed_and_no_presolve(self, monkeypatch):
        seen = []
        made = highs._HighsEngine

        def spy(problem, tol, seed, presolve):
            seen.append((seed, presolve))
            return made(problem, tol, seed, presolve)

        monkeypatch.setattr(highs, "_HighsEngine", spy)
        solve(_market_split(True), highs.HighsBackend(seed=3, patience=0.0), time_limit=0.3)
        assert seen[:2] == [(3, True), (4, False)]

    def test_tolerances_are_asked_for_everywhere(self):
        engine = highs._HighsEngine(MIP, 1e-9, 0, True)
        for option in (
            "primal_feasibility_tolerance",
            "dual_feasibility_tolerance",
            "mip_feasibility_tolerance",
            "mip_rel_gap",
            "mip_abs_gap",
        ):
            assert engine._highs.getOptionValue(option)[1] == 1e-9, option

    def test_an_unknown_warm_answer_is_asked_again_cold(self, monkeypatch):
        with Session(LP, "highs") as session:
            unknown = Solution(Status.UNKNOWN, Stats("highs"))
            monkeypatch.setattr(session._engine, "run", lambda _: unknown)
            assert session.solve().value == pytest.approx(1.0)

    def test_a_refused_model_is_not_run(self):
        """Running it, a bound of 1e20 and no curvature, crashed the process."""
        refused = QuadraticProgram([1.5], [[0]], [[1.9], [1.1]], [0, 1e21], [1, 2e21], 3, 3.1)
        assert _run(highs.HighsBackend(), refused).status is Status.NUMERICAL

    def test_a_status_of_tomorrow_is_no_answer(self, monkeypatch):
        monkeypatch.setattr(highs, "STATUS", {})
        assert _run(highs.HighsBackend(), LP).status is Status.UNKNOWN


class TestPulp:
    def test_time_out_with_a_point_is_not_optimal(self):
        found = _run(pulp.PulpBackend(), _market_split(True), 0.5)
        assert found.status is Status.TIME_LIMIT
        assert found.x is not None
        assert found.dual_bound <= 1.0

    def test_pulp_itself_calls_that_optimal(self):
        """The trap: if this fails, PuLP is cured and `sol_status` no longer needed."""
        model, _, _ = pulp._model(_market_split(True))
        path = pulp_library.PULP_CBC_CMD.pulp_cbc_path
        model.solve(pulp_library.COIN_CMD(path=path, msg=False, timeLimit=0.5))
        assert pulp_library.LpStatus[model.status] == "Optimal"
        assert model.sol_status == pulp_library.LpSolutionIntegerFeasible

    def test_time_out_without_a_point(self):
        found = _run(pulp.PulpBackend(), _market_split(False), 0.5)
        assert found.status is Status.TIME_LIMIT
        assert found.x is None

    def test_values_of_an_infeasible_model_are_dropped(self):
        infeasible = LinearProgram([1, 1], [[1, 1]], 3, lower=0, upper=1)
        model, x, rows = pulp._model(infeasible)
        path = pulp_library.PULP_CBC_CMD.pulp_cbc_path
        model.solve(pulp_library.COIN_CMD(path=path, msg=False))
        assert all(variable.varValue is not None for variable in x)  # the garbage
        found = pulp._answer(infeasible, model, x, rows, "", 0.0)
        assert found.status is Status.INFEASIBLE
        assert found.x is None

    def test_infeasible_or_unbounded_is_not_called_infeasible(self):
        found = _run(pulp.PulpBackend(), MixedIntegerProgram([1, 1], True, [[2, 2]], 3, 3, 0, 5))
        assert found.status is Status.INFEASIBLE_OR_UNBOUNDED
        unbounded = MixedIntegerProgram([-1, 1], True, [[2, 2]], 3, 3)
        assert solve(unbounded, "pulp").status is not Status.UNBOUNDED

    def test_a_bound_of_three_decimals_is_rounded_down(self):
        model = SimpleNamespace(status=0, sol_status=0)
        said = "\nResult - Stopped on time limit\n\nLower bound:                    1.235\n"
        found = pulp._answer(MIP, model, [], [], said, 0.0)  # CBC's bound may be 1.2345
        assert found.dual_bound <= 1.2345
        assert found.status is Status.TIME_LIMIT

    def test_steps_of_the_objective_are_not_inferred(self, monkeypatch):
        seen = []
        made = pulp_library.COIN_CMD

        def spy(**settings):
            seen.append(settings)
            return made(**settings)

        monkeypatch.setattr(pulp.pulp, "COIN_CMD", spy)
        solve(MIP, "pulp")
        assert "increment 1e-10" in seen[0]["options"]
        assert "integerT 1e-09" in seen[0]["options"]
        assert seen[0]["gapRel"] == 1e-9

    def test_eight_digits_become_sixteen(self):
        third = MixedIntegerProgram([0, 1], [True, False], [[0, 3]], 1, INF, 0, 9)
        rough = _run(pulp.PulpBackend(), third)
        assert abs(rough.x[1] - 1 / 3) > 1e-12  # CBC prints no more
        assert abs(solve(third, "pulp").x[1] - 1 / 3) < 1e-15

    def test_columns_that_stand_nowhere_keep_their_bounds(self):
        problem = MixedIntegerProgram([0, 1], True, [[0, 1]], 1, INF, [2, 0], [3, 9])
        assert _run(pulp.PulpBackend(), problem).x.tolist() == [2, 1]

    def test_a_crash_is_a_status(self, monkeypatch):
        monkeypatch.setattr(pulp.pulp.PULP_CBC_CMD, "pulp_cbc_path", "/bin/false")
        found = _run(pulp.PulpBackend(), LP)
        assert found.status is Status.NUMERICAL
        assert "/bin/false" in found.stats.message

    def test_no_files_are_left(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setattr("tempfile.tempdir", None)
        solve(MIP, "pulp")
        assert list(tmp_path.iterdir()) == []


class TestScip:
    def test_a_row_of_one_column_keeps_its_multiplier(self):
        found = _run(scip.ScipBackend(), LinearProgram([1], [[1]], 1, 4))
        assert found.duals.rows.tolist() == [1.0]

    def test_a_proof_by_propagation_is_a_ray_still(self):
        found = _run(scip.ScipBackend(), LinearProgram([1], [[1], [-1]], [2, -1], INF))
        assert found.status is Status.INFEASIBLE
        assert np.all(found.ray > 0)

    def test_an_error_of_scip_is_a_status(self, monkeypatch):
        real = scip.pyscipopt.Model

        class Broken(real):
            def optimize(self):
                raise Exception("SCIP: error in LP solver!")

        monkeypatch.setattr(scip.pyscipopt, "Model", Broken)
        found = _run(scip.ScipBackend(), LP)
        assert found.status is Status.NUMERICAL
        assert "error in LP solver" in found.stats.message

    def test_infinity_is_not_1e20(self):
        found = _run(scip.ScipBackend(), _market_split(False), 0.0)
        assert found.status is Status.TIME_LIMIT
        assert found.dual_bound == -INF
        infeasible = MixedIntegerProgram([1, 1], True, [[2, 2]], 3, 3, 0, 5)
        assert _run(scip.ScipBackend(), infeasible).dual_bound == INF

    def test_continuous_quadratic_as_a_mip_without_integers(self):
        problem = MixedIntegerProgram([-2, -2], False, [[1, 1]], -INF, 1, P=2 * np.eye(2))
        found = solve(problem, "scip")
        assert found.status is Status.OPTIMAL
        np.testing.assert_allclose(found.x, [0.5, 0.5], atol=1e-9)  # polished by an exact QP
        assert "status" in found.solver_word

    def test_a_status_of_tomorrow_is_no_answer(self, monkeypatch):
        monkeypatch.setattr(scip, "STATUS", {})
        assert _run(scip.ScipBackend(), LP).status is Status.UNKNOWN


class TestCvxpy:
    @pytest.mark.parametrize("problem", [LP, QP], ids=["lp", "qp"])
    def test_almost_solved_is_not_solved(self, monkeypatch, problem):
        """cvxpy would say optimal_inaccurate, with a point."""
        real = cvxpy.cvxpy.reductions.solvers.solving_chain.SolvingChain.solve_via_data

        def almost(chain, *args, **kwargs):
            raw = real(chain, *args, **kwargs)
            return SimpleNamespace(status="AlmostSolved", iterations=raw.iterations)

        chain = cvxpy.cvxpy.reductions.solvers.solving_chain.SolvingChain
        monkeypatch.setattr(chain, "solve_via_data", almost)
        found = _run(cvxpy.CvxpyBackend(), problem)
        assert found.status is Status.NUMERICAL
        assert found.x is None

    def test_iterations_and_time_are_told_apart(self):
        rng = np.random.default_rng(0)
        big = LinearProgram(rng.normal(size=400), rng.normal(size=(400, 400)), -1, 1, -1, 1)
        assert _run(cvxpy.CvxpyBackend(), big, 0.15).status is Status.TIME_LIMIT

    def test_its_multipliers_prove_nothing_so_another_lp_does(self):
        free = LinearProgram([1, -1], [[1, 1], [2, 2]], [-INF, 6], [2, INF])
        assert not cvxpy.CvxpyBackend.capabilities.basic
        found = solve(free, "cvxpy")
        assert found.status is Status.INFEASIBLE
        assert found.ray is not None

    def test_a_status_of_tomorrow_is_no_answer(self, monkeypatch):
        monkeypatch.setattr(cvxpy, "STATUS", {})
        assert _run(cvxpy.CvxpyBackend(), LP).status is Status.UNKNOWN


class TestDaqp:
    def test_multipliers_of_an_infeasible_problem_are_dropped(self):
        infeasible = QuadraticProgram([0, 0], np.eye(2), [[1, 1]], 3, lower=0, upper=1)
        found = _run(daqp.DaqpBackend(), infeasible)
        assert found.status is Status.INFEASIBLE
        assert (found.duals, found.ray, found.x) == (None, None, None)

    def test_equalities_that_contradict_each_other(self):
        A = [[1.0, 1.0], [2.0, 2.0]]
        found = solve(QuadraticProgram([0, 0], np.eye(2), A, [1, 3], [1, 3]), "daqp")
        assert found.status is Status.INFEASIBLE
        assert found.ray is not None

    def test_a_session_survives_contradicting_equalities(self):
        base = QuadraticProgram([0, 0], np.eye(2), [[1.0, 1.0], [2.0, 2.0]], [1, 2], [1, 2])
        with Session(base, "daqp") as session:
            assert session.solve().value == pytest.approx(0.25)
            session.change_row_bounds(1, 3, 3)
            assert session.solve().status is Status.INFEASIBLE
            session.change_row_bounds(1, 2, 2)
            assert session.solve().value == pytest.approx(0.25)

    def test_a_wrong_optimum_of_a_nearly_linear_problem_is_caught(self):
        """daqp calls a point 0.11 outside its bounds optimal here."""
        root = np.array([3.1e-5, 1.4e-4, -8.1e-5])
        P = np.outer(root, root)
        problem = QuadraticProgram([25, 13.4, -67.5], (P + P.T) / 2, lower=-0.01, upper=3.6)
        assert _run(daqp.DaqpBackend(), problem).status is Status.OPTIMAL
        found = solve(problem, "daqp")
        best = solve(problem)
        assert best.status is Status.OPTIMAL
        if found.status is Status.OPTIMAL:
            assert found.value == pytest.approx(best.value, abs=1e-5)

    def test_a_start_saves_iterations(self):
        rng = np.random.default_rng(1)
        A, c = rng.normal(size=(80, 40)), rng.normal(size=40)
        problem = QuadraticProgram(c, np.eye(40), A, -0.3, 0.3, -1, 1)
        cold = solve(problem, "daqp")
        warm = solve(problem, "daqp", start=cold.x)
        assert cold.stats.iterations > 10
        assert warm.stats.iterations < cold.stats.iterations // 2

    def test_a_limit_of_zero_is_not_read_as_none(self):
        rng = np.random.default_rng(0)
        A = rng.normal(size=(800, 800))
        problem = QuadraticProgram(rng.normal(size=800), np.eye(800), A, -1, 1)
        begin = time.perf_counter()
        assert _run(daqp.DaqpBackend(), problem, 0.0).status is Status.TIME_LIMIT
        assert time.perf_counter() - begin < 2.0

    def test_a_status_of_tomorrow_is_no_answer(self, monkeypatch):
        monkeypatch.setattr(daqp, "STATUS", {})
        assert _run(daqp.DaqpBackend(), QP).status is Status.UNKNOWN
