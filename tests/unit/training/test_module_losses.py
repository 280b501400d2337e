"""The losses that run the module equal the loops of tests/slow_module_losses.py."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from polytope.training import (
    CURE,
    LLR,
    TRADES,
    Adversarial,
    CrossLipschitz,
    Ramp,
    TrainingLoss,
    total_loss,
)
from polytope.training.ball import perturbations_around
from tests.slow_losses import Held
from tests.slow_module_losses import (
    drawn,
    entropy,
    into_ball,
    slow_adam_ascent,
    slow_cross_lipschitz,
    slow_cure,
    slow_divergence,
    slow_entropy,
    slow_llr,
    slow_pgd,
    slow_trades,
)
from tests.training_nets import MODULES, SMOOTH, batch, gradients_of, make

EPS = 0.2
every_module = pytest.mark.parametrize("name", [*MODULES, *SMOOTH])
some_modules = pytest.mark.parametrize("name", ["relu", "softplus", "smooth_conv", "residual"])
every_ball = pytest.mark.parametrize("p", [2, math.inf])
BOX = (0.0, 1.0)
LOSSES: dict[str, Callable[..., TrainingLoss]] = {
    "llr": lambda *net, **more: LLR(*net, EPS, mu=0.2, **more),
    "cure": lambda *net, **more: CURE(*net, h=0.3, **more),
    "cross_lipschitz": CrossLipschitz,
    "adversarial": lambda *net, **more: Adversarial(*net, EPS, **more),
    "trades": lambda *net, **more: TRADES(*net, EPS, **more),
}
every_loss = pytest.mark.parametrize("kind", LOSSES)
regularisers = pytest.mark.parametrize("kind", ["llr", "cure", "cross_lipschitz"])


def case(name: str, count: int = 3) -> tuple[nn.Module, tuple[int, ...], torch.Tensor, Any]:
    model, shape = make(name)
    x, y = batch(shape, count)
    return model, shape, x, y % 2 if name in ("few_inputs", "smooth_conv") else y


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same(loss: torch.Tensor, wanted: torch.Tensor, model: nn.Module) -> None:
    """Equal values and gradients, up to rounding."""
    assert loss.shape == ()
    torch.testing.assert_close(loss, wanted, rtol=1e-10, atol=1e-12)
    ours, theirs = gradients_of(loss, model), gradients_of(wanted, model)
    largest = max(float(g.abs().max()) for g in theirs.values())
    for key, gradient in theirs.items():
        torch.testing.assert_close(ours[key], gradient, rtol=0, atol=1e-9 * max(1, largest))


@every_module
def test_given_perturbations(name: str) -> None:
    model, shape, x, y = case(name)
    delta = drawn(x, 5, EPS, math.inf, None)
    llr = LLR(model, shape, EPS, weight=1.5, mu=0.7)
    same(llr(x, y, delta=delta), slow_llr(model, x, y, delta, 1.5, 0.7), model)
    same(Adversarial(model, shape, EPS)(x, y, delta=delta), slow_entropy(model, x + delta, y),
         model)  # fmt: skip
    trades = TRADES(model, shape, EPS, beta=1.7)
    same(trades(x, y, delta=delta), slow_trades(model, x, y, delta, 1.7), model)


@every_module
def test_gradient_penalties(name: str) -> None:
    model, shape, x, y = case(name)
    same(CURE(model, shape, h=0.3, weight=1.5)(x, y), 1.5 * slow_cure(model, x, y, 0.3), model)
    wanted = 1.5 * slow_cross_lipschitz(model, x)
    same(CrossLipschitz(model, shape, weight=1.5)(x), wanted, model)


@every_ball
@pytest.mark.parametrize("box", [None, BOX])
@some_modules
def test_searches(name: str, box: tuple[float, float] | None, p: float) -> None:
    """Adam's ascent of LLR and the gradient ascents of the others, from the same starts."""
    model, shape, x, y = case(name)
    settings: dict[str, Any] = {"p": p, "box": box, "steps": 3}
    start = drawn(x, 3, EPS, p, box)
    delta = slow_adam_ascent(model, x, y, start, 3, 0.07, EPS, p, box)
    llr = LLR(model, shape, EPS, step=0.07, weight=1.5, mu=0.7, **settings)
    same(llr(x, y, generator=seeded()), slow_llr(model, x, y, delta, 1.5, 0.7), model)

    labels = y.tolist()
    delta = slow_pgd(lambda z, i: entropy(model, z, labels[i]), x, start, 3, EPS, p, box)
    adversarial = Adversarial(model, shape, EPS, **settings)
    same(adversarial(x, y, generator=seeded()), slow_entropy(model, x + delta, y), model)

    noise = 1e-3 * torch.randn(x.shape, generator=seeded(), dtype=x.dtype)
    start = torch.stack([into_ball(d, z, EPS, p, box) for d, z in zip(noise, x, strict=True)])
    delta = slow_pgd(lambda z, i: slow_divergence(model, x[i], z), x, start, 3, EPS, p, box)
    trades = TRADES(model, shape, EPS, beta=1.7, **settings)
    found = trades(x, y, generator=seeded())
    torch.testing.assert_close(found, slow_trades(model, x, y, delta, 1.7), rtol=1e-7, atol=0)


