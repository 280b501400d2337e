"""Attacks by name, so that tables and command lines can ask for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from polytope.attacks.attack import Attack
from polytope.attacks.carlini_wagner import CarliniWagner
from polytope.attacks.deepfool import DeepFool
from polytope.attacks.external import External
from polytope.attacks.fgsm import FGSM
from polytope.attacks.linear_region import LinearRegion
from polytope.attacks.margin_ascent import MultiTargeted, RandomTargeted, Untargeted
from polytope.attacks.pgd import PGD
from polytope.errors import InputError

#: The attacks that a name stands for, with their default settings.
BY_NAME: dict[str, type[Attack]] = {
    "pgd": PGD, "carlini_wagner": CarliniWagner, "linear_region": LinearRegion,
    "deepfool": DeepFool,
}  # fmt: skip
#: The same for attacks of fixed size, which follows the name: "fgsm:0.1".
BY_NAME_AND_SIZE: dict[str, Callable[[float], Attack]] = {
    "fgsm": FGSM, "fgsm_20": lambda eps: FGSM(eps, steps=20), "untargeted": Untargeted,
    "random_targeted": RandomTargeted, "multi_targeted": MultiTargeted,
}  # fmt: skip
#: What names there are, for messages.
NAMES = f"{', '.join(BY_NAME)}, or {', '.join(f'{name}:EPS' for name in BY_NAME_AND_SIZE)}"


def as_attacks(given: Iterable[object]) -> dict[str, Attack]:
    """Attacks by the name that a table shows.

    Parameters
    ----------
    given : iterable of str, Attack or callable
        Names (``pgd``, ``carlini_wagner``, ``linear_region``, ``deepfool``), names with a radius
        (``fgsm:0.1``; ``fgsm_20``, ``untargeted``, ``random_targeted``, ``multi_targeted``),
        attacks, or what `External` takes (foolbox's attacks; any callable
        ``(model, x, y) -> candidates``). A second one of the same name has a number added.

    Raises
    ------
    InputError
        For an unknown name, or something that is no attack.
    """
    if isinstance(given, str):
        given = [given]
    found: dict[str, Attack] = {}
    for item in given:
        if isinstance(item, str):
            name, attack = item, _by_name(item)
        elif isinstance(item, Attack):
            name, attack = _name(item), item
        elif callable(item):
            name, attack = _name(item), External(item)
        else:
            raise InputError(f"attacks: got {item!r}, expected {NAMES}, an Attack, or a callable")
        unique, count = name, 2
        while unique in found:
            unique, count = f"{name}_{count}", count + 1
        found[unique] = attack
    return found


def _by_name(item: str) -> Attack:
    """The attack of a name, or of a name and a radius.

    Raises
    ------
    InputError
        For an unknown name, a radius that is missing, not wanted, or not positive.
    """
    name, colon, size = item.partition(":")
    if name in BY_NAME and not colon:
        return BY_NAME[name]()
    if name in BY_NAME_AND_SIZE:
        try:
            eps = float(size)
        except ValueError:
            eps = math.nan
        if not 0 < eps < math.inf:
            raise InputError(
                f"attacks: got {item!r}, but {name} perturbs by a fixed size; add the radius of "
                f"the ball, as in {name}:0.1"
            )
        return BY_NAME_AND_SIZE[name](eps)
    raise InputError(f"attacks: got {item!r}, expected {NAMES}, an Attack, or a callable")


def _name(attack: object) -> str:
    """The name of an attack's class or function; of an external one, of what it wraps."""
    if isinstance(attack, External):
        return _name(attack.attack)
    for name, kind in {**BY_NAME, **BY_NAME_AND_SIZE}.items():
        if type(attack) is kind:
            return name
    return str(getattr(attack, "__name__", type(attack).__name__))
