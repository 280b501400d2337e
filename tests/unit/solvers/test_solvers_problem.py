import numpy as np
import pytest
from scipy.sparse import csc_array

from solvers import LinearProgram, MixedIntegerProgram, ProblemError, QuadraticProgram

NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LinearProgram([]), "n >= 1"),
        (lambda: LinearProgram([[1.0]]), "n >= 1"),
        (lambda: LinearProgram([NAN]), "c contains NaN"),
        (lambda: LinearProgram([1, INF]), r"c\[1\] is infinite"),
        (lambda: LinearProgram(["a"]), "c is not an array of real numbers"),
        (lambda: LinearProgram([1j]), "c is not an array of real numbers"),
        (lambda: LinearProgram([1], [[1, 2]]), r"A has shape \(1, 2\); expected \(rows, 1\)"),
        (lambda: LinearProgram([1], [1]), r"A has shape \(1,\)"),
        (lambda: LinearProgram([1], [[NAN]]), "A contains NaN"),
        (lambda: LinearProgram([1], csc_array([[NAN]])), "A contains NaN"),
        (lambda: LinearProgram([1], [[INF]]), "A contains NaN or infinity"),
        (lambda: LinearProgram([1], [[1]], [1, 2]), r"row_lower has shape \(2,\)"),
        (lambda: LinearProgram([1], [[1]], 2, 1), r"row_lower\[0\] = 2 and row_upper\[0\] = 1"),
        (lambda: LinearProgram([1, 1], lower=[0, 3], upper=2), r"lower\[1\] = 3 and upper\[1\]"),
        (lambda: LinearProgram([1], lower=INF), "leave no value"),
        (lambda: LinearProgram([1], upper=-INF), "leave no value"),
        (lambda: LinearProgram([1], lower=NAN), "lower contains NaN"),
        (lambda: QuadraticProgram([1, 1], np.eye(3)), "P has shape"),
        (lambda: QuadraticProgram([1, 1], [[1, 1], [0, 1]]), "P is not symmetric"),
        (lambda: QuadraticProgram([1, 1], [[1, 2], [2, 1]]), "not positive semidefinite"),
        (lambda: QuadraticProgram([1, 1], np.diag([1, -1e-30])), "not positive semidefinite"),
        (lambda: MixedIntegerProgram([1, 1], [1, 0]), "expected booleans"),
        (lambda: MixedIntegerProgram([1, 1], [True]), "expected booleans"),
    ],
)
def test_bad_data_is_refused_with_one_clear_message(build, message):
    with pytest.raises(ProblemError, match=message):
        build()


def test_a_problem_owns_its_data_and_cannot_be_changed():
    c = np.array([1.0, 2.0])
    problem = LinearProgram(c, np.eye(2), lower=0)
    c[0] = 9
    assert problem.c[0] == 1
    for name in ("c", "lower", "row_upper"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(problem, name)[0] = 5
    with pytest.raises(AttributeError):
        problem.c = c


def test_matrix_is_canonical():
    duplicated = csc_array(([1.0, 2.0, 0.0], ([0, 0, 0], [0, 0, 1])), shape=(1, 2))
    problem = LinearProgram([1, 1], duplicated)
    assert problem.A.nnz == 1
    assert problem.A.toarray().tolist() == [[3.0, 0.0]]


def test_variables_are_free_by_default_and_scalars_broadcast():
    problem = LinearProgram([1, 1], [[1, 1]], upper=3)
    assert problem.lower.tolist() == [-INF, -INF]
    assert problem.upper.tolist() == [3, 3]
    assert (problem.row_lower[0], problem.row_upper[0]) == (-INF, INF)


def test_semidefinite_matrix_of_low_rank_is_accepted():
    v = np.array([[1.0, 1.0, 1 / 3]])
    problem = QuadraticProgram([0, 0, 0], v.T @ v)
    assert problem.objective(np.array([1.0, -1.0, 0.0])) == 0


def test_updated_keeps_the_kind_and_validates():
    problem = MixedIntegerProgram([1, 1], True, P=np.eye(2))
    new = problem.updated(c=[2, 3])
    assert isinstance(new, MixedIntegerProgram)
    assert new.objective(np.ones(2)) == 6
    assert problem.c.tolist() == [1, 1]
    with pytest.raises(ProblemError, match="c has shape"):
        problem.updated(c=[1, 2, 3])
