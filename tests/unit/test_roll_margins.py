"""A short version of ROLL's Table 1, vanilla row: the margins have the published size.

Two epochs instead of twenty (margins shrink slowly with training), so the published medians,
53e-4 in l_1 and 6e-4 in l_2, are met within a factor of two.
"""

from __future__ import annotations

import numpy as np

import polytope as pt
from tests.roll import percentiles, train_vanilla


def test_margins_of_a_plain_mnist_network() -> None:
    trained = train_vanilla(epochs=2)
    assert trained.accuracy > 0.9
    net = pt.compile(trained.model, (784,))
    points = trained.test[:300]
    l1 = trained.sigma * pt.boundary_distance(net, points, p=1).distance
    l2 = trained.sigma * pt.boundary_distance(net, points, p=2).distance
    assert 53 / 2 < percentiles(l1)[1] < 53 * 2
    assert 6 / 2 < percentiles(l2)[1] < 6 * 2
    ranks = [np.argsort(np.argsort(v)) for v in (l1, l2)]
    assert np.corrcoef(*ranks)[0, 1] > 0.97
