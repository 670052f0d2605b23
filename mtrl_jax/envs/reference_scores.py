"""Scores that put the returns of different tasks on one scale.

    normalised = (score - random) / (reference - random)

0 is a uniformly random policy, 1 the reference. ``GYMNAX`` random scores are means of
512 episodes of the uniform policy on gymnax 1.0.1 (seed 0, ``measure_random``; standard
error below 4 % of the distance to the reference), except where the mean is known exactly
(bsuite's chains, DeepSea, SimpleBandit). Its references: PPO for MinAtar, the best
possible return for CartPole and bsuite, Gymnasium's "solved" threshold for Acrobot,
MountainCar and FrozenLake, and our own choice for Pendulum (near what SAC and TD3 are
reported to reach). envpool's scores are in ``envpool_scores``.
"""

from __future__ import annotations

from mtrl_jax import types

Scores = tuple[float | None, float | None]  # (random, reference)

GYMNAX: dict[str, Scores] = {
    "CartPole-v1": (22.5, 500.0),
    "Pendulum-v1": (-1225.0, -150.0),
    "Acrobot-v1": (-498.3, -100.0),
    "MountainCar-v0": (-200.0, -110.0),
    "MountainCarContinuous-v0": (-33.1, 90.0),
    "Asterix-MinAtar": (0.44, 15.0),
    "Breakout-MinAtar": (0.38, 28.0),
    "Freeway-MinAtar": (0.38, 58.0),
    "Seaquest-MinAtar": (0.09, None),
    "SpaceInvaders-MinAtar": (4.0, 131.0),
    "Catch-bsuite": (-0.61, 1.0),
    "DeepSea-bsuite": (-0.0011, 0.99),
    "MemoryChain-bsuite": (0.0, 1.0),
    "UmbrellaChain-bsuite": (0.0, 1.0),
    "DiscountingChain-bsuite": (1.02, 1.1),
    "SimpleBandit-bsuite": (0.5, None),  # new arms each step: nothing can be learned
    "FourRooms-misc": (0.41, 1.0),
    "FrozenLake-misc": (0.008, 0.7),
}


def measure_random(env: types.Env, seed: int = 0) -> float:
    """Returns the mean return of the uniform policy, one episode per slot.

    Slots whose episode is longer than the task's ``max_steps`` count what they have.
    Raises ValueError for an env of unknown episode length.
    """
    import jax
    import jax.numpy as jnp

    from mtrl_jax import random
    from mtrl_jax.envs import actions

    steps = max(spec.max_steps or 0 for spec in env.spec.tasks)
    if not steps:
        raise ValueError(f"{env.spec.tasks[0].name}: max_steps is unknown, set it")
    roots = random.roots(seed, env.batch[0])
    reset_key = random.at(roots, 0, random.ENV)
    state, _ = env.reset(reset_key, env.params)

    def step(carry, t):
        state, total, done = carry
        key = random.at(roots[0], t, random.ACT)
        action = actions.sample(env.spec.action, key, env.batch)
        state, ts = env.step(state, action, env.params)
        total = total + jnp.where(done, 0.0, ts.reward)
        return (state, total, done | ts.last), None

    start = (state, jnp.zeros(env.batch), jnp.zeros(env.batch, bool))
    (_, total, _), _ = jax.lax.scan(step, start, jnp.arange(steps))
    return float(jnp.mean(total))
