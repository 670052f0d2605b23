"""What may differ between a run and its continuation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtrl_jax import errors
from mtrl_jax.config import loading, modules, strict

RESUMABLE = (
    "agent.hparams",
    "training.env_steps",
    "evaluation",
    "checkpoint",
    "logging",
)
# And in a stage that is not online, by its kind.
_OF_KIND = {
    "offline": (
        "data",  # To another place, see ``check_sources``.
        "agent.hparams",
        "training.updates",
        "evaluation.every_updates",
        "evaluation.hparams",
        "checkpoint",
        "logging",
    ),
    # Of another number of steps or episodes it would be another dataset, or result.
    "collect": tuple(x for x in RESUMABLE if x != "training.env_steps"),
    "evaluate": ("checkpoint", "logging"),
}


def moves_results(name: str) -> bool:
    """Returns whether a run's results may be others with another value of a setting."""
    return name != "data" and not name.startswith(("checkpoint.", "logging."))


def differences(old: Any, new: Any) -> dict[str, tuple]:
    """Returns {dotted name: (old, new)} of the settings that differ."""
    before, after = strict.flat(loading.to_dict(old)), strict.flat(loading.to_dict(new))
    names = sorted(before.keys() | after.keys())
    return {
        name: (before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    }


def check_resumable(old: Any, new: Any) -> dict[str, tuple]:
    """Returns the differences if a run may continue with them.

    Raises:
      ConfigError: naming the first setting that would need another program or state.
    """
    changed = differences(old, new)
    may_change = _OF_KIND.get(new.kind, RESUMABLE)
    for name, (was, now) in changed.items():
        if modules.has_moved(name, was, now):
            continue
        if not any(name == ok or name.startswith(ok + ".") for ok in may_change):
            raise errors.ConfigError(
                f"{name}: the run has {was!r}, {now!r} given; a running experiment "
                f"keeps it (changeable: {', '.join(may_change)})"
            )
    return changed


def check_agent(field: str, was: str, values: Any) -> None:
    """Raises ConfigError unless settings that are not read yet are of the same agent.

    Read as another's, its own fields would be mistakes. ``field`` is where its name is.
    """
    agent = values.get("agent") if isinstance(values, dict) else None
    now = agent.get("name", was) if isinstance(agent, dict) else was
    if isinstance(now, str) and now != was and not modules.has_moved(field, was, now):
        raise errors.ConfigError(
            f"{field}: the run has {was!r}, {now!r} given; a running experiment keeps it"
        )


def check_sources(was: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raises ConfigError unless the data are what a run has learned from so far.

    Both are {name: SHA-256}; a checkpoint of an earlier version has none.
    """
    for name in now:
        if was.get(name, now[name]) != now[name]:
            raise errors.ConfigError(
                f"{name}: not what the run has learned from so far; give the same data, "
                "wherever they are"
            )
