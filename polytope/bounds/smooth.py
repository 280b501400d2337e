"""Linear bounds, values and derivatives of smooth activations on an interval.

Each function is cut into parts on which it is convex, concave or linear.  For any slope s the
line ``s z + b`` is a lower bound with ``b`` the least value of ``f(z) - s z``: on a concave or
linear part that is at an end, and on a convex part where the derivative is s, a place that need
not be met exactly since the tangent there is a bound too.  So, as for piecewise-linear units,
slopes may be chosen freely and only intercepts carry the proof, rounded outwards.  The default
slope is the one whose line is best in the middle among chords, tangents, and tangents through an
end (those of CROWN for S-shaped functions).

The library's exponentials, logarithms and arc tangents are taken to be accurate to 8 units in
the last place.  torch's softplus jumps from ``log(1 + exp(beta z)) / beta`` to ``z`` at its
threshold; both parts count there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from polytope.bounds.relaxation import Rule, UnitLines
from polytope.errors import UnsupportedOperation
from polytope.network.ir import Smooth

Elementwise = Callable[[torch.Tensor], torch.Tensor]

#: Relative error of a value or derivative, in machine epsilons, where nothing is magnified.
ULPS = 16.0
#: Halvings for a tangent through an end; any slope is sound.
HALVINGS = 24


@dataclass(frozen=True)
class Part:
    """A part of the line on which a function is convex, concave or linear.

    Attributes
    ----------
    start, stop : float
        Its ends, both counted.
    shape : "convex", "concave" or "linear"
    value, slope : callable
        The function and its derivative.
    inverse : callable or None
        Where the derivative has a value, roughly; None for a linear part.
    rate : float
        Errors are ``(ULPS + rate |z|)`` machine epsilons, relative.
    """

    start: float
    stop: float
    shape: Literal["convex", "concave", "linear"]
    value: Elementwise
    slope: Elementwise
    inverse: Elementwise | None = None
    rate: float = 0.0

    @property
    def rising(self) -> bool:
        """Whether the derivative is nowhere negative; it has one sign."""
        return bool(self.slope(torch.zeros(1)) >= 0)

    def error(self, z: torch.Tensor) -> torch.Tensor:
        """Relative error of values and derivatives at `z`."""
        size = torch.nan_to_num(z.abs(), posinf=0.0)
        return torch.finfo(z.dtype).eps * (ULPS + self.rate * size)


def parts_of(op: Smooth) -> tuple[Part, ...]:
    """The parts of a smooth activation, from left to right.

    Raises
    ------
    UnsupportedOperation
        For a softplus whose beta is not positive.
    """
    match op.kind:
        case "sigmoid":
            return _s_shaped(torch.sigmoid, _sigmoid_slope, _sigmoid_inverse)
        case "tanh":
            return _s_shaped(torch.tanh, lambda z: 4 * _sigmoid_slope(2 * z), _tanh_inverse)
        case "atan":
            return _s_shaped(torch.atan, lambda z: 1 / (1 + z * z), _atan_inverse)
        case "softplus":
            return _softplus(*op.parameters)
        case "elu":
            return _elu(*op.parameters)
        case _:
            raise UnsupportedOperation(f"bounds: unknown smooth activation {op.kind!r}")


def smooth_lines(op: Smooth, low: torch.Tensor, high: torch.Tensor, rule: Rule) -> UnitLines:
    """Lines below and above each unit.

    Parameters
    ----------
    op : Smooth
    low, high : tensor (n, units)
        Bounds of the pre-activations.
    rule : "adaptive" or "parallel"
        "parallel" gives the lower line the upper one's slope.
    """
    parts = parts_of(op)
    slopes = _candidates(parts, low, high)
    above = torch.stack([_intercept(parts, low, high, s, True) for s in slopes])
    chosen = torch.stack(slopes)
    middle = _middle(low, high)
    best = (chosen * middle + above).argmin(dim=0, keepdim=True)
    upper, upper_intercept = (v.gather(0, best).squeeze(0) for v in (chosen, above))
    if rule == "parallel":
        return UnitLines(upper, _intercept(parts, low, high, upper, False), upper, upper_intercept)
    below = torch.stack([_intercept(parts, low, high, s, False) for s in slopes])
    best = (chosen * middle + below).argmax(dim=0, keepdim=True)
    lower, lower_intercept = (v.gather(0, best).squeeze(0) for v in (chosen, below))
    return UnitLines(lower, lower_intercept, upper, upper_intercept)


def smooth_values(
    op: Smooth, low: torch.Tensor, high: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Bounds of the values on [low, high]; every part is monotone."""
    least, most = torch.full_like(low, torch.inf), torch.full_like(high, -torch.inf)
    for part in parts_of(op):
        live, a, b = _within(part, low, high)
        for end in (a, b):
            value = part.value(end)
            lost = _value_error(part, end, value)
            least = torch.where(live, torch.minimum(least, value - lost), least)
            most = torch.where(live, torch.maximum(most, value + lost), most)
    return least, most


