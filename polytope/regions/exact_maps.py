"""The affine maps and rows of a pattern over a domain's coordinates, in exact integers.

A map is a matrix of integers [gradient | constant] with one positive scale; a row [a | -b] says
``a u <= b`` and is primitive (its numbers have no common divisor), so that two rows bound the
same halfspace if and only if they are equal.  Maps are built layer by layer from those of the
layer before, and kept: a search asks for the same first layers again and again.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from polytope.errors import InputError
from polytope.network.engine import Engine
from polytope.network.exact import ExactState
from polytope.network.exact_ops import ExactArray, exact_constants, per_unit, to_common
from polytope.network.ir import Layer, Max, Piecewise
from polytope.regions.domain import Domain
from polytope.regions.exact_interior import primitive

#: Integers that the kept maps may hold together: some 150 MB.
KEPT_INTEGERS = 2**21


class ExactMaps:
    """The exact affine maps of a network's patterns over the coordinates of a domain.

    Parameters
    ----------
    net : Engine
    domain : Domain
        Its floats are taken as exact numbers; an l_2 ball of it is not a matter of rows and
        is not read.
    kept : int, optional
        Maps of layers to keep, the last used ones; by default as many as `KEPT_INTEGERS` allow.

    Raises
    ------
    SmoothActivation
        If the network is not piecewise linear.
    """

    def __init__(self, net: Engine, domain: Domain, kept: int | None = None) -> None:
        net.require_piecewise_linear("exact arithmetic")
        self.net = net
        self.graph = net.graph
        frame = np.zeros((domain.size, domain.dimension + 1))
        if domain.basis is None or domain.origin is None:
            np.fill_diagonal(frame, 1.0)
        else:
            frame[:, :-1], frame[:, -1] = domain.basis.T, domain.origin
        self._frame = ExactArray.from_floats(frame)
        self._first = ExactState.start(self.graph, self._frame)
        self._domain_rows = [
            primitive(ExactArray.from_floats(np.append(a, -b)).integers)
            for a, b in zip(domain.A, domain.b, strict=True)
        ]
        widest = max(node.size for node in self.graph.nodes) * frame.shape[1]
        self._kept = max(64, KEPT_INTEGERS // widest) if kept is None else kept
        self._states: OrderedDict[tuple[int, bytes], ExactState] = OrderedDict()

    @property
    def domain_rows(self) -> int:
        """Halfspaces of the domain."""
        return len(self._domain_rows)

    def layer(self, number: int, pieces: np.ndarray) -> ExactArray:
        """The map of what a layer reads, under the pieces of the layers before it.

        Parameters
        ----------
        number : int
            Position in ``graph.layers``; their number for the outputs.
        pieces : int array (at least the units of all earlier layers,)
            Later units are not read.

        Returns
        -------
        ExactArray
            With ``integers`` (n, k + 1), [gradient | constant] of each pre-activation; for a
            maximum, of all values that its windows read. Shared with the cache: read only.
        """
        return self._state(number, pieces).preactivations

    def row(self, pieces: np.ndarray, row: int) -> np.ndarray:
        """One row of `rows`: object array (k + 1,)."""
        return np.asarray(self.rows(pieces, [row])[0])

    def rows(self, pieces: np.ndarray, rows: list[int] | np.ndarray) -> np.ndarray:
        """Rows [a | -b] of a pattern, oriented outward: ``a u - b <= 0`` in its region.

        Parameters
        ----------
        pieces : int array (units,)
            Those of later layers than the rows' are not read.
        rows : int sequence (m,)
            Ids ``layer.first_row + unit * layer.slots + slot``; from ``net.rows`` on, the
            halfspaces of the domain.

        Returns
        -------
        object array (m, k + 1) of Python ints
            Primitive. A row of zeros stands for a maximum's winner, for a place of its window
            that is empty, and wherever the two sides are the same function.

        Raises
        ------
        InputError
            If there is no such row.
        """
        ids = np.asarray(rows, dtype=np.int64)
        found = np.empty((len(ids), self._frame.integers.shape[1]), dtype=object)
        total = self.net.rows + len(self._domain_rows)
        if len(ids) and not 0 <= ids.min() <= ids.max() < total:
            raise InputError(f"rows: got {ids.min()} to {ids.max()}, expected 0 to {total - 1}")
        for number, layer in enumerate(self.graph.layers):
            place = layer.row_slice
            mine = np.flatnonzero((ids >= place.start) & (ids < place.stop))
            if len(mine):
                found[mine] = self._layer_rows(number, layer, pieces, ids[mine] - place.start)
        for position in np.flatnonzero(ids >= self.net.rows):
            found[position] = self._domain_rows[ids[position] - self.net.rows]
        return found

    def germ_pieces(self, point: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """The pieces of all units just beyond a point: at ``point + eps * direction``, eps -> 0+.

        Parameters
        ----------
        point : int array (k + 1,)
            Homogeneous: coordinates ``point[:-1] / point[-1]``, the last positive.
        direction : int array (k,), or (j, k)
            Of several directions each decides where those before it leave a tie.

        Returns
        -------
        int64 array (units,)
            Where value and derivatives tie, the piece of the convention for ties.
        """
        corner = np.asarray(point, dtype=object)
        if not corner[-1] > 0:
            raise InputError(f"germ_pieces: the last number of the point is {corner[-1]}, not > 0")
        ways = np.atleast_2d(np.asarray(direction, dtype=object))
        frame = self._frame.integers
        columns = np.column_stack([frame[:, :-1] @ ways.T, frame @ corner])
        start = ExactArray(columns, self._frame.exponent, int(corner[-1]))
        state = ExactState.start(self.graph, start)
        pieces = [np.zeros(0, np.int64)]
        while state.layer < len(self.graph.layers):
            pieces.append(state.natural_pieces())
            state = state.advance(pieces[-1])
        return np.concatenate(pieces)

    def _state(self, number: int, pieces: np.ndarray) -> ExactState:
        """The state at a layer, from the deepest one that is kept."""
        if number == 0:
            return self._first
        before = self.graph.layers[number - 1].unit_slice
        prefix = np.ascontiguousarray(pieces[: before.stop], dtype=np.int64)
        key = (number, prefix.tobytes())
        state = self._states.get(key)
        if state is not None:
            self._states.move_to_end(key)
            return state
        state = self._state(number - 1, prefix).advance(prefix[before])
        self._states[key] = state
        if len(self._states) > self._kept:
            self._states.popitem(last=False)
        return state

    def _layer_rows(
        self, number: int, layer: Layer, pieces: np.ndarray, local: np.ndarray
    ) -> np.ndarray:
        """Rows of one layer, by their place in it."""
        unit, slot = np.divmod(local, layer.slots)
        piece = np.asarray(pieces[layer.unit_slice], dtype=np.int64)[unit]
        z = self.layer(number, pieces)
        node = self.graph.nodes[layer.node]
        if isinstance(node.op, Max):
            index = self.graph.constants[node.op.index]
            candidate, winner = index[unit, slot], index[unit, piece]
            found: np.ndarray = z.integers[candidate] - z.integers[winner]
            found[candidate < 0] = 0
        else:
            assert isinstance(node.op, Piecewise)
            breakpoints = exact_constants(self.graph)[node.op.breakpoints]
            own = ExactArray(z.integers[unit], z.exponent, z.denominator)
            (found, limits), _, _ = to_common([own, breakpoints])
            found = found * np.where(piece <= slot, 1, -1).astype(object)[:, None]
            limit = per_unit(limits, node.shape)[unit, slot]
            found[:, -1] -= np.where(piece <= slot, limit, -limit)
        for position, row in enumerate(found):
            found[position] = primitive(row)
        return found
