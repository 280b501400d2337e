"""Attacks on smooth networks: proofs by enclosures, checked in 60 digits."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from torch import nn

from polytope.attacks import (
    FGSM,
    PGD,
    Attack,
    CarliniWagner,
    DeepFool,
    External,
    MultiTargeted,
    RandomTargeted,
    Untargeted,
)
from polytope.attacks.proof import enclosed
from polytope.errors import Notice
from polytope.model import Network, compile
from tests.zoo import SMOOTH_ZOO

ATTACKS = [
    PGD(steps=15, restarts=3, rounds=6),
    CarliniWagner(steps=60, searches=5),
    DeepFool(),
    FGSM(1.0),
    FGSM(1.0, steps=20),
    Untargeted(1.0, steps=30, restarts=3),
    RandomTargeted(1.0, steps=30, restarts=3),
    MultiTargeted(1.0, steps=30, restarts=3),
]
CURVES = {
    "tanh": (nn.Tanh, mpmath.tanh),
    "sigmoid": (nn.Sigmoid, lambda z: 1 / (1 + mpmath.exp(-z))),
    "softplus": (nn.Softplus, lambda z: mpmath.log(1 + mpmath.exp(z))),
}


def smooth(name: str, seed: int = 0, scale: float = 3.0) -> tuple[Network, nn.Sequential]:
    """A network of two smooth layers."""
    torch.manual_seed(seed)
    curve = CURVES[name][0]
    model = nn.Sequential(
        nn.Linear(5, 12), curve(), nn.Linear(12, 12), curve(), nn.Linear(12, 4)
    ).double()  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
        model[-1].bias -= model(torch.rand(99, 5).double()).mean(dim=0)
    return compile(model.eval(), (5,)), model


def in_many_digits(model: nn.Sequential, name: str, x: np.ndarray) -> list[mpmath.mpf]:
    """The logits in 60 digits."""
    with mpmath.workdps(60):
        values = [mpmath.mpf(float(v)) for v in x]
        for layer in model:
            if isinstance(layer, nn.Linear):
                W, b = layer.weight.tolist(), layer.bias.tolist()
                values = [
                    mpmath.fsum(mpmath.mpf(w) * v for w, v in zip(row, values, strict=True)) + c
                    for row, c in zip(W, b, strict=True)
                ]
            else:
                values = [CURVES[name][1](v) for v in values]
        return values


@pytest.mark.parametrize("name", CURVES)
def test_the_enclosure_holds_and_is_tight(name: str) -> None:
    net, model = smooth(name)
    X = np.random.default_rng(0).normal(size=(40, 5))
    low, high = enclosed(net, X)
    for x, least, most in zip(X, low, high, strict=True):
        for value, a, b in zip(in_many_digits(model, name, x), least, most, strict=True):
            assert mpmath.mpf(float(a)) <= value <= mpmath.mpf(float(b))
    assert (high - low).max() < 1e-11


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("name", CURVES)
def test_witnesses_hold_in_many_digits(attack: Attack, name: str) -> None:
    net, model = smooth(name)
    X = np.random.default_rng(1).uniform(-1, 1, (6, 5))
    y = np.full(6, net.predict(X)[0])
    found = attack(net, X, y, 2, (-2, 2))
    assert found.found.any()
    for i in np.flatnonzero(found.found):
        logits = in_many_digits(model, name, found.witness[i])
        assert max(v for k, v in enumerate(logits) if k != y[i]) >= logits[y[i]]
        assert found.proof[i] == "interval"
        assert (np.abs(found.witness[i]) <= 2).all()
        size = np.linalg.norm(found.witness[i] - X[i])
        assert size <= found.distance[i] <= size * (1 + 1e-12)
        assert found.distance[i] <= attack.radius()
    assert (found.proof[~found.found] == "").all()


@pytest.mark.parametrize("name", [name for name, _, _ in SMOOTH_ZOO])
def test_every_smooth_layer(name: str) -> None:
    make, shape = next((make, shape) for other, make, shape in SMOOTH_ZOO if other == name)
    net, model = compile(make(), shape), make()
    X = np.random.default_rng(0).uniform(-1, 1, (4, net.input_size))
    y = net.predict(X)
    for attack in (PGD(steps=15, restarts=3, rounds=8), DeepFool(), MultiTargeted(3.0, steps=40)):
        found = attack(net, X, y)
        assert found.found.any()
        for i in np.flatnonzero(found.found):
            with torch.no_grad():
                z = torch.tensor(found.witness[i]).reshape(1, *shape)
                logits = model(z).flatten().numpy()
            assert np.delete(logits, y[i]).max() >= logits[y[i]] - 1e-12


def test_an_attack_is_not_trusted() -> None:
    """What lies within rounding of the decision is pushed over it, and what is short is refused."""
    net, model = smooth("softplus")
    X = np.random.default_rng(1).uniform(-1, 1, (3, 5))
    y = net.predict(X)
    far = PGD()(net, X, y).witness
    least, most = np.zeros(3), np.ones(3)
    for _ in range(60):
        middle = (least + most) / 2
        over = net.predict(X + middle[:, None] * (far - X)) != y
        most, least = np.where(over, middle, most), np.where(over, least, middle)
    edge = X + most[:, None] * (far - X)
    found = External(lambda *_: edge)(net, X, y)
    assert found.found.all()
    for i in range(3):
        logits = in_many_digits(model, "softplus", found.witness[i])
        assert max(v for k, v in enumerate(logits) if k != y[i]) >= logits[y[i]]
    short = X + 0.999 * (edge - X)
    assert not External(lambda *_: short)(net, X, y).found.any()


def test_a_tie_of_smooth_logits_is_not_claimed() -> None:
    """Two equal logits are adversarial, but no enclosure can show it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    with torch.no_grad():
        model[2].weight[1] = model[2].weight[0]
        model[2].bias[1] = model[2].bias[0]
    found = External(lambda *_: np.ones((1, 2)))(compile(model, (2,)), np.zeros((1, 2)), [0])
    assert not found.found.any()
    assert math.isinf(found.distance[0])


def test_a_plain_float32_module_and_its_batch_norm() -> None:
    """LLR's networks: softplus, convolutions, batch norm; accuracy under attack falls with eps."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.Softplus(),
        nn.Flatten(), nn.Linear(64, 5),
    ).eval()  # fmt: skip
    X = np.random.default_rng(0).uniform(0, 1, (20, 1, 8, 8))
    with torch.no_grad():
        model[-1].bias -= model(torch.tensor(X, dtype=torch.float32)).mean(dim=0)
    with pytest.warns(Notice, match="BatchNorm"):
        net = compile(model, (1, 8, 8))
    y = model(torch.tensor(X, dtype=torch.float32)).argmax(1).numpy()
    accuracy = []
    for eps in (0.001, 0.02, 0.3):
        found = MultiTargeted(eps, steps=20, restarts=2)(net, X, y, "inf", (0, 1))
        accuracy.append(1 - found.found.mean())
        z = torch.tensor(found.native_witness[found.found], dtype=torch.float32)
        with torch.no_grad():
            native = model(z.reshape(-1, 1, 8, 8)).argmax(1).numpy()
        replayed = np.isfinite(found.native_distance[found.found])
        assert (native != y[found.found])[replayed].all()
    assert accuracy[0] > accuracy[1] > accuracy[2] == 0
