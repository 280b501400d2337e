"""Behind every facet lies the region that the exact pattern a step further names."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import polytope as pt
from polytope.margins import directional_margin
from polytope.network.exact import exact_pieces
from polytope.network.source import Imported
from polytope.robustness.crossing import crossing_behind
from tests.oracle.test_certify_brute_force import KINDS, network


def behind(net: pt.Network, x: np.ndarray, pieces: np.ndarray, row: int) -> np.ndarray:
    """The pieces behind one row, by the product."""
    point = torch.as_tensor(x).unsqueeze(0)
    crossing = crossing_behind(
        net, point, torch.as_tensor(pieces.copy()).unsqueeze(0), torch.tensor([row]),
        torch.tensor([0]), 2**20,
    )  # fmt: skip
    axes = torch.eye(2, dtype=torch.float64).unsqueeze(0)
    states = list(net.sweep(point, axes, crossing))
    return torch.cat([s.pieces for s in states[:-1]], 1)[0].numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_walk_along_lines(kind: str) -> None:
    crossed = 0
    for seed in range(12):
        graph = network(kind, seed)
        net = pt.Network(Imported(graph))
        rng = np.random.default_rng(seed)
        x, d = rng.uniform(-1, 1, 2), rng.normal(size=2)
        for _ in range(6):
            length = directional_margin(net, x, d)[0, 0]
            if not np.isfinite(length) or length < 1e-6:
                break
            region = net.region(x)
            room, speed = region.b - region.A @ x, region.A @ d
            hits = np.flatnonzero((speed > region.normal_error) & ~region.zero_rows)
            ratio = room[hits] / speed[hits]
            unit = region.units[int(hits[np.argmin(ratio)])]
            layer = net.layers[unit.layer]
            row = layer.first_row + unit.unit * layer.slots + unit.slot
            further = directional_margin(net, x + (length + 1e-9) * d, d)[0, 0]
            after = x + (length + min(0.5 * further, 1.0)) * d
            if further < 1e-6:
                break
            expected = exact_pieces(graph, after)
            found = behind(net, x, region.pattern.pieces, row)
            assert found.tolist() == expected.tolist()
            crossed += 1
            x = after
    assert crossed >= 12
