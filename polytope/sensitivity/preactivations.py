"""`preactivation_bounds`: bounds of what every layer of units reads, and of the outputs."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from polytope.bounds.crown import function_bounds
from polytope.bounds.layers import MEMORY, LayerBounds, layer_bounds
from polytope.errors import InputError
from polytope.model import Network
from polytope.network.ir import Max, Piecewise, Smooth
from polytope.robustness.query import Query
from polytope.robustness.tightening import tightened, tightened_outputs
from polytope.sensitivity.domains import DomainBatch, Domains, as_domains
from polytope.sensitivity.jacobian import blocks
from polytope.sets import Box, BoxLike

#: Operations that are layers of units.
UNITS = (Piecewise, Max, Smooth)
BoundMethod = Literal["interval", "crown", "dual", "lp"]


@dataclass(frozen=True, eq=False)
class PreactivationBounds:
    """Bounds over a set of inputs; for a list of n sets every array has a first axis of n.

    Attributes
    ----------
    names : tuple of str
        The nonlinear layers, in topological order, by their names in the source model.
    lower, upper : tuple of float64 (size,)
        Per layer, bounds of what it reads (for a maximum: of all values that its windows read),
        flattened.
    output_lower, output_upper : float64 (outputs,)
    method : str
    exactness : str
        "safe-float": every rounding error is taken off; "float" for linear programs, whose bounds
        are safe for the program but whose coefficients are rounded (they are widened by 1e-12).
    """

    names: tuple[str, ...]
    lower: tuple[np.ndarray, ...]
    upper: tuple[np.ndarray, ...]
    output_lower: np.ndarray
    output_upper: np.ndarray
    method: str
    exactness: str

    def __repr__(self) -> str:
        """The sizes alone: the arrays fill screens."""
        layers = ", ".join(
            f"{name}: {low.shape[-1]}" for name, low in zip(self.names, self.lower, strict=True)
        )
        sets = "" if self.output_lower.ndim == 1 else f"{len(self.output_lower)} sets, "
        return f"PreactivationBounds({sets}{layers}; {self.method}, {self.exactness})"


def preactivation_bounds(
    net: Network,
    domain: Domains,
    method: BoundMethod = "crown",
    *,
    box: BoxLike = None,
    time_limit: float = 60.0,
    memory: int = MEMORY,
) -> PreactivationBounds:
    """Bounds of what every layer of units reads, and of the outputs.

    Parameters
    ----------
    net : Network
        Piecewise linear or smooth.
    domain : Ball, Box, pair (low, high), None, or a list of balls or of boxes
        A ball may be in any norm l_p.
    method : str
        "interval"; "crown": backward linear bounds with adaptive slopes, met with intervals;
        "dual": the dual bound of Wong and Kolter, met with intervals; "lp": CROWN, then a linear
        program for each bound of an open unit (Tjeng, Xiao and Tedrake, 2019), for bounded sets
        and piecewise-linear networks (an l_p ball but l_1 counts as the box around it there).
    box : Box or pair, optional
        Balls are met with it; their centers must lie inside.
    time_limit : float
        Seconds that linear programs may take for each set; then the bounds stay as they are.
    memory : int
        Bytes for one block of work.

    Returns
    -------
    PreactivationBounds

    Raises
    ------
    InputError
        For an unknown method, a set that does not fit, or an unbounded one with "lp".
    SmoothActivation
        If "lp" is asked of a network that is not piecewise linear.
    """
    if method not in get_args(BoundMethod):
        raise InputError(f"method: got {method!r}, expected one of {get_args(BoundMethod)}")
    if method == "lp":
        net.require_piecewise_linear("preactivation_bounds, method='lp'")
    batch = as_domains(net, domain, box, "preactivation_bounds")
    rows = blocks(net, len(batch), 1, memory) if method != "lp" else [
        slice(i, i + 1) for i in range(len(batch))
    ]  # fmt: skip
    parts = []
    with torch.no_grad():
        for own in rows:
            bounds = layer_bounds(
                net, batch.take(own), method="interval" if method == "interval" else "crown",
                rule="parallel" if method == "dual" else "adaptive", memory=memory,
            )  # fmt: skip
            ends = _outputs(bounds, method, memory)
            if method == "lp":
                bounds, ends = _by_programs(net, bounds, batch, own, ends, time_limit)
            parts.append([*_reads(bounds), ends])
    sides = [
        [np.concatenate([part[k][side] for part in parts]) for k in range(len(parts[0]))]
        for side in (0, 1)
    ]
    low, high = ([v[0] for v in side] if batch.alone else side for side in sides)
    return PreactivationBounds(
        tuple(node.name for node in net.graph.nodes if isinstance(node.op, UNITS)),
        tuple(low[:-1]),
        tuple(high[:-1]),
        low[-1],
        high[-1],
        method,
        "float" if method == "lp" else "safe-float",
    )


def _reads(bounds: LayerBounds) -> list[tuple[np.ndarray, np.ndarray]]:
    """The bounds of what each nonlinear node reads."""
    found = []
    for node in bounds.net.graph.nodes:
        if isinstance(node.op, UNITS):
            source = node.inputs[0]
            low, high = bounds.walk.low[source], bounds.walk.high[source]
            found.append((low.flatten(1).numpy(), high.flatten(1).numpy()))
    return found


def _outputs(bounds: LayerBounds, method: str, memory: int) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the outputs, met with intervals."""
    last = len(bounds.net.graph.nodes) - 1
    low, high = (v[last].flatten(1).numpy() for v in (bounds.walk.low, bounds.walk.high))
    if method == "interval":
        return low, high
    eye = torch.eye(bounds.net.output_size, dtype=torch.float64)
    found = function_bounds(bounds, torch.cat([eye, -eye]), memory=memory).lower.numpy()
    size = bounds.net.output_size
    return np.maximum(low, found[:, :size]), np.minimum(high, -found[:, size:])


def _by_programs(
    net: Network, bounds: LayerBounds, batch: DomainBatch, own: slice,
    ends: tuple[np.ndarray, np.ndarray], time_limit: float,
) -> tuple[LayerBounds, tuple[np.ndarray, np.ndarray]]:  # fmt: skip
    """Bounds of one set tightened by linear programs.

    Raises
    ------
    InputError
        If the set is unbounded.
    """
    sets = batch.take(own)
    low, high = sets.low[0].numpy(), sets.high[0].numpy()
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise InputError(
            "preactivation_bounds: method='lp' needs a bounded set; give a Ball or a Box with "
            "finite sides, or use method='crown'"
        )
    center, p = (low + high) / 2, math.inf
    if sets.center is not None and sets.radius is not None and sets.p == 1:
        center, p = sets.center[0].numpy(), 1.0
        radius = float(sets.radius[0])
    else:
        center = np.clip(center, low, high)
        radius = float(np.maximum(high - center, center - low).max())
    if not radius > 0 or not net.layers:
        return bounds, ends
    query = Query(net, center, 0, None, p, Box(low, high), None, 1e-9, 0, 2**30)
    deadline = time.perf_counter() + time_limit
    encoder, found = tightened(query, bounds, radius * (1 + 1e-9), "lp", deadline)
    one = tightened_outputs(encoder, ends[0][0], ends[1][0], deadline)
    return found, (one[0][None], one[1][None])
