"""`verify`: verdicts against enumerated regions, witnesses, evidence, limits, the command."""

from __future__ import annotations

import itertools
import time
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import linprog

import polytope as pt
from polytope.cli import main
from polytope.errors import InputError, Notice
from polytope.network.exact import exact_outputs
from polytope.robustness.flat import flat_network
from polytope.verification import box_search, run
from polytope.verification.box_kernels import bound_box, worst_margin
from polytope.verification.property import Property, Unsafe
from polytope.verification.reduction import reduce_network
from polytope.verification.sheet import root_of, sheet_of, work_for

#: Limits are moved this far from where the verdict changes: far above the rounding of the linear
#: programs that find that place (1e-9).
SHIFT = 1e-6


def unsafe(low, high, A, b) -> Unsafe:
    exact = [tuple(Fraction(float(v)) for v in side) for side in (low, high, b)]
    return Unsafe(exact[0], exact[1], np.array(A, dtype=float), exact[2])


def single(low, high, A, b) -> Property:
    part = unsafe(low, high, A, b)
    return Property(len(part.low), part.A.shape[1], (part,), "test")


def random_net(sizes, seed):
    rng = np.random.default_rng(seed)
    return pt.compile([
        (rng.normal(size=(n, m)) / np.sqrt(m), 0.3 * rng.normal(size=n))
        for m, n in itertools.pairwise(sizes)
    ])  # fmt: skip


def least_margin(net, low, high, A, b) -> float:
    """The least over the box of the largest of ``A y - b``: one program for each region."""
    graph = pt.region_graph(net, pt.Box(low, high))
    least = np.inf
    for i in range(len(graph)):
        region = graph.region(i)
        rows = np.vstack([
            np.column_stack([region.A, np.zeros(len(region.A))]),
            np.column_stack([A @ region.jacobian, -np.ones(len(b))]),
        ])  # fmt: skip
        right = np.concatenate([region.b, b - A @ region.offset])
        cost = np.append(np.zeros(len(low)), 1.0)
        bounds = [*zip(low, high, strict=True), (None, None)]
        found = linprog(cost, rows, right, bounds=bounds)
        if found.status == 0:
            least = min(least, found.fun)
    return float(least)


def check_witness(net, read, found):
    """The witness is in the box, and unsafe in exact arithmetic."""
    assert found.witness is not None
    part = read.parts[0]
    assert part.box.contains(found.witness[None]).all()
    outputs = exact_outputs(net.graph, found.witness.reshape(net.input_shape)).to_fractions()
    assert part.holds(outputs)
    np.testing.assert_allclose(found.outputs, [float(v) for v in outputs], rtol=1e-15)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("sizes", [(2, 8, 8, 2), (3, 10, 3)])
def test_the_verdict_changes_where_regions_say(sizes, seed):
    net = random_net(sizes, seed)
    rng = np.random.default_rng(seed)
    low, high = -np.ones(sizes[0]), rng.uniform(0.2, 1, sizes[0])
    A = rng.integers(-2, 3, (seed % 3 + 1, sizes[-1])).astype(float)
    A[:, 0] = 1.0
    b = rng.normal(size=len(A))
    least = least_margin(net, low, high, A, b)
    for shift, verdict in ((least - SHIFT, "unsat"), (least + SHIFT, "sat")):
        read = single(low, high, A, b + shift)
        found = pt.verify(net, read, 30, workers=1 + seed % 2)
        assert found.verdict == verdict
        if verdict == "sat":
            check_witness(net, read, found)


@pytest.mark.parametrize("seed", range(3))
def test_many_inputs_are_split_on_units(seed):
    """Beyond `INPUTS` inputs; the truth from one program for each pattern of the units."""
    net = random_net((14, 5, 4, 2), seed)
    low, high = np.zeros(14), np.ones(14)
    A, b = np.array([[1.0, -1.0]]), np.zeros(1)
    layers = [
        (net.graph.constants[n.op.weight], net.graph.constants[n.op.bias])
        for n in net.graph.nodes
        if type(n.op).__name__ == "Linear"
    ]
    least = np.inf
    for signs in itertools.product([0.0, 1.0], repeat=9):
        J, c, rows, right = np.eye(14), np.zeros(14), [], []
        for (W, shift), own in zip(layers, (signs[:5], signs[5:], None), strict=True):
            J, c = W @ J, W @ c + shift
            if own is not None:
                side = np.array(own)
                rows.append(-(2 * side - 1)[:, None] * J)
                right.append((2 * side - 1) * c)
                J, c = side[:, None] * J, side * c
        found = linprog((A @ J)[0], np.vstack(rows), np.concatenate(right), bounds=(0, 1))
        if found.status == 0:
            least = min(least, found.fun + (A @ c)[0])
    for shift, verdict in ((least - SHIFT, "unsat"), (least + SHIFT, "sat")):
        read = single(low, high, A, b + shift)
        found = pt.verify(net, read, 30)
        assert found.verdict == verdict
        if verdict == "sat":
            check_witness(net, read, found)


