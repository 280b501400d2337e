"""`Examples`: labelled points or series, the form in which data is trained on and measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from polytope.errors import InputError


@dataclass(frozen=True, eq=False)
class Examples:
    """Labelled points, all of one shape, or series of different lengths.

    Parameters
    ----------
    x : array (n, *shape)
        Finite numbers; pictures are (n, channels, height, width) in [0, 1]. Series are
        (n, longest, channels), filled up with zeros behind their ends.
    y : array (n,)
        Classes, whole numbers from 0; kept as int64.
    lengths : int array (n,), optional
        Lengths of the series.

    Raises
    ------
    InputError
        If the arrays do not fit together, or hold what cannot be trained on.
    """

    x: np.ndarray
    y: np.ndarray
    lengths: np.ndarray | None = None

    def __post_init__(self) -> None:
        x, y = np.asarray(self.x), np.asarray(self.y)
        if x.ndim < 2 or x.dtype.kind != "f":
            raise InputError(
                f"examples: x: got {x.dtype} of shape {x.shape}, expected floating numbers of "
                "shape (n, ...), one point a row"
            )
        if y.shape != x.shape[:1] or y.dtype.kind not in "iu" or (y < 0).any():
            raise InputError(
                f"examples: y: got {y.dtype} of shape {y.shape} for {len(x)} points, expected a "
                "class from 0 for each"
            )
        if not np.isfinite(x).all():
            raise InputError("examples: x holds NaN or infinity; clean the data first")
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "y", y.astype(np.int64))
        if self.lengths is None:
            return
        lengths = np.asarray(self.lengths)
        fits = lengths.shape == y.shape and lengths.dtype.kind in "iu" and x.ndim == 3
        if not fits or (len(x) and not 1 <= lengths.min() <= lengths.max() <= x.shape[1]):
            raise InputError(
                f"examples: lengths: got {lengths.dtype} of shape {lengths.shape} for series of "
                f"shape {x.shape}, expected a length from 1 to the longest for each"
            )
        object.__setattr__(self, "lengths", lengths.astype(np.int64))

    def __len__(self) -> int:
        return len(self.y)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one point; of the longest series."""
        return tuple(self.x.shape[1:])

    @property
    def classes(self) -> int:
        """One more than the largest class that occurs."""
        return int(self.y.max(initial=-1)) + 1

    def take(self, rows: np.ndarray | slice) -> Examples:
        """Some of them."""
        lengths = None if self.lengths is None else self.lengths[rows]
        return Examples(self.x[rows], self.y[rows], lengths)

    def groups(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, int | None]]:
        """Some rows in parts whose points have one shape: rows and the length of their series."""
        if self.lengths is None:
            yield rows, None
            return
        lengths = self.lengths[rows]
        for length in np.unique(lengths):
            yield rows[lengths == length], int(length)

    def split(self, count: int, seed: int = 0) -> tuple[Examples, Examples]:
        """Without, and only, `count` examples drawn at random; both in their old order.

        Raises
        ------
        InputError
            If that leaves nothing on one side.
        """
        if isinstance(count, bool) or not isinstance(count, int) or not 0 < count < len(self):
            raise InputError(
                f"split: got {count!r} of {len(self)} examples, expected a whole number that "
                "leaves some on both sides"
            )
        order = np.random.default_rng(seed).permutation(len(self))
        return self.take(np.sort(order[count:])), self.take(np.sort(order[:count]))

    def normalised(self, mean: float, deviation: float) -> Examples:
        """The same with ``(x - mean) / deviation``; series stay zero behind their ends."""
        if self.lengths is not None:
            raise InputError("normalised: series are taken as they are")
        x = (self.x - self.x.dtype.type(mean)) / self.x.dtype.type(deviation)
        return Examples(x, self.y)
