"""Nodes of the branch and bound, and what bounding one gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np


@dataclass(order=True)
class Node:
    """A part of the input set: nothing adversarial in it is nearer than `lower`.

    Attributes
    ----------
    lower : float
        Proved.
    number : int
        Nodes of the same bound are taken in the order of their numbers.
    target : int
        The class that counts in this node.
    fixed : int16 (units,)
        The piece that each unit takes; -1 for open ones.
    known : float64 (2, values)
        Bounds of what the units read that hold in the node, within `within`.
    within : float
    multipliers : float64 (rows,) or None
        Of the node's rows, if a program refuted it within a smaller radius.
    """

    lower: float
    number: int
    target: int = field(compare=False)
    fixed: np.ndarray = field(compare=False)
    known: np.ndarray = field(compare=False)
    within: float = field(compare=False)
    multipliers: np.ndarray | None = field(compare=False, default=None)


@dataclass(frozen=True, eq=False)
class Judged:
    """A node that its bounds do not refute.

    Attributes
    ----------
    normal, height : float64 (rows, d), (rows,)
        Every adversarial point of the node is a step with ``normal step + height <= 0``, in
        exact arithmetic. The target's row comes first.
    choices : list of (unit, pieces)
        Open units to branch on, the best first; none if all units are decided: the polyhedron
        then is the adversarial part of a linear region (within rounding).
    known : float64 (2, values)
    pieces : int64 (units,) or None
        Where all units are decided.
    """

    normal: np.ndarray
    height: np.ndarray
    choices: list[tuple[int, list[int]]]
    known: np.ndarray
    pieces: np.ndarray | None = None


class NodeBounds(Protocol):
    """A way to bound nodes of one query."""

    @property
    def batch(self) -> int:
        """Nodes worth taking together."""

    def known(self) -> np.ndarray:
        """What is known before anything is bounded: (2, values)."""

    def judge(self, nodes: Sequence[Node], radius: float) -> list[Judged | None]:
        """What is known of each node within a radius; None: nothing adversarial is in it."""
