"""What ``mtrl list`` prints."""

from __future__ import annotations

import pathlib
import sysconfig
from collections.abc import Iterator

from mtrl_jax import agents, envs, errors
from mtrl_jax.config import agent_fields, modules

WHAT = ("agents", "envs", "configs")


def lines(what: str) -> Iterator[str]:
    """Returns the lines for "agents", "envs", "configs", or an agent's "agents/NAME".

    Raises:
      ConfigError: any other word, no such agent, or no configs anywhere.
    """
    if what.startswith("agents/"):
        return _settings(what)
    if what == "agents":
        width = max(map(len, agents.AGENTS))
        found = ((name, agents.get(name).INFO) for name in agents.AGENTS)
        return (f"{name:{width}s}  {info.summary}" for name, info in found)
    if what == "envs":
        return iter(envs.names())
    if what == "configs":
        paths = _configs()
        width = max(len(str(path)) for path in paths)
        return (_config_line(path, width) for path in paths)
    hint = errors.suggest(what, WHAT)
    if what in agents.AGENTS:
        hint = f", did you mean agents/{what}?"
    raise errors.ConfigError(f"list {what}: unknown{hint}")


def _settings(what: str) -> Iterator[str]:
    """Returns the settings of the agent ``agents/NAME``, a line and four columns each."""
    name = modules.at_home("agent.name", what.partition("/")[2], pathlib.Path())
    with errors.at(f"list {what}"):
        found = agent_fields.of(name)
    columns = [max(len(row[i]) for row in found) for i in range(3)]
    padded = (
        [*(x.ljust(n) for x, n in zip(row, columns)), row.meaning] for row in found
    )
    return ("  ".join(row).rstrip() for row in padded)


def _configs() -> list[pathlib.Path]:
    """Returns the configs of the working directory, the checkout, or the installation."""
    folders = (
        pathlib.Path("configs"),
        pathlib.Path(__file__).resolve().parents[2] / "configs",
        pathlib.Path(sysconfig.get_path("data")) / "share/mtrl_jax/configs",
    )
    for folder in folders:
        if found := sorted(folder.glob("*.yaml")):
            return found
    looked = ", ".join(str(folder) for folder in folders)
    raise errors.ConfigError(
        f"list configs: there are none in {looked}; they come with the source"
    )


def _config_line(path: pathlib.Path, width: int) -> str:
    """Returns the path, ``width`` wide, and the first comment of a config."""
    first = path.read_text(encoding="utf-8").splitlines()[:1]
    says = first[0].lstrip("# ") if first and first[0].startswith("#") else ""
    return f"{path!s:{width}s}  {says}"
