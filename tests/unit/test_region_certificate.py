"""Certificates of the traversal's regions: accepted where they hold, and only there."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import polytope as pt
from polytope.certificate import Certificate
from polytope.certificate_file import Rejected
from polytope.errors import InputError
from polytope.network import exact_layers
from polytope.network.exact_layers import Exact, layers_of
from polytope.network.ir import Piecewise
from polytope.pattern import ActivationPattern
from polytope.proofs.region_rows import Pulled, Steps, sides
from polytope.regions.exact_interior import interior_point, multipliers_of_nothing
from polytope.robustness import engines
from polytope.robustness import region_proof as maker
from polytope.robustness.region_proof import region_proof
from polytope.robustness.region_proof_exact import pieces_meet
from polytope.robustness.robust_certificate import make_certificate
from polytope.robustness.traversal_evidence import Traversal, packed, unpacked
from tests.data import data_path
from tests.oracle.small_questions import BOXES, FLAWS, KINDS, PLACES, draw
from tests.unit.test_certificate import NETWORKS, NORMS, network

Lists = list[tuple[int, np.ndarray, np.ndarray, bool]]


def traversed(net: pt.Network, x: np.ndarray, p: object, box: object, **more: Any) -> (
    pt.Perturbation
):  # fmt: skip
    found = pt.minimal_perturbation(net, x, p=p, box=box, method="traversal", **more)
    assert isinstance(found, pt.Perturbation)
    return found


def accepted(found: pt.Perturbation, net: pt.Network) -> Certificate:
    """The certificate of the regions; it has to hold."""
    certificate = found.certificate()
    assert certificate.header["engine"] == "traversal", certificate.header.get("note")
    checked = pt.check(certificate, net)
    assert checked.valid, checked.reason
    assert checked.lower == pytest.approx(found.lower, rel=1e-9)
    assert checked.upper == found.upper
    return certificate


@pytest.mark.filterwarnings("ignore:the scales gamma")
@pytest.mark.parametrize("box", [(-2, 2), None])
@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_network(name: str, p: object, box: object) -> None:
    net = network(name)
    for seed in range(2):
        x = np.random.default_rng(seed).uniform(-1, 1, net.input_size)
        found = traversed(net, x, p, box)
        if box is not None or math.isfinite(found.upper):
            assert found.exact
            accepted(found, net)


@pytest.mark.parametrize("p", NORMS)
def test_real_digits(p: object) -> None:
    net = pt.compile(str(data_path("digits", "digits_64_32_32_10.onnx")))
    with np.load(data_path("digits", "digits_64_32_32_10.npz")) as file:
        X = file["points"].astype(float)
    for number in (1, 9):
        found = traversed(net, X[number], p, (0, 1))
        certificate = accepted(found, net)
        assert len(certificate.to_bytes()) < 50_000
        assert found.upper - certificate.lower <= 1e-9


@torch.no_grad()
def spoiled(flaw: str, seed: int) -> nn.Module:
    """A small network with a flaw."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)
    ).double()  # fmt: skip
    first, second = model[0], model[2]
    if flaw == "no biases":
        first.bias.zero_()
        second.bias.zero_()
    elif flaw == "coincident":
        for p in (first.weight, first.bias):
            p[1], p[2], p[3], p[5] = p[0], -p[0], 0.0, 2 * p[4]
        for p in (second.weight, second.bias):
            p[1] = p[0]
    elif flaw == "cancelling":  # a unit that is zero, and two that are equal, by what they read
        for p in (first.weight, first.bias):
            p[1] = p[0]
        second.weight[0] = torch.tensor([0.1, -0.1, 0, 0, 0, 0])
        second.bias[0] = 0.0
        second.weight[1], second.bias[1] = second.weight[2], second.bias[2]
        second.weight[1, :2] += torch.tensor([0.5, -0.5])
    elif flaw == "dead":
        first.weight[0], first.bias[0] = 0.0, 0.0
        first.bias[1] -= 100.0
        second.weight[:, 2] = 0.0
    elif flaw == "integers":
        for p in model.parameters():
            p.copy_(torch.randint(-2, 3, p.shape).to(p.dtype))
    return model


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("flaw", ["no biases", "coincident", "cancelling", "dead", "integers"])
def test_degenerate_networks(flaw: str, p: object) -> None:
    """From the origin, where hyperplanes meet; from a corner; and from inside."""
    made = 0
    for seed in range(3):
        net = pt.compile(spoiled(flaw, seed), (3,))
        for x in (np.zeros(3), np.full(3, -1.0), np.array([0.3, -0.6, 0.2])):
            found = traversed(net, x, p, (-1, 1))
            if found.lower > 0:
                accepted(found, net)
                made += 1
    assert made >= 5


