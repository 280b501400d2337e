"""Saved graphs: the round trip, and files that are damaged, foreign or hostile."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polytope.errors import FileProblem
from polytope.network.build import GraphBuilder
from polytope.network.ir import OPS, Affine, Conv, Graph, Smooth
from polytope.network.store import load_graph, save_graph
from polytope.network.windows import window_index
from tests.oracle.interpreter import run_graph

RNG = np.random.default_rng(8)


def every_operation() -> Graph:
    """A graph with all the operations there are, and one constant twice."""
    b = GraphBuilder()
    x = b.input((1, 6, 6))
    kernel = b.constant(RNG.normal(size=(2, 1, 3, 3)), "kernel")
    again = b.constant(b.constants["kernel"].copy(), "again")
    shift = b.constant(RNG.normal(size=2), "bias")
    left = b.conv(x, kernel, shift, (2, 2), (1, 1), (1, 1), name="conv")
    right = b.conv(x, again, None, (2, 2), (1, 1), (1, 1), name="twin")
    y = b.relu(b.sum([left, right], [1, -2]), "relu")
    up = b.constant(RNG.normal(size=(2, 1, 2, 2)), "up")
    y = b.conv(y, up, None, (2, 2), (0, 0), (1, 1), 1, True, (1, 1), "up")
    index, shape, count = window_index(y.shape, (3, 3), (2, 2), (1, 1), (1, 1))
    average = b.pool(y, index, count, shape, "average")
    y = b.concat([average, b.max(y, index, shape, "pool")], 1)
    y = b.gather(y, y.positions[:, ::-1], "turn")
    y = b.affine(y, b.constant(np.array(0.5)), b.constant(RNG.normal(size=(1, 4)), "shift"))
    y = b.clamp(b.smooth(y, "elu", (0.5,)), -0.2, 0.3)
    weight = b.constant(RNG.normal(size=(3, y.size)), "weight")
    return b.finish(b.linear(b.reshape(y, (1, y.size)), weight, None, "linear"))


GRAPH = every_operation()


def test_the_graph_of_these_tests_has_every_operation() -> None:
    assert {type(node.op) for node in GRAPH.nodes} == set(OPS.values())


def test_round_trip(tmp_path: Path) -> None:
    save_graph(GRAPH, tmp_path / "net.npz")
    loaded = load_graph(str(tmp_path / "net.npz"))
    assert loaded.hash == GRAPH.hash
    assert [node.name for node in loaded.nodes] == [node.name for node in GRAPH.nodes]
    assert loaded.layers == GRAPH.layers
    for x in RNG.normal(size=(3, 1, 6, 6)):
        assert np.array_equal(run_graph(loaded, x), run_graph(GRAPH, x))
    assert not any(array.flags.writeable for array in loaded.constants.values())
    save_graph(loaded, tmp_path / "again.npz")
    assert load_graph(tmp_path / "again.npz").hash == GRAPH.hash


def test_equal_constants_are_stored_once(tmp_path: Path) -> None:
    save_graph(GRAPH, tmp_path / "net.npz")
    with np.load(tmp_path / "net.npz", allow_pickle=False) as archive:
        kernels = [n for n in archive.files if archive[n].shape == (2, 1, 3, 3)]
        names = {f"c{i}" for i in range(len(archive.files) - 1)}
        assert set(archive.files) == {"header", *names}
    assert len(kernels) == 1


def test_saving_replaces_the_file_in_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.npz"
    save_graph(GRAPH, path)
    before = path.read_bytes()

    def full(stream: io.BufferedWriter, **_: object) -> None:
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(FileProblem, match=r"cannot be saved .*No space left"):
        save_graph(GRAPH, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.npz"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match="cannot be saved"):
        save_graph(GRAPH, tmp_path / "nowhere" / "net.npz")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileProblem, match="cannot be saved"):
        save_graph(GRAPH, tmp_path / "folder")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


# Damaged and foreign files -----------------------------------------------------------------


def test_files_of_other_kinds(tmp_path: Path) -> None:
    path = tmp_path / "net.npz"
    with pytest.raises(FileProblem, match="there is no file"):
        load_graph(path)
    with pytest.raises(FileProblem, match="cannot be read"):
        load_graph(tmp_path)
    for content in (b"", b"no archive", RNG.bytes(300)):
        path.write_bytes(content)
        with pytest.raises(FileProblem, match="not a saved polytope network, or is damaged"):
            load_graph(path)
    np.savez(path, weights=np.ones(3))
    with pytest.raises(FileProblem, match="no header"):
        load_graph(path)
    np.savez_compressed(path, header=np.zeros(10, np.uint8))
    with pytest.raises(FileProblem, match="not a saved polytope network"):
        load_graph(path)
    np.savez(path, header=np.array([{"a": 1}], dtype=object))
    with pytest.raises(FileProblem, match="not a saved polytope network"):
        load_graph(path)
    np.savez(path, header=np.frombuffer(b"[" * 100_000, np.uint8))
    with pytest.raises(FileProblem, match="header is damaged"):
        load_graph(path)


def test_every_damaged_byte_is_noticed_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "net.npz"
    save_graph(GRAPH, path)
    good = path.read_bytes()
    for position in range(0, len(good), 61):
        bad = bytearray(good)
        bad[position] ^= 0x41
        path.write_bytes(bad)
        try:
            assert load_graph(path).hash == GRAPH.hash
        except FileProblem:
            continue
    for length in range(0, len(good), 199):
        path.write_bytes(good[:length])
        with pytest.raises(FileProblem):
            load_graph(path)


def test_a_claimed_size_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "net.npz"
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "<f8", "fortran_order": False, "shape": (1 << 50,)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.npy", head.getvalue())
    with pytest.raises(FileProblem, match="not a saved polytope network, or is damaged"):
        load_graph(path)


def rewritten(tmp_path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Path:
    """The saved graph with its header and arrays changed."""
    path = tmp_path / "net.npz"
    save_graph(GRAPH, path)
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    header = json.loads(arrays.pop("header").tobytes())
    change(header, arrays)
    text = json.dumps(header).encode()
    np.savez(path, header=np.frombuffer(text, np.uint8), **arrays)
    return path


def node_of(header: dict[str, Any], op: str) -> list[Any]:
    return next(node for node in header["nodes"] if node[0]["op"] == op)


def table(header: dict[str, Any], arrays: dict[str, Any], op: str, name: str) -> np.ndarray:
    """A constant of the first node of an operation, for that node alone."""
    records = (node[0] for node in header["nodes"] if node[0]["op"] == op)
    record = next(record for record in records if record[name] is not None)
    own = np.array(arrays[record[name]])
    arrays["own"], record[name] = own, "own"
    return own


def changed(op: str, place: int, value: Any) -> Callable[[Any, Any], None]:
    def change(header: Any, _: Any) -> None:
        node_of(header, op)[place] = value

    return change


def field(op: str, name: str, value: Any) -> Callable[[Any, Any], None]:
    def change(header: Any, _: Any) -> None:
        node_of(header, op)[0][name] = value

    return change


def entry(op: str, name: str, index: Any, value: Any) -> Callable[[Any, Any], None]:
    def change(header: Any, arrays: Any) -> None:
        table(header, arrays, op, name)[index] = value

    return change


def replaced(op: str, name: str, array: np.ndarray) -> Callable[[Any, Any], None]:
    def change(header: Any, arrays: Any) -> None:
        table(header, arrays, op, name)
        arrays["own"] = array

    return change


def top(name: str, value: Any) -> Callable[[Any, Any], None]:
    def change(header: Any, _: Any) -> None:
        header[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (top("format", "other"), "another format"),
        (top("version", 2), "version 2, and this polytope reads up to 1"),
        (top("version", "1"), "has the version '1'"),
        (top("hash", "0" * 64), "does not give the hash"),
        (top("nodes", {}), "no list of nodes"),
        (top("nodes", []), "first node is not the input"),
        (entry("Linear", "weight", (0, 0), 1e-3), "does not give the hash"),
        (changed("Linear", 1, [-1]), "do not stand before it"),
        (changed("Linear", 1, [10**30]), "do not stand before it"),
        (changed("Linear", 1, [0, 1]), "reads 2 nodes, not 1"),
        (changed("Linear", 1, [True]), "inputs, a shape or a name of a wrong type"),
        (changed("Linear", 1, 3), "inputs, a shape or a name of a wrong type"),
        (changed("Linear", 2, [4]), r"Linear\) has shape \(4,\)"),
        (changed("Linear", 2, [-3]), "negative shape"),
        (changed("Input", 2, [1] * 70), "shape too large"),
        (changed("Input", 2, [1 << 30, 1 << 30]), "shape too large"),
        (field("Linear", "op", "Exec"), "unknown operation"),
        (changed("Sum", 0, ["Sum"]), "unknown operation"),
        (changed("Sum", 0, {"op": "Input"}), "second input"),
        (field("Linear", "weight", "missing"), "constant 'missing' that is not there"),
        (field("Linear", "weight", None), "Linear.* fields of a wrong type"),
        (field("Linear", "extra", 1), "Linear.* fields of a wrong type"),
        (field("Conv", "stride", [1, 1.5]), "Conv.* fields of a wrong type"),
        (field("Conv", "stride", [0, 1]), "Conv.* out of range"),
        (field("Conv", "stride", [2]), "Conv.* out of range"),
        (field("Conv", "padding", [1 << 60, 1]), "Conv.* out of range"),
        (field("Conv", "groups", 3), "Conv.* filters"),
        (field("Conv", "dilation", [9, 9]), "Conv.* has shape"),
        (field("Conv", "transposed", 1), "Conv.* fields of a wrong type"),
        (field("Sum", "coefficients", [1]), "one coefficient per input"),
        (field("Sum", "coefficients", [1, 10**400]), "coefficient too large"),
        (field("Smooth", "kind", "system"), "unknown function 'system'"),
        (field("Smooth", "parameters", [1.0, 2.0, 3.0]), "unknown function 'elu'"),
        (field("Smooth", "parameters", [float("nan")]), "unknown function 'elu'"),
        (entry("Max", "index", (0, 0), 10**9), "indices outside its source"),
        (entry("Max", "index", (0, 0), -2), "indices outside its source"),
        (entry("Max", "index", 0, -1), "window without candidates"),
        (entry("Pool", "divisor", 0, 0), "divisor below 1"),
        (entry("Gather", "index", 0, -7), "indices outside its source"),
        (entry("Linear", "weight", (0, 0), np.nan), "NaN or infinity"),
        (entry("Piecewise", "slopes", 0, np.inf), "NaN or infinity"),
        (entry("Piecewise", "intercepts", 0, 1.0), "pieces that do not meet"),
        (replaced("Linear", "weight", np.ones((3, 2))), r"weight \(3, 2\)"),
        (replaced("Linear", "weight", np.ones((3, 2), np.int64)), "dtype int64"),
        (replaced("Linear", "weight", np.ones((3, 2), np.float32)), "not of float64 or int64"),
        (replaced("Linear", "weight", np.array(["a"])), "not of float64 or int64"),
        (replaced("Max", "index", np.zeros((3, 2), np.int64)), "3 rows of indices"),
        (replaced("Affine", "shift", np.ones((7, 7))), "do not fit"),
        (replaced("Conv", "bias", np.ones(5)), "bias of shape"),
        (replaced("Piecewise", "breakpoints", np.array([1.0, 0.0])), "breakpoints for"),
        (replaced("Piecewise", "slopes", np.array(1.0)), "tables without an axis"),
        (replaced("Pool", "divisor", np.ones(2, np.int64)), "2 divisors"),
    ],
)
def test_a_changed_file_is_refused_with_the_place(
    change: Callable[[Any, Any], None], message: str, tmp_path: Path
) -> None:
    with pytest.raises(FileProblem, match=message) as caught:
        load_graph(rewritten(tmp_path, change))
    assert "net.npz" in str(caught.value)


def test_an_array_that_is_no_array(tmp_path: Path) -> None:
    path = tmp_path / "net.npz"
    save_graph(GRAPH, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("c99", b"not an array")
    with pytest.raises(FileProblem, match="constant 'c99' is not of"):
        load_graph(path)


def test_the_hash_forgets_names_only() -> None:
    renamed = tuple(dataclasses.replace(node, name=f"n{i}") for i, node in enumerate(GRAPH.nodes))
    assert Graph(renamed, GRAPH.constants).hash == GRAPH.hash
    for number, node in enumerate(GRAPH.nodes):
        if isinstance(node.op, Conv) and not node.op.transposed:
            op: Any = dataclasses.replace(node.op, stride=(2, 1))
        elif isinstance(node.op, Smooth):
            op = dataclasses.replace(node.op, parameters=(0.25,))
        elif isinstance(node.op, Affine):
            op = dataclasses.replace(node.op, scale=None)
        else:
            continue
        nodes = list(GRAPH.nodes)
        nodes[number] = dataclasses.replace(node, op=op)
        assert Graph(tuple(nodes), GRAPH.constants).hash != GRAPH.hash
