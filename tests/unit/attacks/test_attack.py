"""What the base class promises, whatever the attack: proofs, honesty, order, refusals."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import pytest

from polytope.attacks import (
    PGD,
    Attack,
    Attacked,
    CarliniWagner,
    DeepFool,
    External,
    LinearRegion,
    polish,
)
from polytope.attacks.task import Task
from polytope.errors import InputError, SmoothActivation
from polytope.model import Network, compile
from polytope.network.exact import is_adversarial
from tests.nets import compiled, dense
from tests.zoo import SMOOTH_ZOO

ATTACKS = [
    PGD(steps=15, restarts=3, rounds=6),
    CarliniWagner(steps=60, searches=5),
    LinearRegion(restarts=2, samples=16, programs=20),
    DeepFool(),
]
every_attack = pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: type(a).__name__)


def steps(*sides: float) -> Network:
    """A network of one input whose class is 1 above the threshold."""
    (threshold,) = sides
    return compile([(np.array([[1.0], [-1.0]]), np.zeros(2)), (
        np.array([[0.0, 0.0], [1.0, -1.0]]), np.array([0.0, -threshold]))])  # fmt: skip


def shape_of(found: Attacked) -> set[int]:
    """Lengths of all columns."""
    return {len(getattr(found, field.name)) for field in fields(found)}


def assert_proved(
    net: Network, X: np.ndarray, y: np.ndarray, found: Attacked, p: float,
    box: tuple[float, float] | None, target: int | None = None,
) -> None:  # fmt: skip
    """Every witness is in the box, adversarial exactly, and as far as it says."""
    assert shape_of(found) == {len(X)}
    for i in np.flatnonzero(found.found):
        z = found.witness[i]
        if box is not None:
            assert (z >= box[0]).all()
            assert (z <= box[1]).all()
        assert is_adversarial(net.graph, z.reshape(net.input_shape), int(y[i]), target)
        size = np.linalg.norm(z - X[i], ord=p)
        assert size <= found.distance[i] <= size * (1 + 1e-12)
        assert found.target[i] != y[i]
        assert found.proof[i] == "exact"
    nothing = ~found.found
    assert np.isnan(found.witness[nothing]).all()
    assert (found.target[nothing] == -1).all()
    assert (found.proof[nothing] == "").all()
    for i in np.flatnonzero(np.isfinite(found.native_distance)):
        z = found.native_witness[i]
        logits = net.native_logits(z[None])[0]
        best = max((k for k in range(len(logits)) if k != y[i]), key=lambda k: logits[k])
        lead = logits[best if target is None else target] - logits[y[i]]
        assert lead >= -1e-12 * np.abs(logits).max(), "a batch rounds otherwise than one row"


@dataclass(frozen=True)
class Fixed(Attack):
    """Proposes what it was given."""

    values: tuple[tuple[float, ...], ...]

    def propose(self, task: Task) -> np.ndarray:
        assert len(task) == len(self.values)
        return np.array(self.values)


@dataclass(frozen=True)
class Far(Attack):
    """Proposes the nearest of random points that changes the decision."""

    def propose(self, task: Task) -> np.ndarray:
        found = []
        for x, label, draw in zip(
            task.points, task.criterion.labels, task.generators(), strict=True
        ):
            trial = x + draw.normal(size=(200, len(x)))
            changed = trial[task.net.predict(trial) != label]
            found.append(min(changed, key=lambda z, x=x: np.linalg.norm(z - x)))
        return np.array(found)


@every_attack
@pytest.mark.parametrize("box", [None, (0.0, 1.0)])
def test_the_threshold_is_found(attack: Attack, box: tuple[float, float] | None) -> None:
    """In one dimension the optimum is the distance to the threshold, known by hand."""
    net = steps(0.75)
    found = attack(net, np.array([[0.25], [0.5], [0.875]]), box=box, polish=True)
    np.testing.assert_allclose(found.distance, [0.5, 0.25, 0.125], rtol=1e-12)
    assert (found.distance >= [0.5, 0.25, 0.125]).all()
    assert found.target.tolist() == [1, 1, 0]
    assert found.found.all()


@every_attack
def test_nothing_adversarial_in_the_box(attack: Attack) -> None:
    net = steps(0.75)
    found = attack(net, np.array([[0.25], [0.5]]), box=(0.0, 0.7), polish=True)
    assert np.isinf(found.distance).all()
    assert np.isinf(found.native_distance).all()
    assert np.isnan(found.witness).all()
    assert (found.target == -1).all()
    assert not found.found.any()


@every_attack
def test_a_misclassified_point_is_its_own_witness(attack: Attack) -> None:
    net, X = steps(0.75), np.array([[0.25], [0.9], [0.75]])
    found = attack(net, X, [1, 0, 0])
    assert found.distance.tolist() == [0, 0, 0], "0.75 ties: the other class is as high"
    np.testing.assert_array_equal(found.witness, X)
    assert found.queries.tolist() == [0, 0, 0]
    assert found.native_distance[:2].tolist() == [0, 0]


@every_attack
@pytest.mark.parametrize("name", ["residual", "conv2d", "max_pool2d", "leaky_relu", "maxout",
                                  "duplicated_neurons", "dead_units", "single_logit"])  # fmt: skip
def test_kinds_of_networks(attack: Attack, name: str) -> None:
    net, _ = compiled(name)
    X = np.random.default_rng(0).uniform(-1, 1, (3, net.input_size))
    y = net.predict(X)
    found = attack(net, X, y, box=(-1, 1), polish=True)
    assert_proved(net, X, y, found, 2, (-1, 1))
    free = attack(net, X, y)
    assert_proved(net, X, y, free, 2, None)
    assert free.found.any()


@every_attack
def test_targets(attack: Attack) -> None:
    net = dense(4, 12, 5, seed=3)
    X = np.random.default_rng(0).uniform(0, 1, (3, 4))
    y = net.predict(X)
    target = (y + 1) % 5
    found = attack(net, X, y, box=(-2, 3), target=target, polish=True)
    for i in range(3):
        row = attack(net, X[i], y[i : i + 1], box=(-2, 3), target=int(target[i]), polish=True)
        assert_proved(net, X[i : i + 1], y[i : i + 1], row, 2, (-2, 3), int(target[i]))
    assert found.found.any()
    assert (found.target[found.found] == target[found.found]).all()
    free = attack(net, X, y, box=(-2, 3), polish=True)
    assert (free.distance <= found.distance * (1 + 1e-6)).all()


def test_a_target_may_be_farther() -> None:
    """Three classes in a row: the target's distance is not that of the nearest other class."""
    net = compile([(np.array([[0.0], [1.0], [3.0]]), np.array([0.0, -1.0, -9.0]))])
    for target, distance in ((None, 1.0), (1, 1.0), (2, 3.0)):
        found = PGD()(net, np.array([[0.0]]), [0], target=target, polish=True)
        np.testing.assert_allclose(found.distance, [distance], rtol=1e-12)


