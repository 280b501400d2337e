"""All backends agree with exhaustive search, or say that they have no answer.

Small integers make the degeneracies of networks: parallel and zero rows, ties, empty interiors,
singular P. A backend may fail on such a problem; it may not be wrong, and `solve`, left to choose,
must answer.
"""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers import (
    LinearProgram,
    MixedIntegerProgram,
    ProblemError,
    QuadraticProgram,
    Status,
    get,
    solve,
)
from solvers.check import farkas_holds, rational_dual_bound, rational_farkas, residuals

INF = np.inf
BACKENDS = ("highs", "scipy", "scip", "cvxpy", "pulp", "daqp")
NO_ANSWER = (Status.NUMERICAL, Status.UNKNOWN, Status.ITERATION_LIMIT)
SMALL = st.integers(-3, 3).map(float)
HALVES = st.integers(-6, 6).map(lambda k: k / 2)


@st.composite
def polyhedra(draw, bounded=True):
    """Rows and columns (A, row_lower, row_upper, lower, upper), often degenerate."""
    n, m = draw(st.integers(1, 3)), draw(st.integers(0, 4))
    row = st.lists(SMALL, min_size=n, max_size=n)
    A = np.array([draw(row) for _ in range(m)]).reshape(m, n)
    if m > 1 and draw(st.booleans()):
        A[1] = A[0] * draw(st.sampled_from([1.0, -1.0, 2.0]))

    def intervals(count, infinite):
        low = np.array(draw(st.lists(HALVES, min_size=count, max_size=count)))
        width = np.array(draw(st.lists(st.integers(0, 4), min_size=count, max_size=count)))
        high = low + width
        if infinite and count:
            sides = np.array(
                draw(st.lists(st.sampled_from("lhbb"), min_size=count, max_size=count))
            )
            low, high = np.where(sides == "h", -INF, low), np.where(sides == "l", INF, high)
        return low, high

    return A, *intervals(m, True), *intervals(n, not bounded)


@st.composite
def linear(draw, bounded=True):
    rest = draw(polyhedra(bounded))
    return LinearProgram(draw(_costs(rest)), *rest)


@st.composite
def quadratic(draw, bounded=True):
    rest = draw(polyhedra(bounded))
    n = rest[0].shape[1]
    rank = draw(st.integers(1, n))
    root = np.array(draw(st.lists(SMALL, min_size=n * rank, max_size=n * rank))).reshape(n, rank)
    P = np.eye(n) if draw(st.booleans()) else root @ root.T
    return QuadraticProgram(draw(_costs(rest)), P, *rest)


@st.composite
def mixed(draw, curved=False):
    rest = draw(polyhedra())
    n = rest[0].shape[1]
    mask = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    P = np.eye(n) if curved else None
    try:
        return MixedIntegerProgram(draw(_costs(rest)), mask, *rest, P=P)
    except ProblemError:  # no integer within some bounds: let the mask go
        return MixedIntegerProgram(draw(_costs(rest)), np.zeros(n, dtype=bool), *rest, P=P)


def _costs(rest):
    n = rest[0].shape[1]
    return st.lists(SMALL, min_size=n, max_size=n)


def _best_by_enumeration(problem):
    """The optimum over all values of the integers, by one checked LP or QP each; inf if none."""
    columns = np.flatnonzero(problem.integrality)
    ranges = [np.arange(problem.lower[j], problem.upper[j] + 1) for j in columns]
    best = INF
    for values in itertools.product(*ranges):
        lower, upper = problem.lower.copy(), problem.upper.copy()
        lower[columns] = upper[columns] = values
        found = solve(problem.relaxed().updated(lower=lower, upper=upper))
        assert found.status in (Status.OPTIMAL, Status.INFEASIBLE)
        best = min(best, found.value)
    return best


def _check_answer(problem, found):
    """What holds of every answer, whoever gave it."""
    assert found.dual_bound <= found.value or found.status is Status.INFEASIBLE
    if found.x is not None:
        seen = residuals(problem, found.x)
        assert seen.primal <= 1e-7
        assert seen.integrality == 0.0
        assert found.value == problem.objective(found.x) or found.status is Status.UNBOUNDED
    if found.status is Status.INFEASIBLE and found.ray is not None:
        bounded = np.isfinite(problem.lower).all() and np.isfinite(problem.upper).all()
        # A third is no float: over unbounded columns the proof holds within rounding only.
        assert (rational_farkas if bounded else farkas_holds)(problem, found.ray)


@settings(max_examples=60)
@given(linear(bounded=False))
def test_linear(problem):
    reference = solve(problem)
    assert reference.status not in NO_ANSWER
    for name in BACKENDS:
        if not get(name).capabilities.lp:
            continue
        found = solve(problem, name)
        _check_answer(problem, found)
        assert found.status in (reference.status, *NO_ANSWER), name
        if found.status is Status.OPTIMAL:
            assert found.value == pytest.approx(reference.value, abs=1e-6), name
            bound = rational_dual_bound(problem, found.duals.rows)
            assert bound is None or bound <= reference.value + 1e-6, name


@settings(max_examples=60)
@given(quadratic(bounded=False))
def test_quadratic(problem):
    reference = solve(problem)
    assert reference.status not in NO_ANSWER
    for name in ("highs", "cvxpy", "daqp"):
        found = solve(problem, name)
        _check_answer(problem, found)
        assert found.status in (reference.status, *NO_ANSWER), name
        if found.status is Status.OPTIMAL:
            assert found.value == pytest.approx(reference.value, abs=1e-6), name
            bound = rational_dual_bound(problem, found.duals.rows, found.x)
            assert bound is None or bound <= reference.value + 1e-6, name


@settings(max_examples=40)
@given(mixed())
def test_mixed_integer(problem):
    best = _best_by_enumeration(problem)
    for name in (None, "highs", "scipy", "scip", "pulp"):
        found = solve(problem, name)
        _check_answer(problem, found)
        if name is not None and found.status in NO_ANSWER:
            continue
        assert found.status is (Status.OPTIMAL if best < INF else Status.INFEASIBLE), name
        if best < INF:
            assert found.value == pytest.approx(best, abs=1e-7), name
            assert found.dual_bound <= best + 1e-9, name


@settings(max_examples=20)
@given(mixed(curved=True))
def test_mixed_integer_quadratic(problem):
    best = _best_by_enumeration(problem)
    found = solve(problem, "scip")
    _check_answer(problem, found)
    assert found.status is (Status.OPTIMAL if best < INF else Status.INFEASIBLE)
    if best < INF:
        assert found.value == pytest.approx(best, abs=1e-7)
        assert found.dual_bound <= best + 1e-9


def test_an_answer_that_fails_is_asked_of_the_next_backend():
    """HiGHS 1.15.1 ends this QP, whose P is singular, before its optimum, presolved or not."""
    problem = QuadraticProgram([3, -3], [[9, 6], [6, 4]], [[0, 2]], -2, INF, [-2, -1], INF)
    cured = solve(problem, "highs").status is Status.OPTIMAL  # a later HiGHS may be
    found = solve(problem)
    assert found.status is Status.OPTIMAL
    assert found.value == pytest.approx(-16.125, abs=1e-8)
    assert found.stats.backend == ("highs" if cured else "cvxpy")
