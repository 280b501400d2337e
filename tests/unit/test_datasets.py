"""The shipped digits and network; points read from files."""

from importlib.resources import files

import numpy as np
import pytest
import torch

import polytope as pt
from polytope import datasets, demo_training
from polytope.errors import FileProblem, InputError


def test_digits_are_a_hundred_balanced_pictures():
    X, y = datasets.digits()
    assert X.shape == (100, 64)
    assert X.dtype == np.float64
    assert y.dtype == np.int64
    assert X.min() == 0
    assert X.max() == 1
    assert np.bincount(y).tolist() == [10] * 10


def test_shipped_digits_are_those_of_the_split_and_never_trained_on():
    split = demo_training.split_digits()
    X, y = datasets.digits()
    np.testing.assert_array_equal(X * 16, split.shipped[0])
    np.testing.assert_array_equal(y, split.shipped[1])
    trained = {row.tobytes() for row in split.train[0]}
    assert not any(row.tobytes() in trained for row in split.test[0])
    assert len(split.train[0]) + len(split.test[0]) == 1797


def test_network_is_accurate_on_all_test_digits():
    pixels, labels = demo_training.split_digits().test
    net = datasets.digits_network()
    assert net.input_shape == (64,)
    assert (net.predict(pixels / 16) == labels).mean() >= 0.95


def test_the_theorem_alone_settles_some_digits_and_more_regions_settle_others():
    X, y = datasets.digits()
    one = pt.certify(datasets.digits_network(), X, y, box=(0, 1), max_regions=1)
    few = pt.certify(datasets.digits_network(), X[:10], y[:10], box=(0, 1), max_regions=10)
    assert 10 <= (one.status == "exact").sum() <= 90
    assert (few.status == "exact").sum() > (one.status[:10] == "exact").sum()


def test_shipped_files_are_small():
    folder = files("polytope") / "data"
    assert sum(len(file.read_bytes()) for file in folder.iterdir()) < 100_000


def test_training_margins_are_the_distances_of_the_regions():
    torch.manual_seed(3)
    shape = [
        layer
        for n, m in ((64, 7), (7, 6), (6, 10))
        for layer in (torch.nn.Linear(n, m, dtype=torch.float64), torch.nn.ReLU())
    ]
    module = torch.nn.Sequential(*shape[:-1])
    x, y = torch.rand(5, 64, dtype=torch.float64), torch.tensor([0, 3, 9, 9, 1])
    logits, hidden, decision = demo_training.margins(module, x, y)
    net = pt.compile(module, input_shape=(64,))
    torch.testing.assert_close(logits, module(x))
    nearest = pt.boundary_distance(net, x, p=2).distance
    signed = pt.decision_distance(net, x, y, p=2).distance
    torch.testing.assert_close(hidden.min(dim=1).values, nearest)
    torch.testing.assert_close(decision.min(dim=1).values, signed)


@pytest.mark.parametrize("points", ["X", "x", "points", "data"])
@pytest.mark.parametrize("labels", ["y", "labels", None])
def test_npz_names(tmp_path, points, labels):
    X = np.random.default_rng(0).random((4, 3))
    arrays = {points: X} | ({} if labels is None else {labels: np.arange(4)})
    np.savez(tmp_path / "a.npz", **arrays)
    found, y = datasets.load_points(tmp_path / "a.npz")
    np.testing.assert_array_equal(found, X)
    assert (y is None) == (labels is None)
    if y is not None:
        assert y.tolist() == [0, 1, 2, 3]


def test_npy_keeps_the_shape_and_has_no_labels(tmp_path):
    X = np.random.default_rng(0).random((4, 1, 2, 2)).astype(np.float32)
    np.save(tmp_path / "a.npy", X)
    found, y = datasets.load_points(tmp_path / "a.npy")
    assert y is None
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, X.astype(np.float64))


def test_csv_with_and_without_names(tmp_path):
    (tmp_path / "plain.csv").write_text("0.5,1\n0.25,2\n")
    X, y = datasets.load_points(tmp_path / "plain.csv")
    assert X.tolist() == [[0.5, 1], [0.25, 2]]
    assert y is None
    (tmp_path / "named.csv").write_text("a,label,b\n0.5,3,1\n0.25,4,2\n")
    X, y = datasets.load_points(tmp_path / "named.csv")
    assert X.tolist() == [[0.5, 1], [0.25, 2]]
    assert y.tolist() == [3, 4]


def test_whole_numbers_are_divided_only_when_told(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.array([[0, 255]], np.uint8))
    with pytest.raises(InputError, match="--scale 255"):
        datasets.load_points(tmp_path / "a.npz")
    assert datasets.load_points(tmp_path / "a.npz", 255)[0].tolist() == [[0, 1]]
    assert datasets.load_points(tmp_path / "a.npz", 1)[0].tolist() == [[0, 255]]


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_a_scale_must_be_positive(tmp_path, scale):
    with pytest.raises(InputError, match="scale"):
        datasets.load_points(tmp_path / "a.npz", scale)


def test_missing_damaged_and_foreign_files(tmp_path):
    with pytest.raises(FileProblem, match="no file"):
        datasets.load_points(tmp_path / "none.npz")
    for suffix in (".npz", ".npy"):
        (tmp_path / f"text{suffix}").write_text("hello")
        with pytest.raises(FileProblem, match="cannot be read"):
            datasets.load_points(tmp_path / f"text{suffix}")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "words.csv").write_text("a,b\nx,y\n")
    for name in ("empty.csv", "words.csv"):
        with pytest.raises(FileProblem, match="cannot be read"):
            datasets.load_points(tmp_path / name)
    with pytest.raises(FileProblem, match=r"\.npz, \.npy or \.csv"):
        datasets.load_points(tmp_path / "a.mat")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(FileProblem, match="cannot be read"):
        datasets.load_points(tmp_path / "folder.npz")


def test_an_archive_without_points_says_what_it_has(tmp_path):
    np.savez(tmp_path / "a.npz", foo=np.zeros(2))
    with pytest.raises(FileProblem, match="found foo"):
        datasets.load_points(tmp_path / "a.npz")


def test_objects_are_never_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.array([{}], dtype=object))
    with pytest.raises(FileProblem, match="Python objects"):
        datasets.load_points(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (np.zeros(3), None, "one point a row"),
        (np.array([["a", "b"]]), None, "expected numbers"),
        (np.zeros((2, 2)), np.zeros(3), "2 points"),
        (np.zeros((2, 2)), np.array([0.5, 1]), "whole numbers"),
        (np.zeros((2, 2)), np.array([np.nan, 1]), "whole numbers"),
    ],
)
def test_unusable_arrays(tmp_path, X, y, message):
    np.savez(tmp_path / "a.npz", X=X, **({} if y is None else {"y": y}))
    with pytest.raises(InputError, match=message):
        datasets.load_points(tmp_path / "a.npz")
