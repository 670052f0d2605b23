"""Who may import whom, and what importing the package costs."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1] / "mtrl_jax"
# The floors of DESIGN.md, section 4, from the ground up: a room imports from floors below
# its own only, so rooms of one floor never import each other.
FLOORS = (
    {"types", "errors", "metrics", "xla"},
    {"losses", "data", "checkpoint", "plots", "tree", "random", "hparams", "plugins"},
    {"networks", "envs", "engine"},
    {"agents"},
    {"config"},
    {"training"},
    {"experiments"},
    {"cli"},
    {"__main__"},
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def part_of(module):
    """Returns what the table calls it: "agents/ppo.py" and "mtrl_jax.agents.ppo" too."""
    name = module.removeprefix("mtrl_jax.").replace("/", ".").removesuffix(".py")
    return name.split(".")[0]


def imports_of(path):
    """Yields the full names a file imports, at its top or inside a function."""
    package = ["mtrl_jax", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package[: len(package) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def own_parts(path):
    """Returns the parts of the package that a file imports."""
    names = {n for n in imports_of(path) if n.split(".")[0] == "mtrl_jax"}
    return {part_of(name) for name in names}


def test_the_parser_finds_imports_wherever_they_hide(tmp_path, monkeypatch):
    """A lazy import, one by module, one relative and one by name all count."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "agents").mkdir()
    path = tmp_path / "agents" / "x.py"
    path.write_text(
        "import mtrl_jax.envs.core\nfrom mtrl_jax import engine, tree\n"
        "def f():\n    from mtrl_jax.experiments.online import program\n    from ..plots import p\n"
        "    from . import optimiser\nimport numpy\n"
    )
    expected = {"envs", "engine", "tree", "experiments", "plots", "agents"}
    assert own_parts(path) == expected


@pytest.mark.parametrize("module", MODULES)
def test_rooms_import_from_floors_below_only(module):
    """An algorithm knows no environment, the engine neither, a library no config."""
    room = part_of(module)
    if module == "__init__.py":
        assert own_parts(ROOT / module) <= {"xla"}
        return
    assert room in FLOOR_OF, f"{module} is on no floor; give its room one"
    above = {
        other
        for other in own_parts(ROOT / module) - {room}
        if FLOOR_OF.get(other, len(FLOORS)) >= FLOOR_OF[room]
    }
    assert not above, f"mtrl_jax/{module} imports {sorted(above)}, not below it"


def test_every_room_of_the_table_is_there():
    """A floor that lists a room nobody built would be a plan, not a house."""
    assert {part_of(module) for module in MODULES} - {"__init__"} == set(FLOOR_OF)


def test_no_two_modules_have_one_name():
    """So that a name in an import, an error or a talk is one file."""
    named: dict[str, list[str]] = {}
    for module in MODULES:
        name = pathlib.Path(module).stem
        if name != "__init__":
            named.setdefault(name, []).append(module)
    assert {name: files for name, files in named.items() if len(files) > 1} == {}


def test_nothing_in_the_package_imports_tests_or_benchmarks():
    """The wheel has neither."""
    for module in MODULES:
        roots = {name.split(".")[0] for name in imports_of(ROOT / module)}
        assert not roots & {"tests", "benchmarks", "pytest"}, module


def test_importing_the_package_loads_no_jax():
    """`import mtrl_jax` sets flags and lists names; everything else waits."""
    loaded = run_python(
        "import sys, mtrl_jax; "
        "print([m for m in ('jax', 'numpy', 'flax', 'distrax') if m in sys.modules])"
    )
    assert loaded == "[]"


@pytest.mark.parametrize(
    "module", ["types", "envs", "agents.ppo", "engine.fused_runner", "losses.rewards"]
)
def test_importing_a_part_loads_no_environment_and_no_probability_library(module):
    """distrax, rlax, envpool, gymnax, orbax and matplotlib take seconds each."""
    heavy = ("distrax", "rlax", "envpool", "gymnax", "orbax", "matplotlib")
    loaded = run_python(
        f"import sys, mtrl_jax.{module}; "
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    assert loaded == "[]"


def run_python(code):
    """Returns what a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()
