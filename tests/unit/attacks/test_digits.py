"""The ten digits whose l_inf optima are known: how near attacks come, and never nearer."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from polytope.attacks import PGD, Attack, CarliniWagner, LinearRegion, polish
from polytope.model import Network, compile
from tests.data import data_path
from tests.unit.attacks.test_attack import assert_proved

BOX = (0.0, 1.0)
#: A distance equal to the optimum: what the file and the proofs are good for.
EQUAL = 1e-9


@functools.cache
def digits() -> tuple[Network, np.ndarray, np.ndarray, np.ndarray]:
    """The network, ten points, their labels, and their l_inf optima."""
    with np.load(data_path("digits", "digits_64_32_32_10.npz")) as f:
        net = compile([(f["W0"], f["b0"]), (f["W1"], f["b1"]), (f["W2"], f["b2"])])
        return net, f["points"], f["labels"], f["linf_optimum"]


@pytest.mark.parametrize(
    ("attack", "share"),
    [(PGD(), 6), (LinearRegion(), 8)],
    ids=["PGD", "LinearRegion"],
)
def test_polished_attacks_reach_the_optimum(attack: Attack, share: int) -> None:
    net, X, y, optimum = digits()
    found = attack(net, X, y, "inf", BOX, polish=True)
    assert (found.distance >= optimum - 1e-12).all()
    assert (found.distance <= 1.05 * optimum).all()
    assert (found.distance <= optimum * (1 + EQUAL)).sum() >= share
    assert_proved(net, X, y, found, np.inf, BOX)
    assert (found.native_distance <= found.distance * (1 + 1e-3)).all()


def test_raw_pgd_comes_near_and_polish_fixes_it() -> None:
    net, X, y, optimum = digits()
    raw = PGD()(net, X, y, "inf", BOX)
    assert (raw.distance > optimum * (1 + EQUAL)).all(), "gradient steps do not end on a corner"
    assert np.median(raw.distance / optimum) < 1.01
    for i in range(3):
        fixed = polish(net, X[i], raw.witness[i], int(y[i]), "inf", BOX)
        assert fixed.regions >= 1
        assert optimum[i] - 1e-12 <= fixed.distance <= raw.distance[i]
        np.testing.assert_allclose(fixed.distance, optimum[i], rtol=1e-3)


def test_attacks_agree_in_l2() -> None:
    net, X, y, _ = digits()
    wagner = CarliniWagner()(net, X, y, 2, BOX, polish=True)
    regions = LinearRegion()(net, X, y, 2, BOX)
    for found in (wagner, regions):
        assert_proved(net, X, y, found, 2, BOX)
    assert (np.abs(wagner.distance / regions.distance - 1) < EQUAL).sum() >= 7
    raw = CarliniWagner()(net, X[:3], y[:3], 2, BOX)
    assert (raw.distance >= regions.distance[:3] * (1 - EQUAL)).all()
    assert (raw.distance <= 1.1 * regions.distance[:3]).all()


def test_attacks_agree_in_l1() -> None:
    net, X, y, _ = digits()
    descent = PGD()(net, X, y, 1, BOX, polish=True)
    regions = LinearRegion()(net, X, y, 1, BOX)
    assert_proved(net, X, y, regions, 1, BOX)
    assert (regions.distance <= descent.distance * (1 + EQUAL)).all()
    assert (np.abs(descent.distance / regions.distance - 1) < EQUAL).sum() >= 5
