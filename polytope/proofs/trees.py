"""Trees that refute: no point of a set has outputs with ``A y <= b``.

A node knows the pieces of some units, a set (or a part of it) and bounds of all that units read. It
branches on the pieces of a unit that its bounds reach, or cuts a coordinate of a box; or it is a
leaf.  A leaf has multipliers ``m >= 0``: of the rows ``A y - b <= 0``, and of each inequality
``h <= 0`` that its fixed pieces imply (``z - t <= 0`` below a breakpoint t, ``t - z <= 0`` above
it, ``z_j - z_w <= 0`` for a candidate and the winner of a maximum).  Where all these hold, F =
sum m_r (A y - b)_r + sum m_k h_k <= 0.  F is carried back to the inputs: a fixed unit is its piece,
an open one lies between two lines, and the one that makes F smaller is taken.  What is left is an
affine function below F; if its least value in the set is positive, the leaf holds nothing.  (If it
is not, the terms of F are carried back one by one, and what is left of them is added up.)

Bounds are proved in the same way, layer by layer: those that a certificate gives for its root, to
be leant on by the whole tree; or, where it gives none, at each node anew, by lines that follow from
the bounds of the layers before (`lines`), and never worse than those of the node above.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Generic, NamedTuple

import numpy as np

from polytope.certificate_file import Rejected
from polytope.network.exact_layers import Exact, Layer, Map, Windows
from polytope.proofs.enclosed import N
from polytope.proofs.lines import Lines, lines_of
from polytope.proofs.sets import Set

#: Leaves, or bounds, that are checked together.
TOGETHER = 256
#: The first column of a tree: a leaf; and `CUT` less a coordinate that is cut.
LEAF, CUT = -1, -2


class Inequality(NamedTuple):
    """``sign (value - other) <= sign * limit`` of a layer's values; other -1: none."""

    layer: int
    value: int
    other: int
    sign: int
    limit: Fraction


class Leaf(NamedTuple):
    """A leaf: the pieces (units,), what they imply, and the multipliers."""

    fixed: np.ndarray
    inequalities: list[Inequality]
    multipliers: np.ndarray


class Term(NamedTuple):
    """A function: weights by (layer, value), weights of the outputs, and a constant."""

    values: dict[tuple[int, int], Fraction]
    outputs: list[Fraction]
    rest: Fraction


@dataclass(frozen=True, eq=False)
class Node:
    """What is known somewhere in a tree.

    Attributes
    ----------
    around : Set
    fixed : int (units,)
        The pieces that units take; -1 for open ones.
    lines : list of Lines
        Of each layer.
    bounds : list of float64 (2, values)
    fresh : int
        The first layer whose bounds may be better than these.
    empty : bool
        Whether the bounds show that no point of the set takes these pieces.
    """

    around: Set
    fixed: np.ndarray
    lines: list[Lines]
    bounds: list[np.ndarray]
    fresh: int
    kept: bool
    empty: bool = False


