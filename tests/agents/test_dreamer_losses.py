"""How Dreamer's losses are put together, with a model that always says the same."""

import types as python

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import types
from mtrl_jax.agents.common import behaviour_learning, imagination, model_learning
from mtrl_jax.networks.world_models import latents, rssm
from mtrl_jax.networks.world_models import world_model as networks

KEY = jax.random.key(0)
GAMMA = 0.9


def model_of(**functions):
    """Returns a WorldModel that can nothing else."""
    return networks.WorldModel(
        **dict.fromkeys(networks.WorldModel._fields)
        | {"initial": lambda batch: (), "scalar": networks.scalar_head(two_hot=False)}
        | functions
    )


def steps(reward, discount):
    """Returns TimeSteps [L, N] in which two actions are legal."""
    zeros = np.zeros(np.shape(reward))
    return types.TimeStep(
        {}, np.float32(reward), np.float32(discount), zeros > 0, zeros > 0,
        zeros.astype(np.int32), np.ones((*zeros.shape, 2), bool),
    )  # fmt: skip


@pytest.mark.parametrize("free", [0.0, 3.0])
def test_the_models_loss_is_the_papers_sum(free):
    """−log p(x) − log p(tanh r) − 5 log p(γ d) + β KL, and its gradient in numbers.

    Image and reward pass the state their shares of it, the discount all, the divergence
    none; of that the prior gets α, the posterior the rest. The state s is drawn as 3 s,
    its reward said to be 4 s and its discount σ(s). A divergence of 2 below the free nats
    counts as those, teaches nothing and is still said to be 2.
    """

    def observe(params, state, obs, action_tm1, first, key, unimix):
        here = jnp.ones((*first.shape, 1))
        state = rssm.State(params["state"] * here, jnp.zeros((*first.shape, 0)))
        return rssm.Observed(state, params["posterior"] * here, params["prior"] * here)

    model = model_of(
        observe=observe,
        decode=lambda params, x: 3.0 * x[..., 0],
        observation_error=lambda drawn, obs, task: drawn,
        reward=lambda params, x: 4.0 * x,
        discount=lambda params, x: x[..., 0],
        kl=lambda q, p, unimix: (q - p)[..., 0],
        entropy=lambda raw, unimix: raw[..., 0],
    )
    reward, discount = np.array([[1.0], [-2.0], [3.0]]), np.array([[1.0], [1.0], [0.0]])
    batch = model_learning.Sequences(steps(reward, discount), np.zeros((3, 1, 2)))
    hp = model_learning.Hparams(
        image_gradient=0.25, reward_gradient=0.5, free_nats=free
    )

    def loss(params):
        total, metrics, _ = model_learning.loss(
            model, params, batch, KEY, hp, GAMMA,
            transform=jnp.tanh, discount_head=True, free_nats_each=False,
        )  # fmt: skip
        return total, metrics

    s = 0.5
    params = {"state": s, "posterior": 7.0, "prior": 5.0}
    (_, found), slopes = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    p, label = 1 / (1 + np.exp(-s)), GAMMA * discount
    far = 4 * s - np.tanh(reward)
    expected = {
        "image_loss": 3 * s,
        "reward_loss": np.mean(far**2 / 2),
        "discount_loss": np.mean(-label * np.log(p) - (1 - label) * np.log(1 - p)),
        "kl": 2.0,
        "kl_loss": max(2.0, free),
        "posterior_entropy": 7.0,
        "prior_entropy": 5.0,
    }
    expected["model_loss"] = (
        expected["image_loss"]
        + expected["reward_loss"]
        + 5.0 * expected["discount_loss"]
        + 0.1 * expected["kl_loss"]
    )
    assert jax.device_get(found) == pytest.approx(expected, rel=1e-5)
    assert jax.device_get(slopes) == pytest.approx(
        {
            "state": 0.25 * 3 + 0.5 * np.mean(4 * far) + 5 * np.mean(p - label),
            "posterior": 0.1 * (1 - 0.8) * (free < 2.0),
            "prior": -0.1 * 0.8 * (free < 2.0),
        },
        rel=1e-5,
    )


