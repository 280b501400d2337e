"""A small network as flat arrays for the compiled bounds of nodes, and those of one point.

The pre-activations of all layers and the outputs ("values") are sums over the inputs and the
outputs of earlier units (`polytope.regions.sums`).  For one point the constants are the affine
parts there, so that everything is a function of the step away from it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from polytope.model import Network
from polytope.network.ir import Max, Piecewise
from polytope.regions.domain import Domain
from polytope.regions.sums import Sums, collect_sums
from polytope.robustness.query import Query

UNIT = 2.0**-52


class Flat(NamedTuple):
    """What the kernels read.

    Attributes
    ----------
    layers : int64 (layers + 1, 6)
        First value, end of values, first unit, units, slots (0 for maxima: see `winners`), and
        the offset into `breaks` or `table`.  The last line are the outputs, without units.
    winners : int64 (layers + 1,)
        Candidates of each unit of a layer of maxima, 0 for other layers.
    pieces_at : int64 (layers + 1,)
        Offset into `slopes` and `intercepts`.
    base : float64 (values, d)
        Gradients of the values over the inputs, the units' outputs set aside.
    plain : bool (values,)
        Whether such a gradient is zero.
    constant, cost : float64 (values,)
        The affine part at the point; and what a weight of 1 on the value adds to the rounding.
    start, source, weight
        The sums over units, in compressed rows.
    breaks, slopes, intercepts : float64 (...)
        Of piecewise units: (units, slots) and (units, slots + 1) of each layer, one after another.
    table : int64 (...)
        The values that candidates read, (units, candidates); -1 for none.
    unit : float
        Bound on the relative rounding of a pass's constants.
    """

    layers: np.ndarray
    winners: np.ndarray
    pieces_at: np.ndarray
    base: np.ndarray
    plain: np.ndarray
    constant: np.ndarray
    cost: np.ndarray
    start: np.ndarray
    source: np.ndarray
    weight: np.ndarray
    breaks: np.ndarray
    slopes: np.ndarray
    intercepts: np.ndarray
    table: np.ndarray
    unit: float


@dataclass(frozen=True, eq=False)
class FlatNetwork:
    """The arrays of a network that do not depend on the point.

    Attributes
    ----------
    net : Network
    sums : Sums
    flat : Flat
        Without `constant` and `cost`.
    """

    net: Network
    sums: Sums
    flat: Flat

    @cached_property
    def fan_in(self) -> float:
        """Most terms that a pass adds up in one coefficient, and some for its products."""
        times = np.ones(self.values)
        candidates = self.flat.table[self.flat.table >= 0]
        times = np.maximum(times, np.bincount(candidates, minlength=self.values))
        owner = np.repeat(np.arange(self.values), np.diff(self.sums.start))
        units = np.bincount(self.sums.source, times[owner], 1)
        return float(max(units.max(), times[~self.flat.plain].sum()) + 16)

    @property
    def values(self) -> int:
        """Number of pre-activations and outputs."""
        return len(self.sums.base)

    def at(self, query: Query, radius: float) -> Flat:
        """The arrays around a point.

        Parameters
        ----------
        query : Query
        radius : float
            Everything holds within this l_inf distance (in the box).
        """
        x, sums = query.x, self.sums
        low, high = query.steps(radius)
        far = np.maximum(np.abs(low), np.abs(high)) * (1 + UNIT)
        where = np.abs(x) + far
        size = np.abs(sums.base[:, :-1])
        constant = sums.base[:, -1].copy()
        for v in np.flatnonzero(~self.flat.plain).tolist():
            constant[v] = math.fsum([*(sums.base[v, :-1] * x).tolist(), constant[v]])
        error = 2 * UNIT * (size @ np.abs(x) + np.abs(sums.base[:, -1]))  # the sum is rounded once
        error += sums.base_error[:, :-1] @ where + sums.base_error[:, -1]
        reach = size @ far + np.abs(constant) + error
        outputs = self.unit_sizes(reach)
        owner = np.repeat(np.arange(self.values), np.diff(sums.start))
        held = np.bincount(owner, np.abs(sums.weight) * outputs[sums.source], self.values)
        error += np.bincount(owner, sums.weight_error * outputs[sums.source], self.values)
        at_point = self.flat.unit * np.abs(constant)
        cost = 1.01 * (self.fan_in * UNIT * (reach + held) + at_point + error)
        return self.flat._replace(constant=constant, cost=cost)

    def unit_sizes(self, reach: np.ndarray) -> np.ndarray:
        """The largest sizes of the units' outputs, layer by layer, by intervals."""
        flat, sums = self.flat, self.sums
        outputs = np.zeros(self.net.units)
        for number, (first, end, unit, count, slots, offset) in enumerate(flat.layers):
            terms = slice(sums.start[first], sums.start[end])
            owner = np.repeat(np.arange(end - first), np.diff(sums.start[first : end + 1]))
            weight = np.abs(sums.weight[terms]) + sums.weight_error[terms]
            held = np.bincount(owner, weight * outputs[sums.source[terms]], end - first)
            size = 1.01 * (reach[first:end] + held)
            own = slice(unit, unit + count)
            if flat.winners[number]:
                index = flat.table[offset : offset + count * flat.winners[number]]
                index = index.reshape(count, -1)
                outputs[own] = np.where(index >= 0, size[index - first], 0.0).max(axis=1, initial=0)
            elif count:
                at = flat.pieces_at[number]
                parts = slice(at, at + count * (slots + 1))
                slopes = np.abs(flat.slopes[parts]).reshape(count, -1)
                rest = np.abs(flat.intercepts[parts]).reshape(count, -1)
                outputs[own] = (slopes * size[:, None] + rest).max(axis=1)
        return 1.01 * outputs


