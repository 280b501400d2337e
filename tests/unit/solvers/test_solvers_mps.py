"""MPS files mean the same problem: to the bit to our reader, to the optimum to HiGHS and SCIP."""

import highspy
import numpy as np
import pyscipopt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from solvers import (
    LinearProgram,
    MixedIntegerProgram,
    ProblemError,
    QuadraticProgram,
    Status,
    solve,
)
from solvers.mps import read_mps, write_mps

INF = np.inf
FULL = np.array([[0.1, 1 / 3, 0.0], [-2 / 7, 0.0, 1e-7], [0.0, 0.0, 0.0], [1.0, np.pi, -np.e]])
BOUNDS = ([-INF, 0.1, -INF, -1 / 3], [2 / 3, 0.1, INF, INF])
ROUGH = LinearProgram([1e-9, -1 / 3, 0.0], FULL, *BOUNDS, [-INF, 0.3, -1.1], [0.7, INF, -0.1])
MIXED = MixedIntegerProgram(
    [-5, -4, -3.3, 0], [True, False, True, True], [[2, 3, 1, 0], [4, 1, 2, 0]], 0, [5, 11], 0, 3
)
CURVED = QuadraticProgram([-1, 1 / 3], [[2, 1 / 7], [1 / 7, 1]], [[1, 1]], -1, 0.3, -1, 1)


def _same(a, b):
    for name in ("c", "row_lower", "row_upper", "lower", "upper"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    np.testing.assert_array_equal(a.A.toarray(), b.A.toarray())
    assert type(a) is type(b)
    if a.quadratic is not None:
        np.testing.assert_array_equal(a.quadratic.toarray(), b.quadratic.toarray())
    if isinstance(a, MixedIntegerProgram):
        np.testing.assert_array_equal(a.integrality, b.integrality)


def _by_highs(path):
    model = highspy.Highs()
    model.setOptionValue("output_flag", False)
    assert model.readModel(str(path)) == highspy.HighsStatus.kOk
    return model


@pytest.mark.parametrize("problem", [MIXED, CURVED], ids=["mip", "qp"])
def test_written_and_read_back(tmp_path, problem):
    write_mps(problem, tmp_path / "a.mps", comment="seed 3\nhighs 1.15.1")
    assert (tmp_path / "a.mps").read_text().startswith("* seed 3\n* highs 1.15.1\nNAME")
    _same(read_mps(tmp_path / "a.mps"), problem)


def test_rows_without_bounds_are_left_out(tmp_path):
    write_mps(ROUGH, tmp_path / "a.mps")
    kept = [0, 1, 3]
    expected = ROUGH.updated(
        A=ROUGH.A[kept], row_lower=ROUGH.row_lower[kept], row_upper=ROUGH.row_upper[kept]
    )
    _same(read_mps(tmp_path / "a.mps"), expected)


def test_a_range_that_would_round_becomes_two_rows(tmp_path):
    low, high = 0.1, 1e17  # high - (high - low) is not low
    write_mps(LinearProgram([1], [[1]], low, high), tmp_path / "a.mps")
    read = read_mps(tmp_path / "a.mps")
    assert read.row_lower.tolist() == [-INF, low]
    assert read.row_upper.tolist() == [high, INF]


@pytest.mark.parametrize("problem", [ROUGH, MIXED], ids=["lp", "mip"])
def test_highs_reads_the_same_to_the_bit(tmp_path, problem):
    write_mps(problem, tmp_path / "a.mps")
    model = _by_highs(tmp_path / "a.mps")
    lp = model.getLp()
    ours = read_mps(tmp_path / "a.mps")
    np.testing.assert_array_equal(lp.col_cost_, ours.c)
    np.testing.assert_array_equal(lp.col_lower_, ours.lower)
    np.testing.assert_array_equal(lp.col_upper_, ours.upper)
    np.testing.assert_array_equal(lp.row_lower_, ours.row_lower)
    np.testing.assert_array_equal(lp.row_upper_, ours.row_upper)
    matrix = lp.a_matrix_
    assert sorted(matrix.value_) == sorted(ours.A.data)


@pytest.mark.parametrize("problem", [MIXED, CURVED], ids=["mip", "qp"])
def test_highs_finds_the_same_optimum_in_the_file(tmp_path, problem):
    write_mps(problem, tmp_path / "a.mps")
    model = _by_highs(tmp_path / "a.mps")
    model.run()
    assert model.getInfo().objective_function_value == pytest.approx(solve(problem).value, abs=1e-6)


def test_scip_finds_the_same_optimum_in_the_file(tmp_path):
    write_mps(MIXED, tmp_path / "a.mps")
    model = pyscipopt.Model()
    model.hideOutput()
    model.readProblem(str(tmp_path / "a.mps"))
    model.optimize()
    assert model.getObjVal() == pytest.approx(solve(MIXED).value, abs=1e-6)


NUMBERS = st.floats(-1e6, 1e6, allow_subnormal=False) | st.integers(-3, 3).map(float)


@given(st.data())
def test_any_problem_survives(tmp_path_factory, data):
    n, m = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 4))
    numbers = st.lists(NUMBERS, min_size=n, max_size=n)
    A = np.array([data.draw(numbers) for _ in range(m)]).reshape(m, n)
    low = np.array(data.draw(st.lists(NUMBERS, min_size=m, max_size=m)))
    width = data.draw(st.sampled_from([0.0, 1.0, INF]))
    problem = LinearProgram(data.draw(numbers), A, low, low + width, data.draw(numbers))
    path = tmp_path_factory.mktemp("mps") / "a.mps"
    write_mps(problem, path)
    read = read_mps(path)
    np.testing.assert_array_equal(read.c, problem.c)
    np.testing.assert_array_equal(read.lower, problem.lower)
    if width != 1.0:  # a range may be written as two rows
        _same(read, problem)
    expected, found = solve(problem), solve(read)
    if Status.OPTIMAL is expected.status is found.status:
        assert found.value == pytest.approx(expected.value, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "ROWS\n Q r0\n",
        "ROWS\n N cost\nCOLUMNS\n x0 r7 1\n",
        "ROWS\n N cost\nCOLUMNS\n x0 cost one\n",
        "OBJSENSE\n MAX\n",
        " stray 1\n",
        "ROWS\n N cost\nCOLUMNS\n x0 cost 1\nBOUNDS\n BV BND x0\n",
    ],
)
def test_what_is_not_understood_is_quoted(tmp_path, text):
    (tmp_path / "a.mps").write_text(text)
    with pytest.raises(ProblemError, match=r"a\.mps, line \d: '.*' under .* is not understood"):
        read_mps(tmp_path / "a.mps")
