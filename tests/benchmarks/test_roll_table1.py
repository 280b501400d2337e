"""ROLL, Table 1, vanilla row: margins of a plain 4x300 network trained on MNIST.

Run with ``pytest tests/benchmarks/test_roll_table1.py -n 0 -s`` (a few minutes on two cores).
A short version runs in the unit tests.
"""

from __future__ import annotations

import polytope as pt
from polytope.margins import count_complete_regions
from tests.roll import percentiles, train_vanilla

PUBLISHED = {"l_1": (22, 53, 106, 866), "l_2": (3, 6, 13, 91)}


def test_table1_vanilla() -> None:
    trained = train_vanilla(epochs=20)
    net = pt.compile(trained.model, (784,))
    print(f"\naccuracy {trained.accuracy:.4f} (published 0.98)")
    for name, p in (("l_1", 1), ("l_2", 2)):
        distance = trained.sigma * pt.boundary_distance(net, trained.test, p=p).distance
        found = percentiles(distance)
        print(f"{name} margins x1e-4, percentiles 25/50/75/100: "
              f"{'/'.join(f'{v:.1f}' for v in found)} "
              f"(published {'/'.join(map(str, PUBLISHED[name]))})")  # fmt: skip
    count = count_complete_regions(net, trained.test)
    print(f"complete linear regions: {count.lower} to {count.upper}, {len(count.ties)} ties "
          "(published 10000)")  # fmt: skip
