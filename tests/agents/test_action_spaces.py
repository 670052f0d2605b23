"""Actions that are no single choice: every agent takes them, or says that it does not.

By default factorised ones; a box, where the agent takes one, is another program.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import programs
import pytest

from mtrl_jax import agents, random, types
from mtrl_jax.engine.batched_draws import batch_draws

# Spaces beside choices, and a probe of each.
SPACES = {"both_factorised": types.Factorised, "both_box": types.Box}


def cases():
    """Yields (agent, probe); an agent that takes a box is slow there, but for the first."""
    taken = 0
    for name in programs.NAMES:
        for probe, space in SPACES.items():
            takes = probe == "both_box" and space in agents.get(name).INFO.actions
            taken += takes
            slow = [pytest.mark.slow] if takes and taken > 1 else []
            yield pytest.param(name, probe, marks=slow)


@functools.cache
def on_probe(name, probe, kit):
    """Returns an agent on a probe: init, acting and learning in one program.

    ``play(legal)`` returns (rollout, learner before, learner after, metrics); ``legal``
    [M] are the choices that are not forbidden.
    """
    env, hp = kit.probe(probe), jax.device_get(kit.quick(name))
    agent = kit.small(name, env.spec)

    @jax.jit
    def play(legal):
        def allowed(ts):
            return ts._replace(action_mask=ts.action_mask & legal[None])

        def step(now, key):
            env_state, ts, carry = now
            action, carry, extras = agent.act(learner, carry, ts, key, hp)
            env_state, after = env.step(env_state, action[None], env.params)
            return (env_state, allowed(kit.member(after)), carry), (ts, action, extras)

        root = random.roots(0, 1)[0]
        learner = jax.jit(batch_draws(agent.init))(random.at(root, 0, random.INIT), hp)
        start = agent.carry(env.batch[1])
        env_state, ts = env.reset(random.at(root, 0, random.ENV)[None], env.params)
        keys = jax.random.split(random.at(root, 0, random.ACT), kit.T)
        first = (env_state, allowed(kit.member(ts)), start)
        (_, end, _), (ts, action, extras) = jax.lax.scan(step, first, keys)
        ts = jax.tree.map(lambda x, y: jnp.concatenate([x, y[None]]), ts, end)
        rollout = types.Rollout(ts, action, extras, start)
        key = random.at(root, 0, random.UPDATE)
        return rollout, learner, *kit.learn(agent)(learner, rollout, key, hp)

    return lambda legal: jax.device_get(play(np.array(legal)))


@pytest.mark.parametrize(("name", "probe"), list(cases()))
def test_all_action_spaces_run(name, probe, kit):
    """Actions have the space's type and range, an update stays finite and learns.

    Or ``make`` refuses the space, for agents that say so.
    """
    if SPACES[probe] not in kit.info(name).actions:
        env = kit.probe(probe, labels=kit.info(name).reads_expert_labels)
        with pytest.raises(ValueError, match=f"action: {name} .*Discrete"):
            kit.small(name, env.spec)
        return
    legal = [True] * types.action_mask_size(kit.probe(probe).spec.action)
    rollout, before, after, metrics = on_probe(name, probe, kit)(legal)
    action = rollout.action
    if probe == "both_box":
        assert action.dtype == np.float32 and action.shape == (kit.T, kit.SLOTS, 2)
        assert len(np.unique(action)) == action.size
    else:
        sizes = np.array([2, 3])
        assert action.dtype == np.int32
        assert action.shape == (kit.T, kit.SLOTS, 2)
        assert (action >= 0).all() and (action < sizes).all()
    assert programs.all_finite((after, metrics))
    same = jax.tree.map(np.array_equal, after, before)
    assert not all(jax.tree.leaves(same))


@pytest.mark.parametrize("name", programs.NAMES)
def test_illegal_choices_of_a_group_are_never_chosen(name, kit):
    """A factorised action respects the mask of each of its groups."""
    if types.Factorised not in kit.info(name).actions:
        pytest.skip("refuses factorised actions")
    play = on_probe(name, "both_factorised", kit)
    action = play([False, True, True, False, True])[0].action
    assert set(np.unique(action[..., 0])) == {1}
    assert set(np.unique(action[..., 1])) == {0, 2}
