"""Attacks of others: a plain callable, something that looks like foolbox's, and foolbox itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polytope.attacks import External
from polytope.attacks.external import is_foolbox
from polytope.errors import InputError
from tests.nets import compiled, dense
from tests.unit.attacks.test_attack import assert_proved

NET = dense(6, 24, 5, seed=2)
X = np.random.default_rng(0).uniform(0.2, 0.8, (4, 6))
Y = NET.predict(X)


def follow(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Gradient ascent on the best other class, until all points have changed."""
    z = x.clone()
    rows = torch.arange(len(x))
    for _ in range(300):
        z = z.detach().requires_grad_()
        logits = model(z)
        own = logits[rows, y]
        others = logits.masked_fill(torch.nn.functional.one_hot(y, logits.shape[1]).bool(), -1e9)
        lead = others.max(dim=1).values - own
        (gradient,) = torch.autograd.grad(lead.sum(), z)
        moving = (lead < 0).to(z.dtype)[:, None]
        z = z + 0.05 * moving * gradient / gradient.norm(dim=1, keepdim=True)
    return z.detach()


def test_a_callable_sees_the_model_and_is_proved() -> None:
    found = External(follow)(NET, X, Y, box=(-3, 3), polish=True)
    assert_proved(NET, X, Y, found, 2, (-3, 3))
    assert found.found.all()
    assert (found.queries == 300).all()


def test_a_callable_may_return_arrays_of_float32() -> None:
    def attack(model: object, x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
        assert x.dtype == torch.float32
        return follow(model, x, y).numpy()

    found = External(attack, dtype=torch.float32)(NET, X, Y)
    assert_proved(NET, X, Y, found, 2, None)
    assert found.found.all()


def test_a_callable_gets_targets_where_there_are() -> None:
    seen: list[list[int]] = []

    def attack(_: object, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        seen.append(y.tolist())
        return x

    target = (Y + 1) % 5
    found = External(attack)(NET, X, Y, target=target)
    assert seen == [target.tolist()]
    assert not found.found.any()


def test_an_image_keeps_its_shape() -> None:
    net, _ = compiled("residual")
    shapes = []

    def attack(model: torch.nn.Module, x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        shapes.append((tuple(x.shape), tuple(model(x).shape)))
        return x + 1

    External(attack)(net, np.zeros((2, net.input_size)))
    assert shapes == [((2, 1, 6, 6), (2, 4))]


class TestFoolbox:
    """The real thing: installed by ``pip install "polytope-nn[attacks]"``."""

    @pytest.fixture
    def attacks(self) -> object:
        import foolbox  # slow to import, and only needed here

        return foolbox.attacks

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("name", ["LinfPGD", "L2FastGradientAttack"])
    def test_fixed_sizes(self, attacks: object, name: str, dtype: torch.dtype) -> None:
        attack = getattr(attacks, name)()
        assert is_foolbox(attack)
        p = "inf" if name.startswith("Linf") else 2
        found = External(attack, [0.1, 0.5, 1.0, 3.0], dtype)(NET, X, Y, p, (-3, 3), polish=True)
        assert_proved(NET, X, Y, found, float(p), (-3, 3))
        assert found.found.all()
        assert (found.queries > 0).all()
        with pytest.raises(InputError, match="radii"):
            External(attack)(NET, X, Y)

    @pytest.mark.parametrize("box", [None, (-3, 3)])
    def test_minimising(self, attacks: object, box: tuple[float, float] | None) -> None:
        attack = attacks.L2DeepFoolAttack()  # type: ignore[attr-defined]
        found = External(attack)(NET, X, Y, 2, box)
        assert_proved(NET, X, Y, found, 2, box)
        assert found.found.any()

    def test_targeted(self, attacks: object) -> None:
        attack = attacks.L2CarliniWagnerAttack(binary_search_steps=4, steps=80)  # type: ignore[attr-defined]
        target = (Y + 1) % 5
        found = External(attack, dtype=torch.float32)(NET, X, Y, 2, (-3, 3), target)
        assert found.found.any()
        assert (found.target[found.found] == target[found.found]).all()
