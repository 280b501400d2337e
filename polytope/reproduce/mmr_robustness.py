"""MMR, Tables 1, 2 and 5 (arXiv 1810.07481): training schemes beside each other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from polytope.plot import new_figure
from polytope.reproduce.item import Item
from polytope.reproduce.measure import percent
from polytope.reproduce.mmr_bounds import average_bounds, by_mip, robust_errors
from polytope.reproduce.mmr_models import SETTINGS, fitted, shortened, title
from polytope.reproduce.run import Outcome, Run

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PAPER = "MMR, arXiv 1810.07481"
Triple = tuple[float, float, float]
INF = math.inf
#: Table 1: test error, lower and upper bound of the robust test error, in percent.
TABLE1: Mapping[tuple[float, str, str], Mapping[str, Triple]] = {
    (INF, "mnist", "fc1"): {
        "plain": (1.44, 93.0, 100), "at": (0.92, 10.0, 99.0), "KW": (3.19, 10.9, 10.9),
        "MMR": (2.11, 22.5, 24.9), "MMR+at": (2.04, 14.0, 14.1),
    },
    (2.0, "gtsrb", "fc1"): {
        "plain": (12.24, 37.5, 44.7), "at": (13.55, 33.1, 43.2), "KW": (16.84, 16.9, 31.2),
        "MMR": (14.55, 33.2, 34.7), "MMR+at": (13.94, 29.7, 32.1),
    },
    (2.0, "mnist", "fc1"): {
        "plain": (1.73, 9.7, 66.3), "at": (1.15, 2.6, 16.9), "KW": (1.19, 2.4, 5.2),
        "MMR": (2.40, 5.9, 8.8), "MMR+at": (1.77, 3.8, 6.4),
    },
    (2.0, "fashion_mnist", "fc1"): {
        "plain": (9.70, 42.8, 91.8), "at": (9.15, 19.9, 61.4), "KW": (11.24, 17.2, 22.7),
        "MMR": (13.28, 25.0, 28.0), "MMR+at": (12.12, 19.7, 23.4),
    },
    (INF, "fashion_mnist", "fc1"): {
        "plain": (9.49, 100, 100), "at": (11.69, 29.5, 95.5), "KW": (21.31, 32.8, 32.8),
        "MMR": (18.11, 37.6, 42.0), "MMR+at": (15.84, 31.3, 34.8),
    },
    (INF, "gtsrb", "fc1"): {
        "plain": (12.72, 61.0, 77.0), "at": (9.33, 34.5, 48.5), "KW": (13.99, 33.0, 33.0),
        "MMR": (14.29, 39.8, 39.8), "MMR+at": (13.10, 33.1, 35.4),
    },
    (INF, "mnist", "cnn"): {
        "plain": (0.91, 74.0, 100), "at": (0.82, 3.0, 100), "KW": (1.26, 4.4, 4.4),
        "MMR": (1.65, 6.0, 6.0), "MMR+at": (1.19, 3.6, 3.6),
    },
    (INF, "fashion_mnist", "cnn"): {
        "plain": (9.50, 96.0, 100), "at": (11.54, 21.5, 73.0), "KW": (21.73, 32.4, 32.4),
        "MMR": (14.52, 33.2, 33.6), "MMR+at": (14.50, 26.6, 30.7),
    },
    (INF, "gtsrb", "cnn"): {
        "plain": (7.11, 63.0, 99.5), "at": (6.84, 29.5, 81.0), "KW": (15.56, 36.1, 36.6),
        "MMR": (13.31, 49.5, 49.6), "MMR+at": (14.88, 38.3, 38.4),
    },
    (INF, "cifar10", "cnn"): {
        "plain": (24.63, 91.0, 100), "at": (27.04, 52.5, 88.5), "KW": (38.91, 46.6, 48.0),
        "MMR": (34.61, 57.5, 61.0), "MMR+at": (35.38, 47.9, 54.2),
    },
    (2.0, "mnist", "cnn"): {
        "plain": (0.85, 3.1, 100), "at": (0.87, 1.8, 100), "KW": (1.11, 2.2, 6.0),
        "MMR": (2.57, 5.8, 11.6), "MMR+at": (2.12, 4.6, 9.7),
    },
    (2.0, "fashion_mnist", "cnn"): {
        "plain": (9.32, 57.1, 100), "at": (8.10, 20.4, 100), "KW": (13.08, 18.5, 21.7),
        "MMR": (12.85, 25.4, 35.3), "MMR+at": (13.42, 26.2, 39.1),
    },
    (2.0, "gtsrb", "cnn"): {
        "plain": (6.78, 33.3, 99.2), "at": (8.75, 23.8, 98.6), "KW": (14.33, 28.7, 34.7),
        "MMR": (14.22, 36.2, 36.9), "MMR+at": (15.35, 32.1, 33.2),
    },
    (2.0, "cifar10", "cnn"): {
        "plain": (23.31, 47.2, 100), "at": (25.82, 35.8, 100), "KW": (40.24, 43.9, 49.0),
        "MMR": (40.92, 50.6, 57.1), "MMR+at": (37.75, 43.9, 53.3),
    },
}  # fmt: skip
#: Tables 2 and 5: test error, mean lower and upper bounds of the l_2 distance.
TABLE2: Mapping[tuple[str, str], Mapping[str, Triple]] = {
    ("gtsrb", "fc1"): {"MMR": (11.15, 0.69, 0.69), "MMR-dD": (12.09, 0.48, 0.63)},
    ("fashion_mnist", "fc1"): {"MMR": (10.22, 0.50, 0.85), "MMR-dD": (9.83, 0.31, 1.30)},
    ("mnist", "fc1"): {"MMR": (1.51, 0.69, 1.69), "MMR-dD": (0.93, 0.35, 1.69)},
    ("mnist", "fc10"): {"MMR": (1.87, 0.48, 1.48), "MMR-dD": (1.21, 0.20, 1.62)},
    ("gtsrb", "fc10"): {"MMR": (12.82, 0.64, 0.67), "MMR-dD": (12.41, 0.12, 0.48)},
    ("fashion_mnist", "fc10"): {"MMR": (11.73, 0.68, 1.18), "MMR-dD": (10.32, 0.13, 1.15)},
}
TABLE5: Mapping[tuple[str, str], Mapping[str, Triple]] = {
    ("gtsrb", "fc1"): {
        "plain": (12.24, 0.33, 0.57), "at": (13.55, 0.34, 0.66), "KW": (13.06, 0.35, 0.63),
        "MMR": (11.15, 0.69, 0.69), "MMR+at": (11.72, 0.72, 0.72),
    },
    ("mnist", "fc1"): {
        "plain": (1.59, 0.34, 0.98), "at": (1.29, 0.25, 1.23), "KW": (1.37, 0.70, 1.75),
        "MMR": (1.51, 0.69, 1.69), "MMR+at": (1.59, 0.70, 1.70),
    },
    ("fashion_mnist", "fc1"): {
        "plain": (9.61, 0.18, 0.53), "at": (9.89, 0.11, 1.00), "KW": (9.95, 0.46, 1.11),
        "MMR": (10.22, 0.50, 0.85), "MMR+at": (10.94, 0.66, 1.45),
    },
    ("mnist", "fc10"): {
        "plain": (1.81, 0.13, 0.70), "at": (0.93, 0.14, 1.59), "KW": (1.69, 0.75, 1.74),
        "MMR": (1.87, 0.48, 1.48), "MMR+at": (1.35, 0.40, 1.60),
    },
    ("gtsrb", "fc10"): {
        "plain": (11.25, 0.08, 0.48), "at": (13.01, 0.10, 0.56), "KW": (13.56, 0.16, 0.52),
        "MMR": (12.82, 0.64, 0.67), "MMR+at": (13.36, 0.64, 0.66),
    },
    ("fashion_mnist", "fc10"): {
        "plain": (10.53, 0.05, 0.44), "at": (9.89, 0.11, 1.00), "KW": (11.42, 0.47, 1.22),
        "MMR": (11.73, 0.68, 1.18), "MMR+at": (11.39, 0.67, 1.24),
    },
    ("mnist", "cnn"): {
        "plain": (0.97, 0.04, 1.03), "at": (0.86, 0.14, 1.67), "KW": (1.04, 0.32, 1.84),
        "MMR": (1.17, 0.38, 1.70), "MMR+at": (1.14, 0.38, 1.86),
    },
    ("gtsrb", "cnn"): {
        "plain": (6.73, 0.06, 0.43), "at": (8.12, 0.06, 0.53), "KW": (8.44, 0.11, 0.52),
        "MMR": (7.40, 0.09, 0.59), "MMR+at": (10.50, 0.11, 0.62),
    },
    ("fashion_mnist", "cnn"): {
        "plain": (8.86, 0.03, 0.32), "at": (8.77, 0.07, 0.80), "KW": (10.37, 0.17, 0.96),
        "MMR": (10.30, 0.17, 0.88), "MMR+at": (10.48, 0.21, 1.14),
    },
}  # fmt: skip


def _schemes(run: Run, name: str, published: Mapping[str, Triple]) -> list[str]:
    """The schemes of a scale: the dear ones on traffic signs are left to "full"."""
    dear = ("KW", "MMR+at") if name == "gtsrb" else ()
    left_out = run.pick(("at", "MMR+at"), dear, ())
    return [scheme for scheme in published if scheme not in left_out]


def _table1(run: Run) -> Outcome:
    """Bounds of the robust test error; in l_inf also by mixed-integer programs."""
    import pandas as pd

    chosen = list(TABLE1) if run.scale == "full" else list(TABLE1)[: run.pick(1, 2, 0)]
    count, programs, limit = run.pick((10, 1, 5.0), (60, 3, 20.0), (1000, 1000, 120.0))
    rows = []
    used: list[tuple[float, str, str]] = []
    for p, name, kind in chosen:
        data, eps = run.dataset(name), SETTINGS[p][name].eps
        for scheme in _schemes(run, name, TABLE1[p, name, kind]):
            own = fitted(run, name, scheme, p, kind)
            used.append((p, name, scheme))
            total = min(count if p == INF or run.scale != "full" else 10**6, len(data.test))
            found = robust_errors(run, own, data, p, eps, total)
            broken, holds = found["broken"].astype(bool), found["dual"].astype(bool)
            row: dict[str, object] = {
                "norm": f"l_{p:g}", "eps": eps, "data": title(run, name), "network": kind.upper(),
                "training": scheme,
            }  # fmt: skip
            if p == INF:
                mip = by_mip(run, own, data, eps, min(programs, total), limit)
                few = len(mip["broken"])
                broken[:few] |= mip["broken"]
                holds[:few] |= mip["claimed"]
                row["MIP decides"] = f"{int((mip['broken'] | mip['claimed']).sum())} of {few}"
                row["MIP seconds"] = float(mip["seconds"])
            measured = percent(own.error), percent(broken.mean()), percent(1 - holds.mean())
            rows.append(row | _beside(("error %", "lower %", "upper %"),
                                      TABLE1[p, name, kind][scheme], measured))  # fmt: skip
    notes = shortened(run, used)
    if run.scale != "full":
        notes += (
            f"{len(chosen)} of {len(TABLE1)} networks", f"{count} test points",
            f"MIP on {programs} points with {limit:g} s instead of 120 s", *_without(run),
        )  # fmt: skip
    table = pd.DataFrame(rows)
    return Outcome(
        table, _bars(table, "lower %", "upper %", "robust error (%)"), notes, _ordered(table)
    )


def _without(run: Run) -> tuple[str, ...]:
    """What is said about the schemes that are left out."""
    return (run.pick("plain, KW and MMR only", "on GTS without KW's training and MMR+at", ""),)


def _ordered(table: pd.DataFrame) -> tuple[str, ...]:
    """Whether MMR's upper bound is below the plain network's lower bound."""
    found = ["published: the upper bounds of MMR+at are below the lower bounds of plain training"]
    for (norm, data), own in table.groupby(["norm", "data"], sort=False):
        upper = dict(zip(own["training"], own["upper %"], strict=True))
        low = dict(zip(own["training"], own["lower %"], strict=True))
        listed = ", ".join(f"{scheme} {value:g}%" for scheme, value in upper.items())
        found.append(
            f"measured, {norm} {data}: upper bounds {listed}; lower bound of plain "
            f"{low['plain']:g}%"
        )
    return tuple(found)


def _beside(
    names: tuple[str, ...], published: tuple[float, ...], measured: tuple[float, ...]
) -> dict[str, object]:
    """Columns, published and measured in turns."""
    columns: dict[str, object] = {}
    for name, paper, own in zip(names, published, measured, strict=True):
        columns[f"published {name}"], columns[name] = paper, own
    return columns


def _distances(
    run: Run, published: Mapping[tuple[str, str], Mapping[str, Triple]], data_sets: int
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Test errors and mean bounds of the l_2 distance, for Tables 2 and 5."""
    import pandas as pd

    count = run.pick(5, 30, 1000)
    chosen = list(published) if run.scale == "full" else list(published)[:data_sets]
    rows = []
    used: list[tuple[float, str, str]] = []
    for name, kind in chosen:
        data = run.dataset(name)
        for scheme in _schemes(run, name, published[name, kind]):
            own = fitted(run, name, scheme, kind=kind)
            used.append((2.0, name, scheme))
            low, high = average_bounds(run, own, data, min(count, len(data.test)))
            row: dict[str, object] = {
                "data": title(run, name),
                "network": kind.upper(),
                "training": scheme,
            }
            names = ("error %", "mean lower", "mean upper")
            measured = percent(own.error), float(f"{low:.4g}"), float(f"{high:.4g}")
            rows.append(row | _beside(names, published[name, kind][scheme], measured))
    notes = shortened(run, used)
    if run.scale != "full":
        notes += (
            f"{', '.join(title(run, name) for name, _ in chosen)} FC1 only",
            f"{count} test points instead of 1000", "Carlini-Wagner with fewer steps",
        )  # fmt: skip
    return pd.DataFrame(rows), notes


