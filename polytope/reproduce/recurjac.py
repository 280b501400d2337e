"""RecurJac, Figures 1 to 3 (arXiv 1810.11783, section 4): Lipschitz constants, landscapes.

The paper prints curves without numbers, and its models are not available: what can be compared
is what it says about the curves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from polytope.model import Network
from polytope.plot import new_figure
from polytope.reproduce.item import Item
from polytope.reproduce.measure import percent, points
from polytope.reproduce.run import Fitted, Outcome, Run
from polytope.sensitivity.lipschitz import LipschitzMethod, lipschitz
from polytope.sensitivity.stationary import stationary_radius
from polytope.sets import Ball
from polytope.training.networks import Activation, fully_connected
from polytope.training.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

#: Slope of the leaky ReLUs.
SLOPE = 0.3
#: The digit whose logit's landscape is measured.
ONE = 1
STYLE = {
    "norm-product": ("grey", ":"), "fastlip": ("#d6a05c", "-"), "recurjac": ("#4c78a8", "-"),
    "recurjac-f1": ("#72b7b2", "-."), "sampled": ("black", "--"),
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """One of the paper's networks."""

    data: str
    widths: tuple[int, ...]
    activation: Activation


PYRAMID = Shape("mnist", (1024, 512, 256, 128, 64, 32), "relu")
LEAKY = Shape("mnist", (20,) * 10, "leaky_relu")
TANH = Shape("mnist", (50,) * 5, "tanh")
CIFAR = Shape("cifar10", (2048, 2048, 1024, 1024, 512, 512, 256, 256, 128), "leaky_relu")


def _trained(run: Run, name: str, shape: Shape, seed: int) -> Fitted:
    """A network after some epochs of Adam."""
    data = run.dataset(shape.data)
    torch.manual_seed(seed)
    model = fully_connected(
        data.shape, shape.widths, data.classes, activation=shape.activation, slope=SLOPE
    )
    recipe = Recipe(run.pick(6, 2, 20), rate=2e-3, seed=seed)
    return run.fit(f"{run.item} {name}", model, data, recipe)


def _lipschitz(run: Run, shapes: Mapping[str, Shape], shortened: tuple[str, ...]) -> Outcome:
    """Local Lipschitz constants against the radius."""
    import pandas as pd

    radii = np.geomspace(1e-3, 1, run.pick(4, 13, 25)).tolist()
    names: tuple[LipschitzMethod, ...] = ("norm-product", "fastlip", "recurjac")
    if run.scale != "smoke" and max(max(s.widths) for s in shapes.values()) <= 50:
        names += ("recurjac-f1",)
    rows: list[dict[str, object]] = []
    curves: dict[str, dict[str, np.ndarray]] = {}
    for name, shape in shapes.items():
        fitted = _trained(run, name, shape, 0)
        accuracy = percent(1 - fitted.error)
        center = points(run.dataset(shape.data).test, slice(1))[0]
        balls = [Ball(center, r, math.inf) for r in radii]
        curves[name] = {}
        for method in names:
            settings = {"network": fitted.key, "radii": radii, "method": method}

            found = run.step(
                f"{name} {method}", settings, partial(_bounds, fitted.net, balls, method)
            )
            curves[name][method] = found["upper"]
            curves[name]["sampled"] = np.maximum(curves[name].get("sampled", 0.0), found["lower"])
            rows += [
                {"network": name, "accuracy %": accuracy, "radius": r, "method": method,
                 "published": "curve only", "constant": upper}
                for r, upper in zip(radii, found["upper"].tolist(), strict=True)
            ]  # fmt: skip
        rows += [
            {"network": name, "accuracy %": accuracy, "radius": r, "method": "sampled",
             "published": "curve only", "constant": v}
            for r, v in zip(radii, curves[name]["sampled"].tolist(), strict=True)
        ]  # fmt: skip
    table = pd.DataFrame(rows).pivot_table(
        index=["network", "accuracy %", "radius"], columns="method", values="constant"
    )
    findings = [_gain(name, own, radii) for name, own in curves.items()]
    return Outcome(
        table.reset_index(), _curves(curves, radii), shortened + _epochs(run),
        ("published: RecurJac is up to two orders of magnitude below Fast-Lip in small balls, and "
         "both are orders of magnitude below the product of norms", *findings),
    )  # fmt: skip


def _bounds(net: Network, balls: list[Ball], method: LipschitzMethod) -> dict[str, list[float]]:
    """Proved and sampled constants over some balls."""
    found = lipschitz(net, balls, math.inf, math.inf, method)
    return {"upper": [own.upper for own in found], "lower": [own.lower for own in found]}


def _gain(name: str, own: Mapping[str, np.ndarray], radii: list[float]) -> str:
    """How far RecurJac is below the others."""
    ratio = own["fastlip"] / own["recurjac"]
    best = int(np.argmax(ratio))
    naive = float(np.min(own["norm-product"] / own["recurjac"]))
    return (
        f"measured, {name}: RecurJac at most {ratio[best]:.3g} times below Fast-Lip (radius "
        f"{radii[best]:.3g}), at least {naive:.3g} times below the product of norms, at most "
        f"{float(np.max(own['recurjac'] / own['sampled'])):.3g} times the sampled maximum"
    )


