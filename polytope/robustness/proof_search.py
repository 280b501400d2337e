"""A proof that nothing adversarial is within a radius, as the checker of certificates reads it.

The same branch and bound once more, at one radius and with the bounds of the root alone
(`kept_nodes`), depth first: what it visits, in its order, is the proof.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polytope.robustness.kept_nodes import KeptNodes, Root
from polytope.robustness.node import Judged, Node
from polytope.robustness.node_programs import NodePrograms
from polytope.robustness.query import Query


@dataclass(frozen=True, eq=False)
class TargetTree:
    """The proof for one class.

    Attributes
    ----------
    target : int
    tree : int64 (nodes, 2)
        Depth first: the unit that a node branches on, and the pieces that the root's bounds leave
        it, as bits; or -1 for a leaf, and the number of its multipliers.
    multipliers : float64 (...)
        Leaf by leaf: of the label's lead, and of each inequality of the fixed pieces, in the
        order of the units.
    """

    target: int
    tree: np.ndarray
    multipliers: np.ndarray


@dataclass(frozen=True, eq=False)
class ProofSearch:
    """What a search for a proof found.

    Attributes
    ----------
    root : Root
    trees : tuple of TargetTree
    complete : bool
        Whether all targets are proved; otherwise why not is in `reason`.
    doubtful : int
        Leaves whose multipliers floats could not prove; exact arithmetic may.
    reason : str
    """

    root: Root
    trees: tuple[TargetTree, ...]
    complete: bool
    doubtful: int = 0
    reason: str = ""


def search_proof(query: Query, nodes: KeptNodes, radius: float, deadline: float) -> ProofSearch:
    """Prove that no class that counts is reached within a radius.

    Parameters
    ----------
    query : Query
    nodes : KeptNodes
        Of this query.
    radius : float
        Finite.
    deadline : float
        Of `time.perf_counter`.
    """
    root = nodes.root(radius)
    programs = NodePrograms(query)
    trees: list[TargetTree] = []
    doubtful = 0
    for target in query.targets:
        tree: list[tuple[int, int]] = []
        multipliers: list[np.ndarray] = []
        stack = [np.full(query.net.units, -1, dtype=np.int16)]
        while stack:
            if time.perf_counter() >= deadline:
                return ProofSearch(root, tuple(trees), False, doubtful, "time was up")
            fixed = stack.pop()
            node = Node(0.0, 0, target, fixed, root.low, radius)
            judged = nodes.judge([node], radius)[0]
            weights = _refutation(judged, nodes, fixed, programs, radius)
            if weights is None and judged is not None and not judged.choices:
                # Rounding may leave a linear region open that exact arithmetic settles.
                weights = programs.nearest(judged.normal, judged.height, radius).multipliers
                doubtful += 1
                if not weights.any():
                    reason = "the adversarial part of a linear region is within the radius"
                    return ProofSearch(root, tuple(trees), False, doubtful, reason)
            if weights is not None:
                tree.append((-1, len(weights)))
                multipliers.append(weights)
                continue
            assert judged is not None
            unit, pieces = judged.choices[0]
            tree.append((unit, sum(1 << piece for piece in pieces)))
            for piece in reversed(pieces):
                child = fixed.copy()
                child[unit] = piece
                stack.append(child)
        trees.append(TargetTree(target, np.array(tree, np.int64), _joined(multipliers)))
    return ProofSearch(root, tuple(trees), True, doubtful)


def _refutation(
    judged: Judged | None, nodes: KeptNodes, fixed: np.ndarray, programs: NodePrograms,
    radius: float,
) -> np.ndarray | None:  # fmt: skip
    """Multipliers that refute a node, or None."""
    if judged is None:
        return np.concatenate([np.ones(1), np.zeros(nodes.count_rows(fixed))])
    near = programs.nearest(judged.normal, judged.height, radius)
    return near.multipliers if near.lower >= radius else None


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0), *parts])
