"""Certificates of properties in VNN-LIB, and engines and files that lie about them."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import polytope as pt
from polytope.certificate import Certificate
from polytope.cli import main
from polytope.verification import box_search
from polytope.verification.property import Property, Unsafe
from tests.data import data_path
from tests.unit.test_verify import least_margin, random_net, single

LOW, HIGH = -2 * np.ones(3), np.ones(3)
A = np.array([[1.0, 0], [0, 1.0]])


@pytest.fixture(scope="module")
def proved() -> tuple[pt.Network, Property, Certificate, float]:
    """A network, a property that just holds, its certificate, and the least largest output."""
    net = random_net((3, 12, 12, 2), 3)
    least = least_margin(net, LOW, HIGH, A, np.zeros(2))
    read = single(LOW, HIGH, A, np.full(2, least - 1e-3))
    found = pt.verify(net, read, 30)
    assert found.verdict == "unsat"
    return net, read, found.certificate(), least


def mutated(certificate: Certificate, rng: np.random.Generator) -> Certificate:
    """A certificate after one random change."""
    header, arrays = dict(certificate.header), dict(certificate.arrays)
    kind = rng.integers(10)
    if kind == 0:
        header[str(rng.choice(list(header)))] = rng.choice(
            np.array([None, "robust", -1, 2, True], dtype=object)
        )
        return Certificate(header, arrays)
    key = str(rng.choice(list(arrays)))
    array = arrays[key].copy()
    if kind == 1:
        del arrays[key]
        return Certificate(header, arrays)
    if kind == 2 and len(array):
        array = np.delete(array, rng.integers(len(array)), axis=0)
    elif kind == 3:
        array = array.astype(np.float32)
    elif kind == 4:
        array = np.concatenate([array, array[-1:]])
    elif array.size:
        at = rng.integers(array.size)
        value = array.flat[at]
        flips = [-value, 0, value + 1, value * (1 + rng.normal()), value - 1, value * 1e3]
        array.flat[at] = flips[rng.integers(6)]
    arrays[key] = array
    return Certificate(header, arrays)


@pytest.mark.parametrize("mode", ["rational", "interval"])
def test_five_hundred_mutations(proved, mode):
    """Every change is rejected, or leaves a claim that is true."""
    net, _, certificate, _ = proved
    rng, accepted, points = np.random.default_rng(0), 0, None
    for _ in range(500):
        other = mutated(certificate, rng)
        checked = pt.check(other, net, mode)
        if not checked.valid:
            assert checked.reason
            continue
        accepted += 1
        low, high = other.arrays["from_0"], other.arrays["to_0"]
        points = rng.uniform(low, high, (20_000, 3))
        unsafe = (net.logits(points) @ other.arrays["A_0"].T <= other.arrays["b_0"]).all(axis=1)
        assert not unsafe.any()
    assert 0 < accepted < 250


@pytest.mark.parametrize("mode", ["rational", "interval"])
def test_a_claim_that_is_false_is_never_accepted(proved, mode):
    net, _, certificate, least = proved
    for shift in (1e-6, 1e-2, 1.0):
        lying = dict(certificate.arrays) | {"b_0": np.full(2, least + shift)}
        checked = pt.check(replace(certificate, arrays=lying), net, mode)
        assert not checked.valid
        assert "do not prove" in checked.reason


def test_an_engine_that_skips_a_part_is_found_out(proved, monkeypatch):
    """One of two parts of a box that was cut, or of the pieces of a unit, is never searched."""
    net, _, _, least = proved
    real, caught = box_search.search_boxes, 0

    def skips(*arguments):
        why, waiting, noted, boxes = real(*arguments)
        return why, max(waiting - 1, 0), noted, boxes

    monkeypatch.setattr(box_search, "search_boxes", skips)
    monkeypatch.setattr(box_search._Worker, "budget", 4)
    for shift in (-1e-3, 1e-3, 1e-2, 0.1):
        read = single(LOW, HIGH, A, np.full(2, least + shift))
        monkeypatch.setattr("polytope.verification.run.attack", lambda *_: (LOW, np.inf))
        found = pt.verify(net, read, 10, workers=1, prove=True)
        if found.verdict == "unknown":
            assert "the checker rejects" in found.explain
            caught += 1
        assert not (shift > 0 and found.verdict == "unsat")
    assert caught >= 3


def test_an_engine_that_inflates_its_bounds_is_found_out(proved, monkeypatch):
    """The engine proves another property than it was asked, and says that it was this one."""
    net, read, _, least = proved
    real = box_search.sheet_of
    lie = single(LOW, HIGH, A, np.full(2, least + 0.05))
    monkeypatch.setattr(
        box_search, "sheet_of", lambda network, root, rows, _: real(network, root, rows, read_b)
    )
    monkeypatch.setattr("polytope.verification.run.attack", lambda *_: (LOW, np.inf))
    read_b = read.parts[0].b
    found = pt.verify(net, lie, 30, prove=True)
    assert found.verdict == "unknown"
    assert "the checker rejects the certificate: the multipliers" in found.explain
    assert found.exactness == ""


def test_proved_while_verifying(proved):
    net, read, certificate, _ = proved
    found = pt.verify(net, read, 30, prove=True)
    assert (found.verdict, found.exactness) == ("unsat", "rational")
    assert np.isnan(certificate.lower)


def test_the_property_is_compared(proved):
    net, read, certificate, _ = proved
    (part,) = read.parts
    assert pt.check(certificate, net, "interval", read).valid
    smaller = replace(part, low=tuple(v + 1 for v in part.low))
    stricter = replace(part, limits=tuple(v - 1 for v in part.limits))
    more = replace(
        part, A=np.concatenate([part.A, [[1.0, 1.0]]]), limits=(*part.limits, Fraction(0))
    )
    for implied in (smaller, stricter, more):
        asked = Property(3, 2, (implied, part), "test")
        assert pt.check(certificate, net, "interval", asked).valid
    larger = replace(part, high=tuple(v + 1 for v in part.high))
    looser = replace(part, limits=tuple(v + Fraction(1, 2**60) for v in part.limits))
    fewer = replace(part, A=part.A[:1], limits=part.limits[:1])
    other = Unsafe(part.low[:2], part.high[:2], part.A, part.limits)
    for not_implied in (larger, looser, fewer, other):
        asked = Property(3, 2, (part, not_implied), "test")
        checked = pt.check(certificate, net, "interval", asked)
        assert checked.reason == "part 1 of the property is none that the certificate is about"


def test_the_command(tmp_path: Path, capsys):
    """A real property: proved, saved, checked from the command line; another model is refused."""
    folder = data_path("acasxu", "prop_4.vnnlib").parent
    model, other = (str(folder / f"ACASXU_run2a_{k}_batch_2000.onnx") for k in ("2_4", "2_5"))
    spec, proof = str(folder / "prop_4.vnnlib"), str(tmp_path / "proof.cert")
    assert main(["verify", model, spec, "--certificate", proof]) == 0
    assert f"proof   {proof}" in capsys.readouterr().out
    for mode in ("rational", "interval"):
        assert main(["check", proof, model, "--property", spec, "--mode", mode]) == 0
        assert "PROVED" in capsys.readouterr().out
    assert main(["check", proof, model]) == 0
    assert "compare it with --property" in capsys.readouterr().out
    assert main(["check", proof, other]) == 1
    assert "another network" in capsys.readouterr().out
    assert main(["check", proof, model, "--property", str(folder / "prop_1.vnnlib")]) == 1
    assert "none that the certificate is about" in capsys.readouterr().out
    assert main(["verify", model, spec, "--check", "interval"]) == 2


def test_instances_with_their_proofs(tmp_path: Path, capsys):
    folder = data_path("acasxu", "prop_4.vnnlib").parent
    table = tmp_path / "few.csv"
    rows = [f"ACASXU_run2a_{k}_batch_2000.onnx,prop_{j}.vnnlib,unsat" for k in ("2_4", "2_9")
            for j in (3, 4)]  # fmt: skip
    table.write_text("\n".join(["onnx,vnnlib,consensus", *rows]))
    command = ["verify", "--instances", str(table), "--folder", str(folder), "--check", "interval"]
    assert main(command) == 0
    assert "4 of 4 proofs of unsat verdicts accepted by the checker" in capsys.readouterr().out
