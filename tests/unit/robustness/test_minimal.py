"""`minimal_perturbation`: bad input, early ends, batches, saved rows, and what a result says."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import polytope as pt
from polytope.errors import FileProblem, InputError, SmoothActivation
from polytope.network.exact import is_adversarial
from polytope.robustness import engines, point_search
from polytope.robustness.branch_and_bound import Branched
from polytope.robustness.claims import MixedIntegerRun
from polytope.robustness.line_kernels import least, max_lines
from polytope.robustness.node_programs import combined_reach
from polytope.robustness.perturbation import COLUMNS, STATISTICS, Perturbation, Perturbations
from polytope.robustness.traversal import Traversal
from tests.nets import dense

INF = math.inf
NET = dense(3, 8, 6, 3, seed=26)
BOX = (-1.0, 1.0)
POINTS = np.random.default_rng(2).uniform(-0.8, 0.8, (4, 3))
METHODS = ("auto", "branch_and_bound", "traversal", "mip")


def search(x=POINTS[0], *args, net=NET, **options) -> Perturbation:
    found = pt.minimal_perturbation(net, x, *args, **({"p": "inf", "box": BOX} | options))
    assert isinstance(found, Perturbation)
    return found


def batch(x=POINTS, *args, net=NET, **options) -> Perturbations:
    found = pt.minimal_perturbation(net, x, *args, **({"p": "inf", "box": BOX} | options))
    assert isinstance(found, Perturbations)
    return found


#: A network that takes every engine many steps.
HARD = dense(8, 14, 14, 3, seed=3)
HARD_POINT = np.random.default_rng(5).uniform(-1, 1, 8)


def sound(row: Perturbation, truth: float) -> None:
    assert 0 <= row.lower <= truth * (1 + 1e-9) + 1e-12
    assert row.upper >= truth * (1 - 1e-9)
    assert row.explain


# Bad input.


LABEL = int(NET.predict(POINTS[:1])[0])
BAD = {
    "target is the label": ({"target": LABEL}, "target: class .* is the label of row 0 itself"),
    "target out of range": ({"target": 3}, "target: label 3 is out of range"),
    "label out of range": ({"y": 7}, "y: label 7 is out of range"),
    "label not whole": ({"y": 0.5}, "y: labels must be whole numbers"),
    "too many labels": ({"y": [0, 1]}, "y: got shape"),
    "method": ({"method": "bab"}, "method: got 'bab', expected one of auto, branch_and_bound, "
               "traversal, mip"),
    "solver": ({"method": "mip", "solver": "gurobi"}, "solver: .*'gurobi'.*highs"),
    "solver without mip": ({"solver": "highs"}, "solver: got 'highs' with method='auto'; only"),
    "solver of no programs": ({"method": "mip", "solver": "daqp"}, "solver: .*highs"),
    "quadratic": ({"method": "mip", "solver": "highs", "p": 2}, "solver: .*quadratic.*scip"),
    "p": ({"p": 3}, r"p: got 3; .* p = 1, 2 and inf"),
    "p below 1": ({"p": 0.5}, "0.5"),
    "p text": ({"p": "two"}, "two"),
    "radius negative": ({"radius": -0.1}, "radius: got -0.1, expected a number of at least 0"),
    "radius inf": ({"radius": INF}, "radius: got inf"),
    "radius NaN": ({"radius": math.nan}, "radius: got nan"),
    "radius text": ({"radius": "0.1"}, "radius: got '0.1'"),
    "radius true": ({"radius": True}, "radius: got True"),
    "time negative": ({"time_limit": -1}, "time_limit: got -1"),
    "time NaN": ({"time_limit": math.nan}, "time_limit: got nan"),
    "tol small": ({"tol": 1e-13}, "tol: got 1e-13, expected from 1e-12"),
    "tol large": ({"tol": 0.1}, "tol: got 0.1, .* to 0.001"),
    "tol text": ({"tol": "fine"}, "tol: got 'fine'"),
    "callback": ({"callback": 3}, "callback: got 3, expected a function of one Progress"),
    "seed": ({"seed": -1}, "seed: got -1"),
    "seed float": ({"seed": 1.5}, "seed: got 1.5"),
    "memory": ({"memory": 0}, "memory: got 0, expected a whole number of at least 1"),
    "outside": ({"x": np.array([0.0, 2.0, 0.0])}, r"row 0, coordinate 1: 2 is not in \[-1, 1\]"),
    "shape": ({"x": np.zeros(4)}, r"x: got shape \(4,\)"),
    "NaN": ({"x": np.array([0.0, np.nan, 0.0])}, r"x: NaN or infinity in row\(s\) 0"),
    "integers": ({"x": np.zeros(3, dtype=int)}, "x: got torch.int64 values, expected floats"),
    "box order": ({"box": (1, -1)}, "box"),
    "box shape": ({"box": (np.zeros(2), np.ones(2))}, "box"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_clear_message(case: str) -> None:
    options, message = BAD[case]
    with pytest.raises(InputError, match=message) as caught:
        search(**({"x": POINTS[0]} | options))
    assert "\n" not in str(caught.value)


def test_the_message_for_an_unknown_solver_lists_those_there_are() -> None:
    with pytest.raises(InputError) as caught:
        search(method="mip", solver="gurobi")
    for name in ("highs", "scipy"):
        assert name in str(caught.value)


def test_a_missing_optional_solver_names_its_installation() -> None:
    code = (
        "import sys; sys.modules['pyscipopt'] = None\n"
        "import numpy as np, polytope as pt\n"
        "net = pt.compile([(np.eye(2), np.zeros(2))])\n"
        "for options in ({'solver': 'scip', 'p': 'inf'}, {'p': 2}):\n"
        "    try:\n"
        "        pt.minimal_perturbation(net, np.array([0.2, 0.1]), method='mip', box=(0, 1),"
        " **options)\n"
        "    except pt.errors.InputError as error:\n"
        "        print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    lines = run.stdout.splitlines()
    assert len(lines) == 2
    assert all("pip install" in line and "scip" in line for line in lines), lines


def test_smooth_networks_are_refused_by_name() -> None:
    smooth = pt.compile(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double(), (3,))
    with pytest.raises(SmoothActivation, match=r"[Tt]anh"):
        search(net=smooth)


def test_save_in_a_missing_folder(tmp_path) -> None:
    with pytest.raises(FileProblem, match=r"save: .*No such file"):
        batch(save=tmp_path / "nowhere" / "rows.jsonl")


def test_nothing_of_numba_is_loaded_by_an_import() -> None:
    code = (
        "import sys, polytope; assert 'numba' not in sys.modules and 'llvmlite' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# What a result says.


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("p", [1, 2, "inf"])
def test_a_result(method: str, p) -> None:
    found = search(POINTS[1], p=p, method=method)
    kinds = {"branch_and_bound": Branched, "traversal": Traversal, "mip": MixedIntegerRun}
    assert found.exact or method == "mip"
    assert found.status == ("exact" if found.exact else "interval")
    assert found.stopped == ("" if found.exact else "engine")
    assert found.label == int(NET.predict(POINTS[1:2])[0])
    two = NET.logits(found.witness[None])[0].argsort()[-2:]
    assert sorted([found.target, found.label]) == sorted(two.tolist())
    assert method in found.explain.replace(" ", "_") or method in ("auto", "mip")
    assert found.method == (method if method != "auto" else "branch_and_bound")
    if method in kinds:
        assert isinstance(found.evidence, kinds[method])
    assert math.isnan(found.claimed) == (method != "mip")
    assert found.region is not None
    assert found.region.contains(found.witness)
    assert found.native_upper == pytest.approx(found.upper, rel=1e-6)
    assert NET.predict(found.native_witness[None])[0] != found.label
    assert found.stats.seconds > 0
    assert found.stats.attack_upper >= found.upper
    assert "witness" not in repr(found)  # arrays are long


@pytest.mark.parametrize("method", METHODS)
def test_a_misclassified_point_is_at_distance_zero(method: str) -> None:
    other = (LABEL + 1) % 3
    for radius, time_limit in ((None, 60), (0.1, 60), (None, 1e-3)):
        found = search(POINTS[0], other, method=method, radius=radius, time_limit=time_limit)
        assert found.status == "misclassified"
        assert (found.lower, found.upper, found.native_upper) == (0, 0, 0)
        assert found.exact
        assert found.witness.tolist() == POINTS[0].tolist()
        assert found.label == other
        assert found.stopped == ""


def test_targets() -> None:
    least_of_all = search()
    others = [t for t in range(3) if t != LABEL]
    own = [search(target=target) for target in others]
    assert min(row.upper for row in own) == pytest.approx(least_of_all.upper, rel=1e-9)
    for row, target in zip(own, others, strict=True):
        assert row.target == target
        assert is_adversarial(NET.graph, row.witness, LABEL, target)


def test_one_output_decides_between_two_classes() -> None:
    net = dense(3, 6, 1, seed=2)
    found = search(POINTS[0], net=net)
    assert found.target == 1 - found.label
    assert found.exact


def test_no_time() -> None:
    for method in METHODS:
        found = search(time_limit=0, method=method)
        assert found.status == "interval"
        assert found.stopped == "time_limit"
        assert found.lower == 0
        assert found.upper == INF
        assert found.stats.nodes == found.stats.regions == 0
        assert "stopped" in found.explain


@pytest.fixture(scope="module")
def truth() -> float:
    found = pt.minimal_perturbation(HARD, HARD_POINT, p=2, box=BOX, time_limit=60)
    assert found.exact
    return found.upper


@pytest.mark.parametrize("method", ["branch_and_bound", "traversal", "mip"])
def test_more_time_never_gives_a_wider_interval(method: str, truth: float) -> None:
    width = INF
    for seconds in (0.02, 0.4, 3.0):
        found = search(HARD_POINT, net=HARD, p=2, method=method, time_limit=seconds)
        sound(found, truth)
        assert found.exact or found.stopped in ("time_limit", "engine")
        assert found.stats.seconds < seconds + 1.5
        now = found.upper - found.lower
        assert now <= max(width, 1e-9 * truth)
        width = now


@pytest.mark.parametrize("method", ["branch_and_bound", "traversal", "mip"])
def test_too_little_memory_gives_the_interval_reached(method: str, truth: float) -> None:
    found = search(HARD_POINT, net=HARD, p=2, method=method, memory=1)
    sound(found, truth)
    assert found.stopped == "memory"
    assert found.status == "interval"


@pytest.mark.parametrize("method", ["branch_and_bound", "traversal"])
def test_the_interval_only_ever_becomes_smaller(method: str, truth: float) -> None:
    told = []
    found = search(HARD_POINT, net=HARD, p=2, method=method, callback=told.append)
    lower, upper = (np.array([getattr(entry, end) for entry in told]) for end in ("lower", "upper"))
    assert (lower[1:] >= lower[:-1]).all()
    assert (upper[1:] <= upper[:-1]).all()
    assert (lower <= truth * (1 + 1e-9)).all()
    assert (upper >= truth * (1 - 1e-9)).all()
    assert (lower[-1], upper[-1]) == (found.lower, found.upper)
    assert [(e.lower, e.upper) for e in told] == [entry[1:] for entry in found.stats.trace]
    assert {entry.engine for entry in told} <= {"attack", method}
    assert {entry.row for entry in told} == {0}
    assert [entry.seconds for entry in told] == sorted(entry.seconds for entry in told)


class Interrupt:
    """Ctrl-C at the k-th report of a row."""

    def __init__(self, row: int, engine: str | None = None) -> None:
        self.row, self.engine = row, engine

    def __call__(self, progress) -> None:
        if progress.row == self.row and self.engine in (None, progress.engine):
            raise KeyboardInterrupt


@pytest.mark.parametrize("method", ["branch_and_bound", "traversal"])
def test_ctrl_c_returns_the_interval_and_leaves_later_rows(method: str) -> None:
    whole = batch(method=method)
    found = batch(method=method, callback=Interrupt(1))
    assert found[0].lower == pytest.approx(whole[0].lower)
    assert found[0].exact
    assert found[1].lower <= whole[1].lower
    assert found[1].upper >= whole[1].upper
    if not found[1].exact:
        assert found[1].stopped == "interrupt"
    for row in found[2:]:
        assert row.stopped == "interrupt"
        assert (row.lower, row.upper) == (0, INF)
        assert "not begun" in row.explain
        assert row.status == "interval"
    assert len(found) == 4


def test_ctrl_c_while_an_engine_works(truth: float) -> None:
    for method in ("branch_and_bound", "traversal"):
        stop = Interrupt(0, method)
        found = search(HARD_POINT, net=HARD, p=2, method=method, callback=stop)
        sound(found, truth)
        assert found.stopped == "interrupt"


def test_ctrl_c_in_the_attack(monkeypatch) -> None:
    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(point_search, "ATTACK", interrupted)
    found = batch()
    assert [row.stopped for row in found] == ["interrupt"] * 4
    assert (found.lower == 0).all()
    assert "stopped before" in found[0].explain


def test_an_exception_of_the_callback_is_the_callers() -> None:
    def broken(_progress) -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        search(callback=broken)


def test_nothing_bounds_the_search(tmp_path) -> None:
    """No other class anywhere, no box: an interval, whatever is asked."""
    net = pt.compile([(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([1.0, 0.0]))])
    for method in METHODS:
        for p in (1, 2, "inf"):
            found = pt.minimal_perturbation(net, np.ones(2), p=p, method=method, time_limit=5)
            assert found.upper == INF
            assert found.status in ("interval", "unreachable")
            assert found.lower > 1e6 or method == "mip"
            assert found.stopped in ("engine", "")
    assert "give a box" in pt.minimal_perturbation(net, np.ones(2), method="mip").explain
    both = pt.cross_check(net, np.ones((1, 2)), methods=("traversal", "mip"), out=tmp_path)
    assert both.verdict[0] in ("within gap", "agree")
    open_sides = pt.minimal_perturbation(
        net, np.ones(2), p=2, box=([-INF, 0], [INF, 2]), method="branch_and_bound", time_limit=5
    )
    assert open_sides.upper == INF
    assert open_sides.lower > 1e6


def test_a_box_of_a_single_point() -> None:
    for method in METHODS:
        found = search(POINTS[0], box=(POINTS[0], POINTS[0]), method=method)
        assert found.status == "unreachable"


def test_a_radius_of_zero() -> None:
    found = search(radius=0)
    assert found.status == "robust"
    assert search(POINTS[0], (LABEL + 1) % 3, radius=0).status == "misclassified"


def test_a_radius_proved_for_one_row_is_not_proved_for_the_others(monkeypatch) -> None:
    """Large networks, whose rows CROWN is asked about before any attack."""
    monkeypatch.setattr(engines, "COMPILED", 0)
    found = batch()
    assert not found[0].explain.startswith("branch and bound (compiled")
    order = np.argsort(-found.lower)
    radius = float(found.upper.min()) * 1.2
    assert radius < found.lower.max()
    some = batch(POINTS[order], radius=radius)
    assert some[0].status == "robust"
    assert some[len(some) - 1].status == "not robust"
    for row, exact in zip(some, found.lower[order], strict=True):
        assert (row.status == "robust") == (exact >= radius)


# Batches, and rows in files.


def test_batches() -> None:
    whole = batch()
    assert len(whole) == 4
    assert list(whole) == list(whole.rows)
    assert isinstance(whole[1:3], Perturbations)
    assert whole[1:3].lower.tolist() == whole.lower[1:3].tolist()
    assert whole[-1] is whole[3]
    assert whole.exact.dtype == bool
    table = whole.to_frame()
    assert list(table.columns) == [*COLUMNS, *STATISTICS]
    assert len(table) == 4
    assert table["upper"].tolist() == whole.upper.tolist()
    for i in range(4):
        alone = search(POINTS[i], seed=i)
        assert alone.upper == pytest.approx(whole[i].upper, rel=1e-9)
    one = batch(POINTS[:1])
    assert len(one) == 1
    assert one[0].upper == whole[0].upper
    none = batch(np.zeros((0, 3)))
    assert len(none) == 0
    assert none.lower.shape == (0,)
    assert len(none.to_frame()) == 0


def test_shaped_points_and_tensors() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    net = pt.compile(model, (1, 2, 2))
    x = np.random.default_rng(0).random((3, 1, 2, 2))
    found = [batch(given, net=net) for given in (x, x.reshape(3, 4), torch.tensor(x))]
    for rows in found[1:]:
        assert rows.upper.tolist() == found[0].upper.tolist()
    for alone in (search(x[0], net=net), search(x[0].reshape(4), net=net)):
        assert alone.upper == pytest.approx(found[0].upper[0], rel=1e-9)


def same(a: Perturbation, b: Perturbation) -> None:
    for name in (*COLUMNS, "explain"):
        left, right = getattr(a, name), getattr(b, name)
        assert left == right or (left != left and right != right), name
    np.testing.assert_array_equal(a.witness, b.witness)
    np.testing.assert_array_equal(a.native_witness, b.native_witness)
    assert repr(a.stats) == repr(b.stats)


@pytest.mark.parametrize("method", METHODS)
def test_saved_rows_come_back_the_same(tmp_path, method: str) -> None:
    path = tmp_path / "rows.jsonl"
    labels = NET.predict(POINTS)
    labels[3] = (labels[3] + 1) % 3  # misclassified
    first = batch(POINTS, labels, save=path, method=method)
    size = path.stat().st_size
    again = batch(POINTS, labels, save=path, method=method)
    for a, b in zip(first, again, strict=True):
        if a.stopped:  # programs leave an interval, which is searched again
            assert b.upper == pytest.approx(a.upper)
            continue
        same(a, b)
        assert b.evidence is None
    assert path.stat().st_size == size or method == "mip"


def test_unreachable_rows_are_saved(tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    options = {"box": (POINTS[0] - 1e-3, POINTS[0] + 1e-3), "save": path}
    first, again = (batch(POINTS[:1], **options)[0] for _ in range(2))
    assert first.status == "unreachable"
    same(first, again)


def test_a_search_goes_on_after_a_kill(tmp_path, monkeypatch) -> None:
    path = tmp_path / "rows.jsonl"
    whole = batch(save=path)
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == 5
    path.write_text("".join(lines[:3]) + lines[3][:40])  # killed while it wrote row 2
    searched = []
    row = point_search.Chunk.row

    def counted(self, i: int):
        searched.append(i)
        return row(self, i)

    monkeypatch.setattr(point_search.Chunk, "row", counted)
    again = batch(save=path)
    assert searched == [2, 3]
    for a, b in zip(whole[:2], again[:2], strict=True):
        same(a, b)
    assert again.upper == pytest.approx(whole.upper, rel=1e-9)
    kept = path.read_text().splitlines(keepends=True)
    assert kept[:3] == lines[:3]
    assert [json.loads(line)["row"] for line in kept[1:]] == [0, 1, 2, 3]
    batch(save=path)
    assert searched == [2, 3]


def test_rows_that_were_stopped_are_searched_again(tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    first = batch(save=path, callback=Interrupt(1, "branch_and_bound"))
    assert first[1].stopped == "interrupt"
    again = batch(save=path)
    assert again.exact.all()
    assert again[0].upper == first[0].upper
    third = batch(save=path)
    same(third[1], again[1])


@pytest.mark.parametrize(
    "other",
    [
        {"p": 2}, {"box": (-1.0, 1.0 + 1e-12)}, {"box": None}, {"target": [1, 0, 1, 0]},
        {"radius": 0.1}, {"method": "traversal"}, {"tol": 1e-8}, {"seed": 1},
        {"x": POINTS[::-1].copy()}, {"x": POINTS + 1e-13}, {"net": dense(3, 8, 6, 3, seed=5)},
        {"x": POINTS[:3]},
    ],
)  # fmt: skip
def test_a_file_that_answers_another_question(tmp_path, other) -> None:
    path = tmp_path / "rows.jsonl"
    batch(save=path, time_limit=0)
    text = path.read_text()
    labels = {"y": [2, 2, 2, 2]} if "target" in other else {}
    with pytest.raises(FileProblem, match="answers another question"):
        batch(**({"save": path, "time_limit": 0} | labels | other))
    assert path.read_text() == text
    batch(save=path, time_limit=5)  # more time, and more memory, are no other question
    batch(save=path, memory=10**8, seed=np.int64(0), tol=np.float64(1e-9))


def test_wide_boxes_are_told_apart(tmp_path) -> None:
    """To the last of many coordinates, which a printed array leaves out."""
    d, path = 1200, tmp_path / "rows.jsonl"
    net = pt.compile([(np.ones((2, d)), np.array([0.0, -1.0]))])
    high = np.ones(d)
    pt.minimal_perturbation(net, np.zeros((1, d)), box=(np.zeros(d), high), save=path, time_limit=0)
    high[600] = 0.5
    with pytest.raises(FileProblem, match="another question"):
        pt.minimal_perturbation(
            net, np.zeros((1, d)), box=(np.zeros(d), high), save=path, time_limit=0
        )


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: "nothing of ours\n",
        lambda _: '{"kind": "another"}\n',
        lambda _: "[1, 2]\n",
        lambda lines: lines[0].replace('"question"', '"questions"') + lines[1],
        lambda lines: lines[0][:30],
        lambda lines: lines[0] + "}}\n" + lines[2],
        lambda lines: lines[0] + "5\n" + lines[2],
        lambda lines: lines[0] + lines[1].replace('"row"', '"raw"'),
        lambda lines: lines[0] + lines[1].replace('"witness"', '"witnesses"'),
        lambda lines: lines[0] + lines[1].replace('"stats": {', '"stats": {"more": 1, '),
        lambda lines: lines[0] + lines[1].replace('"row": 0', '"row": null'),
        lambda _: "\x00\n",
    ],
)
def test_a_damaged_file_is_refused_and_left_alone(tmp_path, damage) -> None:
    path = tmp_path / "rows.jsonl"
    batch(save=path)
    path.write_text(damage(path.read_text().splitlines(keepends=True)))
    text = path.read_bytes()
    with pytest.raises(FileProblem, match=r"save: .*damaged"):
        batch(save=path)
    assert path.read_bytes() == text


def test_a_binary_file_is_refused(tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xff\xfe\x00\x01\n")
    with pytest.raises(FileProblem, match="save: "):
        batch(save=path)


def test_an_empty_file_is_begun(tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    path.touch()
    batch(save=str(path), time_limit=0)
    assert len(path.read_text().splitlines()) == 5


def test_a_full_disk_names_the_row(tmp_path, monkeypatch) -> None:
    path = tmp_path / "rows.jsonl"
    batch(save=path, time_limit=0)
    opened = Path.open

    def full(self, mode="r", *args, **kwargs):
        if mode == "a":
            raise OSError(28, "No space left on device")
        return opened(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(FileProblem, match=r"row 0 was not written: .*No space left"):
        batch(save=path)


# The kernels, where rounding or unknown bounds could have fooled them.


def test_lines_of_maxima_over_unknown_candidates_touch_no_others() -> None:
    weights = np.full(4, 7.0)
    low, high = np.full(2, -INF), np.full(2, INF)
    table = np.array([0, 1], dtype=np.int64)
    below, intercept, pieces = max_lines(np.array([5, 5, 0, 1]), 2, 2, -1, low, high, weights)
    assert weights[:2].tolist() == [7.0, 7.0]
    assert pieces == 3
    assert intercept == INF
    assert below in table
    assert (weights[2:] == 0).all()


def test_the_reach_of_rows_that_cancel_within_rounding() -> None:
    """3 * 0.1 is not 0.3...04: the sum is 2.8e-17, which float64 rounds to 0."""
    normal = np.array([[-0.1], [0.30000000000000004]])
    height, weights = np.array([1e-17, 0.0]), np.array([3.0, 1.0])
    reach = combined_reach(normal, height, weights, np.array([-5.0]), np.array([0.0]))
    # The step -1.09 brings 3e-17 + 2.8e-17 step to zero.
    assert reach <= 1.1


def test_the_reach_of_rows_with_coordinates_at_their_ends() -> None:
    normal, low, high = np.array([[1.0, 1e-8]]), np.full(2, -1.0), np.full(2, 1.0)
    low[0] = -1e-3
    reach = combined_reach(normal, np.array([1e-3 + 5e-9]), np.ones(1), low, high)
    assert reach == pytest.approx(0.5, rel=1e-6)
    assert reach <= 0.5 + 1e-16
    beyond = combined_reach(normal, np.array([1.0]), np.ones(1), low, high)
    assert beyond == INF


@pytest.mark.parametrize("p", [1.0, 2.0, INF])
def test_least_values_of_steps(p: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        d = int(rng.integers(1, 7))
        g = rng.normal(size=d) * 10.0 ** rng.integers(-9, 9, d) * (rng.random(d) < 0.8)
        low, high = -rng.random(d) * (rng.random(d) < 0.8), rng.random(d)
        radius = float(10.0 ** rng.uniform(-3, 1))
        bound = least(g, 0.5, low, high, radius, p)
        steps = rng.normal(size=(500, d))
        steps *= radius / np.maximum(np.linalg.norm(steps, ord=p, axis=1), 1e-300)[:, None]
        steps = np.clip(np.vstack([steps, np.where(g > 0, low, high)[None] * 1e-3]), low, high)
        steps = steps[np.linalg.norm(steps, ord=p, axis=1) <= radius * (1 + 1e-15)]
        size = np.abs(g) @ np.maximum(-low, high) + 0.5
        assert (0.5 + steps @ g >= bound - 1e-15 * size).all()
    assert not math.isnan(least(np.full(2, 1e-180), 0.0, -np.ones(2), np.ones(2), 1.0, p))
