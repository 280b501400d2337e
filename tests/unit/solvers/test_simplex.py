"""Verdicts of the dense simplex: every claim is proved again in rationals, and HiGHS agrees."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit
from scipy.optimize import linprog

from solvers.errors import ProblemError
from solvers.simplex import FACET, REDUNDANT, UNDECIDED, ZERO, facets, facets_kernel, work


def fractions(array):
    return np.vectorize(Fraction, otypes=[object])(array)


def solve(matrix, right):
    """The solution of a consistent system with independent columns, or None."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    size = len(rows[0]) - 1
    for c in range(size):
        best = next((r for r in range(c, len(rows)) if rows[r][c] != 0), None)
        if best is None:
            return None
        rows[c], rows[best] = rows[best], rows[c]
        rows[c] = [value / rows[c][c] for value in rows[c]]
        for r in range(len(rows)):
            if r != c and rows[r][c] != 0:
                rows[r] = [x - rows[r][c] * y for x, y in zip(rows[r], rows[c], strict=True)]
    if any(row[-1] != 0 for row in rows[size:]):
        return None
    return [row[-1] for row in rows[:size]]


def on_facet(A, b, i, point):
    """Whether the point, moved along one coordinate onto hyperplane i, is inside all others."""
    axis = max(range(len(point)), key=lambda c: abs(A[i, c]))
    moved = point.copy()
    moved[axis] += (b[i] - A[i] @ point) / A[i, axis]
    assert abs(moved[axis] - point[axis]) <= Fraction(1, 2**30) * (1 + max(abs(point)))
    others = np.arange(len(b)) != i
    return bool((A[others] @ moved < b[others]).all())


def redundant(A, b, i, rows):
    """Whether exact multipliers >= 0 of the rows prove that row i holds no facet."""
    weights = solve(A[rows].T, A[i])
    if weights is None or min(weights) < 0:
        return False
    bound = sum(w * b[r] for w, r in zip(weights, rows, strict=True))
    return bound < b[i] or (bound == b[i] and sum(w > 0 for w in weights) >= 2)


def redundant_within(A, b, i, rows, weights, start, reach):
    """Whether the multipliers bound row i strictly below b on the box around the start."""
    rest = A[i] - weights @ A[rows]
    bound = weights @ (b[rows] - A[rows] @ start) + sum(abs(rest)) * reach
    return bool((weights >= 0).all()) and bound < b[i] - A[i] @ start


def prove(A, b, start, result, reach=np.inf):
    """Check every verdict in rational arithmetic."""
    A, b, start, points, multipliers = map(
        fractions, (A, b, start, np.nan_to_num(result.points), result.multipliers)
    )
    for i, verdict in enumerate(result.verdict):
        rows = result.rows[i][result.rows[i] >= 0]
        assert i not in rows
        if verdict == FACET:
            assert on_facet(A, b, i, points[i])
        elif verdict == REDUNDANT:
            weights = multipliers[i, : len(rows)]
            assert (
                reach < np.inf and redundant_within(A, b, i, rows, weights, start, Fraction(reach))
            ) or redundant(A, b, i, rows)
        elif verdict == ZERO:
            assert not A[i].any()
        if verdict != REDUNDANT:
            assert len(rows) == 0
        if verdict != FACET:
            assert np.isnan(result.points[i]).all()


def by_highs(A, b, i):
    """The excess of row i over its b, row i relaxed by 1, by HiGHS; 1 where unbounded."""
    limits = b.copy()
    limits[i] += 1.0
    answer = linprog(-A[i], A_ub=A, b_ub=limits, bounds=(None, None), method="highs")
    assert answer.status in (0, 3)
    return 1.0 if answer.status == 3 else -answer.fun - b[i]


def polyhedron(rng, k, m, kind):
    """Rows, a start and its reach: in a box, open, with lines, or with an unused coordinate."""
    A = rng.normal(size=(m, k))
    if kind == "lines":
        A = A[:, : max(1, k - 2)] @ rng.normal(size=(max(1, k - 2), k))
    if kind == "flat":
        A[:, rng.integers(k)] = 0.0
    if kind == "box":
        A = np.vstack([A, np.eye(k), -np.eye(k)])
    start = rng.normal(size=k)
    b = A @ start + 0.2 + rng.random(len(A))
    return A, b, start, 1.2 + 1e-9 if kind == "box" else np.inf


