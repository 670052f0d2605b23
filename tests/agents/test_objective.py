"""The actor-critic's total loss, and auxiliaries that are put beside it."""

import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import agents, hparams
from mtrl_jax.agents.common import learning, objective, optimiser
from mtrl_jax.networks import actor_critic as networks

KEY = jax.random.key(3)
CONTRIBUTING = pathlib.Path(__file__).parents[2] / ".github" / "CONTRIBUTING.md"
NAME = "reconstruction_loss"


@pytest.fixture(name="given", params=["impala", "ppo"], scope="module")
def _given(request, kit, tmp_path_factory):
    """The Setup of an agent with an LSTM and the auxiliary that CONTRIBUTING shows.

    It is a file beside a config, as a user has it.
    """
    plain = kit.setup(request.param, "lstm", ("both",))
    (code,) = re.findall(r"```python\n(.*?)```", CONTRIBUTING.read_text(), re.DOTALL)
    folder, name = tmp_path_factory.mktemp("own"), f"reconstructing_{request.param}"
    (folder / f"{name}.py").write_text(code.replace("ppo", request.param))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        module = agents.get(f"{name}@{folder}")
    network = networks.NetworkConfig(hidden=(8,), core="lstm", core_size=8)
    config = module.Config(network=network, optimiser="adam")
    agent = module.make(plain.env.spec, config)
    hp = kit.arrays(module.Hparams())
    hp = kit.changed(hp, learning_rate=1e-2, adam_eps=1e-5, reconstruction_cost=1.0)
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


def test_metrics_of_a_split_loss_are_of_the_tasks_that_are_present():
    """A task without steps, whose terms are 0, makes no metric smaller."""
    terms = objective.Terms(*(jnp.array([x, 3 * x, 0.0]) for x in (1.0, 2.0, 3.0)))
    more = {"x": objective.Weighted(2.0, jnp.float32(5.0))}
    present = jnp.array([True, True, False])
    costs = objective.Costs(entropy_cost=0.1, value_cost=0.5)
    loss, metrics = objective.total(terms, costs, more, present)
    np.testing.assert_allclose(loss, [11.7, 15.1, 10.0], rtol=1e-6)
    wanted = {"policy_loss": 2, "value_loss": 4, "entropy": 6, "x": 5, "loss": 13.4}
    assert {k: pytest.approx(float(x)) for k, x in metrics.items()} == wanted


def test_an_auxiliary_changes_the_loss_and_trains_its_own_head(given, kit):
    """By its traced weight: at 0 the head stays, and so does what lies beneath it."""
    updates = {
        w: given.update(
            given.learner,
            given.rollout,
            KEY,
            kit.changed(given.hp, reconstruction_cost=w),
        )
        for w in (0.0, 1.0, 3.0)
    }
    head = {
        w: np.asarray(after.params["auxiliaries"][NAME]["kernel"])
        for w, (after, _) in updates.items()
    }
    start = given.learner.params["auxiliaries"][NAME]["kernel"]
    np.testing.assert_array_equal(head[0.0], start)
    assert (np.abs(head[1.0] - start) > 1e-4).all()
    off, on = (updates[w][0].params["torso"] for w in (0.0, 1.0))
    assert any(
        not np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(off), jax.tree.leaves(on))
    )
    loss = {w: float(metrics["loss"]) for w, (_, metrics) in updates.items()}
    assert loss[0.0] < loss[1.0] < loss[3.0] and updates[1.0][1][NAME] > 0


def test_an_auxiliary_is_learned(given):
    """What it predicts comes true within some updates on the same rollout."""
    learner, found = given.learner, []
    for i in range(60):
        key = jax.random.fold_in(KEY, i)
        learner, metrics = given.update(learner, given.rollout, key, given.hp)
        found.append(float(metrics[NAME]))
    assert found[-1] < 0.1 * found[0]


def test_a_loss_without_heads_has_no_parameters_and_needs_none():
    """It is given () for its heads; of others the keys are as if it were not there."""

    def own(name, init=None):
        weight, loss = (lambda hp: hp), (lambda heads, seen, hp: (heads, seen, hp))
        return objective.Auxiliary(name, weight, loss, init, "own" if init else "")

    params, plain = {"policy": {"kernel": jnp.ones((4, 2))}}, own("plain")
    assert objective.add_heads(params, (plain,), KEY) is params
    several = plain, own("with_heads", lambda key, features: (key, features)), plain
    found = objective.add_heads(params, several, KEY)
    assert found.keys() == {"policy", "auxiliaries"}
    (key, features) = found["auxiliaries"].pop("own")
    assert not found["auxiliaries"] and features == 4
    (alone,) = objective.add_heads(params, several[1:2], KEY)["auxiliaries"].values()
    assert jax.random.key_data(key).tolist() == jax.random.key_data(alone[0]).tolist()
    losses = objective.auxiliary_losses(several[:2], {"auxiliaries": {"own": 7}}, 8, 9)
    assert losses == {"plain": (9, ((), 8, 9)), "with_heads": (9, (7, 8, 9))}
    assert objective.auxiliary_losses((plain,), params, 8, 9) == {
        "plain": (9, ((), 8, 9))
    }


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
    assert "reconstruction_cost" not in hparams.names(one.hp)
