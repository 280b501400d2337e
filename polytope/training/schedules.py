"""Numbers that change with the epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from polytope.errors import InputError


@dataclass(frozen=True)
class Ramp:
    """A number that goes linearly from one value to another, and stays there.

    ``Ramp(0, w, 10)`` is MMR's weight ``w * min(epoch / 10, 1)``, and ``Ramp(0.10, 0.02, 100)``
    its share of the units over 100 epochs. Epochs are counted from 1.

    Parameters
    ----------
    start, end : float
    epochs : float
        Positive: from this epoch on the value is `end`.

    Raises
    ------
    InputError
        For values that are not finite numbers.
    """

    start: float
    end: float
    epochs: float

    def __post_init__(self) -> None:
        for name in ("start", "end", "epochs"):
            object.__setattr__(self, name, finite(getattr(self, name), f"Ramp: {name}"))
        if self.epochs <= 0:
            raise InputError(f"Ramp: epochs: got {self.epochs:g}, expected a positive number")

    def at(self, epoch: float) -> float:
        """The value in an epoch."""
        share = min(max(epoch / self.epochs, 0.0), 1.0)
        return self.start + (self.end - self.start) * share


def finite(value: object, name: str) -> float:
    """A finite number.

    Raises
    ------
    InputError
        For anything else.
    """
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{name}: got {value!r}, expected a finite number")
    return number


def not_negative(value: object, name: str) -> float | Ramp:
    """A number or a ramp (a weight, a radius) that is never below 0.

    Raises
    ------
    InputError
        For anything else.
    """
    ends = [value.start, value.end] if isinstance(value, Ramp) else [finite(value, name)]
    if min(ends) < 0:
        raise InputError(f"{name}: got {min(ends):g}, expected at least 0")
    return value if isinstance(value, Ramp) else ends[0]


def value_at(value: float | Ramp, epoch: object, what: str) -> float:
    """The value of a number or a ramp in an epoch.

    Raises
    ------
    InputError
        If it is a ramp and there is no epoch, or one below 0.
    """
    if not isinstance(value, Ramp):
        return value
    if epoch is None:
        raise InputError(
            f"{what}: epoch: got none, but a setting follows a Ramp; call the loss with "
            "epoch=, counted from 1"
        )
    number = finite(epoch, f"{what}: epoch")
    if number < 0:
        raise InputError(f"{what}: epoch: got {number:g}, expected at least 0")
    return value.at(number)
