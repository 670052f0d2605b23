"""The actor-critic network: torso, core, policy and value heads for one EnvSpec.

    features_t = torso(obs_t, side_t)     side: task, last action, last reward
    h_t, state_t = core(features_t, state_tm1)
    policy_t = linear(h_t), value_t = linear(h_t)

With ``skip`` the heads read [features_t, h_t], so that what takes no memory need not be
learned through it. With ``separate_value`` the value has a torso and a core of its own
("value_torso", "value_core"), and a memory of its own.

The same flax module is several of them for ``components``. Everything is time-major ``[T, B]``; acting
is an unroll of one step. Nothing here knows of populations: all of it works under
``vmap`` over ``params``.

Ref: Espeholt et al. 2018, arXiv:1802.01561, figure 3. Head initialisation (orthogonal,
gain 0.01 for the policy and 1 for the value) follows common PPO practice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import chex

from mtrl_jax import types
from mtrl_jax.networks import (
    cores,
    heads,
    network_config,
    network_module,
    sequence_conv,
    torsos,
)
from mtrl_jax.types import Array, Key, Tree

NetworkConfig = network_config.NetworkConfig
_DEFAULT = NetworkConfig()
PolicyValue = network_module.PolicyValue


class Network(NamedTuple):
    """An actor-critic as pure functions.

    ``init(key)`` returns parameters, a dict whose "policy" and "value" are the heads.
    ``initial_state(batch)`` returns {stream: memory} of ``batch`` fresh slots.
    ``unroll(params, state, ts, prev_action)`` returns (PolicyValue, state) of a TimeStep
    ``[T, B]``; ``prev_action[t]`` led to ``ts[t]`` and is masked where ``ts.first``.
    ``distribution(policy, action_mask, temperature=1.0)`` returns a ``heads.Policy``.
    ``recurrent`` says whether there is a memory.
    """

    init: Callable[[Key], Tree]
    initial_state: Callable[[int], Tree]
    unroll: Callable[[Tree, Tree, types.TimeStep, Array], tuple[PolicyValue, Tree]]
    distribution: Callable[..., heads.Policy]
    recurrent: bool


def make(
    spec: types.EnvSpec,
    config: NetworkConfig = _DEFAULT,
    *,
    num_values: int | None = None,
) -> Network:
    """Returns the network for environments of ``spec``.

    ``num_values`` gives the value a last axis, for one value a task (PopArt).
    Raises ValueError for a config field that is unknown, non-positive, or does not go
    with the others or with the observations.
    """
    network_config.check(config, num_values)
    sequence_conv.check(config.sequence, spec.obs)
    config = torsos.resolved(config, spec.obs)
    network_config.check_sharing(config, spec)
    nets = (network_module.net_of(config, spec.action),)
    module = network_module.ActorCritics(
        nets, spec.action, len(spec.tasks), num_values, is_single=True
    )

    def init(key):
        inputs = (initial_state(1), *network_module.dummy(spec))
        return module.init(key, *inputs)["params"]

    def initial_state(batch):
        return network_module.initial_state(nets, batch)

    def unroll(params, state, ts, prev_action):
        chex.assert_rank(ts.first, 2)
        chex.assert_equal_shape_prefix([ts.first, prev_action], 2)
        (out,), state = module.apply({"params": params}, state, ts, prev_action)
        return out, state

    def distribution(policy, action_mask, temperature=1.0):
        return heads.policy(spec.action, policy, action_mask, temperature)

    recurrent = cores.has_memory(config.core)
    return Network(init, initial_state, unroll, distribution, recurrent)
