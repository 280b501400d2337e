"""The exact Lipschitz constant beside LipMIP's times, and beside our own mixed-integer programs.

Run with ``OMP_NUM_THREADS=1 pytest tests/benchmarks/test_lipschitz_speed.py -n 0 -s``: one core.
What is computed is what peers.md defines: input norm l_inf, box [-1, 1]^d, the sum over the
outputs of the l_1 norms of their gradients.  LipMIP's seconds are from there too (with Gurobi, on
another shared machine, where factors below 2 are noise).
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable

import numpy as np
import pytest

import polytope as pt
from tests.data import data_path
from tests.oracle.degenerate_nets import COUNTED

#: Seconds: LipMIP's, an enumeration before ours, and what is wanted of ours.
PEERS = {"A2": (93.0, 0.48, 0.5), "B3": (5.6, 10.6, 5.6)}
#: Seconds that a mixed-integer program may take here.
LIMIT = 60.0


@functools.cache
def network(name: str) -> pt.Network:
    net = COUNTED[name]
    return pt.compile(net.model(), (net.widths[0],))


def seconds(work: Callable[[], object], repeats: int = 5) -> tuple[float, float]:
    """Median wall and CPU time after one run that does not count (it may compile)."""
    work()
    wall, cpu = [], []
    for _ in range(repeats):
        begin, used = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - begin)
        cpu.append(time.process_time() - used)
    return statistics.median(wall), statistics.median(cpu)


@pytest.mark.parametrize("name", list(PEERS))
def test_enumeration(name: str) -> None:
    net = network(name)
    lipmip, before, wanted = PEERS[name]
    found = pt.exact_lipschitz(net, (-1, 1), "inf", 1, total=True)
    wall, cpu = seconds(lambda: pt.exact_lipschitz(net, (-1, 1), "inf", 1, total=True))
    print(
        f"\n{name}: {found.regions} regions, value {found.value:.15g} (interval "
        f"{found.upper - found.lower:.1e} wide, {found.exactness}); {wall:.3f} s wall, {cpu:.3f} s "
        f"CPU; LipMIP {lipmip:g} s, enumeration in peers.md {before:g} s; wanted {wanted:g} s"
    )
    assert found.status == "exact"
    assert found.regions == COUNTED[name].in_box
    assert wall < wanted


@pytest.mark.parametrize(("p", "q"), [(2, 2), (1, 1), ("inf", "inf"), ("inf", 1)])
@pytest.mark.parametrize("name", list(PEERS))
def test_norms_and_balls(name: str, p: object, q: object) -> None:
    net = network(name)
    d = net.input_size
    domains = {
        "box": (-1, 1), "l_1 ball": pt.Ball(np.zeros(d), 1, 1), "l_2 ball": pt.Ball(np.zeros(d), 1)
    }  # fmt: skip
    print()
    for label, domain in domains.items():
        found = pt.exact_lipschitz(net, domain, p, q)
        wall, _ = seconds(lambda domain=domain: pt.exact_lipschitz(net, domain, p, q), 3)
        print(
            f"{name}, {label}, p={p}, q={q}: {found.value:.15g} in {wall:.3f} s "
            f"({found.regions} regions of {'the box around it' if '2' in label else 'it'})"
        )
        assert found.status == "exact"


@pytest.mark.parametrize("name", ["A1", "S4", "T5", "S6", "A2", "B3"])
def test_mixed_integer_programs(name: str) -> None:
    """Ours with HiGHS, at most a minute: its claims beside the exact value."""
    net = network(name)
    begin = time.perf_counter()
    exact = pt.exact_lipschitz(net, (-1, 1), "inf", 1, total=True)
    spent = time.perf_counter() - begin
    claim = pt.lipschitz_mip(net, (-1, 1), "inf", 1, total=True, time_limit=LIMIT)
    print(
        f"\n{name}: {exact.value:.12g} in {spent:.2f} s; HiGHS claims [{claim.claimed:.12g}, "
        f"{claim.claimed_upper:.12g}] in {claim.seconds:.1f} s ({claim.status.name}, "
        f"{claim.binaries} binaries, {claim.nodes} nodes); RecurJac {claim.upper:.6g}"
    )
    assert claim.lower <= exact.upper
    assert claim.upper >= exact.lower
    assert claim.claimed_upper >= exact.lower - 1e-8


@pytest.mark.parametrize("name", ["A2", "S4", "B1", "B3"])
def test_local_linearity(name: str) -> None:
    """Exact gamma and gradient distortion beside the ascent and the genetic algorithm."""
    net = network(name)
    x = np.full(net.input_size, 0.1)
    pt.local_linearity(net, x, 0, 0.01, method="exact")
    print()
    for method in ("exact", "pgd"):
        found = pt.local_linearity(net, x, 0, 0.5, box=(-1, 1), method=method)
        print(
            f"{name}, gamma(0.5), {method}: [{found.lower:.12g}, {found.upper:.12g}] in "
            f"{found.seconds:.2f} s ({found.regions} regions, {found.programs} programs)"
        )
    for method in ("exact", "genetic"):
        change = pt.gradient_distortion(net, x, 0, 0.5, box=(-1, 1), method=method)
        print(
            f"{name}, distortion(0.5), {method}: [{change.lower:.12g}, {change.upper:.12g}] in "
            f"{change.seconds:.2f} s; expected {change.expected:.6g} +- {change.expected_error:.1g}"
        )


@pytest.mark.parametrize("radius", [0.02, 0.05, 0.07, 0.1])
def test_many_inputs(radius: float) -> None:
    """A digit in 64 inputs, l_inf to l_inf: branch and bound, beside RecurJac's bound."""
    net = pt.compile(str(data_path("digits", "digits_64_32_32_10.onnx")))
    with np.load(data_path("digits", "digits_64_32_32_10.npz")) as file:
        x = file["points"][0].astype(np.float64)
    ball = pt.Ball(x, radius, "inf")
    found = pt.exact_lipschitz(net, ball, "inf", "inf", box=(0, 1), time_limit=120)
    bound = pt.lipschitz(net, ball, "inf", "inf", method="recurjac", box=(0, 1))
    print(
        f"\ndigits, radius {radius}: [{found.lower:.10g}, {found.upper:.10g}] in "
        f"{found.seconds:.1f} s ({found.method}, {found.regions} regions); RecurJac "
        f"{bound.upper:.6g}"
    )
    assert found.lower <= found.upper <= bound.upper * (1 + 1e-9)
