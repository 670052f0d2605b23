"""Behaviour cloning: what it learns is who acted in the data, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.data import windows

KEY = jax.random.key(0)
T, B = 8, 16
SIZES = (2, 3)


def dataset(kit, task, action, live=None):
    """Returns (Setup, Rollout) with actions [T, B, ...]."""
    one = kit.setup("behaviour_cloning", "none", (task,))
    ts = kit.member(jax.device_get(one.rollout.ts))
    ts = jax.tree.map(lambda x: np.broadcast_to(x[:1], (T + 1, B, *x.shape[1:])), ts)
    ts = ts._replace(first=np.zeros((T + 1, B), bool))
    live = np.ones((T, B), bool) if live is None else live
    rollout = one.rollout._replace(
        ts=ts, action=action, extras=windows.Extras(live), carry=one.agent.carry(B)
    )
    return one, rollout


def fitted(kit, one, rollout, updates=300):
    """Returns (state, metrics) after many updates on the same data."""
    hp = kit.changed(one.hp, learning_rate=0.03)

    @jax.jit
    def fit(state):
        def step(s, _):
            return one.agent.update(s, rollout, KEY, hp, jnp.int32(0))[:2]

        state, metrics = jax.lax.scan(step, state, None, updates)
        return state, jax.tree.map(lambda x: x[-1], metrics)

    return fit(one.learner)


def test_the_loss_falls_to_the_entropy_of_who_acted(kit):
    """Three quarters chose 0: ln-loss of that, and the policy acts alike."""
    action = np.int32(np.arange(T * B).reshape(T, B) % 4 == 0)
    one, rollout = dataset(kit, "action", action)
    # The same sight at every step: the action before must not give it away.
    rollout = rollout._replace(ts=rollout.ts._replace(first=np.ones((T + 1, B), bool)))
    state, metrics = fitted(kit, one, rollout)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    np.testing.assert_allclose(metrics["loss"], entropy, atol=1e-3)
    np.testing.assert_allclose(metrics["entropy"], entropy, atol=1e-2)
    assert float(metrics["accuracy"]) == 0.75
    ts, carry = kit.member(rollout.ts), one.agent.carry(B)
    act = jax.jit(jax.vmap(one.agent.act, (None, None, None, 0, None)))
    drawn, _, _ = act(state, carry, ts, jax.random.split(KEY, 20), one.hp)
    assert abs(np.asarray(drawn).mean() - 0.25) < 0.08


def test_a_dataset_says_which_steps_there_are(kit):
    """What is not live teaches nothing; an episode's last action does, reset or not."""
    row = np.broadcast_to(np.arange(T + 1)[:, None], (T + 1, B))
    step = row[:T]
    one, rollout = dataset(kit, "action", np.zeros((T, B), np.int32), step < T - 2)
    rollout = rollout._replace(ts=rollout.ts._replace(first=row == 3))

    def loss(changed):
        other = rollout._replace(action=np.int32(changed))
        return float(one.update(one.learner, other, KEY, one.hp)[1]["loss"])

    same = loss(step < 0)
    # The last one: an action that is not live is no input to a live step either.
    assert loss(step == T - 1) == same
    assert loss(step == 2) != same
    # Where the rows of resets are kept, what was sent into one was nobody's choice.
    rollout = rollout._replace(ts=rollout.ts._replace(last=row == 2))
    assert loss(step == 2) == loss(step < 0)


def test_a_dataset_says_which_action_came_before_its_windows(kit):
    """It is an input of the first row; without a dataset, the carry's is."""
    one, rollout = dataset(kit, "action", np.zeros((T, B), np.int32))

    def loss(before):
        extras = rollout.extras._replace(prev_action=np.int32(before))
        given = rollout._replace(extras=extras)
        return float(one.update(one.learner, given, KEY, one.hp)[1]["loss"])

    row = np.broadcast_to(np.arange(T)[:, None], (T, B))
    same = float(one.update(one.learner, rollout, KEY, one.hp)[1]["loss"])
    assert loss(row < 0) == loss(row > 0) == same
    assert loss(row == 0) != same


@pytest.mark.parametrize("task", ["both_factorised", "both_box"])
def test_joint_choices_and_real_actions_are_imitated(kit, task):
    """All groups of a factorised action, the mean and width of a Gaussian."""
    draws = np.random.default_rng(0).normal(0.25, 0.05, (T, B, 2)).astype(np.float32)
    choices = np.broadcast_to(np.array([1, 2], np.int32), (T, B, 2))
    action = choices if task == "both_factorised" else draws
    one, rollout = dataset(kit, task, action)
    state, metrics = fitted(kit, one, rollout, updates=600)
    greedy = one.hp._replace(temperature=jnp.float32(0.0))
    ts = kit.member(rollout.ts)
    done, _, _ = one.act(state, one.agent.carry(B), ts, KEY, greedy)
    if task == "both_factorised":
        assert float(metrics["accuracy"]) == 1.0 and float(metrics["loss"]) < 0.01
        np.testing.assert_array_equal(done, choices[0])
    else:
        assert "accuracy" not in metrics
        np.testing.assert_allclose(done, 0.25, atol=0.05)
