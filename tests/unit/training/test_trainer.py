"""`train`: against a plain loop; seeds, choices, losses, and settings that are refused."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import polytope as pt
from polytope.errors import InputError
from polytope.training import ROLL, Recipe, evaluate, train
from polytope.training.evaluation import batches
from polytope.training.recurrent import EachLength, ScoRNN


def blobs(count=60, seed=0, classes=3):
    """Points of the plane around three centres."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, count)
    return pt.Examples(rng.normal(size=(count, 2)) * 0.6 + np.eye(3, 2)[y] * 2 - y[:, None], y)


def net(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3)).to(dtype)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def plain_loop(model, examples, recipe, make):
    """The same training, written down once more."""
    optimizer = make(model.parameters())
    x, y = torch.from_numpy(examples.x), torch.from_numpy(examples.y)
    for epoch in range(1, recipe.epochs + 1):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * (0.1 if epoch > recipe.epochs - recipe.drop else 1)
        order = np.random.default_rng([recipe.seed, epoch]).permutation(len(x))
        for start in range(0, len(x), recipe.batch):
            rows = order[start : start + recipe.batch]
            optimizer.zero_grad()
            functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()


@pytest.mark.parametrize(
    ("settings", "make"),
    [
        ({"optimizer": "sgd", "rate": 0.1}, lambda p: torch.optim.SGD(p, 0.1)),
        (
            {"optimizer": "sgd", "rate": 0.1, "momentum": 0.5, "weight_decay": 0.01},
            lambda p: torch.optim.SGD(p, 0.1, momentum=0.5, weight_decay=0.01),
        ),
        (
            {"optimizer": "nesterov", "rate": 0.05, "momentum": 0.9, "drop": 2},
            lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, nesterov=True),
        ),
        ({"optimizer": "adam", "rate": 0.01}, lambda p: torch.optim.Adam(p, 0.01)),
        (
            {"optimizer": "amsgrad", "rate": 0.01, "drop": 1},
            lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
        ),
    ],
)
def test_equals_a_plain_loop(settings, make):
    recipe = Recipe(4, batch=16, seed=3, **settings)
    ours, theirs = net(), net()
    train(ours, blobs(), recipe)
    plain_loop(theirs, blobs(), recipe, make)
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-12, atol=1e-12)


def test_learns_digits_and_tells_its_history():
    data = pt.load_dataset("digits")
    part, validation = data.train.split(200)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    recipe = Recipe(20, batch=64, rate=3e-3, drop=5, choose="error")
    done = train(model, part, recipe, validation=validation)
    table = done.to_frame()
    assert done.finished
    assert evaluate(model, data.test).error < 0.06
    assert table["epoch"].tolist() == list(range(1, 21))
    assert table["rate"].tolist() == pytest.approx([3e-3] * 15 + [3e-4] * 5)
    assert table["cross_entropy"].iloc[-1] < table["cross_entropy"].iloc[0] / 5
    assert (table["seconds"].diff().dropna() > 0).all()
    best = table["validation_error"].idxmin()
    assert done.epoch == table["epoch"][best]
    assert evaluate(model, validation).error == table["validation_error"][best]
    assert not model.training


def test_the_epoch_of_least_loss_is_kept():
    examples, validation = blobs(40, seed=1), blobs(30, seed=2)
    model = net()
    done = train(model, examples, Recipe(30, batch=8, rate=0.3, choose="loss"),
                 validation=validation)  # fmt: skip
    column = done.history["validation_loss"]
    assert done.epoch == 1 + int(np.argmin(column))
    assert done.epoch < 30
    assert evaluate(model, validation).loss == min(column)


