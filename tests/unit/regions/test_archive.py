"""Saved graphs: the same when read, nothing lost when writing fails, bad files refused."""

import errno
import json
import xml.etree.ElementTree as ET

import networkx as nx
import numpy as np
import pytest

import polytope as pt
from polytope.errors import FileProblem
from polytope.graph import RegionGraph
from polytope.network.store import HEADER
from polytope.regions.domain import as_domain
from tests.complexes import walked
from tests.nets import dense

NAMES = ("pieces", "points", "edges", "edge_points", "edge_rows", "complete", "exact_verdicts")


@pytest.fixture(scope="module")
def graph():
    net = dense(2, 6, 4, 2, seed=3)
    domain = as_domain(net, pt.Ball([0.1, 0], 1.25))
    state = {"frontier": np.arange(5), "tried": np.eye(2, dtype=bool)}
    return RegionGraph(net, domain, walked(net, domain), state)


@pytest.fixture
def file(graph, tmp_path):
    path = tmp_path / "g.npz"
    graph.save(path)
    return path


def arrays_of(path):
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def test_a_saved_graph_is_the_same(graph, file):
    again = RegionGraph.load(file, graph.net)
    for name in NAMES:
        np.testing.assert_array_equal(getattr(again.found, name), getattr(graph.found, name))
        assert type(getattr(again.found, name)) is type(getattr(graph.found, name))
    assert again.found.pieces.dtype == graph.found.pieces.dtype
    assert set(again.state) == {"frontier", "tried"}
    np.testing.assert_array_equal(again.state["frontier"], np.arange(5))
    np.testing.assert_array_equal(again.state["tried"], np.eye(2, dtype=bool))
    assert again.domain.ball[1] == 1.25
    np.testing.assert_array_equal(again.domain.ball[0], [0.1, 0])
    np.testing.assert_array_equal(again.domain.A, graph.domain.A)
    assert repr(again) == repr(graph)


def test_domains_of_every_kind_come_back(tmp_path):
    net = dense(3, 4, 2)
    points = np.random.default_rng(0).normal(size=(3, 3))
    domains = [(-1, 1), ([0, 0.5, -1], [1, 0.5, np.inf]), None, pt.Slice(points, margin=0.1)]
    for domain in domains:
        where = as_domain(net, domain)
        k = where.dimension
        one = RegionGraph(net, where, _single(net, k))
        one.save(tmp_path / "d")
        again = RegionGraph.load(tmp_path / "d", net).domain
        assert again.size == 3
        for name in ("origin", "basis", "A", "b"):
            expected, got = getattr(where, name), getattr(again, name)
            assert (expected is None) == (got is None)
            if expected is not None:
                np.testing.assert_array_equal(got, expected)


def _single(net, k):
    from polytope.regions.complex import Complex

    return Complex(
        np.zeros((1, net.units), np.uint8), np.zeros((1, k)), np.zeros((0, 2), np.int64),
        np.zeros((0, k)), np.zeros(0, np.int64), complete=True, exact_verdicts=7,
    )  # fmt: skip


def test_another_network_is_refused(file):
    with pytest.raises(FileProblem, match="regions of another network"):
        RegionGraph.load(file, dense(2, 6, 4, 2, seed=4))


def test_no_file_a_folder_and_foreign_files(graph, tmp_path):
    with pytest.raises(FileProblem, match="there is no file"):
        RegionGraph.load(tmp_path / "none.npz", graph.net)
    with pytest.raises(FileProblem, match="cannot be read"):
        RegionGraph.load(tmp_path, graph.net)
    for content in (b"", b"PK\x03\x04", b"<graphml/>"):
        (tmp_path / "x.npz").write_bytes(content)
        with pytest.raises(FileProblem, match="is not a saved region graph"):
            RegionGraph.load(tmp_path / "x.npz", graph.net)
    graph.net.save(tmp_path / "net.npz")
    with pytest.raises(FileProblem, match="of another format"):
        RegionGraph.load(tmp_path / "net.npz", graph.net)
    np.savez(tmp_path / "x.npz", pieces=np.zeros(3))
    with pytest.raises(FileProblem, match="has no header"):
        RegionGraph.load(tmp_path / "x.npz", graph.net)


