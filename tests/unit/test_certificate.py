"""Certificates: proofs that the checker accepts, and a thousand that it must not be fooled by."""

from __future__ import annotations

import itertools
import json
import math
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import polytope as pt
from polytope.certificate import Certificate
from polytope.cli import main
from polytope.errors import FileProblem, InputError
from polytope.network import exact_layers
from polytope.network.exact import exact_outputs
from polytope.verification.property import Property
from tests.data import data_path

NORMS = (1, 2, "inf")


class Mixed(nn.Module):
    """A residual sum, a pool of pairs, leaky and clipped units."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 6), nn.Linear(6, 6)
        self.pool, self.last = nn.MaxPool1d(2), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = x + nn.functional.leaky_relu(self.second(x), 0.1)
        x = nn.functional.hardtanh(self.pool(x.unsqueeze(1)).squeeze(1))
        return self.last(x)


class Convolutional(nn.Module):
    """Convolutions (one transposed), average and max pooling, and batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 2, 2, padding=1), nn.BatchNorm2d(2), nn.ReLU(),
            nn.ConvTranspose2d(2, 2, 2, stride=2), nn.LeakyReLU(0.2),
            nn.AvgPool2d(3, stride=2, padding=1), nn.MaxPool2d(2, stride=1), nn.Flatten(),
            nn.Linear(8, 3),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


