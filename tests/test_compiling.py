"""The account of compiled programs: who pays, and what happens over the budget."""

import ast
import collections
import json
import os
import pathlib
import subprocess
import sys

import budgets
import compiling
import jax
import jax.numpy as jnp
import later
import pytest

GREEDY = """
import budgets, jax, jax.numpy as jnp, pytest
budgets.BUDGET, budgets.WITH_SLOW = {budgets}

{mark}
@pytest.mark.parametrize("i", range(3))
def test_compiles_one_each(i):
    x = jnp.zeros(())
    assert jax.jit(lambda x: x + i)(x) == i
"""

CONTRACT = """
import os, pytest

@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("i", range(4))
def test_is_run(name, i):
    with open(f"{name}.workers", "a") as stream:
        print(os.environ["PYTEST_XDIST_WORKER"], file=stream)
"""


@pytest.fixture
def tally():
    """An account of its own that counts this process's compilations."""
    tally = compiling.Tally()
    jax.monitoring.register_event_duration_secs_listener(tally.note)
    yield tally
    # The listener stays, without a file to count for.
    tally.file = None


def test_programs_are_on_the_account_of_the_file_in_progress(tally):
    """Twice the same call is one program; what is shared is on no account."""
    x = jnp.zeros(3)
    before = tally.total
    with tally.of("a.py"):
        double = jax.jit(lambda x: 2 * x)
        double(x), double(x)
        with tally.of(None):
            jax.jit(lambda x: 3 * x)(x)
        jax.jit(lambda x: 4 * x)(x)
    jax.jit(lambda x: 5 * x)(x)
    assert tally.programs == {"a.py": 2}
    assert tally.total == before + 4


def test_a_program_found_in_the_cache_counts_like_a_compiled_one(tally):
    """Otherwise a second session would be held to less than the first."""
    x = jnp.zeros(3)
    for _ in range(2):
        with tally.of("a.py"):
            jax.jit(lambda x: 7 * x)(x)
        jax.clear_caches()
    assert tally.programs == {"a.py": 2}
    assert list(compiling.CACHE.glob("*-cache"))


def test_programs_are_forgotten_when_there_are_many(tally):
    """Not before: what all files need is compiled once."""
    x, treble = jnp.zeros(3), jax.jit(lambda x: 3 * x)
    with tally.of("a.py"):
        treble(x)
        tally.forget(kept=tally.total)
        treble(x)
        assert tally.programs == {"a.py": 1}
        tally.forget(kept=0)
        treble(x)
    assert tally.programs == {"a.py": 2}


def test_over_the_budget_the_error_says_who_and_by_how_much(tally):
    """Up to the budget is fine."""
    for _ in range(3):
        with tally.of("a.py"):
            tally.note("/jax/core/compile/backend_compile_duration", 0.0)
    tally.check("a.py", 3)
    tally.check("b.py", 0)
    with pytest.raises(AssertionError, match=r"a\.py compiled 3 programs, .* is 2:"):
        tally.check("a.py", 2)


