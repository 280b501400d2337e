"""Exact facets and full dimension, against brute force in the plane and HiGHS above."""

from __future__ import annotations

import importlib
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from polytope.regions.exact_facets import ExactFacets, Verdict, exact_facets
from polytope.regions.exact_interior import interior_point

FACET, REDUNDANT, ZERO = Verdict.FACET, Verdict.REDUNDANT, Verdict.ZERO


@pytest.fixture(params=["flint", "plain"])
def arithmetic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once with python-flint, once as if it were not installed."""
    if request.param == "plain":
        monkeypatch.setitem(sys.modules, "flint", None)
    else:
        importlib.import_module("flint")


def integers(values: object) -> np.ndarray:
    return np.array(values, dtype=object)


def check_points(rows: np.ndarray, result: ExactFacets) -> None:
    """Groups are the hyperplanes, and every point proves its facet."""
    group = {row: number for number, own in enumerate(result.groups) for row in own}
    normal = (rows[:, :-1] != 0).any(axis=1)
    assert sorted(group) == np.flatnonzero(normal).tolist()
    for i in group:
        for j in group:
            multiple = all(
                rows[i, c] * rows[j, d] == rows[i, d] * rows[j, c]
                for c in range(rows.shape[1])
                for d in range(c)
            )
            same = multiple and (rows[i] * rows[j] >= 0).all()
            assert (group[i] == group[j]) == same
    assert sorted(result.points) == [r for r, v in result.verdicts.items() if v is FACET]
    for row, point in result.points.items():
        residual = rows @ point
        assert point[-1] > 0
        assert all(type(v) is int for v in point)
        for other in group:
            assert residual[other] == 0 if group[other] == group[row] else residual[other] < 0


def facet_in_the_plane(rows: np.ndarray, row: int) -> bool:
    """Whether the line of a row meets the others in a segment, for a region of full dimension."""
    a, b, c = (Fraction(v) for v in rows[row])
    foot, along = (-c * a / (a * a + b * b), -c * b / (a * a + b * b)), (-b, a)
    low, high = None, None
    for p, q, r in rows:
        slope, value = p * along[0] + q * along[1], p * foot[0] + q * foot[1] + r
        if slope == 0 and value > 0:
            return False
        if slope > 0:
            high = -value / slope if high is None else min(high, -value / slope)
        if slope < 0:
            low = -value / slope if low is None else max(low, -value / slope)
    return low is None or high is None or low < high


def full_dimension(rows: np.ndarray) -> bool:
    """By HiGHS; small integers leave no near misses."""
    proper = rows[(rows[:, :-1] != 0).any(axis=1)].astype(float)
    if any(row[-1] > 0 for row in rows if not row[:-1].any()):
        return False
    proper /= np.abs(proper).max(axis=1, keepdims=True)  # HiGHS is wrong on unscaled rows.
    k = rows.shape[1] - 1
    table = np.column_stack([proper[:, :-1], np.ones(len(proper))])
    goal = np.append(np.zeros(k), 1)
    table, limits = np.vstack([table, goal]), np.append(-proper[:, -1], 1)
    return largest(goal, table, limits) > 1e-7


def is_facet(rows: np.ndarray, group: tuple[int, ...]) -> bool:
    """By HiGHS: whether the row can be violated when its whole group may be."""
    scaled = rows / np.maximum(np.abs(rows[:, :-1]).max(axis=1, keepdims=True, initial=0), 1)
    row = scaled[group[0]].astype(float)
    others = np.delete(scaled, group, axis=0).astype(float)
    table = np.vstack([others[:, :-1], row[:-1]])
    limits = np.append(-others[:, -1], 1 - row[-1])
    return largest(row[:-1], table, limits) > -row[-1] + 1e-6


def largest(goal: np.ndarray, table: np.ndarray, limits: np.ndarray) -> float:
    """The maximum over ``table @ x <= limits``; HiGHS' simplex gives up on some cones."""
    for method in ("highs-ds", "highs-ipm"):
        bounds = [(None, None)] * len(goal)
        best = linprog(-goal, A_ub=table, b_ub=limits, bounds=bounds, method=method)
        if best.status == 0:
            return float(-best.fun)
    raise AssertionError(f"HiGHS: {best.message}")


@st.composite
def systems(draw: st.DrawFn, lowest: int, highest: int) -> np.ndarray:
    """Rows of small integers with zeros, copies, multiples and opposite rows among them."""
    k = draw(st.integers(lowest, highest))
    count = draw(st.integers(0, 4 + 3 * k))
    entry = st.integers(-3, 3)
    normals = draw(
        st.lists(st.lists(entry, min_size=k, max_size=k), min_size=count, max_size=count)
    )
    offset = draw(st.sampled_from([st.integers(-4, 0), st.integers(-1, 0), st.integers(-4, 1)]))
    rows = [[*normal, draw(offset)] for normal in normals]
    for source in draw(st.lists(st.integers(0, max(0, count - 1)), max_size=4)):
        if rows:
            factor = draw(st.sampled_from([1, 2, 7, 2**40]))
            rows.append([factor * v for v in rows[source]])
    return integers(rows).reshape(len(rows), k + 1)


