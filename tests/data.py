"""Where the real data of the tests lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def data_path(*parts: str) -> Path:
    """A file or folder of the data: in $POLYTOPE_DATA, or in shared/data beside the repository.

    Where it is missing the test is skipped, with the reason; in CI it fails.
    """
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("POLYTOPE_DATA") or beside).joinpath(*parts)
    if not path.exists():
        reason = f"the data {'/'.join(parts)} is missing: set POLYTOPE_DATA to its folder"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path