def dense(*widths: int) -> nn.Module:
    layers: list[nn.Module] = []
    for n, m in itertools.pairwise(widths):
        layers += [nn.Linear(n, m), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


NETWORKS = {
    "dense": (lambda: dense(3, 7, 5, 3), (3,)),
    "mixed": (Mixed, (3,)),
    "convolutional": (Convolutional, (1, 2, 2)),
    "one output": (lambda: dense(3, 6, 1), (3,)),
    "linear": (lambda: dense(3, 3), (3,)),
}


def network(name: str, seed: int = 0) -> pt.Network:
    make, shape = NETWORKS[name]
    torch.manual_seed(seed)
    return pt.compile(make().double().eval(), shape)


def solved(net: pt.Network, p: object, seed: int = 0, box: object = (-2, 2)) -> pt.Perturbation:
    x = np.random.default_rng(seed).uniform(-1, 1, net.input_size)
    found = pt.minimal_perturbation(net, x, p=p, box=box)
    assert isinstance(found, pt.Perturbation)
    return found


@pytest.fixture(scope="module")
def small() -> tuple[pt.Network, pt.Perturbation, Certificate]:
    net = network("mixed", 5)
    found = solved(net, 2, 1)
    assert found.exact
    assert math.isfinite(found.upper)
    return net, found, found.certificate()


@pytest.mark.filterwarnings("ignore:the scales gamma")
@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_proof_of_a_result_is_accepted(name: str, p: object) -> None:
    net = network(name)
    found = solved(net, p)
    checked = pt.check(found.certificate(), net)
    assert checked.valid, checked.reason
    assert (checked.mode, checked.claim) == ("rational", "robust")
    assert checked.lower == pytest.approx(found.lower, rel=1e-9)
    assert checked.upper == found.upper
    fast = pt.check(found.certificate(), net, mode="interval")
    assert fast.valid, fast.reason
    assert (fast.mode, fast.lower, fast.upper) == ("interval", checked.lower, checked.upper)


@pytest.mark.parametrize("p", NORMS)
def test_the_real_digits(p: object, tmp_path: Path) -> None:
    model = str(data_path("digits", "digits_64_32_32_10.onnx"))
    net = pt.compile(model)
    with np.load(data_path("digits", "digits_64_32_32_10.npz")) as file:
        X, y = file["points"].astype(float), file["labels"].astype(int)
    for found in pt.minimal_perturbation(net, X, y, p, (0, 1)):  # type: ignore[union-attr]
        path = tmp_path / "proof.cert"
        found.certificate().save(path)
        assert path.stat().st_size < 200_000
        checked = pt.check(path, model)
        assert checked.valid, checked.reason
        assert checked.upper - checked.lower <= 1e-9
        assert checked.upper == found.upper


def test_proving_while_solving() -> None:
    net = network("dense", 3)
    X = np.random.default_rng(3).uniform(-1, 1, (4, 3))
    rows = pt.minimal_perturbation(net, X, p=2, box=(-2, 2), prove=True)
    assert {row.exactness for row in rows} == {"rational"}  # type: ignore[union-attr]
    assert all(row.exact for row in rows)  # type: ignore[union-attr]


def test_an_engine_that_inflates_a_bound_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from polytope.robustness import engines

    net = network("mixed", 5)
    x = np.random.default_rng(1).uniform(-1, 1, 3)
    honest = pt.minimal_perturbation(net, x, p=2, box=(-2, 2))
    assert isinstance(honest, pt.Perturbation)
    real = engines.branch_and_bound
    far = x + 1.5 * (honest.witness - x)

    def inflates(query, interval, *others):  # type: ignore[no-untyped-def]
        interval.upper, interval.witness = float(np.linalg.norm(far - x)) * (1 + 1e-12), far
        interval.prove(interval.upper)
        return real(query, interval, *others)

    monkeypatch.setattr(engines, "branch_and_bound", inflates)
    lying = pt.minimal_perturbation(
        net, x, p=2, box=(-2, 2), method="branch_and_bound", prove=True, time_limit=5
    )
    assert isinstance(lying, pt.Perturbation)
    assert lying.lower > honest.upper  # what the engine claims
    assert not lying.exact
    assert lying.exactness != "rational"


def test_an_engine_that_skips_a_piece_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from polytope.robustness import branch_and_bound

    net = network("mixed", 4)
    found = solved(net, 2, 1)
    skipped = 0
    real = branch_and_bound._children

    def skips(choices, room):  # type: ignore[no-untyped-def]
        return list(real(choices, room))[:1]

    monkeypatch.setattr(branch_and_bound, "_children", skips)
    for seed in range(20):
        x = np.random.default_rng(seed).uniform(-1, 1, 3)
        lying = pt.minimal_perturbation(
            net, x, p=2, box=(-2, 2), method="branch_and_bound", prove=True, time_limit=5
        )
        assert isinstance(lying, pt.Perturbation)
        monkeypatch.setattr(branch_and_bound, "_children", real)
        honest = pt.minimal_perturbation(net, x, p=2, box=(-2, 2))
        monkeypatch.setattr(branch_and_bound, "_children", skips)
        assert isinstance(honest, pt.Perturbation)
        if lying.lower > honest.upper:
            skipped += 1
            assert not lying.exact
        elif lying.exact:
            assert lying.upper == pytest.approx(honest.upper, rel=1e-8)
    assert found.exact
    assert skipped


def test_unreachable_is_proved_for_the_whole_box() -> None:
    torch.manual_seed(0)
    model = dense(2, 4, 2).double()
    with torch.no_grad():
        model[2].weight *= 1e-3  # type: ignore[index]
        model[2].bias[:] = torch.tensor([1.0, 0.0])  # type: ignore[index]
    net = pt.compile(model, (2,))
    for p in NORMS:
        found = pt.minimal_perturbation(net, np.zeros(2), p=p, box=(-1, 1), prove=True)
        assert isinstance(found, pt.Perturbation)
        assert found.status == "unreachable"
        assert found.exactness == "rational"
        assert pt.check(found.certificate(), net).lower == math.inf


def test_misclassified_points_have_a_witness_and_no_bound(small) -> None:  # type: ignore[no-untyped-def]
    net, found, _ = small
    other = (found.label + 1) % 3
    lost = pt.minimal_perturbation(net, found.query.x, other, 2, (-2, 2))
    checked = pt.check(lost.certificate(), net)  # type: ignore[union-attr]
    assert (checked.valid, checked.lower, checked.upper) == (True, 0.0, 0.0)


def mutated(certificate: Certificate, rng: np.random.Generator) -> Certificate:
    """A certificate after one random change."""
    header, arrays = dict(certificate.header), dict(certificate.arrays)
    kind = rng.integers(12)
    if kind == 0:
        radius = float.fromhex(str(header["radius"]))
        header["radius"] = float(radius * (1 + 10.0 ** rng.uniform(-8, 2))).hex()
    elif kind == 1:
        header["label"] = int(rng.integers(-1, 4))
    elif kind == 2:
        header["norm"] = str(rng.choice(["1", "2", "inf", "3"]))
    elif kind == 3:
        header["network"] = str(header["network"])[::-1]
    elif kind == 4:
        upper = float.fromhex(str(header["upper"]))
        header["upper"] = float(upper * (1 - 10.0 ** rng.uniform(-10, 0))).hex()
    elif kind == 5:
        key = rng.choice(list(header))
        header[key] = rng.choice(np.array([None, "nonsense", -1, 1e9, True], dtype=object))
    elif kind == 6:
        del arrays[rng.choice(list(arrays))]
    else:
        key = str(rng.choice(list(arrays)))
        array = arrays[key].copy()
        if array.size and kind < 10:
            at = rng.integers(array.size)
            value = array.flat[at]
            change = rng.integers(6)
            flips = [-value, 0, value + 1, value * (1 + rng.normal()), value - 1, value * 1e3]
            array.flat[at] = flips[change]
        elif array.size and kind == 10:
            array = np.delete(array.reshape(-1), rng.integers(array.size))
        else:
            array = array.astype(np.float32 if array.dtype == np.float64 else np.int64)
        arrays[key] = array
    return Certificate(header, arrays)


@pytest.mark.parametrize("mode", ["rational", "interval"])
def test_a_thousand_mutations(small, mode: str) -> None:  # type: ignore[no-untyped-def]
    """Every change is rejected, or leaves a claim that is true."""
    net, found, certificate = small
    rng = np.random.default_rng(0)
    accepted = 0
    for _ in range(1000):
        other = mutated(certificate, rng)
        checked = pt.check(other, net, mode)
        if not checked.valid:
            assert checked.reason
            assert checked.lower == 0
            continue
        accepted += 1
        same = all(
            np.array_equal(other.arrays[key], certificate.arrays[key])
            for key in ("x", "low", "high")
        )
        if same and other.header["norm"] == "2" and other.header["target"] is None:
            assert checked.lower <= found.upper
            assert other.header["label"] == found.label
        else:  # another claim: it has to hold, too
            point, label = other.arrays["x"], int(str(other.header["label"]))
            p = {"1": 1, "2": 2, "inf": np.inf}[str(other.header["norm"])]
            steps = rng.normal(size=(200, 3))
            steps *= checked.lower * 0.999 / np.linalg.norm(steps, p, axis=1, keepdims=True)
            near = np.clip(point + steps, other.arrays["low"], other.arrays["high"])
            assert (net.predict(near) == label).all()
    assert accepted < 500


def test_files_that_are_cut_off_or_changed(small, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    net, _, certificate = small
    content = certificate.to_bytes()
    rng = np.random.default_rng(1)
    path = tmp_path / "proof.cert"
    for _ in range(200):
        changed = bytearray(content)
        if rng.random() < 0.5:
            changed = changed[: rng.integers(len(changed))]
        else:
            for at in rng.integers(len(changed), size=3):
                changed[at] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(changed))
        checked = pt.check(path, net)
        assert checked.lower <= certificate.lower


@pytest.mark.filterwarnings("ignore:the scales gamma")
def test_the_exact_maps_are_the_network() -> None:
    for name in ("mixed", "convolutional"):
        net = network(name, 2)
        layers, outputs = exact_layers.layers_of(net.graph)
        x = np.random.default_rng(2).normal(size=net.input_size)
        found = exact_layers.evaluate(layers, outputs, x)
        ours = [Fraction(v) * found.scale for v in found.integers[:, 0]]
        theirs = exact_outputs(net.graph, x.reshape(net.input_shape))
        assert ours == theirs.to_fractions()


def test_products_without_flint(small, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    net, _, certificate = small
    with_flint = pt.check(certificate, net)
    monkeypatch.setattr(exact_layers, "FLINT", None)
    without = pt.check(certificate, net)
    for name in ("valid", "lower", "upper", "reason", "leaves", "mode"):
        assert getattr(without, name) == getattr(with_flint, name)


def test_the_command(small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    net, found, certificate = small
    proof, model, other = (tmp_path / name for name in ("proof.cert", "net.npz", "other.npz"))
    certificate.save(proof)
    net.save(model)
    network("mixed", 4).save(other)
    assert main(["check", str(proof), str(model)]) == 0
    out = capsys.readouterr().out
    assert "PROVED" in out
    assert repr(found.upper) in out
    assert main(["check", str(proof), str(other)]) == 1
    assert "REJECTED: the certificate is of another network" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "none.cert"), str(model)]) == 2
    assert "there is no file" in capsys.readouterr().err
    with zipfile.ZipFile(tmp_path / "odd.cert", "w") as file:
        file.writestr("header.json", json.dumps({"kind": "else"}))
    assert main(["check", str(tmp_path / "odd.cert"), str(model)]) == 1


def test_a_mode_that_does_not_exist(small) -> None:  # type: ignore[no-untyped-def]
    net, _, certificate = small
    with pytest.raises(InputError, match="mode: got 'fast', expected one of rational, interval"):
        pt.check(certificate, net, "fast")


def test_a_property_asked_of_a_proof_of_robustness(small) -> None:  # type: ignore[no-untyped-def]
    net, _, certificate = small
    checked = pt.check(certificate, net, property=Property(3, 3, (), "test"))
    assert checked.reason == "the certificate is not of a property"


def test_nothing_to_prove() -> None:
    net = network("dense", 3)
    found = pt.minimal_perturbation(net, np.zeros(3), p=2, box=(-2, 2), time_limit=0)
    with pytest.raises(InputError, match="nothing is proved"):
        found.certificate()  # type: ignore[union-attr]


def test_no_folder(small, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(FileProblem, match="no folder"):
        small[2].save(tmp_path / "missing" / "proof.cert")
