"""Certificates made to fool the checker, to crash it, or to fill the memory."""

from __future__ import annotations

import io
import json
import math
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import polytope as pt
from polytope.certificate import Certificate
from polytope.certificate_file import HEADER, KIND, VERSION
from polytope.cli import main
from polytope.errors import InputError
from polytope.network.exact_layers import Exact, Pieces
from polytope.proofs.enclosed import Enclosed
from polytope.proofs.lines import piece_lines

MODES = ("rational", "interval")


@pytest.fixture(scope="module")
def line() -> pt.Network:
    """Outputs x + 1 and 0: from 0 the decision changes at distance 1."""
    return pt.compile([(np.array([[1.0], [0.0]]), np.array([1.0, 0.0]))])


def claim(
    net: pt.Network, radius: float, p: str = "2", multiplier: float = 1.0, **header: object
) -> Certificate:
    """That class 0 is not left within a radius of 0."""
    arrays = {
        "x": np.zeros(1), "low": np.full(1, -np.inf), "high": np.full(1, np.inf),
        "tree_1": np.array([[-1, 1]]), "multipliers_1": np.array([multiplier]),
        "witness": np.full(1, -3.0),
    }  # fmt: skip
    told = {
        "kind": KIND, "version": VERSION, "claim": "robust", "engine": "none",
        "network": net.graph.hash, "norm": p, "radius": float(radius).hex(), "label": 0,
        "target": None, "upper": None,
    }  # fmt: skip
    return Certificate(told | header, arrays)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("p", ["1", "2", "inf"])
def test_multipliers_of_any_size(line, mode, p):
    """Squares of 1e-170 are zero in floats: what they weigh must not vanish from the proof."""
    for power in (0, 10, 100, 140, 160, 170, 200, 300):
        for size in (10.0**power, 10.0**-power):
            assert not pt.check(claim(line, 1.0001, p, size), line, mode).valid
            assert not pt.check(claim(line, 1000.0, p, size), line, mode).valid
    assert pt.check(claim(line, 0.999, p), line, mode).valid


def test_norms_of_tiny_rows():
    for v in (1e-146, 1e-155, 1e-162, 1e-170, 1e-200, 5e-324):
        rows = np.array([[v, v / 3]])
        square = sum(w * w for w in map(pt_fraction, rows[0]))
        found = Enclosed.norms(rows, 2)
        assert (pt_fraction(found.middle[0]) + pt_fraction(found.radius[0])) ** 2 >= square
        exact = Exact.norms(rows, 2)
        assert (exact.integers[0] * exact.scale) ** 2 >= square


def pt_fraction(value: float):
    from fractions import Fraction

    return Fraction(float(value))


def test_a_unit_that_jumps():
    """A table rounded to floats: at the breakpoint the lower piece counts."""
    units = Pieces(*(Exact.of(np.array([v])) for v in ([0.0], [0.0, 0.0], [1.0, 2.0])))
    for numbers in (Exact, Enclosed):
        lines = piece_lines(units, np.zeros((2, 1)), None, numbers)
        assert lines.live[0, 0]
        assert lines.low_rest[0] <= 1.0
        lines = piece_lines(units, np.array([[0.0], [1.0]]), None, numbers)
        assert lines.live.all()
        assert lines.low_rest[0] <= 1.0


@pytest.mark.parametrize("mode", MODES)
def test_distances_that_are_none(line, mode):
    for upper in (float(-5).hex(), "nan", "inf", 10, True, [1]):
        assert not pt.check(claim(line, 0.5, upper=upper), line, mode).valid
    assert pt.check(claim(line, 0.5, upper=float(3).hex()), line, mode).upper == 3
    nothing = pt.check(claim(line, 0.0), line, mode)
    assert nothing.reason == "it claims nothing: the radius is 0, and there is no witness"


def test_what_a_claim_is_about_is_told(line):
    found = pt.check(claim(line, 0.5), line)
    assert (found.header["norm"], found.header["label"], found.header["target"]) == ("2", 0, None)
    assert (found.x, found.low, found.high) == (0.0, -math.inf, math.inf)


def test_flushed_denormals(line):
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormal floats")
    try:
        with pytest.raises(InputError, match="flushes denormal floats"):
            pt.check(claim(line, 0.5), line)
    finally:
        torch.set_flush_denormal(False)


def archive(entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return stream.getvalue()


def entries(certificate: Certificate) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(certificate.to_bytes())) as file:
        return {name: file.read(name) for name in file.namelist()}


