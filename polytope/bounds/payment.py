"""What a layer of units adds to a bound at once, and what it hands on (RecurJac's Theorem 1).

A tangent t arrives at a unit whose slope d lies in [lam, mu]; the function being bounded has the
derivative Y in [L, U] with respect to the unit's output, so that the unit contributes ``Y d t``.

- If the sign of Y is known, or lam = mu, the slope that makes ``Y d t`` largest is known too:
  c = mu where Y t >= 0, else lam.  The tangent c t is *handed on*, and the layers behind decide.
- Otherwise the contribution is *paid*: at most ``max(mu U t, mu L t, lam U t, lam L t)``, which
  for 0 <= lam is the paper's ``mu (U t+ + L t-)``.

Nothing in this needs 0 <= lam, so abs and a PReLU of negative slope are bounded as they are.  A
maximum has ``d t`` replaced by the tangent of a candidate that may win: handed on is the largest
where Y >= 0 and the least where Y <= 0.  That is what the paper's ReLU(a-b) + ReLU(b) - ReLU(-b)
gives when ReLU(b) - ReLU(-b) is read as what it is, the identity.

What is paid and handed on depends on t by its sign only: ``paid = up t+ + down t-`` and
``handed on = keep_up t+ - keep_down t-``.  Allowances for rounding are added to up and down.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from polytope.bounds.derivatives import Slopes, Winners
from polytope.bounds.fastlip import Interval
from polytope.bounds.rounding import SLACK, gamma

#: A derivative in [L, U] with ``-L`` below this part of U counts as one of known sign, at a price
#: of that size: far above rounding, and far below what matters.
SNAP = 1e-10


@dataclass(frozen=True, eq=False)
class Payment:
    """The four coefficients of a layer of units: tensors (n, functions, units)."""

    up: torch.Tensor
    down: torch.Tensor
    keep_up: torch.Tensor
    keep_down: torch.Tensor

    @property
    def hands_on(self) -> bool:
        """Whether anything is handed on."""
        return bool((self.keep_up != 0).any() | (self.keep_down != 0).any())

    def pay(self, t: torch.Tensor) -> torch.Tensor:
        """What tangents (n or 1, functions or 1, directions, units) pay: (n, functions, dirs)."""
        up, down = t.clamp(min=0), (-t).clamp(min=0)
        if t.shape[1] == 1:
            ahead = torch.matmul(up[:, 0], self.up.transpose(1, 2))
            ahead = ahead + torch.matmul(down[:, 0], self.down.transpose(1, 2))
            return ahead.transpose(1, 2)
        found = torch.matmul(up, self.up.unsqueeze(3)) + torch.matmul(down, self.down.unsqueeze(3))
        return found.squeeze(3)

    def hand_on(self, t: torch.Tensor) -> torch.Tensor:
        """The tangents (n, functions, directions, units) behind the units."""
        up, down = self.keep_up[:, :, None], self.keep_down[:, :, None]
        return torch.where(t > 0, up, down) * t


@dataclass(frozen=True, eq=False)
class MaxPayment:
    """The same for maxima.

    Attributes
    ----------
    winners : Winners
    low, high : tensor (n, functions, units)
        L and U, widened by an allowance for rounding.
    paid, rising : bool tensor (n, functions, units)
        Whether a unit pays, and whether it otherwise hands on the largest tangent.
    noise : tensor (n, functions, units)
        Allowance per size of a unit's largest tangent.
    """

    winners: Winners
    low: torch.Tensor
    high: torch.Tensor
    paid: torch.Tensor
    rising: torch.Tensor
    noise: torch.Tensor

    @property
    def hands_on(self) -> bool:
        """Whether anything is handed on."""
        return not bool(self.paid.all())

    def _extremes(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Least and largest tangents of the candidates: (n, functions or 1, dirs, units)."""
        read = t[..., self.winners.index.clamp(min=0)]
        may = self.winners.may[:, None, None]
        return (
            torch.where(may, read, torch.inf).amin(dim=4),
            torch.where(may, read, -torch.inf).amax(dim=4),
        )

    def pay(self, t: torch.Tensor) -> torch.Tensor:
        """As `Payment.pay`."""
        least, most = self._extremes(t)
        low, high = self.low[:, :, None], self.high[:, :, None]
        first = torch.maximum(low * least, low * most)
        second = torch.maximum(high * least, high * most)
        zero = torch.zeros_like(first)
        found = torch.where(self.paid[:, :, None], torch.maximum(first, second), zero)
        size = torch.maximum(least.abs(), most.abs())
        return (found + self.noise[:, :, None] * size).sum(dim=3)

    def hand_on(self, t: torch.Tensor) -> torch.Tensor:
        """As `Payment.hand_on`."""
        least, most = self._extremes(t)
        chosen = torch.where(self.rising[:, :, None], most, least)
        return torch.where(self.paid[:, :, None], torch.zeros_like(chosen), chosen)


