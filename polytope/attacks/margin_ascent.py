"""The attacks of LLR's evaluation: Adam on logit margins in a ball, with many restarts.

Qin et al., "Adversarial robustness through local linearization" (NeurIPS 2019), Table 1 and
appendix F.1.  The three differ in the margin they climb: of the best other class, of a class
drawn at random, or of every class in turn.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch

from polytope.attacks.attack import Attack
from polytope.attacks.pgd import rival_order
from polytope.attacks.steps import ball_radius, positive_size, project
from polytope.attacks.task import Task
from polytope.errors import InputError
from polytope.inputs import positive_int

#: Adam's decay of the first and second moments, and what keeps it from dividing by zero: the
#: authors' and everyone's.
DECAY, DECAY_OF_SQUARES, FLOOR = 0.9, 0.999, 1e-8

#: Step sizes of the paper: from step 0, from step 100 and from step 150.
PAPER_RATES = ((0, 0.1), (100, 0.01), (150, 0.001))


@dataclass(frozen=True)
class MarginAscent(Attack):
    """Adam's ascent on a logit margin in a ball of fixed size; what its attacks share.

    Every adversarial iterate counts, and ends all restarts of its point.

    Parameters
    ----------
    eps : float
        Radius of the ball, in the norm of the call; the paper takes l_inf.
    steps : int
        Steps of Adam.
    restarts : int
        Ascents side by side, from random points of the ball.
    rates : sequence of (int, float)
        Adam's step sizes, each from a step on (counted from 0), in units of the input.
    dtype : torch.dtype
        Of the ascent: float32 takes about half the time. What it finds is looked at again in
        float64 before it ends the restarts, and proved like all else.

    Raises
    ------
    InputError
        If a number is not positive, the rates are no such pairs in order, or for another dtype.
    """

    eps: float
    _: KW_ONLY
    steps: int = 200
    restarts: int = 20
    rates: Sequence[tuple[int, float]] = PAPER_RATES
    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        positive_size(self.eps, f"{type(self).__name__}: eps")
        positive_int(self.steps, "steps")
        positive_int(self.restarts, "restarts")
        _check_rates(self.rates)
        if self.dtype not in (torch.float32, torch.float64):
            raise InputError(f"dtype: got {self.dtype}, expected torch.float64 or torch.float32")

    @abstractmethod
    def aims(
        self, task: Task, generators: Sequence[np.random.Generator]
    ) -> Iterator[torch.Tensor | None]:
        """The class (n,) whose margin each point climbs, round by round; None: the best one."""

    def must_reach(self) -> bool:
        """Whether the class aimed at has to be the highest; else any that counts will do."""
        return False

    def radius(self) -> float:
        """The ball's."""
        return float(self.eps)

    def copies(self) -> int:
        """Points evaluated at once for each point attacked."""
        return self.restarts

    def propose(self, task: Task) -> np.ndarray:
        """Candidates (n, d): the first adversarial iterate of each point."""
        points = task.x.flatten(1)
        best, generators = torch.full_like(points, torch.nan), task.generators()
        for aims in self.aims(task, generators):
            rows = torch.isnan(best[:, 0]).nonzero().flatten()
            if task.expired or not len(rows):
                break
            best[rows] = self._ascend(task, rows, aims, generators)
        return np.asarray((points + best).cpu().numpy())

    def _ascend(
        self,
        task: Task,
        rows: torch.Tensor,
        aims: torch.Tensor | None,
        generators: Sequence[np.random.Generator],
    ) -> torch.Tensor:
        """The first adversarial step of each of the rows (k, d); NaN where there was none."""
        exact, ball = (
            _Balls.around(task, rows, self.eps, dtype) for dtype in (torch.float64, self.dtype)
        )
        size = self.restarts, exact.points.shape[1]
        noise = np.concatenate([generators[i].uniform(-1, 1, size) for i in rows.tolist()])
        at = torch.arange(len(rows), device=rows.device).repeat_interleave(self.restarts)
        step = torch.as_tensor(noise, dtype=self.dtype, device=at.device) * ball_radius(self.eps)
        step = ball.inside(step, at)
        mean, square = torch.zeros_like(step), torch.zeros_like(step)
        found = torch.full_like(exact.points, torch.nan)
        for k in range(self.steps + 1):
            with torch.enable_grad():
                z = (ball.points[at] + step).requires_grad_()
                lead, over = self._leads(task, z, rows[at], aims)
                (gradient,) = torch.autograd.grad(lead.sum(), z)
            hits = over.nonzero().flatten()
            moved = exact.inside(step[hits].double(), at[hits])
            if self.dtype != torch.float64 and len(hits):
                with torch.no_grad():
                    z = exact.points[at[hits]] + moved
                    _, over = self._leads(task, z, rows[at[hits]], aims)
                hits, moved = hits[over], moved[over]
            first = _first_of_each(at[hits])
            found[at[hits[first]]] = moved[first]
            going = torch.isnan(found[at, 0]).nonzero().flatten()
            if k == self.steps or task.expired or not len(going):
                break
            if len(going) < len(at):
                at, step, gradient = at[going], step[going], gradient[going]
                mean, square = mean[going], square[going]
            mean = DECAY * mean + (1 - DECAY) * gradient
            square = DECAY_OF_SQUARES * square + (1 - DECAY_OF_SQUARES) * gradient**2
            root = (square / (1 - DECAY_OF_SQUARES ** (k + 1))).sqrt()
            move = mean / (1 - DECAY ** (k + 1)) / (root + FLOOR)
            step = ball.inside(step + self._rate(k) * move, at)
        return found

    def _leads(
        self, task: Task, z: torch.Tensor, rows: torch.Tensor, aims: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What points z (m, d) climb, and whether they are adversarial: (m,) each."""
        leads = task.leads(z, rows)
        top = leads.max(dim=1).values
        lead = top if aims is None else leads.gather(1, aims[rows, None]).squeeze(1)
        return lead, (top >= 0) & ((lead >= top) if self.must_reach() else True)

    def _rate(self, step: int) -> float:
        """Adam's step size in a step."""
        return [rate for start, rate in self.rates if start <= step][-1]


@dataclass(frozen=True)
class Untargeted(MarginAscent):
    """LLR's Untargeted attack: the margin of the highest other class, which may change.

    Where a target is given, the target's margin.

    Parameters
    ----------
    eps, steps, restarts, rates, dtype
        As for `MarginAscent`; the defaults are the paper's.
    """

    def aims(
        self, task: Task, generators: Sequence[np.random.Generator]
    ) -> Iterator[torch.Tensor | None]:
        """One round, for the best class."""
        del task, generators
        yield None


@dataclass(frozen=True)
class RandomTargeted(MarginAscent):
    """LLR's Random-Targeted attack: the margin of one class, drawn for each point.

    It proposes only points where that class is the highest of all, so that the share of
    `Attacked.found` is the paper's success rate (but for points that were misclassified before:
    compare `Attacked.target` with `drawn`). Where a target is given, that is the class.

    Parameters
    ----------
    eps, steps, restarts, rates, dtype
        As for `MarginAscent`; the defaults are the paper's.
    """

    def must_reach(self) -> bool:
        """The class has to be the output."""
        return True

    def aims(
        self, task: Task, generators: Sequence[np.random.Generator]
    ) -> Iterator[torch.Tensor | None]:
        """One round, for the class drawn."""
        if task.criterion.targets is None:
            counts = rival_order(task).shape[1] + 1
            pairs = zip(task.criterion.labels.tolist(), generators, strict=True)
            drawn = [_other_class(label, counts, generator) for label, generator in pairs]
        else:
            drawn = task.criterion.targets.tolist()
        yield torch.tensor(drawn, dtype=torch.int64, device=task.x.device)

    def drawn(self, labels: Sequence[int] | np.ndarray, classes: int, seed: int = 0) -> np.ndarray:
        """The class (n,) that each row aims at in a call with this seed.

        Parameters
        ----------
        labels : int array (n,)
        classes : int
            Of the network; 2 for a single logit.
        seed : int
        """
        return np.array(
            [
                _other_class(int(label), classes, np.random.default_rng(seed + i))
                for i, label in enumerate(labels)
            ],
            dtype=np.int64,
        )


@dataclass(frozen=True)
class MultiTargeted(MarginAscent):
    """LLR's Multi-Targeted attack: the margin of every other class in turn, the nearest first.

    Each class has all restarts. A point counts as soon as any class is as high as its label.

    Parameters
    ----------
    eps, steps, restarts, dtype
        As for `MarginAscent`; the defaults are the paper's.
    rates : sequence of (int, float)
        0.1 throughout in the paper.
    """

    rates: Sequence[tuple[int, float]] = ((0, 0.1),)

    def aims(
        self, task: Task, generators: Sequence[np.random.Generator]
    ) -> Iterator[torch.Tensor | None]:
        """One round for each class."""
        del generators
        yield from rival_order(task).T


@dataclass(frozen=True)
class _Balls:
    """The balls around some points, met with the box, in one precision."""

    points: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    radius: torch.Tensor
    p: float

    @classmethod
    def around(cls, task: Task, rows: torch.Tensor, eps: float, dtype: torch.dtype) -> _Balls:
        points, low, high = (v[rows].to(dtype) for v in (task.x.flatten(1), *task.limits()))
        radius = torch.full((1,), ball_radius(eps), dtype=dtype, device=points.device)
        return cls(points, low, high, radius, task.p)

    def inside(self, step: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """Bring steps (m, d) into the balls `at` (m,)."""
        radius = self.radius.expand(len(step))
        return project(step, radius, self.low[at], self.high[at], self.p)


def _first_of_each(owner: torch.Tensor) -> torch.Tensor:
    """The first row of each owner; `owner` (m,) is in order."""
    return torch.cat([owner[:1] >= 0, owner[1:] != owner[:-1]]).nonzero().flatten()


def _other_class(label: int, classes: int, generator: np.random.Generator) -> int:
    """A class other than the label, all equally likely."""
    return (label + 1 + int(generator.integers(classes - 1))) % classes


def _check_rates(rates: object) -> None:
    """Refuse what is no list of step sizes.

    Raises
    ------
    InputError
        Saying what is expected.
    """
    message = (
        f"rates: got {rates!r}, expected pairs (from step, step size), the first from step 0, such "
        "as ((0, 0.1), (100, 0.01))"
    )
    try:
        pairs = [(start, float(size)) for start, size in rates]  # type: ignore[attr-defined]
    except (TypeError, ValueError) as error:
        raise InputError(message) from error
    starts = [start for start, _ in pairs]
    whole = all(isinstance(s, int | np.integer) and not isinstance(s, bool) for s in starts)
    increasing = starts == sorted(set(starts)) and starts[:1] == [0]
    if not (whole and increasing and all(0 < size < math.inf for _, size in pairs)):
        raise InputError(message)
