"""Backends by name: ours, and those other packages register.

A third party adds to its pyproject.toml ::

    [project.entry-points."solvers.backends"]
    mysolver = "mypackage.module:MyBackend"

where ``MyBackend()`` is a `solvers.backend.Backend`, and passes `solvers.testing`. What is
installed is looked up once per process (it takes milliseconds, a small LP less than one).
"""

from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Final

from solvers.backend import Backend
from solvers.errors import MissingPackageError, SolverError, UnknownBackendError

__all__ = ["available", "forget", "get"]

ENTRY_POINTS: Final = "solvers.backends"

# name: (module, class, package that is imported, package that is installed), best first.
_BUILT_IN: Final = {
    "highs": ("solvers.backends.highs", "HighsBackend", "highspy", "highspy"),
    "scipy": ("solvers.backends.scipy", "ScipyBackend", "scipy", "scipy"),
    "scip": ("solvers.backends.scip", "ScipBackend", "pyscipopt", "pyscipopt"),
    "cvxpy": ("solvers.backends.cvxpy", "CvxpyBackend", "cvxpy", "cvxpy"),
    "pulp": ("solvers.backends.pulp", "PulpBackend", "pulp", "PuLP"),
    "daqp": ("solvers.backends.daqp", "DaqpBackend", "daqp", "daqp"),
}


def available() -> tuple[str, ...]:
    """Names that `get` accepts on this machine, ours first and best first; loads nothing."""
    ours = [name for name, (_, _, package, _) in _BUILT_IN.items() if _installed(package)]
    return (*ours, *sorted(_third_party()))


def get(name: str) -> Backend:
    """Import and return the backend of this name.

    Raises
    ------
    UnknownBackendError
        The message lists the names there are.
    MissingPackageError
        The message names the pip install.
    """
    if name in _BUILT_IN:
        module, class_name, package, install = _BUILT_IN[name]
        if not _installed(package):
            raise MissingPackageError(
                f"backend {name!r} needs the package {install!r}, which is not installed: "
                f"pip install {install}"
            )
        try:
            made = getattr(import_module(module), class_name)()
        except ImportError as error:
            raise MissingPackageError(
                f"backend {name!r}: the package {install!r} is installed but does not load "
                f"({error}): pip install --upgrade {install}"
            ) from error
    else:
        points = _third_party()
        if name not in points:
            raise UnknownBackendError(
                f"no backend is called {name!r}; available here: {', '.join(available())}."
            )
        try:
            made = points[name].load()()
        except ImportError as error:
            raise MissingPackageError(
                f"backend {name!r} ({points[name].value}) needs a package that is not installed: "
                f"pip install {error.name or 'what it asks for'}"
            ) from error
    if not isinstance(made, Backend):
        raise SolverError(
            f"backend {name!r} is a {type(made).__name__}; its entry point must name a subclass "
            "of solvers.backend.Backend."
        )
    return made


def forget() -> None:
    """Look up anew what is installed: for notebooks, after a pip install."""
    _installed.cache_clear()
    _third_party.cache_clear()


@cache
def _installed(package: str) -> bool:
    return find_spec(package) is not None


@cache
def _third_party() -> dict[str, EntryPoint]:
    return {p.name: p for p in entry_points(group=ENTRY_POINTS) if p.name not in _BUILT_IN}