def slope_bounds(
    op: Smooth, low: torch.Tensor, high: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Bounds of the derivative on [low, high]; it is monotone on every part.

    A part that [low, high] meets in one of its ends only does not count.
    """
    least, most = torch.full_like(low, torch.inf), torch.full_like(high, -torch.inf)
    for part in parts_of(op):
        live, a, b = _within(part, low, high)
        live = live & ((a < b) | (low == high))
        for end in (a, b):
            slope = part.slope(end)
            lost = torch.zeros_like(slope) if part.shape == "linear" else _lost(part, end, slope)
            least = torch.where(live, torch.minimum(least, slope - lost), least)
            most = torch.where(live, torch.maximum(most, slope + lost), most)
    if all(part.rising for part in parts_of(op)):
        least = least.clamp(min=0)
    return least, most


def jumps(op: Smooth, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Whether [low, high] contains a jump of the function (torch's softplus): bool."""
    parts = parts_of(op)
    if op.kind != "softplus" or len(parts) == 1:
        return torch.zeros_like(low, dtype=torch.bool)
    return (low <= parts[0].stop) & (high >= parts[1].start)


def _s_shaped(value: Elementwise, slope: Elementwise, inverse: Elementwise) -> tuple[Part, ...]:
    """A function convex below 0 and concave above, whose inverse is given for the left half."""
    return (
        Part(-math.inf, 0.0, "convex", value, slope, inverse),
        Part(0.0, math.inf, "concave", value, slope, lambda s: -inverse(s)),
    )


def _sigmoid_slope(z: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(z) * torch.sigmoid(-z)


def _sigmoid_inverse(s: torch.Tensor) -> torch.Tensor:
    root = (1 - 4 * s.clamp(max=0.25)).sqrt()
    return (4 * s.clamp(min=0) / (1 + root) ** 2).log()


def _tanh_inverse(s: torch.Tensor) -> torch.Tensor:
    root = (1 - s.clamp(max=1)).sqrt()
    return 0.5 * (s.clamp(min=0) / (1 + root) ** 2).log()


def _atan_inverse(s: torch.Tensor) -> torch.Tensor:
    return -(1 / s.clamp(min=0) - 1).clamp(min=0).sqrt()


def _softplus(beta: float = 1.0, threshold: float = 20.0) -> tuple[Part, ...]:
    if not beta > 0:
        raise UnsupportedOperation(
            f"bounds: softplus with beta={beta:g}; only beta > 0 is supported"
        )
    place = threshold / beta
    room = 8 * torch.finfo(torch.float64).eps * abs(place)
    curve = Part(
        -math.inf, place + room, "convex",
        lambda z: torch.log1p(torch.exp(beta * z)) / beta,
        lambda z: torch.sigmoid(beta * z),
        lambda s: torch.logit(s.clamp(0, 1)) / beta,
        2 * beta,
    )  # fmt: skip
    return (curve, _line(place - room))


def _elu(alpha: float = 1.0) -> tuple[Part, ...]:
    curve = Part(
        -math.inf, 0.0, "convex" if alpha >= 0 else "concave",
        lambda z: alpha * torch.expm1(z),
        lambda z: alpha * torch.exp(z),
        (lambda s: (s / alpha).clamp(min=0).log()) if alpha else None,
    )  # fmt: skip
    return (curve, _line(0.0))


def _line(start: float) -> Part:
    return Part(start, math.inf, "linear", lambda z: z, torch.ones_like)


def _within(
    part: Part, low: torch.Tensor, high: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Whether an interval meets a part, and the ends of what they have in common."""
    a, b = low.clamp(min=part.start), high.clamp(max=part.stop)
    live = a <= b
    safe = low.clamp(part.start, part.stop)
    return live, torch.where(live, a, safe), torch.where(live, b, safe)


def _lost(part: Part, z: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Bound on the rounding of a value or derivative at `z`."""
    size = torch.nan_to_num(value.abs(), posinf=0.0)
    return part.error(z) * size + 4 * torch.finfo(z.dtype).tiny


def _value_error(part: Part, z: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(value) if part.shape == "linear" else _lost(part, z, value)


def _height(part: Part, z: torch.Tensor, s: torch.Tensor, upper: bool) -> torch.Tensor:
    """``f(z) - s z`` rounded down, or up for an upper line; `z` may be infinite."""
    sign = 1.0 if upper else -1.0
    eps = torch.finfo(z.dtype).eps
    endless = torch.isinf(z)
    t = torch.where(endless, torch.zeros_like(z), z)
    value = part.value(t)
    product = s * t
    lost = _value_error(part, t, value) + eps * (value.abs() + 2 * product.abs())
    found = value - product + sign * (lost + 4 * torch.finfo(z.dtype).tiny)
    if not bool(endless.any()):
        return found
    end = part.value(torch.where(endless, z, torch.zeros_like(z)))
    rest = torch.where(s == 0, torch.zeros_like(s), -(s * z.sign()).sign() * torch.inf)
    if part.shape == "linear":
        far = torch.where(s == 1, torch.zeros_like(s), ((1 - s) * z.sign()).sign() * torch.inf)
    else:
        far = torch.where(s == 0, end + sign * _lost(part, t, end), rest)
    return torch.where(endless, far, found)


def _intercept(
    parts: tuple[Part, ...], low: torch.Tensor, high: torch.Tensor, s: torch.Tensor, upper: bool
) -> torch.Tensor:
    """The best rigorous intercept of lines of given slopes; infinite where there is none."""
    pick = torch.maximum if upper else torch.minimum
    sign = 1.0 if upper else -1.0
    best = torch.full_like(low, -sign * torch.inf)
    for part in parts:
        live, a, b = _within(part, low, high)
        if part.shape == ("concave" if upper else "convex") and part.inverse is not None:
            found = _touching(part, part.inverse, a, b, s, upper)
        else:
            found = pick(_height(part, a, s, upper), _height(part, b, s, upper))
        best = torch.where(live, pick(best, found), best)
    return torch.where(torch.isnan(best), torch.full_like(best, sign * torch.inf), best)


def _touching(
    part: Part, inverse: Elementwise, a: torch.Tensor, b: torch.Tensor, s: torch.Tensor, upper: bool
) -> torch.Tensor:
    """The extreme of ``f(z) - s z`` where it curves away: that of its tangent near it."""
    sign = 1.0 if upper else -1.0
    place = inverse(s)
    place = torch.where(torch.isnan(place), a, place)
    place = torch.minimum(torch.maximum(place, a), b)
    slope = part.slope(place)
    lost = _lost(part, place, slope)
    most, least = slope + lost - s, slope - lost - s
    exact = s == 0
    if part.rising:
        least = torch.where(exact, least.clamp(min=0), least)
    else:
        most = torch.where(exact, most.clamp(max=0), most)
    # Below a convex tangent point the bound falls by how much the slope exceeds s; upper: mirrored.
    left, right = (-least, most) if upper else (most, -least)
    slack = _times(left.clamp(min=0), place - a) + _times(right.clamp(min=0), b - place)
    return _height(part, place, s, upper) + sign * slack * (1 + 1e-6)


def _times(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A product in which 0 counts even against infinity (and inf - inf as 0)."""
    return torch.where((x == 0) | torch.isnan(y), torch.zeros_like(x), x * y)


def _middle(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """A finite point of each interval, the middle where there is one."""
    inside = torch.zeros_like(low).clamp(low, high)
    inside = torch.where(torch.isinf(inside), torch.zeros_like(inside), inside)
    middle = low / 2 + high / 2
    return torch.where(torch.isfinite(middle), middle, inside)


def _candidates(
    parts: tuple[Part, ...], low: torch.Tensor, high: torch.Tensor
) -> list[torch.Tensor]:
    """Slopes to choose from: chords, tangents, tangents through an end, flat, and 1."""
    middle = _middle(low, high)
    ends = [middle.new_full((), p.start).expand_as(low).clamp(low, high) for p in parts[1:]]
    places = [low, *ends, high]
    values = [_value(parts, z) for z in places]
    found = [torch.zeros_like(low), torch.ones_like(low)]
    for z in (low, middle, high):
        found.append(_slope(parts, z))
    for i in range(len(places)):
        for j in range(i + 1, len(places)):
            width = places[j] - places[i]
            fits = torch.isfinite(width) & (width > 0)
            rise = torch.where(fits, values[j] - values[i], torch.zeros_like(width))
            found.append(rise / torch.where(fits, width, torch.ones_like(width)))
    for part in parts:
        if part.shape == "linear":
            continue
        _, a, b = _within(part, low, high)
        for end in (low, high):
            found.append(_tangent(part, a, b, end, _value(parts, end)))
    return [torch.where(torch.isfinite(s), s, torch.zeros_like(s)) for s in found]


def _value(parts: tuple[Part, ...], z: torch.Tensor) -> torch.Tensor:
    value = parts[0].value(z)
    for part in parts[1:]:
        value = torch.where(z > part.start, part.value(z), value)
    return value


def _slope(parts: tuple[Part, ...], z: torch.Tensor) -> torch.Tensor:
    slope = parts[0].slope(z)
    for part in parts[1:]:
        slope = torch.where(z > part.start, part.slope(z), slope)
    return slope


def _tangent(
    part: Part, a: torch.Tensor, b: torch.Tensor, end: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    """Slope of the tangent at a point of [a, b] that passes through ``(end, value)``."""
    a, b = (torch.nan_to_num(v, neginf=-1e3, posinf=1e3) for v in (a, b))
    sign = 1.0 if part.shape == "convex" else -1.0
    rising = sign * (end - a - (b - a) / 2).sign()
    for _ in range(HALVINGS):
        middle = a / 2 + b / 2
        gap = sign * (part.value(middle) + part.slope(middle) * (end - middle) - value)
        below = gap * rising < 0
        a, b = torch.where(below, middle, a), torch.where(below, b, middle)
    return part.slope(b)
