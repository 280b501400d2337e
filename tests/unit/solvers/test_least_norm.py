"""The least step into halfspaces inside a box: other solvers agree, and bounds are proved."""

from __future__ import annotations

import math
from fractions import Fraction

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.errors import ProblemError
from solvers.least_norm import LeastNorm, least_norm
from solvers.problem import QuadraticProgram
from solvers.solution import Status
from solvers.solve import solve

#: What Clarabel is good for.
CLARABEL = 1e-6


def proved_square(G, h, low, high, lam) -> Fraction:
    """Twice the dual function at some multipliers, in exact arithmetic."""
    G, h, low, high, lam = (
        np.vectorize(Fraction, otypes=[object])(np.asarray(a, dtype=float))
        for a in (G, h, low, high, lam)
    )
    w = lam @ G if len(h) else np.array([Fraction(0)] * len(low), dtype=object)
    s = [min(max(-v, a), b) for v, a, b in zip(w, low, high, strict=True)]
    value = sum((v * z + z * z / 2 for v, z in zip(w, s, strict=True)), Fraction(0))
    return 2 * (value + (lam @ h if len(h) else 0))


def check(G, h, low, high, radius=math.inf) -> LeastNorm:
    """What every answer promises."""
    found = least_norm(G, h, low, high, radius)
    assert (found.multipliers >= 0).all()
    assert (found.step >= low).all()
    assert (found.step <= high).all()
    assert found.lower >= 0
    exact = proved_square(G, h, low, high, found.multipliers)
    assert Fraction(found.lower) ** 2 <= max(exact, Fraction(0))
    return found


def other(G, h, low, high) -> float:
    """daqp's distance; inf if there is no point."""
    m, n = G.shape
    program = QuadraticProgram(
        c=np.zeros(n), A=G, row_lower=np.full(m, -np.inf), row_upper=-h, lower=low, upper=high,
        P=np.eye(n),
    )  # fmt: skip
    answer = solve(program, "daqp")
    assert answer.status in (Status.OPTIMAL, Status.INFEASIBLE)
    return math.inf if answer.x is None else float(np.linalg.norm(answer.x))


def clarabel(G, h, low, high) -> float:
    s = cp.Variable(len(low))
    problem = cp.Problem(cp.Minimize(cp.norm(s)), [G @ s + h <= 0, s >= low, s <= high])
    problem.solve(solver=cp.CLARABEL)
    return float(problem.value) if problem.status.startswith("optimal") else math.inf


def drawn(seed: int) -> tuple[np.ndarray, ...]:
    """A program with a point in it."""
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 20)), int(rng.integers(1, 8))
    G = rng.normal(size=(m, n))
    low, high = -rng.random(n), rng.random(n)
    low[rng.random(n) < 0.2] = 0.0
    high[rng.random(n) < 0.2] = 0.0
    kind = seed % 4
    if kind == 1:  # rows again, and again times something
        G = np.vstack([G, G, -0.5 * G[:1], 3 * G[:1]])[: m + 3]
    if kind == 2:  # a row of zeros, and columns of zeros
        G[0] = 0.0
        G[:, rng.random(n) < 0.3] = 0.0
    if kind == 3:  # few different numbers
        G = np.round(G)
    inside = rng.uniform(low, high)
    h = -G @ inside - rng.random(len(G)) * rng.choice([0.0, 0.3])
    return G, h, low, high


@given(st.integers(0, 10**6))
@settings(max_examples=120)
def test_random_and_degenerate_programs(seed: int) -> None:
    program = drawn(seed)
    found, distance = check(*program), other(*program)
    assert found.lower <= distance * (1 + 1e-12) + 1e-12
    assert found.lower == pytest.approx(distance, rel=1e-7, abs=1e-7)
    if found.settled:
        G, h = program[:2]
        room = 1e-9 * (np.abs(G).sum(axis=1) + np.abs(h) + 1e-9)
        assert (G @ found.step + h <= room).all()
        assert np.linalg.norm(found.step) == pytest.approx(distance, rel=1e-7, abs=1e-7)


def test_most_programs_are_settled() -> None:
    """The others stop a rounding short of it: their bound is as good."""
    settled = [least_norm(*drawn(seed)).settled for seed in range(0, 400, 4)]
    assert np.mean(settled) > 0.75


@pytest.mark.parametrize("seed", range(8))
def test_clarabel_agrees(seed: int) -> None:
    program = drawn(seed)
    distance = clarabel(*program)
    assert least_norm(*program).lower == pytest.approx(distance, rel=CLARABEL, abs=CLARABEL)


@given(st.integers(0, 10**6))
@settings(max_examples=40)
def test_nothing_is_feasible(seed: int) -> None:
    rng = np.random.default_rng(seed)
    G, h, low, high = drawn(seed)
    a = rng.normal(size=len(low))
    far = float(np.abs(a) @ np.maximum(-low, high)) * rng.choice([1.01, 3.0]) + 1e-3
    G, h = np.vstack([G, a]), np.append(h, far)
    radius = float(np.linalg.norm(np.maximum(-low, high))) + 1.0
    found = check(G, h, low, high, radius)
    assert found.lower >= radius
    check(G, h, low, high)  # without a radius it comes to an end too


