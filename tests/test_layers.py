"""Who may import whom, and what importing the package costs."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1] / "mtrl_jax"
CONTRACTS = {"types", "tree", "random", "hparams", "xla"}
# Part of the package -> the parts it may import beside itself (DESIGN.md, section 4).
ALLOWED = {
    **dict.fromkeys(CONTRACTS, CONTRACTS),
    **dict.fromkeys(("losses", "networks", "data"), CONTRACTS),
    "agents": CONTRACTS | {"losses", "networks", "data"},
    "envs": CONTRACTS,
    "engine": CONTRACTS,
    # Writers and readers of a run folder: plots reads what metrics wrote.
    **dict.fromkeys(("checkpoint", "metrics", "progress"), CONTRACTS),
    "plots": CONTRACTS | {"metrics"},
    # Draws observations, for render.
    "sketches": CONTRACTS,
}
# The only modules that know agents, environments and files at the same time.
COMPOSITION_ROOT = {
    "build",
    "checks",
    "cli",
    "collecting",
    "config",
    "contexts",
    "curves",
    "experiment",
    "folders",
    "judging",
    "listing",
    "loop",
    "offline",
    "render",
    "report",
    "reporters",
    "saved",
    "scheduling",
    "session",
    "spreads",
    "stages",
    "staging",
    "world",
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
        "def f():\n    from mtrl_jax.experiments.online import pieces\n    from ..plots import p\n"
        "    from . import optimiser\nimport numpy\n"
    )
    expected = {"envs", "engine", "tree", "build", "plots", "agents"}
    assert own_parts(path) == expected


@pytest.mark.parametrize("module", MODULES)
def test_modules_import_only_what_their_layer_may(module):
    """Contracts know nothing, agents no environments, the engine only contracts."""
    part = part_of(module)
    if module == "__init__.py":
        allowed = {"xla", "mtrl_jax"}
    elif part in COMPOSITION_ROOT:
        return
    else:
        assert part in ALLOWED, f"{module} has no place in the layer table; give it one"
        allowed = ALLOWED[part] | {part}
    wrong = own_parts(ROOT / module) - allowed
    assert not wrong, f"mtrl_jax/{module} imports {sorted(wrong)}"


def test_only_the_composition_root_imports_the_composition_root():
    """A library module that needs a config would tie everything to the CLI."""
    for module in MODULES:
        if part_of(module) not in COMPOSITION_ROOT:
            used = own_parts(ROOT / module) & COMPOSITION_ROOT
            assert not used, f"mtrl_jax/{module} imports {sorted(used)}"


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
