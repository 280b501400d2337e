"""The three MMR-trained Fashion-MNIST networks reproduce their published numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from polytope.distances import boundary_distance, decision_distance
from polytope.model import compile
from tests.data import data_path

NAMES = ["fashion_mnist_mmr_4x200", "fashion_mnist_mmr_6x200", "fashion_mnist_mmr_20x100"]
#: How many digits expected.json gives.
DIGITS = 4


@pytest.mark.parametrize("name", NAMES)
def test_the_published_numbers(name: str) -> None:
    expected = json.loads(data_path("models", "expected.json").read_text())[name]
    with np.load(data_path("models", f"{name}.npz")) as file:
        depth = sum(key.startswith("W") for key in file)
        net = compile([(file[f"W{i}"], file[f"b{i}"]) for i in range(depth)])
    with np.load(data_path("fashion_mnist", "test.npz")) as file:
        images, labels = (file[key] for key in sorted(file, key=lambda k: -file[k].ndim))
    X = images.reshape(len(images), -1) / 255
    assert X.shape == (10000, 784)
    wrong = np.concatenate([net.predict(X[i : i + 1000]) for i in range(0, 10000, 1000)]) != labels
    assert round(float(wrong.mean()), DIGITS) == expected["test_error"]
    near, sign = boundary_distance(net, X[:2000]), decision_distance(net, X[:2000])
    assert (sign.distance >= 0).all()
    fraction = float((sign.distance <= near.distance).mean())
    assert round(fraction, DIGITS) == expected["fraction_dD_le_dB_first_2000_test_p2_no_box"]