def _curves(curves: Mapping[str, Mapping[str, np.ndarray]], radii: list[float]) -> Figure:
    """One panel for each network."""
    figure = new_figure(max(5.0, 4.2 * len(curves)), 3.7)
    figure.set_layout_engine("constrained")
    for axes, (name, own) in zip(
        figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True
    ):
        for method, values in own.items():
            colour, line = STYLE[method]
            axes.loglog(radii, values, color=colour, ls=line, label=method)
        axes.set(title=name, xlabel="radius of the l_inf ball", ylabel="Lipschitz constant, l_inf")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center",
                  ncols=2 * len(curves) + 1)  # fmt: skip
    return figure


def _epochs(run: Run) -> tuple[str, ...]:
    """What the scale says about training and data."""
    if run.scale == "smoke":
        return ("8 x 8 digits instead of the paper's images",)
    return () if run.scale == "full" else ("2 epochs of training",)


def _figure1(run: Run) -> Outcome:
    """The ReLU pyramid."""
    shape = Shape("mnist", (64, 32, 32, 16), "relu") if run.scale == "smoke" else PYRAMID
    name = "-".join(map(str, shape.widths))
    return _lipschitz(run, {name: shape}, ())


def _figure3(run: Run) -> Outcome:
    """Deep leaky ReLUs, tanhs, and the network for CIFAR-10."""
    shapes = {"10 x 20 leaky": LEAKY, "5 x 50 tanh": TANH}
    if run.scale == "full":
        return _lipschitz(run, {**shapes, "CIFAR-10": CIFAR}, ())
    return _lipschitz(run, shapes, ("without the CIFAR-10 network of ten layers",))


def _figure2(run: Run) -> Outcome:
    """The radius without stationary points against the depth."""
    import pandas as pd

    data = run.dataset("mnist")
    depths = run.pick(range(2, 5), range(2, 11), range(2, 11))
    fitted = {}
    for depth in depths:
        shape = Shape("mnist", (20,) * (depth - 1), "leaky_relu")
        fitted[depth] = _trained(run, f"depth {depth}", shape, depth)
    nets = [own.net for own in fitted.values()]
    ones = points(data.test)[data.test.y == ONE]
    right = np.all([net.predict(ones) == ONE for net in nets], axis=0)
    ones = ones[right][: run.pick(5, 100, 500)]
    rows = []
    for depth, own in fitted.items():
        row: dict[str, object] = {"layers": depth, "accuracy %": percent(1 - own.error)}
        for p, name in ((math.inf, "l_inf"), (2.0, "l_2")):
            settings = {"network": own.key, "points": len(ones), "norm": name}
            found = run.step(
                f"depth {depth} {name}", settings,
                lambda net=own.net, p=p: {  # type: ignore[misc]
                    "radius": stationary_radius(net, ones, np.full(len(ones), ONE), p).radius
                },
            )  # fmt: skip
            # An image's distance to any other: beyond it no ball grows within the images.
            whole = 1.0 if p == math.inf else math.sqrt(ones.shape[1])
            row[f"{name} mean"] = np.minimum(found["radius"], whole).mean()
            row[f"{name} nowhere %"] = percent(np.isinf(found["radius"]).mean())
        rows.append(row)
    table = pd.DataFrame(rows)
    table.insert(2, "published", ["none anywhere" if d == 2 else "falls" for d in depths])
    shortened = (*_epochs(run), f"{len(ones)} images of a 1 instead of 500") if (
        run.scale != "full"
    ) else ()  # fmt: skip
    means = table["l_inf mean"].to_numpy()
    finding = (
        f"measured: {table['l_inf nowhere %'][0]:g}% of the images have no stationary point "
        f"anywhere with 2 layers; the mean l_inf radius falls from {means[1]:.3g} (3 layers) to "
        f"{means[-1]:.3g} ({depths[-1]} layers)"
    )
    return Outcome(
        table, _landscape(table), shortened,
        ("published: with 2 layers no stationary point in the whole domain; for deeper networks "
         "the radius becomes smaller with the depth; accuracy over 96%", finding),
    )  # fmt: skip


def _landscape(table: pd.DataFrame) -> Figure:
    """Mean radii against the depth."""
    figure = new_figure(6, 3.2)
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    for name, colour in (("l_inf", "#4c78a8"), ("l_2", "#d6a05c")):
        axes.semilogy(table["layers"], table[f"{name} mean"], "o-", color=colour, label=name)
    axes.set(xlabel="layers", ylabel="mean radius without stationary point")
    axes.legend()
    return figure


ITEMS = (
    Item("recurjac-figure1", "local Lipschitz constants against the radius, ReLU pyramid",
         "RecurJac, arXiv 1810.11783, Figure 1", _figure1),
    Item("recurjac-figure2", "radius without stationary points against the depth",
         "RecurJac, arXiv 1810.11783, Figure 2", _figure2),
    Item("recurjac-figure3", "local Lipschitz constants, deep leaky ReLU and tanh networks",
         "RecurJac, arXiv 1810.11783, Figure 3", _figure3),
)  # fmt: skip
