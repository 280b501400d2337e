"""Balls and boxes as the user gives them, one or many, as a batch of input sets for bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from polytope.bounds.inputs import InputSet
from polytope.errors import InputError
from polytope.network.engine import Engine
from polytope.sets import Ball, Box, BoxLike, as_box

#: One set of inputs: None is the whole input space.
Domain: TypeAlias = "Ball | BoxLike"
#: One set, or a list of sets of one kind.
Domains: TypeAlias = "Domain | Sequence[Ball] | Sequence[Box]"


@dataclass(frozen=True, eq=False)
class DomainBatch:
    """Domains as input sets.

    Attributes
    ----------
    inputs : InputSet
        n sets.
    alone : bool
        One domain was given, not a list.
    order : tuple of int arrays
        Balls of one center and norm, from the largest to the smallest: each contains the next.
    """

    inputs: InputSet
    alone: bool
    order: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        """Number of domains."""
        return len(self.inputs)

    def take(self, rows: slice) -> InputSet:
        """Some of the sets."""
        sets = self.inputs
        center = None if sets.center is None else sets.center[rows]
        radius = None if sets.radius is None else sets.radius[rows]
        return InputSet(sets.low[rows], sets.high[rows], center, radius, sets.p)


def as_domains(
    net: Engine,
    domain: Domains,
    box: BoxLike = None,
    what: str = "domain",
    device: str | torch.device = "cpu",
) -> DomainBatch:
    """What the user gave as a batch of input sets.

    Parameters
    ----------
    net : Engine
    domain : Ball, Box, pair (low, high), None (all inputs), or a list of balls or of boxes
    box : Box or pair, optional
        Balls are met with it; their centers lie inside.
    what : str
        Who asks; begins the messages.
    device : str or torch.device

    Raises
    ------
    InputError
        If a set does not fit the network, a ball's center is outside the box, a box stands beside
        something that is no ball, or a list is empty or mixes kinds or norms.
    """
    listed = isinstance(domain, list | tuple) and any(isinstance(v, Ball | Box) for v in domain)
    if isinstance(domain, list | tuple) and not len(domain):
        raise InputError(f"{what}: got an empty list of domains; give at least one")
    items: list[object] = list(domain) if listed else [domain]  # type: ignore[arg-type]
    if all(isinstance(item, Ball) for item in items):
        balls = [item for item in items if isinstance(item, Ball)]
        return DomainBatch(_balls(net, balls, box, what, device), not listed, _chains(balls))
    if box is not None:
        raise InputError(
            f"{what}: box= limits balls, but the domain is no Ball; put the box into the domain "
            "itself"
        )
    if any(isinstance(item, Ball) for item in items):
        raise InputError(f"{what}: a list must hold balls only or boxes only, not both")
    sides = []
    for item in items:
        found = as_box(item, net.input_size)  # type: ignore[arg-type]
        endless = np.full(net.input_size, np.inf)
        sides.append((-endless, endless) if found is None else (found.low, found.high))
    low, high = (torch.tensor(np.stack(v)).to(device) for v in zip(*sides, strict=True))
    return DomainBatch(InputSet.from_box(low, high), not listed, ())


def _balls(
    net: Engine, balls: list[Ball], box: BoxLike, what: str, device: str | torch.device
) -> InputSet:
    """Balls in one norm met with a box."""
    size = net.input_size
    for ball in balls:
        if len(ball.center) != size:
            raise InputError(
                f"{what}: got a ball over {len(ball.center)} coordinates, but the network has "
                f"{size} inputs"
            )
        if ball.p != balls[0].p:
            raise InputError(
                f"{what}: got balls in l_{balls[0].p:g} and in l_{float(ball.p):g}; one call "
                "takes balls in one norm"
            )
    center = np.stack([ball.center for ball in balls])
    radius = np.array([ball.radius for ball in balls])
    limits = as_box(box, size)
    if limits is not None:
        outside = (center < limits.low) | (center > limits.high)
        if outside.any():
            row, at = np.argwhere(outside)[0]
            raise InputError(
                f"{what}: the center of ball {row} lies outside the box (coordinate {at}: "
                f"{center[row, at]:g} is not in [{limits.low[at]:g}, {limits.high[at]:g}]); move "
                "it inside or widen the box"
            )
    low, high = (
        None if limits is None else torch.tensor(side)[None].to(device)
        for side in (
            (None, None) if limits is None else (limits.low.copy(), limits.high.copy())
        )
    )  # fmt: skip
    return InputSet.from_ball(
        torch.tensor(center).to(device), torch.tensor(radius).to(device), balls[0].p, low, high
    )


def _chains(balls: list[Ball]) -> tuple[np.ndarray, ...]:
    """The balls around each center, from the largest to the smallest."""
    found: dict[bytes, list[int]] = {}
    for i, ball in enumerate(balls):
        found.setdefault(ball.center.tobytes(), []).append(i)
    radius = np.array([ball.radius for ball in balls])
    chains = (np.array(rows) for rows in found.values() if len(rows) > 1)
    return tuple(rows[np.argsort(-radius[rows], kind="stable")] for rows in chains)


def sample_points(inputs: InputSet, count: int, seed: int) -> torch.Tensor:
    """Random points of each set, half of them near its surface: (n, count, d).

    Open sides of a box are cut off 10 away from its other side, or from 0.
    """
    rng = np.random.default_rng(seed)
    n, d = inputs.low.shape
    low, high = (v.detach().cpu().numpy() for v in (inputs.low, inputs.high))
    share = rng.uniform(size=(n, count, 1))
    if inputs.center is None or inputs.radius is None:
        start = np.where(np.isinf(low), np.where(np.isinf(high), -10.0, high - 10), low)
        stop = np.where(np.isinf(high), np.where(np.isinf(low), 10.0, low + 10), high)
        part = rng.uniform(size=(n, count, d))
        part[:, ::2] = np.where(rng.uniform(size=part[:, ::2].shape) < 0.8, part[:, ::2].round(),
                                part[:, ::2])  # fmt: skip
        points = start[:, None] + (stop - start)[:, None] * part
        return torch.tensor(np.clip(points, start[:, None], stop[:, None])).to(inputs.low)
    p = inputs.p
    if p == 1:
        steps = rng.laplace(size=(n, count, d))
    else:
        steps = rng.gamma(1 / p, size=(n, count, d)) ** (1 / p)
        steps *= rng.choice([-1.0, 1.0], size=steps.shape)
    lengths = (np.abs(steps) ** p).sum(axis=2, keepdims=True) ** (1 / p)
    share = share ** (1 / d)
    share[:, ::2] = 1.0
    radius = inputs.radius.cpu().numpy()[:, None, None] * (1 - 1e-9)
    center = inputs.center.detach().cpu().numpy()[:, None]
    points = center + radius * share * steps / np.where(lengths > 0, lengths, 1.0)
    return torch.tensor(np.clip(points, low[:, None], high[:, None])).to(inputs.low)
