"""Attacks: adversarial points near given ones, every one of them proved by the base class.

An attack only proposes.  `Attack.__call__` proves each candidate, in exact arithmetic or, of a
smooth network, in interval arithmetic, replays it in the source model, and reports its distance;
it proves nothing about what is nearer.

`PGD`, `CarliniWagner`, `DeepFool`, `LinearRegion` and `External` look for the nearest adversarial
point.  `FGSM`, `Untargeted`, `RandomTargeted` and `MultiTargeted` look in a ball of radius `eps`:

>>> found = MultiTargeted(eps=0.1)(net, X, y, p="inf", box=(0, 1))  # doctest: +SKIP
>>> accuracy_under_attack = 1 - found.found.mean()  # doctest: +SKIP
"""

from polytope.attacks.attack import Attack, Attacked
from polytope.attacks.carlini_wagner import CarliniWagner
from polytope.attacks.deepfool import DeepFool
from polytope.attacks.external import External
from polytope.attacks.fgsm import FGSM
from polytope.attacks.linear_region import LinearRegion
from polytope.attacks.margin_ascent import (
    MarginAscent,
    MultiTargeted,
    RandomTargeted,
    Untargeted,
)
from polytope.attacks.pgd import PGD
from polytope.attacks.polish import polish
from polytope.attacks.spot import Polished

__all__ = [
    "FGSM", "PGD", "Attack", "Attacked", "CarliniWagner", "DeepFool", "External", "LinearRegion",
    "MarginAscent", "MultiTargeted", "Polished", "RandomTargeted", "Untargeted", "polish",
]  # fmt: skip
