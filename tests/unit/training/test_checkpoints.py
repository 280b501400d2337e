"""Trainings that are stopped, killed, damaged, or run into NaN."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import polytope as pt
from polytope.errors import Diverged, FileProblem, PolytopeError
from polytope.training import ROLL, Recipe, train

EXAMPLES = pt.Examples(
    np.random.default_rng(0).normal(size=(40, 5)), np.random.default_rng(1).integers(0, 3, 40)
)
VALIDATION = EXAMPLES.take(slice(20))


def net():
    """A network whose training draws (dropout) and has buffers (batch norm)."""
    torch.manual_seed(0)
    layers = nn.Linear(5, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(0.2), nn.Linear(9, 3)
    return nn.Sequential(*layers).double()


def recipe(optimizer="adam", **settings):
    momentum = 0.9 if optimizer == "nesterov" else 0.0
    return Recipe(5, batch=8, optimizer=optimizer, rate=0.05, momentum=momentum, drop=2,
                  **{"choose": "loss", **settings})  # fmt: skip


def losses(model):
    return [ROLL(model, (5,), weight=0.1, axes=2, batch_norm="batch")]


def same(one, other):
    """Whether two results are equal to the last bit, times aside."""
    assert {**one.history, "seconds": 0} == {**other.history, "seconds": 0}
    assert one.epoch == other.epoch
    mine, theirs = one.model.state_dict(), other.model.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    return True


def run(model, path=None, progress=None, **settings):
    return train(
        model, EXAMPLES, recipe(**settings), losses=losses(model), validation=VALIDATION,
        checkpoint=path, progress=progress,
    )  # fmt: skip


def stopping_at(step, how):
    def progress(done, total):
        assert total == 25
        if done == step:
            how()

    return progress


def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def raise_interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize("optimizer", ["adam", "amsgrad", "sgd", "nesterov"])
def test_ctrl_c_saves_and_the_training_goes_on_bit_for_bit(tmp_path, optimizer):
    whole = run(net(), optimizer=optimizer)
    path = tmp_path / "a.checkpoint"
    for step in (3, 10, 19):  # in an epoch, at its end, and in the dropped rate
        part = run(net(), path, stopping_at(step, ctrl_c), optimizer=optimizer)
        assert not part.finished
        assert part.epoch == step // 5
        assert len(part.to_frame()) == step // 5
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    done = run(net(), path, optimizer=optimizer)
    assert done.finished
    assert same(done, whole)


def test_an_interrupt_in_a_step_goes_back_to_a_whole_one(tmp_path):
    whole, path = run(net()), tmp_path / "a.checkpoint"
    part = run(net(), path, stopping_at(8, raise_interrupt))
    assert not part.finished
    assert part.epoch == 1
    assert same(run(net(), path), whole)


def test_an_ended_training_is_returned_at_once(tmp_path):
    path = tmp_path / "a.checkpoint"
    whole = run(net(), path)
    content = path.read_bytes()
    calls = []
    again = run(net(), path, lambda done, total: calls.append((done, total)))
    assert calls == [(25, 25)]
    assert same(again, whole)
    assert again.history["seconds"] == whole.history["seconds"]
    assert content == path.read_bytes()


CHILD = """
import sys, time
sys.path.insert(0, {folder!r})
import test_checkpoints as t
t.train(t.net(), t.EXAMPLES, t.recipe(), losses=[], validation=t.VALIDATION,
        checkpoint={path!r}, save_every=0, progress=lambda done, total: time.sleep(0.1))
"""


def test_a_killed_training_goes_on_bit_for_bit(tmp_path):
    path = tmp_path / "a.checkpoint"
    code = CHILD.format(folder=str(Path(__file__).parent), path=str(path))
    root = str(Path(pt.__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen([sys.executable, "-c", code], env=environment)
    try:
        deadline = time.monotonic() + 120
        while not path.exists():
            assert child.poll() is None, "the training ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.5)
    finally:
        child.kill()
    assert child.wait() == -signal.SIGKILL
    seen = []
    done = train(net(), EXAMPLES, recipe(), validation=VALIDATION, checkpoint=path,
                 progress=lambda at, _: seen.append(at))  # fmt: skip
    assert 0 < seen[0] < 25
    assert same(done, train(net(), EXAMPLES, recipe(), validation=VALIDATION))


def test_no_file_is_left_behind(tmp_path):
    run(net(), tmp_path / "a.checkpoint")
    assert [file.name for file in tmp_path.iterdir()] == ["a.checkpoint"]


def test_every_damage_is_noticed(tmp_path):
    path = tmp_path / "a.checkpoint"

    def resume(progress=None):
        train(net(), EXAMPLES, recipe(), validation=VALIDATION, checkpoint=path, progress=progress)

    resume(stopping_at(8, ctrl_c))
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in [0, 25, len(content) - 1, *rng.integers(0, len(content), 20)]:
        changed = bytearray(content)
        changed[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises(FileProblem, match="checkpoint"):
            resume()
    for part in (b"", content[:10], content[: len(content) // 2], b"hello " * 100):
        path.write_bytes(part)
        with pytest.raises(FileProblem, match="checkpoint"):
            resume()
        assert path.read_bytes() == part


class Evil:
    """Unpickling it would make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_nothing_is_unpickled(tmp_path):
    import hashlib

    from polytope.training.checkpoint import MAGIC

    path, trap = tmp_path / "a.checkpoint", str(tmp_path / "trap")
    torch.save({"made_by": Evil(trap)}, tmp_path / "payload")
    for payload in ((tmp_path / "payload").read_bytes(), pickle.dumps(Evil(trap), protocol=2)):
        path.write_bytes(MAGIC + hashlib.sha256(payload).digest() + payload)
        with pytest.raises(FileProblem, match="cannot read"):
            run(net(), path)
    assert not os.path.exists(trap)