@every_attack
@pytest.mark.parametrize("p", [1, 2, 3, "inf"])
def test_same_seed_same_result(attack: Attack, p: object) -> None:
    net = dense(6, 16, 16, 4, seed=1)
    X = np.random.default_rng(0).normal(size=(3, 6))
    if isinstance(attack, CarliniWagner) and p != 2:
        with pytest.raises(InputError, match="minimises the l_2 distance"):
            attack(net, X, p=p, seed=5)
        return
    first, again = attack(net, X, p=p, seed=5), attack(net, X, p=p, seed=5)
    for field in fields(first):
        if field.name != "seconds":
            np.testing.assert_array_equal(getattr(first, field.name), getattr(again, field.name))
    assert first.seed.tolist() == [5, 6, 7]
    assert_proved(net, X, first.label, first, float(p), None)


def test_a_row_draws_the_same_numbers_alone() -> None:
    net, X = dense(6, 16, 4, seed=1), np.random.default_rng(0).normal(size=(3, 6))
    whole, alone = Far()(net, X, seed=5), Far()(net, X[2], seed=7)
    assert whole.seed.tolist() == [5, 6, 7]
    np.testing.assert_array_equal(whole.witness[2], alone.witness[0])
    assert not np.array_equal(whole.witness[0] - X[0], whole.witness[1] - X[1])


def test_seeds_matter() -> None:
    net = dense(6, 16, 16, 4, seed=1)
    X = np.random.default_rng(0).normal(size=(3, 6))
    attack = PGD(steps=3, restarts=4, rounds=2)
    assert (attack(net, X, seed=0).distance != attack(net, X, seed=100).distance).any()


def test_chunks_give_the_same_rows() -> None:
    net = dense(6, 16, 16, 4, seed=1)
    X = np.random.default_rng(0).normal(size=(5, 6))
    whole, small = PGD()(net, X, seed=2), PGD()(net, X, seed=2, memory=1)
    np.testing.assert_allclose(small.distance, whole.distance, rtol=1e-9)
    assert small.seed.tolist() == whole.seed.tolist()


def test_an_attack_is_not_trusted() -> None:
    """Candidates on the wrong side, outside the box, or of NaN are no witnesses."""
    net = steps(0.75)
    attack = Fixed(((0.5,), (math.nan,), (0.8,), (2.0,), (math.inf,)))
    found = attack(net, np.full((5, 1), 0.25), box=(0.0, 1.0))
    assert found.found.tolist() == [False, False, True, True, False]
    np.testing.assert_allclose(found.distance[2:4], [0.55, 0.75])
    assert found.witness[3, 0] == 1.0, "clipped into the box, then proved there"
    narrow = Fixed(((0.8,),))(net, np.array([[0.25]]), box=(0.0, 0.7))
    assert not narrow.found.any(), "0.8 is adversarial, but 0.7 is not"


