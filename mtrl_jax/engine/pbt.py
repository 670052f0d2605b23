"""Population-based training as pure functions on arrays with a leading population axis.

A round looks at a frozen snapshot of scores, decides for each member whose learner it
goes on with, and perturbs the hyperparameters of the copies:

    source      = exploit(fitness)                          [P]
    learner_i'  = learner_{source_i}                        one gather
    hparams_i'  = explore(hparams_{source_i})               only where source_i != i

Weights, optimiser, target networks and statistics travel together (``learner``); replay,
random keys and environment slots stay (``memory`` and all the rest). Nothing
here knows an agent or an environment. Random search and a fixed population are the same
code with ``exploit="none"``.

Deviations from the paper: rounds are synchronous, all members at the same update; the
copy is not evaluated again before the next step; ties are ordered at random; the t-test
is of all the returns that the fitness keeps, not of the last ten.

Ref: Jaderberg et al. 2017 (arXiv:1711.09846).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from mtrl_jax import random, tree
from mtrl_jax.engine.pbt_config import PbtConfig, SearchRange, validate
from mtrl_jax.engine.pbt_exploit import Fitness, exploit, welch_p_value
from mtrl_jax.engine.pbt_explore import Ranges, explore, names, sample_initial
from mtrl_jax.types import Array, Key, Tree

__all__ = [
    "Fitness",
    "PbtConfig",
    "PbtState",
    "SearchRange",
    "apply",
    "exploit",
    "explore",
    "init",
    "names",
    "round",
    "sample_initial",
    "validate",
    "welch_p_value",
]


class PbtState(NamedTuple):
    """Who descends from whom; saved with the run."""

    rounds: Array  # [] int32, rounds so far
    last_copy: Array  # [P] int32, update of the last copy, 0 if none
    copies: Array  # [P] int32, how often the member was replaced
    ancestor: Array  # [P] int32, the member of generation 0 it descends from


def init(population: int) -> PbtState:
    """Returns the state of generation 0: every member is its own ancestor."""
    # One zeros per field: donated buffers must not alias.
    return PbtState(
        rounds=jnp.zeros((), jnp.int32),
        last_copy=jnp.zeros(population, jnp.int32),
        copies=jnp.zeros(population, jnp.int32),
        ancestor=jnp.arange(population, dtype=jnp.int32),
    )


def round(
    key: Key,
    update: Array | int,
    fitness: Fitness,
    hparams: Tree,
    state: PbtState,
    *,
    ranges: Ranges,
    config: PbtConfig,
) -> tuple[Array, Tree, PbtState]:
    """Returns (source [P] int32, new hyperparameters [P], new state) of one round.

    The caller gathers with ``apply`` and starts the fitness window of the members where
    ``source != arange(P)`` anew. Before ``burn_in`` updates only members that are not
    finite are replaced.

    Args:
        key: [P], each member's key for this purpose and update.
        update: [] int32, updates done so far.
        fitness: of each member since its last copy.
        hparams: leaves [P].
    """
    burn_in = jnp.asarray(update) < config.burn_in
    source = exploit(random.fold(key, 0), fitness, config, burn_in=burn_in)
    copied = source != jnp.arange(source.shape[0], dtype=source.dtype)
    if config.copy_hparams:
        hparams = tree.take(hparams, source)
    explored = explore(random.fold(key, 1), hparams, ranges, copied, config)
    hparams = tree.where(copied | ~burn_in, explored, hparams)
    state = PbtState(
        rounds=state.rounds + 1,
        last_copy=jnp.where(copied, update, state.last_copy).astype(jnp.int32),
        copies=state.copies + copied,
        ancestor=state.ancestor[source],
    )
    return source, hparams, state


def apply(learner: Tree, source: Array) -> Tree:
    """Returns the learners after the copies: row i is the old row ``source[i]``.

    A member's memory, keys and slots stay with it: they are not in here.
    """
    return tree.take(learner, source)
