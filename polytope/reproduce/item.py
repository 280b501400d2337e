"""`Item`: one table or figure of a paper, and what makes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from polytope.reproduce.run import Outcome, Run


@dataclass(frozen=True)
class Item:
    """A table or figure.

    Attributes
    ----------
    name : str
        As ``polytope reproduce`` takes it.
    title : str
    source : str
        Paper and place of the published numbers.
    work : callable
        Trains or loads, measures, and says what it found.
    """

    name: str
    title: str
    source: str
    work: Callable[[Run], Outcome]
