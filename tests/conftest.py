"""Settings of the whole suite: threads of the workers, and how hypothesis searches."""

from __future__ import annotations

import os
import signal

import torch
from hypothesis import HealthCheck, settings

# A shell's background job begins with Ctrl-C ignored; the tests of Ctrl-C need Python's own.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

COMMON = {
    "deadline": None,
    "max_examples": 50,
    "suppress_health_check": [HealthCheck.too_slow],
}
settings.register_profile("default", **COMMON)
settings.register_profile("ci", **COMMON, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "default")
