"""What a checkpoint holds of a run, and what it cannot hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from mtrl_jax import checkpoint, hparams, types
from mtrl_jax.engine import fused_runner, pbt, population, statistics
from mtrl_jax.envs import curriculum
from mtrl_jax.types import Tree

# The subtrees of what is saved that acting does not see.
MEMORY = ("run.memory",)


class Saved(NamedTuple):
    """What a checkpoint holds."""

    run: Any  # a RunState, or what the runner of another kind of run has
    hparams: Tree
    pbt: pbt.PbtState


class World(NamedTuple):
    """The parts of a run's state that ``without_world`` leaves out."""

    env: Any
    ts: Any
    carry: Any


def dropped(saved: Saved, replay: str) -> tuple[str, ...]:
    """Returns the subtrees that a checkpoint leaves out where ``replay`` is "drop"."""
    has_memory = bool(jax.tree.leaves(getattr(saved.run, "memory", ())))
    return MEMORY if has_memory and replay == "drop" else ()


def lacks_memory(saved: Saved) -> bool:
    """Returns whether the members' replays were left out of what was restored."""
    return bool(checkpoint.missing(getattr(saved.run, "memory", ())))


def with_memory(saved: Saved, agent: types.Agent, batch: tuple[int, int]) -> Saved:
    """Returns the restored state with empty memories, on the devices they belong to."""
    members, slots = batch
    places = jax.tree.map(lambda x: x.sharding, saved.run.memory)
    agents = population.population(agent, members)
    memory = fused_runner.init_memory(agents, slots, places)
    # Not its buffer: a runner donates both.
    emptied = jax.tree.map(jax.numpy.copy, saved.run.step)
    return saved._replace(run=saved.run._replace(memory=memory, emptied=emptied))


def with_changes(hp: Tree, changed: dict[str, tuple], like: Tree) -> Tree:
    """Returns the hyperparameters with what was changed set for all members."""
    given = {n.removeprefix("agent.hparams."): new for n, (_, new) in changed.items()}
    own = {n: v for n, v in given.items() if n in hparams.names(hp)}
    hp = hparams.override(hp, own)
    return jax.tree.map(lambda new, x: jax.device_put(new, x.sharding), hp, like)


def without_world(saved: Saved, pure: bool) -> Saved:
    """Returns what can be written to disk: a world outside the program cannot."""
    if pure:
        return saved
    nothing: Any = ()
    return saved._replace(
        run=saved.run._replace(env=nothing, ts=nothing, carry=nothing)
    )


def world_of(fresh: Any) -> World:
    """Returns what ``with_world`` needs of a fresh state, for the rest to be freed."""
    return World(fresh.env, fresh.ts, fresh.carry)


def with_world(
    saved: Saved, fresh: World | None, was: Sequence[int] = (), now: Sequence[int] = ()
) -> Saved:
    """Returns the restored state; where the world was not saved, at fresh episodes.

    Slots that had the tasks ``was`` when it was saved have ``now``, see statistics.moved.
    The fresh episodes are of a curriculum's first level, so its levels forget them.
    """
    if fresh is None:
        return saved
    stats = statistics.moved(saved.run.stats, was, now)
    fields = {**fresh._asdict(), "stats": statistics.restart_episodes(stats)}
    if hasattr(saved.run, "curriculum"):
        everyone = jax.numpy.ones(stats.stale.shape[0], bool)
        fields["curriculum"] = curriculum.forget(saved.run.curriculum, everyone)
    return saved._replace(run=saved.run._replace(**fields))
