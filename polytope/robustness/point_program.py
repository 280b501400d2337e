"""A network as flat arrays around one point: its outputs as a last layer, the point as origin."""

from __future__ import annotations

import numpy as np

from polytope.network.engine import Engine
from polytope.regions.domain import as_domain
from polytope.regions.program import Program, compile_program
from polytope.regions.structure import dense_blocks
from polytope.regions.sums import Sums, collect_sums


def point_program(net: Engine, x: np.ndarray, free: np.ndarray) -> Program:
    """The program of a network over the steps from a point.

    Parameters
    ----------
    net : Engine
    x : float64 (d,)
    free : int64 (k,)
        Coordinates that may move.

    Returns
    -------
    Program
        With one layer more, which has no units: its values are the network's outputs.
    """
    domain = as_domain(net, None)
    program = _with_outputs(net, compile_program(net, domain), *collect_sums(net, domain, True))
    gradient, constant = program.base[:, :-1], program.base[:, -1]
    terms = np.abs(gradient) @ np.abs(x) + np.abs(constant)
    size = np.abs(x).max(initial=0.0)
    unit = (len(x) + 4) * 2.0**-52
    error = unit * terms + program.base_error[:, -1]
    error += program.base_error[:, :-1].max(axis=1, initial=0.0) * len(x) * size
    # A value that does not see the input is what it was.
    still = ~gradient.any(axis=1) & ~program.base_error[:, :-1].any(axis=1)
    moved = np.where(still, constant, gradient @ x + constant)
    error = np.where(still, program.base_error[:, -1], error)
    return program._replace(
        base=np.ascontiguousarray(np.column_stack([gradient[:, free], moved])),
        base_error=np.ascontiguousarray(
            np.column_stack([program.base_error[:, free], error])
        ),
    )  # fmt: skip


def _with_outputs(net: Engine, program: Program, first: np.ndarray, sums: Sums) -> Program:
    """The program with the outputs' sums (from `collect_sums`) as a last layer without units."""
    values, outputs = int(first[-2]), int(first[-1] - first[-2])
    terms = slice(sums.start[values], sums.start[-1])
    begin = program.start[-1]
    own = Sums(
        sums.base[values:], sums.base_error[values:], sums.start[values:] - sums.start[values],
        sums.source[terms], sums.weight[terms], sums.weight_error[terms],
    )  # fmt: skip
    dense_at, dense = dense_blocks(np.array([0, outputs]), own)
    dense_at[:, 0] += np.where(dense_at[:, 0] >= 0, len(program.dense), 0)
    layer = [values, values + outputs, net.units, 0, 1, 0, net.rows, len(program.breaks)]
    return program._replace(
        layers=np.vstack([program.layers, layer]).astype(np.int64),
        base=np.vstack([program.base, own.base]),
        base_error=np.vstack([program.base_error, own.base_error]),
        start=np.concatenate([program.start, begin + own.start[1:]]),
        source=np.concatenate([program.source, own.source]),
        weight=np.concatenate([program.weight, own.weight]),
        weight_error=np.concatenate([program.weight_error, own.weight_error]),
        pieces_at=np.append(program.pieces_at, len(program.slopes)),
        dense_at=np.vstack([program.dense_at, dense_at]),
        dense=np.concatenate([program.dense, dense]),
        waist=np.append(program.waist, False),
        alike=np.append(program.alike, np.arange(values + 1, values + outputs + 1)),
    )
