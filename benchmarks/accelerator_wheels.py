"""The packages that a bare machine lacks: named, and installed from a folder of wheels.

Nothing is fetched: the machine may have no network. Names and versions are those of the
environment that ``requirements`` is called in, where the kit is installed.
"""

from __future__ import annotations

import importlib.metadata
import pathlib
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence

PROJECT = pathlib.Path(__file__).parent.parent / "pyproject.toml"
# What comes with JAX on most machines that have an accelerator.
HAVE = ("jax", "flax", "optax", "orbax-checkpoint", "matplotlib", "scipy")
OPTIONAL = ("envpool",)  # one row needs it, and says so


def missing() -> list[str]:
    """Returns the names of what the kit cannot do without and is not installed."""
    names = [name_of(line) for line in direct()]
    return [name for name in names if not (name in OPTIONAL or is_installed(name))]


def advice(lacking: Iterable[str]) -> str:
    """Returns what to do about packages that are not there, in one line."""
    return (
        f"not installed: {', '.join(lacking)}; bring wheels of "
        "`accelerator.py --requirements` and give their folder as --wheels DIR"
    )


def requirements(have: Sequence[str]) -> list[str]:
    """Returns ``name==version`` of all the kit needs beyond ``have`` and their needs."""
    needed = closure(map(name_of, direct())) - closure(have)
    return [f"{name}=={importlib.metadata.version(name)}" for name in sorted(needed)]


def install(folder: pathlib.Path) -> None:
    """Install the wheels of ``folder`` for this process and those it starts."""
    files = sorted(map(str, folder.glob("*.whl")))
    if not files:
        raise SystemExit(f"--wheels: {folder} holds no wheel")
    target = tempfile.mkdtemp(prefix="mtrl-wheels-")
    options = ("--quiet", "--no-index", "--no-deps", "--target", target)
    command = [sys.executable, "-m", "pip", "install", *options, *files]
    subprocess.run(command, check=True)
    # A process begun by multiprocessing has the path of the one that begins it.
    sys.path.insert(0, target)


def direct() -> list[str]:
    """Returns the requirements of the kit itself, as its pyproject has them."""
    return tomllib.loads(PROJECT.read_text())["project"]["dependencies"]


def closure(names: Iterable[str]) -> set[str]:
    """Returns the installed packages among ``names`` with all that they need."""
    found: set[str] = set()
    todo = [name.lower() for name in names]
    while todo:
        name = todo.pop()
        if name in found or not is_installed(name):
            continue
        found.add(name)
        lines = importlib.metadata.requires(name) or []
        # What an extra needs is not needed; other markers hold here or are not installed.
        todo += [name_of(line) for line in lines if "extra ==" not in line]
    return found


def is_installed(name: str) -> bool:
    """Returns whether a package is there, in whatever version."""
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def name_of(requirement: str) -> str:
    """Returns the normalised name of ``"Some_Package[extra]>=1.0; marker"``."""
    name = re.split(r"[\s\[<>=!~;(]", requirement.strip(), maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()
