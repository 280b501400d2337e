"""Items from beginning to end at the scale "smoke", on the digits that come with polytope."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from polytope.reproduce.reproduce import reproduce


@pytest.fixture(autouse=True)
def nothing_but_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POLYTOPE_DATA", raising=False)


def test_landscapes(tmp_path: Path) -> None:
    table = reproduce("recurjac-figure2", "smoke", out=tmp_path).outcome.table
    # Two layers of leaky ReLUs: here no logit is stationary anywhere, as the paper found.
    assert table["l_inf nowhere %"][0] == 100
    assert (np.diff(table["l_inf mean"]) < 0).all()
    assert (table["l_2 mean"] > table["l_inf mean"]).all()


def test_guaranteed_optima(tmp_path: Path) -> None:
    found = reproduce("mmr-table3", "smoke", out=tmp_path)
    table = found.outcome.table.set_index("training")
    assert table["published optimal %"].tolist() == [1.12, 99.97]
    assert table["optimal %"]["MMR"] > table["optimal %"]["plain"]
    assert (table["error %"] < 20).all()
    assert "digits" in found.text
    models = sorted((tmp_path / "models").iterdir())
    # Another item takes the same network from its checkpoint.
    bounds = reproduce("mmr-table4", "smoke", out=tmp_path).outcome.table
    assert sorted((tmp_path / "models").iterdir()) == models
    assert bounds["improved"][0] >= bounds["Theorem 3.1"][0] > 0


def test_larger_regions(tmp_path: Path) -> None:
    table = reproduce("roll-table1", "smoke", out=tmp_path).outcome.table
    medians = table.set_index(["loss", table.columns[3]])["P50"]
    for norm in ("l_1", "l_2"):
        assert medians["ROLL C=0.25 lambda=2", norm] > medians["vanilla", norm]