def test_drawn_questions() -> None:
    """Of all kinds and flaws; those that regions do not prove are proved otherwise, by name."""
    regions = others = 0
    for seed in range(45):
        rng = np.random.default_rng(seed)
        kind, flaw, place, box = (str(rng.choice(c)) for c in (KINDS, FLAWS, PLACES, BOXES))
        drawn = draw(seed, int(rng.integers(2, 5)), kind, flaw, place, box, bool(rng.integers(2)))
        p = NORMS[seed % 3]
        found = traversed(drawn.net, drawn.x, p, drawn.box, target=drawn.target, time_limit=10)
        if not found.lower > 0 or (drawn.box is None and math.isinf(found.lower)):
            continue
        certificate = found.certificate()
        checked = pt.check(certificate, drawn.net)
        assert checked.valid, (seed, checked.reason)
        regions += certificate.header["engine"] == "traversal"
        others += "note" in certificate.header
    assert regions >= 30
    assert others <= 2


def test_where_nothing_or_little_can_move() -> None:
    net = network("dense", 3)
    x = np.array([0.2, -0.3, 0.1])
    for low, high in ((x, x), (x - np.array([0.5, 0, 0]), x + np.array([0.5, 0, 1.0]))):
        found = traversed(net, x, 2, (low, high))
        checked = pt.check(found.certificate(), net)
        assert checked.valid, checked.reason
        assert checked.lower == pytest.approx(found.lower, rel=1e-9)


def test_a_search_that_was_stopped_proves_what_it_reached() -> None:
    net = pt.compile(str(data_path("digits", "digits_64_32_32_10.onnx")))
    with np.load(data_path("digits", "digits_64_32_32_10.npz")) as file:
        x = file["points"][0].astype(float)
    whole = traversed(net, x, 2, (0, 1))
    found = traversed(net, x, 2, (0, 1), radius=0.5 * whole.lower)
    assert found.status == "robust"
    accepted(found, net)


def test_proving_while_solving() -> None:
    net = network("mixed", 3)
    X = np.random.default_rng(3).uniform(-1, 1, (3, 3))
    rows = pt.minimal_perturbation(net, X, p=2, box=(-2, 2), prove=True, method="traversal")
    assert {row.exactness for row in rows} == {"rational"}  # type: ignore[union-attr]
    assert all(row.exact for row in rows)  # type: ignore[union-attr]


def test_evidence_that_cannot_be_used_is_replaced_by_name() -> None:
    net = network("dense", 3)
    found = traversed(net, np.array([0.1, 0.2, -0.3]), 2, (-2, 2))
    evidence = found.evidence
    assert isinstance(evidence, Traversal)
    without = replace(found, evidence=replace(evidence, status=0 * evidence.status))
    certificate = without.certificate()
    assert certificate.header["engine"] == "branch_and_bound"
    assert "the first region was not explored" in str(certificate.header["note"])
    assert pt.check(certificate, net).valid
    nothing = replace(evidence, patterns=evidence.patterns[:0])
    assert "nothing to traverse" in region_proof(found.query, nothing, 0.1).reason
    assert region_proof(found.query, evidence, 0.1, -math.inf).reason == "time was up"


