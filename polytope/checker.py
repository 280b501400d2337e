"""The checker of certificates: exact integers, no solver, no code of the engines.

**The claim.**  Within distance r of x (in l_1, l_2 or l_inf) and inside the box, no point is
adversarial: for every class t that counts, f_label > f_t.  And, with a witness w, at distance r'
from x and inside the box f_t(w) >= f_label(w) for some t that counts.

**The proof.**  For each t a tree branches on the pieces of units.  At its root every value that a
unit reads has bounds; a unit's pieces are those that its bounds reach, and a branch has one child
for each.  At a leaf, where some units' pieces are fixed, there are multipliers ``m >= 0``: m_0 of
the lead ``f_label - f_t``, and one for each inequality ``h_k <= 0`` that the fixed pieces imply
(``z - b <= 0`` below a breakpoint, ``b - z <= 0`` above it, ``z_j - z_w <= 0`` for a candidate and
the winner of a maximum).  At an adversarial point with these pieces F = m_0 (f_label - f_t) + sum
m_k h_k <= 0.  F is carried back to the inputs: a fixed unit is its piece, an open one lies between
two lines, and the one that makes F smaller is taken.  What is left is an affine function below F;
if its least value within r and the box is positive, the leaf holds nothing adversarial.  (If it is
not, the terms of F are carried back one by one, and what is left of them is added up.)  The
root's bounds are proved in the same way, layer by layer.

**What is trusted.**  Python's integers (python-flint's where it is installed: the same products
faster), numpy's indexing, the reader of the compiled graph, and this file.  Floats of the
certificate are read as the exact numbers that they are; nothing is rounded.
"""

from __future__ import annotations

import io
import itertools
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from polytope.certificate_file import Certificate, Checked, Fields, Rejected, read
from polytope.errors import FileProblem, PolytopeError
from polytope.exact_set import Set
from polytope.network.exact_layers import (
    Exact,
    Layer,
    Map,
    Windows,
    evaluate,
    finer,
    layers_of,
)
from polytope.network.ir import Graph

#: Leaves, or bounds, that are checked together.
TOGETHER = 256
ZERO = Exact(np.zeros(1, dtype=object))


@dataclass(frozen=True, eq=False)
class Lines:
    """Lines below and above each unit of a layer, and the pieces that its bounds reach.

    For windows the lower line is the value `below`, the upper one has weights for all candidates.
    """

    live: list[list[int]]
    low: Exact
    low_rest: Exact
    high: Exact
    high_rest: Exact
    below: np.ndarray


def lines_of(layer: Layer, bounds: np.ndarray, low: np.ndarray, high: np.ndarray) -> Lines:
    """The lines of given slopes, as tight as the bounds (2, values) allow, exactly."""
    least, most = ([Fraction(v) for v in side.tolist()] for side in bounds)
    if any(a > b for a, b in zip(least, most, strict=True)):
        raise Rejected("bounds cross")
    live: list[list[int]] = []
    below: list[Fraction] = []
    above: list[Fraction] = []
    if isinstance(layer.units, Windows):
        shares = [[Fraction(w) for w in row] for row in high.tolist()]
        for window, share, chosen in zip(layer.units.index.tolist(), shares, low.tolist(),
                                         strict=True):  # fmt: skip
            own = {k: v for k, v in enumerate(window) if v >= 0}
            floor = max(least[v] for v in own.values())
            may = [k for k, v in own.items() if most[v] >= floor]
            sure = [k for k in may if all(least[own[k]] >= most[own[j]] for j in may if j != k)]
            live.append(sure[:1] or may)
            if chosen not in own.values():
                raise Rejected("the lower line of a maximum is none of its candidates")
            gains = []
            for winner in live[-1]:  # the most that it can be above the weighted sum
                gain = dict.fromkeys(own.values(), Fraction(0))
                gain[own[winner]] += 1
                for k, v in own.items():
                    gain[v] -= share[k]
                gains.append(sum(c * (most[v] if c > 0 else least[v]) for v, c in gain.items()))
            above.append(Fraction(max(gains)))
        zero = Exact(np.zeros(layer.count, dtype=object))
        return Lines(live, zero, zero, Exact.of(high), Exact.fractions(above), low.astype(np.int64))
    pieces = [e.rows() for e in (layer.units.breaks, layer.units.slopes, layer.units.rests)]
    given = [[Fraction(v) for v in side.tolist()] for side in (low, high)]
    for u in range(layer.count):
        breaks, slope, rest = (part[u] for part in pieces)
        # A piece that the interval only touches has a neighbour with the same value there.
        own_pieces = [k for k in range(len(slope)) if (k == 0 or most[u] > breaks[k - 1])
                      and (k == len(breaks) or least[u] < breaks[k])]  # fmt: skip
        live.append(own_pieces or [sum(b <= least[u] for b in breaks)])
        ends = [least[u], *(min(max(b, least[u]), most[u]) for b in breaks), most[u]]
        corners = [(t, slope[k] * t + rest[k]) for k in live[-1] for t in ends[k : k + 2]]
        below.append(min(f - given[0][u] * t for t, f in corners))
        above.append(max(f - given[1][u] * t for t, f in corners))
    return Lines(live, Exact.of(low), Exact.fractions(below), Exact.of(high),
                 Exact.fractions(above), np.zeros(0, dtype=np.int64))  # fmt: skip