class Trees(Generic[N]):
    """A network in one arithmetic, and the trees that refute claims about it.

    Parameters
    ----------
    layers : list of Layer
    outputs : Map
    numbers : type
        The arithmetic: `Exact`, or `Enclosed`.
    """

    def __init__(self, layers: Sequence[Layer], outputs: Map, numbers: type[N]) -> None:
        self.layers = layers
        self.numbers: type[N] = numbers
        self.first = np.cumsum([0, *(layer.count for layer in layers)])
        self._maps: list[tuple[dict[int, N], N]] = [
            ({k: numbers.given(part) for k, part in own.parts.items()},
             numbers.given(Exact(own.constant.integers[:, None], own.constant.scale)))
            for own in (*(layer.map for layer in layers), outputs)
        ]  # fmt: skip
        self._pieces: list[tuple[N, N] | None] = [
            None if isinstance(layer.units, Windows)
            else (numbers.given(layer.units.slopes), numbers.given(layer.units.rests))
            for layer in layers
        ]  # fmt: skip

    def root(self, around: Set, slopes: Sequence[tuple[np.ndarray, np.ndarray]] | None) -> Node:
        """A root, with slopes to be leant on by the whole tree, or with lines that follow."""
        known = [np.stack([np.full(layer.values, -np.inf), np.full(layer.values, np.inf)])
                 for layer in self.layers]  # fmt: skip
        fixed = np.full(self.first[-1], -1)
        return self._bounded(Node(around, fixed, [], known, 0, slopes is not None), slopes)

    def _bounds(self, node: Node, number: int, chosen: np.ndarray) -> np.ndarray:
        """Bounds (2, chosen) of some values of a layer by the lines of the layers before it."""
        eye = np.zeros((len(chosen), self.layers[number].values))
        eye[np.arange(len(chosen)), chosen] = 1.0
        both = np.concatenate([eye, -eye])
        found: list[np.ndarray] = []
        for start in range(0, len(both), TOGETHER):
            part = both[start : start + TOGETHER]
            own = self.below(node, {number: self.numbers.of(part)}, None, node.fixed[None])
            found.append(node.around.least(*own))
        least = np.concatenate([*found, np.zeros(0)])
        return np.stack([least[: len(chosen)], -least[len(chosen) :]])

    def _bounded(
        self, node: Node, slopes: Sequence[tuple[np.ndarray, np.ndarray]] | None = None
    ) -> Node:
        """The node with bounds and lines of its own."""
        bounds, lines = list(node.bounds), list(node.lines[: node.fresh])
        known = replace(node, lines=lines, bounds=bounds, fresh=len(self.layers))
        for number in range(node.fresh, len(self.layers)):
            layer, ends = self.layers[number], bounds[number].copy()
            chosen = np.flatnonzero(_undecided(layer, ends))
            if len(chosen):
                found = self._bounds(known, number, chosen)
                if np.isnan(found).any():
                    raise Rejected("numbers are too large for the arithmetic")
                ends[0, chosen] = np.maximum(ends[0, chosen], found[0])
                ends[1, chosen] = np.minimum(ends[1, chosen], found[1])
            own = node.fixed[self.first[number] : self.first[number + 1]]
            if (ends[0] > ends[1]).any() or _unreached(layer, ends, own):
                return replace(known, empty=True)
            bounds[number] = ends
            given = None if slopes is None else slopes[number]
            lines.append(lines_of(layer, ends, given, self.numbers))
        return known

    def below(
        self, node: Node, values: Mapping[int, N], outputs: N | None, fixed: np.ndarray
    ) -> tuple[N, N]:
        """Affine functions of the step (m, d) and (m,) below functions of values and outputs.

        `fixed` are the pieces (m, units) that units take, or (1, units) for all functions.
        """
        m = next(own.shape[0] for own in (*values.values(), outputs) if own is not None)
        collected: dict[int, N] = {}
        constant: N = self.numbers.of(np.zeros((m, 1)))

        def add(number: int, c: N) -> None:
            nonlocal constant
            parts, rest = self._maps[number]
            for source, part in parts.items():
                product = c.times(part)
                old = collected.get(source)
                collected[source] = product if old is None else old.plus(product)
            constant = constant.plus(c.times(rest))

        if outputs is not None:
            add(len(self.layers), outputs)
        for number in range(len(self.layers) - 1, -1, -1):
            here = values.get(number)
            if number in collected:
                own = slice(self.first[number], self.first[number + 1])
                carried, rest = self._through(
                    number, node.lines[number], collected.pop(number), fixed[:, own]
                )
                constant = constant.plus(rest)
                here = carried if here is None else here.plus(carried)
            if here is not None:
                add(number, here)
        around = node.around
        g = collected.get(-1)
        if g is None:
            g = self.numbers.of(np.zeros((m, len(around.x.integers))))
        at_x = self.numbers.given(Exact(around.x.integers[:, None], around.x.scale))
        return g, constant.plus(g.times(at_x)).part((slice(None), 0))

    def _through(self, number: int, lines: Lines, c: N, fixed: np.ndarray) -> tuple[N, N]:
        """Carry functions (m, units) through a layer from above to below: (m, values), (m, 1)."""
        layer, of = self.layers[number], self.numbers.of
        taken, held = np.maximum(fixed, 0), fixed >= 0
        if not isinstance(layer.units, Windows):
            each, found = np.arange(layer.count), []
            pieces = self._pieces[number]
            assert pieces is not None
            for piece, low, high in ((pieces[0], lines.low, lines.high),
                                     (pieces[1], lines.low_rest, lines.high_rest)):  # fmt: skip
                below, above = of(low), of(high)
                if held.any():
                    own = piece.part((each, taken))
                    below, above = own.chosen(held, below), own.chosen(held, above)
                found.append(c.carried(below, above))
            return found[0], _column(found[1].total())
        total: N | None = None
        for k in range(layer.units.index.shape[1]):
            lower = np.where(held, taken == k, lines.below == k).astype(np.float64)
            upper = np.where(held, taken == k, lines.high[:, k])
            part = c.carried(of(lower), of(upper))
            part = part.gathered(layer.units.index[:, k], layer.values)
            total = part if total is None else total.plus(part)
        assert total is not None
        rests = np.where(held, 0.0, lines.high_rest)
        return total, _column(c.carried(of(np.zeros(rests.shape)), of(rests)).total())

    def refute(
        self, root: Node, A: Exact, b: Exact, tree: np.ndarray, cuts: np.ndarray,
        multipliers: np.ndarray,
    ) -> int:  # fmt: skip
        """Check that a tree shows that no point of the root's set has ``A y <= b``.

        Parameters
        ----------
        root : Node
        A, b : Exact (m, outputs), (m,)
        tree : int (n, 2)
            Depth first: a unit, and the pieces that it has children for, as bits; or `CUT` less a
            coordinate, for two children; or a leaf, and how many multipliers it has.
        cuts : float64 (...)
            The places of the cuts.
        multipliers : float64 (...)
            Leaf by leaf; a leaf may have none if its bounds show that it is empty.

        Returns
        -------
        int
            The leaves.
        """
        if not (multipliers >= 0).all():
            raise Rejected("a multiplier is negative")
        stack, waiting, count, used, cut = [root], _Batch(root), 0, 0, 0
        for row in tree:
            code, argument = int(row[0]), int(row[1])
            if not stack:
                raise Rejected("a tree goes on after its end")
            node = stack.pop()
            if node.fresh < len(self.layers) and not node.empty:
                node = self._bounded(node)
            if code >= 0:
                stack += reversed(self._branches(node, code, argument))
            elif code <= CUT:
                if CUT - code >= node.around.x.shape[0] or cut >= len(cuts):
                    raise Rejected("a tree cuts a coordinate that does not exist")
                parts = node.around.cut(CUT - code, float(cuts[cut]))
                stack += [replace(node, around=part, lines=[], fresh=0) for part in reversed(parts)]
                cut += 1
            else:
                own = multipliers[used : used + argument]
                used, count = used + argument, count + 1
                if argument < 0 or used > len(multipliers):
                    raise Rejected("a leaf lacks multipliers")
                if node.empty:
                    continue
                together = node.lines is waiting.node.lines and node.around is waiting.node.around
                if not together or len(waiting.leaves) == TOGETHER:
                    self._refute_leaves(A, b, waiting)
                    waiting = _Batch(node)
                waiting.leaves.append(Leaf(node.fixed, self._inequalities(node.fixed), own))
        self._refute_leaves(A, b, waiting)
        if stack or used != len(multipliers) or cut != len(cuts):
            raise Rejected("a tree is not complete, or has multipliers left over")
        return count

    def _branches(self, node: Node, unit: int, bits: int) -> list[Node]:
        """The children of a branch on a unit."""
        if unit >= self.first[-1] or node.fixed[unit] >= 0:
            raise Rejected("a tree branches on a unit that is fixed, or does not exist")
        number = int(np.searchsorted(self.first, unit, side="right")) - 1
        own, live = [k for k in range(bits.bit_length()) if bits >> k & 1], set()
        units = self.layers[number].units
        count = (units.index if isinstance(units, Windows) else units.floats[1]).shape[1]
        if bits >> count:
            raise Rejected("a branch has a piece that its unit does not have")
        if not node.empty:
            reached = node.lines[number].live[unit - self.first[number]]
            live = set(np.flatnonzero(reached).tolist())
        if bits <= 0 or not live <= set(own):
            raise Rejected("a branch lacks a piece that its unit can take")
        children = []
        for piece in own:
            if piece not in live:
                children.append(replace(node, empty=True))
                continue
            fixed = node.fixed.copy()
            fixed[unit] = piece
            fresh = node.fresh if node.kept else number + 1
            children.append(replace(node, fixed=fixed, fresh=fresh))
        return children

    def _inequalities(self, fixed: np.ndarray) -> list[Inequality]:
        """What the fixed pieces (units,) imply, unit by unit."""
        found = []
        for unit in np.flatnonzero(fixed >= 0).tolist():
            number = int(np.searchsorted(self.first, unit, side="right")) - 1
            layer, u, piece = self.layers[number], unit - int(self.first[number]), fixed[unit]
            if isinstance(layer.units, Windows):
                winner = int(layer.units.index[u, piece])
                for other in layer.units.index[u].tolist():
                    if other >= 0 and other != winner:
                        found.append(Inequality(number, other, winner, 1, Fraction(0)))
                continue
            breaks = layer.units.floats[0][u].tolist()
            if piece < len(breaks):
                found.append(Inequality(number, u, -1, 1, Fraction(breaks[piece])))
            if piece > 0:
                found.append(Inequality(number, u, -1, -1, Fraction(breaks[piece - 1])))
        return found

    def _refute_leaves(self, A: Exact, b: Exact, batch: _Batch) -> None:
        """Check that F is positive at each leaf (see above)."""
        if not batch.leaves:
            return
        rows = [_weighted(A, b, leaf) for leaf in batch.leaves]
        joined = [_together(terms) for terms in rows]
        least = self._least(batch.node, joined, [leaf.fixed for leaf in batch.leaves])
        left = ~(least > 0)
        for leaf, terms in zip(itertools.compress(batch.leaves, left),
                               itertools.compress(rows, left), strict=True):  # fmt: skip
            # Carried back one by one the terms can do better than their sum.
            values, outputs, rest = self._stacked(terms)
            g, constant = self.below(batch.node, values, outputs, leaf.fixed[None])
            ones = self.numbers.of(np.ones((1, len(terms))))
            total = ones.times(_column(constant.plus(rest))).part((slice(None), 0))
            if not batch.node.around.least(ones.times(g), total)[0] > 0:
                raise Rejected("the multipliers of a leaf do not prove it")

    def _least(self, node: Node, terms: Sequence[Term], fixed: Sequence[np.ndarray]) -> np.ndarray:
        """Lower bounds of functions in a set."""
        values, outputs, rest = self._stacked(terms)
        g, constant = self.below(node, values, outputs, np.array(fixed))
        return node.around.least(g, constant.plus(rest))

    def _stacked(self, terms: Sequence[Term]) -> tuple[dict[int, N], N, N]:
        """Terms as functions (m, values) of each layer, of the outputs, and as constants (m,)."""
        m = len(terms)
        weights = Exact.fractions([w for t in terms for w in t.values.values()])
        tables = {k: np.zeros((m, self.layers[k].values), dtype=object)
                  for k in {layer for t in terms for layer, _ in t.values}}  # fmt: skip
        places = [(i, layer, v) for i, t in enumerate(terms) for layer, v in t.values]
        for (i, layer, value), w in zip(places, weights.integers, strict=True):
            tables[layer][i, value] += w
        given, rest = self.numbers.given, Exact.fractions([term.rest for term in terms])
        outputs = Exact.fractions([v for t in terms for v in t.outputs])
        return (
            {k: given(Exact(table, weights.scale)) for k, table in tables.items()},
            given(Exact(outputs.integers.reshape(m, -1), outputs.scale)), given(rest),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Batch:
    """Leaves that lean on the lines of one node."""

    node: Node
    leaves: list[Leaf] = field(default_factory=list)


def _weighted(A: Exact, b: Exact, leaf: Leaf) -> list[Term]:
    """The terms of F: the rows ``A y - b`` and the inequalities, times their multipliers."""
    m, zero = len(A.integers), Fraction(0)
    if len(leaf.multipliers) != m + len(leaf.inequalities):
        raise Rejected("a leaf has too many or too few multipliers")
    weights, terms = [Fraction(w) for w in leaf.multipliers.tolist()], []
    for w, row, limit in zip(weights, A.integers, b.integers, strict=False):
        if w:
            terms.append(Term({}, [w * v * A.scale for v in row], -w * limit * b.scale))
    for w, own in zip(weights[m:], leaf.inequalities, strict=True):
        if w:
            values = {(own.layer, own.value): w * own.sign}
            if own.other >= 0:
                values[own.layer, own.other] = -w * own.sign
            terms.append(Term(values, [zero] * A.shape[1], -w * own.sign * own.limit))
    return terms or [Term({}, [zero] * A.shape[1], zero)]


def _together(terms: Sequence[Term]) -> Term:
    """The sum of some terms."""
    values: dict[tuple[int, int], Fraction] = {}
    for term in terms:
        for key, w in term.values.items():
            values[key] = values.get(key, Fraction(0)) + w
    outputs = [sum(column, Fraction(0)) for column in zip(*(t.outputs for t in terms), strict=True)]
    return Term(values, outputs, sum((t.rest for t in terms), Fraction(0)))


def _undecided(layer: Layer, ends: np.ndarray) -> np.ndarray:
    """Which values of a layer are worth bounding: bool (values,)."""
    if isinstance(layer.units, Windows):
        index = layer.units.index
        floor = np.where(index >= 0, ends[0][index], -np.inf).max(axis=1)
        may = (index >= 0) & (ends[1][index] >= floor[:, None])
        found = np.zeros(layer.values, dtype=bool)
        found[index[may & (may.sum(axis=1) > 1)[:, None]]] = True
        return np.asarray(found | ~np.isfinite(ends).all(axis=0))
    breaks = layer.units.floats[0]
    inside = (breaks > ends[0][:, None]) & (breaks < ends[1][:, None])
    return np.asarray(inside.any(axis=1) | ~np.isfinite(ends).all(axis=0))


def _unreached(layer: Layer, ends: np.ndarray, fixed: np.ndarray) -> bool:
    """Whether a unit's bounds lie outside of the piece (units,) that it is to take."""
    for u in np.flatnonzero(fixed >= 0).tolist():
        if isinstance(layer.units, Windows):
            window = layer.units.index[u]
            if ends[1][window[fixed[u]]] < ends[0][window[window >= 0]].max():
                return True
            continue
        breaks = layer.units.floats[0][u]
        if fixed[u] < len(breaks) and ends[0, u] > breaks[fixed[u]]:
            return True
        if fixed[u] > 0 and ends[1, u] < breaks[fixed[u] - 1]:
            return True
    return False


def _column(row: N) -> N:
    """A list (m,) as a column (m, 1)."""
    return row.part((slice(None), None))
