"""Exact vertices and rays from tight rows."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polytope.regions.exact_vertices import exact_vertices, homogeneous_floats


def integers(values: object) -> np.ndarray:
    return np.array(values, dtype=object)


def sheared(k: int, seed: int) -> np.ndarray:
    """An invertible integer matrix with large entries."""
    rng = np.random.default_rng(seed)
    lower = np.tril(rng.integers(-(2**60), 2**60, size=(k, k)), -1).astype(object)
    upper = np.triu(rng.integers(-(2**60), 2**60, size=(k, k)), 1).astype(object)
    eye = integers(np.eye(k, dtype=np.int64).tolist())
    return (lower + eye) @ (upper + eye)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 6])
def test_cubes(k: int) -> None:
    # The cube |M u| <= 3: every vertex lies on k of its 2 k rows, here also given twice.
    matrix = sheared(k, k)
    rows = np.concatenate([np.column_stack([s * matrix, [-3] * k]) for s in (1, -1, 2, -1)])
    rows[2 * k : 3 * k, -1] = -6
    signs = np.array(list(itertools.product((1, -1), repeat=k)))
    incidence = np.concatenate([signs > 0, signs < 0, signs > 0, signs < 0], axis=1)
    found = exact_vertices(rows, incidence, np.ones((len(signs), k + 1)))
    assert (found[:, -1] > 0).all()
    assert ((found @ rows.T == 0) == incidence).all()
    assert (found @ rows.T <= 0).all()
    assert (found[:, :-1] @ matrix.T == 3 * signs * found[:, -1:]).all()


@pytest.mark.parametrize("k", [2, 3, 4])
def test_cross_polytopes_have_many_rows_at_a_vertex(k: int) -> None:
    signs = np.array(list(itertools.product((1, -1), repeat=k)))
    rows = integers(np.column_stack([signs, np.full(len(signs), -1)]).tolist())
    ends = np.concatenate([np.eye(k, dtype=int), -np.eye(k, dtype=int)])
    incidence = ends @ signs.T == 1
    found = exact_vertices(rows, incidence, np.ones((2 * k, k + 1)))
    assert found.tolist() == np.column_stack([ends, np.ones(2 * k, int)]).tolist()


def test_rays_follow_their_hint() -> None:
    rows = integers([[2**70, 0, -1], [3, 0, -5], [0, 1, 0]])
    incidence = np.array([[True, True, False], [True, True, False], [True, False, True]])
    hint = np.array([[1e-9, 2.0, 0.0], [1e-9, -2.0, 0.0], [0.0, 0.0, 1.0]])
    found = exact_vertices(rows, incidence, hint)
    assert found.tolist() == [[0, 1, 0], [0, -1, 0], [1, 0, 2**70]]
    with pytest.raises(ArithmeticError, match="where a ray points"):
        exact_vertices(rows, incidence[:1], np.array([[1.0, 0.0, 0.0]]))


@pytest.mark.parametrize(
    "rows",
    [
        [[1, 0, -1]],  # too few
        [[1, 0, -1], [2, 0, -2]],  # one line, given twice
        [[1, 0, -1], [0, 1, 0], [1, 1, -2]],  # three lines that do not meet
    ],
)
def test_wrong_incidence_is_an_error(rows: list[list[int]]) -> None:
    tight = np.ones((1, len(rows)), dtype=bool)
    with pytest.raises(ArithmeticError, match=f"vertex 0: its {len(rows)} rows"):
        exact_vertices(integers(rows), tight, np.ones((1, 3)))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_the_vector_is_orthogonal_to_all_rows(data: st.DataObject) -> None:
    k = data.draw(st.integers(1, 5))
    small = st.integers(-3, 3)
    number = data.draw(st.sampled_from([small, st.integers(-(2**200), 2**200)]))
    rows = integers([[data.draw(number) for _ in range(k + 1)] for _ in range(k + 2)])
    rows[k], rows[k + 1] = rows[0] - 2 * rows[k - 1], 5 * rows[0]
    incidence = np.ones((1, k + 2), dtype=bool)
    try:
        found = exact_vertices(rows, incidence, np.pi ** np.arange(k + 1)[None])[0]
    except ArithmeticError:
        assert rank(rows.tolist()) != k
        return
    assert found.any()
    assert not (rows @ found).any()
    assert np.gcd.reduce(found) == 1
    assert found[-1] >= 0
    assert rank(rows.tolist()) == k


def rank(rows: list[list[int]]) -> int:
    """By elimination in fractions."""
    table, done = [[Fraction(v) for v in row] for row in rows], 0
    for column in range(len(table[0])):
        at = next((i for i in range(done, len(table)) if table[i][column]), None)
        if at is None:
            continue
        table[done], table[at] = table[at], table[done]
        for i in range(done + 1, len(table)):
            factor = table[i][column] / table[done][column]
            table[i] = [a - factor * b for a, b in zip(table[i], table[done], strict=True)]
        done += 1
    return done


def test_floats_are_rounded_once_whatever_the_size_of_the_integers() -> None:
    big = 10**400
    points = integers(
        [[big, 2 * big + 1, 3 * big], [big * big, -big * big, 7], [3 * big, -big, 0], [1, 0, big]]
    )
    found = homogeneous_floats(points)
    assert found.tolist() == [
        [1 / 3, 2 / 3, 1.0], [np.inf, -np.inf, 1.0], [1.0, -1 / 3, 0.0], [0.0, 0.0, 1.0],
    ]  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-(2**300), 2**300), min_size=1, max_size=4), st.integers(1, 2**300))
def test_floats_are_within_half_a_unit(coordinates: list[int], last: int) -> None:
    found = homogeneous_floats(integers([[*coordinates, last]]))[0, :-1]
    for value, numerator in zip(found, coordinates, strict=True):
        assert float(Fraction(numerator, last)) == value
