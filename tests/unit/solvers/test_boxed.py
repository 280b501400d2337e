"""Programs with few rows over a box: HiGHS agrees, and every claim is proved in rationals."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from solvers.boxed import FAILED, INFEASIBLE, OPTIMAL, boxed_program, dual_value
from solvers.errors import ProblemError


def proved(c, G, r, low, high, weights):
    """The exact value of `dual_value`."""
    c, G, r, low, high, weights = (
        np.vectorize(Fraction, otypes=[object])(np.asarray(a, dtype=float))
        for a in (c, G, r, low, high, weights)
    )
    n = c + (weights @ G if len(r) else 0)
    return sum(min(a * b, a * t) for a, b, t in zip(n, low, high, strict=True)) - weights @ r


def check(c, G, r, low, high):
    found = boxed_program(c, G, r, low, high)
    answer = linprog(c, A_ub=G if len(r) else None, b_ub=r if len(r) else None,
                     bounds=np.column_stack([low, high]))  # fmt: skip
    assert (found.multipliers >= 0).all()
    size = 1 + np.abs(c) @ np.maximum(np.abs(low), np.abs(high))
    if found.status == OPTIMAL:
        assert answer.status == 0
        assert found.value <= proved(c, G, r, low, high, found.multipliers)
        assert found.value == pytest.approx(answer.fun, abs=1e-9 * size)
        assert (found.x >= low - 1e-9).all()
        assert (found.x <= high + 1e-9).all()
        assert (G @ found.x <= r + 1e-8 * (1 + np.abs(r))).all()
        assert c @ found.x == pytest.approx(answer.fun, abs=1e-8 * size)
    else:
        assert found.status == INFEASIBLE
        assert answer.status == 2
        assert proved(0 * c, G, r, low, high, found.multipliers) > 0
        assert found.value > 0
    return found


@given(st.integers(0, 10**6))
def test_random_programs(seed):
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 40)), int(rng.integers(0, 15))
    G, c = rng.normal(size=(m, n)), rng.normal(size=n)
    low, high = -rng.random(n), rng.random(n)
    r = G @ rng.uniform(low, high) + rng.normal(size=m) * rng.choice([0.3, -0.05, 1e-3])
    check(c, G, r, low, high)


@given(st.data())
def test_small_integers(data):
    """Degenerate on purpose: ties, zero rows, fixed columns, empty sets, duplicated rows."""
    n, m = data.draw(st.integers(1, 5)), data.draw(st.integers(0, 6))
    numbers = st.integers(-2, 2)
    G = np.array(data.draw(st.lists(numbers, min_size=m * n, max_size=m * n)), float).reshape(m, n)
    c = np.array(data.draw(st.lists(numbers, min_size=n, max_size=n)), float)
    r = np.array(data.draw(st.lists(numbers, min_size=m, max_size=m)), float)
    low = np.array(data.draw(st.lists(numbers, min_size=n, max_size=n)), float)
    high = low + np.array(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)), float)
    found = boxed_program(c, G, r, low, high)
    answer = linprog(c, A_ub=G if m else None, b_ub=r if m else None,
                     bounds=np.column_stack([low, high]))  # fmt: skip
    assert found.status != FAILED
    assert (found.status == OPTIMAL) == (answer.status == 0)
    if found.status == OPTIMAL:
        assert found.value == pytest.approx(answer.fun, abs=1e-9)
        assert found.value <= proved(c, G, r, low, high, found.multipliers)
    else:
        assert proved(0 * c, G, r, low, high, found.multipliers) > 0


def test_many_rows_and_columns_are_quick():
    rng = np.random.default_rng(0)
    G, c = rng.normal(size=(60, 784)), rng.normal(size=784)
    low, high = -np.full(784, 0.1), np.full(784, 0.1)
    found = check(c, G, G @ rng.uniform(low, high) + 0.01, low, high)
    assert found.pivots < 1000


def test_any_multipliers_are_a_bound():
    rng = np.random.default_rng(1)
    G, c, r = rng.normal(size=(4, 6)), rng.normal(size=6), np.full(4, 0.1)
    low, high = -np.ones(6), np.ones(6)
    least = linprog(c, A_ub=G, b_ub=r, bounds=(-1, 1)).fun
    for _ in range(50):
        weights = rng.exponential(size=4)
        value = dual_value(c, G, r, low, high, weights)
        exact = proved(c, G, r, low, high, weights)
        assert value <= exact
        assert float(exact) - value < 1e-12
        assert value <= least + 1e-9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c": [1.0]}, "got shapes"),
        ({"r": [np.inf]}, "must be finite"),
        ({"low": [0.0, 2.0]}, "low exceeds high in column 1"),
    ],
)
def test_bad_input(change, message):
    arguments = {"c": [1.0, 1.0], "G": [[1.0, 0.0]], "r": [1.0], "low": [0, 0], "high": [1, 1]}
    with pytest.raises(ProblemError, match=message):
        boxed_program(**{**arguments, **change})