def flat_network(net: Network) -> FlatNetwork:
    """The arrays of a piecewise-linear network.

    Parameters
    ----------
    net : Network
    """
    d = net.input_size
    whole = Domain(d, None, None, np.zeros((0, d)), np.zeros(0))
    first, sums = collect_sums(net, whole, outputs=True)
    constants = net.graph.constants
    layers, winners, pieces_at = [], [], []
    breaks, slopes, intercepts = [np.zeros(0)], [np.zeros(0)], [np.zeros(0)]
    table = [np.zeros(0, np.int64)]
    for number, layer in enumerate(net.layers):
        node = net.graph.nodes[layer.node]
        pieces_at.append(sum(map(len, slopes)))
        if isinstance(node.op, Max):
            index = constants[node.op.index]
            offset, slots = sum(map(len, table)), 0
            table.append(np.where(index >= 0, index + first[number], -1).reshape(-1))
            winners.append(index.shape[1])
        else:
            assert isinstance(node.op, Piecewise)
            offset, slots = sum(map(len, breaks)), layer.slots
            winners.append(0)
            for key, found in (
                (node.op.breakpoints, breaks),
                (node.op.slopes, slopes),
                (node.op.intercepts, intercepts),
            ):
                array = constants[key]
                found.append(np.broadcast_to(array, (*node.shape, array.shape[-1])).reshape(-1))
        layers.append(
            [first[number], first[number + 1], layer.first_unit, layer.units, slots, offset]
        )
    layers.append([first[-2], first[-1], net.units, 0, 0, 0])
    base = np.ascontiguousarray(sums.base[:, :-1])
    blank = np.zeros(0)
    flat = Flat(
        np.array(layers, np.int64), np.array([*winners, 0], np.int64),
        np.array([*pieces_at, 0], np.int64), base, np.asarray(~base.any(axis=1)), blank, blank,
        sums.start, sums.source, sums.weight, np.concatenate(breaks), np.concatenate(slopes),
        np.concatenate(intercepts), np.concatenate(table),
        float((2 * len(base) + net.units + len(np.concatenate(table)) + 32) * UNIT),
    )  # fmt: skip
    return FlatNetwork(net, sums, flat)
