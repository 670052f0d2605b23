"""Which hyperparameters a program reads: what an agent says of that is so.

The contract's tests hold every small agent to it by numbers; here its program is traced,
and nothing compiled, with the options on and off that it depends on.
"""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.interpreters import partial_eval

from mtrl_jax import agents, hparams
from mtrl_jax.agents.common import kickstarting
from mtrl_jax.experiments import checks
from mtrl_jax.networks import components, network_config, q_network
from mtrl_jax.networks.transformers import outlook
from mtrl_jax.networks.world_models import latents, rssm

SOFT = network_config.NetworkConfig(hidden=(4,), sharing="soft")
STUDENT = q_network.QNetworkConfig(hidden=(4,))
GAUSSIAN = rssm.RSSMConfig(latents.LatentConfig("gaussian", 2), deter=4, hidden=4)
# Agent -> settings of programs that differ in what they read.
PROGRAMS = [
    ("impala", {"optimiser": "rmsprop"}),
    ("impala", {"value_scale": "popart", "combiner": "cagrad"}),
    ("impala", {"network": SOFT, "teacher": kickstarting.Teacher()}),
    ("ppo", {"value_scale": "return_scale", "combiner": "pcgrad"}),
    ("mix_and_match", {"combiner": "cagrad", "value_scale": "popart"}),
    ("mix_and_match", {"control": "slot", "fades": False}),
    ("mix_and_match", {"control": "slot"}),
    ("mix_and_match", {"own_values": True, "matching": "reversed"}),
    ("mix_and_match", {"components": (components.Component(),)}),
    ("distral", {"columns": "one"}),
    ("distral", {"columns": "added"}),
    ("distral", {"columns": "shared", "value_scale": "popart"}),
    ("progressive", {"value_scale": "return_scale", "optimiser": "rmsprop"}),
    ("unreal", {"value_scale": "popart", "feature_control": False}),
    ("dreamer_v2", {"actor_gradient": "reinforce", "discount_head": False}),
    ("dreamer_v2", {"rssm": GAUSSIAN}),
    ("dqn", {"optimiser": "rmsprop_centred"}),
    ("rainbow", {"prioritised": False, "optimiser": "rmsprop"}),
    ("rainbow", {"distribution": "none", "noisy": False}),
    ("rainbow", {"distribution": "quantile"}),
    ("pqn", {"student": STUDENT}),
    ("bandit", {"algorithm": "ucb1"}),
    ("behaviour_cloning", {"optimiser": "rmsprop"}),
    ("policy_distillation", {}),
    ("gato", {"outlook": outlook.Outlook(), "infers": False, "permutes": False}),
]


def unread(agent, hp, spec):
    """Returns the hyperparameters on which neither acting nor an update depends."""

    def program(hp, key, step, ts, unroll):
        learner = agent.init(key, hp)
        acted = batch = checks._acted(agent, learner, key, hp, ts, unroll)
        if agent.replay is not None:
            memory = agent.replay.init(unroll.reward.shape[1])
            memory, batch = agent.replay.observe(memory, acted, key, hp, step)
        return acted, agent.update(learner, batch, key, hp, step)

    slots = len(spec.slot_tasks)
    given = (
        jax.tree.map(jnp.float32, hp),
        jax.eval_shape(jax.random.key, 0),
        jax.ShapeDtypeStruct((), jnp.int32),
        checks.time_step_shapes(spec, slots),
        checks.time_step_shapes(spec, 7, slots),
    )
    traced = jax.make_jaxpr(program)(*given).jaxpr
    _, used = partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars))
    read, *_ = jax.tree.unflatten(jax.tree.structure(given), used)
    return {name for name, is_read in hparams.flatten(read).items() if not is_read}


@pytest.mark.parametrize(("name", "changes"), PROGRAMS)
def test_what_is_said_to_be_idle_is_what_the_program_does_not_read(name, changes, kit):
    """No value that nothing reads is taken, and none that is read is refused."""
    module, spec = agents.get(name), kit.probe("both", "masked").spec
    config = dataclasses.replace(kit.config(name, spec), **changes)
    found = unread(module.make(spec, config), module.Hparams(), spec)
    # A prompt is a part of the data.
    assert found - {"prompt_share"} == set(module.INFO.idle(config))
