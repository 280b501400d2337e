"""A network as flat arrays over domain coordinates, for the compiled kernels.

Between two nonlinear layers everything is linear, so the pre-activations of a layer are

    z = base [u, 1] + sum_j weight_j * output_j

over the outputs of the units of earlier layers (residual connections make them several
layers).  These sums are collected once, by pushing unit vectors through the graph's own
operations; a region's hyperplanes are then a few sparse products away, whatever the
architecture was.  Beside every number stands a bound on its rounding error: 0 where it is a
weight of the model itself.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polytope.network.engine import Engine
from polytope.network.ir import Max, Piecewise
from polytope.regions.constants import without_constants
from polytope.regions.domain import Domain
from polytope.regions.structure import dense_blocks, multiples, waists
from polytope.regions.sums import collect_sums


class Program(NamedTuple):
    """The arrays that the kernels read.  Pre-activations ("values") of all layers in one order.

    Attributes
    ----------
    layers : int64 (layers, 8)
        First value, end of values, first unit, units, slots, 1 for a maximum (else 0), first
        row, offset into `table` (maximum) or `breaks` (piecewise).
    base, base_error : float64 (values, k + 1)
        Affine part of each value over [u, 1], and a bound on its error.
    start : int64 (values + 1,)
    source : int64 (terms,)
    weight, weight_error : float64 (terms,)
        The sum over unit outputs, in compressed rows.
    breaks : float64 (...)
        Breakpoints, (units, slots) of each piecewise layer one after another.
    slopes, intercepts : float64 (...)
        Pieces, (units, slots + 1) of each piecewise layer one after another.
    pieces_at : int64 (layers,)
        Offset of each layer in `slopes` and `intercepts`.
    dense_at : int64 (layers, 3)
        For a layer whose sum is over all of a range of units with exact weights: offset into
        `dense` (-1: none), first unit, units.
    dense : float64 (...)
        Those weights again, (units of the range, values of the layer).
    table : int64 (...)
        Values that the candidates of a maximum read ((units, slots); -1 for none).
    waist : bool (layers,)
        Whether all later layers see the input through this layer's outputs alone.
    alike : int64 (values,)
        Plus or minus 1 + the first value of the layer of which this one is an exact multiple
        (duplicated neurons; mostly itself).
    """

    layers: np.ndarray
    base: np.ndarray
    base_error: np.ndarray
    start: np.ndarray
    source: np.ndarray
    weight: np.ndarray
    weight_error: np.ndarray
    breaks: np.ndarray
    slopes: np.ndarray
    intercepts: np.ndarray
    pieces_at: np.ndarray
    table: np.ndarray
    dense_at: np.ndarray
    dense: np.ndarray
    waist: np.ndarray
    alike: np.ndarray


def compile_program(net: Engine, domain: Domain) -> Program:
    """The arrays of a piecewise-linear network over a domain's coordinates.

    Parameters
    ----------
    net : Engine
    domain : Domain
    """
    first, sums = collect_sums(net, domain)
    units = _units(net, first)
    sums, units["table"] = without_constants(net, domain, first, sums, units["table"])
    dense_at, dense = dense_blocks(first, sums)
    return Program(
        **sums._asdict(), **units, dense_at=dense_at, dense=dense,
        waist=waists(net, first, sums), alike=multiples(first, sums),
    )  # fmt: skip


def _units(net: Engine, first: np.ndarray) -> dict[str, np.ndarray]:
    """What the units do with their values."""
    layers: list[list[int]] = []
    pieces_at: list[int] = []
    breaks: list[np.ndarray] = []
    slopes: list[np.ndarray] = []
    intercepts: list[np.ndarray] = []
    table: list[np.ndarray] = []
    sizes = {"breaks": 0, "slopes": 0, "table": 0}
    for number, layer in enumerate(net.layers):
        node, constants = net.graph.nodes[layer.node], net.graph.constants
        pieces_at.append(sizes["slopes"])
        if isinstance(node.op, Max):
            index = constants[node.op.index]
            offset = sizes["table"]
            table.append(np.where(index >= 0, index + first[number], -1).reshape(-1))
            sizes["table"] += table[-1].size
        else:
            assert isinstance(node.op, Piecewise)
            offset = sizes["breaks"]
            for name, found in (
                ("breakpoints", breaks), ("slopes", slopes), ("intercepts", intercepts)
            ):  # fmt: skip
                array = constants[getattr(node.op, name)]
                found.append(np.broadcast_to(array, (*node.shape, array.shape[-1])).reshape(-1))
            sizes["breaks"] += breaks[-1].size
            sizes["slopes"] += slopes[-1].size
        layers.append([
            first[number], first[number + 1], layer.first_unit, layer.units, layer.slots,
            int(layer.is_max), layer.first_row, offset,
        ])  # fmt: skip

    def joined(arrays: list[np.ndarray], dtype: type) -> np.ndarray:
        return np.concatenate([np.zeros(0), *arrays]).astype(dtype)

    return {
        "layers": np.array(layers, dtype=np.int64).reshape(-1, 8),
        "breaks": joined(breaks, np.float64),
        "slopes": joined(slopes, np.float64),
        "intercepts": joined(intercepts, np.float64),
        "pieces_at": np.array(pieces_at, dtype=np.int64),
        "table": joined(table, np.int64),
    }
