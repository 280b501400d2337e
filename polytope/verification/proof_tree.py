"""The lines of several logs, put in order as one tree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polytope.robustness.flat import FlatNetwork
from polytope.verification.result import Proof
from polytope.verification.split_kernels import CUT, LEAF
from polytope.verification.spool import Spool


def tree_of(part: int, network: FlatNetwork, middle: np.ndarray, logs: Sequence[Spool]) -> Proof:
    """The tree that some logs describe together.

    Parameters
    ----------
    part : int
    network : FlatNetwork
    middle : float64 (d,)
        What steps are taken from.
    logs : sequence of Spool
        Of blocks (lines, cuts, multipliers), as `split_kernels.Log` has
        them; each number of a log is its place here.
    """
    blocks = [list(log) for log in logs]
    offset = np.cumsum([0, *(sum(len(block[0]) for block in own) for own in blocks)])
    nothing = np.zeros((0, 5), np.int64), np.zeros(0), np.zeros(0)
    every = [nothing, *(block for own in blocks for block in own)]
    lines, cuts, multipliers = (np.concatenate([block[k] for block in every]) for k in (0, 1, 2))
    counts = np.where(lines[:, 3] == LEAF, lines[:, 4], 0)
    first = np.cumsum(counts) - counts
    parent = np.where(lines[:, 0] < 0, -1, offset[lines[:, 0]] + lines[:, 1])
    children: dict[int, list[int]] = {}
    for line in np.lexsort((-lines[:, 2], parent)).tolist():  # the first child last
        children.setdefault(int(parent[line]), []).append(line)
    ends = _ends(network)
    order: list[int] = []
    weights: list[np.ndarray] = []
    stack: list[tuple[int, tuple[tuple[int, int], ...]]] = [
        (line, ()) for line in children.get(-1, [])
    ]
    while stack:
        line, path = stack.pop()
        order.append(line)
        code, argument = lines[line, 3:].tolist()
        own = children.get(line, [])
        if code == LEAF:
            found = multipliers[first[line] : first[line] + argument]
            weights.append(_unit_by_unit(found, path, ends))
        elif code <= CUT:
            stack += [(child, path) for child in own]
        else:
            taken = [k for k in range(argument.bit_length()) if argument >> k & 1]
            pieces = [taken[k] for k in lines[own, 2].tolist()]
            stack += [
                (child, (*path, (code, piece))) for child, piece in zip(own, pieces, strict=True)
            ]
    tree = lines[order, 3:]
    cut = np.flatnonzero(tree[:, 0] <= CUT)
    places = middle[CUT - tree[cut, 0]] + cuts[order][cut]
    return Proof(part, tree, places, np.concatenate([np.zeros(0), *weights]))


def _ends(network: FlatNetwork) -> np.ndarray:
    """How many breakpoints each unit has: int64 (units,)."""
    return np.concatenate(
        [np.full(count, slots) for _, _, _, count, slots, _ in network.flat.layers.tolist()]
    )


def _unit_by_unit(
    multipliers: np.ndarray, path: Sequence[tuple[int, int]], ends: np.ndarray
) -> np.ndarray:
    """Multipliers of units in the order in which they were fixed, put in the units' order."""
    if not len(multipliers) or len(path) < 2:
        return multipliers
    sizes = [int(piece < ends[unit]) + int(piece > 0) for unit, piece in path]
    rows = len(multipliers) - sum(sizes)
    starts = rows + np.cumsum([0, *sizes])
    parts = [multipliers[:rows]]
    for k in sorted(range(len(path)), key=lambda k: path[k][0]):
        parts.append(multipliers[starts[k] : starts[k + 1]])
    return np.concatenate(parts)
