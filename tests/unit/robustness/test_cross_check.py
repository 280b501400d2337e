"""`cross_check`: verdicts, lying engines, attacks by any name, and the folder of a disagreement."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import polytope as pt
from polytope.attacks import PGD, CarliniWagner, External, LinearRegion
from polytope.attacks.names import as_attacks
from polytope.errors import FileProblem, InputError
from polytope.robustness import engines
from polytope.robustness.claims import MixedIntegerRun
from polytope.robustness.compare import SAME, CrossCheck, _verdict
from solvers.mps import read_mps
from tests.nets import dense

INF = math.inf
NET = dense(3, 8, 6, 3, seed=26)
BOX = (-1.0, 1.0)
POINTS = np.random.default_rng(2).uniform(-0.8, 0.8, (3, 3))
EXACT = ("branch_and_bound", "traversal")


def check(X=POINTS, *args, **options) -> CrossCheck:
    """Without attacks and programs, if none are asked for."""
    usual = {"p": "inf", "box": BOX, "methods": EXACT, "attacks": ()}
    return pt.cross_check(NET, X, *args, **(usual | options))


@functools.cache
def truth() -> np.ndarray:
    found = pt.minimal_perturbation(NET, POINTS, p="inf", box=BOX)
    assert found.exact.all()
    return found.upper


# Verdicts.


@pytest.mark.parametrize("p", [1, 2, "inf"])
def test_all_agree(tmp_path, p) -> None:
    found = check(p=p, methods=(*EXACT, "mip"), attacks=("linear_region",), out=tmp_path)
    assert list(found.verdict) == ["agree"] * 3
    assert list(found.reason) == [""] * 3
    assert found.files == ()
    assert list(tmp_path.iterdir()) == []
    assert found.at_radius is None
    assert len(found) == 3
    assert (found.lower <= found.upper).all()
    assert (found.upper - found.lower <= 1e-9 * found.upper).all()
    assert list(found.methods) == [*EXACT, "mip"]
    assert (found.ratios("linear_region") >= 1 - 1e-9).all()
    table = found.to_frame()
    assert len(table) == 3
    assert "reason" not in table.columns
    for column in ("label", "lower", "upper", "verdict", "mip claimed", "traversal status",
                   "linear_region / optimum", "branch_and_bound seconds"):  # fmt: skip
        assert column in table.columns
    assert np.isfinite(table["mip claimed"]).all()


def test_open_intervals_are_within_a_gap(tmp_path) -> None:
    found = check(methods=("branch_and_bound",), time_limit=0, out=tmp_path)
    assert list(found.verdict) == ["within gap"] * 3
    mip = check(methods=(*EXACT, "mip"), memory=10_000, out=tmp_path)
    assert set(mip.verdict) <= {"within gap", "agree"}
    assert mip.files == ()


def test_a_search_by_programs_that_had_no_time_agrees_with_nothing() -> None:
    """No witness and no claim: its infinite upper end is no claim that there is none."""
    found = check(POINTS[:1], methods=("traversal", "mip"))
    exact, mip = (rows[0] for rows in found.methods.values())
    run = mip.evidence
    assert isinstance(run, MixedIntegerRun)
    idle = replace(run, targets=tuple(replace(t, attempts=(), refuted=False) for t in run.targets))
    empty = replace(mip, lower=0.0, upper=INF, exact=False, claimed=0.0, evidence=idle)
    assert _verdict({"traversal": exact, "mip": empty}, {}, SAME) == ("within gap", "")
    none = replace(exact, lower=INF, upper=INF)
    assert _verdict({"traversal": none, "mip": empty}, {}, SAME) == ("within gap", "")
    done = replace(empty, evidence=replace(run, targets=tuple(
        replace(t, attempts=(), refuted=True) for t in run.targets
    )))  # fmt: skip
    assert _verdict({"traversal": none, "mip": done}, {}, SAME) == ("agree", "")


def test_closed_intervals_at_different_distances() -> None:
    found = check(POINTS[:1])
    one, other = (rows[0] for rows in found.methods.values())
    far = replace(other, upper=1.001 * other.upper)
    verdict, reason = _verdict({"b": one, "t": far}, {}, SAME)
    assert verdict == "disagree"
    assert reason.startswith("t closed its interval at")
    assert _verdict({"b": one, "t": far}, {}, 0.01) == ("agree", "")


def test_nothing_adversarial_in_the_box(tmp_path) -> None:
    near = (POINTS[0] - 1e-3, POINTS[0] + 1e-3)
    found = check(POINTS[:1], box=near, methods=(*EXACT, "mip"), attacks=("pgd",), out=tmp_path)
    assert found.verdict[0] == "agree"
    assert found.lower[0] == found.upper[0] == INF
    assert found.attacks["pgd"].distance[0] == INF
    assert math.isnan(found.ratios("pgd")[0])
    assert check(POINTS[:1], box=near, radius=0.5, out=tmp_path).at_radius[0] == "robust"


def test_misclassified_points(tmp_path) -> None:
    labels = (NET.predict(POINTS) + 1) % 3
    found = check(POINTS, labels, methods=(*EXACT, "mip"), attacks=("linear_region",), out=tmp_path)
    assert list(found.verdict) == ["agree"] * 3
    assert found.upper.tolist() == [0, 0, 0]
    assert np.isnan(found.ratios("linear_region")).all()
    assert list(check(POINTS, labels, radius=0.1).at_radius) == ["not robust"] * 3


def test_coarse_tolerances_are_no_disagreement(tmp_path) -> None:
    for p in (1, "inf"):
        found = check(POINTS[:2], p=p, tol=1e-3, attacks=("linear_region",), out=tmp_path)
        assert list(found.verdict) == ["agree"] * 2


def test_sides_of_a_radius(tmp_path) -> None:
    distance = truth()
    middle = float(distance[0])
    found = check(radius=middle, out=tmp_path)
    assert found.at_radius[0] == "within tolerance"
    for side, other in zip(found.at_radius[1:], distance[1:], strict=True):
        assert side == ("robust" if other > middle else "not robust")
    assert check(radius=middle * (1 + 1e-4)).at_radius[0] == "not robust"
    assert check(radius=middle * (1 - 1e-4)).at_radius[0] == "robust"
    assert check(radius=middle * (1 + 1e-7)).at_radius[0] == "within tolerance"
    assert list(check(radius=middle, time_limit=0).at_radius) == ["undecided"] * 3
    assert "at_radius" in found.to_frame().columns


def test_targets(tmp_path) -> None:
    target = (NET.predict(POINTS) + 1) % 3
    found = check(target=target, methods=(*EXACT, "mip"), attacks=("pgd",), out=tmp_path)
    assert set(found.verdict) == {"agree"}
    assert (found.upper >= truth() * (1 - 1e-9)).all()


# Lies.


def lying(monkeypatch, name: str, change) -> None:
    """An engine that is right, and then says something else."""
    honest = getattr(engines.Engines, name)

    def wrong(self, query, interval, method, why):
        ran = honest(self, query, interval, method, why)
        return change(interval, ran)

    monkeypatch.setattr(engines.Engines, name, wrong)


def too_high(interval, ran):
    interval.lower = interval.upper = 1.01 * interval.upper
    interval.witness = interval.query.x + 1.01 * (interval.witness - interval.query.x)
    return ran


def read_all(folder) -> dict:
    """What a folder holds, every file of it read."""
    net = pt.load(folder / "network.npz")
    assert net.graph.hash == NET.graph.hash
    with np.load(folder / "points.npz") as points:
        found = {"x": points["x"], "witnesses": sorted(set(points.files) - {"x"})}
    found["report"] = json.loads((folder / "report.json").read_text())
    found["programs"] = {path.name: read_mps(path) for path in sorted(folder.glob("*.mps"))}
    return found


def test_a_bound_above_a_witness(tmp_path, monkeypatch) -> None:
    lying(monkeypatch, "_traverse", too_high)
    found = check(methods=(*EXACT, "mip"), out=tmp_path / "new" / "folder", seed=5)
    assert list(found.verdict) == ["disagree"] * 3
    assert [path.name for path in found.files] == [f"disagreement_row{i}" for i in range(3)]
    for i, folder in enumerate(found.files):
        told = read_all(folder)
        assert told["x"].tolist() == POINTS[i].tolist()
        assert told["witnesses"] == ["witness_branch_and_bound", "witness_mip", "witness_traversal"]
        report = told["report"]
        assert report["row"] == i
        assert report["seed"] == 5 + i
        assert report["p"] == INF
        assert report["box"] == [[-1.0] * 3, [1.0] * 3]
        assert report["target"] is None
        assert report["reason"] == found.reason[i]
        assert report["reason"].startswith("traversal proves that nothing is nearer than")
        assert set(report["methods"]) == {*EXACT, "mip"}
        methods = report["methods"]
        assert methods["traversal"]["lower"] > methods["branch_and_bound"]["upper"]
    assert found.to_frame()["reason"].str.contains("traversal").all()


def test_programs_are_written_and_can_be_read(tmp_path, monkeypatch) -> None:
    lying(monkeypatch, "_mip", lambda _, ran: replace(ran, claimed=5.0))
    found = check(methods=("branch_and_bound", "mip"), out=tmp_path)
    for i, folder in enumerate(found.files):
        told = read_all(folder)
        assert found.reason[i].startswith("mip claims that nothing is nearer than 5.0")
        run = found.methods["mip"][i].evidence
        assert isinstance(run, MixedIntegerRun)
        written = {f"mip_target{t.target}.mps": t for t in run.targets if t.program is not None}
        assert set(told["programs"]) == set(written)
        for name, target in written.items():
            program = told["programs"][name]
            assert target.program is not None
            assert (program.A != target.program.A).nnz == 0
            assert (program.integrality == target.program.integrality).all()
            assert (program.row_upper == target.program.row_upper).all()
    assert any(read_all(folder)["programs"] for folder in found.files)


def test_names_of_solvers_make_names_of_files(tmp_path, monkeypatch) -> None:
    lying(monkeypatch, "_mip", lambda _, ran: replace(ran, claimed=5.0))
    found = check(POINTS[:1], methods=("traversal", "mip:scipy"), out=tmp_path)
    told = read_all(found.files[0])
    assert "witness_mip_scipy" in told["witnesses"]
    assert all(name.startswith("mip_scipy_target") for name in told["programs"])


def test_an_attack_below_a_proof(tmp_path, monkeypatch) -> None:
    for name in ("_traverse", "_branch"):
        lying(monkeypatch, name, too_high)
    found = check(POINTS[:1], attacks=("linear_region",), out=tmp_path)
    assert found.verdict[0] == "disagree"
    assert "linear_region has a witness at" in found.reason[0]


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch) -> None:
    lying(monkeypatch, "_traverse", too_high)
    (tmp_path / "file").write_text("")
    with pytest.raises(FileProblem, match="out: cannot write to"):
        check(POINTS[:1], out=tmp_path / "file")


# Attacks.


def nudge(model, x, y):
    """Candidates in a random direction."""
    del model, y
    return x + 0.5 * torch.sign(torch.sin(1e3 * x))


def test_attacks_of_every_kind(tmp_path) -> None:
    quick = CarliniWagner(steps=50, searches=2)
    given = ["pgd", "linear_region", quick, PGD(steps=5), nudge, LinearRegion()]
    found = check(POINTS[:1], p=2, attacks=given, out=tmp_path)
    names = ["pgd", "linear_region", "carlini_wagner", "pgd_2", "nudge", "linear_region_2"]
    assert list(found.attacks) == names
    assert set(found.verdict) == {"agree"}
    for name in names:
        assert (found.ratios(name) >= 1 - 1e-9).all()
        assert f"{name} / optimum" in found.to_frame().columns


def test_foolbox(tmp_path) -> None:
    from foolbox import attacks  # slow to import, and only needed here

    sized = External(attacks.LinfPGD(steps=5), radii=[0.2, 0.5, 1.0])
    found = check(p="inf", attacks=[attacks.LinfDeepFoolAttack(), sized], out=tmp_path)
    assert list(found.attacks) == ["LinfDeepFoolAttack", "LinfProjectedGradientDescentAttack"]
    for name in found.attacks:
        assert (found.ratios(name) >= 1 - 1e-9).all()
    with pytest.raises(InputError, match=r"perturbs by a fixed size; .* radii="):
        check(attacks=[attacks.LinfPGD(steps=5)])


def test_one_name_alone() -> None:
    assert list(as_attacks("pgd")) == ["pgd"]
    assert list(check(POINTS[:1], methods="traversal").methods) == ["traversal"]
    assert as_attacks([]) == {}
    assert isinstance(as_attacks(["carlini_wagner"])["carlini_wagner"], CarliniWagner)


# Bad input, and Ctrl-C.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ("magic",)}, "methods: got 'magic', expected auto, branch_and_bound"),
        ({"methods": ()}, "methods: got none"),
        ({"methods": ("traversal:scip",)}, "methods: got 'traversal:scip'"),
        ({"methods": ("traversal", "mip:gurobi")}, "solver: .*'gurobi'.*highs"),
        ({"methods": ("mip:highs",), "p": 2}, "solver: .*scip"),
        ({"attacks": ("magic",)}, "attacks: got 'magic', expected pgd, carlini_wagner"),
        ({"attacks": (3,)}, "attacks: got 3, expected"),
        ({"radius": -1}, "radius: got -1, expected a number of at least 0"),
        ({"radius": INF}, "radius: got inf"),
        ({"radius": math.nan}, "radius: got nan"),
        ({"radius": "1"}, "radius: got '1'"),
        ({"p": 3}, "p: got 3"),
        ({"p": "two"}, "two"),
        ({"time_limit": -1}, "time_limit: got -1"),
        ({"X": POINTS * 10}, "lie outside the box"),
        ({"X": np.zeros((2, 5))}, r"X: got shape \(2, 5\)"),
        ({"y": [0, 1]}, "y: got shape"),
        ({"target": 9}, "target: label 9 is out of range"),
    ],
)  # fmt: skip
def test_bad_input(options, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check(**options)


def test_bad_input_is_refused_before_anything_is_searched(monkeypatch) -> None:
    monkeypatch.setattr(engines.Engines, "run", lambda *_: pytest.fail("searched"))
    for options in ({"methods": ("traversal", "mip:gurobi")}, {"attacks": ("magic",)},
                    {"radius": -1}):  # fmt: skip
        with pytest.raises(InputError):
            check(**options)


def test_ctrl_c_ends_what_comes_after(tmp_path) -> None:
    told = []

    def stop(method: str, progress) -> None:
        told.append((method, progress.row))
        if method == "traversal" and progress.row == 1:
            raise KeyboardInterrupt

    found = check(methods=("branch_and_bound", "traversal", "mip"), attacks=("pgd",),
                  callback=stop, out=tmp_path)  # fmt: skip
    assert found.methods["branch_and_bound"].exact.all()
    assert found.methods["traversal"][0].exact
    assert found.methods["traversal"][2].stopped == "interrupt"
    assert [row.stats.nodes for row in found.methods["mip"]] == [0, 0, 0]
    assert (found.methods["mip"].upper == INF).all()
    assert not any(method == "mip" for method, _ in told)
    assert list(found.verdict) == ["within gap"] * 3
    assert found.files == ()


def test_points_of_one_and_of_none(tmp_path) -> None:
    assert len(check(POINTS[0], out=tmp_path)) == 1
    none = check(np.zeros((0, 3)), attacks=("pgd",), out=tmp_path)
    assert len(none) == 0
    assert len(none.to_frame()) == 0
