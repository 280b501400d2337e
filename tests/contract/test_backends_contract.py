"""Our own backends under the contract, and the parts of it that only they can show."""

from itertools import product

import clarabel
import highspy
import pulp as pulp_library
import pytest
from pyscipopt import SCIP_STATUS

from solvers.backends import cvxpy, daqp, highs, pulp, scip, scipy
from solvers.solution import Status
from solvers.testing import BackendContract


class TestHighs(BackendContract):
    backend = "highs"


class TestHighsWithAnotherSeed(BackendContract):
    backend = highs.HighsBackend(seed=7)


class TestHighsThatGivesUpAtOnce(BackendContract):
    """Every search is given up at its root, and tried again the careful way."""

    backend = highs.HighsBackend(patience=0.0)


class TestScipy(BackendContract):
    backend = "scipy"


class TestScip(BackendContract):
    backend = "scip"


class TestCvxpy(BackendContract):
    backend = "cvxpy"


class TestPulp(BackendContract):
    backend = "pulp"


class TestDaqp(BackendContract):
    backend = "daqp"


def test_highs_status_map_is_total() -> None:
    assert set(highs.STATUS) == set(highspy.HighsModelStatus.__members__.values())


def test_scipy_status_map_is_total() -> None:
    assert set(scipy.STATUS) == set(range(5))  # as scipy documents linprog and milp


def test_scip_status_map_is_total() -> None:
    words = {name.lower() for name in dir(SCIP_STATUS) if not name.startswith("_")}
    assert words <= set(scip.STATUS)


def test_cvxpy_status_map_is_total() -> None:
    words = {name for name in dir(clarabel.SolverStatus) if not name.startswith("_")}
    assert words == set(cvxpy.STATUS)
    assert {str(getattr(clarabel.SolverStatus, word)) for word in words} == words


CBC_FIRST_LINES = [
    "Optimal - objective value 1",
    "Optimal (within gap tolerance) - objective value 1",
    "Infeasible - objective value 1",
    "Integer infeasible - objective value 1",
    "Unbounded - objective value 1",
    "Stopped on time - objective value 1",
    "Stopped on time (no integer solution - continuous used) - objective value 1",
    "Stopped on iterations - objective value 1",
    "Stopped on difficulties - objective value 1",
    "Stopped on ctrl-c - objective value 1",
    "Unknown - objective value 1",
]


@pytest.mark.parametrize("line", CBC_FIRST_LINES)
def test_pulp_status_map_covers_all_that_cbc_writes(tmp_path, line: str) -> None:
    (tmp_path / "solution").write_text(line + "\n")
    solver = pulp_library.COIN_CMD(path="cbc", msg=False)
    pair = solver.get_status(str(tmp_path / "solution"))
    assert pair in pulp.STATUS
    assert (pulp.STATUS[pair] is Status.OPTIMAL) == line.startswith("Optimal")


def test_pulp_status_map_knows_no_other_pair_as_an_answer() -> None:
    pairs = set(product(pulp_library.LpStatus, pulp_library.LpSolution))
    assert set(pulp.STATUS) <= pairs
    assert pulp.STATUS.get((1, 0), Status.UNKNOWN) is Status.UNKNOWN


def test_daqp_status_map_is_total() -> None:
    assert set(range(-8, 3)) == set(daqp.STATUS)  # daqp's constants.h of 0.11


MAPS = {
    "highs": highs.STATUS,
    "scipy": scipy.STATUS,
    "cvxpy": cvxpy.STATUS,
    "pulp": pulp.STATUS,
    "daqp": daqp.STATUS,
}


@pytest.mark.parametrize("name", MAPS)
def test_only_one_status_is_read_as_optimal(name: str) -> None:
    assert list(MAPS[name].values()).count(Status.OPTIMAL) == 1


def test_scip_ends_a_search_at_its_gap_or_without_one() -> None:
    words = [word for word, status in scip.STATUS.items() if status is Status.OPTIMAL]
    assert words == ["gaplimit", "optimal"]
