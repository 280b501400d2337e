"""The papers' networks, their first weights, and what makes no network."""

import math

import pytest
import torch
from torch import nn

import polytope as pt
from polytope.errors import InputError
from polytope.training.networks import (
    ACTIVATIONS,
    WIDTHS,
    Normalise,
    convolutional,
    fully_connected,
)


def sizes(model):
    return [layer.out_features for layer in model if isinstance(layer, nn.Linear)]


def test_the_papers_sizes():
    assert sizes(fully_connected((1, 28, 28), WIDTHS["fc1"], 10)) == [1024, 10]
    fc10 = fully_connected((1, 28, 28), WIDTHS["fc10"], 10)
    assert sizes(fc10) == [124, 104, 104, 104, 104, 104, 104, 104, 86, 86, 10]
    assert sizes(fully_connected((784,), WIDTHS["roll"], 10)) == [300] * 4 + [10]
    cnn = convolutional((1, 28, 28), 10)
    assert [tuple(p.shape) for p in cnn.parameters() if p.ndim > 1] == [
        (16, 1, 4, 4), (32, 16, 4, 4), (100, 32 * 49), (10, 100),
    ]  # fmt: skip
    assert pt.compile(cnn, (1, 28, 28)).units == 16 * 196 + 32 * 49 + 100


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_all_activations_compile(activation):
    model = fully_connected((1, 2, 3), [5, 4], 3, activation=activation, slope=0.3)
    x = torch.rand(4, 1, 2, 3)
    net = pt.compile(model, (1, 2, 3))
    torch.testing.assert_close(net.forward(x.double()).float(), model(x), atol=1e-5, rtol=1e-5)


def test_sides_that_are_odd():
    model = convolutional((3, 9, 7), 4, [2, 3], [5])
    assert model(torch.rand(2, 3, 9, 7)).shape == (2, 4)


def test_he_weights_are_cut_normals():
    torch.manual_seed(0)
    model = convolutional((1, 28, 28), 10, start="he")
    for layer in model:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            deviation = math.sqrt(2 / layer.weight[0].numel())
            assert not layer.bias.any()
            assert float(layer.weight.detach().abs().max()) <= 2 * deviation
    weight = model[5].weight.detach()
    # a normal cut at two deviations has 0.8796 of its deviation
    assert float(weight.std() * math.sqrt(weight[0].numel() / 2)) == pytest.approx(0.8796, rel=0.01)


def test_normalisation_is_a_layer_that_compiles_without_a_notice():
    model = fully_connected((3, 2, 2), [4], 3, normalise=(0.25, 0.5))
    plain = nn.Sequential(*list(model)[1:])
    x = torch.rand(5, 3, 2, 2)
    torch.testing.assert_close(model(x), plain((x - 0.25) / 0.5))
    assert pt.compile(model, (3, 2, 2)).notices == ()
    layer = Normalise([0.1, 0.2, 0.3], [1.0, 2.0, 4.0])
    expected = (x - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor(
        [1.0, 2.0, 4.0]
    )[:, None, None]  # fmt: skip
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fully_connected((4,), [], 3), "widths"),
        (lambda: fully_connected((4,), [0], 3), "widths"),
        (lambda: fully_connected((4,), [2.5], 3), "widths"),
        (lambda: fully_connected((4,), [2], 0), "classes"),
        (lambda: fully_connected((4,), [2], 3, activation="gelu"), "relu, leaky_relu"),
        (lambda: fully_connected((4,), [2], 3, start="xavier"), "torch, he"),
        (lambda: convolutional((4,), 3), "channels, height, width"),
        (lambda: convolutional((1, 3, 8), 3), "at least 4"),
        (lambda: Normalise(0.0, 0.0), "deviation"),
        (lambda: Normalise(float("nan"), 1.0), "mean"),
    ],
)
def test_what_makes_no_network(make, message):
    with pytest.raises(InputError, match=message):
        make()
