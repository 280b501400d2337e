"""scoRNN: its transition, its unrolled network, its regions and the losses of its lengths."""

import numpy as np
import pytest
import torch

import polytope as pt
from polytope.errors import InputError, UnsupportedOperation
from polytope.training import MMR, ROLL, Recipe, evaluate, train
from polytope.training.recurrent import EachLength, ScoRNN


def rnn(units=6, channels=2, classes=3, seed=0, **settings):
    torch.manual_seed(seed)
    model = ScoRNN(channels, classes, units, **settings).double()
    with torch.no_grad():  # away from the blocks that it begins with
        model.skew += 0.7 * torch.randn(units, units, dtype=torch.float64)
    return model


def by_hand(model, series):
    """The recurrence, in numpy."""
    U, b = (p.detach().numpy() for p in (model.inputs.weight, model.inputs.bias))
    V, c = (p.detach().numpy() for p in (model.outputs.weight, model.outputs.bias))
    upper = np.triu(model.skew.detach().numpy(), 1)
    A, one = upper - upper.T, np.eye(len(upper))
    W = np.linalg.inv(one + A) @ (one - A) @ np.diag(model.signs.numpy())
    h = np.zeros(len(A))
    for x in series:
        z = U @ x + b + W @ h
        h = np.where(z > 0, z, model.slope * z)
    return V @ h + c


@pytest.mark.parametrize("units", [1, 2, 7, 64])
def test_the_transition_is_orthogonal_also_after_training(units):
    model = rnn(units)
    W = model.transition()
    one = torch.eye(units, dtype=torch.float64)
    assert float((W @ W.T - one).detach().abs().max()) < 1e-12
    x = np.random.default_rng(0).normal(size=(8, 3, 2))
    train(model, pt.Examples(x, np.arange(8) % 3), Recipe(5, batch=4, rate=0.1))
    assert (units == 1) == torch.equal(W, model.transition())  # a 1 x 1 A is 0
    W = model.transition()
    assert float((W @ W.T - one).detach().abs().max()) < 1e-12


def test_signs_of_the_scaling_choose_the_determinant():
    for negative in range(4):
        det = float(torch.linalg.det(rnn(3, negative=negative).transition().detach()))
        assert det == pytest.approx((-1.0) ** negative)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_unrolled_recurrent_and_by_hand_are_the_same(length):
    model = rnn(slope=0.2)
    x = torch.randn(4, length, 2, dtype=torch.float64)
    net = pt.compile(model, (length, 2))
    expected = np.stack([by_hand(model, series.numpy()) for series in x])
    np.testing.assert_allclose(model(x).detach().numpy(), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(net.logits(x), expected, rtol=0, atol=1e-12)
    assert net.units == length * model.units


def test_regions_of_a_tiny_network():
    model = rnn(3, seed=2)
    net = pt.compile(model, (3, 2))
    x = np.random.default_rng(1).normal(size=(3, 2))
    region = net.region(x)
    rng = np.random.default_rng(2)
    inside = outside = 0
    for step in rng.normal(size=(400, 6)) * 0.3:
        point = x.ravel() + step
        same = net.region(point.reshape(3, 2)).pattern == region.pattern
        assert region.contains(point) == same
        if same:
            inside += 1
            affine = region.jacobian @ point + region.offset
            np.testing.assert_allclose(affine, by_hand(model, point.reshape(3, 2)), atol=1e-12)
        else:
            outside += 1
    assert min(inside, outside) > 20


def test_margins_grow_with_roll_and_stability_is_by_time_and_channel():
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 5, 24)
    y = rng.integers(0, 2, 24)
    x = rng.normal(size=(24, 4, 2)) * 0.3 + (2 * y - 1)[:, None, None]
    x *= (np.arange(4) < lengths[:, None])[..., None]
    examples = pt.Examples(x, y, lengths)
    medians = []
    for weight in (0.0, 0.5):
        torch.manual_seed(0)
        model = ScoRNN(2, 2, 8).double()
        loss = EachLength(model, ROLL, weight=weight, C=4.0)
        done = train(model, examples, Recipe(30, batch=12, optimizer="amsgrad", rate=0.01),
                     losses=[loss])  # fmt: skip
        assert "ROLL" in done.history
        assert evaluate(model, examples).error < 0.1
        rows = [np.flatnonzero(lengths == length) for length in (2, 3, 4)]
        margins = [
            pt.boundary_distance(pt.compile(model, (n, 2)), x[part, :n], p=2).distance
            for n, part in zip((2, 3, 4), rows, strict=True)
        ]
        medians.append(np.median(np.concatenate(margins)))
    assert medians[1] > 2 * medians[0]
    net = pt.compile(model, (3, 2))
    found = pt.stability_intervals(net, x[rows[1], :3])
    assert found.up.shape == (len(rows[1]), 3, 2)  # times and channels
    series = x[rows[1][0], :3].copy()
    series[1, 0] += 0.999 * found.up[0, 1, 0]
    assert net.region(series).pattern == net.region(x[rows[1][0], :3]).pattern
    series[1, 0] += 0.002 * found.up[0, 1, 0]
    assert net.region(series).pattern != net.region(x[rows[1][0], :3]).pattern


def test_each_length_has_a_loss_of_its_own():
    model = rnn()
    loss = EachLength(model, MMR, gamma_b=0.3, weight=0.5)
    for length in (2, 3, 2):
        x = torch.randn(4, length, 2, dtype=torch.float64)
        expected = MMR(model, (length, 2), 0.3, weight=0.5)(x)
        torch.testing.assert_close(loss(x), expected)
    assert repr(loss) == "EachLength(MMR, gamma_b=0.3, weight=0.5)"
    with pytest.raises(InputError, match="series"):
        loss(torch.zeros(3, 2))


@pytest.mark.parametrize(
    "settings",
    [
        {"channels": 0},
        {"classes": 1.5},
        {"units": True},
        {"negative": -1},
        {"negative": 7},
        {"slope": float("nan")},
    ],
)
def test_unusable_settings(settings):
    with pytest.raises(InputError, match="ScoRNN"):
        ScoRNN(**{"channels": 2, "classes": 3, "units": 6, **settings})


def test_unusable_series():
    with pytest.raises(InputError, match=r"expected \(n, length, 2\)"):
        rnn()(torch.zeros(3, 2, 5, dtype=torch.float64))
    with pytest.raises((InputError, UnsupportedOperation)):
        pt.compile(rnn(), (2, 5))