@every_ball
@pytest.mark.parametrize("box", [None, BOX])
def test_perturbations_stay_in_the_ball_and_the_box(box: tuple[float, float] | None, p: float):
    x = torch.rand(50, 2, 3, dtype=torch.float64, generator=seeded())
    ball = perturbations_around(x, 0.4, p, box)
    for delta in (ball.drawn(x, seeded()), ball.project(torch.randn(x.shape).double() * 9)):
        assert float(torch.linalg.vector_norm(delta.flatten(1), p, dim=1).max()) <= 0.4 * (
            1 + 1e-12
        )
        assert box is None or ((x + delta >= 0).all() and (x + delta <= 1).all())
        torch.testing.assert_close(ball.project(delta), delta)
    assert not perturbations_around(x, 0.0, p, box).drawn(x, seeded()).any()
    assert not ball.steepest(torch.zeros_like(x)).any()


def test_draws_fill_the_ball() -> None:
    """Uniform in an l_2 ball of dimension d: ``(size / eps)^d`` is uniform on [0, 1]."""
    x = torch.zeros(4000, 3, dtype=torch.float64)
    drawn = perturbations_around(x, 2.0, 2, None).drawn(x, seeded())
    shares = (torch.linalg.vector_norm(drawn, dim=1) / 2) ** 3
    assert abs(float(shares.mean()) - 0.5) < 0.03
    assert abs(float((shares < 0.1).double().mean()) - 0.1) < 0.03
    assert float(drawn.mean(0).abs().max()) < 0.1


def test_an_ascent_ascends() -> None:
    model, shape, x, y = case("softplus", 20)
    means = []
    for steps in (1, 40):
        loss = LLR(model, shape, EPS, steps=steps, step=0.02, weight=1, mu=0)
        means.append(loss(x, y, generator=seeded()).item())
    assert means[1] > means[0] > 0
    clean = F.cross_entropy(model(x), y).item()
    assert Adversarial(model, shape, EPS)(x, y).item() > clean
    trades = TRADES(model, shape, EPS)(x, y).item()
    assert trades > clean


def test_share_of_the_batch() -> None:
    model, shape, x, y = case("softplus", 5)
    loss = Adversarial(model, shape, EPS, share=0.5)
    delta = loss.perturb(x, y)
    assert delta[:3].flatten(1).any(1).all()
    assert not delta[3:].any()
    same(loss(x, y, delta=delta), slow_entropy(model, x + delta, y), model)


