"""Operator norms against brute force, in both directions, and what is refused."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polytope.errors import InputError
from polytope.operator_norms import (
    norm_and_step,
    operator_norm,
    operator_norm_bounds,
    vector_norms,
)

INF = math.inf
PAIRS = [
    (1, 1), (1, 2), (1, 3), (2, 2), (2, INF), (3, INF), (INF, INF), (2, 1), (3, 1), (INF, 2),
    (INF, 1), (INF, 3), (1, INF),
]  # fmt: skip


@pytest.mark.parametrize(("p", "q"), PAIRS)
@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (1, 4), (4, 1)])
def test_a_step_attains_the_norm_and_no_random_step_exceeds_it(
    p: float, q: float, shape: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    J = rng.normal(size=(4, *shape))
    value, step = norm_and_step(J, p, q)
    image = vector_norms(np.einsum("nmd,nd->nm", J, step), q)
    assert np.allclose(image, value, rtol=1e-12)
    assert np.allclose(vector_norms(step, p), 1, rtol=1e-12)
    steps = rng.normal(size=(4000, shape[1])) * rng.integers(0, 2, size=(4000, shape[1]))
    steps = np.concatenate([steps, np.eye(shape[1]), np.sign(steps)])
    lengths = vector_norms(steps, p)
    steps = steps[lengths > 0] / lengths[lengths > 0, None]
    for k in range(4):
        assert vector_norms(steps @ J[k].T, q).max() <= value[k] * (1 + 1e-12)


@pytest.mark.parametrize(("p", "q"), PAIRS)
def test_bounds_enclose_and_a_single_matrix_is_a_scalar(p: float, q: float) -> None:
    J = (
        np.random.default_rng(1).normal(size=(3, 4, 6))
        * np.array([1e-200, 1, 1e200])[:, None, None]
    )
    value = operator_norm(J, p, q)
    lower, upper = operator_norm_bounds(J, p, q)
    assert ((lower <= value) & (value <= upper) & (upper <= lower * (1 + 1e-11))).all()
    alone = operator_norm(J[1], p, q)
    assert alone.shape == ()
    assert alone == value[1]
    off = operator_norm_bounds(J[1], p, q, error=np.full((4, 6), 1e-3))
    assert off[0] < lower[1] - 1e-4
    assert off[1] > upper[1] + 1e-4


@given(st.lists(st.integers(-9, 9), min_size=6, max_size=6), st.sampled_from([0, 1, 30]))
def test_the_spectral_bounds_enclose_the_exact_norm(entries: list[int], shift: int) -> None:
    """A 2 x 3 matrix of whole numbers: the square of the norm in exact arithmetic."""
    J = np.array(entries, dtype=float).reshape(2, 3) + np.array([0.0, shift, 0.0])
    lower, upper = operator_norm_bounds(J, 2, 2)
    rows = [[Fraction(v) for v in row] for row in J.tolist()]
    a, b = (sum((v * v for v in row), Fraction()) for row in rows)
    c = sum((u * v for u, v in zip(*rows, strict=True)), Fraction())

    def below(square: Fraction) -> bool:
        """Whether the largest eigenvalue of the Gram matrix is at most `square`."""
        return square >= a and square >= b and (square - a) * (square - b) >= c * c

    assert below(Fraction(float(upper)) ** 2)
    assert not below(Fraction(float(lower)) ** 2) or J.any() == 0 or lower == 0
    assert upper - lower <= 1e-12 * upper + 1e-290


def test_no_enumeration_without_negative_entries() -> None:
    J = np.random.default_rng(0).uniform(size=(2, 40, 50))
    assert np.allclose(operator_norm(J, INF, 2), np.linalg.norm(J.sum(axis=2), axis=1))
    assert np.allclose(operator_norm(J, 2, 1), np.linalg.norm(J.sum(axis=1), axis=1))


def test_signs_are_all_enumerated() -> None:
    J = np.random.default_rng(2).normal(size=(1, 7, 9))
    best = max(
        np.abs(np.array(signs) @ J[0]).sum() for signs in itertools.product([1, -1], repeat=7)
    )
    assert operator_norm(J, INF, 1)[0] == pytest.approx(best, rel=1e-13)


def test_what_is_refused() -> None:
    J = np.random.default_rng(0).normal(size=(1, 3, 20))
    for p, q in [(3, 2), (2, 3), (INF, 2), (3, 3)]:
        with pytest.raises(InputError, match=r"NP-hard.*p=q=2.*q=1"):
            operator_norm(J, p, q)
    with pytest.raises(InputError, match="q: norm"):
        operator_norm(J, 1, 0.5)
    with pytest.raises(InputError, match="p: norm"):
        operator_norm(J, "two", 1)
    with pytest.raises(InputError, match="shape"):
        operator_norm(np.zeros(3), 1, 1)
    with pytest.raises(InputError, match="finite"):
        operator_norm(np.full((2, 2), np.nan), 1, 1)
    assert operator_norm(np.zeros((0, 2, 3)), 2, 2).shape == (0,)
