"""Rare, costly events: slots that are reset or renewed a few at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import random, types
from mtrl_jax.envs import core

BATCH = (2, 7)
STEPS = 40


def task(group):
    """Episodes of random length; every third of its steps, on average, is renewed."""

    def observe(state):
        return jnp.stack([state["drawn"], state["time"].astype(jnp.float32)])

    def reset(key, params):
        drawn = jax.random.uniform(key)
        state = {"drawn": drawn, "time": jnp.int32(0), "wants": jnp.bool_(False)}
        return state, observe(state)

    def step(key, state, action, params):
        lot, wants = jax.random.uniform(key, (2,))
        state = state | {"time": state["time"] + 1, "wants": wants < params["often"]}
        return state, observe(state), lot, lot < 0.15, False

    def renew(state, begun, params):
        drawn = begun[0]["drawn"] + 10.0
        state = state | {"drawn": drawn, "wants": jnp.bool_(False)}
        return state, observe(state)

    return core.task(
        "renewed", reset, step, types.Discrete(2), {"often": 1 / 3},
        wants_renewal=lambda state: state["wants"], renew=renew, group=group,
    )  # fmt: skip


@pytest.fixture(name="streams", scope="module")
def _streams(play):
    return {g: play(core.vectorise(task(g), BATCH), STEPS)[0] for g in (None, 1, 3, 7)}


@pytest.mark.parametrize("group", [1, 3, 7])
def test_the_size_of_a_group_changes_the_cost_and_nothing_else(group, streams):
    """One slot at a time, three (with a remainder), all: the same bits."""
    jax.tree.map(np.testing.assert_array_equal, streams[None], streams[group])


def test_a_renewal_replaces_what_the_step_gave_and_goes_on(streams):
    """The new observation is seen at once, the episode's time goes on."""
    ts = streams[3]
    drawn, time = np.moveaxis(ts.obs["vector"], -1, 0)
    renewed = (drawn[1:] != drawn[:-1]) & ~ts.first[1:]
    assert renewed.mean() > 0.15
    assert (drawn[1:][renewed] > 10).all()
    assert (time[1:][renewed] == time[:-1][renewed] + 1).all()
    assert (drawn[ts.first] < 1).all() and (time[ts.first] == 0).all()
    # Slots draw their own.
    assert len(np.unique(drawn[1:][renewed])) == renewed.sum()


def test_observations_are_of_the_states_after_resets_and_renewals(streams, play):
    """With ``observe`` they are what it says, of the first step of an episode, too."""

    def twice(state, params):
        del params
        return 2 * jnp.stack([state["drawn"], state["time"].astype(jnp.float32)])

    ts = play(core.vectorise(task(3)._replace(observe=twice), BATCH), STEPS)[0]
    expected = {"vector": 2 * streams[3].obs["vector"]}
    expected = streams[3]._replace(obs=expected)
    jax.tree.map(np.testing.assert_array_equal, ts, expected)


@pytest.mark.parametrize(
    "seen", [jnp.zeros(7), {"image": jnp.zeros((2, 2, 1), jnp.uint8)}]
)
def test_what_is_seen_of_a_state_is_what_the_spec_says(seen):
    """Another shape or leaf than that of reset and step is refused."""
    with pytest.raises(ValueError, match=r"renewed: observations are .*its spec says"):
        core.vectorise(task(3)._replace(observe=lambda state, params: seen), BATCH)


def test_a_renewal_keeps_what_the_episode_is_about(play):
    """Params dealt to an episode stay, whatever is renewed, until the next begins."""

    def reset(key, params):
        return jnp.int32(0), jnp.ones(1) * params

    def step(key, time, action, params):
        return time + 1, jnp.ones(1) * params, 0.0, False, time + 1 >= 6

    def renew(time, begun, params):
        return time, jnp.ones(1) * params

    pure = core.task(
        "about", reset, step, types.Discrete(2), jnp.float32(0),
        wants_renewal=lambda time: time % 2 == 0, renew=renew,
        deal=lambda slot, episode, params: jax.random.uniform(episode),
    )  # fmt: skip
    ts, *_ = play(core.vectorise(pure, (1, 5)), 20)
    about = ts.obs["vector"][..., 0]
    np.testing.assert_array_equal(about[1:] != about[:-1], ts.first[1:])


def test_a_renewal_does_not_use_the_key_of_its_step():
    """A step's draws and those of the renewal after it are independent."""
    env = core.vectorise(task(2), (1, 4))
    state, _ = env.reset(random.roots(0, 1), env.params)
    always = {"often": jnp.ones((1, 4))}
    state = state._replace(params=always)
    state, ts = jax.jit(env.step)(state, jnp.zeros((1, 4), jnp.int32), env.params)
    np.testing.assert_array_less(10.0, ts.obs["vector"][..., 0])
    assert not np.isclose(ts.obs["vector"][..., 0] - 10.0, ts.reward).any()


def test_a_renewal_meets_no_key_that_its_step_may_split_off():
    """A step that splits its key, and draws from the parts, shares nothing with renewal."""

    def step(key, state, action, params):
        parts = jax.random.split(key, 8)
        return state, jax.vmap(jax.random.uniform)(parts), 0.0, False, False

    def reset(key, params):
        return jnp.int32(0), jnp.full(8, jax.random.uniform(key))

    def drawn(wants):
        pure = core.task(
            "splits", reset, step, types.Discrete(2),
            wants_renewal=lambda state: jnp.bool_(wants),
            renew=lambda state, begun, params: begun,
        )  # fmt: skip
        env = core.vectorise(pure, (1, 2))
        state, _ = env.reset(random.roots(0, 1), env.params)
        return env.step(state, jnp.zeros((1, 2), jnp.int32), env.params)[1].obs[
            "vector"
        ]

    assert not np.isclose(drawn(True), drawn(False)).any()
