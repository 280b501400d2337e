"""`region_graph` and `resume`: what they promise, stop at, save, and refuse."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import nn

import polytope as pt
from polytope.errors import FileProblem, InputError, Notice, PolytopeError
from tests.data import data_path
from tests.nets import compiled, dense, pieces
from tests.region_checks import (
    adjacency,
    assert_exact,
    assert_points_in_one_region,
    assert_same,
    assert_sound,
    assert_tiled,
    patterns,
    truth,
)

ROOT = Path(__file__).parents[3]
METHODS = ("splitting", "crossing")
both_engines = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(scope="module")
def net():
    return dense(3, 10, 8, 2, seed=2)


@pytest.fixture(scope="module")
def whole(net):
    graph = pt.region_graph(net, (-1, 1))
    assert graph.complete
    assert graph.stopped == ""
    assert not graph.state
    return graph


@both_engines
def test_engines_and_workers_agree(net, whole, method):
    for workers in (1, 2, None):
        graph = pt.region_graph(net, (-1, 1), method=method, workers=workers)
        assert_same(graph, whole)
        assert_sound(graph, 100)
    assert_points_in_one_region(whole, 300)


@both_engines
@pytest.mark.parametrize("widths", [(1, 8, 6, 2), (3, 6, 4, 2), (4, 5, 4, 2)])
def test_regions_fill_the_box(method, widths):
    graph = pt.region_graph(dense(*widths, seed=1), (-1, 1), method=method)
    assert len(graph) > 8
    assert_tiled(graph)
    assert_points_in_one_region(graph, 500)


def test_partial_results_are_usable_and_go_on(net, whole):
    for most in (1, 2, 50, len(whole) - 1):
        part = pt.region_graph(net, (-1, 1), max_regions=most)
        assert (len(part), part.complete, part.stopped) == (most, False, "max_regions")
        assert "partial" in repr(part)
        assert patterns(part) <= patterns(whole)
        # every facet between two regions that are there is an edge
        assert adjacency(part) == {pair for pair in adjacency(whole) if pair <= patterns(part)}
        assert_sound(part, 40)
        assert len(part.statistics()) == part.graph.number_of_nodes() == most
        further = pt.resume(part, max_regions=most + 5)
        assert len(further) == min(most + 5, len(whole))
        assert patterns(part) <= patterns(further)
        assert_same(pt.resume(part), whole)
    exact = pt.region_graph(net, (-1, 1), max_regions=len(whole) + 1)
    assert_same(exact, whole)
    assert pt.resume(exact) is exact


@both_engines
def test_time_limit(method):
    net = dense(5, 20, 20, 2, seed=0)
    part = pt.region_graph(net, (-9, 9), method=method, time_limit=0.05, workers=1)
    assert part.stopped == "time_limit"
    assert not part.complete
    none = pt.region_graph(net, (-9, 9), method=method, time_limit=0)
    assert (none.complete, none.stopped) == (False, "time_limit")
    assert_sound(none, 10)


@both_engines
def test_stopped_again_and_again(net, whole, method, tmp_path):
    """Many short runs, through a file, end as one."""
    path = tmp_path / "g.npz"
    graph = pt.region_graph(net, (-1, 1), method=method, time_limit=0, save=path)
    for _ in range(200):
        if graph.complete:
            break
        before = len(graph)
        graph = pt.resume(path, net, time_limit=0.005, workers=1)
        assert len(graph) >= before
    graph = pt.resume(graph)
    assert_same(graph, whole)


def test_start_is_in_the_first_region(net, whole):
    start = np.array([0.3, -0.7, 0.2])
    for order in (None, "breadth", "nearest"):
        part = pt.region_graph(net, (-1, 1), max_regions=3, start=start, order=order)
        assert part.index(start) == 0
    assert_same(pt.region_graph(net, (-1, 1), start=start), whole)


def test_starts_on_boundaries():
    """On a hyperplane, at a corner of many, on the domain's faces and at its corners."""
    weight = np.array([[1.0, 0], [0, 1], [1, 1], [1, -1], [1, 1], [-1, -1], [0, 0]])
    net = pt.compile([(weight, np.zeros(7)), (np.ones((1, 7)), np.zeros(1))])
    expected = truth(net, pt.region_graph(net, (-1, 1)).domain)
    for start in ([0, 0], [0, 0.5], [1, 0], [1, 1], [-1, 1], [0.25, -0.25], [0.1, 0.3]):
        graph = pt.region_graph(net, (-1, 1), start=np.array(start, dtype=float))
        assert_exact(graph, expected)
        first = graph.region(0)
        assert first.contains(np.array(start, dtype=float))