def test_a_row_of_zeros_that_no_point_satisfies() -> None:
    found = check(np.zeros((1, 2)), np.ones(1), -np.ones(2), np.ones(2), 5.0)
    assert found.lower >= 5.0
    harmless = check(np.zeros((1, 2)), -np.ones(1), -np.ones(2), np.ones(2))
    assert harmless.lower == 0
    assert harmless.settled
    assert harmless.step.tolist() == [0, 0]


def test_no_rows() -> None:
    found = check(np.zeros((0, 3)), np.zeros(0), -np.ones(3), np.ones(3))
    assert found.lower == 0
    assert found.settled


def test_known_distances() -> None:
    free = check([[3.0, 4.0]], [-10.0], [-9.0, -9.0], [9.0, 9.0])
    assert free.lower == 0  # the origin is in it
    near = check([[-3.0, -4.0]], [10.0], [-9.0, -9.0], [9.0, 9.0])
    assert near.lower == pytest.approx(2.0, rel=1e-12)
    assert near.step == pytest.approx([1.2, 1.6])
    boxed = check([[-3.0, -4.0]], [10.0], [-1.0, -1.0], [2.0, 1.0])
    assert boxed.lower == pytest.approx(math.sqrt(5), rel=1e-9)
    assert boxed.step == pytest.approx([2.0, 1.0])
    flat = check([[-1.0, -1.0]], [1.0], [0.0, -1.0], [0.0, 1.0])
    assert flat.lower == pytest.approx(1.0, rel=1e-12)
    both = check([[-1.0, 0.0], [0.0, -1.0]], [3.0, 4.0], [-9.0, -9.0], [9.0, 9.0])
    assert both.lower == pytest.approx(5.0, rel=1e-12)


@given(st.integers(0, 10**6), st.integers(-12, 12), st.integers(-6, 6))
@settings(max_examples=60)
def test_scales(seed: int, size: int, step: int) -> None:
    """Rows times any number are the same rows; all steps times any number scale the distance."""
    G, h, low, high = drawn(4 * seed)
    rng = np.random.default_rng(seed)
    distance = other(G, h, low, high)
    rows = 10.0 ** (size * rng.random(len(h)))
    scaled = check(G * rows[:, None], h * rows, low, high)
    assert scaled.lower <= distance * (1 + 1e-9) + 1e-9
    assert scaled.lower == pytest.approx(distance, rel=1e-6, abs=1e-6)
    t = 10.0**step
    moved = check(G, h * t, low * t, high * t)
    assert moved.lower / t <= distance * (1 + 1e-9) + 1e-9
    assert moved.lower / t == pytest.approx(distance, rel=1e-6, abs=1e-6)


@given(st.integers(0, 10**6))
@settings(max_examples=60)
def test_columns_of_all_sizes_are_never_over_promised(seed: int) -> None:
    rng = np.random.default_rng(seed)
    G, h, low, high = drawn(seed)
    G = G * 10.0 ** rng.integers(-9, 10, G.shape[1])
    check(G, -np.abs(h) * rng.choice([-1, 1], len(h)), low, high)


def test_a_radius_ends_the_search() -> None:
    G, h, low, high = drawn(8)
    distance = other(G, h, low, high)
    assert distance > 0.1
    for part in (0.01, 0.5, 0.99):
        assert check(G, h, low, high, part * distance).lower >= part * distance * (1 - 1e-12)
    beyond = check(G, h, low, high, 2 * distance)
    assert beyond.lower == pytest.approx(distance, rel=1e-7)


def test_multipliers_to_begin_with() -> None:
    G, h, low, high = drawn(12)
    first = least_norm(G, h, low, high)
    again = least_norm(G, h, low, high, start=first.multipliers)
    assert again.lower == pytest.approx(first.lower, rel=1e-9)
    wild = least_norm(G, h, low, high, start=np.full(len(h), 1e6))
    assert wild.lower <= first.lower * (1 + 1e-9)
    assert wild.lower == pytest.approx(first.lower, rel=1e-6)
    negative = least_norm(G, h, low, high, start=-np.ones(len(h)))
    assert (negative.multipliers >= 0).all()


def test_lists_and_arrays_of_any_order_stay_as_they_are() -> None:
    G = np.asfortranarray(np.array([[-3.0, -4.0], [1.0, 0.0]]))
    kept = G.copy()
    found = least_norm(G, [10, -5], [-9, -9], [9, 9])
    assert found.lower == pytest.approx(2.0)
    assert (kept == G).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"h": np.zeros(3)}, "got shapes"),
        ({"G": np.zeros(2)}, "got shapes"),
        ({"high": np.ones(3)}, "got shapes"),
        ({"low": np.array([-np.inf, -1])}, "finite"),
        ({"G": np.array([[np.nan, 1], [1, 1]])}, "finite"),
        ({"low": np.array([0.5, -1])}, "does not hold the zero step"),
        ({"high": np.array([1, -0.5])}, "does not hold the zero step"),
    ],
)  # fmt: skip
def test_bad_programs(change, message: str) -> None:
    program = {"G": np.eye(2), "h": np.zeros(2), "low": -np.ones(2), "high": np.ones(2)} | change
    with pytest.raises(ProblemError, match=message):
        least_norm(**program)
