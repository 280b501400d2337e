"""The commands: what they print, save and return, and how they answer mistakes."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import polytope as pt
from polytope import datasets, options, tables
from polytope.cli import main
from polytope.errors import EquivalenceError, FileProblem
from polytope.report import Bar


@pytest.fixture
def files(tmp_path):
    """A folder with a small network of two inputs, and five points for it."""
    layers = [
        (np.array([[1.0, 0], [0, 1]]), np.array([-0.25, -0.5])),
        (np.array([[1.0, 0.5], [0, 1]]), np.array([0.1, 0])),
    ]
    pt.compile(layers).save(tmp_path / "net.npz")
    X = np.array([[0.1, 0.2], [0.9, 0.1], [0.2, 0.9], [0.5, 0.5], [0.0, 1.0]])
    np.savez(tmp_path / "X.npz", X=X, y=[0, 0, 0, 0, 1])
    return tmp_path


def certify(files, *more):
    return main(["certify", str(files / "net.npz"), "--data", str(files / "X.npz"), *more])


def mistake(capsys):
    """The one line on stderr, with nothing on stdout."""
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("polytope: error: ")
    return lines[0]


def test_certify_shows_what_the_function_returns(files, capsys):
    target = files / "r.csv"
    box = ["--box", "0", "1"]
    assert certify(files, *box, "--regions", "4", "--out", str(target)) == 0
    out, err = capsys.readouterr()
    archive = np.load(files / "X.npz")
    result = pt.certify(
        pt.load(files / "net.npz"), archive["X"], archive["y"], 2, (0, 1), max_regions=4
    )
    saved = pd.read_csv(target)
    assert saved["row"].tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(saved["lower"], result.lower, rtol=1e-12)
    np.testing.assert_allclose(saved["upper"], result.upper, rtol=1e-12)
    assert saved["status"].tolist() == result.status.tolist()
    for i in range(5):
        assert f"{result.lower[i]:.6f}" in out
    assert f"{(result.status == 'exact').sum()} of 5 exact" in out
    assert str(target) in out
    assert "\x1b" not in out + err
    assert "5/5" in err


def test_wrong_labels_are_no_error(files, capsys):
    np.savez(files / "X.npz", X=[[0.1, 0.2]], y=[1])
    assert certify(files) == 0
    assert "misclassified" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "chosen"),
    [("1:3", [1, 2]), ("3", [3]), ("-1", [4]), (":2", [0, 1]), ("::2", [0, 2, 4])],
)
def test_rows(files, rows, chosen):
    assert certify(files, f"--rows={rows}", "--out", str(files / "r.csv")) == 0
    assert pd.read_csv(files / "r.csv")["row"].tolist() == chosen


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_formats_hold_the_same_table(files, suffix):
    target = files / f"r.{suffix}"
    assert certify(files, "--norm", "inf", "--box", "0", "1", "--out", str(target)) == 0
    read = {"csv": pd.read_csv, "json": pd.read_json, "parquet": pd.read_parquet}[suffix]
    table = read(target)
    net, archive = pt.load(files / "net.npz"), np.load(files / "X.npz")
    frame = pt.certify(net, archive["X"], archive["y"], "inf", (0, 1)).to_frame()
    assert set(frame.columns) | {"row"} == set(table.columns)
    upper = table["upper"].astype(float).fillna(np.inf)
    np.testing.assert_allclose(upper, frame["upper"], rtol=1e-12)
    assert sorted(os.listdir(files)) == sorted(["X.npz", "net.npz", target.name])


def test_json_is_standard_json(files):
    assert certify(files, "--out", str(files / "r.json")) == 0
    text = (files / "r.json").read_text()

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    assert len(json.loads(text, parse_constant=refuse)) == 5


def test_no_points_are_an_empty_result(files, capsys):
    np.savez(files / "X.npz", X=np.zeros((0, 2)))
    assert certify(files, "--out", str(files / "r.csv")) == 0
    assert "no rows" in capsys.readouterr().out
    assert len(pd.read_csv(files / "r.csv")) == 0


def test_an_onnx_model_with_whole_number_pixels(files, capsys):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    import onnx

    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    weights = {name: value.numpy() for name, value in module.state_dict().items()}
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "0.weight", "0.bias"], ["a"], transB=1),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Gemm", ["b", "2.weight", "2.bias"], ["y"], transB=1),
        ],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, files / "m.onnx")
    np.save(files / "X.npy", np.array([[0, 255], [51, 102]], np.uint8))
    words = ["certify", str(files / "m.onnx"), "--data", str(files / "X.npy"), "--input-shape", "2"]
    assert main(words) == 2
    assert "--scale 255" in mistake(capsys)
    assert main([*words, "--scale", "255", "--out", str(files / "r.csv")]) == 0
    direct = pt.certify(pt.compile(module, (2,)), np.array([[0, 1], [0.2, 0.4]]))
    np.testing.assert_allclose(pd.read_csv(files / "r.csv")["lower"], direct.lower, rtol=1e-6)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "COMMAND"),
        (["demoo"], "'demoo'"),
        (["demo", "--norm", "0.5"], "at least 1"),
        (["demo", "--norm", "nan"], "at least 1"),
        (["demo", "--norm", "two"], "'two'"),
        (["demo", "--rows", "a:b"], "A:B"),
        (["demo", "--rows", "0:5:0"], "A:B"),
        (["demo", "--rows", "500:600", "--out", "OUT"], "0:100"),
        (["demo", "--regions", "0"], "at least 1"),
        (["demo", "--regions", "1.5"], "whole number"),
        (["certify"], "MODEL"),
        (["certify", "NET"], "--data"),
        (["certify", "NET", "--data", "X", "--box", "0"], "--box"),
        (["certify", "NET", "--data", "X", "--box", "1", "0"], "empty"),
        (["certify", "NET", "--data", "X", "--box", "0.5", "1"], "outside the box"),
        (["certify", "NET", "--data", "X", "--rows", "9:"], "0:5"),
        (["certify", "NET", "--data", "X", "--input-shape", "1,x"], "1,28,28"),
        (["certify", "NET", "--data", "X", "--input-shape", "3"], "input_shape"),
        (["certify", "NET", "--data", "X", "--scale", "0"], "positive"),
        (["certify", "nope.onnx", "--data", "X"], "nope.onnx"),
        (["certify", "NET", "--data", "nope.npz"], "nope.npz"),
        (["certify", "X", "--data", "X"], "not a usable polytope network"),
        (["certify", "NET", "--data", "NET"], "holds no points"),
        (["certify", "NET", "--data", "X", "--out", "nope/r.csv"], "no folder"),
        (["certify", "NET", "--data", "X", "--out", "r.xlsx"], ".parquet"),
        (["certify", "NET", "--data", "X", "--out", "OUT"], ".csv"),
        (["demo", "--out", "NET"], "folder"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(files, capsys, monkeypatch, words, says):
    monkeypatch.chdir(files)
    named = {"NET": "net.npz", "X": "X.npz", "OUT": str(files)}
    assert main([named.get(word, word) for word in words]) == 2
    assert says in mistake(capsys)


def test_the_output_is_checked_before_the_model_is_read(capsys):
    assert main(["certify", "nope.onnx", "--data", "no.npz", "--out", "no/r.csv"]) == 2
    assert "no folder" in mistake(capsys)


def test_wrong_shape_names_both(files, capsys):
    np.savez(files / "X.npz", X=np.zeros((2, 3)))
    assert certify(files) == 2
    assert "(2, 3)" in mistake(capsys)


def test_a_failed_run_is_code_1(files, capsys, monkeypatch):
    def broken(*_):
        raise EquivalenceError("the graph\ndiffers")

    monkeypatch.setattr(options, "compile", broken)
    assert certify(files) == 1
    assert mistake(capsys) == "polytope: error: the graph differs"


def test_ctrl_c_keeps_what_is_done(files, capsys, monkeypatch):
    shown = Bar.__call__

    def stop_early(bar, done, total):
        shown(bar, done, total)
        if done < total:
            raise KeyboardInterrupt

    monkeypatch.setattr(Bar, "__call__", stop_early)
    assert certify(files, "--regions", "50", "--out", str(files / "r.csv")) == 130
    out, err = capsys.readouterr()
    assert "were not finished" in err
    assert "of 5 exact" in out
    assert len(pd.read_csv(files / "r.csv")) == 5


def test_ctrl_c_before_the_work(files, capsys, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(options, "compile", stopped)
    assert certify(files) == 130
    assert capsys.readouterr().err.startswith("polytope: stopped by Ctrl-C")


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("polytope ")
    for words in (["--help"], ["demo", "--help"], ["certify", "--help"]):
        assert main(words) == 0
        out = capsys.readouterr().out
        assert "exit codes:" in out
        assert "130" in out


def test_demo_writes_picture_and_table(tmp_path, capsys):
    folder = tmp_path / "new" / "folder"
    assert main(["demo", "--rows", "1:9", "--regions", "2", "--out", str(folder)]) == 0
    out, _ = capsys.readouterr()
    assert (folder / "polytope-demo.png").read_bytes().startswith(b"\x89PNG")
    table = pd.read_csv(folder / "polytope-demo.csv")
    assert table["row"].tolist() == list(range(1, 9))
    X, y = datasets.digits()
    result = pt.certify(datasets.digits_network(), X[1:9], y[1:9], 2, (0, 1), max_regions=2)
    np.testing.assert_allclose(table["lower"], result.lower, rtol=1e-12)
    assert "polytope-demo.png" in out
    assert sorted(os.listdir(folder)) == ["polytope-demo.csv", "polytope-demo.png"]


def test_demo_of_two_digits_has_no_picture_and_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--rows", "1:3", "--regions", "1", "--norm", "1"]) == 0
    assert "no picture" in capsys.readouterr().out
    assert os.listdir(tmp_path) == ["polytope-demo.csv"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.csv"
    target.write_text("old")

    def fails(path):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(FileProblem, match="No space left"):
        tables.write_file(target, fails)
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.csv"]


def test_as_a_process_in_another_folder(tmp_path):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "100"}
    run = subprocess.run(
        [sys.executable, "-m", "polytope", "demo", "--rows", "0:4", "--regions", "1"],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "of 4 exact" in run.stdout
    assert "\x1b" not in run.stdout + run.stderr
    assert (tmp_path / "polytope-demo.png").exists()
    probe = "import sys, polytope.cli; sys.exit('matplotlib' in sys.modules)"
    again = subprocess.run([sys.executable, "-c", probe], env=env, cwd=tmp_path, check=False)
    assert again.returncode == 0