@dataclass(frozen=True, eq=False)
class WinnerPayment:
    """What maxima pay for covectors, and to which of their candidates they hand them on.

    Attributes
    ----------
    paid : Payment
        For units with several possible winners.
    where : int64 tensor (n, units)
        Position of the first possible winner.
    alone : bool tensor (n, units)
    size : int
        Number of values that the layer reads.
    """

    paid: Payment
    where: torch.Tensor
    alone: torch.Tensor
    size: int

    @property
    def hands_on(self) -> bool:
        """Whether anything is handed on."""
        return bool(self.alone.any())

    def pay(self, a: torch.Tensor) -> torch.Tensor:
        """As `Payment.pay`."""
        return self.paid.pay(a)

    def hand_on(self, a: torch.Tensor) -> torch.Tensor:
        """Covectors on what the layer reads: (n, functions, covectors, size)."""
        lead = torch.Size((len(self.where), *a.shape[1:3]))
        kept = torch.where(self.alone[:, None, None], a, torch.zeros_like(a)).expand(*lead, -1)
        index = self.where[:, None, None].expand(*lead, -1)
        return a.new_zeros(*lead, self.size).scatter_add(3, index, kept)


def payment(
    units: Slopes | Winners, outer: Interval, noise: torch.Tensor | None
) -> Payment | MaxPayment:
    """What a layer pays and hands on.

    Parameters
    ----------
    units : Slopes or Winners
    outer : Interval
        L and U: (n or 1, functions, units).
    noise : tensor (n or 1, functions, units) or None
        What rounding can cost per size of a tangent that is handed on; None if the layer pays
        everything, as it does where L and U are exact.
    """
    if isinstance(units, Winners):
        return _of_maxima(units, outer, noise)
    lam, mu = units.low[:, None], units.high[:, None]
    low, high = outer.low, outer.high
    most = torch.maximum(torch.maximum(mu * high, lam * high), torch.maximum(mu * low, lam * low))
    least = torch.minimum(torch.minimum(mu * high, lam * high), torch.minimum(mu * low, lam * low))
    unit = SLACK * 2 * gamma(most.shape[2] + 8, most.dtype)
    up, down = most + unit * most.abs(), -least + unit * least.abs()
    if noise is None:
        nothing = torch.zeros_like(up)
        return Payment(up, down, nothing, nothing)
    rising, known, doubt = _signs(outer)
    known = known | (lam == mu)
    keep_up, keep_down = torch.where(rising, mu, lam), torch.where(rising, lam, mu)
    carried = noise + 4 * gamma(1, noise.dtype) * outer.size
    doubt = doubt * (mu - lam) * (1 + 8 * gamma(1, noise.dtype))
    up = torch.where(known, (1 + unit) * (keep_up.abs() * carried + doubt), up)
    down = torch.where(known, (1 + unit) * (keep_down.abs() * carried + doubt), down)
    zero = torch.zeros_like(up)
    return Payment(up, down, torch.where(known, keep_up, zero), torch.where(known, keep_down, zero))


def _signs(outer: Interval) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Whether Y counts as at least 0, whether its sign counts as known, and what that may cost.

    The slope c that is right for Y >= 0 is wrong by at most ``|L| (mu - lam) |t|`` for a Y in
    [L, 0).  Many Y have the exact bound 0 (a unit that may be off), which outward rounding has
    moved across: such units are taken as known and that cost, of the size of rounding, is paid.
    """
    low, high = outer.low, outer.high
    rising = (low >= 0) | ((high > 0) & (-low <= SNAP * high))
    falling = ~rising & ((high <= 0) | (high <= SNAP * -low))
    doubt = torch.where(rising, (-low).clamp(min=0), torch.where(falling, high.clamp(min=0), 0.0))
    return rising, rising | falling, doubt


def _of_maxima(units: Winners, outer: Interval, noise: torch.Tensor | None) -> MaxPayment:
    """As `payment`."""
    shape = (len(units.may), *outer.low.shape[1:])
    low, high = (v.expand(shape) for v in (outer.low, outer.high))
    unit = SLACK * 2 * gamma(shape[2] + 8, low.dtype)
    if noise is None:
        everything = torch.ones(shape, dtype=torch.bool, device=low.device)
        return MaxPayment(units, low, high, everything, everything, unit * outer.size.expand(shape))
    alone = (units.may.sum(dim=2) == 1)[:, None]
    rising, known, doubt = _signs(Interval(low, high))
    paid = ~(known | alone)
    allowance = (1 + unit) * (noise.expand(shape) + torch.where(alone, 0.0, 2 * doubt))
    allowance = torch.where(paid, unit * outer.size, allowance)
    return MaxPayment(units, low, high, paid, rising, allowance)


def winner_payment(
    units: Winners, inner: Interval, exact: bool, allowance: torch.Tensor | None
) -> WinnerPayment:
    """What maxima pay: covector times the derivative of any candidate that may win."""
    may = units.may[:, None]
    read = [end[..., units.index.clamp(min=0)] for end in (inner.low, inner.high)]
    most = torch.where(may, read[1], -torch.inf).amax(dim=3)
    least = torch.where(may, read[0], torch.inf).amin(dim=3)
    unit = SLACK * 2 * gamma(most.shape[2] + 8, most.dtype)
    up, down = most + unit * most.abs(), -least + unit * least.abs()
    where = units.index.expand(len(units.may), -1, -1).gather(
        2, units.may.to(torch.int64).argmax(dim=2, keepdim=True)
    )
    alone = units.may.sum(dim=2) == 1
    if exact:
        alone = torch.zeros_like(alone)
    else:
        extra = torch.zeros_like(up)
        if allowance is not None:
            extra = allowance.expand(len(up), -1, -1).gather(
                2, where.squeeze(2)[:, None].expand_as(up)
            )
        up, down = (torch.where(alone[:, None], extra, v) for v in (up, down))
    zero = torch.zeros_like(up)
    return WinnerPayment(Payment(up, down, zero, zero), where.squeeze(2), alone, inner.low.shape[2])
