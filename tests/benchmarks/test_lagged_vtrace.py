"""The agent of V-trace's own claim: old parameters act, old unrolls are drawn."""

import importlib.util
import pathlib
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import envs, types
from mtrl_jax.agents.common import unrolls
from mtrl_jax.networks import network_config

_PATH = pathlib.Path(__file__).parents[2] / "benchmarks/lagged_vtrace.py"
_SPEC = importlib.util.spec_from_file_location("lagged_vtrace", _PATH)
lagged = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = lagged  # where dataclasses look for it
_SPEC.loader.exec_module(lagged)
STEPS, SLOTS = 3, 2


@pytest.fixture(name="env", scope="module")
def _env():
    return envs.make("probe/both", batch=(1, SLOTS))


def made(env, **config):
    """Returns the agent of a small network."""
    network = network_config.NetworkConfig(hidden=(4,))
    return lagged.make(env.spec, lagged.Config(network, **config))


@pytest.fixture(name="late", scope="module")
def _late(env):
    """An agent that acts by the parameters of up to four updates ago."""
    agent = made(env, lags=4)
    return agent._replace(init=jax.jit(agent.init), act=jax.jit(agent.act))


def step_of(env):
    """Returns the first time step of the slots, [B]."""
    keys = jax.random.split(jax.random.key(0), 1)
    ts = jax.jit(env.reset)(keys, env.params)[1]
    return jax.tree.map(lambda x: np.asarray(x)[0], ts)


@jax.jit
def judged(log_pi, log_mu, index):
    """Returns log π and log μ as V-trace is given them, and the slopes of their sums."""

    def given(log_pi):
        now = unrolls.Evaluated(log_pi, jnp.zeros(2), jnp.zeros(3))
        now, mu = lagged.corrected(now, log_mu, index)
        return now.log_prob, mu

    slopes = [jax.grad(lambda x, i=i: given(x)[i].sum())(log_pi) for i in (0, 1)]
    return *given(log_pi), *slopes


@pytest.mark.parametrize(
    ("name", "ratio", "slope"),
    [
        ("vtrace", [0.5, 4.0], [1.0, 1.0]),
        ("one_step", [1.0, 1.0], [0.5, 1.0]),
        ("epsilon", [1.0, 1.0], [0.1 / (0.1 + 1e-6), 0.8 / (0.8 + 1e-6)]),
        ("none", [1.0, 1.0], [1.0, 1.0]),
    ],
)
def test_a_correction_is_a_ratio_and_a_slope(name, ratio, slope):
    """π = .1, .8 with μ = .2: what V-trace weighs by, and d(policy term) / d log π."""
    log_pi, log_mu = np.log(np.array([0.1, 0.8])), np.log(np.array([0.2, 0.2]))
    index = np.float32(lagged.CORRECTIONS.index(name))
    own, mu, gradient, no_gradient = judged(log_pi, log_mu, index)
    np.testing.assert_allclose(np.exp(np.subtract(own, mu)), ratio, rtol=1e-5)
    np.testing.assert_allclose(gradient, slope, rtol=1e-5)
    np.testing.assert_array_equal(no_gradient, 0.0)


@pytest.mark.parametrize(("lag", "row"), [(0, 3), (2, 1), (3, 0), (9, 0)])
def test_slots_act_by_the_parameters_of_so_many_updates_ago(env, late, lag, row):
    """After three updates; before there were so many by those of the beginning."""
    hp, key = lagged.Hparams(), jax.random.key(1)
    learner = late.init(key, hp)
    scales = 1.0 + np.arange(5, dtype=np.float32)
    past = jax.tree.map(
        lambda x: np.asarray(x) * scales.reshape(-1, *[1] * (x.ndim - 1)), learner.past
    )
    now = learner.now._replace(updates=np.int32(3))
    hp = hp._replace(age=lagged.Age(lag=float(lag)))
    ts, carry = step_of(env), late.carry(SLOTS)
    _, _, extras = late.act(lagged.Learner(now, past), carry, ts, key, hp)
    only = jax.tree.map(lambda x: np.repeat(x[row : row + 1], 5, axis=0), past)
    _, _, expected = late.act(lagged.Learner(now, only), carry, ts, key, hp)
    chex.assert_trees_all_equal(extras, expected)


def test_half_of_a_batch_is_of_stored_unrolls(env):
    """The newest unroll first, then slots of the last two, each whole."""
    agent = made(env, replayed=2, steps=STEPS)
    memory, observe = agent.replay.init(SLOTS), jax.jit(agent.replay.observe)
    for step in range(5):
        rollout = _rollout(env, agent, step)
        memory, batch = observe(
            memory, rollout, jax.random.key(step), (), np.int32(step)
        )
    batch = jax.tree.map(np.asarray, batch)
    chex.assert_trees_all_equal(
        jax.tree.map(lambda x: x[:, :SLOTS], batch._replace(carry=())),
        rollout._replace(carry=()),
    )
    drawn = batch.ts.reward[:, SLOTS:]
    assert (drawn == drawn[0]).all()
    assert set(np.floor(drawn[0]).tolist()) <= {3.0, 4.0}
    np.testing.assert_array_equal(batch.extras.log_prob[0, SLOTS:], drawn[0])
    np.testing.assert_array_equal(batch.carry.action[SLOTS:], drawn[0].astype(int))


def test_what_cannot_be_is_refused(env):
    """By field: a negative number, and unrolls of another length than those kept."""
    with pytest.raises(ValueError, match="lags: got -1, give 0 or more"):
        made(env, lags=-1)
    agent = made(env, replayed=2, steps=STEPS + 1)
    with pytest.raises(ValueError, match="steps: got 4, unrolls have 3; give that"):
        agent.replay.observe(
            agent.replay.init(SLOTS),
            _rollout(env, agent, 0),
            jax.random.key(0),
            (),
            np.int32(0),
        )


def _rollout(env, agent, number):
    """Returns a rollout whose every number tells which it is and of which slot."""
    ts = jax.tree.map(lambda x: np.stack([x] * (STEPS + 1)), step_of(env))
    mark = number + np.arange(SLOTS, dtype=np.float32) / 4
    noted = np.broadcast_to(mark, (STEPS, SLOTS))
    carry = jax.tree.map(np.asarray, agent.carry(SLOTS))
    return types.Rollout(
        ts._replace(reward=np.broadcast_to(mark, (STEPS + 1, SLOTS))),
        np.zeros((STEPS, SLOTS), np.int32),
        unrolls.Extras(noted, noted),
        carry._replace(action=carry.action + number),
    )
