"""Our own backends under the contract, and the parts of it that only they can show."""

import highspy
import pytest

from solvers.backends import highs, scipy
from solvers.solution import Status
from solvers.testing import BackendContract


class TestHighs(BackendContract):
    backend = "highs"


class TestHighsWithAnotherSeed(BackendContract):
    backend = highs.HighsBackend(seed=7)


class TestScipy(BackendContract):
    backend = "scipy"


def test_highs_status_map_is_total() -> None:
    assert set(highs.STATUS) == set(highspy.HighsModelStatus.__members__.values())


def test_scipy_status_map_is_total() -> None:
    assert set(scipy.STATUS) == set(range(5))  # as scipy documents linprog and milp


@pytest.mark.parametrize("status_map", [highs.STATUS, scipy.STATUS])
def test_only_one_status_is_read_as_optimal(status_map: dict[object, Status]) -> None:
    assert list(status_map.values()).count(Status.OPTIMAL) == 1
