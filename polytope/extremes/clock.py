"""When a search ends early: time, or Ctrl-C."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from polytope.errors import InputError
from polytope.inputs import positive_int
from polytope.regions.interrupt import interruptible


class Clock:
    """Counts the seconds of a search, and remembers why it was ended.

    Parameters
    ----------
    time_limit : float or None
        Seconds.
    interrupted : threading.Event
        Set by Ctrl-C.
    progress : callable, optional
        Called as ``progress(count)`` when the clock is looked at.
    """

    def __init__(
        self,
        time_limit: float | None,
        interrupted: threading.Event,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._begun = time.perf_counter()
        self._limit, self._interrupted, self._progress = time_limit, interrupted, progress
        self.stopped = ""

    @property
    def seconds(self) -> float:
        """Since the search began."""
        return time.perf_counter() - self._begun

    @property
    def now(self) -> float:
        """The time of `time.perf_counter`."""
        return time.perf_counter()

    @property
    def left(self) -> float | None:
        """Seconds left; None without a limit."""
        return None if self._limit is None else max(0.0, self._limit - self.seconds)

    def halt(self, count: int = 0) -> bool:
        """Whether the search has to end."""
        if self._progress is not None:
            self._progress(count)
        if self._interrupted.is_set():
            self.stopped = "interrupt"
        elif self._limit is not None and self.seconds >= self._limit:
            self.stopped = "time_limit"
        return bool(self.stopped)


@contextmanager
def clock(
    time_limit: float | None, progress: Callable[[int], None] | None = None
) -> Iterator[Clock]:
    """A clock that a first Ctrl-C stops; a second one is not caught.

    Raises
    ------
    InputError
        If the limit is no number of seconds.
    """
    check_seconds(time_limit)
    with interruptible() as interrupted:
        yield Clock(time_limit, interrupted, progress)


def plain_clock(time_limit: float | None) -> Clock:
    """A clock that leaves Ctrl-C to others.

    Raises
    ------
    InputError
        If the limit is no number of seconds.
    """
    check_seconds(time_limit)
    return Clock(time_limit, threading.Event())


def check_seconds(time_limit: float | None) -> None:
    """Refuse what is no number of seconds.

    Raises
    ------
    InputError
    """
    if time_limit is not None and (
        isinstance(time_limit, bool) or not isinstance(time_limit, int | float)
        or not time_limit >= 0
    ):  # fmt: skip
        raise InputError(f"time_limit: got {time_limit!r}, expected seconds, at least 0")


def check_regions(max_regions: int | None) -> None:
    """Refuse what is no number of regions.

    Raises
    ------
    InputError
    """
    if max_regions is not None:
        positive_int(max_regions, "max_regions")
