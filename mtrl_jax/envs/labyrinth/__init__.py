"""Labyrinth: first-person 3-D tasks like DeepMind Lab's, inside the compiled step.

Mazes, arenas and rooms with things to take, bots to tag, doors to open; seen as pixels
or as rays; steered by 756 joint actions or by nine of them. A level is parameters and a
rule (``levels.py``); a mixture of levels of one kind is one program.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mtrl_jax import errors
from mtrl_jax.envs import core
from mtrl_jax.envs.labyrinth import (
    controls,
    game,
    level_params,
    levels,
    oracle,
    pixels,
    places,
    rays,
    scores,
    topdown,
    world,
)
from mtrl_jax.types import Array

_OBSERVATIONS = ("rays", "pixels")
_OPTIONS = ("observation", "size", "rays", "actions")
# Slots of a member that are dealt a new map together: dealing costs some 50 steps.
_GROUP = 8


def names() -> list[str]:
    """Returns the names of all levels."""
    return list(levels.LEVELS)


def task(name: str, options: Mapping[str, Any] | None = None) -> core.PureTask:
    """Returns the level ``name`` as a PureTask called ``labyrinth/name``.

    Options: ``observation`` "rays" (default) or "pixels"; ``rays`` their number (24);
    ``size`` [height, width] of the picture ([72, 96]); ``actions`` "native" (default,
    six choices), "joint" (one of 756) or "small" (one of nine); and every field of
    ``world.Params``. In one open room things can be dealt to the places of a split:
    ``tasks`` "all", "train" or "test", ``train_fraction``, ``split_seed``, ``number``, and
    ``task`` "episode" or "slot", as in ``dark``. Raises ValueError for an unknown name or
    option and for a value that cannot be.
    """
    level, params, static, given, dealt = _described(name, options)
    action_set = static.get("actions", "native")
    errors.check("options.actions", action_set, controls.SPACES)
    # Scores of the level as it is: with other parameters it is another.
    stored = None if given or dealt else scores.TABLE.get(name)
    code = game.code(level.kind, _observer(level.kind, static), action_set)
    return core.task(
        f"labyrinth/{name}",
        code.reset,
        code.step,
        controls.SPACES[action_set],
        params,
        random_score=stored and stored.random.mean,
        reference_score=stored and stored.oracle.mean,
        max_steps=int(params.length),
        action_sets=controls.SETS[action_set],
        frames=1,
        wants_renewal=code.wants_renewal,
        renew=code.renew,
        observe=code.observe,
        group=_GROUP,
        render=topdown.renderer(_size(static), level.kind),
        deal=places.dealer(params, dealt) if dealt else None,
        check=functools.partial(_check, level, params if dealt else None),
    )


def tasks_of(
    name: str, options: Mapping[str, Any] | None = None
) -> world.Params | None:
    """Returns every task that options of a split stand for, stacked [N, ...], else None.

    Tasks differ in ``places`` alone. Raises ValueError as ``task``.
    """
    _, params, _, _, dealt = _described(name, options)
    if not dealt:
        return None
    found = places.among(params, dealt)
    every = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(found), *x.shape)), params)
    return every._replace(places=jnp.asarray(found))


def optimal_action_in(
    name: str, options: Mapping[str, Any] | None = None
) -> Callable[[world.Params, world.State], Array]:
    """Returns what is best to do, int32 [P, B] of ``actions: small``, where it is known.

    That is in one open room (the tasks of ``places``): a line to the platform, or to the
    key and then the door. Of a body that turns in steps and slides, it is the best within
    the next decision. Raises ValueError for other tasks and actions, and where there is
    something to avoid or to weigh: a lemon, a melon, a goal that teleports (or ends the
    episode, not locked) beside other things.
    """
    _, params, static, _, dealt = _described(name, options)
    if not dealt or static.get("actions") != "small":
        raise ValueError(
            f"options: what is best is known of {name} with actions=small and tasks=all, "
            "train or test, places in one open room; give both"
        )
    oracle.check_straight(params)
    each = jax.vmap(jax.vmap(oracle.straight))
    return lambda params, state: each(state, params)


def _described(
    name: str, options: Mapping[str, Any] | None
) -> tuple[levels.Level, world.Params, dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Returns (level, its parameters, options of code, of parameters, of a split)."""
    errors.check("env", name, levels.LEVELS)
    level, given = levels.LEVELS[name], dict(options or {})
    known = (*_OPTIONS, *places.OPTIONS, *world.Params._fields)
    errors.check_options(f"labyrinth/{name}", given, known)
    static = {key: given.pop(key) for key in _OPTIONS if key in given}
    dealt = {key: given.pop(key) for key in places.OPTIONS if key in given}
    return level, level_params.params(level, given), static, given, dealt


def _check(
    level: levels.Level, dealt: world.Params | None, params: world.Params
) -> None:
    """Raises ValueError unless a level can be played by ``params``, of numpy.

    ``dealt`` are those that the places of a split are of, None where there are none.
    """
    level_params.check(level, params)
    if dealt is not None:
        places.check(params, dealt)


def _observer(kind: game.Kind, static: dict[str, Any]) -> game.Observe:
    observation = static.get("observation", "rays")
    errors.check("options.observation", observation, _OBSERVATIONS)
    if observation == "rays":
        return rays.observer(
            errors.integer("options.rays", static.get("rays", 24), 1, 512), kind
        )
    if "rays" in static:
        raise ValueError(
            f"options.rays: got {static['rays']!r}, pixels have none; leave it out"
        )
    return pixels.observer(_size(static), kind)


def _size(static: dict[str, Any]) -> tuple[int, int]:
    return pixels.checked(static.get("size", pixels.SIZE))
