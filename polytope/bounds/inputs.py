"""Batches of input sets, an l_p ball met with a box each, and least values of linear functions.

For ``{x : ||x - c||_p <= r, low <= x <= high}`` with c in the box and p < inf, let ``m_i`` be
the room of coordinate i on the side that lowers ``a_i x_i``.  Then for every ``lam >= 0``, with
``b_i = min(|a_i|, lam m_i^(p-1))``,

    a x >= a c - r ||b||_q - sum_i (|a_i| - b_i) m_i,      1/p + 1/q = 1,

because the part b of the weights is bounded by Hoelder's inequality over the ball and the rest
over the box.  Some lam attains the least value; it is found by an active-set iteration on the
step length (1 < p < inf) or by sorting (p = 1), and the bound holds whatever lam is found.
An l_inf ball is a box.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from polytope.bounds.rounding import SLACK, above, below, contract, gamma
from polytope.errors import InputError
from solvers.errors import ProblemError
from solvers.norms import NormLike, dual_exponent, parse_norm, vector_norm

#: Steps of the active-set iteration; three to six are usual, and stopping early is sound.
STEPS = 30

#: Coordinates sorted at first for p = 1; all of them are if these do not use up the radius.
FIRST = 32


@dataclass(frozen=True, eq=False)
class LeastValues:
    """Lower bounds of linear functions over input sets.

    Attributes
    ----------
    value : tensor (n, functions)
        Never above the least value, whatever rounding does (float64; p in {1, 2, inf}, and for
        other p if the library's powers are accurate to 16 units in the last place).
    multiplier : tensor (n, functions)
        The lam of the module's inequality; 0 for a box.
    point : tensor (n, functions, d) or None
        A minimiser, within rounding; inside the box exactly.
    """

    value: torch.Tensor
    multiplier: torch.Tensor
    point: torch.Tensor | None


@dataclass(frozen=True, eq=False)
class InputSet:
    """A batch of input sets; made by `from_box` and `from_ball`.

    Attributes
    ----------
    low, high : tensor (n, d)
        The smallest box (rounded outwards) around each set; infinite sides are open.
    center, radius : tensor (n, d) and (n,), or None
        The balls; None where p is inf, since an l_inf ball is a box.
    p : float
        In [1, inf].
    same : bool
        All sets of the batch are the same one: functions that are common to all of them are
        then bounded once.
    """

    low: torch.Tensor
    high: torch.Tensor
    center: torch.Tensor | None = None
    radius: torch.Tensor | None = None
    p: float = math.inf
    same: bool = False

    @classmethod
    def from_box(cls, low: torch.Tensor, high: torch.Tensor) -> InputSet:
        """Boxes ``low <= x <= high``, both (n, d), taken as exact.

        Raises
        ------
        InputError
            If shapes differ, a bound is NaN, or a box is empty.
        """
        if low.ndim != 2 or low.shape != high.shape:
            raise InputError(
                f"box: got bounds of shape {tuple(low.shape)} and {tuple(high.shape)}, expected "
                "two tensors (n, d); flatten the inputs"
            )
        if not bool((low <= high).all()):
            raise InputError(
                "box: a lower bound is above its upper bound, or a bound is NaN; every box of "
                "the batch needs low <= high"
            )
        return cls(low, high)

    @classmethod
    def from_ball(
        cls,
        center: torch.Tensor,
        radius: torch.Tensor,
        p: NormLike,
        low: torch.Tensor | None = None,
        high: torch.Tensor | None = None,
    ) -> InputSet:
        """Balls met with boxes.

        Parameters
        ----------
        center : tensor (n, d)
            Inside the box.
        radius : tensor (n,)
            At least 0, finite.
        p : number or "inf"
        low, high : tensor broadcastable to (n, d), optional
            The box; open if absent.

        Raises
        ------
        InputError
            If shapes do not fit, a number is not finite, the radius is negative, p is no norm,
            or a center is outside its box.
        """
        try:
            exponent = parse_norm(p)
        except ProblemError as error:
            raise InputError(f"input set: {error}") from error
        if center.ndim != 2 or radius.shape != center.shape[:1]:
            raise InputError(
                f"input set: got centers {tuple(center.shape)} and radii {tuple(radius.shape)}, "
                "expected (n, d) and (n,)"
            )
        if not bool(torch.isfinite(center).all() & torch.isfinite(radius).all()):
            raise InputError("input set: centers and radii must be finite")
        if bool((radius < 0).any()):
            raise InputError("input set: a radius is negative; it must be at least 0")
        step = radius[:, None]
        start, stop = (
            torch.where(step == 0, center, end)
            for end in (below(center - step), above(center + step))
        )
        if low is not None:
            if not bool((low <= center).all()):
                raise InputError("input set: a center is below its box; move it inside")
            start = torch.maximum(start, low.expand_as(center))
        if high is not None:
            if not bool((center <= high).all()):
                raise InputError("input set: a center is above its box; move it inside")
            stop = torch.minimum(stop, high.expand_as(center))
        if exponent == math.inf:
            return cls(start, stop)
        return cls(start, stop, center, radius, exponent)

    def __len__(self) -> int:
        """Number of sets."""
        return len(self.low)

    @property
    def magnitude(self) -> torch.Tensor:
        """The largest ``|x_i|`` in each set: (n, d)."""
        return torch.maximum(self.low.abs(), self.high.abs()).detach()

    def least(self, a: torch.Tensor, points: bool = False) -> LeastValues:
        """Lower bounds of ``a x`` over each set.

        Parameters
        ----------
        a : tensor (n or 1, functions, d)
        points : bool
            Also return minimisers, (n, functions, d).

        Returns
        -------
        LeastValues
            Values are differentiable; multipliers and points are constants (at an optimal
            multiplier that is the true gradient, by the envelope theorem).
        """
        if self.same and len(a) == 1 and len(self) > 1:
            one = self._first().least(a, points)
            every = (len(self), -1)
            point = None if one.point is None else one.point.expand(*every, -1)
            return LeastValues(one.value.expand(every), one.multiplier.expand(every), point)
        if self.center is None or self.radius is None:
            return self._least_in_box(a, points)
        return self._least_in_ball(a, self.center, self.radius, points)

    def _first(self) -> InputSet:
        """The first set alone."""
        center = None if self.center is None else self.center[:1]
        radius = None if self.radius is None else self.radius[:1]
        return InputSet(self.low[:1], self.high[:1], center, radius, self.p)

    def _least_in_box(self, a: torch.Tensor, points: bool) -> LeastValues:
        up, down = a.clamp(min=0), a.clamp(max=0)
        value = contract(up, self.low) + contract(down, self.high)
        size = contract(up.detach(), self.low.detach().abs())
        size = size + contract(-down.detach(), self.high.detach().abs())
        error = SLACK * gamma(a.shape[2] + 3, a.dtype) * size + _lost(a, self.magnitude)
        point = None
        if points:
            low, high = self.low[:, None], self.high[:, None]
            rest = torch.zeros_like(low).clamp(low, high)
            point = torch.where(a > 0, low, torch.where(a < 0, high, rest)).detach()
        value = value - error
        bad = torch.isnan(value)
        value = torch.where(bad, torch.full_like(value, -torch.inf), value)
        return LeastValues(value, torch.zeros_like(value).detach(), point)

    def _least_in_ball(
        self, a: torch.Tensor, center: torch.Tensor, radius: torch.Tensor, points: bool
    ) -> LeastValues:
        p, q = self.p, dual_exponent(self.p)
        given = (a, center, radius, self.low, self.high)
        plain = all(
            t.dtype == torch.float64 and t.device.type == "cpu" and not t.requires_grad
            for t in given
        )
        if p in (1.0, 2.0) and plain and not points:
            return self._least_compiled(a, center, radius)
        weights = a.abs().expand(len(self), -1, -1)
        room = torch.where(
            a > 0, above(center - self.low)[:, None], above(self.high - center)[:, None]
        )
        with torch.no_grad():
            find = _sorted_multiplier if p == 1 else _iterated_multiplier
            lam, steps = find(weights, room, radius[:, None], p, points)
            caps = lam[..., None] * (room if p == 2 else room ** (p - 1))
            caps = torch.nan_to_num(caps, nan=0.0, posinf=math.inf)
        ball = torch.minimum(weights, caps)
        held = radius[:, None] * vector_norm(ball, q)
        rest = ((weights - ball) * room).sum(dim=2)
        value = contract(a, center) - held - rest
        with torch.no_grad():
            size = contract(weights, center.abs()) + held + rest
            terms = a.shape[2] + (8 if p in (1.0, 2.0) else 64 + math.ceil(16 * q))
            error = SLACK * gamma(terms, a.dtype) * size
            error = error + _lost(a, self.magnitude + center.abs() + radius[:, None])
            point = None
            if points:
                assert steps is not None
                point = center[:, None] - a.sign() * steps
                point = torch.minimum(torch.maximum(point, self.low[:, None]), self.high[:, None])
        value = value - error
        bad = torch.isnan(value)
        value = torch.where(bad, torch.full_like(value, -torch.inf), value)
        return LeastValues(value, lam, point)

    def _least_compiled(
        self, a: torch.Tensor, center: torch.Tensor, radius: torch.Tensor
    ) -> LeastValues:
        """`_least_in_ball` for p = 1 and 2 without derivatives, compiled."""
        from polytope.bounds.ball_kernels import ball_rows  # compiled: only when it is wanted

        shape = (len(self), a.shape[1])
        value, size, lam = (torch.zeros(shape, dtype=a.dtype) for _ in range(3))
        ball_rows(
            a.contiguous().numpy(), above(center - self.low).numpy(),
            above(self.high - center).numpy(), center.contiguous().numpy(), radius.numpy(), self.p,
            value.numpy(), size.numpy(), lam.numpy(),
        )  # fmt: skip
        error = SLACK * gamma(a.shape[2] + 8, a.dtype) * size
        value = value - error - _lost(a, self.magnitude + center.abs() + radius[:, None])
        value = torch.where(torch.isnan(value), torch.full_like(value, -torch.inf), value)
        return LeastValues(value, lam, None)


def _lost(a: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """What underflowing products can lose in all: (n, 1)."""
    largest = torch.nan_to_num(magnitude, posinf=0.0).amax(dim=1, keepdim=True)
    return 8 * a.shape[2] * torch.finfo(a.dtype).tiny * (largest + 1)


def _sorted_multiplier(
    weights: torch.Tensor, room: torch.Tensor, radius: torch.Tensor, p: float, points: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """For p = 1: the coordinates of largest weight move first; lam is the last one's weight."""
    del p
    largest, at = weights.max(dim=2)
    if not points and bool((room.gather(2, at[..., None]).squeeze(2) >= radius).all()):
        return largest, None
    size = weights.shape[2]
    for count in sorted({min(FIRST, size), size}):
        order = weights.topk(count, dim=2).indices
        rooms = room.gather(2, order)
        used = rooms.cumsum(dim=2)
        if bool((used[..., -1] >= radius).all()):
            break
    last = (used < radius[..., None]).sum(dim=2)
    ranked = torch.nn.functional.pad(weights.gather(2, order), (0, 1))
    lam = ranked.gather(2, last[..., None]).squeeze(2)
    steps = torch.minimum((radius[..., None] - (used - rooms)).clamp(min=0), rooms)
    return lam, torch.zeros_like(weights).scatter(2, order, steps)


def _iterated_multiplier(
    weights: torch.Tensor, room: torch.Tensor, radius: torch.Tensor, p: float, points: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """For 1 < p < inf: steps ``min(t w^(q-1), room)`` of l_p length r; t only grows.

    With the coordinates that have used up their room at the last t held there, the others
    give a new, larger t in closed form; when no further one is used up, t is exact.
    """
    q = dual_exponent(p)
    scale = weights.amax(dim=2)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    w = weights / scale[..., None]
    reach = w if p == 2 else w ** (q - 1)
    squares = w * w if p == 2 else w**q
    rooms = (room / radius.clamp(min=torch.finfo(w.dtype).tiny)[..., None]).clamp(max=2.0)
    powers = rooms * rooms if p == 2 else rooms**p
    t = squares.sum(dim=2) ** (-1 / p)
    done = torch.zeros_like(w, dtype=torch.bool)
    for _ in range(STEPS):
        full = t[..., None] * reach > rooms
        if bool((full == done).all()):
            break
        done = full
        left = (1 - torch.where(full, powers, 0.0).sum(dim=2)).clamp(min=0)
        free = torch.where(full, 0.0, squares).sum(dim=2)
        t = torch.maximum(t, (left / free) ** (1 / p)).nan_to_num(nan=math.inf)
    length = t * radius
    lam = scale / (length if p == 2 else length ** (p - 1))
    lam = lam.nan_to_num(nan=0.0)
    if not points:
        return lam, None
    steps = torch.minimum((length[..., None] * reach).nan_to_num(nan=0.0), room)
    return lam, steps
