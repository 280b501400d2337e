"""Steps that are done once, what an item writes, and what it says to mistakes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from polytope.cli import main
from polytope.errors import FileProblem, InputError
from polytope.plot import new_figure
from polytope.reproduce import reproduce as reproducing
from polytope.reproduce.item import Item
from polytope.reproduce.items import ITEMS
from polytope.reproduce.mmr_models import SETTINGS, OnPart
from polytope.reproduce.reproduce import find_item, reproduce
from polytope.reproduce.run import Outcome, Run
from polytope.reproduce.store import load_step, save_step, step_path
from polytope.training.mmr import MMR
from polytope.training.networks import fully_connected
from polytope.training.recipe import Recipe

EXPECTED = {
    "roll-table1", "roll-table2", "roll-table3", "roll-figure1", "mmr-table1", "mmr-table2",
    "mmr-table3", "mmr-table4", "mmr-table5", "mmr-figure2", "mmr-figure3", "mmr-figure4",
    "recurjac-figure1", "recurjac-figure2", "recurjac-figure3", "llr-table6", "llr-figure7",
}  # fmt: skip


def outcome(table: pd.DataFrame) -> Outcome:
    figure = new_figure(2, 2)
    figure.subplots().plot([0, 1])
    return Outcome(table, figure, ("two points",), ("measured: 4",))


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Run], Outcome]], None]:
    """Put an item 'toy' in the place of all others."""

    def put(work: Callable[[Run], Outcome]) -> None:
        monkeypatch.setattr(reproducing, "ITEMS", (Item("toy", "a toy", "nowhere", work),))

    return put


def test_the_items_are_those_asked_for() -> None:
    assert {item.name for item in ITEMS} == EXPECTED
    assert len(ITEMS) == len(EXPECTED)


# Steps --------------------------------------------------------------------------------------


def test_a_finished_step_is_read_back(tmp_path: Path) -> None:
    calls: list[int] = []

    def work() -> dict[str, object]:
        calls.append(1)
        return {"values": np.arange(3), "name": "a"}

    run = Run("toy", "small", tmp_path)
    first = run.step("measure", {"k": 1}, work)
    again = Run("toy", "small", tmp_path).step("measure", {"k": 1}, work)
    assert len(calls) == 1
    np.testing.assert_array_equal(again["values"], [0, 1, 2])
    assert str(again["name"]) == "a"
    assert again["seconds"] == first["seconds"]


@pytest.mark.parametrize("other", [{"k": 2}, {"k": 1, "points": 5}])
def test_other_settings_are_another_step(tmp_path: Path, other: dict[str, int]) -> None:
    run = Run("toy", "small", tmp_path)
    assert run.step("measure", {"k": 1}, lambda: {"v": 1})["v"] == 1
    assert run.step("measure", other, lambda: {"v": 2})["v"] == 2
    assert run.step("measure", {"k": 1}, lambda: {"v": 3})["v"] == 1


def test_parts_go_on_after_an_interrupt(tmp_path: Path) -> None:
    done: list[int] = []
    broken = True

    def work(rows: slice) -> dict[str, object]:
        if broken and rows.start == 4:
            raise KeyboardInterrupt
        done.append(rows.start)
        return {"square": np.arange(rows.start, rows.stop) ** 2}

    run = Run("toy", "small", tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run.in_parts("squares", {}, 7, 2, work)
    broken = False
    found = run.in_parts("squares", {}, 7, 2, work)
    assert done == [0, 2, 4, 6]
    np.testing.assert_array_equal(found["square"], np.arange(7) ** 2)
    assert found["seconds"].ndim == 0


def test_a_damaged_step_is_named(tmp_path: Path) -> None:
    run = Run("toy", "small", tmp_path)
    run.step("measure", {}, lambda: {"v": 1})
    (path,) = (tmp_path / "toy" / "steps").iterdir()
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(FileProblem, match=r"measure-.*damaged.*delete it"):
        run.step("measure", {}, lambda: {"v": 1})


def test_a_step_of_other_settings_is_refused(tmp_path: Path) -> None:
    path = step_path(tmp_path, "a step: x", {"k": 1}, ".npz")
    assert "/" not in path.name
    assert ":" not in path.name
    save_step(path, {"k": 1}, {"v": 1})
    with pytest.raises(FileProblem, match="other settings"):
        load_step(path, {"k": 2})


def test_training_is_taken_up_and_then_read_back(tmp_path: Path) -> None:
    def fit(progress: Callable[[str, int, int], None]) -> np.ndarray:
        run = Run("toy", "smoke", tmp_path, progress=progress)
        torch.manual_seed(0)
        data = run.dataset("mnist")
        assert data.name == "digits"
        model = fully_connected(data.shape, (8,), data.classes)
        return run.fit("net", model, data, Recipe(2, rate=1e-2)).net.logits(np.zeros((1, 64)))

    def stop(_: str, done: int, total: int) -> None:
        if total and done == total - 1:
            raise KeyboardInterrupt

    steps: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        fit(stop)
    first = fit(lambda _, done, total: steps.append(done) if total else None)
    assert len(steps) > 1
    steps.clear()
    again = fit(lambda _, done, total: steps.append(done) if total else None)
    assert len(steps) <= 1  # told that it is done, and nothing else
    np.testing.assert_array_equal(first, again)


# The whole ------------------------------------------------------------------------------------


def test_files_and_text(tmp_path: Path, toy: Callable[..., None]) -> None:
    toy(lambda _: outcome(pd.DataFrame({"published": [1.5, None], "measured": [1.25, 2.0]})))
    found = reproduce("toy", "small", out=tmp_path)
    suffixes = [path.suffix for path in found.files]
    assert suffixes == [".csv", ".png", ".pdf", ".txt"]
    assert all(path.stat().st_size for path in found.files)
    table = pd.read_csv(found.files[0])
    np.testing.assert_array_equal(table["measured"], [1.25, 2.0])
    assert np.isnan(table["published"][1])
    text = found.files[3].read_text()
    for part in ("toy: a toy", "nowhere", "1.25", "small: two points", "measured: 4"):
        assert part in text


def test_unknown_items_list_the_known() -> None:
    with pytest.raises(InputError, match=r"no item 'mmr-table9'.*llr-figure7.*roll-table3"):
        find_item("mmr-table9")


def test_unknown_scale(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="scale: got 'tiny', expected one of smoke, small, full"):
        reproduce("mmr-table3", "tiny", out=tmp_path)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_missing_data_says_which_files_go_where(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match=r"mmr-figure4: .*gtsrb.*train\.npz.*--scale smoke"):
        reproduce("mmr-figure4", "small", data=tmp_path / "data", out=tmp_path / "out")


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(FileProblem, match=r"cannot make the folder.*another --out"):
        reproduce("roll-table2", "smoke", out=tmp_path / "out")


def test_the_command(
    tmp_path: Path, toy: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    toy(lambda _: outcome(pd.DataFrame({"measured": [1.25]})))
    assert main(["reproduce", "toy", "--out", str(tmp_path)]) == 0
    assert "toy-small.csv" in capsys.readouterr().out

    def stopped(_: Run) -> Outcome:
        raise KeyboardInterrupt

    toy(stopped)
    assert main(["reproduce", "toy", "--out", str(tmp_path)]) == 130
    assert "the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["reproduce", "nothing"], "no item 'nothing'"),
        (["reproduce", "mmr-table3", "--scale", "tiny"], "--scale: got 'tiny'"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_results_are_frozen(tmp_path: Path) -> None:
    run = Run("toy", "small", tmp_path)
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.scale = "full"  # type: ignore[misc]


def test_a_loss_of_a_part_of_the_batch() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    loss = MMR(model, (4,), 0.5, 0.5)
    x, y = torch.rand(10, 4), torch.randint(0, 3, (10,))
    part = OnPart(loss, 4)(x, y, epoch=1)
    assert part == loss(x[:4], y[:4], epoch=1)
    assert part != loss(x, y, epoch=1)


def test_published_settings_belong_to_full() -> None:
    own = SETTINGS[2.0]["gtsrb"]
    assert (own.lambda_at("full"), own.gamma) == (16, 0.4)
    assert own.lambda_at("small") != 16
    assert SETTINGS[2.0]["fashion_mnist"].lambda_at("small") == 10
