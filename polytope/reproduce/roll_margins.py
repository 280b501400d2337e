"""ROLL, Tables 1 and 3 (arXiv 1907.03207, section 5): margins of linear regions."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from polytope.distances import boundary_distance
from polytope.examples import Examples
from polytope.margins import count_complete_regions
from polytope.model import compile
from polytope.named_datasets import Dataset
from polytope.plot import HUES, new_figure
from polytope.reproduce.item import Item
from polytope.reproduce.measure import PERCENTILES, percent, points, quartiles
from polytope.reproduce.run import Fitted, Outcome, Run
from polytope.training.evaluation import evaluate
from polytope.training.loop import Loss
from polytope.training.networks import fully_connected
from polytope.training.recipe import Recipe
from polytope.training.recurrent import EachLength, ScoRNN
from polytope.training.roll import ROLL

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PAPER = "ROLL, arXiv 1907.03207"
#: Mean and deviation of MNIST's pixels; margins are reported for pixels in [0, 1].
MEAN, DEVIATION = 0.1307, 0.3081
NORMS = {"l_1": 1, "l_2": 2}


@dataclass(frozen=True)
class Row:
    """A row of a table: the loss's settings, and the published numbers.

    Attributes
    ----------
    C, weight : float or None
        None for the plain loss.
    accuracy : float
        In percent.
    margins : mapping of norms to percentiles 25, 50, 75 and 100
        In the table's unit.
    regions : int, optional
        Complete linear regions among the test points.
    """

    C: float | None
    weight: float | None
    accuracy: float
    margins: dict[str, tuple[float, ...]]
    regions: int | None = None

    @property
    def name(self) -> str:
        """The loss, as a table shows it."""
        return "vanilla" if self.C is None else f"ROLL C={self.C:g} lambda={self.weight:g}"


#: Margins in 1e-4.
TABLE1 = (
    Row(None, None, 98, {"l_1": (22, 53, 106, 866), "l_2": (3, 6, 13, 91)}, 10000),
    Row(0.25, 2, 98, {"l_1": (219, 530, 1056, 6347), "l_2": (37, 92, 182, 1070)}, 9986),
    Row(1, 2, 97, {"l_1": (665, 1593, 3175, 21825), "l_2": (125, 297, 604, 4345)}, 8523),
)
#: Margins in 1e-6.
TABLE3 = (
    Row(None, None, 98, {"l_1": (66, 177, 337, 1322), "l_2": (23, 61, 113, 438)}),
    Row(2**4, 2**-5, 98, {"l_1": (264, 562, 1107, 5227), "l_2": (95, 207, 407, 1809)}),
    Row(2**2, 2**-1, 97, {"l_1": (1284, 2898, 6086, 71235), "l_2": (544, 1249, 2644, 22968)}),
)


def _table1(run: Run) -> Outcome:
    """MNIST, four hidden layers of 300."""
    raw = run.dataset("mnist")
    data = Dataset(
        f"{raw.name} normalised", raw.train.normalised(MEAN, DEVIATION),
        raw.test.normalised(MEAN, DEVIATION), raw.classes,
    )  # fmt: skip
    axes = run.pick(None, 6, None)
    rows = run.pick(TABLE1[:2], TABLE1, TABLE1)
    count = min(run.pick(50, 1000, 10_000), len(data.test))
    measured, found = [], {}
    for row in rows:
        torch.manual_seed(0)
        widths = run.pick((24, 24), (300,) * 4, (300,) * 4)
        model = fully_connected(data.shape, widths, data.classes)
        # The sampled loss is so noisy that the last iterate would be.
        last = 4 if row.C is not None and run.scale == "small" else 0
        recipe = Recipe(
            run.pick(5, 12, 20), drop=last, batch=64, optimizer="nesterov",
            rate=run.pick(0.1, 0.01, 0.01), momentum=0.5, choose="loss",
        )  # fmt: skip
        losses: list[Loss] = []
        if row.C is not None and row.weight is not None:
            losses.append(ROLL(model, data.shape, C=row.C, weight=row.weight, axes=axes))
        own = run.fit(
            f"{run.item} {row.name}", model, data, recipe, losses,
            validation=run.pick(200, 5000, 5000),
        )  # fmt: skip
        margins = run.in_parts(
            f"{row.name} margins", {"network": own.key}, count, 250,
            partial(_margins, own, data),
        )  # fmt: skip
        regions = run.step(
            f"{row.name} regions", {"network": own.key, "points": count},
            partial(_regions, own, data, count),
        )  # fmt: skip
        scaled = {name: DEVIATION * margins[name] for name in NORMS}
        found[row.name] = scaled
        measured.append((row, own.error, scaled, (int(regions["lower"]), int(regions["upper"]))))
    notes: tuple[str, ...] = ()
    if run.scale == "small":
        notes = (
            "sampled loss of Eq. 10 with 6 axes instead of the exact one, its last 4 epochs at a "
            "tenth of the rate", "12 epochs instead of 20",
            f"margins of the first {count} test points instead of 10,000",
        )  # fmt: skip
    elif run.scale == "smoke":
        notes = ("8 x 8 digits, two layers of 24, 5 epochs", f"{count} test points")
    table = _table(measured, 1e-4)
    correlation = ", ".join(
        f"{name} {_spearman(own['l_1'], own['l_2']):.3f}" for name, own in found.items()
    )
    return Outcome(
        table, _distributions(found, "margin for pixels in [0, 1]"), notes,
        (*_gains(found, "published: about 10 times vanilla at its accuracy, 30 times for 1% less"),
         f"Spearman of l_1 and l_2 margins (published at least 0.98): {correlation}"),
    )  # fmt: skip


def _margins(own: Fitted, data: Dataset, rows: slice) -> dict[str, np.ndarray]:
    """Margins of some test points in both norms."""
    X = points(data.test, rows)
    return {
        name: np.asarray(boundary_distance(own.net, X, p).distance) for name, p in NORMS.items()
    }


def _regions(own: Fitted, data: Dataset, count: int) -> dict[str, int]:
    """Bounds on the number of complete linear regions among the test points."""
    found = count_complete_regions(own.net, points(data.test, slice(count)))
    return {"lower": found.lower, "upper": found.upper}


def _table3(run: Run) -> Outcome:
    """Japanese Vowels, scoRNN."""
    if run.scale == "smoke":
        data = _series_of_digits(run.dataset("japanese_vowels"))
    else:
        data = run.dataset("japanese_vowels")
    assert data.test.lengths is not None
    axes = run.pick(None, 12, None)
    rows = run.pick(TABLE3[:2], TABLE3, TABLE3)
    units = run.pick(12, 128, 512)
    measured, found = [], {}
    for row in rows:
        torch.manual_seed(0)
        model = ScoRNN(data.shape[1], data.classes, units)
        losses: list[Loss] = []
        if row.C is not None:
            losses.append(EachLength(model, ROLL, C=row.C, weight=row.weight, axes=axes))
        recipe = Recipe(
            run.pick(4, 150, 300), drop=run.pick(0, 40, 0), batch=32, optimizer="amsgrad",
            rate=run.pick(1e-2, 1e-3, 1e-3),
        )  # fmt: skip
        name = f"{run.item} {row.name}"
        _, key = run.trained(name, model, data, recipe, losses)
        error = evaluate(model, data.test).error
        count = min(run.pick(20, len(data.test), len(data.test)), len(data.test))
        margins = run.in_parts(
            f"{row.name} margins", {"network": key}, count, 50,
            partial(_series_margins, model, data),
        )  # fmt: skip
        found[row.name] = {norm: margins[norm] for norm in NORMS}
        measured.append((row, error, found[row.name], None))
    notes: tuple[str, ...] = ()
    if run.scale == "small":
        notes = (
            f"{units} units instead of 512", "150 epochs, the last 40 at a tenth of the rate",
            "sampled loss of Eq. 10 with 12 axes instead of the exact one",
        )  # fmt: skip
    elif run.scale == "smoke":
        notes = (f"rows of 8 x 8 digits as series, {units} units, 4 epochs",)
    return Outcome(
        _table(measured, 1e-6), _distributions(found, "margin"), notes,
        _gains(found, "published: about 4 times vanilla at its accuracy, 20 times for 1% less"),
    )  # fmt: skip


def _series_of_digits(data: Dataset) -> Dataset:
    """Digits read row by row, where no series are at hand."""
    parts = [
        Examples(part.x.reshape(len(part), 8, 8), part.y, np.full(len(part), 8))
        for part in (data.train, data.test)
    ]
    return Dataset("digits as series", parts[0], parts[1], data.classes)


def _series_margins(model: nn.Module, data: Dataset, rows: slice) -> dict[str, np.ndarray]:
    """Margins of some test series: each length is a network of its own."""
    chosen = np.arange(len(data.test))[rows]
    found = {name: np.empty(len(chosen)) for name in NORMS}
    exact = deepcopy(model).double().eval()
    for group, length in data.test.groups(chosen):
        assert length is not None
        net = compile(exact, (length, data.shape[1]))
        X = data.test.x[group, :length].astype(np.float64)
        for name, p in NORMS.items():
            found[name][group - chosen[0]] = boundary_distance(net, X, p).distance
    return found


Measured = tuple[Row, float, dict[str, np.ndarray], tuple[int, int] | None]


def _table(measured: Sequence[Measured], unit: float) -> pd.DataFrame:
    """Published and measured percentiles, one line for each network and norm."""
    import pandas as pd

    rows: list[dict[str, object]] = []
    for row, error, margins, regions in measured:
        for norm, published in row.margins.items():
            line: dict[str, object] = {
                "loss": row.name, "published accuracy %": row.accuracy,
                "accuracy %": percent(1 - error), f"margin, {unit:g}": norm,
            }  # fmt: skip
            own = quartiles(margins[norm], unit)
            for place, paper in zip(PERCENTILES, published, strict=True):
                line[f"published P{place}"], line[f"P{place}"] = paper, own[f"P{place}"]
            if regions is not None:
                line["published #CLR"] = row.regions
                line["#CLR"] = f"{regions[0]} to {regions[1]} of {len(margins[norm])}"
            rows.append(line)
    return pd.DataFrame(rows)


def _gains(found: dict[str, dict[str, np.ndarray]], published: str) -> tuple[str, ...]:
    """Medians over those of the vanilla network."""
    base = found["vanilla"]
    lines = [published]
    for name, own in found.items():
        if name != "vanilla":
            ratios = ", ".join(
                f"{np.median(own[norm]) / np.median(base[norm]):.3g} in {norm}" for norm in NORMS
            )
            lines.append(f"measured: {name}: medians {ratios} times vanilla")
    return tuple(lines)


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    """The rank correlation."""
    first, second = (np.argsort(np.argsort(values)).astype(np.float64) for values in (a, b))
    return float(np.corrcoef(first, second)[0, 1])


def _distributions(found: dict[str, dict[str, np.ndarray]], label: str) -> Figure:
    """Cumulative distributions of the margins."""
    figure = new_figure(8, 3.7)
    figure.set_layout_engine("constrained")
    for axes, norm in zip(figure.subplots(1, 2), NORMS, strict=True):
        for colour, (name, own) in zip(HUES, found.items(), strict=False):
            values = np.sort(own[norm])
            axes.semilogx(values, (np.arange(len(values)) + 1) / len(values), color=colour,
                          label=name)  # fmt: skip
        axes.set(xlabel=f"{norm} {label}", ylabel="share of test points")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


ITEMS = (
    Item("roll-table1", "margins of regions, MNIST, 4 x 300", f"{PAPER}, Table 1", _table1),
    Item("roll-table3", "margins of regions, Japanese Vowels, scoRNN", f"{PAPER}, Table 3",
         _table3),
)  # fmt: skip
