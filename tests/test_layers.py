"""Who may import whom, and what importing the package costs."""

import ast
import collections
import pathlib
import re
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
_DOTTED = re.compile(r"[\w.:]+")
# A definition that calls itself more often is taken to have other callers.
_RARE = 5
# What the package itself does not read, and why it is there.
PUBLIC = {
    "config/loading.py: construct_mapping": "PyYAML calls it",
    "envs/labyrinth/rays.py: BODY": "the names of an observation's last numbers",
    "envs/reference_scores.py: measure_random": "CONTRIBUTING: a new environment's score",
    "losses/gradient_combiners.py: grad_norm_weights": "configs: for agents of your own",
    "metrics/estimates.py: improvement": "benchmarks: one of rliable's four measures",
    "metrics/estimates.py: performance_profile": "benchmarks: another of them",
    "metrics/transfer.py: forgetting": "configs: of a stage's policy after the next",
}
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


def defined(tree):
    """Yields (name, node) of what a module, its classes and functions define."""
    for node in [x for top in tree.body for x in (top, *getattr(top, "body", ()))]:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            registered = any(isinstance(x, ast.Call) for x in node.decorator_list)
            yield from [] if registered else [(node.name, node)]
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from ((x.id, node) for x in targets if isinstance(x, ast.Name))


def uses(tree):
    """Returns how often each name is read: by itself, of something or as a string."""
    found: collections.Counter[str] = collections.Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            found[node.id] += 1
        elif isinstance(node, ast.Attribute):
            found[node.attr] += 1
        elif isinstance(node, ast.keyword) and node.arg:
            found[node.arg] += 1
        elif isinstance(node, ast.Constant) and _DOTTED.fullmatch(str(node.value)):
            found.update(re.split("[.:]", str(node.value)))
    return found


def waiting(trees, callers=()):
    """Returns {"file: name"} of what only its own definition, or nothing, reads."""
    counted: collections.Counter[str] = collections.Counter()
    for tree in (*trees.values(), *callers):
        counted.update(uses(tree))
    return {
        f"{path}: {name}"
        for path, tree in trees.items()
        for name, node in defined(tree)
        if not name.startswith("__")
        if counted[name] <= _RARE and counted[name] == uses(node)[name]
    }


def test_what_waits_for_a_caller_is_found():
    """Words in docstrings and comments, and a function's own calls, are no callers."""
    source = (
        "def a(): 'Before b and C.d.'; return a()  # b\n"
        "def b(x): ...\nclass C:\n    def d(self): ...\n    def e(self): ...\n"
        "F = G = 1\ndef h(): return C().e, 'm.i', G\ndef i(): ...\n"
    )
    found = waiting({"m.py": ast.parse(source)}, [ast.parse("m.h(F=1)")])
    assert found == {"m.py: a", "m.py: b", "m.py: d"}


def test_nothing_waits_for_a_caller():
    """What a file defines is read in the package or a benchmark, or is in PUBLIC."""
    trees = {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text())
        for path in sorted(ROOT.rglob("*.py"))
    }
    scripts = (ROOT.parent / "benchmarks").rglob("*.py")
    callers = [ast.parse(path.read_text()) for path in scripts]
    assert waiting(trees, callers) == set(PUBLIC), "nothing but tests reaches these"


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
