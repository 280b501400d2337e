"""The registry of items."""

from __future__ import annotations

from polytope.reproduce import mmr_exact, recurjac
from polytope.reproduce.item import Item

#: All items, in the order of the papers.
ITEMS: tuple[Item, ...] = (*mmr_exact.ITEMS, *recurjac.ITEMS)
