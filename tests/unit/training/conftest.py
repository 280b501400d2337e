"""Losses of equal modules share a capture; what compiling says is not what is tested here.

A capture holds the structure of a module and reads its numbers anew at each step, so that of one
module serves all others of the same structure. Exporting would be most of the tests' time.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace

import pytest
from torch import nn

from polytope.errors import Notice
from polytope.network.torch_module import dtype_and_device
from polytope.training import captured_loss
from polytope.training.captured import Captured, capture

KNOWN: dict[object, Captured] = {}


def structure(model: nn.Module) -> object:
    """What the capture of a module depends on: its layers, shared ones told apart, its dtype."""
    names = [name for name, _ in (*model.named_parameters(), *model.named_buffers())]
    return str(model), tuple(names), dtype_and_device(model)[0]


def remembered(model: object, input_shape: object, what: str) -> Captured:
    if not isinstance(model, nn.Module):
        return capture(model, input_shape, what)
    key = (structure(model), str(input_shape))
    if key not in KNOWN:
        KNOWN[key] = capture(model, input_shape, what)
    return replace(KNOWN[key], model=model)


@pytest.fixture(autouse=True)
def captured_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(captured_loss, "capture", remembered)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        yield
