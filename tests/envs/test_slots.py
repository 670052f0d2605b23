"""Slots: what they draw from."""

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import random, types
from mtrl_jax.envs import core


def test_every_step_of_every_slot_draws_from_a_key_of_its_own():
    """Resets, too; and so does what an episode is about, but for what is the slot's."""

    def drawn(key):
        return jax.random.uniform(key)

    def reset(key, params):
        return jnp.int32(0), jnp.stack([drawn(key), *params])

    def step(key, time, action, params):
        shown = jnp.stack([drawn(key), *params])
        return time + 1, shown, 0.0, False, time + 1 >= 3

    def deal(slot_key, episode_key, params):
        return drawn(slot_key), drawn(episode_key)

    start = jnp.zeros(()), jnp.zeros(())
    task = core.task("x", reset, step, types.Discrete(2), start, deal=deal)
    env = core.vectorise(task, (2, 3))
    zeros = jnp.zeros((2, 3), jnp.int32)

    @jax.jit
    def play(key):
        def step(state, _):
            state, ts = env.step(state, zeros, env.params)
            return state, ts.obs["vector"]

        state, first = env.reset(key, env.params)
        after = jax.lax.scan(step, state, length=12)[1]
        return jnp.concatenate([first.obs["vector"][None], after])

    step_of, slot_of, episode_of = np.moveaxis(
        jax.device_get(play(random.roots(0, 2))), -1, 0
    )
    assert len(np.unique(step_of)) == step_of.size
    assert len(np.unique(slot_of)) == 6 and (slot_of == slot_of[0]).all()
    assert len(np.unique(episode_of)) == 6 * (1 + 3)
    found = np.concatenate([np.unique(x) for x in (step_of, slot_of, episode_of)])
    assert len(np.unique(found)) == len(found)