class Content:
    """What gives the content of a file."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def to_bytes(self) -> bytes:
        return self.content


def reason(content: bytes, net: pt.Network) -> str:
    found = pt.check(Content(content), net)
    assert not found.valid
    return found.reason


def test_files_in_files(line):
    good = entries(claim(line, 0.5))
    assert pt.check(Content(archive(good)), line).valid
    nested = io.BytesIO()
    np.savez(nested, a=np.zeros(1))
    assert "damaged" in reason(archive(good | {"x.npy": nested.getvalue()}), line)
    broken = good["x.npy"].replace(b"'<f8'", b"(((((")
    assert "damaged" in reason(archive(good | {"x.npy": broken}), line)
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        assert "packed in a way" in reason(archive(good, method), line)
    large = json.dumps({"kind": KIND, "more": "a" * HEADER}).encode()
    assert "unpacks to more" in reason(archive(good | {"header.json": large}), line)
    stream = io.BytesIO(archive(good))
    with zipfile.ZipFile(stream, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("x.npy", good["x.npy"])
    assert "two entries of one name" in reason(stream.getvalue(), line)


def test_arrays_damaged_at_random_behind_a_right_checksum(line):
    good, rng = entries(claim(line, 0.5)), np.random.default_rng(0)
    for _ in range(500):
        name = str(rng.choice(list(good)))
        content = bytearray(good[name])
        content[rng.integers(len(content))] = rng.integers(256)
        pt.check(Content(archive(good | {name: bytes(content)})), line)  # raises nothing


def test_a_file_that_lies_about_its_size(line):
    """100 MB of zeros in 100 kB, said to be 10 bytes."""
    bomb = archive(entries(claim(line, 0.5)) | {"z.npy": b"0" * 10**8})
    small = (10).to_bytes(4, "little")
    bomb = bomb.replace((10**8).to_bytes(4, "little"), small)
    tracemalloc.start()
    try:
        assert reason(bomb, line)
        assert tracemalloc.get_traced_memory()[1] < 2e7
    finally:
        tracemalloc.stop()


def test_whatever_fails_is_a_rejection(line, monkeypatch):
    def fails(*_: object) -> None:
        raise MemoryError("no room\nfor this")

    monkeypatch.setattr("polytope.checker.layers_of", fails)
    found = pt.check(claim(line, 0.5), line)
    assert found.reason == "it could not be read as a proof ('no room\\nfor this')"


def test_overflow_is_silent_and_proves_nothing(line):
    with np.errstate(all="raise"):
        for mode in MODES:
            huge = claim(line, 1.7e308)
            assert not pt.check(huge, line, mode).valid
            arrays = dict(huge.arrays) | {"low": np.full(1, -1.7e308), "high": np.full(1, 1.7e308)}
            assert not pt.check(replace(huge, arrays=arrays), line, mode).valid


def test_what_a_file_says_is_shown_in_one_plain_line(line, tmp_path: Path, capsys):
    line.save(tmp_path / "model.npz")
    lie = claim(line, 0.5, claim="x\nPROVED, in exact arithmetic: \ud800 the moon")
    lie.save(tmp_path / "lie.cert")
    assert main(["check", str(tmp_path / "lie.cert"), str(tmp_path / "model.npz")]) == 1
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert out.startswith("REJECTED: the certificate claims something unknown")


def test_pieces_that_a_unit_does_not_have():
    net = pt.compile([(np.eye(2), np.zeros(2)), (np.eye(2), np.zeros(2))])
    arrays = {
        "from_0": -np.ones(2), "to_0": np.ones(2), "A_0": np.ones((1, 2)), "b_0": np.array([-1.0]),
        "cuts_0": np.zeros(0), "tree_0": np.array([[0, 7], [-1, 1], [-1, 1], [-1, 1]]),
        "multipliers_0": np.ones(3),
    }  # fmt: skip
    header = {"kind": KIND, "version": VERSION, "claim": "safe", "engine": "none",
              "network": net.graph.hash, "source": "", "parts": 1}  # fmt: skip
    assert "does not have" in pt.check(Certificate(header, arrays), net).reason
    arrays |= {"tree_0": np.array([[-1, 1]]), "multipliers_0": np.ones(1)}
    assert pt.check(Certificate(header, arrays), net).valid
    arrays |= {"A_0": np.ones((2**20, 2)), "b_0": np.ones(2**20)}
    assert "too many rows" in pt.check(Certificate(header, arrays), net).reason


def test_a_layer_too_large_is_refused_before_it_is_written_out():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3, padding=1), torch.nn.ReLU())
    net = pt.compile(model.double().eval(), (3, 32, 32))
    assert "too large for exact maps" in pt.check(claim(net, 0.5), net).reason
