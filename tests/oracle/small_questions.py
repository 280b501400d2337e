"""Random small networks, degenerate on purpose, points in them, and the answer by enumeration.

A network is drawn from a seed, a kind and a flaw; a point from a place.  The answer is the least
distance to the adversarial part of any linear region of the box, one program for each region that
could hold a nearer point than the best before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import nn

import polytope as pt
from polytope.regions.domain import Domain, as_domain
from polytope.regions.exact_crossing import row_ids
from polytope.regions.exact_interior import interior_point
from polytope.regions.exact_maps import ExactMaps
from polytope.robustness.cell import Cell, adversarial_cell, cell_distance
from polytope.rows import classes_of
from solvers.norms import dual_exponent

KINDS = (
    "plain", "deep", "leaky", "clipped", "pooled", "residual", "convolution", "one_output", "linear"
)  # fmt: skip
FLAWS = ("none", "no_biases", "dead", "duplicates", "tiny", "huge", "mixed", "integers", "tied")
PLACES = ("anywhere", "boundary", "corner", "decision", "origin")
BOXES = ("none", "wide", "tight", "flat")


class Residual(nn.Module):
    """A residual sum, a pool of pairs, and leaky units."""

    def __init__(self, d: int, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(d, width), nn.Linear(width, width)
        self.pool, self.last = nn.MaxPool1d(2), nn.Linear(width // 2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = x + nn.functional.leaky_relu(self.second(x), 0.1)
        return self.last(self.pool(x.unsqueeze(1)).squeeze(1))


def model_of(kind: str, d: int) -> nn.Module:
    """A module of at most 24 units, as torch initialises it."""
    if kind == "plain":
        return nn.Sequential(nn.Linear(d, 12), nn.ReLU(), nn.Linear(12, 3))
    if kind == "deep":
        return nn.Sequential(
            nn.Linear(d, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(),
            nn.Linear(5, 4),
        )  # fmt: skip
    if kind == "leaky":
        return nn.Sequential(
            nn.Linear(d, 7), nn.LeakyReLU(0.1), nn.Linear(7, 5), nn.LeakyReLU(-0.5), nn.Linear(5, 2)
        )
    if kind == "clipped":
        return nn.Sequential(
            nn.Linear(d, 5), nn.Hardtanh(), nn.Linear(5, 4), nn.ReLU6(), nn.Linear(4, 3)
        )
    if kind == "pooled":
        return nn.Sequential(
            nn.Linear(d, 8), nn.Unflatten(1, (1, 8)), nn.MaxPool1d(3, 2), nn.Flatten(),
            nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 3),
        )  # fmt: skip
    if kind == "residual":
        return Residual(d, 6)
    if kind == "convolution":
        return nn.Sequential(
            nn.Unflatten(1, (1, d)), nn.Conv1d(1, 2, 2, padding=1), nn.ReLU(), nn.MaxPool1d(2, 1),
            nn.Flatten(), nn.Linear(2 * d, 3),
        )  # fmt: skip
    if kind == "one_output":
        return nn.Sequential(
            nn.Linear(d, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 1)
        )
    assert kind == "linear"
    return nn.Linear(d, 4)


@torch.no_grad()
def spoil(model: nn.Module, flaw: str, rng: np.random.Generator) -> None:
    """Make a network degenerate."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv1d)]
    if flaw == "no_biases":
        for layer in layers:
            layer.bias.zero_()
    elif flaw == "dead":
        for layer in layers[:-1]:
            layer.weight[0] = 0.0
            layer.bias[0] = 0.0
            layer.bias[-1] -= 100.0
    elif flaw == "duplicates":
        for layer in layers[:-1]:
            layer.weight[1], layer.bias[1] = layer.weight[0], layer.bias[0]
            if len(layer.weight) > 3:
                layer.weight[3], layer.bias[3] = -2 * layer.weight[2], -2 * layer.bias[2]
    elif flaw in ("tiny", "huge") and len(layers) > 1:
        size = 1e-8 if flaw == "tiny" else 1e8
        layers[0].weight *= size
        layers[0].bias *= size
        layers[1].weight /= size
    elif flaw == "mixed":
        for layer in layers[:-1]:
            sizes = torch.as_tensor(10.0 ** rng.integers(-8, 9, len(layer.weight)))
            layer.weight *= sizes.reshape(-1, *[1] * (layer.weight.ndim - 1))
            layer.bias *= sizes
        layers[-1].weight *= torch.as_tensor(10.0 ** rng.integers(-8, 9, layers[-1].weight.shape))
    elif flaw == "integers":
        for layer in layers:
            for p in (layer.weight, layer.bias):
                p.copy_(torch.as_tensor(rng.integers(-2, 3, tuple(p.shape))))
    elif flaw == "tied" and len(layers[-1].weight) > 1:
        layers[-1].weight[1], layers[-1].bias[1] = layers[-1].weight[0], layers[-1].bias[0]


