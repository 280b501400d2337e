"""Local linearity of networks of any size: projected ascent from below, CROWN from above."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from polytope.attacks.steps import project
from polytope.bounds.crown import FunctionBounds, function_bounds
from polytope.bounds.inputs import InputSet
from polytope.bounds.layers import LayerBounds, layer_bounds
from polytope.extremes.margins import Anchor
from polytope.jacobians import layer_gradients
from polytope.network.rounding import rounding_bounds
from polytope.rows import given_pieces

UNIT = float(np.finfo(np.float64).eps)


def ascend(
    anchor: Anchor,
    functions: np.ndarray,
    inputs: InputSet,
    radius: float,
    p: float,
    steps: int,
    restarts: int,
    step: float,
    seed: int,
    halt: Callable[[], bool],
) -> list[tuple[float, np.ndarray]]:
    """Points (d,) where departures from linearity are large, one for each function, largest first.

    Each with its departure in floats.

    As LLR measures it (NeurIPS 2019, section 4): Adam on the absolute departure from random
    starts (at the center it has no gradient), projected into the ball after each step.
    """
    net, (d, t) = anchor.net, (len(anchor.x), len(functions))
    x = torch.as_tensor(anchor.x.copy())
    low, high = inputs.low[0] - x, inputs.high[0] - x
    rows = torch.arange(t).repeat(restarts)
    C = torch.as_tensor(functions)[rows]
    slope, value = _linearised(anchor)
    rng = np.random.default_rng(seed)
    reach = torch.full((len(rows),), radius, dtype=torch.float64)
    sides = low.expand(len(rows), d), high.expand(len(rows), d)
    start = torch.as_tensor(rng.uniform(-radius, radius, (len(rows), d)))
    delta = project(start, reach, *sides, p).requires_grad_()
    best, found = torch.full((len(rows),), -1.0, dtype=torch.float64), delta.detach().clone()
    optimiser = torch.optim.Adam([delta], lr=step, maximize=True)
    for number in range(steps + 1):
        with torch.enable_grad():
            outputs = net.forward((x + delta).reshape(-1, *net.input_shape)).flatten(1)
            gap = ((outputs - value - delta @ slope.T) * C).sum(dim=1).abs()
            better = gap.detach() > best
            best = torch.where(better, gap.detach(), best)
            found[better] = delta.detach()[better]
            if number == steps or halt():
                break
            optimiser.zero_grad()
            gap.sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        with torch.no_grad():
            delta.copy_(project(delta, reach, *sides, p))
    top = best.reshape(restarts, t).argmax(dim=0)
    chosen = top * t + torch.arange(t)
    points, sizes = (x + found[chosen]).numpy(), best[chosen].numpy()
    return [(float(sizes[i]), points[i]) for i in np.argsort(-sizes, kind="stable")]


def crown_upper(anchor: Anchor, functions: np.ndarray, inputs: InputSet) -> float:
    """A proved upper bound on the departures from linearity over a set, of all functions."""
    with torch.no_grad():
        bounds = layer_bounds(anchor.net, inputs)
    return max(0.0, float(Above(anchor, functions).over(bounds)[0].max()))


class Above:
    """Upper bounds of departures from linearity: CROWN's, less the anchor's affine map.

    CROWN bounds ``c f`` by linear functions of the input on both sides; the anchor's affine map
    is taken off these before they are bounded over the set.

    Parameters
    ----------
    anchor : Anchor
    functions : float64 (t, outputs)
        The c.
    """

    def __init__(self, anchor: Anchor, functions: np.ndarray) -> None:
        net = anchor.net
        own = torch.as_tensor(anchor.pieces)[None]
        zero = torch.zeros(1, *net.input_shape, dtype=torch.float64)
        with torch.no_grad():
            *_, last = layer_gradients(net, zero, decide=given_pieces(own))
            error = rounding_bounds(net, zero, own)[-1]
        assert last.gradients is not None
        J, offset = last.gradients[0].T.numpy(), last.values[0].numpy()
        self._functions = np.concatenate([functions, -functions])
        C, size = self._functions, np.abs(self._functions)
        unit = (C.shape[1] + 4) * UNIT
        self._slope, self._shift = C @ J, C @ offset
        self._slope_error = size @ (error.gradient[0].numpy() + unit * np.abs(J).sum(axis=1))
        self._shift_error = size @ (error.value[0].numpy() + unit * np.abs(offset))
        self.found: FunctionBounds | None = None

    def over(self, bounds: LayerBounds) -> np.ndarray:
        """Bounds (n, 2 t) over n sets; `found` holds what CROWN said of them."""
        inputs, slope = bounds.inputs, torch.as_tensor(self._slope)
        with torch.no_grad():
            found = function_bounds(bounds, torch.as_tensor(self._functions))
            least = inputs.least(found.a - slope).value.numpy()
        self.found = found
        largest = inputs.magnitude.amax(dim=1, keepdim=True).numpy()
        above = found.offset.numpy()
        terms = (found.a.abs() + slope.abs()).sum(dim=2).numpy()
        rounded = UNIT * terms * largest
        rounded += 4 * UNIT * (np.abs(least) + np.abs(above) + np.abs(self._shift))
        error = (self._slope_error * largest + self._shift_error + rounded) * (1 + 1e-12)
        return np.asarray(error - (least + above - self._shift))


def _linearised(anchor: Anchor) -> tuple[torch.Tensor, torch.Tensor]:
    """Jacobian and outputs at the anchor, in floats."""
    net = anchor.net
    x = torch.as_tensor(anchor.x).reshape(1, *net.input_shape)
    with torch.no_grad():
        *_, last = layer_gradients(
            net, x, decide=given_pieces(torch.as_tensor(anchor.pieces)[None])
        )
    assert last.gradients is not None
    return last.gradients[0].T, last.values[0]
