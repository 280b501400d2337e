"""Attacks by name, so that tables and command lines can ask for them."""

from __future__ import annotations

from collections.abc import Iterable

from polytope.attacks.attack import Attack
from polytope.attacks.carlini_wagner import CarliniWagner
from polytope.attacks.external import External
from polytope.attacks.linear_region import LinearRegion
from polytope.attacks.pgd import PGD
from polytope.errors import InputError

#: The attacks that a name stands for, with their default settings.
BY_NAME: dict[str, type[Attack]] = {
    "pgd": PGD, "carlini_wagner": CarliniWagner, "linear_region": LinearRegion,
}  # fmt: skip


def as_attacks(given: Iterable[object]) -> dict[str, Attack]:
    """Attacks by the name that a table shows.

    Parameters
    ----------
    given : iterable of str, Attack or callable
        Names (``pgd``, ``carlini_wagner``, ``linear_region``), attacks, or what `External` takes
        (foolbox's attacks; any callable ``(model, x, y) -> candidates``). A second one of the same
        name has a number added.

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
            if item not in BY_NAME:
                raise InputError(
                    f"attacks: got {item!r}, expected {', '.join(BY_NAME)}, an Attack, or a "
                    "callable"
                )
            name, attack = item, BY_NAME[item]()
        elif isinstance(item, Attack):
            name, attack = _name(item), item
        elif callable(item):
            name, attack = _name(item), External(item)
        else:
            raise InputError(
                f"attacks: got {item!r}, expected {', '.join(BY_NAME)}, an Attack, or a callable"
            )
        unique, count = name, 2
        while unique in found:
            unique, count = f"{name}_{count}", count + 1
        found[unique] = attack
    return found


def _name(attack: object) -> str:
    """The name of an attack's class or function; of an external one, of what it wraps."""
    if isinstance(attack, External):
        return _name(attack.attack)
    for name, kind in BY_NAME.items():
        if type(attack) is kind:
            return name
    return str(getattr(attack, "__name__", type(attack).__name__))
