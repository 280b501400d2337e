"""Training on a CUDA device: it learns, stops, and goes on from its checkpoint."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

import polytope as pt
from polytope.training import ROLL, Recipe, evaluate, train
from polytope.training.networks import fully_connected

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device: torch.cuda.is_available() is False"
)


def test_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    data = pt.load_dataset("digits")
    recipe = Recipe(10, batch=64, optimizer="amsgrad", rate=3e-3, choose="error")

    def ctrl_c(done: int, total: int) -> None:
        del total
        if done == 33:
            os.kill(os.getpid(), signal.SIGINT)

    results = []
    for interruptions in ([None], [ctrl_c, None]):
        path = tmp_path / f"{len(interruptions)}"
        for progress in interruptions:
            torch.manual_seed(0)
            model = fully_connected((1, 8, 8), [32], 10).cuda()
            done = train(
                model, data.train, recipe, losses=[ROLL(model, (1, 8, 8), weight=0.05, axes=3)],
                validation=data.test, checkpoint=path, progress=progress,
            )  # fmt: skip
            assert done.finished == (progress is None)
        assert next(model.parameters()).device.type == "cuda"
        results.append(evaluate(model, data.test))
    assert results[0].error < 0.1
    assert abs(results[0].error - results[1].error) < 0.02
