"""The minimal adversarial distance of a small network by trying every pattern.

Independent of the product's search: patterns come from `itertools.product`, affine maps from
the rational reference, and each distance from scipy's linprog or cvxpy.
"""

from __future__ import annotations

import itertools
import math
import warnings

import cvxpy as cp
import numpy as np
from scipy.optimize import linprog

from polytope.network import ir
from tests.oracle.rational import affine_exact


def region_rows(graph: ir.Graph, pieces: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """``A z <= b`` of a pattern, and its output map (J, c), in float64 from exact rationals."""
    maps = affine_exact(graph, pieces)
    A, b = [], []
    start = 0
    for layer, (gradients, offsets) in zip(graph.layers, maps[:-1], strict=True):
        node = graph.nodes[layer.node]
        g = np.array([[float(v) for v in row] for row in gradients])
        o = np.array([float(v) for v in offsets])
        for unit in range(layer.units):
            piece = pieces[start + unit]
            if isinstance(node.op, ir.Max):
                index = graph.constants[node.op.index][unit]
                for other in index:
                    if other >= 0 and other != index[piece]:
                        A.append(g[other] - g[index[piece]])
                        b.append(o[index[piece]] - o[other])
                continue
            table = graph.constants[node.op.breakpoints]
            points = np.broadcast_to(table, (*node.shape, table.shape[-1]))
            points = points.reshape(layer.units, -1)[unit]
            if piece < len(points):
                A.append(g[unit])
                b.append(points[piece] - o[unit])
            if piece > 0:
                A.append(-g[unit])
                b.append(o[unit] - points[piece - 1])
        start += layer.units
    jacobian = np.array([[float(v) for v in row] for row in maps[-1][0]])
    offset = np.array([float(v) for v in maps[-1][1]])
    size = math.prod(graph.input_shape)
    rows, right = np.array(A).reshape(-1, size), np.array(b).reshape(-1)
    scale = np.abs(rows).max(axis=1, initial=0.0)
    scale[scale == 0] = 1.0
    return rows / scale[:, None], right / scale, jacobian, offset


Cell = tuple[np.ndarray, ...]


def cells(graph: ir.Graph) -> list[Cell]:
    """The rows and the output map of every pattern whose region is not empty."""
    patterns = itertools.product(
        *(range(layer.pieces) for layer in graph.layers for _ in range(layer.units))
    )
    found = []
    for pieces in patterns:
        A, b, jacobian, offset = region_rows(graph, pieces)
        if jacobian.shape[0] == 1:
            jacobian = np.vstack([np.zeros_like(jacobian), jacobian])
            offset = np.append(0.0, offset)
        if _feasible(A, b):
            found.append((A, b, jacobian, offset))
    return found


def minimal_distance(
    regions: list[Cell], x: np.ndarray, label: int, p: float, box: tuple[float, float] | None
) -> float:
    """Least l_p distance to a point of the box where another class is as high; inf if none."""
    best = math.inf
    for A, b, jacobian, offset in regions:
        for target in range(len(offset)):
            if target != label:
                rows = np.vstack([A, jacobian[label] - jacobian[target]])
                right = np.append(b, offset[target] - offset[label])
                best = min(best, _distance(rows, right, x, p, box))
    return best


def _feasible(A: np.ndarray, b: np.ndarray) -> bool:
    result = linprog(np.zeros(A.shape[1]), A_ub=A if len(A) else None,
                     b_ub=b if len(b) else None, bounds=(None, None))  # fmt: skip
    return bool(result.status == 0)


def _distance(
    A: np.ndarray, b: np.ndarray, x: np.ndarray, p: float, box: tuple[float, float] | None
) -> float:
    z = cp.Variable(len(x))
    limits = [A @ z <= b]
    if box is not None:
        limits += [z >= box[0], z <= box[1]]
    problem = cp.Problem(cp.Minimize(cp.norm(z - x, p)), limits)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        problem.solve(solver=cp.CLARABEL)
    return float(problem.value) if problem.status.startswith("optimal") else math.inf
