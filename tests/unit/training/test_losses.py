"""How the losses behave in a training loop: what they follow, what they leave alone, memory."""

from __future__ import annotations

import copy
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import polytope as pt
from polytope.errors import InputError
from polytope.training import MMR, ROLL, Ramp, RegionMargin, Regulariser
from tests.training_nets import MODULES, batch, gradients_of, make

every_module = pytest.mark.parametrize("name", MODULES)
KINDS = ["roll", "roll_top", "roll_axes", "margin", "mmr", "mmr_box"]
every_loss = pytest.mark.parametrize("kind", KINDS)


def loss_of(kind: str, model: nn.Module, shape: tuple[int, ...], **more: object) -> Regulariser:
    match kind:
        case "roll":
            return ROLL(model, shape, **more)
        case "roll_top":
            return ROLL(model, shape, gamma=50, **more)
        case "roll_axes":
            return ROLL(model, shape, axes=1, **more)
        case "margin":
            return RegionMargin(model, shape, **more)
        case "mmr":
            return MMR(model, shape, 0.5, 0.5, k_b=3, **more)
        case _:
            return MMR(model, shape, 0.5, 0.5, p="inf", box=(0, 1), **more)


def call(loss: Regulariser, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The loss, with the same axes each time."""
    torch.manual_seed(11)
    return loss(x, y)


@every_loss
@every_module
def test_float32_is_float64_rounded(name: str, kind: str) -> None:
    model, shape = make(name)
    x, y = batch(shape)
    y = y % 2 if name == "few_inputs" else y
    exact = call(loss_of(kind, model, shape), x, y)
    narrow = model.float()
    found = call(loss_of(kind, narrow, shape), x.float(), y)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(exact.item(), rel=1e-4)
    assert all(g.dtype == torch.float32 for g in gradients_of(found, narrow).values())


@every_loss
@pytest.mark.parametrize("name", ["relu", "weight_norm", "batch_norm1d", "residual", "recurrent"])
def test_the_module_is_followed(name: str, kind: str) -> None:
    """Steps, new weights, another dtype: the loss is that of a new loss on the module as it is."""
    model, shape = make(name)
    x, y = batch(shape)
    loss = loss_of(kind, model, shape)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    before = call(loss, x, y).item()
    for _ in range(2):
        optimiser.zero_grad()
        call(loss, x, y).backward()
        optimiser.step()
    assert call(loss, x, y).item() != before
    assert call(loss, x, y).item() == call(loss_of(kind, copied(model), shape), x, y).item()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.mul_(1.1).add_(0.01)
    assert call(loss, x, y).item() == call(loss_of(kind, copied(model), shape), x, y).item()
    model.float()
    assert call(loss, x.float(), y).dtype == torch.float32


def copied(model: nn.Module) -> nn.Module:
    """A module with the same numbers, so that nothing remembered can serve it."""
    held = [t for m in model.modules() for t in vars(m).values() if isinstance(t, torch.Tensor)]
    return copy.deepcopy(model, {id(t): t.detach() for t in held if not t.is_leaf})


@every_loss
@pytest.mark.parametrize("name", ["relu", "residual"])
def test_the_module_is_left_alone(name: str, kind: str) -> None:
    model, shape = make(name)
    x, y = batch(shape)
    model.train()
    state = copy.deepcopy(model.state_dict())
    loss = loss_of(kind, model, shape, batch_norm="batch")
    random = torch.get_rng_state()
    value = loss(x, y)
    if kind != "roll_axes":
        assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert all(module.training for module in model.modules())
    value.backward()
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())


@every_loss
def test_gradients_scale_and_accumulate(kind: str) -> None:
    model, shape = make("relu")
    x, y = batch(shape)
    loss = loss_of(kind, model, shape)
    once = gradients_of(call(loss, x, y), model)
    value = 3 * call(loss, x, y)
    value.backward(retain_graph=True)
    value.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, 6 * once[name])
    with torch.no_grad():
        assert not call(loss, x, y).requires_grad
    assert call(loss, x, y).item() == pytest.approx(value.item() / 3)


@every_loss
def test_frozen_parameters_get_nothing(kind: str) -> None:
    model, shape = make("relu")
    x, y = batch(shape)
    loss = loss_of(kind, model, shape)
    wanted = gradients_of(call(loss, x, y), model)
    model[0].requires_grad_(False)
    call(loss, x, y).backward()
    assert model[0].weight.grad is None
    torch.testing.assert_close(model[2].weight.grad, wanted["2.weight"])
    model.requires_grad_(False)
    assert not call(loss, x, y).requires_grad


@every_loss
def test_second_derivatives_are_refused(kind: str) -> None:
    """They would be wrong, since the gradient was taken when the loss was made."""
    model, shape = make("relu")
    x, y = batch(shape)
    value = call(loss_of(kind, model, shape), x, y)
    with pytest.raises(InputError, match="create_graph=True"):
        torch.autograd.grad(value, [model[0].weight], create_graph=True)


def test_autocast_does_not_reach_the_loss() -> None:
    model, shape = make("relu", torch.float32)
    x, y = batch(shape, dtype=torch.float32)
    for kind in KINDS:
        loss = loss_of(kind, model, shape)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = call(loss, x, y)
        assert found.dtype == torch.float32
        assert found.item() == call(loss, x, y).item()


@pytest.mark.parametrize("name", ["relu", "few_inputs", "residual", "pools"])
def test_outputs_of_the_same_pass(name: str) -> None:
    model, shape = make(name)
    x, _ = batch(shape, 4)
    logits, value = ROLL(model, shape).with_logits(x)
    outputs = model(x)
    torch.testing.assert_close(logits[:, -outputs.shape[1] :], outputs)
    total = F.cross_entropy(logits, torch.zeros(4, dtype=torch.int64)) + value
    wanted = F.cross_entropy(
        torch.cat([0 * outputs, outputs], 1) if outputs.shape[1] == 1 else outputs,
        torch.zeros(4, dtype=torch.int64),
    ) + ROLL(model, shape)(x)
    ours, theirs = gradients_of(total, model), gradients_of(wanted, model)
    for key, gradient in theirs.items():
        torch.testing.assert_close(ours[key], gradient)


@pytest.mark.parametrize("name", ["batch_norm1d", "residual"])
def test_outputs_of_the_training_pass(name: str) -> None:
    model, shape = make(name)
    x, _ = batch(shape, 4)
    loss = ROLL(model, shape, batch_norm="batch")
    model.train()
    logits, _ = loss.with_logits(x)
    outputs = model(x)
    torch.testing.assert_close(logits, outputs)
    ours, theirs = (gradients_of((out**2).sum(), model) for out in (logits, outputs))
    for key, gradient in theirs.items():
        torch.testing.assert_close(ours[key], gradient)


def test_dropout_is_off() -> None:
    model = nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)
    ).double()
    x, _ = batch((4,))
    loss = ROLL(model, (4,))
    training = loss(x)
    model.eval()
    assert loss(x).item() == training.item()


def test_sampled_axes_are_an_unbiased_estimate() -> None:
    """The mean over all draws is the full loss: here every axis is drawn equally often."""
    model, shape = make("conv")
    x, _ = batch(shape)
    full, loss = ROLL(model, shape)(x).item(), ROLL(model, shape, axes=9)
    draws = [loss(x, generator=torch.Generator().manual_seed(i)).item() for i in range(400)]
    spread = np.std(draws) / np.sqrt(len(draws))
    assert spread > 0
    assert abs(np.mean(draws) - full) < 4 * spread


def test_schedules() -> None:
    assert [Ramp(0, 2, 10).at(e) for e in (0, 1, 5, 10, 50)] == [0, 0.2, 1, 2, 2]
    assert Ramp(0.10, 0.02, 100).at(100) == pytest.approx(0.02)
    model, shape = make("relu")
    x, y = batch(shape)
    ramp, plain = ROLL(model, shape, weight=Ramp(0, 2, 10)), ROLL(model, shape)
    for epoch, factor in ((1, 0.2), (10, 2), (30, 2)):
        assert ramp(x, epoch=epoch).item() == pytest.approx(factor * plain(x).item())
    published = MMR.published(model, shape, 0.5, 0.7, weight=3, epochs=20)
    for epoch, share in ((1, 0.096), (15, 0.04), (20, 0.02)):
        count = max(1, int(share * 15))
        weight = 3 * min(epoch / 10, 1)
        fixed = MMR(model, shape, 0.5, 0.7, k_b=count, k_d="all", weight=weight)
        assert published(x, y, epoch=epoch).item() == pytest.approx(fixed(x, y).item())
    half = MMR(model, shape, 0.5, k_b=0.5)
    assert half(x).item() == MMR(model, shape, 0.5, k_b=7)(x).item()


def test_equal_candidates_of_a_maximum_are_no_row() -> None:
    """Two dead inputs of a pool tie at 0 without a gradient: they do not crowd out real rows."""
    model = nn.Sequential(nn.Conv1d(1, 1, 1), nn.ReLU(), nn.MaxPool1d(2)).double()
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.fill_(-0.5)
    x = torch.tensor([[[0.1, 0.2, 0.9, 0.6]]], dtype=torch.float64)
    # Rows: the four units (gradient 1), and 0.1 - 0.4 of the second window (squared norm 2).
    hinges = [1 - abs(v) for v in (-0.4, -0.3, 0.4, 0.1)] + [1 - 0.3]
    losses = sorted((s + h for s, h in zip((1, 1, 1, 1, 2), hinges, strict=True)), reverse=True)
    assert ROLL(model, (1, 4))(x).item() == pytest.approx(np.mean(losses))
    assert ROLL(model, (1, 4), gamma=40)(x).item() == pytest.approx(np.mean(losses[:2]))
    assert ROLL(model, (1, 4), gamma="max")(x).item() == pytest.approx(losses[0])
    found = MMR(model, (1, 4), 10.0, k_b=6)(x).item()
    distances = [0.4, 0.3, 0.4, 0.1, 0.3 / np.sqrt(2)]
    assert found == pytest.approx(sum(1 - d / 10 for d in distances) / 6)


def test_where_there_is_no_hyperplane() -> None:
    """A network that is dead at the points: no region's boundary in reach, decisions constant."""
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3)[:, :2])
        model[0].bias.fill_(-9.0)
        model[2].bias.copy_(torch.tensor([0.0, 1.0]))
    x, y = torch.rand(3, 2, dtype=torch.float64), torch.tensor([0, 1, 0])
    loss = MMR(model, (2,), 0.5, 0.5, box=(0, 1), k_b=3)
    assert loss(x, y).item() == 0.0
    loss(x, y).backward()
    margin = RegionMargin(model, (2,), box=(0, 1))
    assert margin(x).item() == 0.0
    assert RegionMargin(model, (2,))(x).item() < -8
    with torch.no_grad():
        model[0].weight.zero_()
    assert RegionMargin(model, (2,))(x).item() == 0.0
    ROLL(model, (2,))(x).backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def moons(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two half circles."""
    generator = torch.Generator().manual_seed(0)
    angle = torch.pi * torch.rand(count, generator=generator, dtype=torch.float64)
    y = torch.arange(count) % 2
    x = torch.stack([torch.cos(angle), torch.sin(angle)], 1)
    x = torch.where(y[:, None] == 0, x, torch.tensor([1.0, 0.4]) - x)
    return x + 0.05 * torch.randn(x.shape, generator=generator, dtype=torch.float64), y


def trained(kind: str | None, steps: int = 150) -> tuple[pt.Network, torch.Tensor, float]:
    """A small network trained with a loss, the points, and its accuracy."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(2, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 2)
    ).double()
    x, y = moons(60)
    loss: Regulariser | None = None
    if kind == "roll":
        loss = ROLL(model, (2,), C=5, weight=0.1)
    elif kind == "margin":
        loss = RegionMargin(model, (2,), weight=1)
    elif kind == "mmr":
        loss = MMR.published(model, (2,), 0.3, 0.3, weight=1, epochs=steps)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(steps):
        total = F.cross_entropy(model(x), y)
        if loss is not None:
            total = total + loss(x, y, epoch=step + 1)
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    accuracy = float((model(x).argmax(1) == y).double().mean())
    return pt.compile(model, (2,)), x, accuracy


