import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

import solvers
from solvers import LinearProgram, MissingPackageError, SolverError, UnknownBackendError, registry
from solvers.backends.scipy import ScipyBackend

FAKE = "test_solvers_registry_fake"
OURS = ("highs", "scipy", "scip", "cvxpy", "pulp", "daqp")


@pytest.fixture(autouse=True)
def _looked_up_anew():
    """What is installed is looked up once per process: forgotten around each test."""
    registry.forget()
    yield
    registry.forget()


def _register(monkeypatch, value):
    points = EntryPoints([EntryPoint("mine", value, registry.ENTRY_POINTS)])
    monkeypatch.setattr(registry, "entry_points", lambda group: points.select(group=group))


def test_ours_are_available_best_first():
    assert solvers.available() == OURS
    for name in OURS:
        assert solvers.get(name).name == name


def test_unknown_name_lists_those_that_exist():
    with pytest.raises(UnknownBackendError, match="'gurobbi'; available here: highs, scipy"):
        solvers.get("gurobbi")


@pytest.mark.parametrize(
    ("name", "package", "install"),
    [
        ("highs", "highspy", "highspy"),
        ("scip", "pyscipopt", "pyscipopt"),
        ("cvxpy", "cvxpy", "cvxpy"),
        ("pulp", "pulp", "PuLP"),
        ("daqp", "daqp", "daqp"),
    ],
)
def test_missing_package_names_the_install(monkeypatch, name, package, install):
    monkeypatch.setattr(registry, "find_spec", lambda asked: None if asked == package else object())
    assert solvers.available() == tuple(other for other in OURS if other != name)
    with pytest.raises(MissingPackageError, match=f"pip install {install}$"):
        solvers.get(name)


def test_a_package_that_does_not_load_names_the_cure(monkeypatch):
    monkeypatch.delitem(sys.modules, "solvers.backends.daqp", raising=False)
    monkeypatch.setitem(sys.modules, "daqp", None)  # an import of it now fails
    monkeypatch.setattr(registry, "find_spec", lambda _: object())
    with pytest.raises(MissingPackageError, match="pip install --upgrade daqp"):
        solvers.get("daqp")


def test_what_is_installed_is_looked_up_once(monkeypatch):
    looked = []
    monkeypatch.setattr(registry, "find_spec", lambda name: looked.append(name) or object())
    monkeypatch.setattr(registry, "entry_points", lambda group: looked.append(group) or ())
    for _ in range(3):
        solvers.available()
    assert len(looked) == len(OURS) + 1


def test_third_party_backend_is_found_and_used(monkeypatch):
    _register(monkeypatch, "solvers.backends.scipy:ScipyBackend")
    assert solvers.available() == (*OURS, "mine")
    assert isinstance(solvers.get("mine"), ScipyBackend)
    assert solvers.solve(LinearProgram([1], lower=2), "mine").value == 2


def test_third_party_backend_without_its_package(monkeypatch):
    _register(monkeypatch, f"{FAKE}:Backend")
    with pytest.raises(MissingPackageError, match=f"pip install {FAKE}"):
        solvers.get("mine")


def test_third_party_entry_point_of_the_wrong_type(monkeypatch):
    _register(monkeypatch, "builtins:dict")
    with pytest.raises(SolverError, match="must name a subclass"):
        solvers.get("mine")


def test_import_loads_no_backend_and_nothing_of_polytope():
    code = (
        "import sys, solvers; "
        "bad = {'highspy', 'scipy.optimize', 'torch', 'polytope', 'pytest', 'cvxpy', 'pulp', "
        "'pyscipopt', 'daqp'} & set(sys.modules); "
        "assert not bad, bad"
    )
    root = Path(solvers.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


@pytest.mark.parametrize("name", ["solvers-1.0.dist-info", "Solvers-2.0.egg-info"])
def test_refuses_to_stand_beside_the_foreign_distribution(tmp_path, name):
    solvers._refuse_foreign_distribution(str(tmp_path))
    (tmp_path / "polytope_nn-0.1.dist-info").mkdir()
    (tmp_path / "solvers_extra-0.1.dist-info").mkdir()
    solvers._refuse_foreign_distribution(str(tmp_path))
    (tmp_path / name).mkdir()
    with pytest.raises(ImportError, match="pip uninstall solvers, then reinstall polytope-nn"):
        solvers._refuse_foreign_distribution(str(tmp_path))
