"""``polytope train``: what it writes, how it goes on, and what a configuration may not say."""

import os
import signal

import numpy as np
import pandas as pd
import pytest
import torch

import polytope as pt
from polytope import train_command
from polytope.cli import main
from polytope.errors import FileProblem, InputError
from polytope.options import BAD_USE, FAILED, INTERRUPTED, OK
from polytope.train_config import LOSSES, read_config
from polytope.training import ROLL, Ramp
from polytope.training.evaluation import evaluate
from polytope.training.networks import fully_connected
from tests.data import data_path

PLAIN = """
[data]
name = "digits"
validation = 200

[network]
kind = "fully_connected"
widths = [24]
start = "he"

[training]
epochs = 6
batch = 64
rate = 3e-3
choose = "error"

[[loss]]
kind = "ROLL"
weight = {start = 0, end = 0.05, epochs = 3}
axes = 2
"""


def written(folder, text=PLAIN, name="small.toml"):
    path = folder / name
    path.write_text(text)
    return path


def trained(path, folder, *more):
    return main(["train", str(path), "--out", str(folder), *more])


def test_digits_in_seconds(tmp_path, capsys):
    path = written(tmp_path)
    assert trained(path, tmp_path / "out") == OK
    out = capsys.readouterr().out
    assert "test       error" in out
    files = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert files == ["small-history.csv", "small.checkpoint", "small.npz", "small.pt"]
    table = pd.read_csv(tmp_path / "out" / "small-history.csv")
    assert table["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    assert {"cross_entropy", "ROLL", "validation_error"} <= set(table.columns)
    data = pt.load_dataset("digits")
    model = fully_connected((1, 8, 8), [24], 10)
    model.load_state_dict(torch.load(tmp_path / "out" / "small.pt", weights_only=True))
    found = evaluate(model, data.test)
    assert found.error < 0.15
    assert f"test       error {100 * found.error:6.2f} %" in out
    net = pt.load(tmp_path / "out" / "small.npz")
    decided = net.predict(data.test.x.astype(np.float64))
    assert (decided != data.test.y).mean() == pytest.approx(found.error, abs=2 / 360)
    assert trained(path, tmp_path / "out") == OK  # it had ended
    assert capsys.readouterr().out == out


def test_ctrl_c_and_the_same_command_again(tmp_path, capsys, monkeypatch):
    path = written(tmp_path)
    assert trained(path, tmp_path / "whole") == OK
    real = train_command.train

    def interrupted(*arguments, progress, **settings):
        def stop(done, total):
            progress(done, total)
            if done == total // 2:
                os.kill(os.getpid(), signal.SIGINT)

        return real(*arguments, progress=stop, **settings)

    monkeypatch.setattr(train_command, "train", interrupted)
    assert trained(path, tmp_path / "part") == INTERRUPTED
    assert "goes on from" in capsys.readouterr().err
    assert not (tmp_path / "part" / "small.pt").exists()
    monkeypatch.undo()
    assert trained(path, tmp_path / "part") == OK
    one, other = (
        torch.load(tmp_path / folder / "small.pt", weights_only=True)
        for folder in ("whole", "part")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_own_files_and_double_precision(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name, count in (("a.npz", 60), ("b.npz", 20)):
        x = rng.integers(0, 256, (count, 3)).astype(np.uint8)
        np.savez(tmp_path / name, x=x, y=(x[:, 0] > 127).astype(int))
    text = """
    data = {train = "a.npz", test = "b.npz", scale = 255}
    network = {kind = "fully_connected", widths = [8], precision = "float64"}
    training = {epochs = 60, batch = 10, rate = 0.01}
    """
    assert trained(written(tmp_path, text, "own.toml"), tmp_path) == OK
    state = torch.load(tmp_path / "own.pt", weights_only=True)
    assert all(tensor.dtype == torch.float64 for tensor in state.values())
    assert pt.load(tmp_path / "own.npz").input_shape == (3,)
    error = capsys.readouterr().out.split("test       error")[1].split("%")[0]
    assert float(error) <= 10


def test_series(tmp_path, capsys):
    folder = data_path("japanese_vowels").parent
    text = """
    data = {name = "japanese_vowels", validation = 30}
    network = {kind = "scornn", units = 8}
    training = {epochs = 2, batch = 32, optimizer = "amsgrad"}
    """
    path = written(tmp_path, text, "vowels.toml")
    assert trained(path, tmp_path, "--data", str(folder)) == OK
    assert "30 examples" in capsys.readouterr().out
    assert (tmp_path / "vowels.pt").exists()
    assert not (tmp_path / "vowels.npz").exists()
    path = written(tmp_path, text.replace('"scornn", units = 8', '"roll"'), "wrong.toml")
    assert trained(path, tmp_path, "--data", str(folder)) == BAD_USE
    assert "is for series" in capsys.readouterr().err


def test_published_mmr_takes_the_epochs_of_the_training(tmp_path):
    text = PLAIN + '[[loss]]\nkind = "kMMR"\ngamma_b = 0.4\ngamma_d = 0.4\nweight = 0.5\n'
    config = read_config(written(tmp_path, text))
    data, _ = config.data.read(tmp_path, None)
    model = config.network.build(data, 0)
    roll, mmr = (loss.build(model, data, 6) for loss in config.losses)
    assert isinstance(roll, ROLL)
    assert roll.weight == Ramp(0, 0.05, 3)
    assert mmr.k_b == Ramp(0.10, 0.02, 6)


SETTINGS = {
    "ROLL": "C = 2",
    "RegionMargin": "box = [0, 1]",
    "MMR": "gamma_b = 0.4\nk_b = 3",
    "kMMR": "gamma_b = 0.4\ngamma_d = 0.4\nweight = 1\nbox = [0, 1]",
    "LLR": "eps = 0.1\nsteps = 1",
    "CURE": "",
    "CrossLipschitz": "weight = 0.1",
    "Adversarial": "eps = {start = 0, end = 0.1, epochs = 2}\nshare = 0.5\nsteps = 2\nbox = [0, 1]",
    "TRADES": "eps = 0.1\nsteps = 1",
    "WongKolter": "eps = 0.01",
}


@pytest.mark.parametrize("kind", LOSSES)
def test_every_loss_trains_from_a_configuration(tmp_path, capsys, kind):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", X=rng.uniform(size=(20, 6)), y=np.arange(20) % 3)
    text = f"""
    data = {{train = "a.npz", test = "a.npz"}}
    network = {{kind = "fully_connected", widths = [30]}}
    training = {{epochs = 2, batch = 10}}
    [[loss]]
    kind = "{kind}"
    {SETTINGS[kind]}
    """
    assert trained(written(tmp_path, text, "own.toml"), tmp_path) == OK, capsys.readouterr().err
    table = pd.read_csv(tmp_path / "own-history.csv")
    whole = kind in ("Adversarial", "TRADES", "WongKolter")
    assert ("cross_entropy" in table.columns) != whole
    assert np.isfinite(table[kind.removeprefix("k")]).all()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[training]", "[trainin]", "unknown section 'trainin'; known are data, network"),
        ("[[loss]]", "[loss]", "two brackets"),
        ("epochs = 6", "epoch = 6", r"\[training\]: unknown key 'epoch'; known are epochs, batch"),
        ("epochs = 6", "", r"\[training\]: epochs is missing"),
        ("epochs = 6", 'epochs = "6"', "epochs: got '6', expected a whole number"),
        ("epochs = 6", "epochs = 0", "epochs: got 0"),
        ("rate = 3e-3", "rate = true", "rate: got True, expected a number"),
        ('choose = "error"', 'choose = "best"', "last, error, loss"),
        ('name = "digits"', "", r"\[data\]: give either name"),
        ('name = "digits"', 'train = "a.npz"', r"\[data\]: give either name"),
        ('name = "digits"', 'name = "digit"', "no data set 'digit'"),
        ("validation = 200", "validation = 5000", "split: got 5000 of 1437"),
        ("validation = 200", "", "needs|validation"),
        ("validation = 200", "validations = 2", "unknown key 'validations'"),
        ('kind = "fully_connected"', 'kind = "resnet"', "kind: got 'resnet'"),
        ('kind = "fully_connected"', 'kind = "cnn"', "takes no widths"),
        ("widths = [24]", "", "needs widths"),
        ("widths = [24]", "widths = 24", "expected whole numbers as in"),
        ("widths = [24]", "widths = [24.5]", "expected whole numbers as in"),
        ("widths = [24]", "widths = [0]", "widths: got"),
        ('start = "he"', 'start = "xavier"', "torch, he"),
        ('start = "he"', 'activation = "gelu"', "relu, leaky_relu"),
        ('start = "he"', 'precision = "float16"', "float32"),
        ('start = "he"', "normalise = [0.1]", r"\[mean, deviation\]"),
        ('start = "he"', "units = 4", "takes no units"),
        ('start = "he"', "slope = 0.2", "slope is that of"),
        ('start = "he"', 'start = "he', "no TOML file"),
        ('kind = "ROLL"', 'kind = "Roll"', "kind: got 'Roll', expected one of"),
        ("axes = 2", "axis = 2", r"\[\[loss\]\] ROLL: unknown key 'axis'; known are kind, C"),
        ("axes = 2", "axes = 2.5", "axes: got 2.5"),
        ("axes = 2", "gamma = 101", "gamma"),
        ("axes = 2", "model = 3", "unknown key 'model'"),
        ('kind = "ROLL"', 'kind = "LLR"', r"\[\[loss\]\] LLR: unknown key 'axes'"),
        ('"ROLL"', '"LLR"\n[[loss]]\nkind="ROLL"', r"\[\[loss\]\] LLR: eps is missing"),
        ("start = 0,", "begin = 0,", "or a ramp"),
        ("end = 0.05", "end = -1", r"weight \(lambda\): got -1"),
    ],
)
def test_mistakes_in_a_configuration(tmp_path, capsys, old, new, message):
    assert old in PLAIN
    path = written(tmp_path, PLAIN.replace(old, new, 1))
    assert trained(path, tmp_path) == BAD_USE
    error = capsys.readouterr().err
    assert error.count("polytope: error:") == 1
    line = next(line for line in error.splitlines() if line.startswith("polytope: error:"))
    with pytest.raises(InputError, match=message):
        raise InputError(line)
    assert not (tmp_path / "small.pt").exists()


def test_a_loss_that_does_not_fit_the_network(tmp_path, capsys):
    text = PLAIN.replace('start = "he"', 'activation = "softplus"')
    assert trained(written(tmp_path, text), tmp_path) == BAD_USE
    assert "softplus" in capsys.readouterr().err.lower()


def test_a_training_that_diverges_fails_and_says_where(tmp_path, capsys):
    text = PLAIN.split("[[loss]]")[0].replace("3e-3", '1e38\noptimizer = "sgd"')
    assert trained(written(tmp_path, text), tmp_path) == FAILED
    error = capsys.readouterr().err
    assert "training stopped in epoch 1, batch" in error
    assert f"'{tmp_path / 'small.checkpoint'}' kept the state after step" in error


def test_unusable_files_and_devices(tmp_path, capsys):
    with pytest.raises(FileProblem, match="no file"):
        read_config(tmp_path / "none.toml")
    with pytest.raises(FileProblem, match="cannot be read"):
        read_config(tmp_path)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(FileProblem, match="no TOML"):
        read_config(tmp_path / "bytes.toml")
    path = written(tmp_path)
    assert trained(path, tmp_path, "--device", "quantum") == BAD_USE
    assert "cpu or cuda" in capsys.readouterr().err
    (tmp_path / "small.checkpoint").write_bytes(b"hello")
    assert trained(path, tmp_path) == BAD_USE
    assert "no checkpoint" in capsys.readouterr().err
    text = PLAIN.replace('"digits"', '"gtsrb"')
    assert trained(written(tmp_path, text), tmp_path, "--data", str(tmp_path)) == BAD_USE
    assert "train.npz, test.npz" in capsys.readouterr().err
