"""What a checkpoint holds of a run, and what it cannot hold."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax.engine import pbt, statistics
from mtrl_jax.types import Tree


class Saved(NamedTuple):
    """What a checkpoint holds."""

    run: Any  # a RunState, or what the runner of another kind of run has
    hparams: Tree
    pbt: pbt.PbtState


def with_changes(hparams: Tree, changed: dict[str, tuple], like: Tree) -> Tree:
    """Returns the hyperparameters with what was changed set for all members."""
    given = {n.removeprefix("agent.hparams."): new for n, (_, new) in changed.items()}
    own = {n: v for n, v in given.items() if n in hparams._fields}
    hparams = hparams._replace(
        **{n: jnp.full_like(getattr(hparams, n), v) for n, v in own.items()}
    )
    return jax.tree.map(lambda new, x: jax.device_put(new, x.sharding), hparams, like)


def without_world(saved: Saved, pure: bool) -> Saved:
    """Returns what can be written to disk: a world outside the program cannot."""
    if pure:
        return saved
    nothing: Any = ()
    return saved._replace(
        run=saved.run._replace(env=nothing, ts=nothing, carry=nothing)
    )


def world_alone(fresh: Any, pure: bool) -> Any:
    """Returns what ``with_world`` needs of a fresh state: nothing where it was saved."""
    if pure:
        return None
    kept = {"env": fresh.env, "ts": fresh.ts, "carry": fresh.carry}
    return jax.tree.map(lambda _: None, fresh)._replace(**kept)


def with_world(saved: Saved, fresh: Any, pure: bool) -> Saved:
    """Returns the restored state; where the world was not saved, at fresh episodes."""
    if pure:
        return saved
    return saved._replace(
        run=saved.run._replace(
            env=fresh.env,
            ts=fresh.ts,
            carry=fresh.carry,
            stats=statistics.restart_episodes(saved.run.stats),
        )
    )
