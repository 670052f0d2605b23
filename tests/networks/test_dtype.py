"""``dtype: bfloat16`` is of products on accelerators: one policy for every network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import token_steps

from mtrl_jax import types
from mtrl_jax.networks import actor_critic, layers, network_module, q_network
from mtrl_jax.networks.transformers import transformer
from mtrl_jax.networks.world_models import observation_config, rssm, world_model

ACTIONS = 3
SPACE = types.Discrete(ACTIONS)
OBS = {
    "image": jax.ShapeDtypeStruct((6, 6, 2), jnp.uint8),
    "vector": jax.ShapeDtypeStruct((5,), jnp.float32),
}
SPEC = types.EnvSpec(OBS, SPACE, (types.TaskSpec("task", OBS, SPACE),))


def _actor_critic(dtype):
    config = actor_critic.NetworkConfig(hidden=(4,), core="lstm", dtype=dtype)
    net = actor_critic.make(SPEC, config)
    ts, action = network_module.dummy(SPEC)
    state = net.initial_state(1)
    return net.init, lambda params: net.unroll(params, state, ts, action)


def _values(dtype):
    config = q_network.QNetworkConfig(hidden=(4,), stream=4, dtype=dtype)
    net = q_network.make(SPEC, config, ACTIONS, q_network.Head(2, True, True))
    ts, _ = network_module.dummy(SPEC)
    return net.init, lambda params: net.apply(params, ts.obs, ts.task, ts.action_mask)


def _transformer(dtype):
    config = transformer.TransformerConfig(
        layers=1, width=4, heads=1, feedforward=4, context=2, hidden=(4,), dtype=dtype
    )
    net = transformer.make(SPEC, config)
    ts, action = network_module.dummy(SPEC)
    steps = token_steps.of(ts.obs, action, ts.reward, ts.last)
    return net.init, lambda params: net.unroll(params, steps)


def _world_model(dtype):
    size = rssm.RSSMConfig(deter=4, hidden=4)
    net = world_model.make(
        SPEC, size, observation_config.ObservationConfig(), hidden=(4,), two_hot=False,
        dtype=layers.fast_dtype(dtype),
    )  # fmt: skip
    features = jnp.zeros((1, size.feature_size))
    return net.init, lambda params: (
        net.decode(params, features),
        net.reward(params, features),
    )


NETWORKS = (_actor_critic, _values, _transformer, _world_model)


def _traced(network, dtype):
    """Returns (program, types of the parameters, types of what it says)."""
    init, apply = network(dtype)
    params = jax.eval_shape(init, jax.random.key(0))
    program, said = jax.make_jaxpr(apply, return_shape=True)(params)
    kinds = (
        {x.dtype for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, np.floating)}
        for tree in (params, said)
    )
    return str(program), *kinds


@pytest.mark.parametrize("network", NETWORKS)
def test_a_cpu_runs_the_program_of_float32(network):
    """Not one operation differs."""
    assert jax.default_backend() == "cpu"
    assert _traced(network, "bfloat16") == _traced(network, "float32")


@pytest.mark.parametrize("network", NETWORKS)
def test_an_accelerator_multiplies_in_bfloat16_and_all_else_is_float32(
    network, monkeypatch
):
    """Products of bfloat16 are in the program; parameters and outputs are float32."""
    monkeypatch.setattr(layers, "fast_dtype", str)
    program, params, said = _traced(network, "bfloat16")
    assert "bf16" in program
    assert params == said == {jnp.dtype(jnp.float32)}