@pytest.mark.parametrize("kind", ["box", "open", "lines", "flat"])
@pytest.mark.parametrize("k", [1, 2, 3, 5, 8, 12])
def test_verdicts_are_those_of_highs(k, kind):
    rng = np.random.default_rng([k, len(kind)])
    for m in (3, 2 * k + 3, 30):
        A, b, start, reach = polyhedron(rng, k, m, kind)
        result = facets(A, b, start, reach=reach)
        prove(A, b, start, result, reach)
        for i, verdict in enumerate(result.verdict):
            excess = by_highs(A, b, i)
            assert abs(excess) > 1e-6  # generic: every row is clearly one or the other
            if not A[i].any():
                assert verdict == ZERO
            elif verdict == UNDECIDED:  # rows of deficient rank: no float proof of redundancy
                assert kind == "lines"
                assert k > 1
                assert excess < 0
            else:
                assert verdict == (FACET if excess > 0 else REDUNDANT)


@pytest.mark.parametrize(("k", "m"), [(1, 9), (2, 100), (4, 40), (6, 36), (10, 50), (10, 200)])
@pytest.mark.parametrize("kind", ["box", "open"])
def test_nothing_is_open_on_generic_rows(k, m, kind):
    rng = np.random.default_rng([k, m])
    for _ in range(20):
        A, b, start, reach = polyhedron(rng, k, m, kind)
        scale = 10.0 ** rng.uniform(-9, 9, len(A))
        result = facets(A, b, start, error=1e-13, reach=reach)
        assert set(result.verdict) <= {FACET, REDUNDANT}
        scaled = facets(A * scale[:, None], b * scale, start, error=1e-13 * scale, reach=reach)
        assert (scaled.verdict == result.verdict).all()


def test_lines_are_settled_where_the_reach_is_finite():
    A, b, start, _ = polyhedron(np.random.default_rng(0), 5, 30, "lines")
    A = np.vstack([A, np.eye(5), -np.eye(5)])
    b = np.append(b, np.append(start + 9.0, 9.0 - start))
    result = facets(A, b, start, reach=9.1)
    prove(A, b, start, result, 9.1)
    assert set(result.verdict) == {FACET, REDUNDANT}


def test_a_product_has_exact_multipliers():
    """Rows of either factor need multipliers of that factor only, whose others are exactly 0."""
    rng = np.random.default_rng(3)
    A = np.zeros((40, 5))
    A[:20, [0, 3]] = rng.normal(size=(20, 2))
    A[20:, [1, 2, 4]] = rng.normal(size=(20, 3))
    b = 0.5 + rng.random(40)
    result = facets(A, b, np.zeros(5))
    prove(A, b, np.zeros(5), result)
    assert set(result.verdict) == {FACET, REDUNDANT}
    assert (result.rows[result.verdict == REDUNDANT] >= 0).sum(1).max() <= 3


@pytest.mark.parametrize("k", [2, 3, 4, 6])
@pytest.mark.parametrize("reach", [np.inf, 5.0])
def test_cones_are_settled_exactly(k, reach):
    rng = np.random.default_rng(k)
    for m in (k, 3 * k, 40):
        start = np.append(np.full(k - 1, 1e-3), 1.0)
        A = rng.normal(size=(m, k))
        A *= -np.sign(A @ start)[:, None]
        A = A.round(20 - k) if m == k else A
        result = facets(A, np.zeros(m), start, reach=reach)
        prove(A, np.zeros(m), start, result, reach)
        assert set(result.verdict) <= {FACET, REDUNDANT}
        for i, verdict in enumerate(result.verdict):
            assert (by_highs(A, np.zeros(m), i) > 1e-9) == (verdict == FACET)


def test_a_row_through_a_vertex_is_undecided_unless_homogeneous():
    A = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, -2.0]])
    touching = facets(A, [1.0, 1.0, 2.0, 5.0], [0.0, 0.0])
    assert touching.verdict.tolist() == [FACET, FACET, UNDECIDED, FACET]
    cone = facets(A[:3], [0.0, 0.0, 0.0], [-1.0, -1.5])
    assert cone.verdict.tolist() == [FACET, FACET, REDUNDANT]
    assert cone.rows[2].tolist() in ([0, 1], [1, 0])
    np.testing.assert_allclose(cone.multipliers[2], [1.0, 1.0])
    unsure = facets(A[:3], [0.0, 0.0, 0.0], [-1.0, -1.5], error=[[0.0, 1e-9]] * 3)
    assert unsure.verdict.tolist() == [FACET, FACET, UNDECIDED]


def test_duplicates_and_zero_rows():
    A = np.array([[1.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.0, 0.0], [3.0, 0.0]])
    b = np.array([1.0, 2.0, 1.0, 1.0, 0.0, 3.0])
    expected = [UNDECIDED, FACET, FACET, FACET, ZERO, UNDECIDED]
    assert facets(A, b, [0.1, 0.2]).verdict.tolist() == expected
    doubled = facets(np.vstack([A, [[5.0, 5.0], [5.0, 5.0]]]), np.append(b, [99.0, 99.0]), [0, 0])
    assert doubled.verdict.tolist() == [*expected, REDUNDANT, REDUNDANT]
    # A normal that is zero within its error is no ZERO; it is far from the box.
    unsure = facets(A, b + 0.5, [0, 0], error=[[0, 0]] * 4 + [[1e-9, 0]] + [[0, 0]], reach=2.0)
    assert unsure.verdict.tolist()[4] == REDUNDANT


