"""``polytope regions``: what it finds, prints, saves and draws, and how it answers mistakes."""

import json
import os
import signal
import subprocess
import sys
import time

import networkx as nx
import numpy as np
import pandas as pd
import pytest

import polytope as pt
from polytope import regions_command, tables
from polytope.cli import main
from polytope.graph import RegionGraph
from tests.nets import dense

PNG = b"\x89PNG"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with networks of two, three and five inputs, and points; it is the current one."""
    monkeypatch.chdir(tmp_path)
    dense(2, 8, 8, 3, seed=3).save("net.npz")
    dense(3, 6, 2, seed=4).save("three.npz")
    dense(5, 8, 8, 4, seed=5).save("five.npz")
    rng = np.random.default_rng(0)
    np.savez("X.npz", X=np.array([[0.0, 0], [0.5, 0.1], [0.2, 0.9], [5, 5]]), y=[0, 1, 2, 0])
    np.savez("line.npz", X=np.array([[0.0, 0], [1, 1], [3, 3]]))
    np.savez("five_points.npz", X=rng.normal(size=(6, 5)))
    np.save("pixels.npy", rng.integers(0, 256, (4, 5, 1), dtype=np.uint8))
    return tmp_path


def regions(*words):
    return main(["regions", *(str(word) for word in words)])


def mistake(capsys):
    """The one line on stderr, with nothing on stdout."""
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("polytope: error: ")
    return lines[0]


def patterns(graph):
    return {graph.pattern(i) for i in range(len(graph))}


def loaded(path, model="net.npz"):
    return RegionGraph.load(path, pt.compile(model))


def table(out):
    """The lines of the summary, by their first words."""
    return {line[:15].strip(): line[15:].split() for line in out.splitlines() if line[:1].strip()}


def test_it_prints_and_saves_what_the_function_returns(here, capsys):
    outs = ["g.npz", "g.graphml", "g.csv", "g.json", "g.parquet"]
    words = [word for name in outs for word in ("--out", name)]
    assert regions("net.npz", "--box", -1, 1, *words, "--plot", "g.png") == 0
    direct = pt.region_graph(pt.compile("net.npz"), (-1, 1))
    out = capsys.readouterr().out
    shown = table(out)
    assert shown["regions"][0] == str(len(direct))
    assert shown["shared facets"][0] == str(len(direct.edges))
    assert shown["linear regions"][0] == str(direct.linear_regions().max() + 1)
    assert "complete: every region of the domain" in out
    assert [line.split()[-1] for line in out.splitlines()[-6:]] == [*outs, "g.png"]
    assert (here / "g.png").read_bytes().startswith(PNG)
    again = loaded("g.npz")
    assert again.complete
    assert patterns(again) == patterns(direct)
    graph = nx.read_graphml("g.graphml")
    assert (len(graph), graph.number_of_edges()) == (len(direct), len(direct.edges))
    sizes = [
        len(pd.read_csv("g.csv")), len(json.loads((here / "g.json").read_text())),
        len(pd.read_parquet("g.parquet")),
    ]  # fmt: skip
    assert sizes == [len(direct)] * 3
    left = {"net.npz", "three.npz", "five.npz", "X.npz", "line.npz", "five_points.npz"}
    assert set(os.listdir(here)) == left | {"pixels.npy", "g.png", *outs}


@pytest.mark.usefixtures("here")
def test_without_a_domain_it_is_the_whole_space(capsys):
    assert regions("net.npz", "--out", "g.npz") == 0
    whole = pt.region_graph(pt.compile("net.npz"))
    assert patterns(loaded("g.npz")) == patterns(whole)
    assert len(whole) > len(pt.region_graph(pt.compile("net.npz"), (-1, 1)))
    assert regions("net.npz", "--box", "-inf", "inf", "--out", "h.npz") == 0
    assert patterns(loaded("h.npz")) == patterns(whole)
    assert regions("net.npz", "--box", "-1e-3", "1e-3", "--out", "i.npz") == 0
    small = pt.region_graph(pt.compile("net.npz"), (-1e-3, 1e-3))
    assert patterns(loaded("i.npz")) == patterns(small)
    assert "complete" in capsys.readouterr().out


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("words", "domain"),
    [
        ("--slice P:0,1,2 --box -2 2", lambda X: pt.Slice(X[:3], (-2, 2))),
        ("--slice P:0,1,2 --margin 0.3", lambda X: pt.Slice(X[:3], None, 0.3)),
        ("--slice P:2,-1", lambda X: pt.Slice(X[[2, 5]])),
        ("--slice P:0,1,2 --margin 0.3 --scale 2", lambda X: pt.Slice(X[:3] / 2, None, 0.3)),
        ("--ball P:4 0.4", lambda X: pt.Ball(X[4], 0.4)),
        ("--ball P:4 0.4 --norm inf", lambda X: pt.Ball(X[4], 0.4, np.inf)),
        ("--ball P:4 0.4 --norm 1", lambda X: pt.Ball(X[4], 0.4, 1)),
    ],
)
def test_domains(words, domain):
    X = np.load("five_points.npz")["X"]
    given = words.replace("P:", "five_points.npz:").split()
    assert regions("five.npz", *given, "--out", "g.npz") == 0
    direct = pt.region_graph(pt.compile("five.npz"), domain(X))
    assert len(direct) > 3
    assert patterns(loaded("g.npz", "five.npz")) == patterns(direct)


def test_images_are_flattened_and_scaled(here, capsys):
    words = ["five.npz", "--slice", "pixels.npy:0,1,2", "--box", 0, 1]
    assert regions(*words) == 2
    assert "--scale 255" in mistake(capsys)
    assert regions(*words, "--scale", 255, "--out", "g.npz", "--plot", "g.svg") == 0
    X = np.load("pixels.npy").reshape(4, 5) / 255
    direct = pt.region_graph(pt.compile("five.npz"), pt.Slice(X[:3], (0, 1)))
    assert patterns(loaded("g.npz", "five.npz")) == patterns(direct)
    assert b"</svg>" in (here / "g.svg").read_bytes()


@pytest.mark.usefixtures("here")
def test_the_picture_marks_the_points_of_the_slice(monkeypatch):
    seen = {}

    def drawn(graph, points, **more):
        seen.update(more, points=points, graph=graph)
        return pt.plot_regions(graph, points, **more)

    monkeypatch.setattr(regions_command, "plot_regions", drawn)
    assert regions("net.npz", "--slice", "X.npz:2,0,1", "--box", 0, 1, "--plot", "g.png") == 0
    np.testing.assert_array_equal(seen["points"], [[0.2, 0.9], [0, 0], [0.5, 0.1]])
    np.testing.assert_array_equal(seen["labels"], [2, 0, 1])
    assert "net.npz" in seen["title"]


def test_max_regions_stops_and_resume_goes_on_to_the_same_graph(here, capsys):
    words = ["net.npz", "--box", -1, 1]
    whole = patterns(pt.region_graph(pt.compile("net.npz"), (-1, 1)))
    assert regions(*words, "--max-regions", 5, "--save", "s.npz", "--plot", "p.png") == 0
    out, err = capsys.readouterr()
    assert "partial: stopped at --max-regions" in out
    assert "linear regions" not in out
    assert "go on with: polytope regions net.npz --resume s.npz" in err
    part = loaded("s.npz")
    assert (len(part), part.complete) == (5, False)
    assert regions("net.npz", "--resume", "s.npz", "--max-regions", 9) == 0
    assert "5 were found before" in capsys.readouterr().out
    part = loaded("s.npz")
    assert (len(part), part.complete) == (9, False)
    assert patterns(part) < whole
    assert regions("net.npz", "--resume", "s.npz", "--plot", "q.png", "--save", "t.npz") == 0
    out, err = capsys.readouterr()
    assert "complete: every region" in out
    assert "go on" not in err
    assert not loaded("s.npz").complete
    assert loaded("t.npz").complete
    assert patterns(loaded("t.npz")) == whole
    assert (here / "p.png").read_bytes() != (here / "q.png").read_bytes()
    assert regions("net.npz", "--resume", "t.npz") == 0
    assert "all were found before" in capsys.readouterr().out


@pytest.mark.usefixtures("here")
def test_a_partial_graph_of_out_can_be_resumed_too(capsys):
    assert regions("net.npz", "--box", -1, 1, "--max-regions", 5, "--out", "my graph.npz") == 0
    assert "--resume 'my graph.npz'" in capsys.readouterr().err
    assert regions("net.npz", "--resume", "my graph.npz") == 0
    assert loaded("my graph.npz").complete


@pytest.mark.usefixtures("here")
def test_nothing_kept_is_said(capsys):
    assert regions("net.npz", "--box", -1, 1, "--max-regions", 5, "--out", "g.csv") == 0
    assert "--save FILE.npz" in capsys.readouterr().err


@pytest.mark.usefixtures("here")
def test_a_time_limit_may_leave_nothing_found_yet(capsys):
    outs = ["s.npz", "g.csv", "g.graphml"]
    words = [word for name in outs for word in ("--out", name)]
    limit = ["--time-limit", 1e-6, "--plot", "g.png"]
    assert regions("net.npz", "--box", -1, 1, "--start", "X.npz:1", *limit, *words) == 0
    out, err = capsys.readouterr()
    assert "stopped at --time-limit" in out
    assert table(out)["regions"][0] == "0"
    assert "go on with" in err
    assert len(pd.read_csv("g.csv")) == len(nx.read_graphml("g.graphml")) == 0
    assert regions("net.npz", "--resume", "s.npz", "--save", "t.npz") == 0
    whole = pt.region_graph(pt.compile("net.npz"), (-1, 1))
    assert patterns(loaded("t.npz")) == patterns(whole)


@pytest.mark.usefixtures("here")
def test_start_order_and_workers():
    words = ["net.npz", "--box", -1, 1, "--start", "X.npz:2", "--max-regions", 6, "--workers", 1]
    assert regions(*words, "--order", "nearest", "--out", "near.npz") == 0
    assert regions(*words, "--out", "broad.npz") == 0
    net = pt.compile("net.npz")
    start = np.array([0.2, 0.9])
    for name, order in (("near.npz", "nearest"), ("broad.npz", "breadth")):
        found = loaded(name)
        direct = pt.region_graph(net, (-1, 1), 6, start, order=order)
        assert net.region(start).pattern in patterns(found)
        assert patterns(found) == patterns(direct)
        assert len(found) == 6
    assert patterns(loaded("near.npz")) != patterns(loaded("broad.npz"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "MODEL"),
        ("net.npz --box 1 -1", "swap them"),
        ("net.npz --box 0.5 0.5", "one point"),
        ("net.npz --box nan 1", "NaN"),
        ("net.npz --box 0", "--box"),
        ("net.npz --box a b", "'a'"),
        ("net.npz --slice line.npz:0,1,2", "one line"),
        ("net.npz --slice X.npz:0,0", "coincide"),
        ("net.npz --slice X.npz:0", "two for a line"),
        ("net.npz --slice X.npz:0,1,4", "no row 4"),
        ("net.npz --slice X.npz:0,1,-5", "no row -5"),
        ("net.npz --slice X.npz", "points.npz:0,1,2"),
        ("net.npz --slice X.npz:0:3", "points.npz:0,1,2"),
        ("net.npz --slice X.npz:a", "points.npz:0,1,2"),
        ("net.npz --slice nope.npz:0,1", "nope.npz"),
        ("net.npz --slice five_points.npz:0,1,2", "has 2 inputs"),
        ("five.npz --slice X.npz:0,1,2", "has 5 inputs"),
        ("net.npz --slice X.npz:0,1 --box 8 9", "the slice meets its box"),
        ("net.npz --slice X.npz:0,1 --margin -1", "at least 0"),
        ("net.npz --slice X.npz:0,1 --margin nan", "at least 0"),
        ("net.npz --margin 0.1", "--slice"),
        ("net.npz --scale 255", "--slice"),
        ("net.npz --norm 2", "--ball"),
        ("net.npz --ball X.npz:0 -3", "above 0"),
        ("net.npz --ball X.npz 3", "points.npz:0,1,2"),
        ("net.npz --ball X.npz:0,1 3", "2 rows"),
        ("net.npz --ball five_points.npz:0 3", "has 2 inputs"),
        ("net.npz --ball X.npz:0 1 --norm 3", "p = 1, 2 or inf"),
        ("net.npz --ball X.npz:0 1 --box 0 1", "--ball and --box"),
        ("net.npz --box -1 1 --start X.npz:3", "outside the domain"),
        ("net.npz --box -1 1 --start X.npz:0,1", "2 rows"),
        ("net.npz --box -1 1 --start five_points.npz:0", "has 2 inputs"),
        ("net.npz --order nearest", "--start"),
        ("net.npz --order depth", "'depth'"),
        ("net.npz --max-regions 0", "at least 1"),
        ("net.npz --time-limit 0", "above 0"),
        ("net.npz --time-limit nan", "above 0"),
        ("net.npz --workers 0", "at least 1"),
        ("net.npz --input-shape 3", "input_shape"),
        ("nope.onnx --box 0 1", "nope.onnx"),
        ("X.npz --box 0 1", "not a usable polytope network"),
        ("net.npz --out nope/g.npz", "no folder"),
        ("net.npz --out .", ".graphml"),
        ("net.npz --out folder.npz", "it is a folder"),
        ("net.npz --out g.xlsx", ".graphml"),
        ("net.npz --save g.csv", "--save"),
        ("net.npz --plot g.bmp", ".svg"),
        ("net.npz --out net.npz", "the model"),
        ("net.npz --slice X.npz:0,1 --save X.npz", "data"),
        ("net.npz --ball X.npz:0 1 --out X.npz", "data"),
        ("net.npz --out g.npz --save g.npz", "twice"),
        ("net.npz --save saved.npz", "--resume saved.npz"),
        ("three.npz --box -1 1 --plot g.png", "this one has 3"),
        ("net.npz --slice X.npz:0,1 --margin 1 --plot g.png", "this one has 1"),
        ("net.npz --plot g.png", "--box LOW HIGH"),
        ("net.npz --slice X.npz:0,1,2 --plot g.png", "--margin"),
        ("net.npz --resume nope.npz", "no file 'nope.npz'"),
        ("net.npz --resume X.npz", "saved by something else"),
        ("net.npz --resume net.npz", "another format"),
        ("net.npz --resume junk.npz", "damaged"),
        ("net.npz --resume half.npz", "damaged"),
        ("net.npz --resume folder.npz", "cannot be read"),
        ("three.npz --resume saved.npz", "another network"),
        ("net.npz --resume saved.npz --box 0 1", "--resume and --box"),
        ("net.npz --resume saved.npz --start X.npz:0", "--resume and --start"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(here, capsys, words, says):
    pt.region_graph(pt.compile("net.npz"), (-1, 1), 5).save("saved.npz")
    saved = (here / "saved.npz").read_bytes()
    (here / "half.npz").write_bytes(saved[: len(saved) // 2])
    (here / "junk.npz").write_bytes(b"junk" * 99)
    (here / "folder.npz").mkdir()
    before = {path.name: path.read_bytes() for path in here.iterdir() if path.is_file()}
    assert regions(*words.split()) == 2
    assert says in mistake(capsys)
    after = {path.name: path.read_bytes() for path in here.iterdir() if path.is_file()}
    assert after == before


def test_any_damaged_byte_of_a_saved_search_is_told_or_harmless(here, capsys):
    pt.region_graph(pt.compile("net.npz"), (-1, 1), 5).save("saved.npz")
    whole = patterns(pt.region_graph(pt.compile("net.npz"), (-1, 1)))
    saved = bytearray((here / "saved.npz").read_bytes())
    told = 0
    for at in np.random.default_rng(0).integers(0, len(saved), 40).tolist():
        broken = bytearray(saved)
        broken[at] ^= 0xFF
        (here / "broken.npz").write_bytes(broken)
        code = regions("net.npz", "--resume", "broken.npz")
        if code == 0:
            assert patterns(loaded("broken.npz")) == whole
            capsys.readouterr()
        else:
            assert code == 2
            assert "broken.npz" in mistake(capsys)
            told += 1
    assert told > 20


@pytest.mark.usefixtures("here")
def test_a_full_disk_loses_nothing_that_can_be_kept(capsys, monkeypatch):
    write = tables.os.replace

    def full(source, target):
        if str(target).endswith((".npz", ".png")):
            raise OSError(28, "No space left on device")
        write(source, target)

    monkeypatch.setattr(tables.os, "replace", full)
    outs = ["--save", "s.npz", "--out", "g.csv", "--out", "g.npz", "--plot", "g.png"]
    assert regions("net.npz", "--box", -1, 1, *outs) == 2
    out, err = capsys.readouterr()
    count = len(pt.region_graph(pt.compile("net.npz"), (-1, 1)))
    assert table(out)["regions"][0] == str(count)
    assert len(pd.read_csv("g.csv")) == count
    told = [line for line in err.splitlines() if line.startswith("polytope: error:")]
    assert [line.split("'")[1] for line in told] == ["g.npz", "s.npz", "g.png"]
    assert all("No space left" in line for line in told)
    assert "Traceback" not in err


def test_a_full_disk_leaves_the_old_search_and_a_way_on(here, capsys, monkeypatch):
    words = ["net.npz", "--box", -1, 1, "--max-regions", 5]
    assert regions(*words, "--save", "s.npz") == 0
    old = (here / "s.npz").read_bytes()

    def full(_, target):
        raise OSError(28, "No space left on device", str(target))

    with monkeypatch.context() as patched:
        patched.setattr(tables.os, "replace", full)
        assert regions("net.npz", "--resume", "s.npz", "--max-regions", 9) == 2
    assert (here / "s.npz").read_bytes() == old
    assert not [name for name in os.listdir(here) if name.startswith(".")]
    assert "No space left" in capsys.readouterr().err
    assert regions("net.npz", "--resume", "s.npz") == 0
    assert loaded("s.npz").complete


def test_in_python_a_full_disk_is_a_notice_and_the_graph_is_returned(here, monkeypatch):
    def full(_, target):
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(tables.os, "replace", full)
    net = pt.compile("net.npz")
    with pytest.warns(pt.errors.Notice, match="No space left"):
        graph = pt.region_graph(net, (-1, 1), save="s.npz", save_every=0)
    assert graph.complete
    assert not (here / "s.npz").exists()


def test_ctrl_c_keeps_what_was_found(here):
    """A real process, a real signal."""
    dense(16, 24, 24, 4, seed=7).save("big.npz")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    words = ["regions", "big.npz", "--box", "-1", "1", "--save", "s.npz", "--out", "g.csv"]
    run = subprocess.Popen(
        [sys.executable, "-c",
         "import sys; from polytope import report; from polytope.cli import main\n"
         "shown = report.Counter.__call__\n"
         "def tell(bar, found):\n"
         "    shown(bar, found)\n"
         "    if found: open('found', 'w').close()\n"
         "report.Counter.__call__ = tell\n"
         "sys.exit(main(sys.argv[1:]))", *words],
        env=env, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    end = time.monotonic() + 200
    while not (here / "found").exists() and run.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=200)
    assert run.returncode == 130, err
    assert "partial: stopped by Ctrl-C" in out
    assert "go on with: polytope regions big.npz --resume s.npz" in err
    assert "Traceback" not in err
    part = loaded("s.npz", "big.npz")
    assert not part.complete
    assert len(part) == len(pd.read_csv("g.csv")) == int(table(out)["regions"][0].replace(",", ""))
    assert regions("big.npz", "--resume", "s.npz", "--max-regions", len(part) + 3) == 0
    assert patterns(part) < patterns(loaded("s.npz", "big.npz"))


@pytest.mark.usefixtures("here")
def test_ctrl_c_before_anything(capsys, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(regions_command, "read_model", stopped)
    assert regions("net.npz") == 130
    assert capsys.readouterr().err.startswith("polytope: stopped by Ctrl-C")


def test_help_names_the_exit_codes_and_examples(capsys):
    assert regions("--help") == 0
    out = capsys.readouterr().out
    for word in ("exit codes:", "130", "examples:", "--resume", "--order", "FILE:ROWS"):
        assert word in out