def test_equal_seeds_give_equal_numbers_and_leave_torch_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found = []
    for seed in (1, 1, 2):
        model = nn.Sequential(nn.Dropout(0.3), net())
        torch.set_rng_state(before)
        torch.rand(len(found))  # the state outside does not matter
        state = torch.get_rng_state()
        train(model, blobs(), Recipe(2, batch=16, seed=seed),
              losses=[ROLL(model, (2,), axes=1)])  # fmt: skip
        assert torch.equal(torch.get_rng_state(), state)
        found.append(weights(model))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_losses_are_added_with_the_epoch_and_named():
    seen = []

    def size(x, y, *, epoch):  # noqa: ARG001
        seen.append(epoch)
        return model[0].weight.square().sum()

    model, other = net(), net()
    done = train(model, blobs(), Recipe(2, batch=30, optimizer="sgd", rate=0.1),
                 losses=[size, size])  # fmt: skip
    assert seen == [1] * 4 + [2] * 4
    assert {"size_1", "size_2", "cross_entropy"} < set(done.history)
    x, y = torch.from_numpy(blobs().x), torch.from_numpy(blobs().y)
    for epoch in (1, 2):
        for rows in np.random.default_rng([0, epoch]).permutation(60).reshape(2, 30):
            loss = functional.cross_entropy(other(x[rows]), y[rows])
            loss = loss + 2 * other[0].weight.square().sum()
            gradients = torch.autograd.grad(loss, list(other.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(other.parameters(), gradients, strict=True):
                    parameter -= 0.1 * gradient
    torch.testing.assert_close(weights(model), weights(other), rtol=1e-12, atol=1e-12)


class Whole:
    """A loss of a whole step."""

    replaces_task = True

    def __init__(self, model):
        self.model = model

    def __call__(self, x, y, *, epoch):  # noqa: ARG002
        return self.model[0].weight.square().sum()


def test_a_loss_of_a_whole_step_replaces_the_cross_entropy():
    model = net()
    before = model[2].weight.detach().clone()
    done = train(model, blobs(), Recipe(1), losses=[Whole(model)])
    assert "cross_entropy" not in done.history
    assert torch.equal(model[2].weight, before)
    with pytest.raises(InputError, match="at most one"):
        train(model, blobs(), Recipe(1), losses=[Whole(model), Whole(model)])
    with pytest.raises(InputError, match="another module"):
        train(model, blobs(), Recipe(1), losses=[Whole(net())])


def test_a_single_output_is_the_logit_of_class_one():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 2))
    examples = pt.Examples(x, (x.sum(1) > 0).astype(int))
    model = nn.Linear(2, 1).double()
    train(model, examples, Recipe(60, rate=0.05))
    assert evaluate(model, examples).error < 0.05


def test_series_of_all_lengths_count_alike():
    rng = np.random.default_rng(0)
    lengths = np.array([2, 4, 4, 3, 2, 2, 4])
    x = rng.normal(size=(7, 4, 2)) * (np.arange(4) < lengths[:, None])[..., None]
    examples = pt.Examples(x, rng.integers(0, 3, 7), lengths)
    torch.manual_seed(0)
    model = ScoRNN(2, 3, 6).double()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    C, weight = 1.5, 0.3
    train(model, examples, Recipe(1, batch=7, optimizer="sgd", rate=1.0),
          losses=[EachLength(model, ROLL, weight=weight, C=C)])  # fmt: skip
    twin = ScoRNN(2, 3, 6).double()
    twin.load_state_dict({**model.state_dict(), **start})
    total = torch.zeros((), dtype=torch.float64)
    for row, length in enumerate(lengths):
        series = torch.from_numpy(x[row : row + 1, :length])
        label = torch.from_numpy(examples.y[row : row + 1])
        loss = ROLL(twin, (int(length), 2), weight=weight, C=C)
        total = total + functional.cross_entropy(twin(series), label) + loss(series)
    (total / 7).backward()
    for name, parameter in twin.named_parameters():
        moved = start[name] - dict(model.named_parameters())[name].detach()
        torch.testing.assert_close(moved, parameter.grad, rtol=1e-9, atol=1e-12)


