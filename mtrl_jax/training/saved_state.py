"""What a checkpoint holds of a run, and what it cannot hold."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from mtrl_jax import hparams
from mtrl_jax.engine import pbt, statistics
from mtrl_jax.types import Tree


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


def with_world(saved: Saved, fresh: World | None) -> Saved:
    """Returns the restored state; where the world was not saved, at fresh episodes."""
    if fresh is None:
        return saved
    return saved._replace(
        run=saved.run._replace(
            **fresh._asdict(),
            stats=statistics.restart_episodes(saved.run.stats),
        )
    )
