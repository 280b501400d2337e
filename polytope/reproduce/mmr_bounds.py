"""What MMR's tables measure on a network: optima, lower and upper bounds, robust errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from polytope.attacks.carlini_wagner import CarliniWagner
from polytope.distances import boundary_distance, decision_distance
from polytope.named_datasets import Dataset
from polytope.reproduce.measure import points
from polytope.reproduce.run import Fitted, Run
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