@given(st.data())
def test_small_integers_are_degenerate_and_proved(data):
    """Parallel, coincident, touching and zero rows, cones, thin sets: whatever comes, the truth."""
    k = data.draw(st.integers(1, 4))
    m = data.draw(st.integers(1, 12))
    entry = st.integers(-2, 2)
    A = np.array(data.draw(st.lists(entry, min_size=m * k, max_size=m * k))).reshape(m, k) * 1.0
    slack = np.array(data.draw(st.lists(st.integers(1, 3), min_size=m, max_size=m))) * 0.25
    start = np.array(data.draw(st.lists(entry, min_size=k, max_size=k))) * 1.0
    cone = data.draw(st.booleans()) and bool((A @ start < 0).all())
    b = np.zeros(m) if cone else A @ start + slack
    reach = data.draw(st.sampled_from([np.inf, 100.0]))
    if reach < np.inf:
        A = np.vstack([A, np.eye(k), -np.eye(k)])
        b = np.append(b, np.append(start + 3.0, 3.0 - start))
    result = facets(A, b, start, reach=reach)
    prove(A, b, start, result, reach)
    assert ((result.verdict == ZERO) == ~A.any(1)).all()


@given(st.integers(0, 10**6))
def test_rows_of_all_sizes_near_the_boundary(seed):
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, 7))
    A, b, start, reach = polyhedron(rng, k, int(rng.integers(1, 25)), "box" if seed % 2 else "open")
    scale = 10.0 ** rng.uniform(-9, 9, len(A))
    i = rng.integers(len(A))
    toward = A[i] * (b[i] - A[i] @ start) / (A[i] @ A[i])
    step = min(1.0, ((b - A @ start)[A @ toward > 0] / (A @ toward)[A @ toward > 0]).min())
    start = start + toward * step * (1.0 - 10.0 ** -rng.uniform(1, 12))
    A, b, reach = A * scale[:, None], b * scale, 2.0 * reach
    result = facets(A, b, start, reach=reach)
    prove(A, b, start, result, reach)


@given(st.integers(0, 10**6))
def test_verdicts_hold_for_all_rows_within_the_errors(seed):
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, 6))
    A, b, start, _ = polyhedron(rng, k, int(rng.integers(k, 25)), "open")
    error = 10.0 ** rng.uniform(-12, -1, (len(A), 2)) * (rng.random((len(A), 2)) < 0.8)
    result = facets(A, b, start, error=error)
    for _ in range(3):
        # Corners of the error box, pulled in by a rounding.
        moved = A + (1 - 1e-3) * error[:, :1] * rng.choice([-1.0, 1.0], A.shape)
        shifted = b + (1 - 1e-3) * error[:, 1] * rng.choice([-1.0, 1.0], len(b))
        exact_A, exact_b = fractions(moved), fractions(shifted)
        for j, verdict in enumerate(result.verdict):
            if verdict == FACET:
                point = fractions(result.points[j])
                axis = np.argmax(abs(A[j]))
                point[axis] += (exact_b[j] - exact_A[j] @ point) / exact_A[j, axis]
                others = np.arange(len(b)) != j
                assert (exact_A[others] @ point < exact_b[others]).all()
            if verdict == REDUNDANT:
                rows = result.rows[j][result.rows[j] >= 0]
                assert redundant(exact_A, exact_b, j, rows)


def layered(rng, k, widths, m):
    """Exact rows of a small network: each layer's rows are combinations of the ones above.

    Returns (A as fractions, depth, rank, number of rows that are the first layer's).
    """
    basis = rng.integers(-4, 5, (k + 2, k))
    rows, depth, rank = [basis], [np.zeros(k + 2, int)], [k]
    for width in widths:
        chosen = rng.choice(len(basis), min(width, len(basis)), replace=False)
        depth[-1][chosen] += 1
        rank.append(min(rank[-1], len(chosen)))
        basis = rng.integers(-4, 5, (m, len(chosen))) @ basis[chosen]
        rows.append(basis)
        depth.append(np.full(m, len(depth)))
    return fractions(np.vstack(rows)), np.concatenate(depth), np.array(rank)


