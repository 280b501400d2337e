"""The task of an attack: the model, the points, the norm, the box, and what has been spent."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import numpy as np
import torch

from polytope.attacks.criterion import Criterion
from polytope.model import Network
from polytope.rows import as_logits
from polytope.sets import Box


@dataclass(frozen=True)
class Task:
    """Points that are decided as their labels, and the means to look for others near them.

    Attributes
    ----------
    net : Network
    x : tensor (n, *input_shape)
        On the device of the attack.
    criterion : Criterion
    p : float
    box : Box or None
    seeds : int array (n,)
        One per point, so that each can be attacked again alone.
    memory : int
        Bytes that a batch may take.
    deadline : float
        Of `time.perf_counter`; past it an attack returns what it has.
    queries : int array (n,)
        Points at which the network was evaluated so far, for each point of the task.
    """

    net: Network
    x: torch.Tensor
    criterion: Criterion
    p: float
    box: Box | None
    seeds: np.ndarray
    memory: int
    deadline: float
    queries: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.x)

    @property
    def points(self) -> np.ndarray:
        """The points as float64 (n, d)."""
        return np.asarray(self.x.flatten(1).cpu().numpy())

    @property
    def expired(self) -> bool:
        """Whether the time is spent."""
        return time.perf_counter() >= self.deadline

    def leads(self, z: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """`Criterion.leads` at points z (m, d) that belong to `rows` (m,); counted as queries."""
        np.add.at(self.queries, rows.cpu().numpy(), 1)
        outputs = self.net.forward(z.reshape(-1, *self.net.input_shape)).flatten(1)
        return self.criterion.leads(as_logits(outputs), rows)

    def limits(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Least and greatest step of each point inside the box: two tensors (n, d)."""
        x = self.x.flatten(1)
        if self.box is None:
            return torch.full_like(x, -math.inf), torch.full_like(x, math.inf)
        sides = (self.box.low, self.box.high)
        low, high = (torch.as_tensor(s.copy(), device=x.device) - x for s in sides)
        return low, high

    def generators(self) -> list[np.random.Generator]:
        """A source of random numbers for each point."""
        return [np.random.default_rng(int(seed)) for seed in self.seeds]
