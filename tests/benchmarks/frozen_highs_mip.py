"""The peer that our default is compared with: a plain HiGHS MIP for dense ReLU networks in l_inf.

What a careful user writes in an afternoon, and frozen: it imports nothing of ours, so that our
own improvements cannot make it faster or slower.  The ball of an attack's radius met with the box
[0, 1]; bounds of all pre-activations by intervals, CROWN and one warm linear program each; the
big-M form of Tjeng, Xiao and Tedrake (ICLR 2019); one program per class that CROWN does not
refute, each with the best value so far as a cut-off; all tolerances and gaps at 1e-9.

    python tests/benchmarks/frozen_highs_mip.py digits_64_32_32_10.npz

prints the CPU seconds of each point of such a file, with its known optimum as the radius.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import highspy
import numpy as np

Array = np.ndarray

#: Of all that HiGHS lets one ask for.
TOLERANCE = 1e-9
#: The radius is widened by this part, so that the attack's own point lies inside.
ROOM = 1e-6
#: Seconds for one program.
TIME_LIMIT = 300.0


def solve(
    weights: Sequence[Array], biases: Sequence[Array], x: Array, label: int, radius: float
) -> tuple[float, float]:
    """The least l_inf distance to another class inside [0, 1], and the CPU seconds it took.

    Parameters
    ----------
    weights, biases : sequences of arrays (out, in) and (out,)
        A ReLU stands between any two layers.
    x : array (d,)
    label : int
        Its class.
    radius : float
        Distance of an adversarial point that an attack found.

    Raises
    ------
    RuntimeError
        If HiGHS neither solves a program nor finds it infeasible.
    """
    begin = time.process_time()
    reach = radius * (1 + ROOM)
    low, high = np.maximum(x - reach, 0.0), np.minimum(x + reach, 1.0)
    bounds = crown_bounds(weights[:-1], biases[:-1], low, high)
    tighten(weights, biases, low, high, bounds)
    best = reach
    for target in range(len(biases[-1])):
        if target == label:
            continue
        lead = weights[-1][label] - weights[-1][target]
        offset = float(biases[-1][label] - biases[-1][target])
        if least(lead, offset, weights[:-1], biases[:-1], bounds, low, high) <= 0:
            best = min(best, nearest(weights, biases, x, low, high, bounds, lead, offset, best))
    return best, time.process_time() - begin


def least(
    row: Array, offset: float, weights: Sequence[Array], biases: Sequence[Array],
    bounds: Sequence[tuple[Array, Array]], low: Array, high: Array,
) -> float:  # fmt: skip
    """CROWN's lower bound of a function of the last ReLUs' outputs."""
    for weight, bias, (lower, upper) in reversed(list(zip(weights, biases, bounds, strict=True))):
        open_ = (lower < 0) & (upper > 0)
        chord = upper / np.where(open_, upper - lower, 1.0)
        on = (lower >= 0).astype(float)
        above = np.where(open_, chord, on)
        below = np.where(open_, (upper > -lower).astype(float), on)
        offset += float(np.minimum(row, 0.0) @ np.where(open_, -chord * lower, 0.0))
        row = np.where(row > 0, row * below, row * above)
        offset += float(row @ bias)
        row = row @ weight
    return offset + float(np.where(row > 0, row * low, row * high).sum())


def crown_bounds(
    weights: Sequence[Array], biases: Sequence[Array], low: Array, high: Array
) -> list[tuple[Array, Array]]:
    """Lower and upper bounds of the pre-activations of each layer."""
    bounds: list[tuple[Array, Array]] = []
    below, above = low, high
    for k, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        plus, minus = np.maximum(weight, 0.0), np.minimum(weight, 0.0)
        lower, upper = plus @ below + minus @ above + bias, plus @ above + minus @ below + bias
        for i in np.flatnonzero((lower < 0) & (upper > 0)):
            rest = (weights[:k], biases[:k], bounds, low, high)
            lower[i] = max(lower[i], least(weight[i], float(bias[i]), *rest))
            upper[i] = min(upper[i], -least(-weight[i], -float(bias[i]), *rest))
        bounds.append((lower, upper))
        below, above = np.maximum(lower, 0.0), np.maximum(upper, 0.0)
    return bounds


def solver() -> highspy.Highs:
    highs = highspy.Highs()
    for option, value in (
        ("output_flag", False), ("primal_feasibility_tolerance", TOLERANCE),
        ("dual_feasibility_tolerance", TOLERANCE), ("mip_feasibility_tolerance", TOLERANCE),
        ("mip_rel_gap", TOLERANCE), ("mip_abs_gap", TOLERANCE), ("time_limit", TIME_LIMIT),
        ("small_matrix_value", 1e-12), ("threads", 1),
    ):  # fmt: skip
        highs.setOptionValue(option, value)
    return highs


def add_column(highs: highspy.Highs, low: float, high: float, whole: bool = False) -> int:
    highs.addCol(0.0, low, high, 0, [], [])
    column = highs.getNumCol() - 1
    if whole:
        highs.changeColIntegrality(column, highspy.HighsVarType.kInteger)
    return column


def add_row(highs: highspy.Highs, low: float, high: float, entries: dict[int, float]) -> None:
    kept = {column: value for column, value in entries.items() if value != 0.0}
    highs.addRow(low, high, len(kept), list(kept), list(kept.values()))


def add_layer(
    highs: highspy.Highs, weight: Array, bias: Array, bounds: tuple[Array, Array],
    inputs: list[int | None], whole: bool,
) -> list[int | None]:  # fmt: skip
    """Columns of the outputs of a layer of ReLUs; None where the output is zero."""
    outputs: list[int | None] = []
    for row, offset, low, high in zip(weight, bias, *bounds, strict=True):
        entries = {c: float(w) for c, w in zip(inputs, row, strict=True) if c is not None}
        if high <= 0:
            outputs.append(None)
            continue
        y = add_column(highs, max(low, 0.0), high)
        outputs.append(y)
        minus = {c: -w for c, w in entries.items()}
        if low >= 0:
            add_row(highs, offset, offset, {y: 1.0, **minus})
            continue
        on = add_column(highs, 0.0, 1.0, whole)
        add_row(highs, offset, highspy.kHighsInf, {y: 1.0, **minus})
        add_row(highs, -highspy.kHighsInf, offset - low, {y: 1.0, **minus, on: -low})
        add_row(highs, -highspy.kHighsInf, 0.0, {y: 1.0, on: -high})
    return outputs


def tighten(
    weights: Sequence[Array], biases: Sequence[Array], low: Array, high: Array,
    bounds: list[tuple[Array, Array]],
) -> None:  # fmt: skip
    """Bounds of open units by linear programs, in place, layer by layer."""
    highs = solver()
    columns: list[int | None] = [add_column(highs, *ends) for ends in zip(low, high, strict=True)]
    for k in range(1, len(bounds)):
        columns = add_layer(highs, weights[k - 1], biases[k - 1], bounds[k - 1], columns, False)
        lower, upper = bounds[k]
        size = highs.getNumCol()
        for i in np.flatnonzero((lower < 0) & (upper > 0)):
            cost = np.zeros(size)
            for column, value in zip(columns, weights[k][i], strict=True):
                if column is not None:
                    cost[column] = value
            for sign in (1.0, -1.0):
                highs.changeColsCost(size, np.arange(size, dtype=np.int32), sign * cost)
                highs.run()
                if highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
                    continue
                value = highs.getObjectiveValue() - TOLERANCE
                if sign > 0:
                    lower[i] = max(lower[i], value + biases[k][i])
                else:
                    upper[i] = min(upper[i], biases[k][i] - value)


def nearest(
    weights: Sequence[Array], biases: Sequence[Array], x: Array, low: Array, high: Array,
    bounds: Sequence[tuple[Array, Array]], lead: Array, offset: float, cutoff: float,
) -> float:  # fmt: skip
    """The least distance at which the lead is not positive; inf where it is above the cut-off."""
    highs = solver()
    columns: list[int | None] = [add_column(highs, *ends) for ends in zip(low, high, strict=True)]
    t = add_column(highs, 0.0, cutoff)
    for column, value in enumerate(x.tolist()):
        add_row(highs, -highspy.kHighsInf, value, {column: 1.0, t: -1.0})
        add_row(highs, value, highspy.kHighsInf, {column: 1.0, t: 1.0})
    for weight, bias, bound in zip(weights[:-1], biases[:-1], bounds, strict=True):
        columns = add_layer(highs, weight, bias, bound, columns, True)
    entries = {c: float(w) for c, w in zip(columns, lead, strict=True) if c is not None}
    add_row(highs, -highspy.kHighsInf, -offset, entries)
    highs.changeColCost(t, 1.0)
    highs.run()
    status = highs.getModelStatus()
    if status == highspy.HighsModelStatus.kInfeasible:
        return float("inf")
    if status != highspy.HighsModelStatus.kOptimal:
        raise RuntimeError(f"HiGHS: {highs.modelStatusToString(status)}")
    return float(highs.getObjectiveValue())


if __name__ == "__main__":
    with np.load(sys.argv[1]) as file:
        layers = range(sum(name.startswith("W") for name in file))
        matrices = [file[f"W{k}"].astype(float) for k in layers]
        vectors = [file[f"b{k}"].astype(float) for k in layers]
        rows = zip(file["points"].astype(float), file["labels"], file["linf_optimum"], strict=True)
        spent = []
        for point, own, known in rows:
            value, seconds = solve(matrices, vectors, point, int(own), float(known))
            spent.append(seconds)
            print(f"{own}: {seconds:6.2f} s, {value / known - 1:+.1e} of the known optimum")
        print(f"{sum(spent):.1f} s, the slowest {max(spent):.1f} s")
