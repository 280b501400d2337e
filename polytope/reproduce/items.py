"""The registry of items."""

from __future__ import annotations

from polytope.reproduce import recurjac
from polytope.reproduce.item import Item

#: All items, in the order of the papers.
ITEMS: tuple[Item, ...] = (*recurjac.ITEMS,)