def assert_proved(found, net):
    """The checker accepts the certificate, in both arithmetics."""
    assert found.verdict == "unsat"
    for mode in ("rational", "interval"):
        checked = pt.check(found.certificate(), net, mode)
        assert checked.valid, checked.reason
        assert (checked.claim, checked.leaves) == ("safe", found.stats.leaves)


class _Mixed(torch.nn.Module):
    """Convolution, leaky units, a residual sum, maxima, and Hardtanh."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = torch.nn.Conv1d(1, 2, 2)
        self.inner = torch.nn.Linear(6, 6)
        self.last = torch.nn.Linear(3, 2)

    def forward(self, x):
        h = torch.nn.functional.leaky_relu(self.conv(x).flatten(1), 0.2)
        h = h + torch.nn.functional.hardtanh(self.inner(h))
        return self.last(torch.nn.functional.max_pool1d(h[:, None], 2)[:, 0])


def test_other_layers():
    net = pt.compile(_Mixed().double(), (1, 4))
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (200_000, 4))
    values = net.logits(points)
    low, high = -np.ones(4), np.ones(4)
    margin = values[:, 0] - values[:, 1]
    sat = pt.verify(net, single(low, high, [[1, -1]], [margin.min()]), 30)
    assert sat.verdict == "sat"
    unsat = pt.verify(net, single(low, high, [[1, -1]], [margin.min() - 0.2]), 30)
    assert unsat.verdict == "unsat"
    assert_proved(unsat, net)


def test_the_proof_is_a_tree_of_many_boxes():
    net = random_net((3, 12, 12, 2), 3)
    low, high = -2 * np.ones(3), np.ones(3)
    A, b = np.array([[1.0, 0], [0, 1.0]]), np.zeros(2)
    least = least_margin(net, low, high, A, b)
    found = pt.verify(net, single(low, high, A, b + least - 1e-3), 30)
    assert found.stats.leaves > 1
    assert_proved(found, net)


def test_a_disjunction_is_unsat_only_if_all_parts_are():
    net = pt.compile([(np.eye(2), np.zeros(2)), (np.eye(2), np.zeros(2))])
    parts = [unsafe([0, 0], [1, 1], [[1, 0]], [v]) for v in (-1.0, -0.5)]
    assert pt.verify(net, Property(2, 2, tuple(parts), "test")).verdict == "unsat"
    parts.append(unsafe([0, 0], [1, 1], [[-1, 0], [0, 1]], [-0.9, 0.1]))
    found = pt.verify(net, Property(2, 2, tuple(parts), "test"))
    assert found.verdict == "sat"
    assert found.witness[0] >= 0.9
    assert found.witness[1] <= 0.1


def test_nothing_to_refute():
    net = pt.compile([(np.eye(2), np.zeros(2))])
    found = pt.verify(net, Property(2, 2, (), "test"))
    assert found.verdict == "unsat"
    assert "nothing satisfies" in found.explain
    anything = Unsafe((Fraction(0),) * 2, (Fraction(1),) * 2, np.zeros((0, 2)), ())
    assert pt.verify(net, Property(2, 2, (anything,), "test")).verdict == "sat"


def test_a_frozen_coordinate_without_a_float():
    """At x_0 = 1/10 exactly the output x_0 is at most 1/10, which no float x_0 shows."""
    net = pt.compile([(np.eye(2), np.zeros(2))])
    tenth = Fraction(1, 10)
    part = Unsafe((tenth, Fraction(0)), (tenth, Fraction(1)), np.array([[1.0, 0]]), (tenth,))
    assert pt.verify(net, Property(2, 2, (part,), "test")).verdict == "sat"
    below = Unsafe(part.low, part.high, part.A, (tenth - Fraction(1, 10**9),))
    assert pt.verify(net, Property(2, 2, (below,), "test")).verdict == "unsat"


def test_a_single_unsafe_point():
    """|x| <= 0 only at zero: found exactly."""
    net = pt.compile([(np.array([[1.0], [-1.0]]), np.zeros(2)), (np.ones((1, 2)), np.zeros(1))])
    found = pt.verify(net, single([-1], [0.7], [[1]], [0.0]), 10)
    assert found.verdict == "sat"
    assert found.witness[0] == 0


def test_what_rounding_cannot_decide_is_unknown_or_open():
    """The limit is missed by less than the rounding of the sum: no verdict is made up."""
    third = 1 / 3
    net = pt.compile([(np.array([[third]]), np.zeros(1)), (np.array([[3.0]]), np.zeros(1))])
    exact = Fraction(third) * 3
    limit = exact - Fraction(1, 2**80)
    part = Unsafe((Fraction(1),), (Fraction(2),), np.array([[1.0]]), (limit,))
    found = pt.verify(net, Property(1, 1, (part,), "test"), 5)
    assert found.verdict in ("unknown", "timeout")
    assert found.witness is None
    assert found.stats.waiting > 0


def test_time_limit():
    net = random_net((10, 60, 60, 60, 2), 0)
    read = single(-3 * np.ones(10), 3 * np.ones(10), [[1, -1]], [-20.0])
    pt.verify(net, read, 0.1)  # loads the compiled code
    begun = time.perf_counter()
    found = pt.verify(net, read, 1.0)
    assert found.verdict in ("timeout", "unsat")
    assert time.perf_counter() - begun < 3.0
    if found.verdict == "timeout":
        assert found.stats.stopped == "time_limit"
        with pytest.raises(InputError, match="the verdict is not unsat"):
            found.certificate()


def test_ctrl_c_gives_what_was_done(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(box_search.BoxSearch, "run", interrupted)
    net = random_net((2, 8, 2), 0)
    found = pt.verify(net, single([-1, -1], [1, 1], [[1, 0]], [-100.0]))
    assert (found.verdict, found.stats.stopped) == ("unknown", "interrupt")
    assert "Ctrl-C" in found.explain


def test_a_network_too_large_is_only_bounded(monkeypatch):
    monkeypatch.setattr(run, "LARGE", 1)
    net = random_net((2, 8, 2), 0)
    found = pt.verify(net, single([-1, -1], [1, 1], [[1, 0]], [-100.0]))
    assert (found.verdict, found.stats.engine) == ("unsat", "bounds")
    least = least_margin(net, -np.ones(2), np.ones(2), np.array([[1.0, 0]]), np.zeros(1))
    found = pt.verify(net, single([-1, -1], [1, 1], [[1, 0]], [least - SHIFT]))
    assert (found.verdict, found.stats.stopped) == ("unknown", "size")
    assert "too large" in found.explain


def test_proofs_go_to_files_where_memory_is_small(monkeypatch):
    monkeypatch.setattr(box_search, "BUFFER", 8)
    net = random_net((3, 12, 12, 2), 3)
    low, high = -2 * np.ones(3), np.ones(3)
    A = np.array([[1.0, 0], [0, 1.0]])
    least = least_margin(net, low, high, A, np.zeros(2))
    found = pt.verify(net, single(low, high, A, np.full(2, least - SHIFT)), 30, memory=1)
    assert_proved(found, net)


def test_a_softmax_keeps_the_order_only():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Softmax(dim=1))
    with pytest.warns(Notice):
        net = pt.compile(model, (2,))
    assert pt.verify(net, single([0, 0], [1, 1], [[1, -1]], [0.0])).verdict in ("sat", "unsat")
    with pytest.raises(InputError, match="more than their order"):
        pt.verify(net, single([0, 0], [1, 1], [[1, 0]], [0.5]))


@pytest.mark.parametrize("limit", [0, -1.0, float("nan"), "soon"])
def test_bad_time_limits(limit):
    net = random_net((2, 8, 2), 0)
    with pytest.raises(InputError, match="time_limit"):
        pt.verify(net, single([0, 0], [1, 1], [[1, -1]], [0.0]), limit)


TEXT = """
(declare-const X_0 Real) (declare-const X_1 Real)
(declare-const Y_0 Real) (declare-const Y_1 Real)
(assert (<= X_0 1)) (assert (>= X_0 0)) (assert (<= X_1 1)) (assert (>= X_1 0))
(assert (<= Y_0 {limit}))
"""


@pytest.fixture
def folder(tmp_path):
    """A network with y_0 = max(x_0 - x_1, 0) + x_1, an unsat and a sat property."""
    first = np.array([[1.0, -1.0], [0.0, 1.0]])
    layers = [(first, np.zeros(2)), (np.array([[1.0, 1.0], [0, 1.0]]), np.zeros(2))]
    pt.compile(layers).save(tmp_path / "net.npz")
    (tmp_path / "unsat.vnnlib").write_text(TEXT.format(limit=-0.01))
    (tmp_path / "sat.vnnlib").write_text(TEXT.format(limit=0.01))
    (tmp_path / "bad.vnnlib").write_text(TEXT.format(limit="Z"))
    return tmp_path


def command(folder, name, *more):
    return main(["verify", str(folder / "net.npz"), str(folder / f"{name}.vnnlib"), *more])


def test_command(folder, capsys):
    assert command(folder, "unsat") == 0
    assert capsys.readouterr().out.startswith("unsat: no input is unsafe")
    assert command(folder, "sat", "--counterexample") == 10
    out = capsys.readouterr().out
    assert out.startswith("sat: the attack found")
    assert "\n((X_0 0" in out
    assert command(folder, "bad") == 2
    assert "line 5: got 'Z'" in capsys.readouterr().err


def test_command_writes_the_competition_format(folder):
    assert command(folder, "unsat", "--out", str(folder / "r.txt")) == 0
    assert (folder / "r.txt").read_text() == "unsat\n"
    assert command(folder, "sat", "--out", str(folder / "r.txt")) == 0
    lines = (folder / "r.txt").read_text().splitlines()
    assert lines[0] == "sat"
    assert [line.split()[0] for line in lines[1:]] == ["((X_0", "(X_1", "(Y_0", "(Y_1"]
    assert lines[-1].endswith("))")
    assert float(lines[3].split()[1].rstrip(")")) <= 0.01


def test_command_without_a_property(folder, capsys):
    assert main(["verify", str(folder / "net.npz")]) == 2
    assert "expected MODEL and SPEC" in capsys.readouterr().err
    assert main(["verify", "a.onnx", "b.vnnlib", "--instances", "c.csv"]) == 2
    assert "leave out MODEL" in capsys.readouterr().err


def test_instances_are_resumed_and_summed_up(folder, capsys):
    rows = "net.npz,unsat.vnnlib,unsat\nnet.npz,sat.vnnlib,unsat\nnet.npz,bad.vnnlib,sat\n"
    (folder / "i.csv").write_text("onnx,vnnlib,consensus\n" + rows)
    words = ["verify", "--instances", str(folder / "i.csv"), "--out", str(folder / "t.csv")]
    assert main(words) == 1  # one verdict differs from what is expected
    out = capsys.readouterr().out
    assert "WRONG" in out
    assert "3 of 3 instances: 1 sat, 1 unsat, 1 error" in out
    assert "1 of 2 verdicts differ" in out
    table = pd.read_csv(folder / "t.csv")
    assert list(table["verdict"]) == ["unsat", "sat", "error"]
    table.loc[0, "seconds"] = 77.0
    table.iloc[:2].to_csv(folder / "t.csv", index=False)
    assert main(words) == 1
    assert "longest 77.00 s" in capsys.readouterr().out
    assert len(pd.read_csv(folder / "t.csv")) == 3


def test_instances_without_column_names(folder, capsys):
    (folder / "i.csv").write_text("net.npz,unsat.vnnlib,116\nnet.npz,sat.vnnlib,116\n")
    assert main(["verify", "--instances", str(folder / "i.csv")]) == 0
    assert "0 of 0 verdicts differ" in capsys.readouterr().out
    (folder / "i.csv").write_text("a,b\n1,2\n")
    assert main(["verify", "--instances", str(folder / "i.csv")]) == 2
    assert "expected columns onnx and vnnlib" in capsys.readouterr().err


def test_instances_stopped_by_ctrl_c(folder, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    (folder / "i.csv").write_text("onnx,vnnlib\nnet.npz,sat.vnnlib\nnet.npz,unsat.vnnlib\n")
    monkeypatch.setattr(box_search.BoxSearch, "run", interrupted)
    words = ["verify", "--instances", str(folder / "i.csv"), "--out", str(folder / "t.csv")]
    assert main(words) == 130
    assert "1 of 2 instances: 1 sat" in capsys.readouterr().out
    assert len(pd.read_csv(folder / "t.csv")) == 1


def test_a_reduced_network_says_the_same():
    """Units that a box decides are put away; values stay what they were, in the box."""
    for net in (random_net((4, 12, 12, 3), 5), pt.compile(_Mixed().double(), (1, 4))):
        network = flat_network(net)
        part = unsafe(np.full(4, 0.1), np.full(4, 0.4), np.eye(net.output_size)[:1], [0])
        root = root_of(part.box)
        sheet = sheet_of(network, root, part.A, part.b)
        work = work_for(sheet, 0)
        known = np.stack([np.full(network.values, -np.inf), np.full(network.values, np.inf)])
        bound_box(sheet, 0, known[0], known[1], root.low, root.high, work)
        reduced = reduce_network(network, work.pieces)
        assert len(reduced.sums.weight) < len(network.sums.weight)
        other = sheet_of(reduced, root, part.A, part.b)
        for step in np.random.default_rng(0).uniform(root.low, root.high, (50, 4)):
            pair = worst_margin(sheet, step, work), worst_margin(other, step, work_for(other, 0))
            assert pair[0] == pytest.approx(pair[1], abs=1e-13)
