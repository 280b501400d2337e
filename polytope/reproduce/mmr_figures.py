"""MMR, Figures 2 and 3 (arXiv 1810.07481): pictures of regions, verification over lambda."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from polytope.distances import boundary_distance
from polytope.enumeration import region_graph
from polytope.examples import Examples
from polytope.graph import RegionGraph
from polytope.named_datasets import Dataset
from polytope.plot import new_figure
from polytope.region_plot import plot_regions
from polytope.reproduce.item import Item
from polytope.reproduce.measure import percent, points
from polytope.reproduce.mmr_bounds import by_mip, robust_errors
from polytope.reproduce.mmr_models import PART, OnPart, fitted, network, shortened, title
from polytope.reproduce.run import Fitted, Outcome, Run
from polytope.sets import Box
from polytope.slices import Slice
from polytope.training.loop import Loss
from polytope.training.mmr import MMR
from polytope.training.networks import fully_connected
from polytope.training.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PAPER = "MMR, arXiv 1810.07481"
#: Of the toy: points, units, the square that is drawn, gamma_B = gamma_D, lambda.
TOY_POINTS, TOY_UNITS, TOY_SIDE, TOY_GAMMA, TOY_WEIGHT = 128, 100, 1.4, 0.2, 1.0
#: Figure 3: radius, gamma_B = gamma_D, and the values of lambda (0 is plain).
EPS, GAMMA = 0.1, 0.15
LAMBDAS = {"smoke": (0.0, 1.0), "small": (0.0, 0.5, 2.0), "full": (0.0, 0.25, 0.5, 1.0, 2.0, 3.0)}


def _figure2(run: Run) -> Outcome:
    """Regions of a toy and of a plane through three digits, plain and with MMR."""
    import pandas as pd

    graphs: dict[str, RegionGraph] = {}
    rows: list[dict[str, object]] = []
    toy = _toy()
    square = Box(np.full(2, -TOY_SIDE), np.full(2, TOY_SIDE))
    for scheme in ("plain", "MMR"):
        own = _toy_network(run, toy, scheme)
        graphs[f"toy, {scheme}"] = region_graph(own.net, square)
        rows.append(_line("toy", scheme, own, toy, graphs[f"toy, {scheme}"]))
    data = run.dataset("mnist")
    own = fitted(run, "mnist", "plain")
    rng = np.random.default_rng(0)
    classes = rng.permutation(data.classes)[:3]
    at = [int(rng.choice(np.flatnonzero(data.train.y == c))) for c in classes]
    plane = Slice(points(data.train.take(np.array(at))), margin=0.1)
    name = title(run, "mnist")
    for scheme in ("plain", "MMR"):
        own = fitted(run, "mnist", scheme)
        graphs[f"{name}, {scheme}"] = region_graph(own.net, plane)
        rows.append(_line(name, scheme, own, data, graphs[f"{name}, {scheme}"]))
    table = pd.DataFrame(rows)
    count = dict(zip(graphs, table["regions in the picture"], strict=True))
    margin = dict(zip(graphs, table["median d_B of 100 training points"], strict=True))
    notes = (
        "the paper does not give the toy's points: two arcs of 64",
        *shortened(run, [(2.0, "mnist", scheme) for scheme in ("plain", "MMR")]),
    )
    return Outcome(
        table, plot_regions(graphs), notes,
        ("published: a clear maximization of the linear regions with MMR", *(
            f"measured, {kind}: {count[f'{kind}, plain']} regions in the picture with plain "
            f"training, {count[f'{kind}, MMR']} with MMR; the median d_B of training points grows "
            f"{margin[f'{kind}, MMR'] / margin[f'{kind}, plain']:.3g} times"
            for kind in ("toy", name)
        )),
    )  # fmt: skip


def _line(
    name: str, scheme: str, own: Fitted, data: Dataset, graph: RegionGraph
) -> dict[str, object]:
    """A row of Figure 2's table."""
    margins = boundary_distance(own.net, points(data.train, slice(100)), 2).distance
    return {
        "data": name, "training": scheme, "published": "picture only",
        "error %": percent(own.error), "regions in the picture": len(graph),
        "median d_B of 100 training points": float(np.median(margins)),
    }  # fmt: skip