@torch.no_grad()
def balance(model: nn.Module, d: int, rng: np.random.Generator) -> None:
    """Move the last biases so that no class wins everywhere."""
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    last.bias -= model(torch.as_tensor(rng.uniform(-1, 1, (200, d)))).mean(dim=0)


@dataclass(frozen=True)
class Drawn:
    """A question."""

    net: pt.Network
    x: np.ndarray
    label: int
    target: int | None
    box: pt.Box | None
    flaw: str = "none"

    @property
    def targets(self) -> list[int]:
        """The classes that count."""
        if self.target is not None:
            return [self.target]
        return [t for t in range(classes_of(self.net)) if t != self.label]


def draw(seed: int, d: int, kind: str, flaw: str, place: str, box: str, targeted: bool) -> Drawn:
    """The question of these choices."""
    if kind == "convolution":
        d = min(d, 5)
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_of(kind, d).double()
    spoil(model, flaw, rng)
    if flaw not in ("no_biases", "integers", "tied"):
        balance(model, d, rng)
    net = pt.compile(model, (d,))
    limits = None
    if box != "none":
        low, high = np.full(d, -1.0), np.full(d, 1.0)
        if box == "tight":
            low, high = -rng.uniform(0, 0.1, d), rng.uniform(0, 0.1, d)
        if box == "flat":
            low[::2] = high[::2] = rng.uniform(-1, 1, len(low[::2]))
        limits = pt.Box(low, high)
    x = _point(net, place, limits, rng)
    label = int(net.predict(x[None])[0])
    classes = classes_of(net)
    target = int((label + 1 + rng.integers(classes - 1)) % classes) if targeted else None
    return Drawn(net, x, label, target, limits, flaw)


def _point(net: pt.Network, place: str, box: pt.Box | None, rng: np.random.Generator) -> np.ndarray:
    d = net.input_size
    low, high = (np.full(d, -1.0), np.full(d, 1.0)) if box is None else (box.low, box.high)
    x = rng.uniform(low, high)
    if place == "corner":
        return np.where(rng.random(d) < 0.5, low, high)
    if place == "origin":
        return np.clip(np.zeros(d), low, high)
    if place == "boundary":  # of a unit of the first layer, within rounding
        region = net.region(x)
        if len(region.A):
            row = int(rng.integers(len(region.A)))
            a = region.A[row]
            if a @ a > 0:
                x = x + (region.b[row] - a @ x) / (a @ a) * a
    if place == "decision":  # a sign change of the lead on a segment, by bisection
        other = rng.uniform(low, high)
        label = int(net.predict(x[None])[0])
        if int(net.predict(other[None])[0]) != label:
            for _ in range(60):
                middle = (x + other) / 2
                if int(net.predict(middle[None])[0]) == label:
                    x = middle
                else:
                    other = middle
    return np.clip(x, low, high)


