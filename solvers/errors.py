"""Exceptions of the package: one base, so that a caller can catch all of them."""

__all__ = [
    "MissingPackageError",
    "ProblemError",
    "SolverError",
    "UnknownBackendError",
    "UnsupportedProblemError",
]


class SolverError(Exception):
    """Base of every error that `solvers` raises on purpose."""


class ProblemError(SolverError, ValueError):
    """An argument is malformed; the message says what was got, expected, and what to do."""


class UnknownBackendError(SolverError, LookupError):
    """No backend has this name; the message lists those that exist."""


class MissingPackageError(SolverError, ImportError):
    """The backend exists but its package is not installed; the message names the pip install."""


class UnsupportedProblemError(SolverError, ValueError):
    """The backend does not solve this kind of problem; the message names what does."""
