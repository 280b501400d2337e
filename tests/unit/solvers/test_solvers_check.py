"""Rigour: float proofs never exceed exact ones, exact ones never exceed the truth."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers import LinearProgram, ProblemError, QuadraticProgram, Status, check, solve
from solvers.check import (
    farkas_holds,
    rational_dual_bound,
    rational_farkas,
    ray_holds,
    residuals,
    safe_dual_bound,
    safe_farkas,
)
from solvers.solve import RETRIED

INF = np.inf
NUMBERS = st.one_of(
    st.integers(-3, 3).map(float),
    st.sampled_from([0.1, -0.1, 1e-9, -1e-9, 2.0**-36, 1e-13, 1e6, -1e6, 1e12]),
    st.floats(-1e3, 1e3, allow_subnormal=True),
)
SMALL = st.integers(-3, 3).map(float)


@st.composite
def programs(draw, numbers=NUMBERS, bounded=False):
    """LPs with the degeneracies that networks make: zero, duplicated, parallel rows, fixed
    columns, crossing half-spaces."""
    n, m = draw(st.integers(1, 3)), draw(st.integers(0, 4))
    row = st.lists(numbers, min_size=n, max_size=n)
    A = [draw(row) for _ in range(m)]
    if m > 1 and draw(st.booleans()):
        A[1] = [value * draw(st.sampled_from([1.0, -1.0, 2.0])) for value in A[0]]
    if m and draw(st.booleans()):
        A[-1] = [0.0] * n
    c = draw(row)

    def interval(infinite):
        low, width = draw(numbers), abs(draw(numbers))
        sides = draw(st.sampled_from(["both", "low", "high", "equal"]))
        if sides == "equal":
            return low, low
        return (
            -INF if sides == "high" and infinite else low,
            INF if sides == "low" and infinite else low + width,
        )

    rows = [interval(True) for _ in range(m)]
    columns = [interval(not bounded) for _ in range(n)]
    return LinearProgram(
        c,
        np.array(A).reshape(m, n),
        [low for low, _ in rows] or None,
        [high for _, high in rows] or None,
        [low for low, _ in columns],
        [high for _, high in columns],
    )


def exact_optimum(problem):
    """The optimum of a bounded LP by enumerating vertices in exact rationals; None if empty."""
    n = problem.c.size
    A = np.concatenate([problem.A.toarray(), np.eye(n)])
    low = np.concatenate([problem.row_lower, problem.lower])
    high = np.concatenate([problem.row_upper, problem.upper])
    planes = [
        ([Fraction(v) for v in a], Fraction(b))
        for a, lo, hi in zip(A, low, high, strict=True)
        for b in {lo, hi}
        if np.isfinite(b)
    ]
    best = None
    for chosen in itertools.combinations(planes, n):
        x = _solve_exactly([[*a, b] for a, b in chosen])
        if x is None:
            continue
        values = [sum(Fraction(v) * xi for v, xi in zip(a, x, strict=True)) for a in A]
        if all(lo <= value <= hi for lo, value, hi in zip(low, values, high, strict=True)):
            value = sum(Fraction(v) * xi for v, xi in zip(problem.c, x, strict=True))
            best = value if best is None else min(best, value)
    return best


def _solve_exactly(rows):
    n = len(rows)
    for k in range(n):
        pivot = next((r for r in range(k, n) if rows[r][k] != 0), None)
        if pivot is None:
            return None
        rows[k], rows[pivot] = rows[pivot], rows[k]
        rows[k] = [v / rows[k][k] for v in rows[k]]
        for r in range(n):
            if r != k and rows[r][k] != 0:
                rows[r] = [a - rows[r][k] * b for a, b in zip(rows[r], rows[k], strict=True)]
    return [row[n] for row in rows]


@settings(max_examples=300, deadline=None)
@given(programs(), st.data())
def test_safe_bound_is_below_the_exact_one_for_any_multipliers(problem, data):
    m = problem.A.shape[0]
    y = np.array(data.draw(st.lists(NUMBERS, min_size=m, max_size=m)))
    safe, exact = safe_dual_bound(problem, y), rational_dual_bound(problem, y)
    if safe > -INF:
        assert exact is not None
        assert Fraction(safe) <= exact
    if safe_farkas(problem, y):
        assert rational_farkas(problem, y)


@settings(max_examples=100, deadline=None)
@given(programs(SMALL, bounded=True), st.data())
def test_exact_bound_is_below_the_optimum_for_any_multipliers(problem, data):
    m = problem.A.shape[0]
    y = np.array(data.draw(st.lists(NUMBERS, min_size=m, max_size=m)))
    optimum = exact_optimum(problem)
    bound = rational_dual_bound(problem, y)
    assert bound is not None
    if optimum is not None:
        assert bound <= optimum
        assert not rational_farkas(problem, y)


@pytest.mark.parametrize("backend", ["highs", "scipy"])
@settings(max_examples=150, deadline=None)
@given(problem=programs(SMALL, bounded=True))
def test_solve_agrees_with_exact_vertex_enumeration(backend, problem):
    found, optimum = solve(problem, backend), exact_optimum(problem)
    if optimum is None:
        assert found.status is Status.INFEASIBLE
        assert rational_farkas(problem, found.ray)
    else:
        assert found.status is Status.OPTIMAL
        assert found.value == pytest.approx(float(optimum), abs=1e-7)
        assert safe_dual_bound(problem, found.duals.rows) == pytest.approx(float(optimum), abs=1e-6)
        assert rational_dual_bound(problem, found.duals.rows) <= optimum


@pytest.mark.parametrize("backend", [None, "highs", "scipy", "scip", "cvxpy", "pulp"])
@settings(max_examples=60, deadline=None)
@given(problem=programs())
def test_solve_never_claims_without_evidence(backend, problem):
    """Wild coefficients: no answer is allowed, a wrong one is not."""
    found = solve(problem, backend)
    if found.status is Status.OPTIMAL:
        assert residuals(problem, found.x, found.duals.rows).primal <= 1e-7
        assert found.dual_bound <= found.value
    elif found.status is Status.INFEASIBLE:
        assert farkas_holds(problem, found.ray, 1e-7)
    elif found.status is Status.UNBOUNDED:
        assert ray_holds(problem, found.ray, 1e-7)
        assert residuals(problem, found.x).primal <= 1e-7
    else:
        assert found.status in RETRIED


@pytest.mark.parametrize("seed", range(12))
def test_agrees_with_cvxpy(seed):
    import cvxpy

    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(2, 12)), int(rng.integers(1, 15))
    A, inside = rng.normal(size=(m, n)), rng.uniform(-1, 1, size=n)
    high = A @ inside + rng.uniform(0, 1, size=m) * (rng.random(m) < 0.7)
    low = np.where(rng.random(m) < 0.5, -INF, high - 1)
    c = rng.normal(size=n)
    x = cvxpy.Variable(n)
    cost, P = c @ x, np.zeros((n, n))
    if seed % 2:
        root = rng.normal(size=(n, max(1, n // (1 + seed % 3))))
        P = root @ root.T
        P = (P + P.T) / 2
        cost = cost + cvxpy.sum_squares(root.T @ x) / 2
    finite = np.isfinite(low)
    constraints = [A @ x <= high, A[finite] @ x >= low[finite], x >= -1, x <= 1]
    oracle = cvxpy.Problem(cvxpy.Minimize(cost), constraints).solve(solver=cvxpy.CLARABEL)
    problem = (
        QuadraticProgram(c, P, A, low, high, -1, 1)
        if seed % 2
        else LinearProgram(c, A, low, high, -1, 1)
    )
    found = solve(problem)
    assert found.status is Status.OPTIMAL
    assert found.value == pytest.approx(oracle, abs=1e-6)
    safe = safe_dual_bound(problem, found.duals.rows, found.x)
    exact = rational_dual_bound(problem, found.duals.rows, found.x)
    assert Fraction(safe) <= exact
    assert safe == pytest.approx(found.value, abs=1e-6)


def test_quadratic_bound_from_a_bad_tangent_is_still_true():
    problem = QuadraticProgram([-2, -2], 2 * np.eye(2), [[1, 1]], row_upper=1, lower=-9, upper=9)
    for y in (-3.0, -1.0, 0.0, 2.0):
        for at in ([0.0, 0.0], [0.1, 0.7], [5.0, -5.0]):
            bound = safe_dual_bound(problem, np.array([y]), np.array(at))
            assert bound <= -1.5
            assert Fraction(bound) <= rational_dual_bound(problem, np.array([y]), np.array(at))


def test_exact_arithmetic_is_the_same_without_flint(monkeypatch):
    problem = QuadraticProgram([0.1, 0.2], np.eye(2), [[0.3, 1 / 3]], 0.7, lower=-1, upper=1)
    y, x = np.array([0.123]), np.array([0.4, 0.9])
    with_flint = rational_dual_bound(problem, y, x)
    monkeypatch.setattr(check, "_rational_type", lambda: Fraction)
    assert rational_dual_bound(problem, y, x) == with_flint


def test_unbounded_columns_need_an_exact_zero():
    problem = LinearProgram([1, 1], [[1, 1]], 2)
    assert rational_dual_bound(problem, np.array([1.0])) == 2
    assert rational_dual_bound(problem, np.array([0.999])) is None
    assert safe_dual_bound(problem, np.array([0.999])) == -INF


def test_multipliers_on_infinite_bounds_and_nan_count_as_zero():
    problem = LinearProgram([1], [[1], [1]], [1, -INF], INF, 0, 9)
    assert safe_dual_bound(problem, np.array([np.nan, 3.0])) == pytest.approx(0)
    assert safe_dual_bound(problem, np.array([INF, 3.0])) == pytest.approx(0)
    assert rational_dual_bound(problem, np.array([1.0, 3.0])) == 1


def test_overflow_proves_nothing():
    problem = LinearProgram([1e300], [[1e300]], 1e300, lower=-1e300, upper=1e300)
    assert safe_dual_bound(problem, np.array([1e300])) == -INF


def test_residuals_are_free_of_units():
    problem = LinearProgram([1], [[1e-9]], 1e-9, lower=0)
    assert residuals(problem, np.array([0.5])).primal == pytest.approx(0.5)
    assert residuals(problem, np.array([np.nan])).primal == INF


def test_ray_of_a_zero_or_broken_direction():
    problem = LinearProgram([-1, 0], lower=0)
    assert ray_holds(problem, np.array([1.0, 0.0]))
    assert not ray_holds(problem, np.array([0.0, 0.0]))
    assert not ray_holds(problem, np.array([np.nan, 0.0]))
    assert not ray_holds(problem, np.array([1.0, -1.0]))


def test_problem_errors_are_value_errors():
    assert issubclass(ProblemError, ValueError)