@pytest.mark.parametrize(("kind", "factor"), [("roll", 1.5), ("margin", 2), ("mmr", 2)])
def test_training_enlarges_the_regions(kind: str, factor: float) -> None:
    plain, x, _ = trained(None)
    before = np.median(pt.boundary_distance(plain, x.numpy()).distance)
    net, x, accuracy = trained(kind)
    after = np.median(pt.boundary_distance(net, x.numpy()).distance)
    assert accuracy > 0.85
    assert after > factor * before


def test_a_step_keeps_to_its_memory() -> None:
    """4x300 on 784 inputs, all gradients: in one piece they would take gigabytes."""
    script = textwrap.dedent(
        """
        import resource, torch
        from torch import nn
        from polytope.training import ROLL
        torch.set_num_threads(1)
        torch.manual_seed(0)
        layers = [nn.Linear(784, 300), nn.ReLU()]
        for _ in range(3):
            layers += [nn.Linear(300, 300), nn.ReLU()]
        model = nn.Sequential(*layers, nn.Linear(300, 10))
        loss = ROLL(model, (784,), method="perturbation", memory=2**25)
        x = torch.rand(6, 784)
        (model(x).sum() + loss(x[:1])).backward()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        (model(x).sum() + loss(x)).backward()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        """
    )
    root = Path(__file__).parents[3]
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                         check=True, cwd=root)  # fmt: skip
    grown = int(run.stdout) * 1024
    assert grown < 2**26  # 6 points in one graph would take 140 MB