def _table2(run: Run) -> Outcome:
    """MMR beside its part of the decision alone."""
    table, notes = _distances(run, TABLE2, run.pick(1, 2, 6))
    findings = ["published: the lower bounds are always better with the whole regulariser"]
    for data, own in table.groupby("data", sort=False):
        low = own.set_index("training")["mean lower"]
        findings.append(
            f"measured, {data}: lower bound {low['MMR']:.3g} with MMR, {low['MMR-dD']:.3g} with "
            "the decision part alone"
        )
    return Outcome(
        table, _bars(table, "mean lower", "mean upper", "mean l_2 distance"), notes, tuple(findings)
    )


def _table5(run: Run) -> Outcome:
    """All schemes by mean bounds of the l_2 distance."""
    table, notes = _distances(run, TABLE5, 1)
    findings = ["published: adversarial training raises the upper bounds and hardly the lower "
                "ones, MMR raises both"]  # fmt: skip
    for data, own in table.groupby("data", sort=False):
        values = own.set_index("training")
        findings.append(
            f"measured, {data}: " + ", ".join(
                f"{s} {values.loc[s, 'mean lower']:.3g} to {values.loc[s, 'mean upper']:.3g}"
                for s in values.index
            )
        )  # fmt: skip
    notes += _without(run) if run.scale != "full" else ()
    return Outcome(
        table, _bars(table, "mean lower", "mean upper", "mean l_2 distance"), notes, tuple(findings)
    )


