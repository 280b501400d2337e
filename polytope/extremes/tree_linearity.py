"""Local linearity as a question of the branch and bound."""

from __future__ import annotations

import math

import numpy as np
import torch

from polytope.bounds.layers import LayerBounds
from polytope.bounds.relaxation import UnitLines
from polytope.extremes.linearity_ascent import Above
from polytope.extremes.linearity_search import Departure
from polytope.extremes.rows import RegionRows
from polytope.extremes.tree import Question


class LargestDeparture(Question):
    """The largest departure from linearity over a ball.

    Parameters
    ----------
    search : Departure
        Its lower end is raised.
    """

    def __init__(self, search: Departure) -> None:
        self.search = search
        self.regions = 0
        self._above = Above(search.anchor, search.functions)
        self._rows = RegionRows(search.anchor.net, search.area.domain)
        self._seen: dict[bytes, float] = {}

    @property
    def lower(self) -> float:
        """See `Question.lower`."""
        return self.search.lower

    def bound(self, bounds: LayerBounds) -> np.ndarray:
        """By CROWN, of all functions."""
        return np.asarray(np.maximum(self._above.over(bounds).max(axis=1), 0.0))

    def weigh(self, bounds: LayerBounds) -> np.ndarray:
        """What the relaxations of the units cost the bounds: gaps between lines, weighted."""
        found = self._above.found
        assert found is not None
        parts = [np.zeros((len(bounds.inputs), 0))]
        for number, layer in enumerate(bounds.net.layers):
            line = bounds.lines[number]
            low, high = bounds.lower[number], bounds.upper[number]
            if isinstance(line, UnitLines):
                middle = (low + high) / 2
                gap = (line.upper_slope - line.lower_slope) * middle
                gap = gap + line.upper_intercept - line.lower_intercept
            else:
                gap = (bounds.walk.high[layer.node] - bounds.walk.low[layer.node]).flatten(1)
            weight = found.coefficients[number].abs().sum(dim=1)
            cost = weight * gap.clamp(min=0) + 1e-12 * gap.clamp(min=0, max=1)
            parts.append(cost.nan_to_num(nan=0.0, posinf=1e300).numpy())
        return np.concatenate(parts, axis=1)

    def settle(self, pieces: np.ndarray, near: np.ndarray) -> float:
        """Two linear programs for each function."""
        del near
        key = pieces.astype(np.uint16).tobytes()
        if key not in self._seen:
            self.regions += 1
            found = [
                self.search.region(self._rows, pieces.astype(np.uint16), t)
                for t in range(len(self.search.functions))
            ]
            self._seen[key] = max(found, default=-math.inf)
        return self._seen[key]

    def offer(self, points: np.ndarray) -> None:
        """The point with the largest departure, if it is above what is known."""
        net, anchor = self.search.anchor.net, self.search.anchor
        z = np.clip(points, self.search.low, self.search.high)
        with torch.no_grad():
            there = net.forward(torch.as_tensor(z).reshape(-1, *net.input_shape)).flatten(1)
        J, value = self.search.linearised
        gaps = np.abs((there.numpy() - value - (z - anchor.x) @ J.T) @ self.search.functions.T)
        best = int(gaps.max(axis=1).argmax())
        if gaps[best].max() > self.lower * (1 + 1e-9):
            self.search.offer(z[best])