class Enumeration:
    """The linear regions of a question that reach within a distance of its point."""

    def __init__(self, drawn: Drawn, within: float = math.inf) -> None:
        self.drawn, net = drawn, drawn.net
        low, high = drawn.x - max(within, 1e-3), drawn.x + max(within, 1e-3)
        if drawn.box is not None:
            low, high = np.maximum(low, drawn.box.low), np.minimum(high, drawn.box.high)
        self.box = pt.Box(low, high)
        if net.units and (low < high).any():
            graph = pt.region_graph(net, self.box)
            assert graph.complete
            self.regions = [graph.region(i) for i in range(len(graph))]
        else:
            self.regions = [net.region(drawn.x)]

    def distance(self, p: float) -> tuple[float, float]:
        """The least distance to the adversarial part of a region.

        Returns
        -------
        (least, least of the parts with an inside)
            Nearly always the same.  Parts without an inside are empty, or single ties; where
            sizes are mixed no program in floats can tell.
        """
        drawn, cells = self.drawn, []
        for region in self.regions:
            for target in drawn.targets:
                cell = adversarial_cell(region, drawn.label, target)
                lead = cell.A @ drawn.x - cell.b
                size = np.linalg.norm(cell.A, ord=dual_exponent(p), axis=1)
                with np.errstate(divide="ignore", invalid="ignore"):
                    bound = float(np.where(lead > 0, lead / size, 0.0).max())
                cut = self._cut(cell)
                if cut is not None:
                    cells.append((bound, cut, region, target))
        least = inside = math.inf
        for bound, cell, region, target in sorted(cells, key=lambda entry: entry[0]):
            if bound > inside:
                break
            found = float(cell_distance(cell, drawn.x, p, self.box).lower)
            if found < inside:
                found = max(found, self._exactly(region, target, p))
            least = min(least, found)
            if found < inside and self._has_inside(region, target):
                inside = found
        # Affine maps that differ by rounding alone meet far away.
        return least if least < 1e9 else math.inf, inside if inside < 1e9 else math.inf

    def _exactly(self, region: pt.Region, target: int, p: float) -> float:
        """The distance to the adversarial part of a region, its rows exact and rounded once."""
        net, drawn, d = self.drawn.net, self.drawn, len(self.drawn.x)
        maps = ExactMaps(net, Domain(d, None, None, np.zeros((0, d)), np.zeros(0)))
        normals, offsets = [], []
        for row in self._rows(maps, region, target):
            value = Fraction(int(row[-1])) + sum(
                int(a) * Fraction(float(v)) for a, v in zip(row[:-1], drawn.x, strict=True)
            )
            largest = max(abs(int(a)) for a in row[:-1])
            if largest:
                normals.append([float(Fraction(int(a), largest)) for a in row[:-1]])
                offsets.append(-float(value / largest))
        A, b = np.array(normals).reshape(-1, d), np.array(offsets)
        cell = self._cut(
            Cell(A, b, 2.0**-52 * np.abs(A).sum(axis=1), 2.0**-52 * np.abs(b)), drawn.x
        )
        if cell is None:
            return math.inf
        steps = pt.Box(self.box.low - drawn.x, self.box.high - drawn.x)
        return float(cell_distance(cell, np.zeros(d), p, steps).lower)

    def _rows(self, maps: ExactMaps, region: pt.Region, target: int) -> np.ndarray:
        """The rows of a region, and the decision's last (but where it is a tie)."""
        pieces, net = region.pattern.pieces, self.drawn.net
        outputs = maps.layer(len(net.layers), pieces).integers
        if len(outputs) == 1:
            outputs = np.vstack([np.zeros_like(outputs), outputs])
        lead = outputs[self.drawn.label] - outputs[target]
        rows = maps.rows(pieces, row_ids(net, maps.domain_rows, pieces))
        return np.vstack([rows, lead[None]]) if lead.any() else rows

    def _has_inside(self, region: pt.Region, target: int) -> bool:
        """Whether the adversarial part of a region has one in the box, exactly."""
        if (self.box.low == self.box.high).all():
            return True
        maps = ExactMaps(self.drawn.net, as_domain(self.drawn.net, self.box))
        return interior_point(self._rows(maps, region, target)) is not None

    def _cut(self, cell: Cell, origin: np.ndarray | float = 0.0) -> Cell | None:
        """The rows that hold not all over the box; None if one holds nowhere in it.

        Where sizes are mixed most rows are far away, and solvers fail over the numbers in them.
        """
        low, high = self.box.low - origin, self.box.high - origin
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            return cell
        up, down = np.maximum(cell.A, 0.0), np.minimum(cell.A, 0.0)
        room = 1e-12 * (np.abs(cell.A) @ np.maximum(np.abs(low), np.abs(high)) + np.abs(cell.b))
        if (up @ low + down @ high > cell.b + room).any():
            return None
        keep = up @ high + down @ low > cell.b - room
        keep[-1] = True
        return Cell(cell.A[keep], cell.b[keep], cell.normal_error[keep], cell.offset_error[keep])