@pytest.mark.parametrize("name", ["batch_norm1d", "residual", "smooth_block"])
def test_statistics_of_the_clean_batch(name: str) -> None:
    """They serve the perturbed points too, and are held over the input, not the weights."""
    model, shape, x, y = case(name, 4)
    held = Held(model, x)
    delta = drawn(x, 5, EPS, math.inf, None)
    start = drawn(x, 3, EPS, math.inf, None)
    climbed = slow_adam_ascent(held, x, y, start, 2, 0.1, EPS, math.inf, None)
    wanted = [
        slow_llr(held, x, y, delta, 1.5, 0.7), slow_llr(held, x, y, climbed, 1.5, 0.7),
        slow_cure(held, x, y, 0.3), slow_cross_lipschitz(held, x),
    ]  # fmt: skip
    llr = LLR(model, shape, EPS, weight=1.5, mu=0.7, steps=2, batch_norm="batch")
    cure = CURE(model, shape, weight=1, h=0.3, batch_norm="batch")
    lipschitz = CrossLipschitz(model, shape, batch_norm="batch")
    state = copy.deepcopy(model.state_dict())
    model.train()
    found = [llr(x, y, delta=delta), llr(x, y, generator=seeded()), cure(x, y), lipschitz(x)]
    assert all(module.training for module in model.modules())
    model.eval()
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    for ours, theirs in zip(found, wanted, strict=True):
        same(ours, theirs, model)


@regularisers
def test_running_statistics(kind: str) -> None:
    model, shape, x, y = case("smooth_block")
    loss = LOSSES[kind](model, shape, batch_norm="running")
    torch.manual_seed(0)
    evaluated = loss(x, y)
    model.train()
    torch.manual_seed(0)
    torch.testing.assert_close(loss(x, y), evaluated)


@pytest.mark.parametrize("kind", ["adversarial", "trades"])
def test_a_whole_step_is_the_modules_own(kind: str) -> None:
    """In training mode: statistics of the moved batch, followed by the running ones."""
    model, shape, x, y = case("smooth_block", 4)
    delta = drawn(x, 5, EPS, math.inf, None)
    model.train()
    twin = copy.deepcopy(model)
    found = LOSSES[kind](model, shape)(x, y, delta=delta)
    if kind == "adversarial":
        wanted = F.cross_entropy(twin(x + delta), y)
    else:
        clean, moved = twin(x), twin(x + delta)
        wanted = F.cross_entropy(clean, y) + 6 * F.kl_div(
            moved.log_softmax(1), clean.softmax(1), reduction="batchmean"
        )
    torch.testing.assert_close(found, wanted)
    for key, tensor in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], tensor)
    before = copy.deepcopy(model.state_dict())
    LOSSES[kind](model, shape).perturb(x, y) if kind == "adversarial" else (
        LOSSES[kind](model, shape).perturb(x)
    )
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())


@regularisers
def test_dropout_is_off(kind: str) -> None:
    model, shape, x, y = case("smooth_conv")
    loss = LOSSES[kind](model, shape)
    torch.manual_seed(0)
    evaluated = loss(x, y).item()
    model.train()
    torch.manual_seed(0)
    assert loss(x, y).item() == evaluated
    assert model[3].training


@every_loss
def test_the_module_is_left_alone_and_followed(kind: str) -> None:
    model, shape, x, y = case("softplus")
    loss = LOSSES[kind](model, shape)
    state = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        assert not loss(x, y).requires_grad
    torch.manual_seed(1)
    value = loss(x, y)
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    value.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.1 * parameter.grad)
    torch.manual_seed(1)
    assert loss(x, y).item() != value.item()
    torch.manual_seed(1)
    after = loss(x, y).item()
    torch.manual_seed(1)
    assert LOSSES[kind](copy.deepcopy(model), shape)(x, y).item() == after


@every_loss
def test_float32_and_frozen_parameters(kind: str) -> None:
    model, shape, x, y = case("tanh")
    loss = LOSSES[kind](model, shape)
    model[0].requires_grad_(False)
    loss(x, y).backward()
    assert model[0].weight.grad is None
    assert model[2].weight.grad.any()
    model.float()
    narrow = loss(x.float(), y)
    assert narrow.dtype == torch.float32
    narrow.backward()
    model.requires_grad_(False)
    assert math.isfinite(loss(x.float(), y).item())


