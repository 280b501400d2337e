"""ROLL, Figure 1 (arXiv 1907.03207, appendix F): linear regions of a toy in two dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from polytope.distances import boundary_distance
from polytope.enumeration import region_graph
from polytope.examples import Examples
from polytope.named_datasets import Dataset
from polytope.region_plot import plot_regions
from polytope.reproduce.item import Item
from polytope.reproduce.measure import percent, points
from polytope.reproduce.run import Fitted, Outcome, Run
from polytope.sets import Box
from polytope.training.loop import Loss
from polytope.training.networks import fully_connected
from polytope.training.recipe import Recipe
from polytope.training.roll import ROLL, RegionMargin

#: The paper's C and lambda.
C, WEIGHT = 5.0, 1.0
#: The square that is drawn.
SIDE = 1.5
#: Points of each class: an inner and an outer ring.
RINGS = {1: (6, 0.45), 0: (10, 1.1)}


def _figure1(run: Run) -> Outcome:
    """The vanilla loss, the distance regularisation (Eq. 4) and the relaxed one (Eq. 7)."""
    import pandas as pd

    data = _rings()
    width = run.pick(12, 100, 100)
    graphs, rows = {}, []
    for name in ("vanilla", "distance, Eq. 4", "relaxed, Eq. 7"):
        torch.manual_seed(0)
        model = fully_connected(data.shape, (width,) * 4, 1)
        losses: Sequence[Loss] = {
            "vanilla": (),
            "distance, Eq. 4": (RegionMargin(model, data.shape, weight=WEIGHT),),
            "relaxed, Eq. 7": (ROLL(model, data.shape, C=C, gamma="max", weight=WEIGHT),),
        }[name]
        recipe = Recipe(run.pick(100, 1500, 5000), batch=len(data.train))
        own = run.fit(f"{run.item} {name}", model, data, recipe, losses)
        found = run.step(f"{name} regions", {"network": own.key}, partial(_measured, own, data))
        graphs[name] = region_graph(own.net, _square())
        rows.append({
            "loss": name, "published": "picture only", "error %": percent(own.error),
            "regions in the square": int(found["regions"]),
            "median l_2 margin": float(np.median(found["margins"])),
            "least l_2 margin": float(found["margins"].min()),
        })  # fmt: skip
    table = pd.DataFrame(rows)
    figure = plot_regions(graphs, points(data.train), labels=data.train.y, circles=True,
                          arrows=True)  # fmt: skip
    notes: tuple[str, ...] = ("the paper does not give its points: two rings of 6 and 10",)
    if run.scale != "full":
        notes += (f"{run.pick(100, 1500, 5000)} epochs instead of 5000",)
    if width != 100:
        notes += (f"4 x {width} units instead of 4 x 100",)
    base = table["median l_2 margin"][0]
    return Outcome(
        table, figure, notes,
        ("published: both enlarge the regions around the points, the relaxed one in the whole "
         "space, with a region of zero gradient in the middle",
         f"measured: vanilla {rows[0]['regions in the square']} regions; " + ", ".join(
             f"{r['loss']} {r['regions in the square']}, median margins "
             f"{r['median l_2 margin'] / base:.3g} times vanilla" for r in rows[1:])),
    )  # fmt: skip


def _rings() -> Dataset:
    """Two rings of points, one around the other."""
    places, labels = [], []
    for label, (count, radius) in RINGS.items():
        angles = 2 * np.pi * (np.arange(count) + 0.3) / count
        places.append(radius * np.stack([np.cos(angles), np.sin(angles)], axis=1))
        labels += [label] * count
    examples = Examples(np.concatenate(places).astype(np.float32), np.array(labels))
    return Dataset("rings", examples, examples, 2)


def _square() -> Box:
    """What is drawn."""
    return Box(np.full(2, -SIDE), np.full(2, SIDE))


def _measured(own: Fitted, data: Dataset) -> dict[str, object]:
    """Margins of the points, and the number of regions."""
    margins = boundary_distance(own.net, points(data.train), 2).distance
    return {"margins": margins, "regions": len(region_graph(own.net, _square()))}


ITEMS = (
    Item("roll-figure1", "linear regions of a toy, three losses",
         "ROLL, arXiv 1907.03207, Figure 1", _figure1),
)  # fmt: skip