@pytest.mark.parametrize("domain", [(-1, 1), None])
def test_nearest_regions_first(net, domain):
    """The first n are the n nearest, by the distances of an independent solver."""
    start = np.array([0.2, 0.1, -0.1])
    whole = pt.region_graph(net, domain, 200, start, order="nearest")
    found = {tuple(row): i for i, row in enumerate(whole.found.pieces.tolist())}
    away = np.array([distance(whole.region(i), start, domain) for i in range(len(whole))])
    assert away[whole.index(start)] == 0
    for most in (1, 5, 40, 120):
        part = pt.region_graph(net, domain, most, start, order="nearest")
        own = [found[row] for row in patterns(part)]
        assert away[own].max() <= np.delete(away, own).min() + 1e-6
        assert_same_part(pt.resume(part, max_regions=200), whole)
    with_all = pt.region_graph(net, domain, start=start)
    outside = [i for i, row in enumerate(with_all.found.pieces.tolist()) if tuple(row) not in found]
    rest = [distance(with_all.region(i), start, domain) for i in outside[::10]]
    assert min(rest) >= away.max() - 1e-6


def test_nearest_in_a_ball(net):
    """Regions beyond the ball are not found, and those nearest to a start are found first."""
    start = np.array([0.2, 0.1, -0.1])
    ball = pt.Ball([0.1, 0, 0.2], 0.8)
    whole = pt.region_graph(net, ball)
    assert_same(pt.region_graph(net, ball, start=start, order="nearest"), whole)
    for i in range(len(whole)):
        assert distance(whole.region(i), ball.center, None) < 0.8


def assert_same_part(one, other):
    assert patterns(one) == patterns(other)
    assert adjacency(one) == adjacency(other)


def distance(region, start, domain):
    """From a point to a region met with a box, by cvxpy."""
    A, b = region.A[~region.zero_rows], region.b[~region.zero_rows]
    sizes = np.linalg.norm(A, axis=1)
    A, b = A / sizes[:, None], b / sizes
    if (A @ start <= b).all():
        return 0.0
    if isinstance(domain, tuple):
        A = np.vstack([A, np.eye(3), -np.eye(3)])
        b = np.concatenate([b, np.ones(6)])
    z = cp.Variable(3)
    problem = cp.Problem(cp.Minimize(cp.norm(z - start)), [A @ z <= b])
    return float(problem.solve(solver="CLARABEL"))


@both_engines
def test_progress(net, whole, method):
    seen = []
    graph = pt.region_graph(net, (-1, 1), method=method, progress=seen.append)
    assert_same(graph, whole)
    assert seen
    assert all(isinstance(n, int | np.integer) for n in seen)
    assert all(a <= b for a, b in itertools.pairwise(seen))
    assert seen[-1] <= len(whole)


def test_saved_and_loaded(net, whole, tmp_path):
    path = tmp_path / "g.npz"
    part = pt.region_graph(net, (-1, 1), 30, save=path)
    again = pt.RegionGraph.load(path, net)
    assert patterns(again) == patterns(part)
    assert adjacency(again) == adjacency(part)
    assert not again.complete
    assert_same(pt.resume(again), whole)
    assert_same(pt.resume(path, net), whole)
    assert_same(pt.RegionGraph.load(path, net), whole)


@both_engines
def test_files_that_cannot_be_resumed(net, method, tmp_path):
    path = tmp_path / "g.npz"
    graph = pt.region_graph(net, (-1, 1), method=method, time_limit=0, save=path)
    assert not graph.complete
    with pytest.raises(InputError, match="net="):
        pt.resume(path)
    with pytest.raises(FileProblem, match="another network"):
        pt.resume(path, dense(3, 10, 8, 2, seed=3))
    with pytest.raises(FileProblem, match="no file"):
        pt.resume(tmp_path / "absent.npz", net)
    (tmp_path / "text.npz").write_text("regions")
    with pytest.raises(FileProblem, match="damaged"):
        pt.resume(tmp_path / "text.npz", net)
    stateless = pt.RegionGraph(net, graph.domain, graph.found)
    with pytest.raises(InputError, match="state"):
        pt.resume(stateless)


def test_damaged_state_is_refused(net, tmp_path):
    """Each array of the state, missing or cut short: one of our errors, or the right graph."""
    part = pt.region_graph(net, (-1, 1), 30)
    path = tmp_path / "g.npz"
    for name in part.state:
        for change in ("missing", "short"):
            state = {key: value for key, value in part.state.items() if key != name}
            if change == "short":
                state[name] = part.state[name][:-1] if part.state[name].ndim else np.zeros(3)
            pt.RegionGraph(net, part.domain, part.found, state).save(path)
            with pytest.raises(PolytopeError):
                pt.resume(path, net)


