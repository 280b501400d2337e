"""What `certify` returns: the interval proved for each point, and its witnesses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Certificates:
    """What was proved for each point; arrays with one entry (or row) per point.

    Attributes
    ----------
    lower : float64
        No point of the box nearer than this (in the asked norm) changes the decision.
    upper : float64
        Distance of `witness`, rounded up; inf if none was found.
    native_upper : float64
        Distance of `native_witness`.
    exact : bool
        Whether upper - lower is at most 1e-9 of upper (or both are inf: nothing in the box
        changes the decision).
    status : str
        "exact", "interval", "misclassified" (robustness 0), "unreachable" (nothing in the
        box changes the decision), "stopped" (interrupted: the interval reached so far).
    exactness : str
        "safe-float": lower has every rounding error taken off; "float": computed in float64,
        as the error bounds of this (deep) network are too wide to be useful.
    label : int64
        The class whose robustness is measured.
    target : int64
        The class that the witness goes to; -1 without one.
    witness : float64 (n, d)
        A point inside the box that is adversarial in exact arithmetic; NaN without one.
    native_witness : float64 (n, d)
        A point of the source model's dtype, inside the box, that the source model itself
        decides otherwise; NaN without one.
    regions : int64
        Linear regions explored.
    seconds : float64
        Time spent, shared evenly among the points of a chunk.
    """

    lower: np.ndarray
    upper: np.ndarray
    native_upper: np.ndarray
    exact: np.ndarray
    status: np.ndarray
    exactness: np.ndarray
    label: np.ndarray
    target: np.ndarray
    witness: np.ndarray
    native_witness: np.ndarray
    regions: np.ndarray
    seconds: np.ndarray

    def __len__(self) -> int:
        """Number of points."""
        return len(self.lower)

    def to_frame(self) -> pd.DataFrame:
        """The columns with one number per point, as a pandas table."""
        import pandas as pd  # slow to import, and only needed here

        columns = [f.name for f in fields(self) if "witness" not in f.name]
        return pd.DataFrame({name: getattr(self, name) for name in columns})

    @classmethod
    def join(cls, parts: Sequence[Certificates]) -> Certificates:
        """Several results one after another."""
        names = [f.name for f in fields(cls)]
        return cls(**{n: np.concatenate([getattr(part, n) for part in parts]) for n in names})

    @classmethod
    def untouched(cls, labels: np.ndarray, size: int) -> Certificates:
        """Points that were not reached (label -1: not known either): the interval [0, inf]."""
        count = len(labels)
        nothing = np.full((count, size), np.nan)
        return cls(
            lower=np.zeros(count),
            upper=np.full(count, np.inf),
            native_upper=np.full(count, np.inf),
            exact=np.zeros(count, bool),
            status=np.full(count, "stopped"),
            exactness=np.full(count, "safe-float"),
            label=labels,
            target=np.full(count, -1, np.int64),
            witness=nothing,
            native_witness=nothing.copy(),
            regions=np.zeros(count, np.int64),
            seconds=np.zeros(count),
        )
