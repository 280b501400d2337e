"""Regions per second beside the peers, large boxes, memory, and the second core.

Run with ``pytest tests/benchmarks/test_regions_speed.py -n 0 -s`` after installing the peers
as `tests/benchmarks/peers.py` says. Within one test our runs and the peer's alternate, after
one run each that does not count, and medians are compared. Wall time is what counts; CPU time
stands beside it because it suffers less from other work on the machine.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import polytope as pt
from tests.benchmarks.peers import Run, peer
from tests.oracle.degenerate_nets import COUNTED
from tests.oracle.regions_2d import Regions2D, box_corners, regions_2d

NAMES = ("A2", "B1", "B2", "B3")
every_net = pytest.mark.parametrize("name", NAMES)


@functools.cache
def network(name: str) -> pt.Network:
    net = COUNTED[name]
    return pt.compile(net.model(), (net.widths[0],))


def ours(name: str, radius: float | None = 1.0, workers: int | None = 1) -> Run:
    """One run of region_graph: all regions of the box (None: of the space) with adjacency."""
    net = network(name)
    wall, cpu = time.perf_counter(), time.process_time()
    domain = None if radius is None else (-radius, radius)
    graph = pt.region_graph(net, domain, workers=workers)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert graph.complete
    return Run(len(graph), wall, cpu)


def alternate(repeats: int, *runners: Callable[[], Run]) -> list[list[Run]]:
    """Runs of each, in turns, after one of each that does not count."""
    for runner in runners:
        runner()
    rounds = [[runner() for runner in runners] for _ in range(repeats)]
    return [list(runs) for runs in zip(*rounds, strict=True)]


def median(runs: Sequence[Run], kind: str = "wall") -> float:
    return statistics.median(getattr(run, kind) for run in runs)


def rate(runs: Sequence[Run], kind: str = "wall") -> float:
    """Regions per second."""
    return runs[0].regions / median(runs, kind)


def table(name: str, mine: Sequence[Run], other: Sequence[Run], label: str, target: str) -> None:
    """One line each, and the ratio of regions per second in wall and in CPU time."""
    print(f"\n{name}")
    for who, runs in (("polytope", mine), (label, other)):
        print(
            f"  {who:28s} {runs[0].regions:7d} regions   {median(runs):9.4f} s wall   "
            f"{median(runs, 'cpu'):9.4f} s CPU   {rate(runs):9.0f} regions/s"
        )
    print(
        f"  ratio {rate(mine) / rate(other):8.2f} by wall time, "
        f"{rate(mine, 'cpu') / rate(other, 'cpu'):8.2f} by CPU time   ({target})"
    )


@every_net
def test_affinitree(name: str, tmp_path: Path) -> None:
    """Counts only; one thread, as ours here."""
    net = COUNTED[name]
    with peer("affinitree", net.model(), tmp_path) as tool:
        mine, other = alternate(5, lambda: ours(name), tool.run)
    table(name, mine, other, "affinitree (no adjacency)", "wanted: at least 2")
    assert {run.regions for run in mine} == {net.in_box}
    assert {run.regions for run in other} == {net.in_box}


@every_net
def test_relucent(name: str, tmp_path: Path) -> None:
    """Its first 200 regions, in one process, as ours here."""
    net = COUNTED[name]
    with peer("relucent", net.model(), tmp_path) as tool:
        mine, other = alternate(3, lambda: ours(name), lambda: tool.run(limit=200))
    table(name, mine, other, "relucent (200 regions)", "wanted: at least 100")
    assert {run.regions for run in mine} == {net.in_box}


@every_net
def test_edge_subdivision(name: str, tmp_path: Path) -> None:
    """Vertices and edges in float32; putting its regions together is not timed."""
    net = COUNTED[name]
    repeats = 1 if name == "B3" else 7
    with peer("edges", net.model(), tmp_path) as tool:
        mine, other = alternate(repeats, lambda: ours(name), tool.run)
    table(name, mine, other, "edge subdivision (float32)", "hoped for on B1: above 1")
    assert {run.regions for run in mine} == {net.in_box}
    assert {run.regions for run in other} == {net.in_box}


@functools.cache
def plane() -> Regions2D:
    """All regions of A2 by the oracle, with its check against the known count (a minute)."""
    found = regions_2d(network("A2").graph)
    assert len(found) == COUNTED["A2"].in_space
    return found


@pytest.mark.parametrize("radius", [1e3, 1e6, 1e9])
def test_large_boxes(radius: float) -> None:
    """A2: speed at 1000, and at every size exactly the oracle's regions and adjacency."""
    mine, both = alternate(
        7, lambda: ours("A2", radius, workers=1), lambda: ours("A2", radius, workers=2)
    )
    expected = plane().within(box_corners(-radius, radius))
    graph = pt.region_graph(network("A2"), (-radius, radius))
    found = [tuple(int(p) for p in row) for row in graph.found.pieces]
    print(
        f"\nA2, box {radius:g}: {len(graph)} regions, {graph.exact_verdicts} exact verdicts, "
        f"{rate(mine):.0f} regions/s (two workers {rate(both):.0f}; wanted at 1000: 100000)"
    )
    assert len(found) == len(expected)
    assert set(found) == expected.patterns
    assert {frozenset((found[i], found[j])) for i, j in graph.edges} == expected.adjacency


