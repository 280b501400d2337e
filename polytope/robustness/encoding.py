"""A network in a ball around a point as the rows of a mixed-integer program.

Columns are the step from the point, in units of the ball's radius, and for every unit whose piece
the bounds leave open one part per piece with binaries between them.  Everything else is linear in
these and is substituted, whatever the architecture was (`polytope.regions.sums`): a unit with one
piece left costs neither row nor column.

A unit of pieces over [l, u] is encoded incrementally: its input is ``l + sum_j width_j part_j``
with one part in [0, 1] per piece, and a binary between two pieces says whether the first is used
up,

    part_j >= a_{j+1},    part_j <= a_j.

Whatever the size of a unit's weights, these rows are of size one: a solver's absolute tolerances
mean the same for all units (a violation of 1e-9 is a thousandth of a unit that reads 1e-6).
The relaxation is the convex hull of the unit's graph (Vielma, Ahmed, Nemhauser,
"Mixed-integer models for nonseparable piecewise-linear optimization", Operations Research 2010).
For a ReLU this is the big-M form of Tjeng, Xiao, Tedrake, "Evaluating robustness of neural
networks with mixed integer programming", ICLR 2019.  A maximum has one binary per candidate that
may win, as there.

Coefficients are floats and the bounds' intercepts are rounded: what a solver makes of the rows is
an opinion about the network up to some 1e-15 of its numbers, and no proof.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array, hstack, vstack

from polytope.network.engine import Engine
from polytope.network.ir import Layer, Max, Piecewise
from polytope.regions.domain import Domain
from polytope.regions.sums import collect_sums
from solvers.problem import LinearProgram, MixedIntegerProgram


@dataclass(frozen=True, eq=False)
class Forms:
    """Functions ``matrix y + constant`` (k,) of the columns y (n,)."""

    matrix: csr_array
    constant: np.ndarray

    def rows(self, at: np.ndarray) -> Forms:
        """Some of the functions."""
        return Forms(self.matrix[at], self.constant[at])


@dataclass(frozen=True, eq=False)
class LayerPieces:
    """What is known of a layer in the ball.

    Attributes
    ----------
    low, high : float64 (size,)
        Finite bounds of what the layer reads.
    pieces : bool (units, pieces)
        Pieces that may occur; those of a piecewise unit stand side by side.
    """

    low: np.ndarray
    high: np.ndarray
    pieces: np.ndarray


@dataclass(frozen=True, eq=False)
class Switches:
    """Binaries of a layer: units (of the network), pieces and columns, three int64 (n,).

    Of a piecewise unit the binary is 1 where it is in that piece or a later one; of a maximum it
    is 1 where that candidate wins.
    """

    unit: np.ndarray
    piece: np.ndarray
    column: np.ndarray


class Encoder:
    """Rows and columns, layer by layer in topological order.

    Parameters
    ----------
    net : Engine
        Piecewise linear.
    x : float64 (d,)
    low, high : float64 (d,)
        Finite ends of the step from x.
    p : float
        1, 2 or inf: the norm of the ball.
    scale : float
        The ball's radius. The program's lengths are in this unit, so that a solver's absolute
        tolerances mean the same for every point.
    """

    def __init__(
        self, net: Engine, x: np.ndarray, low: np.ndarray, high: np.ndarray, p: float, scale: float
    ) -> None:
        d = net.input_size
        nowhere = Domain(d, None, None, np.zeros((0, d)), np.zeros(0))
        self.net, self.p, self.scale = net, p, scale
        self.first, self._sums = collect_sums(net, nowhere, outputs=True)
        self._x = x
        self._low: list[np.ndarray] = []
        self._high: list[np.ndarray] = []
        self._whole: list[np.ndarray] = []
        self._rows: list[tuple[csr_array, np.ndarray, np.ndarray]] = []
        self._width = 0
        self.known: list[LayerPieces] = []
        self.switches: list[Switches] = []
        eye = csr_array(np.eye(d))
        if p == 1:
            self._add_columns(np.zeros(2 * d), np.concatenate([high, -low]) / scale)
            self._step = csr_array(hstack([eye, -eye]))
            self._add_rows(csr_array(np.ones((1, 2 * d))), -np.inf, 1.0)
        else:
            self._add_columns(low / scale, high / scale)
            self._step = eye
        self._inputs = self._width
        self._outputs = Forms(csr_array((0, self._width)), np.zeros(0))

    @property
    def whole(self) -> np.ndarray:
        """Which columns so far are integers: bool (n,)."""
        return np.concatenate(self._whole)

    @property
    def sums(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """``base``, ``start``, ``source`` and ``weight`` of `collect_sums`, the outputs last."""
        return self._sums.base, self._sums.start, self._sums.source, self._sums.weight

    @property
    def held(self) -> int:
        """Bytes of the sums and rows so far."""
        entries = sum(row.nnz for row, _, _ in self._rows) + self._outputs.matrix.nnz
        return int(self._sums.base.nbytes * 2 + self._sums.weight.nbytes * 3 + 12 * entries)

    def step(self, y: np.ndarray) -> np.ndarray:
        """The step (d,) from the point that columns (n,) stand for."""
        return np.asarray(self.scale * (self._step @ y[: self._inputs]))

    def reads(self, layer: int) -> Forms:
        """What a layer reads; after the last layer, the network's outputs."""
        own = slice(self.first[layer], self.first[layer + 1])
        base = self._sums.base[own]
        start = self._sums.start[own.start : own.stop + 1]
        terms = slice(start[0], start[-1])
        units = len(self._outputs.constant)
        weight = csr_array(
            (self._sums.weight[terms], self._sums.source[terms], start - start[0]),
            shape=(len(base), units),
        )
        steps = _widened(csr_array(self.scale * base[:, :-1]) @ self._step, self._width)
        return Forms(
            csr_array(steps + weight @ _widened(self._outputs.matrix, self._width)),
            base[:, :-1] @ self._x + base[:, -1] + weight @ self._outputs.constant,
        )

    def add(self, number: int, known: LayerPieces) -> None:
        """Append the units of the next layer."""
        layer = self.net.layers[number]
        self.known.append(known)
        make = self._maxima if layer.is_max else self._piecewise
        made = make(layer, self.reads(number), known)
        before = _widened(self._outputs.matrix, self._width)
        self._outputs = Forms(
            csr_array(vstack([before, _widened(made.matrix, self._width)])),
            np.concatenate([self._outputs.constant, made.constant]),
        )

    def relaxation(self) -> LinearProgram:
        """The rows so far over the ball, without integrality and with no costs.

        A ball in l_2 is taken as the box around it.
        """
        return LinearProgram(
            np.zeros(self._width), *self._system(), np.concatenate(self._low),
            np.concatenate(self._high),
        )  # fmt: skip

    def program(self, lead: np.ndarray, limit: float, decide: bool) -> MixedIntegerProgram:
        """The nearest point of the ball at which a lead of the outputs is not positive.

        Parameters
        ----------
        lead : float64 (outputs,)
        limit : float
            Part of the radius within which to search, at most 1.
        decide : bool
            Any such point will do: there are no costs (but in l_2, where the costs alone hold
            the point in the ball).

        Returns
        -------
        MixedIntegerProgram
            Its value is the length in units of the radius, in l_2 the square of it.
        """
        n, d = self._width, self._inputs
        outputs = self.reads(len(self.net.layers))
        row = csr_array(csr_array(lead[None]) @ outputs.matrix)
        right = np.array([-float(lead @ outputs.constant)])
        A, row_low, row_high = self._system()
        A = csr_array(vstack([A, row]))
        row_low, row_high = np.append(row_low, -np.inf), np.append(row_high, right)
        low, high = np.concatenate(self._low), np.concatenate(self._high)
        whole = self.whole
        if self.p == 2:
            P = csr_array((np.full(d, 2.0), (np.arange(d), np.arange(d))), shape=(n, n))
            return MixedIntegerProgram(np.zeros(n), whole, A, row_low, row_high, low, high, P)
        if self.p == 1:
            cost = np.zeros(n)
            cost[:d] = 0.0 if decide else 1.0
            row_high[0] = limit  # the ball's row
            return MixedIntegerProgram(cost, whole, A, row_low, row_high, low, high)
        low[:d], high[:d] = np.maximum(low[:d], -limit), np.minimum(high[:d], limit)
        if decide:
            return MixedIntegerProgram(np.zeros(n), whole, A, row_low, row_high, low, high)
        below, above = np.flatnonzero(low[:d] < 0), np.flatnonzero(high[:d] > 0)
        at, count = np.concatenate([above, below]), len(above) + len(below)
        sign = np.concatenate([np.ones(len(above)), -np.ones(len(below))])
        sides = csr_array((sign, (np.arange(count), at)), shape=(count, n))
        length = hstack([sides, csr_array(-np.ones((count, 1)))])
        return MixedIntegerProgram(
            np.append(np.zeros(n), 1.0), np.append(whole, False),
            vstack([_widened(A, n + 1), length]), np.append(row_low, np.full(count, -np.inf)),
            np.append(row_high, np.zeros(count)), np.append(low, 0.0), np.append(high, limit),
        )  # fmt: skip

    def _piecewise(self, layer: Layer, reads: Forms, known: LayerPieces) -> Forms:
        """The units' outputs; columns and rows of those with several pieces."""
        breaks, slopes, intercepts = self._tables(layer)
        units = np.arange(layer.units)
        first, count = known.pieces.argmax(axis=1), known.pieces.sum(axis=1)
        slope, intercept = slopes[units, first], intercepts[units, first]
        open_ = np.flatnonzero(count > 1)
        start, last = first[open_], count[open_] - 1
        begin, end = known.low[open_], known.high[open_]
        single = csr_array(
            (np.where(count > 1, 0.0, slope), (units, units)), shape=(len(units), len(units))
        )
        constant = intercept + slope * np.where(count > 1, known.low, reads.constant)
        rows: list[np.ndarray] = []
        columns: list[np.ndarray] = []
        widths, factors = [], []
        none = np.zeros(0, np.int64)
        switches = [(none, none, none)]
        for j in range(int(last.max(initial=-1)) + 1):
            own = np.flatnonzero(last >= j)
            left = begin[own] if j == 0 else breaks[open_[own], start[own] + j - 1]
            piece = np.minimum(start[own] + j, breaks.shape[1] - 1)
            right = np.where(last[own] == j, end[own], breaks[open_[own], piece])
            width = np.maximum(right - left, 0.0)
            at = self._add_columns(np.zeros(len(own)), np.ones(len(own)))
            if j > 0:
                # The part j - 1 of these units is used up where this one is not zero.
                used = self._add_columns(np.zeros(len(own)), np.ones(len(own)), whole=True)
                before = columns[-1][np.searchsorted(rows[-1], own)]
                signs = [np.ones(len(own)), -np.ones(len(own))]
                self._add_sparse([before, used], signs, 0.0, np.inf)
                self._add_sparse([at, used], signs, -np.inf, 0.0)
                switches.append((layer.first_unit + open_[own], start[own] + j, used))
            rows.append(own)
            columns.append(at)
            widths.append(width)
            factors.append(width * slopes[open_[own], start[own] + j])
        self.switches.append(Switches(*map(np.concatenate, zip(*switches, strict=True))))
        if len(open_):
            row, column = np.concatenate(rows), np.concatenate(columns)
            shape = (len(open_), self._width)
            total = csr_array((np.concatenate(widths), (row, column)), shape=shape)
            read = reads.rows(open_)
            self._add_rows(
                _widened(read.matrix, self._width) - total,
                begin - read.constant, begin - read.constant,
            )  # fmt: skip
            outputs = csr_array(
                (np.concatenate(factors), (open_[row], column)), shape=(len(units), self._width)
            )
            return Forms(
                csr_array(_widened(single @ reads.matrix, self._width) + outputs), constant
            )
        return Forms(csr_array(single @ reads.matrix), constant)

    def _maxima(self, layer: Layer, reads: Forms, known: LayerPieces) -> Forms:
        """As `_piecewise`, of maxima."""
        op = self.net.graph.nodes[layer.node].op
        assert isinstance(op, Max)
        index = self.net.graph.constants[op.index]
        units = np.arange(layer.units)
        count = known.pieces.sum(axis=1)
        winner = index[units, known.pieces.argmax(axis=1)]
        open_ = np.flatnonzero(count > 1)
        closed = csr_array(
            ((count <= 1).astype(float), (units, winner)), shape=(len(units), len(known.low))
        )
        constant = np.where(count > 1, 0.0, reads.constant[winner])
        if not len(open_):
            self.switches.append(Switches(*np.zeros((3, 0), np.int64)))
            return Forms(csr_array(closed @ reads.matrix), constant)
        row, slot = np.nonzero(known.pieces[open_])
        value = index[open_[row], slot]
        low, high = known.low[value], known.high[value]
        least, most, runner = np.full((3, len(open_)), -np.inf)
        np.maximum.at(least, row, low)
        np.maximum.at(most, row, high)
        top = high == most[row]
        np.maximum.at(runner, row[~top], high[~top])
        runner = np.where(np.bincount(row[top], minlength=len(open_)) > 1, most, runner)
        room = np.maximum(np.where(top, runner[row], most[row]) - low, 0.0)
        result = self._add_columns(least, most)
        behind = self._add_columns(np.zeros(len(row)), np.maximum(most[row] - low, 0.0))
        wins = self._add_columns(np.zeros(len(row)), np.ones(len(row)), whole=True)
        self.switches.append(Switches(layer.first_unit + open_[row], slot, wins))
        k = len(row)
        read = reads.rows(value)
        gap = csr_array(
            (np.tile([1.0, -1.0], (k, 1)).ravel(), (np.repeat(np.arange(k), 2),
             np.column_stack([result[row], behind]).ravel())), shape=(k, self._width),
        )  # fmt: skip
        self._add_rows(gap - _widened(read.matrix, self._width), read.constant, read.constant)
        self._add_sparse([behind, wins], [np.ones(k), room], -np.inf, room)
        shape = (len(open_), self._width)
        self._add_rows(csr_array((np.ones(k), (row, wins)), shape=shape), 1.0, 1.0)
        ones = csr_array((np.ones(len(open_)), (np.arange(len(open_)), result)), shape=shape)
        self._add_rows(ones - csr_array((high, (row, wins)), shape=shape), -np.inf, 0.0)
        outputs = csr_array((np.ones(len(open_)), (open_, result)), shape=(len(units), self._width))
        return Forms(csr_array(_widened(closed @ reads.matrix, self._width) + outputs), constant)

    def _tables(self, layer: Layer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Breakpoints, slopes and intercepts (units, .) of a layer."""
        node = self.net.graph.nodes[layer.node]
        op = node.op
        assert isinstance(op, Piecewise)
        tables = (
            self.net.graph.constants[key] for key in (op.breakpoints, op.slopes, op.intercepts)
        )
        breaks, slopes, intercepts = (
            np.broadcast_to(table, (*node.shape, table.shape[-1])).reshape(node.size, -1)
            for table in tables
        )
        return breaks, slopes, intercepts

    def _add_columns(self, low: np.ndarray, high: np.ndarray, whole: bool = False) -> np.ndarray:
        """New columns; returns their numbers."""
        self._low.append(low)
        self._high.append(high)
        self._whole.append(np.full(len(low), whole))
        self._width += len(low)
        return np.arange(self._width - len(low), self._width)

    def _add_rows(
        self, matrix: csr_array, low: np.ndarray | float, high: np.ndarray | float
    ) -> None:
        count = matrix.shape[0]
        sides = (np.array(np.broadcast_to(side, (count,)), dtype=float) for side in (low, high))
        self._rows.append((csr_array(matrix), *sides))

    def _add_sparse(
        self, columns: list[np.ndarray], factors: list[np.ndarray],
        low: np.ndarray | float, high: np.ndarray | float,
    ) -> None:  # fmt: skip
        """Rows of one entry in each of some groups of columns."""
        count = len(columns[0])
        at = (np.tile(np.arange(count), len(columns)), np.concatenate(columns))
        self._add_rows(
            csr_array((np.concatenate(factors), at), shape=(count, self._width)), low, high
        )

    def _system(self) -> tuple[csr_array, np.ndarray, np.ndarray]:
        """All rows so far."""
        matrices = [_widened(matrix, self._width) for matrix, _, _ in self._rows]
        matrices.append(csr_array((0, self._width)))
        none = np.zeros(0)
        return (
            csr_array(vstack(matrices)),
            np.concatenate([none, *(low for _, low, _ in self._rows)]),
            np.concatenate([none, *(high for _, _, high in self._rows)]),
        )


def encoding_bytes(net: Engine) -> int:
    """Bytes that the encoding of a network takes at least."""
    nodes = net.graph.nodes
    reads = sum(nodes[nodes[layer.node].inputs[0]].size for layer in net.layers)
    return 16 * (reads + net.output_size) * (net.input_size + 1)


def _widened(matrix: csr_array, width: int) -> csr_array:
    """The same rows with columns of zeros appended."""
    return csr_array((matrix.data, matrix.indices, matrix.indptr), shape=(matrix.shape[0], width))
