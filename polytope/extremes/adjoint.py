"""The derivatives of a network's outputs as rows of a mixed-integer program (LipMIP).

Jordan and Dimakis, Exactly computing the local Lipschitz constant of ReLU networks (NeurIPS
2020).  The chain rule runs backwards over the binaries of an `Encoder`: the derivative with
respect to what a unit reads is that with respect to its output times a slope, which is a sum of
products ``binary * derivative`` over its pieces; each product is a column, exact by four big-M
rows whose constants are sound bounds of the derivative.  Everything between two layers is linear
and is substituted, whatever the architecture was.

An output norm is the largest of ``c f`` over the dual ball: over ``c >= 0, sum c = 1`` for q = inf
(at its corners ``e_i``, and the sign does not matter), over the cube for q = 1.  The objective is
convex in c, so its maximum is at a corner, though c may move freely.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy.sparse import csr_array, vstack

from polytope.bounds.derivatives import derivatives
from polytope.bounds.fastlip import Interval, pull_interval
from polytope.bounds.layers import LayerBounds
from polytope.network.ir import Max, Piecewise
from polytope.robustness.encoding import Encoder, Forms
from solvers.problem import MixedIntegerProgram

#: Bounds of derivatives are enlarged by this part: the program's coefficients are rounded.
ROOM = 1e-12


class Adjoint:
    """Columns and rows of the derivatives, appended to those of a network's encoding.

    Parameters
    ----------
    encoder : Encoder
        With all layers added.
    bounds : LayerBounds
        Of the same set.
    """

    def __init__(self, encoder: Encoder, bounds: LayerBounds) -> None:
        plain = encoder.relaxation()
        self._encoder, self._net = encoder, encoder.net
        self._rows: list[tuple[csr_array, np.ndarray, np.ndarray]] = [
            (plain.A, plain.row_lower, plain.row_upper)
        ]
        self._low, self._high = [plain.lower], [plain.upper]
        self._whole = [encoder.whole]
        self._width = len(plain.c)
        self._cost: list[tuple[np.ndarray, float]] = []
        pieces = tuple(torch.as_tensor(known.pieces)[None] for known in encoder.known)
        self._bounds = replace(bounds, pieces=pieces)
        self._derivatives = derivatives(self._bounds)
        base, start, source, weight = encoder.sums
        self._base = base
        self._weight = csr_array((weight, source, start), shape=(len(base), encoder.net.units))

    def add_objective(self, functions: np.ndarray, q: float | None, p: float, scale: float) -> None:
        """Maximise also the dual norm of the gradient of ``c f``, divided by `scale`.

        Parameters
        ----------
        functions : float64 (m, outputs)
            f, as combinations of the outputs.
        q : 1, inf or None
            The output norm, by which c is chosen; None for a single function and c = 1.
        p : 1 or inf
            The input norm.
        scale : float
            Of the size of the result.
        """
        m = len(functions)
        if q is None:
            chosen, given = csr_array((m, self._width)), np.ones(m)
            low = high = np.ones(m)
        else:
            low, high = np.full(m, 0.0 if q == np.inf else -1.0), np.ones(m)
            if q == 1:
                low[0] = 1.0  # the common sign
            at = self._columns(low, high)
            chosen = csr_array((np.ones(m), (np.arange(m), at)), shape=(m, self._width))
            given = np.zeros(m)
            if q == np.inf:
                self._add(chosen.sum(axis=0)[None], 1.0, 1.0)
        outer = Forms(
            csr_array(functions.T / scale @ chosen), functions.T @ given / scale
        )  # fmt: skip
        gradient, limits = self._gradient(outer, (functions / scale, low, high, q))
        self._dual_norm(gradient, limits, p)

    def program(self) -> MixedIntegerProgram:
        """The program: its value is minus the sum of the objectives."""
        cost = np.zeros(self._width)
        for columns, factor in self._cost:
            cost[columns] -= factor
        matrices = [_widened(matrix, self._width) for matrix, _, _ in self._rows]
        return MixedIntegerProgram(
            cost, np.concatenate(self._whole), csr_array(vstack(matrices)),
            np.concatenate([low for _, low, _ in self._rows]),
            np.concatenate([high for _, _, high in self._rows]),
            np.concatenate(self._low), np.concatenate(self._high),
        )  # fmt: skip

    def _gradient(
        self, outer: Forms, chosen: tuple[np.ndarray, np.ndarray, np.ndarray, float | None]
    ) -> tuple[Forms, tuple[np.ndarray, np.ndarray]]:
        """The gradient of c f with respect to the input as forms, and its bounds."""
        net, first = self._net, self._encoder.first
        values = len(self._base)
        # Derivatives with respect to all values; those of the outputs are known.
        out = np.arange(first[len(net.layers)], values)
        matrix = _placed(outer.matrix, out, values, self._width)
        constant = np.zeros(values)
        constant[out] = outer.constant
        for number in range(len(net.layers) - 1, -1, -1):
            layer = net.layers[number]
            own = csr_array(self._weight[:, layer.unit_slice].T)
            limits = self._limits(layer.node, chosen)
            through = self._maxima if layer.is_max else self._piecewise
            made = through(number, Forms(csr_array(own @ matrix), own @ constant), limits)
            at = np.arange(first[number], first[number + 1])
            matrix = csr_array(
                _widened(matrix, self._width) + _placed(made.matrix, at, values, self._width)
            )
            constant[at] += made.constant
        turned = self._base[:, :-1].T
        gradient = Forms(csr_array(csr_array(turned) @ matrix), turned @ constant)
        return gradient, self._limits(0, chosen)

    def _limits(
        self, node: int, chosen: tuple[np.ndarray, np.ndarray, np.ndarray, float | None]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sound bounds of the derivatives of c f with respect to a node, for all c."""
        functions, low, high, q = chosen
        rows = torch.as_tensor(functions.sum(axis=0, keepdims=True) if q is None else functions)
        with torch.no_grad():
            last = len(self._net.graph.nodes) - 1
            found = pull_interval(
                self._net, self._derivatives, last, Interval(rows[None], rows[None]), node
            )
        least, most = found.low[0].numpy(), found.high[0].numpy()
        if q == np.inf:
            ends = least.min(axis=0), most.max(axis=0)
        else:
            ones = np.ones((1, 1))
            factors = (ones, ones) if q is None else (low[:, None], high[:, None])
            products = [c * side for c in factors for side in (least, most)]
            ends = np.min(products, axis=0).sum(axis=0), np.max(products, axis=0).sum(axis=0)
        size = np.maximum(np.abs(ends[0]), np.abs(ends[1]))
        room = ROOM * (size + size.max(initial=0.0))
        return ends[0] - room, ends[1] + room

    def _piecewise(self, number: int, outer: Forms, limits: tuple[np.ndarray, np.ndarray]) -> Forms:
        """Derivatives with respect to what piecewise units read."""
        layer, known = self._net.layers[number], self._encoder.known[number]
        node = self._net.graph.nodes[layer.node]
        assert isinstance(node.op, Piecewise)
        table = self._net.graph.constants[node.op.slopes]
        slopes = np.broadcast_to(table, (*node.shape, table.shape[-1])).reshape(node.size, -1)
        units = np.arange(layer.units)
        first = slopes[units, known.pieces.argmax(axis=1)]
        switches = self._encoder.switches[number]
        local = switches.unit - layer.first_unit
        change = slopes[local, switches.piece] - slopes[local, switches.piece - 1]
        products = self._products(outer, local, switches.column, limits)
        diagonal = csr_array((first, (units, units)), shape=(len(units), len(units)))
        matrix = _widened(diagonal @ outer.matrix, self._width)
        steps = csr_array((change, (local, np.arange(len(local)))), shape=(len(units), len(local)))
        return Forms(csr_array(matrix + steps @ products), first * outer.constant)

    def _maxima(self, number: int, outer: Forms, limits: tuple[np.ndarray, np.ndarray]) -> Forms:
        """As `_piecewise`, of maxima."""
        layer, known = self._net.layers[number], self._encoder.known[number]
        op = self._net.graph.nodes[layer.node].op
        assert isinstance(op, Max)
        index = self._net.graph.constants[op.index]
        units = np.arange(layer.units)
        closed = np.flatnonzero(known.pieces.sum(axis=1) <= 1)
        winner = index[closed, known.pieces[closed].argmax(axis=1)]
        switches = self._encoder.switches[number]
        local = switches.unit - layer.first_unit
        products = self._products(outer, local, switches.column, limits)
        value = index[local, switches.piece]
        read = len(known.low)
        passed = csr_array((np.ones(len(closed)), (winner, closed)), shape=(read, len(units)))
        matrix = _widened(csr_array(passed @ outer.matrix), self._width)
        won = csr_array(
            (np.ones(len(value)), (value, np.arange(len(value)))), shape=(read, len(value))
        )
        return Forms(csr_array(matrix + won @ products), passed @ outer.constant)

    def _products(
        self, outer: Forms, units: np.ndarray, binary: np.ndarray,
        limits: tuple[np.ndarray, np.ndarray],
    ) -> csr_array:  # fmt: skip
        """A binary times a unit's derivative, each as a row over the columns.

        Where the derivative is a constant that is a multiple of the binary; else it is a column,
        in units of the derivative's size so that all rows are of size one.
        """
        own = csr_array(outer.matrix[units])
        constant = outer.constant[units]
        low, high = limits[0][units], limits[1][units]
        size = np.maximum(np.abs(low), np.abs(high))
        fixed = (np.diff(own.indptr) == 0) | (size == 0)
        open_ = np.flatnonzero(~fixed)
        at = self._columns(
            np.minimum(low, 0.0)[open_] / size[open_], np.maximum(high, 0.0)[open_] / size[open_]
        )
        shape, here = (len(open_), self._width), np.arange(len(open_))
        if len(open_):
            unit = 1 / size[open_]
            low, high, switch = low[open_] * unit, high[open_] * unit, binary[open_]
            value = _widened(csr_array(own[open_].multiply(unit[:, None])), self._width)
            shift = constant[open_] * unit
            product = csr_array((np.ones(len(open_)), (here, at)), shape=shape)

            def times(factor: np.ndarray) -> csr_array:
                return csr_array((factor, (here, switch)), shape=shape)

            self._add(product - times(high), -np.inf, 0.0)
            self._add(product - times(low), 0.0, np.inf)
            # product <= y - low (1 - b)   and   product >= y - high (1 - b)
            self._add(product - value - times(low), -np.inf, shift - low)
            self._add(product - value - times(high), shift - high, np.inf)
        rows = np.concatenate([np.flatnonzero(fixed), open_])
        columns = np.concatenate([binary[fixed], at])
        factors = np.concatenate([constant[fixed], size[open_]])
        return csr_array((factors, (rows, columns)), shape=(len(units), self._width))

    def _dual_norm(self, gradient: Forms, limits: tuple[np.ndarray, np.ndarray], p: float) -> None:
        """Objective columns of the dual norm of a gradient: l_1 for p = inf, l_inf for p = 1."""
        low, high = limits
        d = len(low)
        size = np.maximum(np.abs(low), np.abs(high))
        here = np.arange(d)
        g, constant = gradient.matrix, gradient.constant
        if p == np.inf:
            top = self._columns(np.zeros(d), size)
            sign = self._columns(np.where(low >= 0, 1.0, 0.0), np.where(high <= 0, 0.0, 1.0), True)
            reach = csr_array((np.ones(d), (here, top)), shape=(d, self._width))
            own = _widened(g, self._width)
            # t <= g - 2 low (1 - s)   and   t <= -g + 2 high s
            for factor, other, right in (
                (1.0, -2 * np.minimum(low, 0), constant - 2 * np.minimum(low, 0)),
                (-1.0, -2 * np.maximum(high, 0), -constant),
            ):
                switch = csr_array((other, (here, sign)), shape=(d, self._width))
                self._add(reach - factor * own + switch, -np.inf, right)
            self._cost.append((top, 1.0))
            return
        most = float(size.max())
        (top,) = self._columns(np.zeros(1), np.array([most]))
        sides = self._columns(np.zeros(2 * d), np.ones(2 * d), True)
        self._add(csr_array((np.ones(2 * d), (np.zeros(2 * d, int), sides)),
                            shape=(1, self._width)), 1.0, 1.0)  # fmt: skip
        own = _widened(g, self._width)
        reach = csr_array((np.ones(d), (here, np.full(d, top))), shape=(d, self._width))
        for factor, at, slack in ((1.0, sides[:d], most - low), (-1.0, sides[d:], most + high)):
            switch = csr_array((slack, (here, at)), shape=(d, self._width))
            self._add(reach - factor * own + switch, -np.inf, factor * constant + slack)
        self._cost.append((np.array([top]), 1.0))

    def _columns(self, low: np.ndarray, high: np.ndarray, whole: bool = False) -> np.ndarray:
        """New columns; their numbers."""
        self._low.append(low)
        self._high.append(high)
        self._whole.append(np.full(len(low), whole))
        self._width += len(low)
        return np.arange(self._width - len(low), self._width)

    def _add(self, matrix: csr_array, low: np.ndarray | float, high: np.ndarray | float) -> None:
        """New rows."""
        rows = csr_array(matrix)
        sides = (np.array(np.broadcast_to(s, (rows.shape[0],)), dtype=float) for s in (low, high))
        self._rows.append((rows, *sides))


def _widened(matrix: csr_array, width: int) -> csr_array:
    """The same rows with columns of zeros appended."""
    rows = csr_array(matrix)
    return csr_array((rows.data, rows.indices, rows.indptr), shape=(rows.shape[0], width))


def _placed(matrix: csr_array, at: np.ndarray, rows: int, width: int) -> csr_array:
    """Rows moved to the places `at` of a taller matrix."""
    table = csr_array(matrix).tocoo()
    return csr_array((table.data, (at[table.row], table.col)), shape=(rows, width))
