"""Every bad setting and every bad batch gets polytope's own exception with one clear message."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from polytope.errors import InputError, PolytopeError, SmoothActivation, UnsupportedOperation
from polytope.examples import Examples
from polytope.training import (
    CURE,
    LLR,
    MMR,
    ROLL,
    TRADES,
    Adversarial,
    CrossLipschitz,
    Ramp,
    RegionMargin,
    TrainingLoss,
    WongKolter,
    total_loss,
)
from polytope.training.evaluation import evaluate
from tests.slow_losses import Abs
from tests.training_nets import batch, make


def net() -> tuple[nn.Module, tuple[int, ...]]:
    return make("relu")


def refused(error: type[PolytopeError], match: str, make_or_call: Any) -> None:
    with pytest.raises(error, match=re.escape(match)) as caught:
        make_or_call()
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


SETTINGS: list[tuple[str, Any]] = [
    ("weight (lambda): got -1", lambda n: ROLL(*n, weight=-1)),
    ("weight (lambda): got -0.5", lambda n: MMR(*n, 1, 1, weight=Ramp(0, -0.5, 10))),
    ("weight (lambda): got nan", lambda n: RegionMargin(*n, weight=np.nan)),
    ("weight (lambda): got 'much'", lambda n: RegionMargin(*n, weight="much")),
    ("Ramp: epochs: got 0", lambda _: Ramp(0, 1, 0)),
    ("Ramp: end: got inf", lambda _: Ramp(0, np.inf, 1)),
    ("C: got -1", lambda n: ROLL(*n, C=-1)),
    ("C: got None", lambda n: ROLL(*n, C=None)),
    ("gamma: got 0,", lambda n: ROLL(*n, gamma=0)),
    ("gamma: got 101", lambda n: ROLL(*n, gamma=101)),
    ("gamma: got -5", lambda n: ROLL(*n, gamma=-5)),
    ("gamma: got 'all'", lambda n: ROLL(*n, gamma="all")),
    ("5 percent of 15 units is less than one unit; use at least 6.67",
     lambda n: ROLL(*n, gamma=5)),
    ("axes: got 0", lambda n: ROLL(*n, axes=0)),
    ("axes: got 2.0", lambda n: ROLL(*n, axes=2.0)),
    ("an input has 4 coordinates", lambda n: ROLL(*n, axes=5)),
    ("plain mean only", lambda n: ROLL(*n, axes=2, gamma=50)),
    ("sampled axes are perturbations", lambda n: ROLL(*n, axes=2, method="gram")),
    ("method: got 'magic'", lambda n: ROLL(*n, method="magic")),
    ("l_2 norms only", lambda n: MMR(*n, 1, 1, p=1, method="gram")),
    ("batch_norm: got 'eval'", lambda n: ROLL(*n, batch_norm="eval")),
    ("memory: got 0", lambda n: ROLL(*n, memory=0)),
    ("memory: got 1000.0", lambda n: ROLL(*n, memory=1e3)),
    ("gamma_b: got 0,", lambda n: MMR(*n, 0, 1)),
    ("gamma_d: got -1", lambda n: MMR(*n, 1, -1)),
    ("gamma_b: got inf", lambda n: MMR(*n, np.inf, 1)),
    ("got neither", lambda n: MMR(*n)),
    ("k_b: got 16, but the network has 15 units", lambda n: MMR(*n, 1, 1, k_b=16)),
    ("k_b: got 0", lambda n: MMR(*n, 1, 1, k_b=0)),
    ("k_b: got True", lambda n: MMR(*n, 1, 1, k_b=True)),
    ("k_b: got the share 1 ", lambda n: MMR(*n, 1, 1, k_b=1.0)),
    ("k_b: got the share 1.5", lambda n: MMR(*n, 1, 1, k_b=Ramp(0.1, 1.5, 5))),
    ("k_d: got 3, but there are 2 other classes", lambda n: MMR(*n, 1, 1, k_d=3)),
    ("k_d: got 'most'", lambda n: MMR(*n, 1, 1, k_d="most")),
    ("norm p: got 0.5", lambda n: MMR(*n, 1, 1, p=0.5)),
    ("box", lambda n: RegionMargin(*n, box=(1, 0))),
    ("input_shape: got (0,)", lambda n: ROLL(n[0], (0,))),
    ("(1, 7)", lambda n: ROLL(n[0], (7,))),
    ("got str as model", lambda n: ROLL("model.onnx", n[1])),
    ("needs a chain", lambda _: ROLL(*make("conv"), method="gram")),
    ("needs a chain", lambda _: MMR(*make("conv"), 1, 1, method="dynamic")),
    ("affine", lambda n: ROLL(nn.Linear(4, 3), n[1])),
    ("no parameters", lambda n: ROLL(nn.ReLU(), n[1])),
    ("LLR: eps: got -0.1", lambda n: LLR(*n, -0.1)),
    ("Adversarial: eps: got nan", lambda n: Adversarial(*n, np.nan)),
    ("TRADES: eps: got -1", lambda n: TRADES(*n, Ramp(0.1, -1, 5))),
    ("WongKolter: eps: got -1", lambda n: WongKolter(*n, -1)),
    ("LLR: p: got 1, expected 2 or 'inf'", lambda n: LLR(*n, 0.1, p=1)),
    ("norm p: got 0.5", lambda n: TRADES(*n, 0.1, p=0.5)),
    ("norm p: got 0.5", lambda n: WongKolter(*n, 0.1, p=0.5)),
    ("box", lambda n: Adversarial(*n, 0.1, box=(1, 0))),
    ("for p='inf' only, got p=2", lambda n: WongKolter(*n, 0.1, p=2, box=(0, 1))),
    ("LLR: steps: got 0", lambda n: LLR(*n, 0.1, steps=0)),
    ("Adversarial: steps: got 2.5", lambda n: Adversarial(*n, 0.1, steps=2.5)),
    ("LLR: step: got 0,", lambda n: LLR(*n, 0.1, step=0)),
    ("LLR: mu: got -2", lambda n: LLR(*n, 0.1, mu=-2)),
    ("LLR: weight (lambda): got -1", lambda n: LLR(*n, 0.1, weight=-1)),
    ("CURE: weight (lambda): got -1", lambda n: CURE(*n, weight=-1)),
    ("CURE: h: got -1", lambda n: CURE(*n, h=-1)),
    ("CrossLipschitz: weight (lambda): got inf", lambda n: CrossLipschitz(*n, weight=np.inf)),
    ("CrossLipschitz: batch_norm: got 'eval'", lambda n: CrossLipschitz(*n, batch_norm="eval")),
    ("TRADES: beta: got -6", lambda n: TRADES(*n, 0.1, beta=-6)),
    ("Adversarial: share: got 0,", lambda n: Adversarial(*n, 0.1, share=0)),
    ("Adversarial: share: got 1.5", lambda n: Adversarial(*n, 0.1, share=1.5)),
    ("LLR: got str as model", lambda n: LLR("model.onnx", n[1], 0.1)),
    ("TRADES: the model has no parameters", lambda n: TRADES(nn.ReLU(), n[1], 0.1)),
    ("input_shape: got (0,)", lambda n: CURE(n[0], (0,))),
    ("CURE: input_shape: got None", lambda n: CURE(n[0], None)),
    ("WongKolter: memory: got 0", lambda n: WongKolter(*n, 0.1, memory=0)),
]  # fmt: skip


@pytest.mark.parametrize(("match", "build"), SETTINGS, ids=[m for m, _ in SETTINGS])
def test_settings(match: str, build: Any) -> None:
    refused(InputError, match, lambda: build(net()))


def test_unsupported_networks_are_named() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) * x[:, :3]

    smooth = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    for make_loss in (
        lambda m: ROLL(m, (4,)),
        lambda m: MMR(m, (4,), 1, 1),
        lambda m: RegionMargin(m, (4,)),
        lambda m: WongKolter(m, (4,), 0.1),
    ):
        refused(UnsupportedOperation, "'mul'", lambda make_loss=make_loss: make_loss(Product()))
        refused(SmoothActivation, "tanh", lambda make_loss=make_loss: make_loss(smooth))


def losses() -> list[TrainingLoss]:
    model, shape = net()
    return [
        LLR(model, shape, 0.1), CURE(model, shape), CrossLipschitz(model, shape),
        Adversarial(model, shape, 0.1), TRADES(model, shape, 0.1), WongKolter(model, shape, 0.1),
        ROLL(model, shape), ROLL(model, shape, gamma=50), ROLL(model, shape, axes=1),
        RegionMargin(model, shape), MMR(model, shape, 1, 1), MMR(model, shape, 1, 1, box=(0, 1)),
    ]  # fmt: skip


BATCHES: list[tuple[str, Any]] = [
    ("NaN or infinity in row(s) 1",
     lambda x: x.index_fill(0, torch.tensor([1]), torch.nan)),
    ("got shape (3, 5)", lambda x: torch.cat([x, x[:, :1]], 1)),
    ("empty batch", lambda x: x[:0]),
    ("got torch.int64", lambda x: x.long()),
    ("x: got torch.float32, but the model is torch.float64", lambda x: x.float()),
    ("pass x.detach()", lambda x: x.clone().requires_grad_()),
    ("expected an array of numbers", str),
    ("is on the 'meta' device", lambda x: x.to("meta")),
]  # fmt: skip


@pytest.mark.parametrize(("match", "spoil"), BATCHES, ids=[m for m, _ in BATCHES])
def test_batches(match: str, spoil: Any) -> None:
    x, y = batch((4,))
    for loss in losses():
        refused(InputError, match, lambda loss=loss: loss(spoil(x), y))


def test_labels_boxes_and_epochs() -> None:
    model, shape = net()
    x, y = batch(shape)
    loss = MMR(model, shape, 1, 1)
    refused(InputError, "y: got none", lambda: loss(x))
    refused(InputError, "label 3 is out of range", lambda: loss(x, y + 1))
    refused(InputError, "expected one label for 3 rows", lambda: loss(x, y[:2]))
    refused(InputError, "lie outside the box", lambda: MMR(model, shape, 1, 1, box=(2, 3))(x, y))
    refused(InputError, "lie outside the box", lambda: RegionMargin(model, shape, box=(2, 3))(x))
    ramp = MMR.published(model, shape, 1, 1, weight=1)
    refused(InputError, "epoch: got none", lambda: ramp(x, y))
    refused(InputError, "epoch: got -1", lambda: ramp(x, y, epoch=-1))
    refused(InputError, "epoch: got 'first'", lambda: ramp(x, y, epoch="first"))
    for perturbing in (LLR, Adversarial, TRADES):
        loss = perturbing(model, shape, 0.1, box=(2, 3))
        refused(InputError, "lie outside the box", lambda loss=loss: loss(x, y))
        loss = perturbing(model, shape, Ramp(0, 0.1, 5))
        refused(InputError, "epoch: got none", lambda loss=loss: loss(x, y))
        loss = perturbing(model, shape, 0.1)
        refused(InputError, "y: got none", lambda loss=loss: loss(x))
        refused(InputError, "label 3 is out of range", lambda loss=loss: loss(x, y + 1))
        for delta in (torch.zeros(2, 4), torch.full((3, 4), torch.nan)):
            refused(InputError, "expected finite perturbations",
                    lambda loss=loss, delta=delta: loss(x, y, delta=delta))  # fmt: skip
    robust = WongKolter(model, shape, Ramp(0, 0.1, 5), box=(0, 0.1))
    refused(InputError, "epoch: got none", lambda: robust(x, y))
    refused(InputError, "lie outside the box", lambda: robust(x, y, epoch=3))
    refused(InputError, "y: got none", lambda: robust(x, epoch=3))
    refused(InputError, "y: got none", lambda: CURE(model, shape)(x))


def test_modules_that_losses_cannot_call() -> None:
    class Spoiled(nn.Module):
        def __init__(self, spoil: Any) -> None:
            super().__init__()
            self.layer, self._spoil = nn.Linear(4, 3).double(), spoil

        def forward(self, x: torch.Tensor) -> Any:
            return self._spoil(self.layer(x))

    x, y = batch((4,))
    for spoil, match in (
        (lambda z: (z, z), "returned tuple for 3 points"),
        (lambda z: z.sum(1), "returned (3,) for 3 points"),
        (lambda z: z[:2], "returned (2, 3) for 3 points"),
        (lambda z: z.detach(), "have no gradient in its inputs"),
    ):
        model = Spoiled(spoil)
        for loss in (LLR(model, (4,), 0.1), CURE(model, (4,)), CrossLipschitz(model, (4,)),
                     Adversarial(model, (4,), 0.1), TRADES(model, (4,), 0.1)):  # fmt: skip
            refused(InputError, match, lambda loss=loss: loss(x, y))


def test_probabilities_are_no_logits() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)).double()
    x, y = batch((4,))
    match = "returns probabilities (rows that sum to 1), expected logits"
    for loss in (LLR(model, (4,), 0.1), CURE(model, (4,)), Adversarial(model, (4,), 0.1),
                 TRADES(model, (4,), 0.1)):  # fmt: skip
        refused(InputError, match, lambda loss=loss: loss(x, y))
    refused(InputError, match, lambda: evaluate(model, Examples(x.numpy(), y.numpy())))
    logits = nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(1)).double()
    assert LLR(logits, (4,), 0.1)(x, y).isfinite()


def test_losses_of_one_step() -> None:
    model, shape = net()
    x, y = batch(shape)
    other, _ = net()
    twice = [Adversarial(model, shape, 0.1), TRADES(model, shape, 0.1)]
    refused(InputError, "got Adversarial and TRADES", lambda: total_loss(model, twice, x, y))
    foreign = [ROLL(model, shape), ROLL(other, shape)]
    refused(InputError, "made for another module", lambda: total_loss(model, foreign, x, y))


def test_nan_in_training_is_named() -> None:
    x, y = batch((4,))
    for loss in losses():
        state = {key: tensor.clone() for key, tensor in loss.model.state_dict().items()}
        with torch.no_grad():
            loss.model[2].weight[1, 1] = torch.nan
        refused(InputError, "2.weight holds NaN", lambda loss=loss: loss(x, y))
        with torch.no_grad():
            loss.model[2].weight[1, 1] = 0.0
            for parameter in loss.model.parameters():
                parameter.mul_(1e200)
        refused(PolytopeError, "overflow", lambda loss=loss: loss(x, y))
        loss.model.load_state_dict(state)


def test_a_changed_module_is_noticed() -> None:
    model, shape = net()
    x, _ = batch(shape)
    loss = ROLL(model, shape)
    kept = model[2]
    model[2] = nn.Linear(6, 5, bias=False).double()
    refused(InputError, "no longer has '2.bias'", lambda: loss(x))
    model[2] = nn.Linear(6, 7).double()
    refused(InputError, "2.weight: has shape (7, 6) now and had (5, 6)", lambda: loss(x))
    model[2] = kept
    loss(x)


def test_half_precision_is_refused() -> None:
    model, shape = net()
    loss = ROLL(model, shape)
    model.half()
    refused(InputError, "float16", lambda: loss(torch.rand(2, 4, dtype=torch.float16)))


def test_batch_norm_in_training_mode() -> None:
    model, shape = make("batch_norm1d")
    x, y = batch(shape)
    model.train()
    for loss in (ROLL(model, shape), MMR(model, shape, 1, 1), RegionMargin(model, shape),
                 LLR(model, shape, 0.1), CURE(model, shape), CrossLipschitz(model, shape),
                 WongKolter(model, shape, 0.1)):  # fmt: skip
        refused(InputError, "BatchNorm '1' is in training mode", lambda loss=loss: loss(x, y))
    alone = ROLL(model, shape, batch_norm="batch")
    refused(InputError, "more than one value per channel", lambda: alone(x[:1]))
    shared = nn.BatchNorm1d(4)
    twice = nn.Sequential(nn.Linear(4, 4), shared, Abs(), shared, nn.ReLU(), nn.Linear(4, 2))
    loss = ROLL(twice, (4,), batch_norm="batch")
    refused(UnsupportedOperation, "is called 2 times", lambda: loss(x.float()))
    ROLL(twice, (4,), batch_norm="running")(x.float())
    slope = CrossLipschitz(twice, (4,), batch_norm="batch")
    refused(UnsupportedOperation, "called more than once", lambda: slope(x.float()))
    CrossLipschitz(twice, (4,), batch_norm="running")(x.float())
    twice.eval()
    loss(x.float())
    slope(x.float())
    bare = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)).double()
    bare.eval()
    refused(InputError, "keeps no running statistics",
            lambda: CURE(bare, (4,), batch_norm="running")(x, y))  # fmt: skip
    alone = CURE(bare, (4,), batch_norm="batch")
    alone(x, y)
    refused(InputError, "more than one value per channel", lambda: alone(x[:1], y[:1]))