@settings(max_examples=150, deadline=None)
@given(systems(2, 2))
def test_against_brute_force_in_the_plane(rows: np.ndarray) -> None:
    if interior_point(rows) is None:
        return
    result = exact_facets(rows)
    check_points(rows, result)
    for row, normal in enumerate(rows[:, :-1]):
        expected = (FACET if facet_in_the_plane(rows, row) else REDUNDANT) if any(normal) else ZERO
        assert result.verdicts[row] is expected


@settings(max_examples=80, deadline=None)
@given(systems(1, 5))
def test_against_highs(rows: np.ndarray) -> None:
    center = interior_point(rows)
    assert (center is not None) == full_dimension(rows)
    if center is None:
        with pytest.raises(ArithmeticError, match="strictly inside"):
            exact_facets(rows)
        return
    assert center[-1] > 0
    assert all(row @ center < 0 for row in rows if row[:-1].any())
    result = exact_facets(rows, center)
    check_points(rows, result)
    for group in result.groups:
        expected = FACET if is_facet(rows, group) else REDUNDANT
        assert {result.verdicts[row] for row in group} == {expected}


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize("k", [1, 2, 4, 7])
def test_random_polytopes_with_large_numbers(k: int) -> None:
    rng = np.random.default_rng(k)
    normals = rng.integers(-(2**53), 2**53, size=(6 * k, k)).astype(object) * 2**90 + 1
    rows = np.column_stack([normals, [-(2**140)] * len(normals)])
    result = exact_facets(rows)
    check_points(rows, result)
    floats = (rows / 2.0**140).astype(float)
    for group in result.groups:
        expected = FACET if is_facet(floats, group) else REDUNDANT
        assert result.verdicts[group[0]] is expected


@pytest.mark.usefixtures("arithmetic")
@pytest.mark.parametrize("k", [2, 3, 5])
def test_cube_with_rows_that_touch_its_corner_and_edges(k: int) -> None:
    eye = integers(np.eye(k, dtype=int).tolist())
    one = np.full(k, -1, dtype=object)
    cube = np.concatenate([np.column_stack([eye, one]), np.column_stack([-eye, one])])
    touching = np.array([[1] * k + [-k], [1, 1] + [0] * (k - 2) + [-2]], dtype=object)
    cutting = np.array([[2**80] * k + [1 - k * 2**80]], dtype=object)
    rows = np.concatenate([touching, cube, cutting, [[0] * k + [0]], [[0] * k + [-1]]])
    result = exact_facets(rows)
    check_points(rows, result)
    expected = [REDUNDANT] * 2 + [FACET] * (2 * k + 1) + [ZERO] * 2
    assert [result.verdicts[r] for r in range(len(rows))] == expected


@pytest.mark.usefixtures("arithmetic")
def test_lines_and_the_whole_space() -> None:
    # A slab in three dimensions, then a halfspace, then everything.
    slab = integers([[1, 1, 0, -1], [-2, -2, 0, -1], [1, 1, 0, -2]])
    result = exact_facets(slab)
    check_points(slab, result)
    assert [result.verdicts[r] for r in range(3)] == [FACET, FACET, REDUNDANT]
    assert exact_facets(slab[:1]).verdicts == {0: FACET}
    nothing = np.zeros((0, 4), dtype=object)
    assert exact_facets(nothing) == ExactFacets({}, {}, ())
    assert interior_point(nothing).tolist() == [0, 0, 0, 1]  # type: ignore[union-attr]


def test_far_from_the_origin_where_floats_are_too_coarse() -> None:
    far = 2**60
    rows = integers([[1, 0, -far - 1], [-1, 0, far], [0, 1, -1], [far, 1, -far * (far + 2)]])
    result = exact_facets(rows)
    check_points(rows, result)
    assert [result.verdicts[r] for r in range(4)] == [FACET, FACET, FACET, REDUNDANT]


def test_only_some_rows_are_decided() -> None:
    rows = integers([[1, 0, -1], [-1, 0, -1], [0, 1, -1], [0, -1, -1], [3, 0, -3], [1, 1, -9]])
    result = exact_facets(rows, which=[4, 5])
    assert result.verdicts == {4: FACET, 5: REDUNDANT}
    assert result.groups == ((0, 4), (1,), (2,), (3,), (5,))
    check_points(rows, result)


def test_sets_without_interior() -> None:
    assert interior_point(integers([[1, 0, 0], [-1, 0, 0]])) is None
    assert interior_point(integers([[1, 0, 1], [-1, 0, 1]])) is None
    assert interior_point(integers([[1, 0, -1], [0, 0, 1]])) is None
    wedge = integers([[2**60, -1, 0], [-(2**60), 0, 0], [0, 1, -1]])
    assert (wedge @ interior_point(wedge) < 0).all()
    flat = integers([[2**60, 1, 0], [-(2**60), 0, 0], [0, -1, 0]])
    assert interior_point(flat) is None


def test_a_point_that_is_not_inside_is_an_error() -> None:
    rows = integers([[1, -1], [-1, -1]])
    with pytest.raises(ArithmeticError, match="strictly inside"):
        exact_facets(rows, integers([1, 1]))