def through(layer: Layer, lines: Lines, units: Exact, fixed: np.ndarray) -> tuple[Exact, Exact]:
    """Carry functions (m, units) through a layer from above to below.

    Parameters
    ----------
    fixed : int (m, units)
        The pieces that units take; -1 for open ones.

    Returns
    -------
    (values, constant) : Exact (m, values), (m,)
    """
    c, up, each = units.integers, units.integers < 0, np.arange(layer.count)
    taken = np.maximum(fixed, 0)
    if not isinstance(layer.units, Windows):
        found = []
        for piece, low, high in ((layer.units.slopes, lines.low, lines.high),
                                 (layer.units.rests, lines.low_rest, lines.high_rest)):  # fmt: skip
            scale = finer(piece.scale, finer(low.scale, high.scale))
            open_ = np.where(up, high.at(scale), low.at(scale))
            chosen = np.where(fixed >= 0, piece.at(scale)[each, taken], open_)
            found.append(Exact(c * chosen, units.scale * scale))
        return found[0], Exact(found[1].integers.sum(axis=1), found[1].scale)
    one = (1 / lines.high.scale).numerator
    values = np.zeros((len(c), layer.values), dtype=object)
    winner = np.where(fixed >= 0, layer.units.index[each, taken], lines.below)
    plain = (fixed >= 0) | ~up
    for i, u in zip(*np.nonzero(plain & (c != 0)), strict=True):
        values[i, winner[i, u]] += c[i, u] * one
    for i, u in zip(*np.nonzero(~plain & (c != 0)), strict=True):
        for v, w in zip(layer.units.index[u], lines.high.integers[u], strict=True):
            if v >= 0:
                values[i, v] += c[i, u] * w
    rests = np.where(plain, 0, c * lines.high_rest.integers).sum(axis=1)
    return Exact(values, units.scale / one), Exact(rests, units.scale * lines.high_rest.scale)


class Inequality(NamedTuple):
    """``sign (value - other) <= sign * limit`` of a layer's values; other -1: none."""

    layer: int
    value: int
    other: int
    sign: int
    limit: Fraction


class Leaf(NamedTuple):
    """A leaf of a tree: the pieces (units,), what they imply, and one multiplier more than that."""

    fixed: np.ndarray
    inequalities: list[Inequality]
    multipliers: np.ndarray


class Term(NamedTuple):
    """A function: weights by (layer, value), weights of the outputs, and a constant."""

    values: dict[tuple[int, int], Fraction]
    lead: list[Fraction]
    rest: Fraction