def test_batches_are_in_the_dtype_of_the_module():
    examples = blobs(4)
    ((x, y),) = batches(net(dtype=torch.float32), examples, np.array([2, 0]))
    assert x.dtype == torch.float32
    np.testing.assert_allclose(x.numpy(), examples.x[[2, 0]], rtol=1e-6)
    assert y.tolist() == examples.y[[2, 0]].tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs"),
        ({"epochs": 2.5}, "epochs"),
        ({"epochs": True}, "epochs"),
        ({"batch": 0}, "batch"),
        ({"seed": -1}, "seed"),
        ({"drop": 3}, "drop"),
        ({"optimizer": "adagrad"}, "adam, amsgrad, sgd, nesterov"),
        ({"choose": "best"}, "last, error, loss"),
        ({"rate": 0}, "rate"),
        ({"rate": float("nan")}, "rate"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"optimizer": "sgd", "momentum": 1.0}, "momentum"),
        ({"optimizer": "nesterov"}, "momentum"),
        ({"momentum": 0.9}, "momentum"),
    ],
)
def test_unusable_settings(settings, message):
    with pytest.raises(InputError, match=message):
        Recipe(**{"epochs": 2, **settings})


def test_what_does_not_fit_together():
    with pytest.raises(InputError, match="validation"):
        train(net(), blobs(), Recipe(1, choose="error"))
    with pytest.raises(InputError, match="no examples"):
        train(net(), blobs().take(slice(0)), Recipe(1))
    with pytest.raises(InputError, match="no examples"):
        evaluate(net(), blobs().take(slice(0)))
    with pytest.raises(InputError, match="a label is 2, but the module has 2 outputs"):
        train(nn.Linear(2, 2).double(), blobs(), Recipe(1))
    with pytest.raises(InputError, match=r"expected \(n, classes\)"):
        train(nn.Sequential(nn.Linear(2, 3), nn.Flatten(0)).double(), blobs(), Recipe(1))
    with pytest.raises(InputError, match="a batch of one"):
        train(nn.BatchNorm1d(2).double(), blobs(), Recipe(1, batch=59))
    with pytest.raises(InputError, match="no parameters"):
        train(nn.ReLU(), blobs(), Recipe(1))


@pytest.mark.parametrize(
    ("x", "y", "lengths", "message"),
    [
        (np.zeros(3), np.zeros(3, int), None, "x: got"),
        (np.zeros((3, 2), int), np.zeros(3, int), None, "x: got"),
        (np.full((3, 2), np.nan), np.zeros(3, int), None, "NaN"),
        (np.zeros((3, 2)), np.zeros(2, int), None, "y: got"),
        (np.zeros((3, 2)), np.zeros(3), None, "y: got"),
        (np.zeros((3, 2)), np.array([0, -1, 0]), None, "y: got"),
        (np.zeros((3, 2)), np.zeros(3, int), np.ones(3, int), "lengths"),
        (np.zeros((3, 2, 1)), np.zeros(3, int), np.array([0, 1, 2]), "lengths"),
        (np.zeros((3, 2, 1)), np.zeros(3, int), np.array([1, 3, 2]), "lengths"),
    ],
)
def test_unusable_examples(x, y, lengths, message):
    with pytest.raises(InputError, match=message):
        pt.Examples(x, y, lengths)


def test_examples_are_divided_and_normalised():
    examples = blobs(20)
    rest, drawn = examples.split(5, seed=1)
    assert (len(rest), len(drawn)) == (15, 5)
    together = {tuple(row) for row in np.concatenate([rest.x, drawn.x])}
    assert together == {tuple(row) for row in examples.x}
    assert rest.split(3, seed=1)[1].x.shape == (3, 2)
    np.testing.assert_allclose(examples.normalised(0.5, 2).x, (examples.x - 0.5) / 2)
    for count in (0, 20, True, 1.5):
        with pytest.raises(InputError, match="split"):
            examples.split(count)
