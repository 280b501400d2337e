"""ROLL, Table 2 (arXiv 1907.03207): the time of a training step with each form of the loss."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from polytope.plot import new_figure
from polytope.reproduce.item import Item
from polytope.reproduce.run import Outcome, Run
from polytope.training.gradients import TrainingMethod
from polytope.training.networks import fully_connected
from polytope.training.roll import ROLL

#: Seconds of the paper, times 1e-5.
VANILLA, BACKPROP, PERTURBATION, SAMPLED = 129, 31185, 2667, 298
SHAPE, BATCH, CLASSES = (784,), 64, 10
#: Forms of the loss: the method, the sampled axes, and the published seconds.
FORMS: dict[str, tuple[TrainingMethod, int | None, int | None]] = {
    "full, back-propagation": ("backprop", None, BACKPROP),
    "full, perturbation": ("perturbation", None, PERTURBATION),
    "full, dynamic programming": ("dynamic", None, None),
    "full, Gram matrices": ("gram", None, None),
    "3 samples, perturbation": ("auto", 3, SAMPLED),
}


def _table2(run: Run) -> Outcome:
    """Steps of the 4 x 300 network at batch 64, as ratios to a plain step."""
    import pandas as pd

    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
    left_out = {
        "smoke": ("full, back-propagation", "full, perturbation", "full, dynamic programming"),
        "small": ("full, back-propagation",) if device == "cpu" else (),
        "full": (),
    }[run.scale]
    width = run.pick(32, 300, 300)
    rows: list[dict[str, object]] = []
    for name, (method, axes, published) in FORMS.items():
        row: dict[str, object] = {
            "loss": name,
            "published seconds": None if published is None else published * 1e-5,
            "published ratio": None if published is None else published / VANILLA,
        }
        if name not in left_out:
            turns = run.pick(2, 3, 9)
            settings = {
                "width": width, "device": device, "threads": torch.get_num_threads(),
                "method": method, "axes": axes, "turns": turns,
            }  # fmt: skip
            work = partial(_time, width, device, method, axes, turns)
            found = run.step(name, settings, work)
            row |= {key: float(found[key]) for key in ("plain step", "step", "ratio")}
        rows.append(row)
    table = pd.DataFrame(rows)
    figure = new_figure(6, 3)
    figure.set_layout_engine("constrained")
    axes_ = figure.subplots()
    places = np.arange(len(rows))
    axes_.barh(places - 0.2, table["published ratio"].astype(float), 0.38, label="published (GPU)")
    axes_.barh(places + 0.2, table["ratio"].astype(float), 0.38, label=f"measured ({device})")
    axes_.set_yticks(places, list(table["loss"]), fontsize=8)
    axes_.set(xscale="log", xlabel="times a plain step")
    axes_.legend(fontsize=8)
    notes = [f"on {device}, {torch.get_num_threads()} thread(s); the paper's is a GPU"]
    notes += [f"{width} units a layer"] if width != 300 else []
    notes += [f"without {', '.join(left_out)}"] if left_out else []
    done = table.dropna(subset=["ratio"])
    return Outcome(
        table, figure, tuple(notes),
        ("published: the full loss at most 20.7 times a plain step, 3 samples 2.3 times",
         "measured: " + ", ".join(f"{r['loss']} {r['ratio']:.3g}" for _, r in done.iterrows())),
    )  # fmt: skip


def _time(
    width: int, device: Literal["cpu", "cuda"], method: TrainingMethod, axes: int | None, turns: int
) -> dict[str, float]:
    """Medians over some turns of a plain step, a regularised one, and their ratio."""
    torch.manual_seed(0)
    model = fully_connected(SHAPE, (width,) * 4, CLASSES).to(device)
    # Rate 0: the same work, but the share of active units, on which times depend, stays.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.5, nesterov=True)
    x = torch.randn(BATCH, *SHAPE).to(device)
    y = torch.randint(0, CLASSES, (BATCH,)).to(device)
    loss = ROLL(model, SHAPE, method=method, axes=axes, weight=1e-3)
    plain = partial(_step, model, optimizer, x, y, None)
    other = partial(_step, model, optimizer, x, y, loss)
    plain()
    other()
    repeats = 10 if axes is not None else 1
    pairs = [(_seconds(plain, device, 10), _seconds(other, device, repeats)) for _ in range(turns)]
    base, step = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"plain step": base, "step": step, "ratio": statistics.median(b / a for a, b in pairs)}


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: torch.Tensor,
    y: torch.Tensor,
    loss: ROLL | None,
) -> None:
    """One step, the regulariser sharing the forward pass of the task."""
    optimizer.zero_grad()
    if loss is None:
        total = F.cross_entropy(model(x), y)
    else:
        logits, value = loss.with_logits(x)
        total = F.cross_entropy(logits, y) + value
    total.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _seconds(work: Callable[[], None], device: Literal["cpu", "cuda"], repeats: int) -> float:
    """Time of one call: CPU time on a CPU, which others may be using too."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    if device == "cuda":
        torch.cuda.synchronize()
    begun = clock()
    for _ in range(repeats):
        work()
    if device == "cuda":
        torch.cuda.synchronize()
    return (clock() - begun) / repeats


ITEMS = (
    Item("roll-table2", "time of a training step, 4 x 300, batch 64",
         "ROLL, arXiv 1907.03207, Table 2", _table2),
)  # fmt: skip
