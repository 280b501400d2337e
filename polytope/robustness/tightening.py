"""The encoding of a network in a ball, with bounds as tight as asked for.

CROWN's bounds cost a few milliseconds and are proved.  Each bound by a linear program over the
encoding of the layers before costs about one, and fewer units stay open; by a mixed-integer
program it costs a search, and is the solver's word.  What a layer has gained is handed to CROWN
for the layers behind it.
"""

from __future__ import annotations

import time
from typing import Literal

import numpy as np
import torch

from polytope.bounds.inputs import InputSet
from polytope.bounds.layers import LayerBounds, layer_bounds
from polytope.network.ir import Max
from polytope.robustness.encoding import Encoder, Forms, LayerPieces
from polytope.robustness.query import Query
from solvers.check import safe_dual_bound
from solvers.problem import MixedIntegerProgram
from solvers.session import Session
from solvers.solve import solve

Tighten = Literal["crown", "lp", "mip"]

#: Bounds by programs are widened by this much of the size of their terms: the programs'
#: coefficients are rounded, by a hundredth of it.
WIDENED = 1e-12
#: Seconds that one bound by a mixed-integer program may take; what it has claimed by then holds.
SEARCH = 1.0


def encoded(
    query: Query, bounds: LayerBounds, radius: float, tighten: Tighten, deadline: float
) -> Encoder:
    """Encode a network in a ball, its bounds tightened layer by layer.

    Parameters
    ----------
    query : Query
    bounds : LayerBounds
        CROWN's, of one set: the ball met with the box.
    radius : float
        Finite; that of the ball, or with no ball one that the whole box is within.
    tighten : "crown", "lp" or "mip"
    deadline : float
        Of `time.perf_counter`; beyond it the bounds stay as they are.
    """
    return tightened(query, bounds, radius, tighten, deadline)[0]


def tightened(
    query: Query, bounds: LayerBounds, radius: float, tighten: Tighten, deadline: float
) -> tuple[Encoder, LayerBounds]:
    """The same, and the bounds that were reached."""
    net = query.net
    low, high = query.steps(radius)
    encoder = Encoder(net, query.x, low, high, query.p, radius)
    sizes = [len(side[0]) for side in bounds.lower]
    for number in range(len(net.layers)):
        # The first layer reads a linear function of the input, whose bounds are exact.
        if tighten != "crown" and number > 0:
            known = _known(bounds, number)
            found = _by_programs(encoder, bounds, number, known, tighten, deadline)
            if found is not None:
                bounds = _again(query, bounds, number, found, sizes)
        encoder.add(number, _known(bounds, number))
    return encoder, bounds


def tightened_outputs(
    encoder: Encoder, low: np.ndarray, high: np.ndarray, deadline: float
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the outputs by linear programs over a whole encoding, met with known ones."""
    low, high = low.copy(), high.copy()
    forms = encoder.reads(len(encoder.net.layers))
    _linear(encoder, forms, np.arange(len(low)), low, high, deadline)
    return low, high


def _known(bounds: LayerBounds, number: int) -> LayerPieces:
    """The bounds of one layer."""
    return LayerPieces(
        bounds.lower[number][0].numpy(), bounds.upper[number][0].numpy(),
        bounds.pieces[number][0].numpy(),
    )  # fmt: skip


def _again(
    query: Query, bounds: LayerBounds, number: int, found: tuple[np.ndarray, np.ndarray],
    sizes: list[int],
) -> LayerBounds:  # fmt: skip
    """CROWN once more, with what a layer has gained."""
    lower, upper = list(bounds.lower), list(bounds.upper)
    lower[number], upper[number] = (torch.as_tensor(side)[None] for side in found)
    for k in range(number + 1, len(sizes)):
        lower[k] = torch.full((1, sizes[k]), -torch.inf, dtype=torch.float64)
        upper[k] = torch.full((1, sizes[k]), torch.inf, dtype=torch.float64)
    inputs: InputSet = bounds.inputs
    with torch.no_grad():
        return layer_bounds(query.net, inputs, known=(lower, upper))


def _by_programs(
    encoder: Encoder, bounds: LayerBounds, number: int, known: LayerPieces, tighten: Tighten,
    deadline: float,
) -> tuple[np.ndarray, np.ndarray] | None:  # fmt: skip
    """Bounds of what a layer reads; None where no unit is open."""
    layer = bounds.net.layers[number]
    open_ = np.flatnonzero(known.pieces.sum(axis=1) > 1)
    if layer.is_max:
        op = bounds.net.graph.nodes[layer.node].op
        assert isinstance(op, Max)
        read = bounds.net.graph.constants[op.index][open_][known.pieces[open_]]
        open_ = np.unique(read)
    if not len(open_):
        return None
    low, high = known.low.copy(), known.high.copy()
    forms = encoder.reads(number)
    _linear(encoder, forms, open_, low, high, deadline)
    if tighten == "mip":
        _searched(encoder, forms, open_, low, high, deadline)
    return low, high


def _linear(
    encoder: Encoder, forms: Forms, which: np.ndarray, low: np.ndarray, high: np.ndarray,
    deadline: float,
) -> None:  # fmt: skip
    """Tighten bounds in place by linear programs: sound whatever the solver returns."""
    problem = encoder.relaxation()
    with Session(problem, "highs") as session:
        for value in which.tolist():
            row, constant = forms.matrix[[value]].toarray()[0], float(forms.constant[value])
            slack = WIDENED * (np.abs(row).sum() + abs(constant))
            for sign in (1.0, -1.0):
                left = deadline - time.perf_counter()
                if left <= 0:
                    return
                session.change_objective(sign * row)
                found = session.solve(left)
                if found.duals is None:
                    continue
                bound = safe_dual_bound(session.problem, found.duals.rows) - slack
                if sign > 0:
                    low[value] = max(low[value], bound + constant)
                else:
                    high[value] = min(high[value], constant - bound)


def _searched(
    encoder: Encoder, forms: Forms, which: np.ndarray, low: np.ndarray, high: np.ndarray,
    deadline: float,
) -> None:  # fmt: skip
    """Tighten bounds in place by mixed-integer programs: the solver's word."""
    plain, whole = encoder.relaxation(), encoder.whole
    for value in which.tolist():
        row, constant = forms.matrix[[value]].toarray()[0], float(forms.constant[value])
        for sign in (1.0, -1.0):
            left = min(SEARCH, deadline - time.perf_counter())
            if left <= 0:
                return
            problem = MixedIntegerProgram(
                sign * row, whole, plain.A, plain.row_lower, plain.row_upper, plain.lower,
                plain.upper,
            )  # fmt: skip
            bound = solve(problem, "highs", time_limit=left).dual_bound
            if sign > 0:
                low[value] = max(low[value], bound + constant)
            else:
                high[value] = min(high[value], constant - bound)
