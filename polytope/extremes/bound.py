"""Proved upper bounds of a measure of the Jacobian all over an area, by RecurJac."""

from __future__ import annotations

import math

import numpy as np
import torch

from polytope.bounds.derivatives import derivatives
from polytope.bounds.fastlip import Interval
from polytope.bounds.layers import LayerBounds, layer_bounds
from polytope.bounds.recurjac import Backward
from polytope.extremes.area import Area
from polytope.extremes.measures import Measure
from polytope.network.engine import Engine


def upper_over(
    net: Engine, area: Area, measure: Measure, functions: np.ndarray | None = None
) -> float:
    """A proved bound on the measure of all Jacobians in the area; inf where it is no box or ball.

    Parameters
    ----------
    net : Engine
    area : Area
    measure : Measure
    functions : float64 (m, outputs), optional
        Linear functions of the outputs whose Jacobian is meant.
    """
    if area.inputs is None:
        return math.inf
    with torch.no_grad():
        bounds = layer_bounds(net, area.inputs)
        found = Backward(net, derivatives(bounds), rows_of(net, functions)).jacobian()
    return float(measured(bounds, found, measure)[0])


def rows_of(net: Engine, functions: np.ndarray | None) -> torch.Tensor:
    """The functions of the outputs as a batch of one."""
    if functions is None:
        return torch.eye(net.output_size, dtype=torch.float64)[None]
    return torch.as_tensor(functions)[None]


def measured(bounds: LayerBounds, found: Interval, measure: Measure) -> np.ndarray:
    """The measure's bound of interval matrices, inf where these are infinite."""
    n = len(bounds.inputs)
    low, high = (
        side.expand(n, *side.shape[1:]).numpy() for side in (found.low, found.high)
    )  # fmt: skip
    finite = np.isfinite(low).all(axis=(1, 2)) & np.isfinite(high).all(axis=(1, 2))
    safe = [np.where(finite[:, None, None], side, 0.0) for side in (low, high)]
    return np.where(finite, measure.over(safe[0], safe[1]), np.inf)
