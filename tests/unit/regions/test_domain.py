"""Limits of domains, against linear programs of another solver."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

import polytope as pt
from polytope.regions.domain import as_domain
from tests.nets import dense


@given(st.integers(0, 10**6), st.integers(1, 4))
def test_limits_of_polytopes_hold_and_are_tight(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(int(rng.integers(1, 4 * k)), k)) * 10.0 ** rng.integers(-3, 4)
    b = np.abs(A).sum(axis=1) * rng.uniform(0.1, 2.0, len(A))
    domain = as_domain(dense(k, 4, 2), pt.HPolytope(A, b))
    free = False
    for axis, sign in [(axis, sign) for axis in range(k) for sign in (1, -1)]:
        cost = np.zeros(k)
        cost[axis] = sign
        answer = linprog(cost, A_ub=A, b_ub=b, bounds=(None, None))
        found = domain.limits[0 if sign > 0 else 1][axis]
        if answer.status == 3:
            free = True
            assert np.isinf(found)
        else:
            assert abs(sign * found - answer.fun) <= 1e-6 * (1 + abs(answer.fun))
            assert sign * found <= answer.fun + 1e-9 * (1 + abs(answer.fun))
    assert domain.bounded is not free


def test_limits_of_boxes_are_their_own() -> None:
    low, high = np.array([-1.0, 0.25, -np.inf]), np.array([np.inf, 0.5, 3.0])
    domain = as_domain(dense(3, 4, 2), pt.Box(low, high))
    np.testing.assert_array_equal(domain.limits, [low, high])
    assert not domain.bounded


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e9])
def test_a_simplex(size: float) -> None:
    A = np.vstack([-np.eye(3), np.ones((1, 3))])
    domain = as_domain(dense(3, 4, 2), pt.HPolytope(A, np.array([0, 0, 0, size])))
    low, high = domain.limits
    assert (low <= 0).all()
    assert (high >= size).all()
    np.testing.assert_allclose(low, 0, atol=1e-9 * size)
    np.testing.assert_allclose(high, size, rtol=1e-9)