def test_no_time_finds_only_what_is_there() -> None:
    net = steps(0.75)
    found = PGD()(net, np.array([[0.25], [0.9]]), [0, 0], time_limit=0)
    assert found.distance.tolist() == [math.inf, 0.0]
    assert found.stopped.tolist() == [True, False]


def test_time_ends_every_attack() -> None:
    net = dense(8, 64, 64, 10, seed=0)
    X = np.random.default_rng(0).normal(size=(4, 8))
    long = [
        PGD(steps=10**6, rounds=10**6),
        CarliniWagner(searches=10**6),
        LinearRegion(restarts=10**6, programs=10**9),
    ]
    for attack in long:
        found = attack(net, X, time_limit=1)
        assert found.stopped.all()
        assert found.found.any(), type(attack).__name__
        assert found.seconds.sum() < 4


def test_ctrl_c_keeps_the_finished_rows() -> None:
    net, calls = steps(0.75), []

    def press(*_: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return np.array([[0.8]])

    found = External(press)(net, np.array([[0.25], [0.5], [0.6]]), memory=1)
    assert found.found.tolist()[:2] == [True, False]
    assert found.stopped.tolist() == [False, True, True]
    assert len(calls) == 2, "the rows after it are not attacked"


def test_no_points() -> None:
    found = PGD()(steps(0.75), np.zeros((0, 1)))
    assert len(found) == 0
    assert found.witness.shape == (0, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n, x: PGD()(n, x, p=0.5), "norm"),
        (lambda n, x: PGD()(n, x, p="two"), "norm"),
        (lambda n, x: PGD()(n, x, target=0), r"target: class 0 is the label of row 0"),
        (lambda n, x: PGD()(n, x, target=7), r"target: label 7 is out of range|target: .*0 to 1"),
        (lambda n, x: PGD()(n, x, target=[1, 0]), "target: got shape"),
        (lambda n, x: PGD()(n, x, y=[3]), "y: label 3 is out of range"),
        (lambda n, x: PGD()(n, x, time_limit=-1), "time_limit: got -1, expected seconds"),
        (lambda n, x: PGD()(n, x, time_limit="soon"), "time_limit: got 'soon'"),
        (lambda n, x: PGD()(n, x, seed=-1), "seed: got -1"),
        (lambda n, x: PGD()(n, x, memory=0), "memory"),
        (lambda n, x: PGD()(n, x + 5, box=(0, 1)), "outside the box"),
        (lambda n, x: PGD()(n, x, box=(1, 0)), "box is empty"),
        (lambda n, x: PGD()(n, x * math.nan), "NaN"),
        (lambda *_: PGD(steps=-3), "steps: got -3"),
        (lambda *_: PGD(restarts=0), "restarts: got 0"),
        (lambda *_: PGD(rounds=True), "rounds: got True"),
        (lambda *_: CarliniWagner(steps=0), "steps"),
        (lambda *_: CarliniWagner(rate=-1), "rate: got -1"),
        (lambda n, x: CarliniWagner()(n, x, p=1), "minimises the l_2 distance"),
        (lambda *_: LinearRegion(restarts=-1), "restarts: got -1"),
        (lambda *_: LinearRegion(programs=0), "programs"),
        (lambda *_: LinearRegion(starts=("pgd",)), "starts"),
        (lambda n, x: LinearRegion(starts=(CarliniWagner(),))(n, x, p=1), "minimises"),
        (lambda *_: External("pgd"), "External: got str"),
        (lambda *_: External(print, radii=[-1]), "radii"),
        (lambda n, x: External(lambda *_: np.zeros((1, 2)))(n, x), "one candidate for each"),
        (lambda n, x: External(lambda *_: "z")(n, x), "returned str"),
        (lambda n, x: polish(n, x, x, 0), "witness is not adversarial"),
        (lambda n, x: polish(n, x, x + 1, 0, target=0), "target"),
        (lambda n, x: polish(n, x, np.ones((2, 1)), 0), "one x and one witness"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_message(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(InputError, match=message) as caught:
        call(steps(0.75), np.array([[0.25]]))
    assert "\n" not in str(caught.value)


def test_what_needs_regions_refuses_smooth_networks() -> None:
    _, make, shape = SMOOTH_ZOO[0]
    net = compile(make(), shape)
    with pytest.raises(SmoothActivation, match="LinearRegion needs a piecewise-linear network"):
        LinearRegion()(net, np.zeros((1, net.input_size)))
    with pytest.raises(SmoothActivation, match="PGD with polish=True needs"):
        PGD()(net, np.zeros((1, net.input_size)), polish=True)
    with pytest.raises(SmoothActivation):
        polish(net, np.zeros(net.input_size), np.zeros(net.input_size), 0)