def _toy() -> Dataset:
    """Two arcs of points, one in the other's opening."""
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, np.pi, TOY_POINTS // 2)
    arc = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    x = np.concatenate([arc - [0.5, 0.25], [0.5, 0.25] - arc])
    x = 0.75 * x + rng.normal(scale=0.05, size=x.shape)
    y = np.repeat([0, 1], TOY_POINTS // 2)
    examples = Examples(x.astype(np.float32), y)
    return Dataset("arcs", examples, examples, 2)


def _toy_network(run: Run, toy: Dataset, scheme: str) -> Fitted:
    """One hidden layer of 100 units."""
    torch.manual_seed(0)
    model = fully_connected(toy.shape, (TOY_UNITS,), 2, start="he")
    losses: list[Loss] = []
    if scheme == "MMR":
        losses.append(
            MMR(model, toy.shape, TOY_GAMMA, TOY_GAMMA, weight=TOY_WEIGHT, k_b=0.1, k_d=1)
        )
    recipe = Recipe(run.pick(100, 600, 2000), rate=5e-3)
    return run.fit(f"{run.item} toy {scheme}", model, toy, recipe, losses)


def _figure3(run: Run) -> Outcome:
    """How fast mixed-integer programs verify networks trained with growing lambda."""
    import pandas as pd

    data = _part(run.dataset("mnist"), run.pick(600, 10_000, 60_000))
    count, attacked, limit = run.pick((2, 10, 5.0), (5, 60, 20.0), (1000, 1000, 120.0))
    rows = []
    for weight in LAMBDAS[run.scale]:
        own = _verifiable(run, data, weight)
        mip = by_mip(run, own, data, EPS, count, limit)
        found = robust_errors(run, own, data, math.inf, EPS, attacked)
        broken, holds = found["broken"].astype(bool), found["dual"].astype(bool)
        broken[:count] |= mip["broken"].astype(bool)
        holds[:count] |= mip["claimed"].astype(bool)
        decided = mip["broken"].astype(bool) | mip["claimed"].astype(bool)
        rows.append({
            "lambda": weight, "error %": percent(own.error),
            "published minutes for 1000": {0.0: "almost 2000", 3.0: "79 at most"}.get(
                weight, "35 to 79"),
            "MIP seconds a point": float(mip["seconds"]) / count,
            "MIP decides %": percent(decided.mean()),
            "lower %": percent(broken.mean()), "upper %": percent(1 - holds.mean()),
        })  # fmt: skip
    table = pd.DataFrame(rows)
    notes: tuple[str, ...] = ()
    if run.scale != "full":
        notes = (
            f"CNN of 4 and 8 channels and 16 units instead of 16, 32 and 100, "
            f"{len(data.train)} training points, {_epochs(run)} epochs",
            f"MIP (HiGHS) on {count} points with {limit:g} s instead of 120 s (Gurobi) on 1000",
        )
        notes += (f"MMR on {PART // 2} of the 128 points of a batch",) * (run.scale == "small")
    first, last = rows[0], rows[-1]
    return Outcome(
        table, _times(table), notes,
        ("published: the plain network takes 51 times as long, and 1% of its points are certified; "
         "with MMR 99.3% to 100%",
         f"measured: {first['MIP seconds a point']:.3g} s a point with plain training "
         f"({first['MIP decides %']:g}% decided), {last['MIP seconds a point']:.3g} s with lambda "
         f"{last['lambda']:g} ({last['MIP decides %']:g}%)"),
    )  # fmt: skip


def _epochs(run: Run) -> int:
    """Of Figure 3's networks."""
    return run.pick(3, 8, 100)


def _part(data: Dataset, count: int) -> Dataset:
    """The first training points."""
    if count >= len(data.train):
        return data
    return Dataset(data.name, data.train.take(slice(count)), data.test, data.classes)


def _verifiable(run: Run, data: Dataset, weight: float) -> Fitted:
    """A convolutional network, plain or with MMR in l_inf."""
    model = network(run, data, "cnn")
    losses: list[Loss] = []
    if weight:
        own = MMR.published(
            model, data.shape, GAMMA, GAMMA, weight=weight, epochs=_epochs(run), p=math.inf
        )
        losses.append(own if run.scale == "full" else OnPart(own, PART // 2))
    recipe = Recipe(_epochs(run), rate=run.pick(1e-2, 2e-3, 1e-3), drop=1)
    return run.fit(f"{run.item} lambda {weight:g}", model, data, recipe, losses)


def _times(table: pd.DataFrame) -> Figure:
    """Seconds of the programs, and bounds of the robust error, against lambda."""
    figure = new_figure(8, 3.2)
    figure.set_layout_engine("constrained")
    left, right = figure.subplots(1, 2)
    left.semilogy(table["lambda"], table["MIP seconds a point"], "o-", color="#4c78a8")
    left.set(xlabel="lambda", ylabel="MIP, seconds a point")
    right.plot(table["lambda"], table["lower %"], "o-", color="#b2182b", label="lower bound")
    right.plot(table["lambda"], table["upper %"], "o-", color="#1b7837", label="upper bound")
    right.set(xlabel="lambda", ylabel="robust test error (%)", ylim=(0, 105))
    right.legend()
    return figure


ITEMS = (
    Item("mmr-figure2", "linear regions of a toy and of a plane of digits", f"{PAPER}, Figure 2",
         _figure2),
    Item("mmr-figure3", "verification time and robust error over lambda", f"{PAPER}, Figure 3",
         _figure3),
)  # fmt: skip