def test_behaviour_is_learned_from_the_true_discount_of_the_first_state():
    """d γ instead of what is predicted; of what follows the prediction, here 0.75.

    Two steps are imagined from one state that goes on and one that is an end: the reward
    of what is imagined is said to be 0.5, of the first states 0.7, the slow critic's value
    1 and the critic's 2. What is behind an end is not reached and counts for nothing.
    """
    space, sizes = (
        types.Discrete(2),
        rssm.RSSMConfig(latents.LatentConfig("gaussian", 1), deter=1),
    )
    parts = behaviour_learning.Parts(
        model_of(
            imagine_step=lambda params, state, action, key, unimix: state,
            reward=lambda params, x: (
                jnp.full((*x.shape[:-1], 1), 0.5).at[0].set(0.7)
            ),
            discount=lambda params, x: jnp.full(x.shape[:-1], np.log(3.0)),
        ),
        imagination.actor(space, sizes, (), "float32"),
        python.SimpleNamespace(
            raw=lambda value, x: jnp.full((*x.shape[:-1], 1), value),
            value=lambda value, x: jnp.full(x.shape[:-1], value),
        ),
        horizon=2, gradient="reinforce", discount_head=True, normalise_returns=False,
    )  # fmt: skip
    ends = np.array([[1.0, 0.0]])
    batch = model_learning.Sequences(steps(0 * ends, ends), np.zeros((1, 2, 2)))
    hp = behaviour_learning.Hparams(discount=GAMMA, lambda_=0.5, entropy_cost=0.05)

    @jax.jit
    def metrics():
        random = jax.tree.map(jnp.zeros_like, parts.actor.init(KEY))
        params = {"model": (), "actor": random, "critic": 2.0}
        states = jax.tree.map(jnp.zeros_like, rssm.initial(sizes, 2))
        states = jax.tree.map(lambda x: x[None], states)
        stats = behaviour_learning.Stats(1.0, 0.0, 0)
        return behaviour_learning.loss(
            parts, params, stats, states, batch, KEY, hp, 0.0
        )[1]

    later = 0.5 + 0.75 * 1.0
    begun = 0.7 + ends[0] * GAMMA * (0.5 * 1.0 + 0.5 * later)
    error = (2 - begun) ** 2 / 2 + ends[0] * GAMMA * (2 - later) ** 2 / 2
    assert jax.device_get(metrics()) == pytest.approx(
        {
            "imagined_reward": 0.5,
            "seen_reward": 0.7,
            "imagined_return": (begun.sum() + GAMMA * later) / (2 + GAMMA),
            "critic_loss": np.mean(error) / 2,
            "entropy": np.log(2.0),
            # Of two choices that are as likely: A = V_1 − v_0.
            "actor_loss": np.log(2.0) * ((later - 1.0) - 0.05),
        },
        rel=1e-5,
    )


def test_returns_are_normalised_in_each_tasks_own_unit():
    """Paid 100 times as much a task has 100 times the range; an absent one keeps its own."""
    target = np.float32(np.random.default_rng(0).normal(size=(3, 40)))
    task = np.arange(40) % 2
    target[:, 1::2] = 100.0 * target[:, ::2]
    parts = python.SimpleNamespace(normalise_returns=True)
    found = python.SimpleNamespace(target=target)
    old = np.float32([900.0, 90_000.0, 7.0])

    @jax.jit
    def scale(ranges, task):
        stats = behaviour_learning.Stats((), ranges, 0)
        return behaviour_learning._scale(parts, stats, found, task)

    stats, divisor = scale(old, task)
    low, high = np.percentile(target[:, ::2], [5.0, 95.0])
    moved = 0.99 * 900.0 + 0.01 * (high - low)
    np.testing.assert_allclose(stats.return_range, [moved, 100 * moved, 7.0], 1e-5)
    np.testing.assert_allclose(divisor[0], np.where(task, 100 * moved, moved), 1e-5)
    # Of one task the range is a number, as checkpoints of it have it.
    one, same = scale(np.float32(900.0), 0 * task)
    low, high = np.percentile(target, [5.0, 95.0])
    assert float(one.return_range) == pytest.approx(891.0 + 0.01 * (high - low))
    np.testing.assert_allclose(same, np.full((1, 40), one.return_range))
