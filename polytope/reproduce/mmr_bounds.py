"""What MMR's tables measure on a network: optima, lower and upper bounds, robust errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from polytope.attacks.carlini_wagner import CarliniWagner
from polytope.attacks.pgd import PGD
from polytope.bounds.dual import least_margins
from polytope.bounds.inputs import InputSet
from polytope.distances import boundary_distance, decision_distance
from polytope.named_datasets import Dataset
from polytope.reproduce.measure import points
from polytope.reproduce.run import Fitted, Run
from polytope.robustness.minimal import minimal_perturbation
from polytope.robustness.perturbation import Perturbations
from polytope.robustness.theorem import certify
from polytope.sensitivity.radius import certified_radius

#: Images are in this box.
BOX = (0, 1)
#: Regions of the improved bounds: the point's own and the paper's five neighbours.
REGIONS = 6
#: Bytes for a chunk of points.
MEMORY = 2**29


def by_regions(run: Run, own: Fitted, data: Dataset, count: int) -> dict[str, np.ndarray]:
    """d_B and |d_D| of the predicted class of the first test points, in l_2 within the box."""

    def work(rows: slice) -> Mapping[str, Any]:
        X = points(data.test, rows)
        return {
            "boundary": boundary_distance(own.net, X, 2, BOX, memory=MEMORY).distance,
            "decision": np.abs(decision_distance(own.net, X, None, 2, BOX, memory=MEMORY).distance),
        }

    return run.in_parts(f"{own.name} distances", {"network": own.key}, count, 100, work)


def proved(
    run: Run, own: Fitted, data: Dataset, count: int, regions: int = 1
) -> dict[str, np.ndarray]:
    """Lower and upper ends by Theorem 3.1, or by several regions, and whether they meet."""

    def work(rows: slice) -> Mapping[str, Any]:
        found = certify(own.net, points(data.test, rows), None, 2, BOX, regions, memory=MEMORY)
        return {"lower": found.lower, "upper": found.upper, "exact": found.exact}

    settings = {"network": own.key, "regions": regions}
    return run.in_parts(f"{own.name} regions {regions}", settings, count, 20, work)


def dual(run: Run, own: Fitted, data: Dataset, count: int) -> dict[str, np.ndarray]:
    """Radii by the dual bound of Wong and Kolter (KW)."""

    def work(rows: slice) -> Mapping[str, Any]:
        X = points(data.test, rows)
        return {"radius": certified_radius(own.net, X, None, 2, BOX, "dual", theorem=False).radius}

    return run.in_parts(f"{own.name} dual", {"network": own.key}, count, 20, work)


def carlini_wagner(run: Run, own: Fitted, data: Dataset, count: int) -> dict[str, np.ndarray]:
    """Distances of the points found by Carlini and Wagner's attack."""
    steps, searches = run.pick((50, 3), (200, 9), (10_000, 20))
    attack = CarliniWagner(steps, searches, 0.01 if run.scale == "full" else 0.05)

    def work(rows: slice) -> Mapping[str, Any]:
        found = attack(own.net, points(data.test, rows), None, 2, BOX)
        return {"distance": found.distance}

    settings = {"network": own.key, "steps": steps, "searches": searches}
    return run.in_parts(f"{own.name} Carlini-Wagner", settings, count, 50, work)


def robust_errors(
    run: Run, own: Fitted, data: Dataset, p: float, eps: float, count: int
) -> dict[str, np.ndarray]:
    """Which test points PGD misclassifies within eps, and which the dual bound proves robust."""
    attack = PGD(steps=40, restarts=run.pick(1, 2, 5), rounds=run.pick(3, 5, 10))

    def work(rows: slice) -> Mapping[str, Any]:
        X, y = points(data.test, rows), data.test.y[rows]
        found = attack(own.net, X, y, p, BOX)
        others = np.arange(data.classes - 1)[None]
        others = others + (others >= y[:, None])
        margins = np.eye(data.classes)[y][:, None] - np.eye(data.classes)[others]
        x, zero = torch.from_numpy(X), torch.zeros(1, X.shape[1], dtype=torch.float64)
        ball = InputSet.from_ball(
            x, torch.full((len(x),), eps, dtype=torch.float64), p, zero, zero + 1
        )
        with torch.no_grad():
            least = least_margins(own.net, ball, torch.from_numpy(margins), "parallel")
        return {"broken": found.distance <= eps, "dual": (least > 0).all(1).numpy()}

    settings = {"network": own.key, "p": str(p), "eps": eps, "attack": repr(attack)}
    return run.in_parts(f"{own.name} robust errors", settings, count, 20, work)


def by_mip(
    run: Run, own: Fitted, data: Dataset, eps: float, count: int, limit: float
) -> dict[str, np.ndarray]:
    """Which test points a mixed-integer program decides at the l_inf radius eps, and how."""

    def work(rows: slice) -> Mapping[str, Any]:
        found = minimal_perturbation(
            own.net, points(data.test, rows), data.test.y[rows], math.inf, BOX, radius=eps,
            method="mip", time_limit=limit,
        )  # fmt: skip
        assert isinstance(found, Perturbations)
        return {
            "broken": [row.upper <= eps for row in found],
            "claimed": [row.claimed >= eps or row.status == "robust" for row in found],
        }

    settings = {"network": own.key, "eps": eps, "limit": limit}
    return run.in_parts(f"{own.name} MIP", settings, count, 1, work)


def average_bounds(run: Run, own: Fitted, data: Dataset, count: int) -> tuple[float, float]:
    """Mean lower (KW) and upper (CW) bounds; where Theorem 3.1 is exact, both are the optimum."""
    low = dual(run, own, data, count)["radius"]
    high = carlini_wagner(run, own, data, count)["distance"]
    theorem = proved(run, own, data, count)
    exact = theorem["exact"]
    low = np.where(exact, theorem["lower"], np.maximum(low, theorem["lower"]))
    high = np.where(exact, theorem["upper"], np.minimum(high, theorem["upper"]))
    finite = np.isfinite(high)
    return float(low[finite].mean()), float(high[finite].mean())