class Proof:
    """A network, a set, and the root's bounds: what all trees of a certificate lean on."""

    def __init__(self, layers: list[Layer], outputs: Map, around: Set, fields: Fields) -> None:
        self.layers, self.outputs, self.around = layers, outputs, around
        self.lines: list[Lines] = []
        self.first = np.cumsum([0, *(layer.count for layer in layers)])
        for number, layer in enumerate(layers):
            bounds = fields.array(f"bounds_{number}", np.float64, (2, layer.values))
            self._prove_bounds(number, bounds)
            shape = layer.units.index.shape if isinstance(layer.units, Windows) else (layer.count,)
            low = fields.array(f"low_{number}", np.float64, (layer.count,))
            high = fields.array(f"high_{number}", np.float64, shape)
            self.lines.append(lines_of(layer, bounds, low, high))

    def _prove_bounds(self, number: int, bounds: np.ndarray) -> None:
        """Check the bounds of a layer's values by the lines of the layers before it."""
        layer = self.layers[number]
        eye = np.zeros((layer.values, layer.values), dtype=object)
        np.fill_diagonal(eye, 1)
        claims = Exact.of(np.concatenate([bounds[0], -bounds[1]]))
        both = np.concatenate([eye, -eye])
        for start in range(0, len(both), TOGETHER):
            part = slice(start, start + TOGETHER)
            open_ = np.full((len(both[part]), self.first[-1]), -1)
            g, constant = self.below({number: Exact(both[part])}, None, open_)
            holds = self.around.at_least(
                g, constant, Exact(claims.integers[part], claims.scale), False
            )
            if not holds.all():
                raise Rejected(f"a bound of what layer {number} reads does not hold")

    def below(
        self, values: Mapping[int, Exact], outputs: Exact | None, fixed: np.ndarray
    ) -> tuple[Exact, Exact]:
        """Affine functions of the step (m, d) and (m,) below functions of values and outputs."""
        m = len(fixed)
        collected: dict[int, Exact] = {}
        constant = Exact(np.zeros(m, dtype=object))

        def add(map_: Map, c: Exact) -> None:
            nonlocal constant
            for source, part in map_.parts.items():
                product = c.times(part)
                old = collected.get(source)
                collected[source] = product if old is None else old.plus(product)
            column = Exact(map_.constant.integers[:, None], map_.constant.scale)
            product = c.times(column)
            constant = constant.plus(Exact(product.integers[:, 0], product.scale))

        if outputs is not None:
            add(self.outputs, outputs)
        for number in range(len(self.layers) - 1, -1, -1):
            here = values.get(number)
            if number in collected:
                own = slice(self.first[number], self.first[number + 1])
                carried, rest = through(
                    self.layers[number], self.lines[number], collected.pop(number), fixed[:, own]
                )
                constant = constant.plus(rest)
                here = carried if here is None else here.plus(carried)
            if here is not None:
                add(self.layers[number].map, here)
        d = len(self.around.up)
        g = collected.get(-1, Exact(np.zeros((m, d), dtype=object)))
        at_x = g.times(Exact(self.around.at[:, None], self.around.scale))
        return g, constant.plus(Exact(at_x.integers[:, 0], at_x.scale))

    def refute(self, lead: np.ndarray, tree: np.ndarray, multipliers: np.ndarray) -> int:
        """Check the tree of one target; how many leaves it has."""
        if not (multipliers >= 0).all():
            raise Rejected("a multiplier is negative")
        live = [own for lines in self.lines for own in lines.live]
        stack = [np.full(len(live), -1)]
        leaves: list[Leaf] = []
        used = 0
        for unit in tree.tolist():
            if not stack:
                raise Rejected("a tree goes on after its end")
            fixed = stack.pop()
            if unit >= 0:
                if unit >= len(live) or fixed[unit] >= 0:
                    raise Rejected("a tree branches on a unit that is fixed, or does not exist")
                for piece in reversed(live[unit]):
                    child = fixed.copy()
                    child[unit] = piece
                    stack.append(child)
                continue
            inequalities = self._inequalities(fixed)
            own = multipliers[used : used + 1 + len(inequalities)]
            used += 1 + len(inequalities)
            if used > len(multipliers):
                raise Rejected("a leaf lacks multipliers")
            leaves.append(Leaf(fixed, inequalities, own))
        if stack or used != len(multipliers):
            raise Rejected("a tree is not complete, or has multipliers left over")
        for start in range(0, len(leaves), TOGETHER):
            self._refute_leaves(lead, leaves[start : start + TOGETHER])
        return len(leaves)

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
            breaks = layer.units.breaks
            if piece < breaks.integers.shape[1]:
                limit = breaks.integers[u, piece] * breaks.scale
                found.append(Inequality(number, u, -1, 1, limit))
            if piece > 0:
                limit = breaks.integers[u, piece - 1] * breaks.scale
                found.append(Inequality(number, u, -1, -1, limit))
        return found

    def _refute_leaves(self, lead: np.ndarray, leaves: Sequence[Leaf]) -> None:
        """Check that F is positive at each leaf (see above)."""
        rows = [self._weighted(lead, leaf) for leaf in leaves]
        joined = [self._together(terms) for terms in rows]
        positive = self._positive(joined, [leaf.fixed for leaf in leaves])
        for leaf, terms in zip(itertools.compress(leaves, ~positive),
                               itertools.compress(rows, ~positive), strict=True):  # fmt: skip
            # Carried back one by one the terms can do better than their sum.
            fixed = np.array([leaf.fixed] * len(terms))
            g, constant = self.below(*self._stacked(terms), fixed)
            rest = constant.plus(Exact.fractions([term.rest for term in terms]))
            one = Exact(g.integers.sum(axis=0, keepdims=True), g.scale)
            total = Exact(rest.integers.sum(keepdims=True), rest.scale)
            if not self.around.at_least(one, total, ZERO, True).all():
                raise Rejected("the multipliers of a leaf do not prove it")

    def _weighted(self, lead: np.ndarray, leaf: Leaf) -> list[Term]:
        """The terms of F: the lead and the inequalities, times their multipliers."""
        weights = [Fraction(w) for w in leaf.multipliers.tolist()]
        terms = [Term({}, [weights[0] * v for v in lead.tolist()], Fraction(0))]
        for w, row in zip(weights[1:], leaf.inequalities, strict=True):
            if w:
                values = {(row.layer, row.value): w * row.sign}
                if row.other >= 0:
                    values[row.layer, row.other] = -w * row.sign
                terms.append(Term(values, [Fraction(0)] * len(lead), -w * row.sign * row.limit))
        return terms

    def _together(self, terms: Sequence[Term]) -> Term:
        """The sum of some terms."""
        values: dict[tuple[int, int], Fraction] = {}
        for term in terms:
            for key, w in term.values.items():
                values[key] = values.get(key, Fraction(0)) + w
        lead = [sum(column, Fraction(0)) for column in zip(*(t.lead for t in terms), strict=True)]
        return Term(values, lead, sum((t.rest for t in terms), Fraction(0)))

    def _stacked(self, terms: Sequence[Term]) -> tuple[dict[int, Exact], Exact]:
        """Terms as functions (m, values) of each layer, and of the outputs."""
        m, given = len(terms), {}
        weights = Exact.fractions([w for t in terms for w in t.values.values()])
        tables = {k: np.zeros((m, self.layers[k].values), dtype=object)
                  for k in {layer for t in terms for layer, _ in t.values}}  # fmt: skip
        places = [(i, *key) for i, t in enumerate(terms) for key in t.values]
        for (i, layer, value), w in zip(places, weights.integers, strict=True):
            tables[layer][i, value] += w
        given = {k: Exact(table, weights.scale) for k, table in tables.items()}
        lead = Exact.fractions([v for t in terms for v in t.lead])
        return given, Exact(lead.integers.reshape(m, -1), lead.scale)

    def _positive(self, terms: Sequence[Term], fixed: Sequence[np.ndarray]) -> np.ndarray:
        """Which functions are positive within the set, by the affine ones below them."""
        g, constant = self.below(*self._stacked(terms), np.array(fixed))
        rest = constant.plus(Exact.fractions([term.rest for term in terms]))
        zero = Exact(np.zeros(len(terms), dtype=object))
        return self.around.at_least(g, rest, zero, True)


