"""The exceptions that polytope raises: one clear message each, all under `PolytopeError`."""


class PolytopeError(Exception):
    """Base of every exception that polytope raises on purpose."""


class InputError(PolytopeError, ValueError):
    """An argument is not usable: the message says what, got, expected and what to do."""


class UnsupportedOperation(PolytopeError):
    """The model holds an operation that polytope cannot compile: named, with its place."""


class SmoothActivation(PolytopeError):
    """An exact method met a smooth activation, which has no linear regions."""


class EquivalenceError(PolytopeError):
    """The compiled graph and the source model disagree: nothing proved on it would hold."""


class FileProblem(PolytopeError, OSError):
    """A file is missing, empty, damaged, of another kind, or cannot be written."""


class Diverged(PolytopeError):
    """A training met NaN or infinity: where, and which state was kept."""


class Notice(UserWarning):
    """Something that polytope did on its own and that the user should know."""
