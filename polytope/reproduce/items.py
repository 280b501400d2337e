"""The registry of items."""

from __future__ import annotations

from polytope.reproduce import mmr_exact, recurjac, roll_margins, roll_time, roll_toy
from polytope.reproduce.item import Item

#: All items, in the order of the papers.
ITEMS: tuple[Item, ...] = (
    *roll_margins.ITEMS,
    *roll_time.ITEMS,
    *roll_toy.ITEMS,
    *mmr_exact.ITEMS,
    *recurjac.ITEMS,
)
