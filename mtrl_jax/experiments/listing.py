"""What ``mtrl list`` prints."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

from mtrl_jax import agents, envs, errors

WHAT = ("agents", "envs", "configs")


def lines(what: str) -> Iterator[str]:
    """Returns the lines for "agents", "envs" or "configs".

    Raises:
      ConfigError: any other word.
    """
    if what == "agents":
        found = ((name, agents.get(name).INFO) for name in agents.AGENTS)
        return (f"{name:24s} {info.summary}" for name, info in found)
    if what == "envs":
        return iter(envs.names())
    if what == "configs":
        return (_config_line(path) for path in sorted(_folder().glob("*.yaml")))
    raise errors.ConfigError(f"list {what}: unknown{errors.suggest(what, WHAT)}")


def _folder() -> pathlib.Path:
    """Returns configs/ of the working directory, else of the source checkout."""
    here = pathlib.Path("configs")
    if here.is_dir():
        return here
    return pathlib.Path(__file__).resolve().parents[2] / "configs"


def _config_line(path: pathlib.Path) -> str:
    """Returns the path and the first comment of a config."""
    first = path.read_text().splitlines()[:1]
    says = first[0].lstrip("# ") if first and first[0].startswith("#") else ""
    return f"{path!s:40s} {says}"