def check(certificate: str | os.PathLike[str] | Certificate, model: object) -> Checked:
    """Check a certificate against a model, in exact arithmetic.

    Parameters
    ----------
    certificate : path or Certificate
    model : path, Network or Graph
        An .onnx file, or an .npz file that `Network.save` wrote; or what was read already.

    Returns
    -------
    Checked
        A certificate that does not hold is no exception: `valid` is False and `reason` says why.

    Raises
    ------
    FileProblem
        If a file is missing, or the model cannot be read.
    """
    begun = time.perf_counter()
    graph = _graph(model)
    leaves = 0
    try:
        fields = read(_file(certificate))
        header = fields.header
        if header.get("network") != graph.hash:
            raise Rejected("the certificate is of another network")
        p = {"1": 1.0, "2": 2.0, "inf": math.inf}.get(str(header.get("norm")))
        radius, label, target = (header.get(key) for key in ("radius", "label", "target"))
        if p is None or not isinstance(radius, str) or type(label) is not int:
            raise Rejected("the claim lacks a norm, a radius or a label")
        if target is not None and type(target) is not int:
            raise Rejected("the target is no class")
        size = float.fromhex(radius)
        if not 0 <= size < math.inf:
            raise Rejected("the radius is no number of at least 0")
        layers, outputs = layers_of(graph)
        d = math.prod(graph.input_shape)
        x, low, high = (fields.array(key, np.float64, (d,)) for key in ("x", "low", "high"))
        around = Set.around(x, p, size, low, high)
        classes = max(2, len(outputs.constant.integers))
        if not 0 <= label < classes or target == label:
            raise Rejected("the label is no class, or is the target")
        targets = [t for t in range(classes) if t != label]
        if target is not None:
            targets = [t for t in targets if t == target]
        if not targets:
            raise Rejected("the target is no class")
        upper = math.inf
        if header.get("upper") is not None:
            upper = _witness(layers, outputs, fields, p, label, targets)
        if size > 0:
            proof = Proof(layers, outputs, around, fields)
            for t in targets:
                tree = fields.array(f"tree_{t}", np.int32, None)
                multipliers = fields.array(f"multipliers_{t}", np.float64, None)
                if tree.ndim != 1 or multipliers.ndim != 1:
                    raise Rejected("a tree or its multipliers are no lists")
                leaves += proof.refute(_lead(outputs, label, t), tree, multipliers)
    except Rejected as error:
        return Checked(False, 0.0, math.inf, str(error), leaves, time.perf_counter() - begun)
    except FileProblem:
        raise
    except (PolytopeError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        reason = f"it could not be read as a proof ({error})"
        return Checked(False, 0.0, math.inf, reason, leaves, time.perf_counter() - begun)
    lower = math.inf if around.whole and math.isinf(upper) else size
    return Checked(True, lower, upper, "", leaves, time.perf_counter() - begun)


def _file(certificate: str | os.PathLike[str] | Certificate) -> str | os.PathLike[str] | io.BytesIO:
    """The file, or the content of one that was not written."""
    if isinstance(certificate, str | os.PathLike):
        return certificate
    return io.BytesIO(certificate.to_bytes())


def _graph(model: object) -> Graph:
    """The compiled graph of a model."""
    if isinstance(model, Graph):
        return model
    graph = getattr(model, "graph", None)
    if isinstance(graph, Graph):
        return graph
    path = Path(str(model))
    if path.suffix == ".onnx":
        from polytope.network.from_onnx import read_onnx

        return read_onnx(path).graph
    from polytope.network.store import load_graph

    return load_graph(path)


def _lead(outputs: Map, label: int, target: int) -> np.ndarray:
    """Coefficients of the label's lead; one output decides between 0 below zero and 1 above."""
    lead = np.zeros(len(outputs.constant.integers), dtype=object)
    if len(lead) == 1:
        lead[0] = 1 if target == 0 else -1
    else:
        if not 0 <= target < len(lead):
            raise Rejected("a target is no class")
        lead[label], lead[target] = 1, -1
    return lead


def _witness(
    layers: list[Layer], outputs: Map, fields: Fields, p: float, label: int, targets: Sequence[int]
) -> float:
    """Check the witness by an exact forward pass; its claimed distance."""
    claimed = float.fromhex(str(fields.header["upper"]))
    x, low, high = (fields.array(key, np.float64, None) for key in ("x", "low", "high"))
    point = fields.array("witness", np.float64, x.shape)
    if (point < low).any() or (point > high).any():
        raise Rejected("the witness is outside of the box")
    step = [abs(Fraction(a) - Fraction(b)) for a, b in zip(point.tolist(), x.tolist(), strict=True)]
    size = max(step) if p == math.inf else sum(v ** int(p) for v in step)
    if size > Fraction(claimed) ** (2 if p == 2 else 1):
        raise Rejected("the witness is farther than claimed")
    logits = evaluate(layers, outputs, point).integers[:, 0]
    if min((_lead(outputs, label, t) * logits).sum() for t in targets) > 0:
        raise Rejected("the witness is not adversarial")
    return claimed
