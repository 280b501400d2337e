"""What `lipschitz` returns, whatever its method."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from polytope.pattern import ActivationPattern

#: Intervals whose width is at most this part of their upper end count as exact: the rounding of
#: two correct computations of one norm in float64.
EXACT = 1e-9


@dataclass(frozen=True, eq=False)
class Lipschitz:
    """An interval around a local Lipschitz constant.

    The constant is the largest ``||J(x)||`` of the asked operator norm over the points x of the
    domain at which the network is differentiable (at the domain's boundary: the limits of such
    J from inside).  All input coordinates count, also those that a box freezes.  On a domain
    with an inside that is the best constant of ``||f(x) - f(z)||_q <= L ||x - z||_p``.

    Attributes
    ----------
    lower : float
        ``||J||`` at `witness`, rounded down; 0 where no witness was sought or found.
    upper : float
        Proved; inf where the method bounds from below only.
    value : float or None
        The constant, where the interval is as narrow as rounding allows; otherwise None.
    p, q : float
        Norms of the inputs and of the outputs.
    method : str
    status : str
        "exact", "interval", or "stopped" (by time, regions or Ctrl-C: the interval reached).
    exactness : str
        "rational": proved in exact arithmetic; "safe-float": every rounding error is taken off;
        "float": computed in float64.
    witness : float64 (d,) or None
        A point of the domain, inside a linear region (or where a smooth network is smooth).
    jacobian : float64 (outputs, d) or None
        That of the network at the witness.
    pattern : ActivationPattern or None
        The pieces at the witness, for a piecewise-linear network.
    regions : int
        Linear regions examined.
    seconds : float
        Time taken, shared evenly among the domains of a batch.
    claimed : float
        The value that a solver of mixed-integer programs claims: its word, not a proof; NaN
        where none was asked.
    jumps : bool
        Whether a unit may jump in the domain (torch's softplus at its threshold, by 2e-9 where
        that is the default).  The norms of J are bounded all the same, but values on the two
        sides of a jump differ by it.
    """

    lower: float
    upper: float
    value: float | None
    p: float
    q: float
    method: str
    status: str
    exactness: str
    witness: np.ndarray | None = field(default=None, repr=False)
    jacobian: np.ndarray | None = field(default=None, repr=False)
    pattern: ActivationPattern | None = field(default=None, repr=False)
    regions: int = 0
    seconds: float = 0.0
    claimed: float = float("nan")
    jumps: bool = False
