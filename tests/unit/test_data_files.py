"""Readers of IDX, npz, .ts and folders of pictures: real files, small ones, and damaged ones."""

import builtins
import gzip
import struct

import numpy as np
import pytest
from PIL import Image

import polytope as pt
from polytope.data_files import read_folder, read_idx, read_npz, read_series
from polytope.errors import FileProblem, InputError
from tests.data import data_path


def idx(array, code):
    """An IDX file's bytes."""
    head = struct.pack(">HBB", 0, code, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize(
    ("code", "dtype"),
    [(8, "u1"), (9, "i1"), (11, "i2"), (12, "i4"), (13, "f4"), (14, "f8")],
)
@pytest.mark.parametrize("packed", [False, True])
def test_idx_of_all_types(tmp_path, code, dtype, packed):
    array = np.random.default_rng(0).integers(0, 99, (3, 2, 4)).astype(dtype)
    content = idx(array, code)
    path = tmp_path / ("a.gz" if packed else "a")
    path.write_bytes(gzip.compress(content) if packed else content)
    found = read_idx(path)
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, array)


def test_damaged_idx(tmp_path):
    content = idx(np.zeros((3, 2, 4), np.uint8), 8)
    path = tmp_path / "a"
    for bad in (b"", b"\0\0", content[:-1], content + b"\0", content[:9], b"\1" + content[1:],
                b"\0\0\x07" + content[3:]):  # fmt: skip
        path.write_bytes(bad)
        with pytest.raises(FileProblem, match="IDX"):
            read_idx(path)
    packed = tmp_path / "a.gz"
    for bad in (content, gzip.compress(content)[:-9]):
        packed.write_bytes(bad)
        with pytest.raises(FileProblem, match="gzip"):
            read_idx(packed)
    with pytest.raises(FileProblem, match="no file"):
        read_idx(tmp_path / "none")
    with pytest.raises(FileProblem, match="cannot be read"):
        read_idx(tmp_path)


