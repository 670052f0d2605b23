"""An agent that plays while a teacher watches and notes down what it says of each step.

So a student's own states get a teacher's labels (DAgger's data; Actor-Mimic's).

Refs: Ross et al. 2011 (arXiv:1011.0686); Parisotto et al. 2016 (arXiv:1511.06342).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import types
from mtrl_jax.types import Array, Tree


class Learner(NamedTuple):
    """Both, frozen; the player's hyperparameters are the run's."""

    player: Tree
    teacher: Tree
    hp: Tree  # the teacher's


class Carry(NamedTuple):
    """What either remembers of a slot."""

    player: Tree
    teacher: Tree


def make(
    player: types.Agent,
    teacher: types.Agent,
    hp: Tree,
    observe_action: Callable[[Tree, types.TimeStep, Array], Tree] | None,
) -> types.Agent:
    """Returns an agent whose actions are the player's and whose notes the teacher's.

    It learns nothing. ``hp`` are the hyperparameters of a fresh teacher;
    ``observe_action`` (see AgentInfo) tells it the action that was played.
    """

    def init(key, own):
        play_key, teach_key = jax.random.split(key)
        theirs = jax.tree.map(jnp.float32, hp)
        return Learner(
            player.init(play_key, own), teacher.init(teach_key, theirs), theirs
        )

    def carry(batch):
        return Carry(player.carry(batch), teacher.carry(batch))

    def act(learner, carry, ts, key, own):
        play_key, teach_key = jax.random.split(key)
        action, played, _ = player.act(learner.player, carry.player, ts, play_key, own)
        _, watched, notes = teacher.act(
            learner.teacher, carry.teacher, ts, teach_key, learner.hp
        )
        if observe_action is not None:
            watched = observe_action(watched, ts, action)
        return action, Carry(played, watched), notes

    def update(learner, batch, key, hp, step):
        return learner, {}, ()

    return types.Agent(init, carry, act, update)
