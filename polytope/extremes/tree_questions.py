"""The questions that the branch and bound answers: measures of Jacobians, and linearity."""

from __future__ import annotations

import numpy as np
import torch

from polytope.bounds.derivatives import Derivatives, derivatives
from polytope.bounds.fastlip import Interval, fastlip, pull_interval
from polytope.bounds.layers import LayerBounds
from polytope.extremes.best import Best
from polytope.extremes.bound import measured, rows_of
from polytope.extremes.inside import Inside
from polytope.extremes.maps import Jacobians
from polytope.extremes.measures import Measure
from polytope.extremes.tree import Question


class LargestMeasure(Question):
    """The largest measure of the Jacobian over the regions of an area.

    Parameters
    ----------
    jacobians : Jacobians
    measure : Measure
    inside : Inside
        Its area is a box or a ball.
    """

    def __init__(self, jacobians: Jacobians, measure: Measure, inside: Inside) -> None:
        self.jacobians, self.measure, self.inside = jacobians, measure, inside
        self.best = Best(jacobians, measure, inside)
        self._lower = 0.0
        self._seen: dict[bytes, float] = {}
        self._reach: np.ndarray | None = None
        self._known: tuple[LayerBounds, Derivatives, Interval] | None = None

    @property
    def regions(self) -> int:
        """Regions looked at."""
        return len(self._seen)

    @property
    def lower(self) -> float:
        """See `Question.lower`."""
        return self._lower

    def bound(self, bounds: LayerBounds) -> np.ndarray:
        """By Fast-Lip."""
        found = derivatives(bounds)
        J = fastlip(bounds.net, found, rows_of(bounds.net, self.jacobians.functions))
        self._known = bounds, found, J
        return measured(bounds, J, self.measure)

    def weigh(self, bounds: LayerBounds) -> np.ndarray:
        """The derivatives of the outputs that count, times those of the unit, at most."""
        assert self._known is not None
        known, found, J = self._known
        assert known is bounds
        net, n = bounds.net, len(bounds.inputs)
        if self._reach is None:
            self._reach = input_slopes(bounds)
        outer, last = rows_of(net, self.jacobians.functions), len(net.graph.nodes) - 1
        parts = [np.zeros((n, 0))]
        rows = self.measure.rows(J.size.expand(n, -1, -1).numpy())
        for layer in net.layers:
            inner = pull_interval(net, found, last, Interval(outer, outer), layer.node)
            size = inner.size.expand(n, -1, -1).numpy()
            parts.append(np.einsum("nm,nmu->nu", rows, size))
        return np.asarray(np.concatenate(parts, axis=1) * self._reach)

    def settle(self, pieces: np.ndarray, near: np.ndarray) -> float:
        """The value of one region, if it has an inside in the area."""
        key = pieces.astype(np.uint16).tobytes()
        if key not in self._seen:
            J, error = self.jacobians.of(pieces[None])
            low, high = self.measure.bounds(J, error)
            meets, point = self._meets(pieces, near)
            if meets:
                self._take(pieces, point, float(low[0]))
            self._seen[key] = -np.inf if meets is False else float(high[0])
        return self._seen[key]

    def offer(self, points: np.ndarray) -> None:
        """The regions of some points, where they promise more than is known."""
        net = self.jacobians.net
        with torch.no_grad():
            shaped = torch.as_tensor(points).reshape(-1, *net.input_shape)
            pieces = net.pieces(shaped).numpy()
        fresh = [i for i, own in enumerate(pieces)
                 if own.astype(np.uint16).tobytes() not in self._seen]  # fmt: skip
        if not fresh:
            return
        J, _ = self.jacobians.of(pieces[fresh])
        values = self.measure.values(J)
        best = int(values.argmax())
        if values[best] > self._lower * (1 + 1e-9):
            self.settle(pieces[fresh[best]], points[fresh[best]])

    def _take(self, pieces: np.ndarray, point: np.ndarray | None, low: float) -> None:
        self._lower = max(self._lower, low)
        k = self.inside.area.domain.dimension
        known = np.full(k, np.nan) if point is None else point
        self.best.take(pieces[None], known[None])

    def _meets(self, pieces: np.ndarray, near: np.ndarray) -> tuple[bool | None, np.ndarray | None]:
        """Whether a region meets the area's inside; a point of both."""
        hint = self.inside.area.domain.coordinates(near)
        if self.inside.area.ball is not None:
            return self.inside.in_ball(pieces, hint)
        return self.inside.in_domain(pieces, hint)


def input_slopes(bounds: LayerBounds) -> np.ndarray:
    """Bounds of the l_1 norms of the units' gradients with respect to the input: (units,)."""
    net = bounds.net
    found = derivatives(bounds)
    parts = [np.zeros(0)]
    for layer in net.layers:
        source = net.graph.nodes[layer.node].inputs[0]
        size = net.graph.nodes[source].size
        eye = torch.eye(size, dtype=torch.float64)[None]
        inner = pull_interval(net, found, source, Interval(eye, eye))
        sums = inner.size[0].sum(dim=1).numpy()
        if layer.is_max:
            index = net.graph.constants[getattr(net.graph.nodes[layer.node].op, "index", "")]
            sums = np.where(index >= 0, sums[index], 0.0).max(axis=1)
        parts.append(sums)
    return np.concatenate(parts)
