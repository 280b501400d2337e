"""Losses of one module share its capture; what compiling says is not what is tested here."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest

from polytope.errors import Notice
from polytope.training import captured_loss
from polytope.training.captured import Captured, capture


@pytest.fixture(autouse=True)
def captured_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    known: dict[object, Captured] = {}

    def remembered(model: object, input_shape: object, what: str) -> Captured:
        key = (id(model), str(input_shape), what)
        if key not in known:
            known[key] = capture(model, input_shape, what)
        return known[key]

    monkeypatch.setattr(captured_loss, "capture", remembered)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        yield
