"""LLR, Table 6 and Figure 7 (arXiv 1907.02610, appendix F.4): few inner steps, strong attacks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from polytope.attacks.margin_ascent import MarginAscent, MultiTargeted, Untargeted
from polytope.named_datasets import Dataset
from polytope.plot import new_figure
from polytope.reproduce.item import Item
from polytope.reproduce.measure import percent, points
from polytope.reproduce.run import Fitted, Outcome, Run
from polytope.training.adversarial import Adversarial
from polytope.training.evaluation import batches
from polytope.training.llr import LLR
from polytope.training.loop import Loss
from polytope.training.networks import convolutional
from polytope.training.recipe import Recipe
from polytope.training.schedules import Ramp

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PAPER = "LLR, arXiv 1907.02610"
#: Nominal accuracy, and under the untargeted and multi-targeted attacks, in percent, of
#: Wide-ResNet-28-8 on CIFAR-10 at 8/255.
TABLE6 = {
    "ADV-1": (88.45, 0.00, 0.00), "ADV-2": (76.63, 0.00, 0.00),
    "LLR-1": (93.03, 1.80, 1.60), "LLR-2": (90.46, 46.47, 44.50),
}  # fmt: skip
#: The weights of the regulariser over that of the cross-entropy, which is 2 in the paper.
WEIGHT, MU = 4 / 2, 3 / 2
#: Steps of the paper's measure of gamma.
GAMMA_STEPS = 50
COLOURS = {"ADV-2": "#4c78a8", "LLR-2": "#e8833a", "ADV-20": "#3a9a5b"}


@dataclass(frozen=True)
class Task:
    """A data set, its radius, and the training points that are taken below the scale "full"."""

    name: str
    eps: float
    train: int


TASKS = (Task("mnist", 0.2, 6_000), Task("cifar10", 8 / 255, 8_000))
#: In smoke runs; the digits' 8 x 8 pixels are further apart than MNIST's.
SMOKE_TASKS = (Task("mnist", 0.05, 6_000),)


def _fitted(run: Run, task: Task, method: str) -> tuple[Fitted, Dataset]:
    """A softplus network trained by adversarial training or LLR with some inner steps."""
    whole = run.dataset(task.name)
    data = whole
    if run.scale != "full" and len(whole.train) > task.train:
        data = Dataset(whole.name, whole.train.take(slice(task.train)), whole.test, whole.classes)
    torch.manual_seed(0)
    sizes = run.pick(((4, 8), (16,)), ((16, 32), (100,)), ((32, 64, 128), (256,)))
    model = convolutional(data.shape, data.classes, *sizes, activation="softplus")
    kind, _, steps = method.partition("-")
    epochs = run.pick(10, 15, 110)
    eps = Ramp(0.0, task.eps, max(1, epochs * 15 // 110))
    own: Loss
    if kind == "ADV":
        own = Adversarial(model, data.shape, eps, box=(0, 1), steps=int(steps))
    else:
        own = LLR(model, data.shape, eps, box=(0, 1), steps=int(steps), weight=WEIGHT, mu=MU)
    recipe = Recipe(epochs, rate=run.pick(1e-2, 2e-3, 1e-3), drop=max(1, epochs // 10))
    return run.fit(f"{task.name} softplus {method}", model, data, recipe, [own]), data


def _attacked(run: Run, own: Fitted, data: Dataset, eps: float) -> tuple[float, float]:
    """Accuracy under the untargeted and multi-targeted attacks."""
    count = run.pick(10, 100, len(data.test))
    steps, restarts = run.pick((10, 1), (100, 2), (200, 20))
    rates = ((0, 0.1), (steps // 2, 0.01), (3 * steps // 4, 0.001))
    tools = {
        "untargeted": Untargeted(eps, steps=steps, restarts=restarts, rates=rates,
                                 dtype=torch.float32),
        "multi-targeted": MultiTargeted(eps, steps=steps, restarts=restarts, rates=((0, 0.1),),
                                        dtype=torch.float32),
    }  # fmt: skip
    found = []
    for name, attack in tools.items():

        def work(rows: slice, attack: MarginAscent = attack) -> dict[str, np.ndarray]:
            X, y = points(data.test, rows), data.test.y[rows]
            return {"broken": attack(own.net, X, y, math.inf, (0, 1)).found}

        settings = {"network": own.key, "attack": repr(attack)}
        broken = run.in_parts(f"{own.name} {name}", settings, count, 25, work)["broken"]
        found.append(1 - float(broken.mean()))
    return found[0], found[1]


def _gammas(run: Run, own: Fitted, data: Dataset, eps: float) -> np.ndarray:
    """gamma(eps, x) of the first test points, by 50 steps of Adam."""
    count = min(run.pick(20, 500, 10_000), len(data.test))
    settings = {"network": own.key, "eps": eps, "count": count}
    found = run.step(f"{own.name} gamma", settings, partial(_measured, own, data, eps, count))
    return found["gamma"]


def _measured(own: Fitted, data: Dataset, eps: float, count: int) -> dict[str, np.ndarray]:
    """The largest violation of the linear approximation that the ascent ends at."""
    measure = LLR(own.model, data.shape, eps, box=(0, 1), steps=GAMMA_STEPS)
    generator = torch.Generator().manual_seed(0)
    parts = [
        measure.parts(x, y, epoch=1, generator=generator)[0].detach().numpy()
        for start in range(0, count, 100)
        for x, y in batches(own.model, data.test, np.arange(start, min(start + 100, count)))
    ]
    return {"gamma": np.concatenate(parts)}


def _table6(run: Run) -> Outcome:
    """Accuracies of ADV-1, ADV-2, LLR-1 and LLR-2 under strong attacks."""
    import pandas as pd

    rows: list[dict[str, object]] = []
    tasks = run.pick(SMOKE_TASKS, TASKS, TASKS)
    for task in tasks:
        for method, published in TABLE6.items():
            own, data = _fitted(run, task, method)
            measured = (1 - own.error, *_attacked(run, own, data, task.eps))
            row: dict[str, object] = {"data": data.name, "eps": task.eps, "method": method}
            names = ("nominal %", "untargeted %", "multi-targeted %")
            for name, paper, value in zip(names, published, measured, strict=True):
                row[f"published {name}"], row[name] = paper, percent(value)
            row["median gamma"] = float(np.median(_gammas(run, own, data, task.eps)))
            rows.append(row)
    table = pd.DataFrame(rows)
    findings: list[str] = ["published: LLR-2 keeps 44.5% under the strongest attack, ADV-2 nothing"]
    for key, part in table.groupby("data", sort=False):
        kept = dict(zip(part["method"], part["multi-targeted %"], strict=True))
        same = kept["LLR-2"] > kept["ADV-2"]
        findings.append(
            f"measured, {key}: " + ", ".join(f"{m} keeps {v:g}%" for m, v in kept.items())
            + (": the published order of LLR-2 and ADV-2" if same else
               ": not the published order of LLR-2 and ADV-2")
        )  # fmt: skip
    return Outcome(table, _accuracies(table), _notes(run), tuple(findings))


def _notes(run: Run) -> tuple[str, ...]:
    """What differs from the paper."""
    if run.scale == "smoke":
        return ("8 x 8 digits, a small softplus network, short attacks on 10 points",)
    notes: tuple[str, ...] = (
        "softplus networks of two or three convolutions instead of Wide-ResNet-28-8; MNIST "
        "(eps 0.2) beside CIFAR-10",
    )
    if run.scale == "small":
        notes += (
            "15 epochs instead of 110, at most 8,000 training points",
            "attacks of 100 steps and 2 restarts on 100 points instead of 200 and 20",
            "gamma of 500 points",
        )  # fmt: skip
    return notes


def _accuracies(table: pd.DataFrame) -> Figure:
    """Nominal and attacked accuracies, a panel for each data set."""
    names = [str(name) for name in table["data"].unique()]
    figure = new_figure(4.6 * len(names), 3.4)
    figure.set_layout_engine("constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        own = table[table["data"] == name]
        places = np.arange(len(own))
        for shift, column in enumerate(("nominal %", "untargeted %", "multi-targeted %")):
            axes.bar(places + 0.27 * shift, own[column], 0.25, label=column)
        axes.set_xticks(places + 0.27, list(own["method"]))
        axes.set(title=name, ylabel="accuracy (%)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _figure7(run: Run) -> Outcome:
    """Histograms of gamma: LLR-2 beside adversarial training with 2 and with 20 steps."""
    import pandas as pd

    tasks = run.pick(SMOKE_TASKS, TASKS, TASKS)
    figure = new_figure(4.6 * len(tasks), 3.2)
    figure.set_layout_engine("constrained")
    rows, findings = [], ["published: gamma of LLR-2 is like that of ADV-20, ADV-2 is much higher"]
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        medians = {}
        for method, colour in COLOURS.items():
            own, data = _fitted(run, task, method)
            gamma = _gammas(run, own, data, task.eps)
            bins = np.geomspace(1e-4, 1e2, 50).tolist()
            axes.hist(np.clip(gamma, bins[0], bins[-1]), bins, color=colour, alpha=0.5,
                      label=method)  # fmt: skip
            medians[method] = float(np.median(gamma))
            rows.append({
                "data": data.name, "eps": task.eps, "method": method,
                "published": "histogram only", "error %": percent(own.error),
                "mean gamma": float(gamma.mean()), "median gamma": medians[method],
                "P95 gamma": float(np.percentile(gamma, 95)),
            })  # fmt: skip
        axes.set(xscale="log", title=data.name, xlabel="gamma(eps, x)", ylabel="test points")
        axes.legend()
        findings.append(
            f"measured, {data.name}: median gamma "
            + ", ".join(f"{method} {value:.3g}" for method, value in medians.items())
        )
    return Outcome(pd.DataFrame(rows), figure, _notes(run), tuple(findings))


ITEMS = (
    Item("llr-table6", "few inner steps under strong attacks", f"{PAPER}, Table 6", _table6),
    Item("llr-figure7", "local linearity after training", f"{PAPER}, Figure 7", _figure7),
)  # fmt: skip
