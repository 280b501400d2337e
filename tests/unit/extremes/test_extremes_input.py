"""What the extreme values over regions refuse, how they stop, and what they hand back."""

from __future__ import annotations

import math
import signal
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

import polytope as pt
from polytope.errors import InputError, SmoothActivation
from solvers.solution import Status
from tests.nets import compiled, dense

NET = dense(2, 6, 2, seed=1)
X = np.array([0.1, -0.2])

#: Keyword arguments that make each function answer at once.
CALLS = {
    "exact_lipschitz": lambda **k: pt.exact_lipschitz(
        k.pop("net", NET), k.pop("domain", (-1, 1)), k.pop("p", 2), k.pop("q", 2), **k
    ),
    "lipschitz_mip": lambda **k: pt.lipschitz_mip(
        k.pop("net", NET), k.pop("domain", (-1, 1)), k.pop("p", 1), k.pop("q", 1), **k
    ),
    "local_linearity": lambda **k: pt.local_linearity(
        k.pop("net", NET), k.pop("x", X), k.pop("y", 0), k.pop("eps", 0.5), k.pop("p", "inf"), **k
    ),
    "gradient_distortion": lambda **k: pt.gradient_distortion(
        k.pop("net", NET), k.pop("x", X), k.pop("y", 0), k.pop("eps", 0.5), k.pop("p", "inf"),
        **{"samples": 0, **k},
    ),
}  # fmt: skip
WIDE = dense(20, 4, 20, seed=1)

REFUSED = [
    (
        "exact_lipschitz",
        {"domain": pt.Ball(np.zeros(3), 1.0)},
        "3 coordinates, but the network has 2",
    ),
    ("exact_lipschitz", {"domain": pt.Ball(X, 1.0, 3)}, "l_3"),
    ("exact_lipschitz", {"domain": pt.Ball(X, 1.0), "box": (0, 1)}, "center is outside the box"),
    ("exact_lipschitz", {"domain": (0, 1), "box": (0, 1)}, "put the box into the domain"),
    ("exact_lipschitz", {"domain": (0, 0)}, "every coordinate of the box is frozen"),
    ("exact_lipschitz", {"domain": (1, 0)}, "box is empty"),
    ("exact_lipschitz", {"p": 0.5}, "in \\[1, inf\\]"),
    ("exact_lipschitz", {"q": "two"}, "in \\[1, inf\\]"),
    ("exact_lipschitz", {"net": WIDE, "p": 3, "q": 2}, "NP-hard.*p=1 with any q"),
    ("exact_lipschitz", {"net": WIDE, "p": "inf", "q": 1}, "NP-hard"),
    ("exact_lipschitz", {"functional": [1.0]}, "got 1 numbers, expected 2"),
    ("exact_lipschitz", {"functional": [1.0, math.nan]}, "finite"),
    ("exact_lipschitz", {"functional": "margin"}, "not numeric"),
    ("exact_lipschitz", {"total": True}, "q has to be 1"),
    ("exact_lipschitz", {"max_regions": 0}, "at least 1"),
    ("exact_lipschitz", {"max_regions": 1.5}, "at least 1"),
    ("exact_lipschitz", {"time_limit": -1}, "at least 0"),
    ("exact_lipschitz", {"time_limit": math.nan}, "at least 0"),
    ("exact_lipschitz", {"time_limit": "long"}, "at least 0"),
    ("lipschitz_mip", {"p": 2}, "p and q of 1 and inf"),
    ("lipschitz_mip", {"q": 2}, "p and q of 1 and inf"),
    ("lipschitz_mip", {"domain": None}, "bounded box or a ball in l_1 or l_inf"),
    ("lipschitz_mip", {"domain": pt.Ball(X, 1.0, 2)}, "bounded box or a ball in l_1 or l_inf"),
    ("lipschitz_mip", {"time_limit": -1}, "at least 0"),
    *(
        (name, {**given}, message)
        for name in ("local_linearity", "gradient_distortion")
        for given, message in (
            ({"x": np.zeros((2, 2))}, "got 2 points, expected one"),
            ({"x": np.zeros(3)}, "shape"),
            ({"x": X * math.nan}, "NaN"),
            ({"y": 2}, "out of range"),
            ({"y": 0.5}, "whole numbers"),
            ({"y": [0, 1]}, "index of one class"),
            ({"y": True}, "index of one class"),
            ({"eps": 0.0}, "positive"),
            ({"eps": -1.0}, "positive"),
            ({"eps": math.inf}, "positive finite"),
            ({"eps": "small"}, "not numeric"),
            ({"p": 3}, "l_3"),
            ({"box": (0, 1)}, "center is outside the box"),
            ({"target": 0}, "y itself"),
            ({"target": 5}, "out of range"),
            ({"method": "best"}, "expected one of auto, exact"),
            ({"time_limit": -1}, "at least 0"),
            ({"max_regions": 0}, "at least 1"),
        )
    ),
    ("local_linearity", {"p": 2, "method": "exact"}, "no linear program"),
    ("local_linearity", {"steps": 0}, "at least 1"),
    ("local_linearity", {"step": 0.0}, "positive finite"),
    ("gradient_distortion", {"p": 1, "method": "genetic"}, "l_inf balls"),
    ("gradient_distortion", {"population": 0}, "at least 1"),
    ("gradient_distortion", {"samples": -1}, "at least 0"),
    ("gradient_distortion", {"r": 0.3}, "in \\[1, inf\\]"),
]


