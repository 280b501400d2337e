"""What a walk over regions has found so far, and which region a pattern belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from polytope.errors import FileProblem
from polytope.regions.index_kernels import enter, fill

#: Regions that a new walk has room for; room is doubled when it is used up.
ROOM = 256


class Walk:
    """All that a walk needs to go on.

    Attributes
    ----------
    count : int
        Regions entered.  The arrays by region have room for more.
    pieces : uint16 (room, units)
    seeds, points : float64 (room, k)
        A point on the facet that the region was found through, or inside; a point inside, once
        it is expanded.
    crossed : int64 (room,)
        Row of the facet it was found through, as seen from inside; -1: the seed is inside.
    expanded : bool (room,)
    distance : float64 (room,)
        From the start, in coordinates (0 in a breadth-first walk).
    edges, edge_rows, edge_points : lists of arrays (n, 2), (n,), (n, k)
        Regions i < j with a common facet, the row as seen from i, a point on the facet: written
        when i was expanded, so j may still be waiting.
    verdicts : int
        Exact verdicts so far.
    """

    def __init__(self, units: int, k: int) -> None:
        self.count = 0
        self.pieces = np.zeros((ROOM, units), np.uint16)
        self.seeds, self.points = np.zeros((ROOM, k)), np.zeros((ROOM, k))
        self.crossed = np.zeros(ROOM, np.int64)
        self.expanded = np.zeros(ROOM, np.bool_)
        self.distance = np.zeros(ROOM)
        self.edges: list[np.ndarray] = []
        self.edge_rows: list[np.ndarray] = []
        self.edge_points: list[np.ndarray] = []
        self.verdicts = 0
        self._table = np.full(4 * ROOM, -1, np.int64)

    def enter(self, pieces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of some patterns, new ones entered.

        Parameters
        ----------
        pieces : uint16 (n, units)

        Returns
        -------
        numbers : int64 (n,)
        fresh : int64 (new,)
            Where each new region comes first: they get the next numbers in this order, and their
            other entries are to be written.
        """
        self._make_room(len(pieces))
        numbers, fresh = np.empty(len(pieces), np.int64), np.empty(len(pieces), np.int64)
        before = self.count
        self.count = enter(self._table, self.pieces, before, pieces, numbers, fresh)
        return numbers, fresh[: self.count - before]

    def _make_room(self, more: int) -> None:
        """Room for so many regions more, and a table at most half full."""
        room = len(self.crossed)
        while room < self.count + more:
            room *= 2
        if room == len(self.crossed):
            return
        for name in ("pieces", "seeds", "points", "crossed", "expanded", "distance"):
            old = getattr(self, name)
            new = np.zeros((room, *old.shape[1:]), old.dtype)
            new[: self.count] = old[: self.count]
            setattr(self, name, new)
        self._table = np.full(4 * room, -1, np.int64)
        fill(self._table, self.pieces, self.count)

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as arrays, for a file."""
        k = self.seeds.shape[1]
        return {
            **{
                name: getattr(self, name)[: self.count].copy()
                for name in ("pieces", "seeds", "points", "crossed", "expanded", "distance")
            },
            "edges": np.concatenate([np.zeros((0, 2), np.int64), *self.edges]),
            "edge_rows": np.concatenate([np.zeros(0, np.int64), *self.edge_rows]),
            "edge_points": np.concatenate([np.zeros((0, k)), *self.edge_points]),
            "verdicts": np.array(self.verdicts),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Walk:
        """The walk that `arrays` wrote.

        Raises
        ------
        FileProblem
            If they do not fit together.
        """
        check_lengths(
            arrays,
            {
                "pieces": ("seeds", "points", "crossed", "expanded", "distance"),
                "edges": ("edge_rows", "edge_points"),
            },
        )
        units, k = arrays["pieces"].shape[1], arrays["seeds"].shape[1]
        walk = cls(units, k)
        walk.enter(arrays["pieces"].astype(np.uint16))
        for name in ("seeds", "points", "crossed", "expanded", "distance"):
            getattr(walk, name)[: walk.count] = arrays[name]
        for name in ("edges", "edge_rows", "edge_points"):
            getattr(walk, name).append(arrays[name])
        walk.verdicts = int(arrays["verdicts"])
        if walk.count != len(arrays["pieces"]) or not walk.edges[0].max(initial=0) < walk.count:
            raise FileProblem("the saved search is damaged: regions are missing or double")
        return walk


def check_lengths(arrays: Mapping[str, np.ndarray], groups: Mapping[str, Sequence[str]]) -> None:
    """Refuse saved arrays that are missing, or whose lengths differ within a group.

    Raises
    ------
    FileProblem
    """
    for first, others in groups.items():
        for name in (first, *others, "verdicts"):
            if name not in arrays:
                raise FileProblem(f"the saved search is damaged: its array '{name}' is missing")
            if name != "verdicts" and np.shape(arrays[name])[:1] != np.shape(arrays[first])[:1]:
                raise FileProblem(
                    f"the saved search is damaged: '{name}' has shape {np.shape(arrays[name])}, "
                    f"but '{first}' has {np.shape(arrays[first])}"
                )
    if np.ndim(arrays["verdicts"]):
        raise FileProblem("the saved search is damaged: 'verdicts' is no single number")
