"""What an agent's acting reads and what it notes down, found out by tracing it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.interpreters import partial_eval

from mtrl_jax import errors, hparams, types
from mtrl_jax.config import strict
from mtrl_jax.experiments import checks

# Settings of agents with which actions hang on the number of the task -> without.
_BY_TASK = {
    "experts": "false",
    "normalise_observations": "false",
    "per_task": "false",
    "ranges": "[]",
    "sharing": "hard",
    "task_embedding": "false",
    "task_heads": "false",
}


class Reads(NamedTuple):
    """What decides on actions, beside observations."""

    task: bool  # TimeStep.task, now or through the carry
    carry: bool  # what acting remembers
    hparams: frozenset[str]  # now or through the carry


def reads(agent: types.Agent, config: Any, spec: types.EnvSpec) -> Reads:
    """Returns what the actions of ``agent``, configured by ``config``, depend on."""
    given = _arguments(agent, config, spec)

    def act(*given):
        return agent.act(*given)[:2]

    program, shape = jax.make_jaxpr(act, return_shape=True)(*given)
    of_action, of_carry = (len(jax.tree.leaves(x)) for x in shape)

    def used(outputs: list[bool]) -> tuple:
        _, inputs = partial_eval.dce_jaxpr(program.jaxpr, outputs)
        return jax.tree.unflatten(jax.tree.structure(given), inputs)

    _, carry, *_ = used([True] * of_action + [False] * of_carry)
    _, _, ts, _, hp = used([True] * (of_action + of_carry))
    named = hparams.flatten(hp).items()
    return Reads(
        task=ts.task,
        carry=any(jax.tree.leaves(carry)),
        hparams=frozenset(name for name, is_read in named if is_read),
    )


def check_played(
    field: str,
    given: Mapping[str, float],
    agent: types.Agent,
    config: Any,
    spec: types.EnvSpec,
) -> None:
    """Raises ConfigError unless what is changed where the agent only acts is read there.

    ``given`` are the hyperparameters that the setting ``field`` changes; one that stays
    what it is may be there.
    """
    own = config.agent.hparams
    moved = {name: x for name, x in given.items() if x != own[name]}
    known = reads(agent, config, spec).hparams if moved else frozenset()
    for name, value in moved.items():
        if name not in known:
            raise errors.ConfigError(
                f"{field}.{name}={value:g}: acting of {config.agent.name} does not read "
                f"it, and nothing is learned there; leave it out (acting reads "
                f"{', '.join(sorted(known)) or 'none'})"
            )


def notes(agent: types.Agent, config: Any, spec: types.EnvSpec) -> dict[str, Any]:
    """Returns what acting notes down by name: a ShapeDtypeStruct of one slot's step."""
    extras = jax.eval_shape(agent.act, *_arguments(agent, config, spec))[2]
    return {
        name: jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
        for name, x in by_name(extras).items()
        if np.dtype(x.dtype).kind in "biuf"
    }


def by_name(extras: types.Tree) -> dict[str, types.Array]:
    """Returns the leaves of what acting notes down by their names, ``q`` or ``a.b``.

    A single array, which has none, is called ``extras``.
    """
    leaves = jax.tree_util.tree_leaves_with_path(extras)
    return {
        jax.tree_util.keystr(path, simple=True, separator=".") or "extras": x
        for path, x in leaves
        if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    }


def check_tasks(
    agent: types.Agent,
    config: Any,
    trained: types.EnvSpec,
    given: types.EnvSpec,
    of: str,
) -> None:
    """Raises ConfigError unless an agent that reads its task gets those it learned.

    ``of`` is the stage where it learned on ``trained``. In ``given`` a task is to have the
    number that it has there; there may be fewer.
    """
    known, here = ([task.name for task in x.tasks] for x in (trained, given))
    if here == known[: len(here)] or not reads(agent, config, trained).task:
        return
    raise errors.ConfigError(
        f"tasks: {', '.join(here)}: {config.agent.name} acts by the number of its task, "
        f"and in stage {of!r} they were, in this order, {', '.join(known)}; give "
        "these in this order, the last may be missing, or train "
        f"{_without_tasks(config) or 'an agent that does not'}"
    )


def _without_tasks(config: Any) -> str:
    """Returns which of an agent's settings make it read its task and what does not."""
    found: dict[str, str] = {}
    for path, value in strict.flat({"agent": {"config": config.agent.config}}).items():
        parts = path.split(".")
        for i, part in enumerate(parts):
            # Mix&Match's experts are on or off, those of a trunk a number.
            is_on = value is True or part == "ranges" or part == "sharing"
            if part in _BY_TASK and is_on and value not in ([], "hard"):
                found[".".join(parts[: i + 1])] = _BY_TASK[part]
    named = ", ".join(f"{name}={off}" for name, off in found.items())
    return f"it with {named}" if named else ""


def check_same_learners(
    field: str,
    own: tuple[types.Agent, Any],
    source: tuple[types.Agent, Any],
    joined: Callable[[types.Tree, types.Tree], types.Tree],
) -> None:
    """Raises ConfigError unless an (agent, config) can begin with learners of another.

    With what ``joined(own, source's)`` makes of them. The first leaf that differs is
    named, with both shapes; ``field`` is what gave them. A ValueError of ``joined``
    becomes a ConfigError of that field.
    """
    fresh = _learner(*own)
    try:
        given = joined(fresh, _learner(*source))
    except ValueError as error:
        raise errors.ConfigError(f"{field}: {error}") from None
    here, there = map(_described, (fresh, given))
    for name in [*there, *(x for x in here if x not in there)]:
        if here.get(name) != there.get(name):
            raise errors.ConfigError(
                f"{field}: of its learners, leaf {name} is "
                f"{there.get(name, 'not there')}, here {here.get(name, 'not there')}; "
                "give the same network, optimiser and sizes of tasks"
            )


def check_same_teacher(
    field: str,
    own: tuple[types.Agent, Any],
    source: tuple[types.Agent, Any],
) -> None:
    """Raises ConfigError unless what ``own`` keeps frozen are parameters of ``source``.

    Both are (agent, config). What else a teacher learned, for other heads, is no matter.
    """
    here, there = _learner(*own).frozen, _learner(*source)._asdict()
    for name, leaf in _described(here).items():
        found = _described(there).get(name, "not there")
        if leaf != found:
            raise errors.ConfigError(
                f"{field}: leaf {name} of its network is {found}, here {leaf}; give a "
                "stage with one network for all tasks, on the same tasks"
            )


def named(frozen: dict[str, Any], learner: Any) -> dict[str, Any]:
    """Returns of a learner what ``frozen`` has: its fields, and of dicts the entries."""

    def taken(own: Any, given: Any) -> Any:
        if not isinstance(own, dict):
            return given
        return {name: taken(x, given[name]) for name, x in own.items()}

    return {name: taken(x, getattr(learner, name)) for name, x in frozen.items()}


def _learner(agent: types.Agent, config: Any) -> Any:
    key, hp = checks.key_and_hparams(config)
    return jax.eval_shape(agent.init, key, hp)


def _described(learner: types.Tree) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(learner)
    return {
        jax.tree_util.keystr(path): f"{x.dtype}{list(x.shape)}" for path, x in leaves
    }


def _arguments(agent: types.Agent, config: Any, spec: types.EnvSpec) -> tuple:
    """Returns the shapes of what ``act`` takes of one slot."""
    key, hp = checks.key_and_hparams(config)
    learner = jax.eval_shape(agent.init, key, hp)
    carry = jax.eval_shape(lambda: agent.carry(1))
    return learner, carry, checks.time_step_shapes(spec, 1), key, hp
