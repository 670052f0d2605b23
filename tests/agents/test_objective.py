"""The actor-critic's total loss, and auxiliaries that are put beside it."""

import collections
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import hparams
from mtrl_jax.agents import impala, ppo
from mtrl_jax.agents.common import learning, objective, optimiser
from mtrl_jax.hparams import Amount
from mtrl_jax.networks import actor_critic as networks

KEY = jax.random.key(3)
MODULES = {"impala": impala, "ppo": ppo}


class Weights(NamedTuple):
    """What the auxiliary of these tests weighs."""

    time_cost: Amount = 1.0


def heads(params, features):
    """A linear prediction from each step's features."""
    return features @ params["kernel"]


def error(predictions, batch):
    """Mean squared difference to one more than the observation's first number."""
    target = batch.ts.obs["vector"][..., 0] + 1.0
    return jnp.mean(jnp.square(predictions[..., 0] - target))


AUXILIARY = objective.Auxiliary(
    name="observed",
    weight=lambda hp: hp.weights.time_cost,
    init=lambda key, size: {"kernel": 0.1 * jax.random.normal(key, (size, 1))},
    heads=heads,
    loss=error,
)


def with_weights(hp):
    """Returns an agent's hyperparameters and, beside its groups, the Weights."""
    groups = hp._asdict() | {"weights": Weights()}
    return collections.namedtuple("Hparams", groups)(**groups)


@pytest.fixture(name="given", params=list(MODULES), scope="module")
def _given(request, kit):
    """The Setup of an agent with an LSTM and the auxiliary."""
    module, plain = MODULES[request.param], kit.setup(request.param, "lstm", ("both",))
    network = networks.NetworkConfig(hidden=(8,), core="lstm", core_size=8)
    config = module.Config(network=network, optimiser="adam")
    agent = module.make(plain.env.spec, config, (AUXILIARY,))
    hp = kit.arrays(with_weights(module.Hparams()))
    hp = kit.changed(hp, learning_rate=1e-2, adam_eps=1e-5)
    one = plain._replace(agent=agent, hp=hp, update=kit.updater(agent))
    return one._replace(learner=kit.fresh(one, 0))


def test_the_total_is_the_weighted_sum_of_its_terms():
    """L = policy + value_cost · value − entropy_cost · entropy + Σ w L."""
    terms = objective.Terms(*map(jnp.float32, (1.0, 2.0, 3.0)))
    costs = objective.Costs(entropy_cost=0.1, value_cost=0.5)
    more = {"x": objective.Weighted(2.0, jnp.float32(5.0))}
    loss, metrics = objective.total(terms, costs, more)
    np.testing.assert_allclose(loss, 1.0 + 1.0 - 0.3 + 10.0, rtol=1e-6)
    assert metrics["loss"] == loss and metrics["x"] == 5.0
    assert {k: float(metrics[k]) for k in terms._fields} == terms._asdict()
    np.testing.assert_allclose(objective.total(terms, costs)[0], 1.7, rtol=1e-6)


def test_an_auxiliary_changes_the_loss_and_trains_its_own_head(given, kit):
    """By its traced weight: at 0 the head stays, and so does what lies beneath it."""
    updates = {
        w: given.update(
            given.learner, given.rollout, KEY, kit.changed(given.hp, time_cost=w)
        )
        for w in (0.0, 1.0, 3.0)
    }
    head = {
        w: np.asarray(after.params["auxiliaries"]["observed"]["kernel"])
        for w, (after, _) in updates.items()
    }
    start = given.learner.params["auxiliaries"]["observed"]["kernel"]
    np.testing.assert_array_equal(head[0.0], start)
    assert (np.abs(head[1.0] - start) > 1e-4).all()
    off, on = (updates[w][0].params["torso"] for w in (0.0, 1.0))
    assert any(
        not np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(off), jax.tree.leaves(on))
    )
    loss = {w: float(metrics["loss"]) for w, (_, metrics) in updates.items()}
    assert loss[0.0] < loss[1.0] < loss[3.0] and updates[1.0][1]["observed"] > 0


def test_an_auxiliary_is_learned(given):
    """What it predicts comes true within some updates on the same rollout."""
    learner, found = given.learner, []
    for i in range(60):
        key = jax.random.fold_in(KEY, i)
        learner, metrics = given.update(learner, given.rollout, key, given.hp)
        found.append(float(metrics["observed"]))
    assert found[-1] < 0.1 * found[0]


def test_a_loss_may_give_new_statistics_which_no_gradient_trains():
    """They are read by the next step, also of several in one update."""
    hp = optimiser.Hparams(learning_rate=0.0)

    def loss(params, stats, batch, key, hp):
        del key, hp
        seen = stats + jnp.sum(batch)
        return jnp.sum(params * stats), learning.Aux({"seen": seen}, seen)

    optimise = optimiser.make("adam", hp)
    learner = learning.init(jnp.ones(()), optimise, stats=jnp.float32(10.0))
    after, metrics = learning.update(loss, optimise, learner, jnp.ones(4), KEY, hp)
    assert after.stats == 14.0 and metrics["seen"] == 14.0
    assert metrics["grad_norm"] == 10.0 and after.updates == 1
    rows = learning.minibatches.leading(jnp.ones(4), "rows")
    after, metrics = learning.passes(
        loss, optimise, learner, rows, KEY, hp, epochs=3, minibatches=2
    )
    assert after.stats == 10.0 + 3 * 4.0 and after.updates == 1
    np.testing.assert_allclose(metrics["seen"], 10.0 + np.mean([2, 4, 6, 8, 10, 12]))


def test_without_auxiliaries_there_are_no_parameters_of_theirs(kit):
    """The tree is the network's."""
    one = kit.setup("impala", "lstm", ("both",))
    assert set(one.learner.params) == {"torso", "core", "policy", "value"}
    assert "time_cost" not in hparams.names(one.hp)