@pytest.mark.parametrize("radius", [1.0, 1e3, 1e6, 1e9])
def test_regioncam(radius: float, tmp_path: Path) -> None:
    """A2 in float32: its counts at large boxes are shown, not expected to be right."""
    with peer("regioncam", COUNTED["A2"].model(), tmp_path) as tool:
        mine, other = alternate(7, lambda: ours("A2", radius), lambda: tool.run(radius))
    table(f"A2, box {radius:g}", mine, other, "regioncam (float32)", "no target")


WHOLE = """
import json, resource, sys, time
import polytope as pt
from tests.oracle.degenerate_nets import COUNTED

net = pt.compile(COUNTED[sys.argv[1]].model(), (COUNTED[sys.argv[1]].widths[0],))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begin = time.perf_counter()
graph = pt.region_graph(net, None)
spent = time.perf_counter() - begin
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([len(graph), len(graph.edges), bool(graph.complete), spent, before, peak]))
"""


def test_memory_of_the_whole_space() -> None:
    """B3: all 171,088 regions with edges in under 2 GiB, counted by the operating system."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", WHOLE, "B3"],
        cwd=root, env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    regions, edges, complete, spent, before, peak = json.loads(done.stdout.splitlines()[-1])
    unit = 1024 if sys.platform == "linux" else 1
    print(
        f"\nB3, whole space: {regions} regions, {edges} edges, {spent:.1f} s, peak memory "
        f"{peak * unit / 2**30:.2f} GiB, of which {before * unit / 2**30:.2f} before the search"
    )
    assert complete
    assert regions == COUNTED["B3"].in_space
    assert peak * unit < 2 * 2**30


@pytest.mark.parametrize(
    ("name", "radius"), [("B1", 1.0), ("B2", 1.0), ("B3", 1.0), ("B2", None), ("B3", None)]
)
def test_second_core(name: str, radius: float | None) -> None:
    """Wall time with one and with two workers, medians of seven interleaved runs."""
    one, two = alternate(
        7, lambda: ours(name, radius, workers=1), lambda: ours(name, radius, workers=2)
    )
    gains = sorted(a.wall / b.wall for a, b in zip(one, two, strict=True))
    where = "whole space" if radius is None else "box"
    print(
        f"\n{name}, {where}: {median(one):.4f} s with one worker, {median(two):.4f} s with two: "
        f"{median(one) / median(two):.2f} times (median of pairs {statistics.median(gains):.2f}, "
        f"from {gains[0]:.2f} to {gains[-1]:.2f}; wanted 1.7)"
    )
    net = COUNTED[name]
    expected = net.in_space if radius is None else net.in_box
    assert {run.regions for run in (*one, *two)} == {expected}


def test_cost_per_region() -> None:
    """Time per region divided by units times inputs: wanted to grow with neither."""
    print()
    for name in ("A1", "A2", "S4", "S6", "B1", "B2", "B3"):
        (runs,) = alternate(3, lambda name=name: ours(name))
        net = network(name)
        each = median(runs) / runs[0].regions
        print(
            f"{name}: {net.units:3d} units, {net.input_size:2d} inputs, {1e6 * each:8.2f} us a "
            f"region, {1e9 * each / (net.units * net.input_size):8.2f} ns per unit and input"
        )