def test_pieces_that_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables may have been rounded: then a unit jumps, by a little."""
    net = network("mixed", 3)
    assert pieces_meet(net)
    found = traversed(net, np.array([0.1, 0.2, -0.3]), 2, (-2, 2))
    op = net.graph.nodes[net.layers[-1].node].op
    assert isinstance(op, Piecewise)
    rests = net.graph.constants[op.intercepts] + np.array([0, 0, 1e-15])
    jumping = replace(net.graph, constants={**net.graph.constants, op.intercepts: rests})
    assert not pieces_meet(SimpleNamespace(graph=jumping, layers=net.layers))  # type: ignore[arg-type]
    x, box = found.query.x, (np.full(3, -2.0), np.full(3, 2.0))
    with pytest.raises(Rejected, match="do not meet"):
        Pulled(*layers_of(jumping), Steps.around(x, 2, 0.1, *box))
    monkeypatch.setattr(maker, "pieces_meet", lambda _: False)
    certificate = found.certificate()
    assert certificate.header["engine"] == "branch_and_bound"
    assert "do not meet" in str(certificate.header["note"])


# A certificate taken apart ------------------------------------------------------------------


class Parts:
    """Patterns with their ways and multipliers, that can be changed and put together again."""

    def __init__(self, certificate: Certificate) -> None:
        self.header, self.arrays = dict(certificate.header), dict(certificate.arrays)
        arrays = self.arrays
        self.patterns, self.status = list(arrays["patterns"]), arrays["status"].tolist()
        ends = np.cumsum(arrays["ways"])[:-1]
        pairs = np.stack([arrays[k].astype(int) for k in ("way_rows", "way_to")], axis=1)
        self.ways = [part.tolist() for part in np.split(pairs, ends)]
        self.lists: list[Lists] = [[] for _ in self.patterns]
        for name in ("", "short_"):
            sizes = arrays[f"{name}sizes"].astype(int)
            cuts = np.cumsum(sizes)[:-1]
            rows, weights = (np.split(arrays[name + k], cuts) for k in ("rows", "weights"))
            owner = np.repeat(np.arange(len(self.patterns)), arrays[f"{name}lists"])
            for q, *entry in zip(owner, arrays[f"{name}subjects"].tolist(), rows, weights,
                                 strict=False):  # fmt: skip
                self.lists[q].append((*entry, bool(name)))  # type: ignore[arg-type]

    def drop(self, q: int) -> None:
        """Leave a pattern out, and all ways to it."""
        for part in (self.patterns, self.status, self.ways, self.lists):
            del part[q]
        for ways in self.ways:
            ways[:] = [[row, to - (to > q)] for row, to in ways if to != q]

    def certificate(self) -> Certificate:
        arrays, n = dict(self.arrays), len(self.patterns)
        arrays["patterns"] = np.array(self.patterns).reshape(n, -1)
        arrays["status"] = np.array(self.status, dtype=np.uint8)
        arrays["ways"] = np.array([len(w) for w in self.ways], dtype=np.uint16)
        pairs = np.array([w for ways in self.ways for w in ways], dtype=int).reshape(-1, 2)
        arrays["way_rows"] = pairs[:, 0].astype(arrays["way_rows"].dtype)
        arrays["way_to"] = pairs[:, 1].astype(np.min_scalar_type(n))
        for name in ("", "short_"):
            own = [[entry for entry in lists if entry[3] == bool(name)] for lists in self.lists]
            flat = [entry for lists in own for entry in lists]
            for key, values in (
                ("lists", [len(lists) for lists in own]), ("subjects", [e[0] for e in flat]),
                ("sizes", [len(e[1]) for e in flat]),
                ("rows", np.concatenate([np.zeros(0), *(e[1] for e in flat)])),
                ("weights", np.concatenate([np.zeros(0), *(e[2] for e in flat)])),
            ):  # fmt: skip
                kind = arrays[name + key].dtype
                arrays[name + key] = np.array(values).astype(kind)
        return Certificate(self.header, arrays)


@pytest.fixture(scope="module")
def examples() -> list[tuple[pt.Network, pt.Perturbation, Certificate]]:
    """Networks with pools, duplicated units and no biases, in each norm; with a box and without."""
    nets = [network("mixed", 5), network("dense", 2), pt.compile(spoiled("coincident", 1), (3,)),
            pt.compile(spoiled("no biases", 0), (3,))]  # fmt: skip
    found = []
    for net, p, box in zip(nets, (2, 1, "inf", 2), ((-2, 2), None, (-2, 2), (-1, 1)), strict=True):
        rows = [traversed(net, np.random.default_rng(seed).uniform(-1, 1, 3), p, box)
                for seed in range(12)]  # fmt: skip
        row = max((row for row in rows if math.isfinite(row.upper)), key=lambda r: r.stats.regions)
        assert row.stats.regions >= 6
        found.append((net, row, accepted(row, net)))
    return found


def test_parts_are_put_together_again(examples) -> None:  # type: ignore[no-untyped-def]
    for net, _, certificate in examples:
        again = Parts(certificate).certificate()
        assert again.arrays.keys() == certificate.arrays.keys()
        for key, array in certificate.arrays.items():
            assert again.arrays[key].dtype == array.dtype
            assert np.array_equal(again.arrays[key], array)
        assert pt.check(again, net).valid


def changed(certificate: Certificate, rng: np.random.Generator) -> Certificate:
    """A certificate after one random change."""
    parts = Parts(certificate)
    q = int(rng.integers(len(parts.patterns)))
    kind = int(rng.integers(16))
    if kind == 0:
        parts.drop(q)
    elif kind == 1 and parts.ways[q]:
        del parts.ways[q][rng.integers(len(parts.ways[q]))]
    elif kind == 2 and parts.ways[q]:
        parts.ways[q][rng.integers(len(parts.ways[q]))][1] = int(rng.integers(len(parts.patterns)))
    elif kind == 3 and parts.ways[q]:
        parts.ways[q][rng.integers(len(parts.ways[q]))][0] = int(rng.integers(14))
    elif kind == 4:
        parts.status[q] = int(rng.integers(3))
    elif kind == 5:
        radius = float.fromhex(str(parts.header["radius"]))
        parts.header["radius"] = float(radius * (1 + 10.0 ** rng.uniform(-9, 1))).hex()
    elif kind in (6, 7, 8, 9) and parts.lists[q]:
        at = int(rng.integers(len(parts.lists[q])))
        subject, rows, weights, short = parts.lists[q][at]
        rows, weights, i = rows.copy(), weights.copy(), int(rng.integers(len(rows)))
        if kind == 6:
            weights[i] *= [-1, 0, 0.5, 2, 1e3][rng.integers(5)]
        elif kind == 7:
            rows[i] = rng.integers(15)
        elif kind == 8:
            subject = int(rng.integers(18))
        else:
            parts.lists[q].pop(at)
        if kind != 9:
            parts.lists[q][at] = subject, rows, weights, short
    elif kind == 10:
        pattern = parts.patterns[q].copy()
        pattern[rng.integers(len(pattern))] ^= 1 << int(rng.integers(8))
        parts.patterns[q] = pattern
    elif kind == 11:
        other = int(rng.integers(len(parts.patterns)))
        parts.patterns[q], parts.patterns[other] = parts.patterns[other], parts.patterns[q]
    elif kind == 12:
        parts.arrays["inward"] = rng.normal(size=3) * rng.integers(0, 2, 3)
    elif kind == 13:
        key = str(rng.choice(["label", "norm", "target"]))
        values = {"label": [0, 1, 2, -1, True], "norm": ["1", "2", "inf", "3"],
                  "target": [0, 1, None, 7]}  # fmt: skip
        parts.header[key] = values[key][rng.integers(len(values[key]))]
    made = parts.certificate()
    arrays = dict(made.arrays)
    key = str(rng.choice(list(arrays)))
    if kind == 14:
        array = arrays[key]
        arrays[key] = array[: rng.integers(len(array))] if len(array) else array[None]
    elif kind == 15:
        del arrays[key]
    return Certificate(made.header, arrays)


def test_hundreds_of_changes(examples) -> None:  # type: ignore[no-untyped-def]
    """Every change is rejected, or leaves a claim that is true; none raises."""
    rng = np.random.default_rng(0)
    rejected = 0
    reasons = set()
    for net, found, certificate in examples:
        for _ in range(100):
            other = changed(certificate, rng)
            checked = pt.check(other, net)
            if not checked.valid:
                rejected += 1
                reasons.add(checked.reason)
                assert checked.lower == 0
                continue
            header = other.header
            claim = [header[k] for k in ("norm", "label", "target")]
            if claim == [certificate.header[k] for k in ("norm", "label", "target")]:
                assert float.fromhex(str(header["radius"])) <= found.upper
                continue
            query = found.query
            truth = pt.minimal_perturbation(
                net, query.x, int(str(header["label"])), str(header["norm"]),
                None if query.box is None else (query.box.low, query.box.high),
                target=header["target"],
            )  # fmt: skip
            assert float.fromhex(str(header["radius"])) <= truth.upper  # type: ignore[union-attr]
    assert rejected >= 200
    assert len(reasons) >= 10


# Engines that lie ---------------------------------------------------------------------------


def nearest_region(parts: Parts, net: pt.Network, found: pt.Perturbation) -> list[int]:
    """The patterns whose regions hold the witness."""
    held = []
    for q, pattern in enumerate(parts.patterns):
        own = ActivationPattern(pattern.tobytes(), net.layout)
        region = net.region(found.query.x, own)
        if (region.A @ found.witness <= region.b + 1e-9).all():
            held.append(q)
    return held


def test_a_region_that_is_skipped_is_missed(examples) -> None:  # type: ignore[no-untyped-def]
    """The region of the witness, left out in every way, and a radius beyond the witness."""
    for net, found, certificate in examples:
        for factor in (1 + 1e-9, 1.05):
            for lie in range(4):
                parts = Parts(certificate)
                parts.header["radius"] = (found.upper * factor).hex()
                parts.header["upper"] = None
                held = nearest_region(parts, net, found)
                assert held
                for q in reversed(held):
                    if lie == 0:
                        parts.drop(q)
                        continue
                    for ways in parts.ways:
                        for way in ways:
                            if way[1] == q and lie == 1:
                                way[1] = 0
                    if lie == 2 or (lie == 1 and q == 0):
                        parts.status[q], parts.ways[q] = 1, []
                        whole = net.rows + 3
                        parts.lists[q] = [(whole, np.arange(3), np.ones(3), True)]
                    elif lie == 3:
                        parts.lists[q] = []
                checked = pt.check(parts.certificate(), net)
                assert not checked.valid


def test_a_traversal_that_inflates_its_bounds_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    real = engines.traverse
    caught = 0
    for seed in range(8):
        net = network(["dense", "mixed"][seed % 2], seed)
        x = np.random.default_rng(seed).uniform(-1, 1, 3)
        honest = traversed(net, x, 2, (-2, 2))
        if not 0 < honest.lower < honest.upper < math.inf:
            continue
        far = np.clip(x + 1.3 * (honest.witness - x), -2, 2)

        def lies(query, interval, net=net, far=far, seed=seed):  # type: ignore[no-untyped-def]
            found = real(query, interval)
            if query.net is not net:
                return found
            interval.upper = float(np.linalg.norm(far - query.x)) * (1 + 1e-12)
            interval.witness = far
            interval.prove(interval.upper)
            if seed % 4 < 2:  # all that was bounded, or not explored, is said to be far away
                bound = np.where(found.bound > 0.7 * interval.upper, 1e3, found.bound)
                found = replace(found, bound=bound, way_bound=0 * found.way_bound + 1e3)
            return found

        if net.predict(far[None])[0] == honest.label:
            continue
        monkeypatch.setattr(engines, "traverse", lies)
        lying = traversed(net, x, 2, (-2, 2), prove=True, time_limit=5)
        monkeypatch.setattr(engines, "traverse", real)
        assert lying.lower > honest.upper
        assert lying.exactness != "rational"
        assert not lying.exact
        assert isinstance(lying.evidence, Traversal)
        assert region_proof(lying.query, lying.evidence, lying.lower).reason
        caught += 1
    assert caught >= 3


def test_a_traversal_that_skips_a_region_is_found_out() -> None:
    """Every region that was explored is forgotten, or taken for closed or flat, one at a time."""
    net = network("mixed", 5)
    caught = 0
    found = traversed(net, np.random.default_rng(1).uniform(-1, 1, 3), 2, (-2, 2))
    evidence = found.evidence
    assert isinstance(evidence, Traversal)
    far = 1.05 * found.upper
    assert region_proof(found.query, evidence, far).reason
    for q in range(len(evidence.patterns)):
        for status, bound in ((0, -1.0), (2, 1e3), (3, 0.0)):
            lie = replace(evidence, status=evidence.status.copy(), bound=evidence.bound.copy())
            lie.status[q], lie.bound[q] = status, bound
            proof = region_proof(found.query, lie, found.lower * (1 - 1e-12))
            if proof.reason:
                caught += 1
                continue
            certificate = make_certificate(
                found.query, found.lower, found.witness, found.upper, 60.0, lie
            )
            assert pt.check(certificate, net).valid  # what was skipped was not needed
            assert region_proof(found.query, lie, far).reason
    assert caught >= len(evidence.patterns) // 2


def test_no_proof_at_all_is_an_error(examples) -> None:  # type: ignore[no-untyped-def]
    lying = replace(examples[0][1], lower=1.2 * examples[0][1].upper)
    with pytest.raises(InputError, match=r"no proof for radius.*not by the regions"):
        lying.certificate(5.0)


# The parts of the checker -------------------------------------------------------------------


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_positive_functions(p: float) -> None:
    """Against the least value by many steps, and by bisection of a multiplier."""
    rng = np.random.default_rng(int(min(p, 3)))
    shown = 0
    for _ in range(60):
        k = int(rng.integers(1, 6))
        x, radius = rng.uniform(-1, 1, k), float(rng.uniform(0.1, 2))
        low = np.where(
            rng.random(k) < 0.3, -np.inf, x - rng.uniform(0, 1, k) * rng.integers(0, 2, k)
        )
        high = np.where(rng.random(k) < 0.3, np.inf, x + rng.uniform(0.1, 1, k))
        steps = Steps.around(x, p, radius, low, high)
        g = rng.normal(size=k) * 10.0 ** rng.integers(-6, 7, k)
        least = least_value(g, p, radius, low - x, high - x)
        for margin in (-1e-3, -1e-9, 1e-10, 1e-3):
            c = -least * (1 - margin)
            exact = Exact.of(np.append(g, c))
            scale = int(1 / steps.unit)
            row = np.append(exact.integers[:-1], exact.integers[-1] * scale)
            found = steps.positive(row[None], np.ones(1, bool))[0]
            assert found == (margin < 0 and least < 0)
            shown += bool(found)
    assert shown >= 60


def least_value(g: np.ndarray, p: float, radius: float, low: np.ndarray, high: np.ndarray) -> float:
    """The least g s over the steps, by the one multiplier of the radius."""
    room = np.minimum(np.where(g > 0, -low, high), radius)
    size = np.abs(g)
    if p == math.inf:
        return -float(size @ room)
    if p == 1:
        left, total = radius, 0.0
        for i in np.argsort(-size):
            used = min(left, room[i])
            total, left = total + used * size[i], left - used
        return -total
    if np.linalg.norm(room) <= radius:
        return -float(size @ room)
    a, b = 0.0, 1e12
    for _ in range(400):
        t = math.sqrt(a * b) if a > 0 else b / 1e24
        a, b = (a, t) if np.linalg.norm(np.minimum(t * size, room)) > radius else (t, b)
    return -float(size @ np.minimum(a * size, room))


def test_functions_that_touch_zero() -> None:
    steps = Steps.around(np.zeros(2), 2.0, 1.0, np.zeros(2), np.full(2, np.inf))
    rows = np.array([[1, 0, 0], [3, 5, 0], [-1, 2, 0], [0, 0, 0], [0, 0, 1]], dtype=object)
    weak = steps.positive(rows, np.zeros(5, bool))
    assert weak.tolist() == [True, True, False, True, True]
    assert steps.positive(rows, np.ones(5, bool)).tolist() == [False, False, False, False, True]


def test_multipliers_of_rows_without_an_inside() -> None:
    rng = np.random.default_rng(0)
    empty = 0
    for _ in range(60):
        k = int(rng.integers(1, 4))
        rows = rng.integers(-2, 3, (int(rng.integers(2, 8)), k + 1)).astype(object)
        found = multipliers_of_nothing(rows)
        assert (found is None) == (interior_point(rows) is not None)
        if found is not None:
            total = (np.array(found, dtype=object)[:, None] * rows).sum(axis=0)
            assert min(found) >= 0 < max(found)
            assert not total[:-1].any()
            assert total[-1] >= 0
            empty += 1
    assert 15 <= empty <= 55


def test_sides_of_hyperplanes() -> None:
    rng = np.random.default_rng(0)
    base = np.array([[int(v) << 70 for v in row] for row in rng.integers(-9, 10, (4, 5))], object)
    rows = np.concatenate([base, 3 * base[:2], -7 * base[1:3], 0 * base[:1], base[:1] + 1])
    constant = rows[:1].copy()
    constant[0, :-1] = 0
    found = sides(np.concatenate([rows, constant])).tolist()
    assert found[:4] == [1, 2, 3, 4]
    assert found[4:8] == [1, 2, -2, -3]
    assert found[8] == 0
    assert found[9] not in found[:8]
    assert found[10] == 0


@pytest.mark.filterwarnings("ignore:the scales gamma")
@pytest.mark.parametrize("name", ["dense", "mixed", "convolutional", "one output"])
def test_rows_of_patterns(name: str) -> None:
    net = network(name, 4)
    rng = np.random.default_rng(4)
    x = rng.uniform(-1, 1, net.input_size)
    low, high = np.full(len(x), -3.0), np.full(len(x), 3.0)
    low[0] = high[0] = x[0]
    steps = Steps.around(x, 2.0, 1.0, low, high)
    pulled = Pulled(*layers_of(net.graph), steps)
    X = rng.uniform(-2, 2, (6, net.input_size))
    pieces = net.pieces(torch.as_tensor(X).reshape(-1, *net.input_shape)).numpy()
    own = packed(pieces.astype(np.uint16), net.layout)
    assert np.array_equal(pulled.unpacked(own), pieces)
    assert np.array_equal(unpacked(own, net.layout), pieces)
    for row in pieces:
        numbers, exact = pulled.of(row)
        region = net.region(x, ActivationPattern.from_pieces(row, net.layout))
        first = np.array([layer.first_row for layer in net.layers])
        slots = np.array([layer.slots for layer in net.layers])
        units = region.units
        names = first[units.layer] + units.unit * slots[units.layer] + units.slot
        assert sorted(names.tolist()) == sorted(numbers.tolist())
        order = np.argsort(names)
        values = np.array([[float(Fraction(v) * exact.scale) for v in r] for r in exact.integers])
        values = values[: len(numbers)][np.argsort(numbers)]
        unit = float(steps.unit)
        assert np.allclose(values[:, :-1] / unit, region.A[order][:, 1:], atol=1e-12)
        assert np.allclose(values[:, -1], (region.A @ x - region.b)[order], atol=1e-12)


def test_patterns_that_are_none() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Unflatten(1, (1, 4)), nn.MaxPool1d(3, 2, padding=1),
                          nn.Flatten(), nn.Linear(2, 2))  # fmt: skip
    net = pt.compile(model.double(), (3,))
    box = np.full(3, -2.0), np.full(3, 2.0)
    pulled = Pulled(*layers_of(net.graph), Steps.around(np.zeros(3), 2, 0.1, *box))
    assert pulled.limits.tolist() == [3, 3]
    fine = np.array([[1, 2]], np.uint16)
    assert np.array_equal(pulled.unpacked(packed(fine, net.layout)), fine)
    for pieces, reason in (([0, 1], "a winner"), ([1, 3], "a piece")):
        with pytest.raises(Rejected, match=reason):
            pulled.unpacked(packed(np.array([pieces], np.uint16), net.layout))
    with pytest.raises(Rejected, match="another size"):
        pulled.unpacked(np.zeros((1, 2), np.uint8))


def test_products_without_flint(examples, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    net, _, certificate = examples[0]
    monkeypatch.setattr(exact_layers, "FLINT", None)
    assert pt.check(certificate, net).valid


def test_kept_maps_do_not_leak(examples) -> None:  # type: ignore[no-untyped-def]
    """The rows of a pattern are the same whatever pattern came before."""
    net, found, certificate = examples[0]
    query = found.query
    box = query.box
    assert box is not None
    steps = Steps.around(query.x, query.p, 1.0, box.low, box.high)
    layers = layers_of(net.graph)
    together = Pulled(*layers, steps)
    pieces = together.unpacked(certificate.arrays["patterns"])
    for row in np.random.default_rng(0).permutation(pieces)[:20]:
        numbers, exact = together.of(row)
        others, alone = Pulled(*layers, steps).of(row)
        assert np.array_equal(numbers, others)
        assert (exact.integers == alone.integers).all()