def test_npz_of_pictures(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x=x, y=np.array([[0], [3], [1], [2]], np.uint8))
    found = read_npz(tmp_path / "a.npz")
    assert found.x.shape == (4, 3, 5, 6)
    assert found.x.dtype == np.float32
    np.testing.assert_allclose(found.x, x.transpose(0, 3, 1, 2) / 255, rtol=1e-6)
    assert found.y.tolist() == [0, 3, 1, 2]
    np.savez(tmp_path / "b.npz", X=x[..., 0], Y=[0, 1, 1, 0])
    assert read_npz(tmp_path / "b.npz").x.shape == (4, 1, 5, 6)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 4, 4), np.uint8)}, "expected the arrays x and y"),
        ({"x": np.zeros((2, 16), np.uint8), "y": np.zeros(2, int)}, "expected pictures"),
        ({"x": np.zeros((2, 4, 4), np.int64), "y": np.zeros(2, int)}, "expected pictures"),
        ({"x": np.full((2, 4, 4), 1.5), "y": np.zeros(2, int)}, r"\[0, 1\]"),
        ({"x": np.full((2, 4, 4), np.nan), "y": np.zeros(2, int)}, r"\[0, 1\]"),
        ({"x": np.zeros((2, 4, 4), np.uint8), "y": np.zeros(3, int)}, "labels"),
        ({"x": np.zeros((2, 4, 4), np.uint8), "y": np.zeros(2)}, "labels"),
        ({"x": np.array([{}], object), "y": np.zeros(1, int)}, "plain numbers"),
    ],
)
def test_unusable_npz(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(FileProblem, match=message):
        read_npz(tmp_path / "a.npz")


def test_damaged_npz(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.zeros((9, 4, 4), np.uint8), y=np.zeros(9, int))
    content = path.read_bytes()
    for bad in (b"", b"hello", content[:-30], content[:100]):
        path.write_bytes(bad)
        with pytest.raises(FileProblem, match="damaged"):
            read_npz(path)
    with pytest.raises(FileProblem, match="no file"):
        read_npz(tmp_path / "none.npz")


SERIES = """#words
@problemName toy
@classLabel true left right

@data
1,2,3:4,5,6:right
7:8:left
"""


def test_series_of_different_lengths(tmp_path):
    path = tmp_path / "a.ts"
    path.write_text(SERIES)
    found = read_series(path)
    assert found.lengths.tolist() == [3, 1]
    assert found.y.tolist() == [1, 0]
    assert found.x[0].tolist() == [[1, 4], [2, 5], [3, 6]]
    assert found.x[1].tolist() == [[7, 8], [0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("@data", "@date", "no line @data"),
        ("5,6", "5", "line 6"),
        ("7:8", "7", "line 7"),
        ("7:8", "7:x", "line 7"),
        ("7:8", "7:nan", "line 7"),
        ("7:8", "7:", "line 7"),
        (":left", ":up", "line 7: .* class of left, right"),
        ("@classLabel true left right", "", "line 6"),
        ("1,2,3:4,5,6:right\n7:8:left\n", "", "no series"),
    ],
)
def test_damaged_series(tmp_path, old, new, message):
    path = tmp_path / "a.ts"
    path.write_text(SERIES.replace(old, new))
    with pytest.raises(FileProblem, match=message):
        read_series(path)
    path.write_bytes(b"\xff\xfe" * 9)
    with pytest.raises(FileProblem, match="not text"):
        read_series(path)


def painted(folder, name, colour, size=(4, 4)):
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(folder / name)


def test_folders_of_pictures(tmp_path):
    painted(tmp_path / "10", "a.png", (255, 0, 0))
    painted(tmp_path / "9", "b.png", (0, 51, 0), size=(8, 6))
    painted(tmp_path / "9", "c.ppm", (0, 0, 102))
    (tmp_path / "9" / "words.csv").write_text("hello")
    found = read_folder(tmp_path, (4, 4))
    assert found.x.shape == (3, 3, 4, 4)
    assert found.y.tolist() == [0, 0, 1]  # 9 before 10
    np.testing.assert_allclose(found.x[0, :, 0, 0], [0, 0.2, 0], atol=1e-6)
    np.testing.assert_allclose(found.x[2, :, 0, 0], [1, 0, 0], atol=1e-6)
    assert read_folder(tmp_path, (2, 3), grey=True).x.shape == (3, 1, 2, 3)
    (tmp_path / "9" / "d.png").write_bytes(b"no picture")
    with pytest.raises(FileProblem, match=r"d\.png"):
        read_folder(tmp_path, (4, 4))


def test_folders_without_pictures_and_without_pillow(tmp_path, monkeypatch):
    (tmp_path / "0").mkdir()
    with pytest.raises(FileProblem, match="a folder for each class"):
        read_folder(tmp_path, (4, 4))
    with pytest.raises(FileProblem, match="no folder"):
        read_folder(tmp_path / "none", (4, 4))
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("PIL"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(FileProblem, match="pip install pillow"):
        read_folder(tmp_path, (4, 4))


# Data sets by name -------------------------------------------------------------------------


def test_digits_come_with_the_package(monkeypatch):
    from polytope.demo_training import split_digits

    monkeypatch.delenv("POLYTOPE_DATA", raising=False)
    data, split = pt.load_dataset("digits"), split_digits()
    for part, (pixels, labels) in ((data.train, split.train), (data.test, split.test)):
        np.testing.assert_array_equal(part.x.reshape(-1, 64) * 16, pixels)
        np.testing.assert_array_equal(part.y, labels)
    assert data.shape == (1, 8, 8)
    assert data.classes == 10


@pytest.mark.parametrize(
    ("name", "shape", "counts", "classes"),
    [
        ("mnist", (1, 28, 28), (60000, 10000), 10),
        ("gtsrb", (3, 32, 32), (10003, 3002), 43),
        ("cifar10", (3, 32, 32), (8000, 1000), 10),
    ],
)
def test_real_pictures(name, shape, counts, classes):
    data = pt.load_dataset(name, data_path(name).parent)
    assert (len(data.train), len(data.test)) == counts
    assert data.shape == data.test.shape == shape
    assert data.classes == classes == len(np.unique(data.train.y))
    assert (data.train.x.min(), data.train.x.max()) == (0, 1)
    with np.load(data_path(name, "test.npz")) as archive:
        pixels = archive["x"][7]
    channels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    np.testing.assert_allclose(data.test.x[7] * 255, channels, atol=1e-4)


def test_the_real_vowels():
    data = pt.load_dataset("japanese_vowels", data_path("japanese_vowels").parent)
    assert (len(data.train), len(data.test)) == (270, 370)
    assert data.shape[1] == 12
    assert np.bincount(data.train.y).tolist() == [30] * 9
    assert data.test.lengths.min() == 7
    assert data.test.lengths.max() == 29
    assert data.train.x[0, 0, 0] == np.float32(1.860936)
    inside = np.arange(data.test.x.shape[1]) < data.test.lengths[:, None]
    assert not data.test.x[~inside].any()
    assert data.test.x[inside].any(axis=1).all()


def test_the_idx_layout_and_the_folders(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "fashion_mnist"
    folder.mkdir()
    for part, count in (("train", 5), ("t10k", 3)):
        x = rng.integers(0, 256, (count, 4, 4)).astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(x, 8))
        labels = idx(np.arange(count).astype(np.uint8), 8)
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    data = pt.load_dataset("fashion_mnist", tmp_path)
    assert data.train.x.shape == (5, 1, 4, 4)
    np.testing.assert_allclose(data.test.x[:, 0] * 255, x, atol=1e-4)
    assert data.classes == 5
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(x, 8)))
    with pytest.raises(FileProblem, match="a label for each"):
        pt.load_dataset("fashion_mnist", tmp_path)
    painted(tmp_path / "gtsrb" / "train" / "00000", "a.ppm", (1, 2, 3))
    painted(tmp_path / "gtsrb" / "test" / "00000", "a.ppm", (1, 2, 3))
    assert pt.load_dataset("gtsrb", tmp_path).shape == (3, 32, 32)


def test_missing_data_says_which_files_go_where(tmp_path, monkeypatch):
    with pytest.raises(FileProblem, match=r"train\.npz, test\.npz") as caught:
        pt.load_dataset("mnist", tmp_path)
    assert "train-images-idx3-ubyte" in str(caught.value)
    assert str(tmp_path / "mnist") in str(caught.value)
    (tmp_path / "japanese_vowels").mkdir()
    (tmp_path / "japanese_vowels" / "JapaneseVowels_TRAIN.ts").write_text(SERIES)
    with pytest.raises(FileProblem, match=r"JapaneseVowels_TEST\.ts"):
        pt.load_dataset("japanese_vowels", tmp_path)
    monkeypatch.delenv("POLYTOPE_DATA", raising=False)
    with pytest.raises(FileProblem, match="set POLYTOPE_DATA"):
        pt.load_dataset("gtsrb")
    monkeypatch.setenv("POLYTOPE_DATA", str(tmp_path))
    with pytest.raises(FileProblem, match="POLYTOPE_DATA"):
        pt.load_dataset("gtsrb")
    with pytest.raises(InputError, match="digits, mnist"):
        pt.load_dataset("imagenet")
