"""UNREAL: where its gradients go, its costs, its replay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.agents import unreal
from mtrl_jax.networks import auxiliary_heads

KEY = jax.random.key(0)
COSTS = ("control_cost", "reward_cost", "replay_cost")
OFF = dict.fromkeys(COSTS, 0.0)
PARTS = ("torso", "core", "policy", "value", "control", "reward")


@pytest.fixture(name="one", scope="module")
def _one(kit):
    """The agent with an LSTM on two probes."""
    one = kit.setup("unreal", "lstm", ("both", "masked"))
    return one._replace(hp=kit.changed(one.hp, max_grad_norm=1e6))


def moved(one, kit, **leaves):
    """Returns the parts that an update moves, without V-trace's terms and with others."""
    base = {"entropy_cost": 0.0, "value_cost": 0.0, "clip_pg_rho": 0.0}
    hp = kit.changed(one.hp, **OFF | base | leaves)
    after, metrics = one.update(one.learner, one.rollout, KEY, hp)
    old, new = ({**x.params, **x.params["auxiliaries"]} for x in (one.learner, after))
    found = {
        part
        for part in PARTS
        if any(
            not np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(old[part]), jax.tree.leaves(new[part]))
        )
    }
    return found, metrics


def test_each_auxiliary_trains_what_it_reads(one, kit):
    """Reward prediction the torso alone, control the core, value replay the value."""
    assert moved(one, kit)[0] == set()
    assert moved(one, kit, reward_cost=1.0)[0] == {"torso", "reward"}
    assert moved(one, kit, control_cost=1.0)[0] == {"torso", "core", "control"}
    assert moved(one, kit, replay_cost=1.0)[0] == {"torso", "core", "value"}


def test_at_costs_of_zero_it_is_the_agent_without(one, kit):
    """V-trace's update, bit for bit but rounding; the loss is the sum of its parts."""
    plain = kit.setup("impala", "lstm", ("both", "masked"))
    hp = kit.changed(plain.hp, max_grad_norm=1e6)
    params = {k: x for k, x in one.learner.params.items() if k != "auxiliaries"}
    learner = kit.fresh(plain, 0)._replace(params=params)
    wanted, _ = plain.update(learner, one.rollout, KEY, hp)
    found, metrics = one.update(
        one.learner, one.rollout, KEY, kit.changed(one.hp, **OFF)
    )
    for name, part in wanted.params.items():
        for x, y in zip(jax.tree.leaves(part), jax.tree.leaves(found.params[name])):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
    costs = {name: 0.5 for name in COSTS}
    _, more = one.update(one.learner, one.rollout, KEY, kit.changed(one.hp, **costs))
    parts = sum(more[x] for x in ("control_loss", "reward_loss", "replay_loss"))
    np.testing.assert_allclose(
        more["loss"], metrics["loss"] + 0.5 * parts, rtol=1e-4, atol=1e-6
    )


def test_the_head_of_an_images_cells_has_its_geometry():
    """9 x 9 maps give 20 x 20 cells, 4 x 4 give 10 x 10, and 4 give the 9 of them."""
    assert [auxiliary_heads.map_size(n) for n in (20, 10, 9, 2)] == [9, 4, 4, 1]
    head = auxiliary_heads.Control((9, 2), 3)
    value, advantage = head.apply(head.init(KEY, jnp.ones((5, 7))), jnp.ones((5, 7)))
    assert value.shape == (5, 18) and advantage.shape == (5, 18, 3)
    assert (np.asarray(advantage) < 0).any()
    assert auxiliary_heads.cells_of((84, 84, 3), 4) == (21, 21)
    assert auxiliary_heads.cells_of((10,), 4) == (3,)


def test_what_cannot_be_is_refused(kit):
    """Sizes, cells larger than the image, a value of its own torso."""
    spec = kit.probe("both").spec
    with pytest.raises(ValueError, match="snippets: got 0, give at least 1"):
        kit.small("unreal", spec, snippets=0)
    image = kit.probe("both_image").spec
    with pytest.raises(ValueError, match="cell: 99 pixels of an image"):
        kit.small("unreal", image, cell=99)
    network = unreal.networks.NetworkConfig(separate_value=True)
    with pytest.raises(ValueError, match=r"network\.separate_value"):
        unreal.make(spec, unreal.Config(network=network))
