"""The networks of MMR (arXiv 1810.07481, section 5 and appendix B), trained as the scale allows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from polytope.named_datasets import Dataset
from polytope.reproduce.run import Fitted, Run, Scale
from polytope.training.adversarial import Adversarial
from polytope.training.loop import Loss
from polytope.training.mmr import MMR
from polytope.training.networks import WIDTHS, convolutional, fully_connected
from polytope.training.recipe import Recipe
from polytope.training.schedules import Ramp
from polytope.training.wong_kolter import WongKolter

#: Names of the data sets as the paper writes them.
TITLES = {"mnist": "MNIST", "fashion_mnist": "F-MNIST", "gtsrb": "GTS", "cifar10": "CIFAR-10"}
#: Points of a batch of 128 that the regulariser sees at the scale "small".
PART = 16


def title(run: Run, name: str) -> str:
    """A data set as a table shows it: in smoke runs, what takes its place."""
    return f"digits for {TITLES[name]}" if run.scale == "smoke" else TITLES[name]


@dataclass(frozen=True)
class Setting:
    """What a data set is trained with in a norm.

    Attributes
    ----------
    eps : float
        Radius of the robust error, and of adversarial training.
    weight, gamma : float
        MMR's lambda, and gamma_B = gamma_D.
    rate : float
        Adam's for MMR; 1e-3 for all others.
    epochs : int
        At the scale "small".
    small_weight : float, optional
        Lambda at the scale "small", where it differs.
    wider : float
        gamma_B over gamma_D at the scale "small": few epochs need a stronger push.
    ramp : float
        Epochs over which lambda grows at the scale "small"; 10 in the paper.
    """

    eps: float
    weight: float
    gamma: float
    rate: float
    epochs: int
    small_weight: float | None = None
    wider: float = 1.0
    ramp: float = 10.0

    def lambda_at(self, scale: Scale) -> float:
        """Lambda at a scale."""
        if scale == "small" and self.small_weight is not None:
            return self.small_weight
        return self.weight


#: By norm and data set: lambda and gamma are those of the FC1 networks of the paper.
SETTINGS: dict[float, dict[str, Setting]] = {
    2.0: {
        "mnist": Setting(0.3, 1.5, 0.6, 1e-4, 5),
        "fashion_mnist": Setting(0.3, 10.0, 0.45, 1e-4, 5),
        "gtsrb": Setting(0.2, 16.0, 0.4, 1e-3, 45, 6.0, 2.0),
        "cifar10": Setting(0.1, 6.0, 0.2, 1e-3, 10),
    },
    math.inf: {
        "mnist": Setting(0.1, 2.0, 0.1, 1e-3, 10, small_weight=3.0, ramp=2.0),
        "fashion_mnist": Setting(0.1, 6.0, 0.2, 1e-3, 5),
        "gtsrb": Setting(4 / 255, 10.0, 8 / 255, 1e-3, 45),
        "cifar10": Setting(2 / 255, 6.0, 4 / 255, 1e-3, 10),
    },
}


@dataclass(frozen=True, eq=False)
class OnPart:
    """A loss of the first points of each batch only.

    Batches are drawn at random, so this is an unbiased estimate of the loss of the whole batch,
    at a part of its cost.

    Parameters
    ----------
    loss : Loss
    points : int
    """

    loss: Loss
    points: int

    def __call__(self, x: torch.Tensor, y: torch.Tensor, *, epoch: float) -> torch.Tensor:
        """The loss of the first points."""
        return self.loss(x[: self.points], y[: self.points], epoch=epoch)


def network(run: Run, data: Dataset, kind: str) -> nn.Module:
    """An untrained FC1, FC10 or CNN; in smoke runs one for 8 x 8 digits."""
    torch.manual_seed(0)
    if kind == "cnn":
        sizes = ((4, 8), (16,)) if run.scale != "full" else ((16, 32), (100,))
        return convolutional(data.shape, data.classes, *sizes, start="he")
    widths: Sequence[int] = WIDTHS[kind]
    if run.scale == "smoke":
        widths = (48,) if kind == "fc1" else (16,) * 3
    return fully_connected(data.shape, widths, data.classes, start="he")


def fitted(
    run: Run,
    name: str,
    scheme: str,
    p: float = 2.0,
    kind: str = "fc1",
    weight: float | None = None,
    epochs: int | None = None,
) -> Fitted:
    """A network trained by one of the paper's schemes, from its checkpoint if there is one.

    Parameters
    ----------
    run : Run
    name : str
        The data set.
    scheme : {"plain", "at", "KW", "MMR", "MMR+at", "MMR-dD"}
        "at" is adversarial training, "KW" Wong and Kolter's robust loss, "MMR-dD" MMR without
        the part of the regions.
    p : 2 or inf
    kind : {"fc1", "fc10", "cnn"}
    weight : float, optional
        Lambda; by default that of the data set.
    epochs : int, optional
        By default those of the scale.
    """
    data, setting = run.dataset(name), SETTINGS[p][name]
    model = network(run, data, kind)
    losses: list[Loss] = []
    if scheme == "KW":
        losses.append(
            WongKolter(model, data.shape, Ramp(0, setting.eps, run.pick(3, 1, 20)), p=p,
                       box=(0, 1) if p == math.inf else None)
        )  # fmt: skip
    if scheme in ("at", "MMR+at"):
        steps = run.pick(3, 7, 40 if "mnist" in name else 7)
        losses.append(
            Adversarial(model, data.shape, setting.eps, p=p, box=(0, 1), steps=steps, share=0.5)
        )
    regularised = scheme.startswith("MMR")
    if epochs is None:
        epochs = run.pick(12, 2 if scheme == "KW" else setting.epochs, 100)
    if regularised:
        wider = setting.wider if run.scale == "small" else 1.0
        own = MMR.published(
            model, data.shape, None if scheme == "MMR-dD" else wider * setting.gamma, setting.gamma,
            weight=setting.lambda_at(run.scale) if weight is None else weight, epochs=epochs, p=p,
            ramp=setting.ramp if run.scale == "small" else 10,
        )  # fmt: skip
        losses.append(OnPart(own, PART) if run.scale == "small" else own)
    rate = setting.rate if regularised and run.scale == "full" else run.pick(1e-2, 1e-3, 1e-3)
    last = 3 if regularised and run.scale == "small" else 10
    recipe = Recipe(epochs, rate=rate, drop=max(1, epochs // last))
    shown = f"{name} {kind} {scheme} l_{p:g}" + ("" if weight is None else f" lambda {weight:g}")
    return run.fit(shown, model, data, recipe, losses)


def shortened(run: Run, used: Iterable[tuple[float, str, str]]) -> tuple[str, ...]:
    """What the scale changes of the trainings that were used: norm, data set and scheme of each."""
    if run.scale == "full":
        return ()
    if run.scale == "smoke":
        return ("8 x 8 digits and small networks", "12 epochs instead of 100")
    trained = list(dict.fromkeys(used))
    schemes = {scheme for _, _, scheme in trained}
    places = dict.fromkeys((p, name) for p, name, _ in trained)
    epochs = [
        f"{SETTINGS[p][name].epochs} on {TITLES[name]} in l_{p:g}"
        + (f" ({len(run.dataset(name).train):,} training images instead of 39,209)"
           if name == "gtsrb" else "")
        for p, name in places
    ]  # fmt: skip
    notes = [
        f"epochs instead of 100: {', '.join(epochs)}; the last tenth (with MMR the last third) at "
        "a tenth of the rate 1e-3"
    ]
    if any(scheme.startswith("MMR") for scheme in schemes):
        notes.append(f"MMR on {PART} of the 128 points of a batch")
        notes += [
            f"MMR on {TITLES[name]} in l_{p:g} with lambda {own.lambda_at('small'):g} (it grows "
            f"over {own.ramp:g} epochs), gamma_B = {own.wider * own.gamma:g}, gamma_D = "
            f"{own.gamma:g} instead of {own.weight:g} (10 epochs) and {own.gamma:g}"
            for p, name in places
            if (own := SETTINGS[p][name]).small_weight is not None
        ]
    if schemes & {"at", "MMR+at"}:
        notes.append("adversarial training with 7 steps")
    if "KW" in schemes:
        notes.append("KW's training with 2 epochs")
    return tuple(notes)
