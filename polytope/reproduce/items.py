"""The registry of items."""

from __future__ import annotations

from polytope.reproduce import (
    mmr_exact,
    mmr_robustness,
    recurjac,
    roll_margins,
    roll_time,
    roll_toy,
)
from polytope.reproduce.item import Item

_MODULES = (mmr_exact, mmr_robustness, recurjac, roll_margins, roll_time, roll_toy)
#: All items by name.
ITEMS: tuple[Item, ...] = tuple(
    sorted((item for module in _MODULES for item in module.ITEMS), key=lambda item: item.name)
)
