"""How the tests of benchmarks import a script."""

import importlib
import pathlib
import sys

import pytest

_FOLDER = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """Returns a function that imports a benchmark by name, for this test alone."""
    monkeypatch.syspath_prepend(str(_FOLDER))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(_FOLDER)):
            del sys.modules[name]
