"""The largest departure from linearity over a ball, region by region: two linear programs each.

In a region R the network is affine, so ``f(z) - f(x) - J(x) (z - x)`` is ``a d + c`` in the step
d = z - x, and its largest absolute value over R and the ball is that of two linear programs.
Regions whose bound over the whole box is no larger than what is known already need none.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

import numpy as np
import torch

from polytope.extremes.area import Area
from polytope.extremes.margins import Anchor, is_within, proved_size
from polytope.extremes.rows import RegionRows
from polytope.jacobians import DEFAULT_MEMORY, chunk_rows, layer_gradients
from polytope.network.rounding import rounding_bounds
from polytope.rows import given_pieces
from polytope.sets import Ball
from solvers.boxed import INFEASIBLE, boxed_program

UNIT = float(np.finfo(np.float64).eps)
#: Steps outside of a ball by rounding are shortened by this part, again and again.
SHORTER = 2.0**-50


class Departure:
    """The largest ``|c (f(z) - f(x) - J(x) (z - x))|`` over the points z of a ball.

    Parameters
    ----------
    anchor : Anchor
    functions : float64 (t, outputs)
        The c; the largest of all counts.
    area : Area
        The ball met with a box.
    ball : Ball
        For `take` and `settle` in l_1 or l_inf.

    Attributes
    ----------
    lower : float
        Proved by `witness`, in exact arithmetic.
    witness : float64 (d,) or None
    function : int
        The one of the witness.
    programs : int
        Linear programs solved.
    low, high : float64 (d,)
        Sides of the box.
    scale : float
        The size of the terms that the functions are made of, in the regions taken.
    """

    def __init__(self, anchor: Anchor, functions: np.ndarray, area: Area, ball: Ball) -> None:
        self.anchor, self.functions, self.area, self.ball = anchor, functions, area, ball
        self.lower, self.function, self.programs, self.scale = 0.0, 0, 0, 0.0
        self.witness: np.ndarray | None = None
        assert area.inputs is not None
        self.low, self.high = (s[0].numpy() for s in (area.inputs.low, area.inputs.high))
        self._free = np.flatnonzero(self.low < self.high)
        # Sides as seen from x, rounded outwards.
        self._down = np.nextafter(self.low - anchor.x, -np.inf)
        self._up = np.nextafter(self.high - anchor.x, np.inf)
        self._frozen = self.low >= self.high
        self._down[self._frozen] = self._up[self._frozen] = 0.0
        self._waiting: list[tuple[float, int, int, np.ndarray]] = []
        self._count = 0
        J, value, slope_error, value_error = self._affine(anchor.pieces[None])
        self._own = J[0], value[0], slope_error[0], value_error[0]

    @property
    def linearised(self) -> tuple[np.ndarray, np.ndarray]:
        """Jacobian (outputs, d) and outputs at the anchor, in floats."""
        return self._own[0], self._own[1]

    def offer(self, z: np.ndarray) -> None:
        """A candidate (d,), moved into the ball; exact arithmetic says what it proves."""
        point = np.clip(z, self.low, self.high)
        step, p = point - self.anchor.x, float(self.ball.p)
        # An l_inf ball is the box itself.
        while p < math.inf and not is_within(point, self.anchor.x, self.ball.radius, p):
            size = float(np.linalg.norm(point - self.anchor.x, p))
            step = step * min(1.0, self.ball.radius / size) * (1 - SHORTER)
            point = np.clip(self.anchor.x + step, self.low, self.high)
        size, at = proved_size(self.anchor.difference(point, self.functions))
        if size > self.lower or self.witness is None:
            self.lower, self.witness, self.function = size, point, at

    def take(self, pieces: np.ndarray, points: np.ndarray) -> None:
        """Look at some regions: patterns (n, units); the points are not needed."""
        del points
        net = self.anchor.net
        size = max(1, chunk_rows(net, net.input_size, 8, DEFAULT_MEMORY))
        for begin in range(0, len(pieces), size):
            own = pieces[begin : begin + size]
            a, c, error = self._departures(own)
            middle, half = (self._down + self._up) / 2, (self._up - self._down) / 2
            bound = np.abs(c + a @ middle) + np.abs(a) @ half
            rounded = (a.shape[2] + 6) * UNIT * (np.abs(c) + np.abs(a) @ (np.abs(middle) + half))
            bound += error + rounded
            for i, t in zip(*np.nonzero(bound > self.lower), strict=True):
                self._count += 1
                entry = (-float(bound[i, t]), self._count, int(t), own[i].copy())
                heapq.heappush(self._waiting, entry)

    def settle(self, halt: Callable[[], bool]) -> float:
        """Solve the programs that matter; a proved upper bound over the regions taken.

        Parameters
        ----------
        halt : callable
            Asked between programs; True ends them.
        """
        upper = self.lower
        if not self._waiting:
            return upper
        rows = RegionRows(self.anchor.net, self.area.domain)
        while self._waiting and -self._waiting[0][0] > self.lower:
            if halt():
                return max(upper, -self._waiting[0][0])
            bound, _, t, pieces = heapq.heappop(self._waiting)
            upper = max(upper, min(-bound, self.region(rows, pieces, t)))
        return max(upper, self.lower)

    def region(self, rows: RegionRows, pieces: np.ndarray, t: int) -> float:
        """The programs of one region and function; offers their points."""
        a, c, error = self._departures(pieces[None])
        slope, constant, off = a[0, t], float(c[0, t]), float(error[0, t])
        size = abs(constant) + np.abs(slope) @ np.maximum(np.abs(self._down), np.abs(self._up))
        if size <= 4 * off and self.anchor.same(pieces, self.functions[t]):
            return 0.0
        A, b = rows.of(pieces)
        x, radius, free = self.anchor.x[self._free], self.ball.radius, self._free
        right = b - A @ x
        right += (len(x) + 3) * UNIT * (np.abs(b) + np.abs(A) @ np.abs(x))
        scale = np.abs(A).max(axis=1) * radius
        table, right = A * radius / scale[:, None], right / scale
        right += 4 * UNIT * (np.abs(right) + np.abs(table) @ np.abs(self._up - self._down)[free])
        low, high = self._down[free] / radius, self._up[free] / radius
        low, high = low - UNIT * np.abs(low), high + UNIT * np.abs(high)
        reach = np.maximum(np.abs(low), np.abs(high))
        split, k = self.area.ball is not None, len(low)
        if split:  # an l_1 ball: steps up and down, whose sum is at most the radius
            table = np.vstack([np.hstack([table, -table]), np.ones((1, 2 * k))])
            right = np.append(right, 1.0 + (2 * k + 4) * UNIT)
            low, high = np.zeros(2 * k), np.maximum(np.concatenate([high, -low]), 0.0)
        top = 0.0
        for sign in (1.0, -1.0):
            self.programs += 1
            cost = -sign * slope[free] * radius
            rounded = 4 * UNIT * (abs(constant) + np.abs(cost) @ reach)
            found = boxed_program(
                np.append(cost, -cost) if split else cost, table, right, low, high
            )
            if found.status == INFEASIBLE and found.value > 0:
                return 0.0  # the ball does not meet this region
            value = -found.value + sign * constant
            top = max(top, value + off + float(rounded))
            if np.isfinite(found.x).all() and value > self.lower:
                z = self.anchor.x.copy()
                step = found.x[:k] - found.x[k:] if split else found.x
                z[free] += radius * step
                self.offer(z)
        return top

    def _departures(self, pieces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``a``, ``c`` and a bound on the error of ``a d + c``: (n, t, d), (n, t), (n, t)."""
        J, value, slope_error, value_error = self._affine(pieces)
        own_J, own_value, own_slope, own_error = self._own
        C, size = self.functions, np.abs(self.functions)
        a, c = C @ (J - own_J), (value - own_value) @ C.T
        reach = float(np.maximum(np.abs(self._down), np.abs(self._up)).max())
        unit = (C.shape[1] + 4) * UNIT
        terms = (np.abs(J).sum(axis=2) * reach + np.abs(value)) @ size.T
        self.scale = max(self.scale, float(terms.max(initial=0.0)))
        slopes = slope_error + own_slope + unit * (np.abs(J) + np.abs(own_J)).sum(axis=2)
        values = value_error + own_error + unit * (np.abs(value) + np.abs(own_value))
        return a, c, (slopes * reach + values) @ size.T * (1 + 1e-12)

    def _affine(self, pieces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Jacobians, values at x of the patterns' affine maps, and the errors of both."""
        net = self.anchor.net
        own = torch.as_tensor(pieces.astype(np.int64))
        x = torch.as_tensor(self.anchor.x).reshape(1, *net.input_shape)
        x = x.expand(len(own), *net.input_shape).contiguous()
        with torch.no_grad():
            *_, last = layer_gradients(net, x, decide=given_pieces(own))
            bounds = rounding_bounds(net, x, own)[-1]
        assert last.gradients is not None
        J = last.gradients.transpose(1, 2).expand(len(own), -1, -1).numpy()
        return J, last.values.numpy(), bounds.gradient.numpy(), bounds.value.numpy()
