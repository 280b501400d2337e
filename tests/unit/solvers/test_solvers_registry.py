import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

import solvers
from solvers import LinearProgram, MissingPackageError, SolverError, UnknownBackendError, registry
from solvers.backends.scipy import ScipyBackend

FAKE = "test_solvers_registry_fake"


def _register(monkeypatch, value):
    points = EntryPoints([EntryPoint("mine", value, registry.ENTRY_POINTS)])
    monkeypatch.setattr(registry, "entry_points", lambda group: points.select(group=group))


def test_ours_are_available_best_first():
    assert solvers.available()[:2] == ("highs", "scipy")
    assert solvers.get("highs").name == "highs"


def test_unknown_name_lists_those_that_exist():
    with pytest.raises(UnknownBackendError, match="'gurobbi'; available here: highs, scipy"):
        solvers.get("gurobbi")


def test_missing_package_names_the_install(monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda name: None if name == "highspy" else object())
    assert "highs" not in solvers.available()
    with pytest.raises(MissingPackageError, match="pip install highspy"):
        solvers.get("highs")


def test_third_party_backend_is_found_and_used(monkeypatch):
    _register(monkeypatch, "solvers.backends.scipy:ScipyBackend")
    assert solvers.available() == ("highs", "scipy", "mine")
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
        "bad = {'highspy', 'scipy.optimize', 'torch', 'polytope', 'pytest'} & set(sys.modules); "
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