@pytest.mark.parametrize(("name", "given", "message"), REFUSED)
def test_bad_input(name: str, given: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CALLS[name](**given)


@pytest.mark.parametrize("name", list(CALLS))
def test_smooth_networks_are_refused_with_what_applies(name: str) -> None:
    net = pt.compile(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)), (2,))
    with pytest.raises(SmoothActivation, match="RecurJac"):
        CALLS[name](net=net)


def test_unknown_solvers_are_named() -> None:
    with pytest.raises(Exception, match="cplexy"):
        CALLS["lipschitz_mip"](solver="cplexy")


def test_stopping_gives_an_interval() -> None:
    net = dense(6, 14, 14, 2, seed=3)
    exact = pt.exact_lipschitz(net, (-1, 1), 2, 2)
    assert exact.status == "exact"
    for limits in ({"max_regions": 20}, {"time_limit": 0.0}):
        found = pt.exact_lipschitz(net, (-1, 1), 2, 2, **limits)
        assert found.status == "stopped"
        assert found.value is None
        assert found.regions < exact.regions
        assert found.lower <= exact.upper
        assert exact.lower <= found.upper < math.inf
        if found.witness is not None:
            assert (np.abs(found.witness) < 1).all()
    # Without a bounded box nothing bounds the rest.
    everywhere = pt.exact_lipschitz(net, None, 2, 2, max_regions=10)
    assert everywhere.upper == math.inf
    distortion = pt.gradient_distortion(
        net, np.zeros(6), 0, 1.0, method="exact", max_regions=20, samples=0
    )
    assert distortion.status == "stopped"
    assert distortion.lower < distortion.upper < math.inf
    linearity = pt.local_linearity(net, np.zeros(6), 0, 1.0, method="exact", max_regions=20)
    assert linearity.status == "stopped"
    assert linearity.lower < linearity.upper < math.inf


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs POSIX signals")
def test_ctrl_c_gives_an_interval() -> None:
    net = dense(10, 24, 24, 2, seed=3)

    def interrupt() -> None:
        time.sleep(0.5)
        signal.pthread_kill(main, signal.SIGINT)

    main = threading.main_thread().ident
    assert main is not None
    thread = threading.Thread(target=interrupt)
    thread.start()
    found = pt.exact_lipschitz(net, (-1, 1), 2, 2, time_limit=60)
    thread.join()
    assert found.status == "stopped"
    assert found.seconds < 30
    assert 0 < found.lower < found.upper < math.inf


def test_progress_is_told() -> None:
    counts: list[int] = []
    pt.exact_lipschitz(dense(6, 10, 10, 2), (-1, 1), 2, 2, progress=counts.append)
    assert counts == sorted(counts)
    assert counts[-1] > 0


def test_networks_without_units() -> None:
    net = pt.compile([(np.array([[3.0, 4.0]]), np.zeros(1))])
    found = pt.exact_lipschitz(net, (-1, 1), 2, 2)
    assert (found.lower, found.value, found.upper, found.regions) == (5.0, 5.0, 5.0, 1)
    assert found.exactness == "rational"
    claim = pt.lipschitz_mip(net, (-1, 1), 1, 1)
    assert claim.lower == pytest.approx(4.0)
    assert claim.wrong == ""
    assert pt.local_linearity(net, X, 0, 1.0).upper == 0
    assert pt.gradient_distortion(net, X, 1, 1.0).upper == 0


def test_networks_that_are_constant() -> None:
    net = pt.compile([(np.eye(2), -5 * np.ones(2)), (np.ones((2, 2)), np.ones(2))])
    found = pt.exact_lipschitz(net, (-1, 1), 2, 2)
    assert (found.lower, found.upper, found.status) == (0.0, 0.0, "exact")
    claim = pt.lipschitz_mip(net, (-1, 1), 1, 1)
    assert (claim.lower, claim.wrong) == (0.0, "")
    assert claim.upper < 1e-300
    assert pt.exact_lipschitz(net, (-1, 1), 3, "inf").status == "exact"
    assert pt.gradient_distortion(net, X, 1, 0.5).upper == 0


def test_shaped_inputs_and_tensors() -> None:
    net, _ = compiled("conv1d")
    x = torch.full((2, 7), 0.2, dtype=torch.float64)
    found = pt.gradient_distortion(net, x, 0, 0.01, samples=10)
    assert found.witness.shape == (14,)
    assert found.gradient.shape == (14,)
    assert pt.local_linearity(net, x, 0, 0.01).witness.shape == (14,)


def test_results_print_shortly() -> None:
    for name, call in CALLS.items():
        text = repr(call())
        assert len(text) < 500, name
        assert "array" not in text


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs POSIX signals")
def test_ctrl_c_during_a_program_gives_what_is_proved() -> None:
    """HiGHS hears Ctrl-C itself."""
    net = dense(8, 20, 20, 2, seed=3)
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(2.0, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    claim = pt.lipschitz_mip(net, (-1, 1), 1, 1, time_limit=60)
    timer.cancel()
    assert claim.status is Status.INTERRUPTED
    assert claim.seconds < 40
    assert 0 < claim.lower <= claim.upper


def test_a_large_network_in_a_small_ball() -> None:
    """784 inputs: the exact constant by branch and bound, with a witness that is inside."""
    net = dense(784, 60, 60, 10, seed=2)
    x = np.random.default_rng(0).uniform(0.2, 0.8, 784)
    found = pt.exact_lipschitz(net, pt.Ball(x, 0.002, "inf"), "inf", "inf", time_limit=60)
    assert found.status == "exact"
    assert found.method == "branch_and_bound"
    region = net.region(found.witness)
    assert region.pattern == found.pattern
    assert (np.abs(found.witness - x) < 0.002).all()
    assert np.abs(region.jacobian).sum(axis=1).max() == pytest.approx(found.value, rel=1e-9)
