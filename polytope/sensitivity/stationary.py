"""`stationary_radius`: how far around a point a logit has no stationary point."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch

from polytope.bounds.dual import search_radius
from polytope.bounds.inputs import InputSet
from polytope.bounds.layers import MEMORY
from polytope.inputs import as_batch, as_labels, as_norm, require_inside
from polytope.model import Network
from polytope.rows import classes_of
from polytope.sensitivity.jacobian import JacobianMethod, blocks, bounds_over, require_method
from polytope.sensitivity.samples import jacobians
from polytope.sets import BoxLike, as_box
from solvers.norms import NormLike, dual_exponent

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class StationaryRadii:
    """Balls in which a logit's gradient is nowhere zero: arrays with one entry per point.

    Attributes
    ----------
    radius : float64
        In the ball of this radius (met with the box) some entry of the gradient is positive
        everywhere or negative everywhere; 0 if that was not even proved near the point, inf if
        it holds all over the box, or all over the input space.
    coordinate : int64
        The input coordinate of such an entry; -1 without one.
    label : int64
        The class whose logit is meant.
    method : str
    exactness : str
        "safe-float": every rounding error is taken off.
    seconds : float64
        Time taken, shared evenly.
    """

    radius: np.ndarray
    coordinate: np.ndarray
    label: np.ndarray
    method: str
    exactness: str
    seconds: np.ndarray

    def __len__(self) -> int:
        """Number of points."""
        return len(self.radius)

    def to_frame(self) -> pd.DataFrame:
        """One row per point, as a pandas table."""
        import pandas as pd  # slow to import, and only needed here

        return pd.DataFrame({f.name: getattr(self, f.name) for f in fields(self)})


def stationary_radius(
    net: Network,
    X: object,
    y: object = None,
    p: NormLike = 2,
    box: BoxLike = None,
    method: JacobianMethod = "recurjac",
    *,
    memory: int = MEMORY,
) -> StationaryRadii:
    """The largest radius found in which one entry of a logit's gradient keeps a strict sign.

    RecurJac (arXiv 1810.11783), section 4.1: in such a ball the logit has no stationary point, no
    local maximum or minimum and no saddle.

    Parameters
    ----------
    net : Network
        Piecewise linear or smooth.
    X : array or tensor (n, d) or (n, *input_shape)
    y : array (n,), optional
        The classes whose logits are meant; the predicted ones by default.
    p : number or "inf"
        The norm, in [1, inf].
    box : Box or pair (low, high), optional
        Balls are met with it; the points of X must lie in it.
    method : str
        Of `jacobian_bounds`.
    memory : int
        Bytes for one block of work.

    Returns
    -------
    StationaryRadii
        Every radius has itself been bounded.

    Raises
    ------
    InputError
        For unusable points, labels, norm, box or method.
    """
    require_method(method)
    exponent, limits = as_norm(p), as_box(box, net.input_size)
    x = as_batch(net, X)
    require_inside(x, limits)
    labels = net.predict(x) if y is None else as_labels(y, len(x), classes_of(net)).numpy()
    begin = time.perf_counter()
    flat = x.flatten(1)
    endless = torch.full((1, net.input_size), torch.inf, dtype=torch.float64)
    low, high = -endless, endless
    cap = np.full(len(x), np.inf)
    if limits is not None:
        low, high = (torch.tensor(v.copy())[None] for v in (limits.low, limits.high))
        far = np.maximum(flat.numpy() - limits.low, limits.high - flat.numpy())
        cap = np.linalg.norm(far, ord=exponent, axis=1) * (1 + 1e-9)
    radius, place = np.zeros(len(x)), np.full(len(x), -1, np.int64)
    with torch.no_grad():
        for rows in blocks(net, len(x), 1, memory):
            part = _Part(net, flat[rows], labels[rows], method, memory)
            everywhere = part.values(np.arange(len(part.x)), InputSet.from_box(
                low.expand(len(part.x), -1), high.expand(len(part.x), -1)))  # fmt: skip
            whole = everywhere > 0
            open_ = np.flatnonzero(~whole)

            def value(
                own: np.ndarray, radii: np.ndarray, part: _Part = part, open_: np.ndarray = open_
            ) -> np.ndarray:
                points = part.x[torch.as_tensor(open_[own])]
                sets = InputSet.from_ball(points, torch.tensor(radii), exponent, low, high)
                return part.values(open_[own], sets)

            start = part.start(exponent)[open_]
            found = np.full(len(part.x), np.inf)
            found[open_] = search_radius(value, start, cap[rows][open_])
            radius[rows], place[rows] = found, part.place
    place[radius == 0] = -1
    seconds = np.full(len(x), (time.perf_counter() - begin) / max(1, len(x)))
    return StationaryRadii(radius, place, labels, method, "safe-float", seconds)


class _Part:
    """Some points, their logits, and the last coordinates proved to keep a sign."""

    def __init__(
        self, net: Network, x: torch.Tensor, labels: np.ndarray, method: JacobianMethod, memory: int
    ) -> None:
        self.net, self.x, self.method, self.memory = net, x, method, memory
        outputs = torch.eye(net.output_size, dtype=torch.float64)
        chosen = torch.as_tensor(labels if net.output_size > 1 else np.zeros_like(labels))
        self.rows = outputs[chosen][:, None]
        self.place = np.full(len(x), -1, np.int64)

    def start(self, p: float) -> np.ndarray:
        """A radius to begin with: a part of each point's distance to 0 along the gradient."""
        eye = torch.eye(self.net.output_size, dtype=torch.float64)[None]
        gradient = torch.matmul(self.rows, jacobians(self.net, self.x, eye))[:, 0].numpy()
        outputs = self.net.forward(self.x.reshape(-1, *self.net.input_shape)).flatten(1)
        value = (self.rows[:, 0] * outputs).sum(dim=1).abs().numpy()
        steep = np.linalg.norm(gradient, ord=dual_exponent(p), axis=1)
        return np.where((steep > 0) & (value > 0), value / np.maximum(steep, 1e-300), 1.0) / 8

    def values(self, own: np.ndarray, sets: InputSet) -> np.ndarray:
        """The largest lower bound of an entry's absolute value: positive where one keeps a sign."""
        at = torch.as_tensor(own)
        found, _ = bounds_over(self.net, sets, self.rows[at], self.method, self.memory)
        least = torch.maximum(found.low, -found.high)[:, 0]
        best = least.max(dim=1)
        good = (best.values > 0).numpy()
        self.place[own[good]] = best.indices.numpy()[good]
        return np.asarray(best.values.numpy())
