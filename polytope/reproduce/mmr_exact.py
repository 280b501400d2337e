"""MMR, Tables 3 and 4, Figure 4 (arXiv 1810.07481): what linear regions prove exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from polytope.plot import new_figure
from polytope.reproduce.item import Item
from polytope.reproduce.measure import percent
from polytope.reproduce.mmr_bounds import (
    REGIONS,
    by_regions,
    carlini_wagner,
    dual,
    proved,
)
from polytope.reproduce.mmr_models import SETTINGS, fitted, shortened, title
from polytope.reproduce.run import Outcome, Run

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PAPER = "MMR, arXiv 1810.07481"
#: Table 3: test error and guaranteed optimal points (in percent) with MMR and plain, and how much
#: larger the optimum is than KW's lower bound (None where the paper has none).
TABLE3: dict[tuple[str, str], tuple[float, float, float | None, float, float]] = {
    ("mnist", "fc1"): (1.51, 0.20, 14.11, 1.59, 0.02),
    ("mnist", "fc10"): (1.87, 0.06, None, 1.81, 0.02),
    ("mnist", "cnn"): (1.17, 0.00, None, 0.97, 0.00),
    ("gtsrb", "fc1"): (11.15, 99.97, 0.59, 12.27, 1.12),
    ("gtsrb", "fc10"): (12.82, 94.86, 0.66, 11.28, 0.14),
    ("gtsrb", "cnn"): (7.40, 0.00, None, 6.73, 0.00),
    ("fashion_mnist", "fc1"): (10.22, 11.22, 6.53, 9.61, 0.37),
    ("fashion_mnist", "fc10"): (11.73, 9.90, 7.27, 10.53, 0.04),
    ("fashion_mnist", "cnn"): (10.30, 0.09, None, 8.86, 0.00),
}
#: Table 4: mean lower bounds by KW, by Theorem 3.1, and with neighbouring regions.
TABLE4: dict[tuple[str, str, str], tuple[float, float, float]] = {
    ("mnist", "fc1", "MMR"): (0.69, 0.22, 0.29),
    ("mnist", "fc1", "MMR+at"): (0.70, 0.25, 0.33),
    ("mnist", "fc10", "MMR"): (0.48, 0.31, 0.33),
    ("mnist", "fc10", "MMR+at"): (0.40, 0.21, 0.26),
    ("gtsrb", "fc1", "MMR"): (0.69, 0.69, 0.69),
    ("gtsrb", "fc1", "MMR+at"): (0.72, 0.72, 0.72),
    ("gtsrb", "fc10", "MMR"): (0.64, 0.63, 0.63),
    ("gtsrb", "fc10", "MMR+at"): (0.64, 0.63, 0.63),
    ("fashion_mnist", "fc1", "MMR"): (0.50, 0.30, 0.41),
    ("fashion_mnist", "fc1", "MMR+at"): (0.66, 0.33, 0.42),
    ("fashion_mnist", "fc10", "MMR"): (0.68, 0.56, 0.64),
    ("fashion_mnist", "fc10", "MMR+at"): (0.67, 0.53, 0.60),
}
#: Figure 4: of 12,596 points, how many percent have a Carlini-Wagner distance at least 10 and 20
#: percent above the optimum.
FIGURE4 = {10: 18.5, 20: 9.1}
#: Test points of Table 3 at the scale "small".
POINTS = {"gtsrb": 3002, "fashion_mnist": 10_000}
#: Values of lambda of the curve on F-MNIST.
LAMBDAS = {"smoke": (0.5, 5.0), "small": (2.0, 10.0, 30.0), "full": (1.0, 3.0, 10.0, 30.0, 100.0)}


def _table3(run: Run) -> Outcome:
    """Points with a proved optimum, with MMR and plain; F-MNIST over lambda."""
    import pandas as pd

    checked, bounded = run.pick((10, 5), (100, 20), (1000, 1000))
    chosen = [("gtsrb", "fc1"), ("fashion_mnist", "fc1")]
    pairs = list(TABLE3) if run.scale == "full" else chosen[: run.pick(1, 2, 0)]
    rows: list[dict[str, object]] = []
    used: list[tuple[float, str, str]] = []
    for name, kind in pairs:
        data, paper = run.dataset(name), TABLE3[name, kind]
        weights: tuple[float | None, ...] = (None,)
        if (name, kind) == ("fashion_mnist", "fc1"):
            weights = LAMBDAS[run.scale]
        trainings: list[tuple[str, float | None, int | None]] = [("plain", None, None)]
        if run.scale == "small" and name == "fashion_mnist":
            trainings.append(("plain", None, 100))  # the paper's epochs, which are cheap here
        trainings += [("MMR", w, None) for w in weights]
        for scheme, weight, epochs in trainings:
            own = fitted(run, name, scheme, kind=kind, weight=weight, epochs=epochs)
            total = min(run.pick(20, POINTS[name], 10_000), len(data.test))
            found = by_regions(run, own, data, total)
            theorem = proved(run, own, data, min(checked, total))
            radii = dual(run, own, data, min(bounded, total))["radius"]
            optimal = found["decision"] <= found["boundary"]
            own_lambda = SETTINGS[2.0][name].lambda_at(run.scale) if weight is None else weight
            used.append((2.0, name, scheme))
            plain = scheme == "plain"
            published = (paper[3], paper[4], None) if plain else (paper[0], paper[1], paper[2])
            same = plain or weight in (None, SETTINGS[2.0][name].weight)
            exact = theorem["exact"][: len(radii)] & (radii > 0)
            gap = theorem["lower"][: len(radii)][exact] / radii[exact] - 1
            rows.append({
                "data": title(run, name), "network": kind.upper(),
                "training": scheme if epochs is None else f"{scheme}, {epochs} epochs",
                "lambda": 0.0 if plain else own_lambda,
                "published error %": published[0] if same else None,
                "error %": percent(own.error),
                "published optimal %": published[1] if same else None,
                "optimal %": percent(optimal.mean()), "points": total,
                "proved %": percent(theorem["exact"].mean()), "checked": len(theorem["exact"]),
                "published opt vs LB %": published[2] if same else None,
                "opt vs LB %": percent(gap.mean()) if len(gap) else None,
                "training s": round(own.seconds),
            })  # fmt: skip
    table = pd.DataFrame(rows)
    notes = shortened(run, used)
    if run.scale != "full":
        notes += (
            "optimal: d_D <= d_B on the first test points (columns points, checked), proved: "
            f"Theorem 3.1 with all rounding taken off; KW's bound, which knows the box here, on "
            f"{bounded}", "FC1 alone",
            "MMR's settings on GTS were chosen on the first 300 test points",
        )  # fmt: skip
    return Outcome(table, _shares(table), notes, _table3_findings(table))


def _table3_findings(table: pd.DataFrame) -> tuple[str, ...]:
    """Sentences: plain and MMR beside each other."""
    findings = []
    for (name, kind), own in table.groupby(["data", "network"], sort=False):
        plain, rest = own[own["training"] == "plain"].iloc[0], own[own["training"] != "plain"]
        for _, row in rest.iterrows():
            findings.append(
                f"measured, {name} {kind}, {row['training']}, lambda {row['lambda']:g}: optimal "
                f"for {row['optimal %']:g}% of the points (plain {plain['optimal %']:g}%), test "
                f"error {row['error %']:g}% (plain {plain['error %']:g}%)"
            )
    return tuple(findings)


def _shares(table: pd.DataFrame) -> Figure:
    """Share of proved optima against the test error."""
    figure = new_figure(6, 3.6)
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    shown = table[table["training"].isin(["plain", "MMR"])]
    for (name, kind), own in shown.groupby(["data", "network"], sort=False):
        axes.plot(own["error %"], own["optimal %"], "o-", label=f"{name} {kind}")
        for _, row in own.iterrows():
            axes.annotate(f"{row['lambda']:g}", (row["error %"], row["optimal %"]),
                          textcoords="offset points", xytext=(4, 4), fontsize=8)  # fmt: skip
    axes.set(xlabel="test error (%)", ylabel="points with a guaranteed optimum (%)",
             title="by lambda (0 is plain)")  # fmt: skip
    axes.legend()
    return figure


def _table4(run: Run) -> Outcome:
    """Lower bounds by KW, one region, and several regions."""
    import pandas as pd

    count = run.pick(8, 30, 1000)
    chosen = [("gtsrb", "fc1", "MMR"), ("fashion_mnist", "fc1", "MMR")]
    triples = list(TABLE4) if run.scale == "full" else chosen[: run.pick(1, 2, 0)]
    rows = []
    for name, kind, scheme in triples:
        data = run.dataset(name)
        own = fitted(run, name, scheme, kind=kind)
        means = (
            dual(run, own, data, count)["radius"].mean(),
            proved(run, own, data, count)["lower"].mean(),
            proved(run, own, data, count, REGIONS)["lower"].mean(),
        )
        row: dict[str, object] = {
            "data": title(run, name), "network": kind.upper(), "training": scheme,
            "error %": percent(own.error),
        }  # fmt: skip
        for bound, paper, found in zip(
            ("KW", "Theorem 3.1", "improved"), TABLE4[name, kind, scheme], means, strict=True
        ):
            row[f"published {bound}"], row[bound] = paper, float(found)
        rows.append(row)
    table = pd.DataFrame(rows)
    better = bool((table["improved"] >= table["Theorem 3.1"]).all())
    notes = shortened(run, [(2.0, name, scheme) for name, _, scheme in triples])
    if run.scale != "full":
        notes += (f"{count} test points instead of 1000",)
    figure = new_figure(6, 3.4)
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    names = [f"{r['data']} {r['network']} {r['training']}" for r in rows]
    for shift, bound in enumerate(("KW", "Theorem 3.1", "improved")):
        axes.bar(np.arange(len(rows)) + 0.27 * shift, table[bound], 0.25, label=bound)
    axes.set_xticks(np.arange(len(rows)) + 0.27, names, rotation=20, ha="right", fontsize=8)
    axes.set_ylabel("mean lower bound, l_2")
    axes.legend()
    return Outcome(
        table, figure, notes,
        ("published: neighbouring regions improve on Theorem 3.1, KW is above both",
         f"measured: neighbouring regions are {'at least as good' if better else 'NOT as good'} "
         "everywhere, by "
         + ", ".join(f"{a / b - 1:.1%}" for a, b in zip(table["improved"], table["Theorem 3.1"],
                                                         strict=True))),
    )  # fmt: skip


def _figure4(run: Run) -> Outcome:
    """How far Carlini and Wagner's attack is above the optimum."""
    import pandas as pd

    data = run.dataset("gtsrb")
    own = fitted(run, "gtsrb", "MMR")
    count = min(run.pick(10, 200, 12_630), len(data.test))
    found = by_regions(run, own, data, count)
    attack = carlini_wagner(run, own, data, count)
    # Only points that the theorem settles, and that are not on the decision boundary itself.
    settled = (found["decision"] <= found["boundary"]) & (found["decision"] > 0)
    ratio = np.sort(attack["distance"][settled] / found["decision"][settled])[::-1]
    rows = [
        {"Carlini-Wagner above the optimum by": f"{least}%", "published % of points": paper,
         "% of points": percent((ratio >= 1 + least / 100).mean()) if len(ratio) else None,
         "points": len(ratio)}
        for least, paper in FIGURE4.items()
    ]  # fmt: skip
    figure = new_figure(6, 3.4)
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    axes.plot(np.arange(len(ratio)), ratio, color="#4c78a8")
    axes.set(xlabel="points, in descending order", ylabel="distance found / optimum")
    notes = shortened(run, [(2.0, "gtsrb", "MMR")])
    if run.scale != "full":
        notes += (
            f"the first {count} test points instead of 12,630",
            "Carlini-Wagner with fewer steps than 20 x 10,000",
        )
    failed = int(np.isinf(ratio).sum())
    largest = ratio[np.isfinite(ratio)].max(initial=1.0)
    return Outcome(
        pd.DataFrame(rows), figure, notes,
        ("published: the largest excess is 235%; 16,327 s of attack, 1,701 s for the optima",
         f"measured: the largest excess is {largest - 1:.0%}, the attack finds nothing on "
         f"{failed} of {len(ratio)} points; {float(attack['seconds']):.0f} s of attack, "
         f"{float(found['seconds']):.0f} s for the optima"),
    )  # fmt: skip


ITEMS = (
    Item("mmr-table3", "points with a guaranteed optimal solution", f"{PAPER}, Table 3", _table3),
    Item("mmr-table4", "lower bounds by KW, one region, its neighbours", f"{PAPER}, Table 4",
         _table4),
    Item("mmr-figure4", "Carlini-Wagner over the optimum", f"{PAPER}, Figure 4", _figure4),
)  # fmt: skip
