"""The minimal perturbation of the ten digits in l_inf, against a frozen HiGHS MIP.

    OMP_NUM_THREADS=1 pytest -n 0 -s tests/benchmarks/test_minimal_speed.py

CPU seconds of this process, in one run on one core.  The MIP (`frozen_highs_mip.py`) is given our
attack's radius and is not charged for the attack; ours is charged for everything.
"""

import time

import numpy as np
import pytest
import torch

import polytope as pt
from polytope import datasets
from tests.benchmarks.frozen_highs_mip import solve
from tests.data import data_path

ROUNDS = 3


@pytest.fixture(scope="module")
def digits():
    """The network, its matrices, points, labels and known optima."""
    net = pt.compile(str(data_path("digits", "digits_64_32_32_10.onnx")))
    with np.load(data_path("digits", "digits_64_32_32_10.npz")) as file:
        layers = range(sum(name.startswith("W") for name in file))
        matrices = (
            [file[f"W{k}"].astype(float) for k in layers],
            [file[f"b{k}"].astype(float) for k in layers],
        )
        points = file["points"].astype(float), file["labels"].astype(int), file["linf_optimum"]
    return net, matrices, points


def test_against_a_frozen_mip(digits):
    net, (weights, biases), (x, y, known) = digits
    torch.set_num_threads(1)
    pt.minimal_perturbation(net, x[:1], y[:1], "inf", (0, 1))  # compiled once
    spent = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        ours = pt.minimal_perturbation(net, x, y, "inf", (0, 1))
        spent.append(time.process_time() - begun)
    assert ours.exact.all()
    np.testing.assert_allclose(ours.upper, known, rtol=0, atol=1e-12)
    theirs = []
    for i, (point, label) in enumerate(zip(x, y, strict=True)):
        radius = ours[i].stats.attack_upper
        value, seconds = solve(weights, biases, point, int(label), radius)
        assert value == pytest.approx(known[i], abs=1e-8)
        theirs.append(seconds)
    print(
        f"\npolytope: {min(spent):.2f} CPU s for ten points, attack and all, in the best of "
        f"{ROUNDS} rounds; median point {np.median([r.stats.seconds for r in ours]):.3f} s"
    )
    print(
        f"frozen HiGHS MIP: {sum(theirs):.2f} CPU s, the slowest {max(theirs):.2f} s: "
        f"{sum(theirs) / min(spent):.0f} times"
    )


def test_a_hundred_digits():
    X, y = datasets.digits()
    torch.set_num_threads(1)
    own = pt.compile(str(data_path("digits", "digits_64_32_32_10.onnx")))
    print()
    for name, net in (("shipped network", datasets.digits_network()), ("shared network", own)):
        for p in (1, 2, "inf"):
            begun = time.process_time()
            found = pt.minimal_perturbation(net, X, y, p, (0, 1))
            cpu = time.process_time() - begun
            assert found.exact.all()
            seconds = [row.stats.seconds for row in found]
            best = np.mean([r.stats.attack_upper <= r.upper * (1 + 1e-9) for r in found])
            print(
                f"{name}, l_{p}: {found.exact.sum()} of {len(found)} exact, {cpu:.1f} CPU s, "
                f"median {np.median(seconds):.3f} s, slowest {max(seconds):.2f} s; the attack "
                f"alone is at the optimum on {best:.0%}"
            )
