"""Quick instances of the verification competition, against what its tools agreed on."""

from __future__ import annotations

import pandas as pd
import pytest

import polytope as pt
from tests.data import data_path

#: Instances of ACAS Xu, one of each kind and property, that take some tenths of a second.
ACASXU = [
    ("1_1", 1), ("2_5", 1), ("1_2", 2), ("1_6", 2), ("2_1", 2), ("1_1", 3), ("1_7", 3),
    ("3_9", 3), ("1_1", 4), ("1_9", 4), ("2_8", 4), ("3_5", 4),
]  # fmt: skip
MNISTFC = ["prop_10_0.05", "prop_12_0.05", "prop_4_0.03"]


def expected(folder: str, model: str, spec: str) -> str:
    table = pd.read_csv(data_path(folder, "expected.csv")).set_index(["onnx", "vnnlib"])
    return str(table.loc[(model, spec), "consensus"])


def check(folder: str, model: str, spec: str) -> None:
    net = pt.compile(data_path(folder, model))
    found = pt.verify(net, data_path(folder, spec), 60)
    assert found.verdict == expected(folder, model, spec)
    if found.verdict == "sat":
        assert found.replayed
    else:
        checked = pt.check(found.certificate(), net, "interval", data_path(folder, spec))
        assert checked.valid, checked.reason


@pytest.mark.parametrize(("name", "property_"), ACASXU)
def test_acasxu(name, property_):
    check("acasxu", f"ACASXU_run2a_{name}_batch_2000.onnx", f"prop_{property_}.vnnlib")


@pytest.mark.parametrize("name", MNISTFC)
def test_mnistfc(name):
    check("mnistfc", "mnist-net_256x2.onnx", f"{name}.vnnlib")