def _bars(table: pd.DataFrame, low: str, high: str, label: str) -> Figure:
    """Lower and upper bounds, published and measured."""
    figure = new_figure(max(6.0, 0.6 * len(table) + 2), 3.8)
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    places = np.arange(len(table))
    for shift, prefix, colour in ((-0.15, "published ", "#bab0ac"), (0.15, "", "#4c78a8")):
        lower, upper = table[f"{prefix}{low}"], table[f"{prefix}{high}"]
        axes.vlines(places + shift, lower, upper, color=colour, lw=5, label=prefix or "measured")
        axes.plot(places + shift, lower, "_", color=colour, ms=12)
        axes.plot(places + shift, upper, "_", color=colour, ms=12)
    names = [f"{row['data']}\n{row['training']}" for _, row in table.iterrows()]
    axes.set_xticks(places, names, rotation=30, ha="right", fontsize=7)
    axes.set_ylabel(label)
    axes.legend()
    return figure


ITEMS = (
    Item("mmr-table1", "robust test error: lower and upper bounds, MIP", f"{PAPER}, Table 1",
         _table1),
    Item("mmr-table2", "MMR beside its decision part alone", f"{PAPER}, Table 2", _table2),
    Item("mmr-table5", "mean bounds of the l_2 distance", f"{PAPER}, Table 5", _table5),
)  # fmt: skip