@pytest.mark.parametrize(
    ("budgets", "mark", "fails"),
    [
        ((2, 100), "", True),
        ((2, 100), "@pytest.mark.slow", False),
    ],
)
def test_a_file_over_its_budget_fails(tmp_path, budgets, mark, fails):
    """In a session of its own, whatever its tests say; that of slow cases where one runs."""
    greedy = GREEDY.format(budgets=budgets, mark=mark)
    (tmp_path / "test_greedy.py").write_text(greedy)
    path = os.pathsep.join([str(compiling.TESTS), str(compiling.TESTS.parent)])
    alone = {n: x for n, x in os.environ.items() if n != "PYTEST_XDIST_WORKER"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "compiling", "-q", "test_greedy.py"],
        cwd=tmp_path,
        env=alone | {"PYTHONPATH": path, "COMPILED": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    (found,) = json.loads((tmp_path / "alone.json").read_text()).values()
    assert 3 <= found <= 100
    assert "3 passed" in done.stdout
    assert ("error" in done.stdout) == fails
    assert done.returncode == (1 if fails else 0)
    said = f"test_greedy.py compiled {found} programs, its budget is 2"
    assert (said in done.stdout) == fails


def test_a_unit_is_one_processs(tmp_path):
    """A second process that runs a part of it would compile and train it all again."""
    compiling.claim(tmp_path, "agents/test_a.py", "gw0")
    compiling.claim(tmp_path, "agents/test_b.py", "gw1")
    compiling.claim(tmp_path, "agents/test_a.py", "gw0")
    with pytest.raises(AssertionError, match=r"test_a\.py: gw0 and gw1 .*loadfile"):
        compiling.claim(tmp_path, "agents/test_a.py", "gw1")
    makefile = (compiling.TESTS.parent / "Makefile").read_text()
    parallel = [line for line in makefile.splitlines() if " -n 2" in line]
    assert parallel and all("--dist loadfile" in line for line in parallel)


def test_a_unit_is_a_file_or_an_agents_part_of_it(request):
    """The agent is the last parameter; other files' parameters are nobody's business."""
    unit = compiling.unit_of
    assert unit("tests/agents/test_ppo.py::test_a[1-ppo]") == "tests/agents/test_ppo.py"
    own = "tests/agents/test_contract.py"
    assert unit(f"{own}::test_a[ppo]") == unit(f"{own}::test_b[-1.0-ppo]")
    assert unit(f"{own}::test_a[ppo]") != unit(f"{own}::test_a[outside.ppo]")
    assert unit(f"{own}::test_a[ppo]").startswith(own)
    for item in request.session.items:
        if item.path.name in budgets.APART:
            agent = item.callspec.params["name"]
            assert unit(item.nodeid) == f"{item.nodeid.partition('::')[0]}-{agent}"


def test_processes_share_a_file_by_whole_units(tmp_path):
    """Each of two has one, whatever the order of their tests."""
    (tmp_path / "test_contract.py").write_text(CONTRACT)
    path = os.pathsep.join([str(compiling.TESTS), str(compiling.TESTS.parent)])
    alone = {n: x for n, x in os.environ.items() if n != "PYTEST_XDIST_WORKER"}
    words = "-m pytest -p compiling -q -n 2 --dist loadfile test_contract.py"
    done = subprocess.run(
        [sys.executable, *words.split()],
        cwd=tmp_path,
        env=alone | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    ran = [set((tmp_path / f"{x}.workers").read_text().split()) for x in "ab"]
    assert [len(workers) for workers in ran] == [1, 1] and ran[0] != ran[1]


def test_what_waits_for_test_all_is_there_and_has_company():
    """A case that was renamed would be run by default, or one alone by nothing."""
    for file, cases in later.CASES.items():
        text = (compiling.TESTS / file).read_text()
        assert len(set(cases)) == len(cases), file
        nodes = [x for x in ast.walk(ast.parse(text)) if isinstance(x, ast.FunctionDef)]
        marks = {x.name: " ".join(map(ast.unparse, x.decorator_list)) for x in nodes}
        several = {name for name, text in marks.items() if "parametrize" in text}
        assert not several & set(cases), f"{file}: of several cases, end them in ["
        for case in cases:
            assert f"def {case.split('[')[0]}(" in text, (file, case)
            assert later.is_later(file, case)
    assert not later.is_later("test_no.py", case)


def test_no_two_files_of_tests_have_one_name():
    """Two would be one module, and the second is an error when the whole suite runs."""
    names = collections.Counter(
        path.name for path in compiling.TESTS.rglob("test_*.py")
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_long_files_are_begun_first(request):
    """In the order of their list, before all others."""
    ranks = [budgets.rank(item.path.name) for item in request.session.items]
    assert ranks == sorted(ranks)
    names = {path.name for path in compiling.TESTS.rglob("test_*.py")}
    assert set(budgets.LONG) <= names and len(set(budgets.LONG)) == len(budgets.LONG)


def test_budgets_name_files_that_there_are():
    """And a file that is not named may compile the budget of all."""
    for file, budget in (budgets.MEASURED | budgets.BY_DEFAULT).items():
        assert (pathlib.Path(compiling.TESTS) / file).is_file(), file
        assert budgets.of(file) == budget > 0
    for slow, budget in ((False, budgets.BUDGET), (True, budgets.WITH_SLOW)):
        assert budgets.of("test_of_no_name.py", slow) == budget
        assert all(budgets.of(x, slow) == y for x, y in budgets.MEASURED.items())
    assert not budgets.MEASURED.keys() & budgets.BY_DEFAULT.keys()
    slow = {budgets.of(file, slow=True) for file in budgets.BY_DEFAULT}
    assert slow == {budgets.WITH_SLOW}


def test_a_cache_that_has_grown_too_large_begins_again(tmp_path):
    """And one that has not is kept."""
    (tmp_path / "a-cache").write_bytes(bytes(100))
    compiling.trim(tmp_path, 100)
    assert (tmp_path / "a-cache").exists()
    compiling.trim(tmp_path, 99)
    assert not list(tmp_path.iterdir())
    compiling.trim(tmp_path / "none", 0)