@both_engines
def test_full_disk(net, whole, method, tmp_path, monkeypatch):
    """It is told, the search goes on, and the file that was there is left as it was."""
    path = tmp_path / "g.npz"
    pt.region_graph(net, (-1, 1), 30, save=path)
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("polytope.regions.archive.np.savez", full)
        with pytest.warns(Notice, match="No space left"):
            graph = pt.region_graph(net, (-1, 1), method=method, save=path, save_every=0)
    assert_same(graph, whole)
    assert path.read_bytes() == before
    assert_same(pt.resume(path, net), whole)


def test_places_that_cannot_be_written(net, tmp_path):
    for path in (tmp_path / "no" / "g.npz", tmp_path):
        with pytest.raises(FileProblem):
            pt.region_graph(net, (-1, 1), save=path)


INTERRUPTED = """
import sys
import polytope as pt
from tests.nets import dense
net = dense(6, 24, 24, 2, seed=0)
pt.region_graph(net, ([0.0] * 6, [0.01] * 6), method=sys.argv[1], workers=1)
def tell(n):
    if n > 0:
        print("running", flush=True)
options = dict(method=sys.argv[1], workers=1, save=sys.argv[2], progress=tell)
graph = pt.region_graph(net, (-9, 9), **options)
print("stopped:", graph.stopped, graph.complete, len(graph), flush=True)
"""


