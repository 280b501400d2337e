"""The registry of items."""

from __future__ import annotations

from polytope.reproduce import (
    llr,
    mmr_exact,
    mmr_figures,
    mmr_robustness,
    recurjac,
    roll_margins,
    roll_time,
    roll_toy,
)
from polytope.reproduce.item import Item

_MODULES = (
    llr, mmr_exact, mmr_figures, mmr_robustness, recurjac, roll_margins, roll_time, roll_toy
)  # fmt: skip
#: All items by name.
ITEMS: tuple[Item, ...] = tuple(
    sorted((item for module in _MODULES for item in module.ITEMS), key=lambda item: item.name)
)
