"""Parameters as one vector: the same leaves, and the same steps, as trees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.agents.common import flat, learning, minibatches, optimiser
from mtrl_jax.losses import policy_gradient

PARAMS = {
    "a": jnp.arange(6.0).reshape(2, 3),
    "b": {"c": jnp.ones(4), "d": jnp.zeros(())},
}
ROWS = jnp.linspace(-1.0, 1.0, 12)[:, None]


def loss(params, stats, batch, key, hp):
    """A loss that every leaf has a part in; ``stats`` counts the batches."""
    del key, hp
    hidden = jnp.tanh(batch @ params["a"][:1] + params["a"][1:])
    error = jnp.mean((hidden.sum(-1) - params["b"]["c"].sum() - params["b"]["d"]) ** 2)
    return error, learning.Aux({"loss": error, "half": error / 2}, stats + 1)


@pytest.mark.parametrize("kind", optimiser.KINDS)
def test_a_state_of_an_optimiser_is_laid_out_and_comes_back(kind):
    """Each of its trees is a vector, its counts are what they were."""
    learner = learning.init(PARAMS, optimiser.make(kind, optimiser.Hparams()))
    layout = flat.layout(PARAMS)
    packed = layout.pack(learner)
    assert {x.shape for x in jax.tree.leaves(packed)} <= {(), (11,)}
    back = layout.unpack(packed, learner)
    assert jax.tree.structure(back) == jax.tree.structure(learner)
    for one, other in zip(jax.tree.leaves(back), jax.tree.leaves(learner)):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


@pytest.mark.parametrize(
    "params",
    [jnp.ones(3), {"a": jnp.ones(3), "b": jnp.ones(2, jnp.bfloat16)}],
    ids=["one leaf", "two dtypes"],
)
def test_what_makes_no_vector_stays_a_tree(params):
    """Nothing is converted."""
    layout = flat.layout(params)
    assert layout.pack(params) is params
    assert layout.unpack(params, params) is params


def test_a_tree_of_other_sizes_is_left_as_it_is():
    """A frozen teacher of the same layers is no state of the student's."""
    layout = flat.layout(PARAMS)
    larger = {"a": jnp.ones((4, 3)), "b": {"c": jnp.ones(8), "d": jnp.zeros(())}}
    both = {"own": PARAMS, "teacher": larger}
    packed = layout.pack(both)
    assert packed["own"].shape == (11,) and packed["teacher"] is not larger
    jax.tree.map(np.testing.assert_array_equal, packed["teacher"], larger)
    back = layout.unpack(packed, both)
    jax.tree.map(np.testing.assert_array_equal, back, both)


def of_tree(kind, preserve=None):
    """Returns the passes' steps one by one, on trees."""
    hp = optimiser.Hparams(learning_rate=0.1)
    optimise = optimiser.make(kind, hp)
    key, rows = jax.random.key(3), minibatches.leading(ROWS, "rows")
    learner = learning.init(PARAMS, optimise, jnp.zeros(()))
    found = []
    for index in rows.order(key, 2, 3):
        learner, metrics = learning.gradient_step(
            loss, optimise, learner, rows.take(index), key, hp, preserve
        )
        found.append(metrics)
    means = {name: np.mean([float(x[name]) for x in found]) for name in found[0]}
    passes = learning.passes(
        loss, optimise, learning.init(PARAMS, optimise, jnp.zeros(())), rows, key, hp,
        epochs=2, minibatches=3, preserve=preserve,
    )  # fmt: skip
    return (learner, means), passes


def shifted(params, grads, before, after, hp):
    """A rewriting of the head, as PopArt has one."""
    del hp
    head = params["b"]["d"] + 0.1 * (after - before)
    return {**params, "b": {**params["b"], "d": head}}, grads


@pytest.mark.parametrize(("kind", "preserve"), [("adam", None), ("rmsprop", shifted)])
def test_passes_on_a_vector_are_the_steps_on_trees(kind, preserve):
    """To rounding: a norm is summed in another order. Metrics are means, by name.

    What is near 0 is the difference of steps as large as its leaf's other entries.
    """
    (learner, means), (packed, metrics) = of_tree(kind, preserve)
    for one, other in zip(
        jax.tree.leaves((learner.params, learner.opt, learner.stats)),
        jax.tree.leaves((packed.params, packed.opt, packed.stats)),
    ):
        atol = 1e-6 * max(1.0, float(np.abs(other).max()))
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=atol)
    assert (
        metrics.keys() == means.keys() == {"loss", "half", "grad_norm", "learning_rate"}
    )
    for name, value in means.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5)
    assert int(packed.updates) == 1


@pytest.mark.parametrize(("live", "wanted"), [((1, 0, 1, 0), 2.0), ((0, 0, 0, 0), 0.0)])
def test_a_minibatch_without_a_live_step_is_in_no_mean(live, wanted):
    """Its metrics are 0 for want of steps; the entropy of all that there are is 2."""

    def masked(params, stats, batch, key, hp):
        del key, hp
        entropy = policy_gradient.masked_mean(jnp.full(batch.shape, 2.0), batch)
        error = jnp.sum(params["a"]) * entropy
        return error, learning.Aux({"entropy": entropy}, stats, live=jnp.any(batch))

    optimise = optimiser.make("adam", optimiser.Hparams())
    rows = minibatches.leading(jnp.array(live, bool), "rows")
    learner = learning.init(PARAMS, optimise, jnp.zeros(()))
    _, metrics = learning.passes(
        masked, optimise, learner, rows, jax.random.key(0), (), epochs=1, minibatches=4
    )
    assert float(metrics["entropy"]) == wanted