def test_every_truncation_and_flipped_byte_is_noticed_or_harmless(graph, file):
    content = file.read_bytes()
    expected = arrays_of(file)
    rng = np.random.default_rng(0)
    broken = [content[:cut] for cut in rng.integers(0, len(content), 25)]
    for place in rng.integers(0, len(content), 150):
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        broken.append(bytes(changed))
    for bad in broken:
        file.write_bytes(bad)
        try:
            RegionGraph.load(file, graph.net)
        except FileProblem:
            continue
        again = arrays_of(file)  # a byte that says nothing, such as a date
        assert set(again) == set(expected)
        assert all((again[name] == expected[name]).all() for name in expected)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("pieces", lambda a: a[:, 1:], "'pieces' is uint8 of shape"),
        ("pieces", lambda a: a + np.uint8(1), "a piece that its unit does not have"),
        ("pieces", lambda a: a.astype(float), "'pieces' is float64"),
        ("points", lambda a: a[1:], "'points' is float64 of shape"),
        ("points", lambda a: a * np.nan, "'points' holds NaN"),
        ("edges", lambda a: a + 1000, "points at regions that are not in it"),
        ("edges", lambda a: a - 1, "points at regions that are not in it"),
        ("edges", lambda a: a[:, ::-1], "is not of pairs i < j"),
        ("edge_points", lambda a: a[1:], "'edge_points' is"),
        ("edge_rows", lambda _: None, "'edge_rows' is missing"),
        ("domain_A", lambda a: a[:, :1], "fewer coordinates than inputs"),
        ("domain_b", lambda a: a[1:], "'domain_b' is"),
        ("ball_center", lambda a: a[:1], "'ball_center' is"),
    ],
)
def test_arrays_that_do_not_fit(graph, file, name, change, message):
    arrays = arrays_of(file)
    new = change(arrays.pop(name))
    if new is not None:
        arrays[name] = new
    np.savez(file, **arrays)
    with pytest.raises(FileProblem, match=message):
        RegionGraph.load(file, graph.net)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "pip install --upgrade"),
        ({"version": "a"}, "has the version 'a'"),
        ({"format": "other"}, "of another format"),
        ({"complete": None}, "does not say whether"),
        ({"exact_verdicts": -1}, "does not say whether"),
        ({"size": 3}, "another number of inputs"),
        ({"network": 3}, "another network"),
    ],
)
def test_headers_that_do_not_fit(graph, file, change, message):
    arrays = arrays_of(file)
    header = json.loads(arrays[HEADER].tobytes()) | change
    arrays[HEADER] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(file, **arrays)
    with pytest.raises(FileProblem, match=message):
        RegionGraph.load(file, graph.net)


def test_a_pickle_is_never_run(graph, file):
    arrays = arrays_of(file) | {"points": np.array([{}, print], dtype=object)}
    np.savez(file, **arrays)
    with pytest.raises(FileProblem, match="is not a saved region graph"):
        RegionGraph.load(file, graph.net)


def test_a_full_disk_leaves_the_old_file(graph, file, monkeypatch):
    before = file.read_bytes()

    def full(stream, **arrays):
        stream.write(b"half" * len(arrays))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(FileProblem, match="No space left on device"):
        graph.save(file)
    assert file.read_bytes() == before
    assert [entry.name for entry in file.parent.iterdir()] == ["g.npz"]


def test_places_that_cannot_be_written(graph, tmp_path):
    for write in (graph.save, graph.to_graphml):
        with pytest.raises(FileProblem, match="cannot write"):
            write(tmp_path / "none" / "g.npz")
        with pytest.raises(FileProblem, match="cannot write"):
            write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_graphml_says_the_same(graph, tmp_path):
    graph.to_graphml(tmp_path / "g.graphml")
    ET.parse(tmp_path / "g.graphml")
    read = nx.read_graphml(tmp_path / "g.graphml", node_type=int)
    assert read.graph["network"] == graph.net.hash
    assert read.graph["complete"] is False
    assert {tuple(sorted(e)) for e in read.edges} == {tuple(e) for e in graph.edges.tolist()}
    for node, values in graph.graph.nodes(data=True):
        assert read.nodes[node]["pattern"] == values["pattern"]
        assert tuple(json.loads(read.nodes[node]["point"])) == values["point"]
    for i, j, values in graph.graph.edges(data=True):
        assert [tuple(u) for u in json.loads(read[i][j]["units"])] == values["units"]
