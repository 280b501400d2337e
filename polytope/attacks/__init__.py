"""Attacks: adversarial points near given ones, every one of them proved by the base class.

An attack only proposes.  `Attack.__call__` proves each candidate in exact arithmetic, replays
it in the source model, and reports its distance; it proves nothing about what is nearer.
"""

from polytope.attacks.attack import Attack, Attacked
from polytope.attacks.carlini_wagner import CarliniWagner
from polytope.attacks.external import External
from polytope.attacks.linear_region import LinearRegion
from polytope.attacks.pgd import PGD
from polytope.attacks.polish import polish
from polytope.attacks.spot import Polished

__all__ = [
    "PGD", "Attack", "Attacked", "CarliniWagner", "External", "LinearRegion", "Polished", "polish",
]  # fmt: skip
