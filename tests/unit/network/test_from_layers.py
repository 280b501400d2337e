"""Lists of layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polytope.errors import InputError
from polytope.network.from_layers import read_layers
from tests.oracle.interpreter import run_graph

RNG = np.random.default_rng(3)
LAYERS = [
    (RNG.normal(size=(5, 4)), RNG.normal(size=5)),
    (RNG.normal(size=(6, 5)), None),
    (RNG.normal(size=(3, 6)), RNG.normal(size=3)),
]


def test_the_graph_is_the_layers_with_relu_between() -> None:
    graph = read_layers(LAYERS).graph
    assert graph.input_shape == (4,)
    assert graph.output_shape == (3,)
    for x in RNG.normal(size=(20, 4)):
        y = x
        for number, (weight, bias) in enumerate(LAYERS):
            y = weight @ (np.maximum(y, 0) if number else y) + (0 if bias is None else bias)
        np.testing.assert_allclose(run_graph(graph, x), y, rtol=1e-13, atol=1e-13)


def test_torch_and_numpy_layers_are_the_same_graph() -> None:
    tensors = [
        (torch.nn.Parameter(torch.from_numpy(w)), None if b is None else torch.from_numpy(b))
        for w, b in LAYERS
    ]
    assert read_layers(tensors).graph.hash == read_layers(LAYERS).graph.hash


def test_float32_is_read_exactly() -> None:
    weight = RNG.normal(size=(2, 3)).astype(np.float32)
    graph = read_layers([(torch.from_numpy(weight), None)]).graph
    assert np.array_equal(graph.constants["layers.0.weight"], weight.astype(np.float64))


def test_the_arrays_are_copied() -> None:
    weight = np.ones((1, 2))
    graph = read_layers([(weight, None)]).graph
    weight[:] = 7
    assert run_graph(graph, np.ones(2)) == pytest.approx(2)


def test_one_weight_used_twice_and_a_single_unit() -> None:
    weight = np.array([[2.0]])
    graph = read_layers([(weight, np.array([-1.0])), (weight, None)]).graph
    np.testing.assert_allclose(run_graph(graph, np.array([3.0])), [10.0])
    np.testing.assert_allclose(run_graph(graph, np.array([0.0])), [0.0])


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "an empty list"),
        (3, "got int"),
        ([np.ones((2, 2))], "layer 0: expected a pair"),
        ([(np.ones(3), None)], r"layer 0: W must be \(out, in\), got shape \(3,\)"),
        ([(np.ones((0, 3)), None)], "layer 0: W must be"),
        ([(np.ones((2, 3)), np.ones(3))], r"layer 0: .* so b must have shape \(2,\), got \(3,\)"),
        ([(np.ones((2, 3)), None), (np.ones((4, 3)), None)], "layer 1: .* the 2 outputs"),
        ([(np.ones((2, 3)), None), (np.full((4, 2), np.nan), None)], "layer 1: W holds NaN"),
        ([(np.ones((2, 3)), np.array([0, np.inf]))], "layer 0: b holds NaN or infinity"),
        ([(np.array([["a"]]), None)], "layer 0: W must be an array of real numbers"),
        ([(np.ones((2, 3)) * 1j, None)], "layer 0: W must be an array of real numbers"),
    ],
)
def test_what_is_no_list_of_layers_is_refused(layers: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_layers(layers)  # type: ignore[arg-type]