@given(st.integers(0, 10**6))
def test_known_ranks_prove_redundancy_that_errors_hide(seed):
    """The true rows are thirds: no float holds them, and all within the error have full rank."""
    rng = np.random.default_rng(seed)
    k = int(rng.integers(2, 6))
    widths = rng.integers(1, k + 1, rng.integers(1, 3))
    exact, depth, rank = layered(rng, k, widths, int(rng.integers(1, 8)))
    exact = exact / 3
    A = exact.astype(float)
    start = np.zeros(k)
    b = 1.0 + rng.integers(0, 8, len(A)) / 8
    result = facets(A, b, start, error=1e-12, depth=depth, rank=rank)
    right = fractions(b)
    for i, verdict in enumerate(result.verdict):
        if verdict == FACET:
            assert on_facet(exact, right, i, fractions(result.points[i]))
        elif verdict == REDUNDANT:
            rows = result.rows[i][result.rows[i] >= 0]
            assert redundant(exact, right, i, rows)


def test_ranks_settle_what_is_open_without_them():
    rng = np.random.default_rng(3)
    W = rng.normal(size=(2, 6))
    A = np.vstack([-W, rng.normal(size=(20, 2)) @ W])
    b = np.append([3.0, 3.0], 1.0 + rng.random(20))
    depth, rank = np.ones(22, int), np.array([6, 2])
    known = facets(A, b, np.zeros(6), error=1e-14, depth=depth, rank=rank)
    alone = facets(A, b, np.zeros(6), error=1e-14)
    assert not (known.verdict == UNDECIDED).any()
    assert (known.verdict == REDUNDANT).sum() == (alone.verdict == UNDECIDED).sum() > 10
    # A rank that says more than as many rows span leaves them open; one that is absent, too.
    loose = facets(A, b, np.zeros(6), error=1e-14, depth=depth, rank=np.array([6, 3]))
    assert (loose.verdict == alone.verdict).all()
    shallow = facets(A, b, np.zeros(6), error=1e-14, depth=0 * depth, rank=rank)
    assert (shallow.verdict == alone.verdict).all()


def test_large_errors_leave_rows_open():
    A, b, start, _ = polyhedron(np.random.default_rng(1), 3, 12, "open")
    assert (facets(A, b, start, error=10.0).verdict == UNDECIDED).all()


def test_only_the_rows_asked_about_are_settled():
    A, b, start, reach = polyhedron(np.random.default_rng(2), 4, 30, "box")
    every = facets(A, b, start, reach=reach)
    ask = np.arange(len(b)) % 3 == 0
    some = facets(A, b, start, reach=reach, ask=ask)
    prove(A, b, start, some, reach)
    assert (some.verdict[ask] == every.verdict[ask]).all()
    assert (some.verdict[~ask] == UNDECIDED).all()
    assert some.pivots < every.pivots


def test_the_kernel_is_called_from_compiled_code_with_one_room_for_all():
    @njit
    def count(A, b, err, depth, rank, starts, reach, ask, verdict, witness, support, room):
        found = np.zeros(len(A), np.int64)
        for i in range(len(A)):
            m = A.shape[1] - i
            facets_kernel(
                A[i, :m], b[i, :m], err[:m], depth[:m], rank, starts[i], reach, ask[:m], verdict,
                witness, support, room,
            )  # fmt: skip
            found[i] = (verdict[:m] == 1).sum()
        return found

    rng = np.random.default_rng(5)
    sets = [polyhedron(rng, 3, 20, "open") for _ in range(8)]
    A, b, starts = (np.array([s[part] for s in sets]) for part in range(3))
    found = count(
        A, b, np.zeros((20, 2)), np.zeros(20, np.int64), np.array([3]), starts, np.inf,
        np.ones(20, np.bool_), np.zeros(20, np.int64), np.zeros((20, 3)),
        np.zeros((20, 3), np.int64), work(20, 3),
    )  # fmt: skip
    expected = [
        (facets(A[i, : 20 - i], b[i, : 20 - i], starts[i]).verdict == FACET).sum() for i in range(8)
    ]
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": [1.0]}, r"expected \(m, k\), \(m,\) and \(k,\)"),
        ({"b": [np.inf, 1.0]}, "must be finite"),
        ({"start": [0.0]}, "expected"),
        ({"start": [2.0, 0.0]}, r"start violates row 0 \(and 0 more\)"),
        ({"error": -1.0}, "error must be finite, >= 0"),
        ({"error": [1.0, 1.0, 1.0]}, r"got shape \(3,\)"),
        ({"reach": np.nan}, "reach must be positive"),
        ({"ask": [1, 0]}, r"ask must be bool \(2,\); got int64"),
        ({"depth": [0, 1]}, r"depth must be \(2,\) with values from 0 to 0"),
    ],
)
def test_bad_input(change, message):
    arguments = {"A": np.eye(2), "b": [1.0, 1.0], "start": [0.0, 0.0], **change}
    with pytest.raises(ProblemError, match=message):
        facets(**arguments)
