"""Attacks in a ball of fixed size: FGSM, and LLR's ascents of logit margins."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from polytope.attacks import FGSM, Attack, DeepFool, MultiTargeted, RandomTargeted, Untargeted
from polytope.attacks.names import as_attacks
from polytope.attacks.task import Task
from polytope.errors import InputError
from polytope.model import Network, compile
from polytope.robustness.compare import cross_check
from tests.nets import compiled, dense
from tests.unit.attacks.test_attack import assert_proved, steps
from tests.unit.attacks.test_digits import digits

KINDS = ["residual", "conv2d", "max_pool2d", "leaky_relu", "maxout", "single_logit", "batch_norm1d"]


def every_attack(eps: float) -> list[Attack]:
    """One of each, short."""
    return [
        FGSM(eps),
        FGSM(eps, steps=20),
        *(
            kind(eps, steps=30, restarts=3, rates=((0, eps / 4), (20, eps / 20)))
            for kind in (Untargeted, RandomTargeted, MultiTargeted)
        ),
    ]


def named(attack: Attack) -> str:
    """The class, and the steps of an FGSM."""
    return f"{type(attack).__name__}{getattr(attack, 'steps', '')}"


@dataclass(frozen=True)
class Liar(Attack):
    """Says that it stays within a radius, and proposes what it was given."""

    value: float
    within: float = 0.3

    def radius(self) -> float:
        return self.within

    def propose(self, task: Task) -> np.ndarray:
        return np.full((len(task), 1), self.value)


@pytest.mark.parametrize("k", range(5), ids=[named(a) for a in every_attack(1.0)])
@pytest.mark.parametrize("p", [1, 2, "inf"])
def test_the_ball_decides(k: int, p: object) -> None:
    """In one dimension the decision is at 0.75: in reach of 0.25 for eps 0.51, not for 0.49."""
    net, X = steps(0.75), np.array([[0.25], [0.9], [0.875]])
    for eps, expected in ((0.51, [True, True, True]), (0.49, [False, True, True])):
        found = every_attack(eps)[k](net, X, [0, 0, 1], p, (0, 1))
        assert found.found.tolist() == expected
        assert found.distance[1] == 0, "misclassified from the start"
        assert (found.distance[found.found] <= eps).all()
        assert (found.native_distance[found.found] <= eps).all()


@pytest.mark.parametrize("k", range(5), ids=[named(a) for a in every_attack(1.0)])
@pytest.mark.parametrize("name", KINDS)
def test_kinds_of_networks(k: int, name: str) -> None:
    net, _ = compiled(name)
    X = np.random.default_rng(0).uniform(-1, 1, (4, net.input_size))
    y = net.predict(X)
    for p in (2.0, math.inf):
        eps = 2 * float(DeepFool()(net, X, y, p).distance.min())
        assert math.isfinite(eps)
        for box in (None, (-1 - eps, 1 + eps / 2)):
            found = every_attack(eps)[k](net, X, y, p, box)
            assert_proved(net, X, y, found, p, box)
            assert (found.distance[found.found] <= eps).all()
            assert found.found.any() or k in (0, 3), "one step, and a class at random, may fail"


def test_a_liar_is_caught() -> None:
    """Too far, on the wrong side, or so near that only a push out of the ball would prove it."""
    net, X = steps(0.75), np.array([[0.5]])
    assert Liar(0.75)(net, X).found.all(), "0.25 away"
    assert not Liar(0.85)(net, X).found.any(), "adversarial, but 0.35 away"
    assert not Liar(0.7)(net, X).found.any()
    net, X = steps(0.8), np.array([[0.5]])
    short = Liar(0.8 - 2.0**-53)(net, X)
    assert not short.found.any()
    assert np.isnan(short.witness).all()
    assert np.isinf(short.native_distance).all()
    assert short.proof.tolist() == [""]
    tie = Liar(0.75, 0.25 * (1 + 1e-12))(steps(0.75), X)
    assert tie.found.all()
    assert np.isinf(tie.native_distance).all(), "the source takes the first of equal logits there"
    assert np.isnan(tie.native_witness).all()


@pytest.mark.parametrize("eps", [0.05, 0.08, 0.1])
def test_digits_are_broken_where_the_optimum_says_so(eps: float) -> None:
    net, X, y, optimum = digits()
    within = optimum <= eps
    assert 0 < within.sum() < len(X)
    found = MultiTargeted(eps, restarts=3, steps=100)(net, X, y, "inf", (0, 1))
    assert_proved(net, X, y, found, math.inf, (0, 1))
    np.testing.assert_array_equal(found.found, within)
    for attack in every_attack(eps):
        other = attack(net, X, y, "inf", (0, 1))
        assert not (other.found & ~within).any(), named(attack)


def slow_ascent(
    net: Network, x: np.ndarray, label: int, aim: int | None, start: np.ndarray, eps: float,
    rates: list[float],
) -> np.ndarray | None:  # fmt: skip
    """LLR's ascent of one point in l_inf from one start, with torch's own Adam."""
    step = torch.tensor(start, requires_grad=True)
    optimiser = torch.optim.Adam([step], lr=1.0, maximize=True)
    for rate in [*rates, None]:
        logits = net.forward(torch.tensor(x)[None] + step[None])[0]
        values = logits.tolist()
        best = max((k for k in range(len(values)) if k != label), key=values.__getitem__)
        if values[best] >= values[label]:
            return np.asarray(x + step.detach().numpy())
        if rate is None:
            return None
        best = best if aim is None else aim
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad()
        (logits[best] - logits[label]).backward()
        optimiser.step()
        with torch.no_grad():
            step.clamp_(-eps, eps)
    return None


def test_the_ascent_is_the_papers() -> None:
    net = dense(6, 24, 5, seed=2)
    X = np.random.default_rng(0).uniform(-1, 1, (6, 6))
    y = net.predict(X)
    eps, rates = 0.35, ((0, 0.02), (30, 0.005))
    plain = [0.02] * 30 + [0.005] * 12
    noise = [np.random.default_rng(7 + i).uniform(-1, 1, (1, 6))[0] * eps for i in range(6)]
    found = Untargeted(eps, steps=42, restarts=1, rates=rates)(net, X, y, "inf", seed=7)
    slow = [slow_ascent(net, X[i], y[i], None, noise[i], eps, plain) for i in range(6)]
    assert any(z is None for z in slow)
    assert len(set(found.queries[found.found])) >= 3, "they end at different steps"
    for i, z in enumerate(slow):
        if z is None:
            assert not found.found[i]
        else:
            np.testing.assert_allclose(found.witness[i], z, atol=1e-8)
    target = (y + 2) % 5
    found = MultiTargeted(eps, steps=42, restarts=1, rates=rates)(
        net, X, y, "inf", seed=7, target=target
    )
    for i in range(6):
        z = slow_ascent(net, X[i], y[i], int(target[i]), noise[i], eps, plain)
        if found.found[i]:
            assert z is not None, "the slow one stops at any class, so not later"


def test_the_papers_settings() -> None:
    for attack in (Untargeted(0.1), RandomTargeted(0.1)):
        assert (attack.steps, attack.restarts) == (200, 20)
        rates = [attack._rate(k) for k in (0, 99, 100, 149, 150, 199)]
        assert rates == [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    assert MultiTargeted(0.1)._rate(199) == 0.1
    net, X = dense(4, 8, 3, seed=1), np.zeros((1, 4))
    found = FGSM(1e-3, steps=20)(net, X, p="inf")
    assert not found.found.any()
    assert found.queries.tolist() == [21]


def test_one_step_is_the_sign_of_the_cross_entropys_gradient() -> None:
    net = dense(6, 24, 5, seed=2)
    X = np.random.default_rng(0).uniform(0, 1, (6, 6))
    y, eps = net.predict(X), 0.6
    z = torch.tensor(X, requires_grad=True)
    torch.nn.functional.cross_entropy(net.forward(z), torch.tensor(y)).backward()
    expected = np.clip(X + eps * z.grad.sign().numpy(), 0, 1)
    broken = net.predict(expected) != y
    assert broken.sum() > 0
    found = FGSM(eps)(net, X, y, "inf", (0, 1))
    np.testing.assert_array_equal(found.found, broken)
    np.testing.assert_allclose(found.witness[broken], expected[broken], atol=1e-8)


def test_a_step_does_not_vanish_where_the_network_is_sure() -> None:
    """The cross-entropy itself is 0 in floats there, and so is its gradient."""
    net = compile([(1e5 * np.array([[1.0], [-1.0]]), np.zeros(2))])
    assert FGSM(1.5)(net, np.array([[1.0]]), p="inf").found.all()


def test_a_random_target_is_reached_or_nothing_is() -> None:
    net = dense(6, 24, 5, seed=2)
    X = np.random.default_rng(0).uniform(0, 1, (12, 6))
    y = net.predict(X)
    attack = RandomTargeted(0.7, restarts=4, steps=60)
    found = attack(net, X, y, "inf", seed=3)
    drawn = attack.drawn(y, 5, seed=3)
    assert (drawn != y).all()
    assert 0 < found.found.sum() < len(X)
    np.testing.assert_array_equal(found.target[found.found], drawn[found.found])
    np.testing.assert_array_equal(net.predict(found.witness[found.found]), drawn[found.found])
    many = attack.drawn(np.full(4000, 2), 5)
    np.testing.assert_allclose(np.bincount(many, minlength=5), [1000, 1000, 0, 1000, 1000], atol=99)


@pytest.mark.parametrize("k", range(5), ids=[named(a) for a in every_attack(1.0)])
def test_targets(k: int) -> None:
    net = dense(4, 12, 5, seed=3)
    X = np.random.default_rng(0).uniform(0, 1, (4, 4))
    y = net.predict(X)
    target = (y + 1) % 5
    found = every_attack(2.0)[k](net, X, y, "inf", (-2, 3), target)
    for i in np.flatnonzero(found.found):
        logits = net.logits(found.witness[i])[0]
        assert logits[target[i]] >= logits[y[i]]
    assert k == 0 or found.found.any()


@pytest.mark.parametrize("p", [2.0, math.inf])
def test_float32_finds_the_same_and_is_proved(p: float) -> None:
    net = dense(6, 16, 16, 4, seed=1)
    X = np.random.default_rng(0).uniform(0, 1, size=(40, 6))
    y, eps = net.predict(X), 0.25
    settings = {"steps": 40, "restarts": 3, "rates": ((0, 0.02),)}
    for kind in (Untargeted, MultiTargeted):
        exact = kind(eps, **settings)(net, X, y, p, (0, 1))
        fast = kind(eps, **settings, dtype=torch.float32)(net, X, y, p, (0, 1))
        assert_proved(net, X, y, fast, p, (0, 1))
        assert (fast.distance[fast.found] <= eps).all()
        assert 0 < exact.found.sum() < len(X)
        np.testing.assert_array_equal(fast.found, exact.found)
        assert (fast.witness != exact.witness)[exact.found].any()


def test_float32_is_looked_at_again() -> None:
    """The lead is 0 in float32 wherever z is near 1e4, and below 0 in exact arithmetic."""
    net = compile([(np.array([[1.0], [1.0]]), np.array([1e-4, 0.0]))])
    fast = Untargeted(0.5, steps=5, restarts=2, dtype=torch.float32)
    found = fast(net, np.array([[1e4]]), p="inf")
    assert not found.found.any()
    assert found.queries.tolist() == [2 * 2 * 6], "each of two restarts, at every step, twice"


def test_broken_points_stop() -> None:
    """One restart that finds something ends the others; points in vain use every step."""
    net = steps(0.75)
    attack = Untargeted(0.1, steps=30, restarts=4)
    found = attack(net, np.array([[0.25], [0.74]]), p="inf")
    assert found.found.tolist() == [False, True]
    assert found.queries.tolist() == [4 * 31, 4]
    many = dense(4, 12, 5, seed=3)
    tried = MultiTargeted(1e-3, steps=3, restarts=2)(many, np.zeros((1, 4)), p="inf")
    assert tried.queries.tolist() == [4 * 2 * 4 + 1]


@pytest.mark.parametrize("k", range(5), ids=[named(a) for a in every_attack(1.0)])
def test_rows_do_not_depend_on_each_other(k: int) -> None:
    net = dense(6, 16, 16, 4, seed=1)
    X = np.random.default_rng(0).normal(size=(6, 6))
    attack = every_attack(0.3)[k]
    if k > 1:
        attack = replace(attack, rates=((0, 0.02), (20, 0.01)))
    whole, small = attack(net, X, p="inf", seed=2), attack(net, X, p="inf", seed=2, memory=1)
    np.testing.assert_allclose(small.witness, whole.witness, atol=1e-7)
    alone = attack(net, X[4], p="inf", seed=6)
    np.testing.assert_allclose(alone.witness[0], whole.witness[4], atol=1e-7)


def test_time_ends_them() -> None:
    net = dense(8, 64, 64, 10, seed=0)
    X = np.random.default_rng(0).normal(size=(4, 8))
    for attack in (Untargeted(0.01, steps=10**6), MultiTargeted(0.01, steps=10**6),
                   FGSM(0.01, steps=10**7)):  # fmt: skip
        found = attack(net, X, p="inf", time_limit=0.5)
        assert found.stopped.all()
        assert found.seconds.sum() < 3


def test_against_foolbox() -> None:
    import foolbox  # slow to import, and only needed here

    net = dense(6, 24, 5, seed=2)
    X = np.random.default_rng(0).uniform(0.1, 0.9, (8, 6))
    y = net.predict(X)
    from polytope.attacks.external import Module

    model = foolbox.PyTorchModel(Module(net).eval(), bounds=(0, 1), device="cpu")
    for p, theirs in (("inf", "LinfFastGradientAttack"), (2, "L2FastGradientAttack")):
        for eps in (0.3, 0.6):
            attack = getattr(foolbox.attacks, theirs)(random_start=False)
            z, _, success = attack(model, torch.tensor(X), torch.tensor(y), epsilons=eps)
            found = FGSM(eps)(net, X, y, p, (0, 1))
            np.testing.assert_array_equal(found.found, success.numpy())
            np.testing.assert_allclose(
                found.witness[found.found], z.numpy()[found.found], atol=1e-7
            )


def test_by_name() -> None:
    found = as_attacks(["fgsm:0.1", "fgsm_20:0.2", "multi_targeted:1e-3", "untargeted:1",
                        "random_targeted:0.5", "deepfool", MultiTargeted(0.3)])  # fmt: skip
    assert found["fgsm:0.1"] == FGSM(0.1)
    assert found["fgsm_20:0.2"] == FGSM(0.2, steps=20)
    assert found["multi_targeted:1e-3"] == MultiTargeted(1e-3)
    assert found["multi_targeted"] == MultiTargeted(0.3)
    for name, message in (
        ("multi_targeted", "multi_targeted perturbs by a fixed size"),
        ("fgsm:", "add the radius of the ball, as in fgsm:0.1"),
        ("fgsm:-1", "fgsm perturbs by a fixed size"),
        ("fgsm:inf", "fgsm perturbs by a fixed size"),
        ("pgd:0.1", "got 'pgd:0.1', expected pgd, "),
        ("fgms:0.1", "got 'fgms:0.1', expected pgd, .*multi_targeted:EPS"),
    ):
        with pytest.raises(InputError, match=message):
            as_attacks([name])


def test_beside_the_engines() -> None:
    net, X, y, optimum = digits()
    names = ["fgsm:0.08", "fgsm_20:0.08", "multi_targeted:0.08", "deepfool"]
    found = cross_check(net, X[:2], y[:2], "inf", (0, 1), ["branch_and_bound"], names)
    assert list(found.attacks) == names
    assert found.verdict.tolist() == ["agree", "agree"]
    np.testing.assert_allclose(found.lower, optimum[:2], rtol=1e-9)
    for name in names:
        assert (found.ratios(name) >= 1 - 1e-9).all()
    assert np.isfinite(found.ratios("multi_targeted:0.08")).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FGSM(0.0), "FGSM: eps: got 0.0, expected a positive number"),
        (lambda: FGSM("0.1"), "FGSM: eps: got '0.1'"),
        (lambda: FGSM(0.1, steps=0), "steps: got 0"),
        (lambda: FGSM(0.1, step=-1), "FGSM: step: got -1"),
        (lambda: Untargeted(-0.1), "Untargeted: eps: got -0.1"),
        (lambda: MultiTargeted(math.nan), "MultiTargeted: eps: got nan"),
        (lambda: RandomTargeted(math.inf), "RandomTargeted: eps: got inf"),
        (lambda: Untargeted(True), "Untargeted: eps: got True"),
        (lambda: Untargeted(0.1, restarts=0), "restarts: got 0"),
        (lambda: Untargeted(0.1, steps=2.5), "steps: got 2.5"),
        (lambda: MultiTargeted(0.1, dtype=torch.float16), "dtype: got torch.float16"),
        (lambda: Untargeted(0.1, rates=0.1), "rates: got 0.1, expected pairs"),
        (lambda: Untargeted(0.1, rates=()), "rates: got ()"),
        (lambda: Untargeted(0.1, rates=((1, 0.1),)), "the first from step 0"),
        (lambda: Untargeted(0.1, rates=((0, 0.1), (0, 0.2))), "rates"),
        (lambda: Untargeted(0.1, rates=((0, -0.1),)), "rates"),
        (lambda: Untargeted(0.1, rates=((0, "x"),)), "rates"),
    ],
)
def test_bad_settings_are_refused_in_one_message(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(InputError, match=message.replace("(", r"\(").replace(")", r"\)")) as caught:
        call()
    assert "\n" not in str(caught.value)
