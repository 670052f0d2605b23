"""Two contextual bandits with rewards of 1 and 100: neither unit is to decide what is learned.

The cheap bandit's progress, 0 at random and 1 at best, every 20 updates of PPO.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import agents, random, types
from mtrl_jax.engine import fused_runner
from mtrl_jax.envs import core, mixture, wrappers

CONTEXTS = ACTIONS = 4
SEEDS, SLOTS = 4, 16
TIMES, CHUNK = 6, 20  # a hundred and twenty updates
UNITS = (1.0, 100.0)  # of all rewards, a member of each seed each

pytestmark = pytest.mark.slow


def bandit(name, which, noise=0.5):
    """Returns a bandit of one step: the right action of a context pays 1, ± noise.

    The observation tells contexts and bandits apart.
    """

    def seen(context, which):
        return jax.nn.one_hot(context + CONTEXTS * which, 2 * CONTEXTS)

    def reset(key, which):
        context = jax.random.randint(key, (), 0, CONTEXTS)
        return context, seen(context, which)

    def step(key, context, action, which):
        right = action == (context + which) % ACTIONS
        luck = noise * jax.random.normal(key)
        return context, seen(context, which), right + luck, True, False

    return core.task(
        name, reset, step, types.Discrete(ACTIONS), jnp.int32(which), max_steps=1
    )


def environment():
    """Returns the two as a mixture; returns are reported in the bandit's own unit."""
    batch = (SEEDS * len(UNITS), SLOTS)
    tasks = [bandit("cheap", 0), wrappers.reward_scale(bandit("costly", 1), 100.0)]
    return mixture.make([core.vectorise(task, batch) for task in tasks])


def blind(agent):
    """Returns the agent for one task, given two: its minibatches know no tasks."""

    def one(ts):
        return ts._replace(task=jnp.zeros_like(ts.task))

    def act(learner, carry, ts, key, hp):
        return agent.act(learner, carry, one(ts), key, hp)

    def update(learner, rollout, key, hp, step):
        return agent.update(
            learner, rollout._replace(ts=one(rollout.ts)), key, hp, step
        )

    return agent._replace(act=act, update=update)


@functools.cache
def progress(knows_tasks, separate_value, value_scale="none"):
    """Returns the cheap bandit's progress [unit, TIMES], a mean over seeds."""
    env, ppo = environment(), agents.get("ppo")
    network = ppo.Config().network.__class__(
        hidden=(32,), separate_value=separate_value, last_action_reward=False
    )
    config = ppo.Config(network=network, value_scale=value_scale, value_debias=True)
    spec = env.spec if knows_tasks else env.spec._replace(tasks=env.spec.tasks[:1])
    agent = ppo.make(spec, config) if knows_tasks else blind(ppo.make(spec, config))
    members = SEEDS * len(UNITS)
    hp = jax.tree.map(lambda x: jnp.full(members, x, jnp.float32), ppo.Hparams())
    hp = hp._replace(
        optimiser=hp.optimiser._replace(
            learning_rate=jnp.full(members, 3e-3), max_grad_norm=jnp.full(members, 0.5)
        ),
        returns=hp.returns._replace(reward_scale=jnp.repeat(jnp.array(UNITS), SEEDS)),
        scale=hp.scale._replace(
            value_step_size=jnp.full(members, 1e-2),
            value_std_min=jnp.full(members, 1e-4),
        ),
    )
    runner = fused_runner.make(agent, env, unroll_length=8, updates_per_chunk=CHUNK)
    # The same seeds in either unit.
    keys = jnp.tile(random.roots(0, SEEDS), len(UNITS))
    state = jax.jit(runner.init)(keys, hp)
    chunk, found = jax.jit(runner.chunk, donate_argnums=0), []
    for _ in range(TIMES):
        state, out = chunk(state, hp)
        mean = out.episodes["return"] / out.episodes["episodes"]
        found.append((np.asarray(mean)[:, 0] - 1 / ACTIONS) / (1 - 1 / ACTIONS))
    return np.stack(found, -1).reshape(len(UNITS), SEEDS, TIMES).mean(1)


def test_advantages_of_a_cheap_task_are_its_own():
    """Normalised per task it is solved; over the mixed minibatch it is not."""
    own, mixed = progress(True, True)[0], progress(False, True)[0]
    assert own[-1] >= 0.95, own
    assert mixed[-1] < own[-1] - 0.05, (own, mixed)


@pytest.mark.parametrize("kind", ["popart", "return_scale"])
def test_the_unit_of_all_rewards_changes_nothing(kind):
    """A torso shared with the value, one gradient clip: times 100 as times 1 to .05."""
    one, hundred = progress(True, False, kind)
    np.testing.assert_allclose(one, hundred, atol=0.05)
    assert one[-1] >= 0.95 and hundred[-1] >= 0.95
    raw = progress(True, False)
    assert raw[0, 2] - raw[1, 2] > 0.2, raw