def test_another_training_is_refused_by_name(tmp_path):
    path = tmp_path / "a.checkpoint"
    run(net(), path)
    model = net()
    with pytest.raises(FileProblem, match=r"its rate was 0\.05, now 0\.01"):
        train(model, EXAMPLES, Recipe(5, batch=8, rate=0.01, drop=2, choose="loss"),
              losses=losses(model), validation=VALIDATION, checkpoint=path)  # fmt: skip
    with pytest.raises(FileProblem, match="its losses was"):
        train(net(), EXAMPLES, recipe(), validation=VALIDATION, checkpoint=path)
    model = net()
    with pytest.raises(FileProblem, match="its examples was"):
        train(model, VALIDATION, recipe(), losses=losses(model), validation=VALIDATION,
              checkpoint=path)  # fmt: skip
    path.unlink()
    train(net(), EXAMPLES, recipe(), validation=VALIDATION, checkpoint=path)
    model = nn.Sequential(nn.Linear(5, 3)).double()
    with pytest.raises(FileProblem, match="its network was"):
        train(model, EXAMPLES, recipe(), validation=VALIDATION, checkpoint=path)


def test_a_checkpoint_that_cannot_be_written(tmp_path):
    with pytest.raises(FileProblem, match="cannot write"):
        run(net(), tmp_path / "none" / "a.checkpoint")
    with pytest.raises(FileProblem, match="cannot be read"):
        run(net(), tmp_path)


def spoiled(model, epoch, value):
    """A loss that is not finite from an epoch on."""

    def strange(x, y, *, epoch=None, _from=epoch):
        del x, y
        own = model[0].weight.sum() * 0
        return own + value if epoch >= _from else own

    return strange


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_stops_says_where_and_keeps_the_last_good_state(tmp_path, value):
    path, model = tmp_path / "a.checkpoint", net()
    with pytest.raises(Diverged, match=r"epoch 3, batch 1 of 5: the loss strange is (nan|inf)"):
        train(model, EXAMPLES, recipe(), losses=[spoiled(model, 3, value)],
              validation=VALIDATION, checkpoint=path)  # fmt: skip
    good = net()
    stopped = train(good, EXAMPLES, recipe(), losses=[spoiled(good, 9, value)],
                    validation=VALIDATION, progress=stopping_at(10, ctrl_c))  # fmt: skip
    assert not stopped.finished
    mine, theirs = model.state_dict(), good.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    healthy = net()
    done = train(healthy, EXAMPLES, recipe(), losses=[spoiled(healthy, 9, value)],
                 validation=VALIDATION, checkpoint=path)  # fmt: skip
    assert done.finished


def test_a_parameter_that_overflows_is_named():
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    with pytest.raises(Diverged, match=r"epoch 1, batch \d of 5: the (loss|gradient|parameter)"):
        train(model, EXAMPLES, Recipe(5, batch=8, optimizer="sgd", rate=1e38))
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())

    class Steep:
        def __call__(self, x, y, *, epoch):  # noqa: ARG002
            return model[2].bias.sum().clamp(min=0).sqrt() * 0 + (model[2].bias[0] * 0).sqrt()

    with pytest.raises(Diverged, match=r"gradient of '2\.bias' holds NaN"):
        train(model, EXAMPLES, Recipe(1, batch=8), losses=[Steep()])


def test_a_regulariser_whose_values_overflow_is_named():
    model = net()

    def overflows(x, y, *, epoch):  # noqa: ARG001
        raise PolytopeError("ROLL: NaN or infinity although the parameters are finite")

    with pytest.raises(Diverged, match="epoch 1, batch 1 of 5: ROLL: NaN or infinity"):
        train(model, EXAMPLES, recipe(choose="last"), losses=[overflows])
