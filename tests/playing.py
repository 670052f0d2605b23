"""What happens in an environment when somebody who sees its state plays."""

import jax
import jax.numpy as jnp

from mtrl_jax import random


def played(env, steps, choose, seed=0):
    """Returns time steps, measures and params ``[T, P, B, ...]``.

    ``choose(key, env_state)`` gives the actions [P, B].
    """

    @jax.jit
    def rollout(key):
        state, first = env.reset(random.at(key, 0, random.ENV), env.params)

        def step(carry, t):
            state, _ = carry
            action = choose(random.at(key[0], t, random.ACT), state)
            state, ts = env.step(state, action, env.params)
            return (state, ts), (ts, env.info(state), state.params)

        return jax.lax.scan(step, (state, first), jnp.arange(steps))[1]

    return jax.device_get(rollout(random.roots(seed, env.batch[0])))