@both_engines
def test_ctrl_c(method, tmp_path):
    """SIGINT ends the search in good order, with what was found saved."""
    path = tmp_path / "g.npz"
    command = [sys.executable, "-c", INTERRUPTED, method, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    words = out.splitlines()[-1].split()
    assert words[:3] == ["stopped:", "interrupt", "False"]
    graph = pt.RegionGraph.load(path, dense(6, 24, 24, 2, seed=0))
    assert len(graph) == int(words[3])
    assert_sound(graph, 10)


def test_domains_that_hold_nothing(net):
    eye = np.eye(3)
    for A, b in (
        (np.vstack([eye, -eye]), np.r_[np.zeros(3), -np.ones(3)]),
        (np.zeros((1, 3)), -np.ones(1)),
    ):
        with pytest.raises(InputError, match="empty"):
            pt.region_graph(net, pt.HPolytope(A, b))
    with pytest.raises(InputError, match="interior"):
        pt.region_graph(net, pt.HPolytope(np.vstack([eye[:1], -eye[:1]]), np.zeros(2)))
    with pytest.raises(InputError, match="above the upper"):
        pt.region_graph(net, (1, -1))
    with pytest.raises(InputError, match="frozen"):
        pt.region_graph(net, (1, 1))
    with pytest.raises(InputError, match="one line"):
        pt.region_graph(net, pt.Slice(np.outer([0.0, 1, 2], [1.0, 2, 3])))
    with pytest.raises(InputError, match="coordinates"):
        pt.region_graph(net, pt.Ball([0.0, 0], 1))
    with pytest.raises(InputError, match="p = 1, 2 or inf"):
        pt.region_graph(net, pt.Ball([0.0, 0, 0], 1, 3))


def test_unusable_options(net):
    for options, message in (
        ({"start": np.full(3, 2.0)}, "outside the domain"),
        ({"start": np.zeros(2)}, "shape"),
        ({"start": np.zeros((2, 3))}, "expected one"),
        ({"start": np.full(3, np.nan)}, "NaN"),
        ({"max_regions": 0}, "max_regions"),
        ({"max_regions": 1.5}, "max_regions"),
        ({"workers": 0}, "workers"),
        ({"time_limit": -1}, "time_limit"),
        ({"time_limit": float("nan")}, "time_limit"),
        ({"save_every": -1}, "save_every"),
        ({"method": "guess"}, "method"),
        ({"order": "far", "start": np.zeros(3)}, "order"),
        ({"order": "nearest"}, "start="),
        ({"method": "splitting", "max_regions": 3}, "crossing"),
        ({"method": "splitting", "start": np.zeros(3)}, "crossing"),
    ):
        with pytest.raises(InputError, match=message):
            pt.region_graph(net, (-1, 1), **options)
    with pytest.raises(InputError, match="crossing"):
        pt.region_graph(net, pt.Ball([0.0, 0, 0], 1), method="splitting")
    with pytest.raises(PolytopeError, match="piecewise"):
        pt.region_graph(pt.compile(nn.Sequential(nn.Linear(2, 3), nn.Tanh()), (2,)), (-1, 1))
    with pytest.raises(InputError, match="one affine map"):
        pt.region_graph(compiled("affine_only")[0], (-1, 1))


@both_engines
def test_bounds_where_they_are_needed(method):
    """Volumes and vertices of unbounded regions are refused; the graph itself is not."""
    net = dense(2, 5, 2, seed=1)
    graph = pt.region_graph(net, None, method=method)
    assert graph.complete
    assert graph.statistics(sizes=True)["volume"].isin([np.inf]).any()
    unbounded = int(graph.statistics(sizes=True)["volume"].argmax())
    with pytest.raises(InputError, match="bounded"):
        graph.volume(unbounded)
    with pytest.raises(InputError, match="bounded"):
        graph.vertices(unbounded)


@both_engines
def test_frozen_coordinates_are_slices(method):
    """A box with frozen sides, some on hyperplanes, is the slice; on a line, segments."""
    net = dense(4, 7, 5, 2, seed=6)
    low, high = np.array([-1, 0.25, -1, 0]), np.array([1, 0.25, 1, 0])
    graph = pt.region_graph(net, (low, high), method=method)
    assert graph.domain.dimension == 2
    assert_exact(graph, truth(net, graph.domain))
    assert (graph.points[:, 1] == 0.25).all()
    low[2] = high[2] = -0.5
    line = pt.region_graph(net, (low, high), method=method)
    assert_segments(line, -1, 1)


@both_engines
def test_lines(method):
    net = dense(9, 12, 12, 2, seed=3)
    ends = np.random.default_rng(0).normal(size=(2, 9))
    graph = pt.region_graph(net, pt.Slice(ends, margin=1.0), method=method)
    length = float(np.linalg.norm(ends[1] - ends[0]))
    assert_segments(graph, -length, 2 * length)


def assert_segments(graph, low, high):
    """A path: every crossing found by bisection is a facet, in order."""
    order = np.argsort(graph.coordinates[:, 0])
    position = np.empty(len(order), dtype=int)
    position[order] = np.arange(len(order))
    steps = position[graph.edges]
    steps.sort(axis=1)
    at = np.argsort(steps[:, 0])
    assert steps[at].tolist() == [[i, i + 1] for i in range(len(graph) - 1)]
    cuts = np.concatenate([[low], graph.edge_points[at, 0], [high]])
    assert (np.diff(cuts) > 0).all()
    inner = (cuts[1:] + cuts[:-1]) / 2
    own = pieces(graph.net, graph.domain.lift(inner[:, None]))
    assert (own == graph.found.pieces[order]).all()
    fine = np.linspace(low, high, 3001)[:, None]
    own = pieces(graph.net, graph.domain.lift(fine))
    expected = graph.found.pieces[order][np.clip(np.searchsorted(cuts, fine[:, 0]) - 1, 0, None)]
    same = (own == expected).all(axis=1)
    near = np.abs(fine - cuts).min(axis=1) < 1e-9 * (high - low)
    assert (same | near).all()


class Small(nn.Module):
    """Two convolutions, max-pooling and a residual sum, on 8x8 images."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4 * 4 * 4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.first(x)), 2)
        x = torch.relu(x + self.second(x))
        return self.head(x.flatten(1))


def three_digits():
    """One 0, 1 and 2 of the real digits."""
    with np.load(data_path("digits", "digits_64_32_32_10.npz")) as file:
        images, labels = file["points"], file["labels"]
    return np.stack([images[labels == digit][0] for digit in range(3)])


def test_convolutional_network_on_a_plane_of_digits():
    """A plane through three digits: every pattern that a fine sampling meets is a region."""
    torch.manual_seed(0)
    net = pt.compile(Small().double(), (1, 8, 8))
    graph = pt.region_graph(net, pt.Slice(three_digits(), margin=0.1))
    assert graph.complete
    found = {row.tobytes() for row in graph.found.pieces.astype(np.uint8)}
    (low, high) = graph.domain.limits
    axes = [np.linspace(a, b, 402)[1:-1] for a, b in zip(low, high, strict=True)]
    u = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    x = graph.domain.lift(u)
    own = np.concatenate([pieces(net, part) for part in np.array_split(x, 20)]).astype(np.uint8)
    sampled, first = np.unique(own, axis=0, return_index=True)
    missing = [i for row, i in zip(sampled, first, strict=True) if row.tobytes() not in found]
    assert len(sampled) > 0.3 * len(graph)
    assert not missing
    assert_sound(graph, 100)