def test_schedules() -> None:
    model, shape, x, y = case("softplus")
    delta = drawn(x, 5, EPS, math.inf, None)
    ramp = LLR(model, shape, Ramp(0, EPS, 10), weight=Ramp(0, 2, 10), mu=Ramp(0, 1, 10))
    full = LLR(model, shape, EPS, weight=2, mu=1)(x, y, delta=delta).item()
    assert ramp(x, y, delta=delta, epoch=5).item() == pytest.approx(full / 2)
    assert ramp(x, y, delta=delta, epoch=20).item() == pytest.approx(full)
    grown = Adversarial(model, shape, Ramp(0, EPS, 10))
    sizes = [float(grown.perturb(x, y, epoch=epoch).abs().max()) for epoch in (0, 5, 10)]
    assert sizes == pytest.approx([0, EPS / 2, EPS])
    for loss in (CURE(model, shape, h=Ramp(0, 0.3, 5)), TRADES(model, shape, Ramp(0, EPS, 5))):
        assert math.isfinite(loss(x, y, epoch=0).item())
    assert CURE(model, shape, h=Ramp(0, 0.3, 5))(x, y, epoch=0).item() == 0


def test_measure_by_point() -> None:
    model, shape, x, y = case("softplus")
    loss = LLR(model, shape, EPS, weight=1.5, mu=0.7)
    violation, change = loss.parts(x, y, generator=seeded())
    assert violation.shape == change.shape == (3,)
    torch.testing.assert_close(loss(x, y, generator=seeded()),
                               (1.5 * violation + 0.7 * change).mean())  # fmt: skip


def test_one_step_of_several_losses() -> None:
    model, shape, x, y = case("few_inputs")
    added = [CURE(model, shape, h=0.3), CrossLipschitz(model, shape, weight=Ramp(0, 1, 4))]
    parts = [loss(x, y, epoch=2) for loss in added]
    task = slow_entropy(model, x, y)
    same(total_loss(model, added, x, y, epoch=2), task + parts[0] + parts[1], model)
    same(total_loss(model, [], x, y), task, model)
    whole = Adversarial(model, shape, 0.0)
    same(total_loss(model, [*added, whole], x, y, epoch=2), task + parts[0] + parts[1], model)
    robust = TRADES(model, shape, 0.0)(x, y)
    torch.testing.assert_close(total_loss(model, [TRADES(model, shape, 0.0)], x, y), robust)


def trained(kind: str | None, steps: int = 120) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A smooth network that separates points on a checkerboard, trained with a loss."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(2, 24), nn.Softplus(10), nn.Linear(24, 24), nn.Softplus(10), nn.Linear(24, 2)
    ).double()
    x = torch.rand(80, 2, dtype=torch.float64, generator=seeded()) * 2
    y = ((x[:, 0] > 1) ^ (x[:, 1] > 1)).long()
    weights = {"llr": 0.3, "cure": 0.01, "cross_lipschitz": 0.01}
    more = {"weight": weights[kind]} if kind in weights else {}
    losses = [] if kind is None else [LOSSES[kind](model, (2,), **more)]
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        optimiser.zero_grad()
        total_loss(model, losses, x, y).backward()
        optimiser.step()
    return model, x, y


def test_training_does_what_the_losses_are_for() -> None:
    """Each loss's own measure is far below that of plain training."""
    measures: dict[str, Callable[[nn.Module], TrainingLoss]] = {
        "llr": lambda m: LLR(m, (2,), EPS, steps=30, weight=1, mu=0),
        "cure": lambda m: CURE(m, (2,), h=0.3),
        "cross_lipschitz": lambda m: CrossLipschitz(m, (2,)),
        "adversarial": lambda m: Adversarial(m, (2,), EPS, steps=30),
        "trades": lambda m: TRADES(m, (2,), EPS, steps=30),
    }
    plain, x, y = trained(None)
    for kind, measure in measures.items():
        model, _, _ = trained(kind)
        assert measure(model)(x, y).item() < 0.6 * measure(plain)(x, y).item(), kind
        assert (model(x).argmax(1) == y).double().mean() > 0.7, kind
