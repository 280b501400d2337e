"""DeepFool: by hand on affine networks, beside foolbox's, and never below the optimum."""

from __future__ import annotations

import math

import numpy as np
import pytest

from polytope.attacks import DeepFool, External, LinearRegion
from polytope.errors import InputError
from polytope.model import compile
from tests.nets import compiled, dense
from tests.unit.attacks.test_attack import assert_proved
from tests.unit.attacks.test_digits import digits


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 4.0, math.inf])
def test_an_affine_network_takes_one_step(p: float) -> None:
    """The nearest of the hyperplanes, by the dual norm, and the overshoot."""
    rng = np.random.default_rng(0)
    W, b = rng.normal(size=(5, 7)), rng.normal(size=5)
    net, X = compile([(W, b)]), rng.normal(size=(9, 7))
    y = net.predict(X)
    q = math.inf if p == 1 else 1 / (1 - 1 / p)
    exact = []
    for x, label in zip(X, y, strict=True):
        logits = W @ x + b
        exact.append(
            min(
                (logits[label] - logits[k]) / np.linalg.norm(W[k] - W[label], ord=q)
                for k in range(5)
                if k != label
            )
        )
    found = DeepFool()(net, X, y, p)
    np.testing.assert_allclose(found.distance, 1.02 * np.array(exact), rtol=1e-9)
    assert (found.queries == 3).all(), "the order of classes, the step, and the end"
    assert_proved(net, X, y, found, p, None)
    near = DeepFool(overshoot=0.5)(net, X, y, p)
    np.testing.assert_allclose(near.distance, 1.5 * np.array(exact), rtol=1e-9)


def test_a_coordinate_at_the_end_of_the_box_is_no_way_out() -> None:
    """x_0 is steepest but at its end; the step has to be along x_1 alone."""
    net = compile([(np.array([[0.0, 0.0], [4.0, 1.0]]), np.array([0.0, -4.5]))])
    found = DeepFool()(net, np.array([[1.0, 0.0]]), box=(0, 1))
    np.testing.assert_allclose(found.witness, [[1.0, 0.51]])
    np.testing.assert_allclose(found.distance, [0.51])


def test_nothing_to_follow_finds_nothing() -> None:
    flat = compile([(np.zeros((2, 1)), np.array([1.0, 0.0]))])
    assert not DeepFool()(flat, np.array([[0.3]])).found.any()


def test_only_the_highest_classes_are_looked_at() -> None:
    """Class 2 is nearer, class 1 higher."""
    net = compile([(np.array([[0.0], [1.0], [-10.0]]), np.array([0.0, -1.0, -2.0]))])
    x = np.array([[0.0]])
    assert DeepFool(classes=1)(net, x).target.tolist() == [1]
    assert DeepFool(classes=2)(net, x).target.tolist() == [2]


@pytest.mark.parametrize("p", [2, "inf"])
def test_beside_foolbox(p: object) -> None:
    import foolbox  # slow to import, and only needed here

    name = "L2DeepFoolAttack" if p == 2 else "LinfDeepFoolAttack"
    theirs = getattr(foolbox.attacks, name)(loss="logits")
    for name in ("conv2d", "residual", "leaky_relu"):
        net, _ = compiled(name)
        X = np.random.default_rng(0).uniform(-1, 1, (6, net.input_size))
        y, box = net.predict(X), (-200, 200)
        own, other = DeepFool()(net, X, y, p, box), External(theirs)(net, X, y, p, box)
        both = own.found & other.found
        assert own.found.sum() >= other.found.sum()
        np.testing.assert_allclose(
            np.median(own.distance[both]), np.median(other.distance[both]), rtol=0.1
        )


def test_never_below_the_optimum_on_digits() -> None:
    net, X, y, optimum = digits()
    found = DeepFool()(net, X, y, "inf", (0, 1))
    assert_proved(net, X, y, found, math.inf, (0, 1))
    assert found.found.all()
    assert (found.distance >= optimum - 1e-12).all()
    assert np.median(found.distance / optimum) < 1.2
    nearest = LinearRegion()(net, X, y, 2, (0, 1))
    in_l2 = DeepFool()(net, X, y, 2, (0, 1))
    assert (in_l2.distance >= nearest.distance).all()
    assert np.median(in_l2.distance / nearest.distance) < 1.2


def test_time_ends_it() -> None:
    net = dense(8, 64, 64, 10, seed=0)
    X = np.random.default_rng(0).normal(size=(4, 8))
    found = DeepFool(steps=10**7)(net, X, box=(X.min(), X.max()), time_limit=0.5)
    assert found.seconds.sum() < 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps: got 0"),
        ({"classes": 0}, "classes: got 0"),
        ({"overshoot": -0.1}, "overshoot: got -0.1"),
        ({"overshoot": math.nan}, "overshoot: got nan"),
        ({"overshoot": "much"}, "overshoot: got 'much'"),
    ],
)
def test_bad_settings(settings: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DeepFool(**settings)
