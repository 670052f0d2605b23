"""Agents learn tasks whose values are known: what fails shows which part is broken.

By default every agent learns five probes as one mixture, in one program; the slow tests
teach it every probe that it claims alone, with each seed held to the threshold.
"""

import functools
import types as python_types

import jax
import numpy as np
import pytest

from mtrl_jax import agents, random
from mtrl_jax.engine import fused_runner, population

MEMBERS, SLOTS = 2, 8
DISCOUNT = 0.9
CHUNK = 50  # updates
MIXTURE = ("constant", "observation", "delayed", "action", "both")
SOLO = [
    *MIXTURE, "masked", "memory", "action_factorised", "both_factorised",
    "action_box", "both_box", "both_image",
]  # fmt: skip


CLAIMED = [
    (name, task)
    for name in agents.AGENTS
    for task in SOLO
    if task in agents.get(name).INFO.learns
]
# A convolutional torso loses its ReLUs at the rate of the others, an LSTM is unsteady.
RATE = {"both_image": 1e-3, "memory": 3e-3}
# Gradients through time need whole episodes: 4 steps and a reset each.
UNROLL = {"memory": 15}
# What a probe alone takes, where it is on its way to the best after 600 updates: values
# of deep Q-networks follow a target that is copied, progressive networks are small.
UPDATES = {
    ("mix_and_match", "both_image"): 900,
    ("progressive", "action"): 1_500,
    ("progressive", "masked"): 1_500,
    ("dqn", "masked"): 1_500,
    ("rainbow", "masked"): 1_500,
}
# How close mean returns have to come to the best, 1: a Gaussian keeps some width.
RETURN = {"action_box": 0.9, "both_box": 0.85}


@pytest.mark.parametrize(("name", "task"), [x for x in CLAIMED if x[1] in MIXTURE])
def test_an_agent_learns_five_probes_as_one_mixture(name, task, kit):
    """Value, inputs, discount, policy and policy inputs, each at its analytic value."""
    check(train(name, MIXTURE, "none", 300, kit), MIXTURE.index(task), task)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "task"), CLAIMED)
def test_an_agent_learns_each_probe_alone(name, task, kit):
    """Also memory (with an LSTM), masks, pictures and the other action spaces."""
    core, updates = ("lstm", 800) if task == "memory" else ("none", 600)
    updates = UPDATES.get((name, task), updates)
    check(train(name, (task,), core, updates, kit), 0, task)


@pytest.mark.slow
# A world model is a memory.
@pytest.mark.parametrize("name", [x for x in agents.AGENTS if x != "dreamer_v2"])
def test_without_memory_the_memory_probe_cannot_be_learned(name, kit):
    """The threshold means something: a feed-forward network stays near 0.

    With the last action as an input it would not: agents learn to write the cue down
    as an action and repeat it. So neither here nor with the LSTM is it one.
    """
    result = train(name, ("memory",), "none", 600, kit)
    assert (result.returns < 0.5).all()


@functools.cache
def train(name, tasks, core, updates, kit):
    """Returns returns ``[P, K]`` of the last chunk and two steps with their values."""
    labels = kit.info(name).reads_expert_labels
    env = kit.probe(*tasks, batch=(MEMBERS, SLOTS), labels=labels)
    module = agents.get(name)
    has_network = "network" in module.Config.__dataclass_fields__
    network = has_network and kit.network(
        name,
        hidden=(32,),
        core=core,
        core_size=16,
        task_embedding=len(tasks) > 1,
        last_action_reward="memory" not in tasks,
    )
    settings = {"network": network, "optimiser": "adam", **kit.table(env.spec)}
    settings["task_embedding"] = len(tasks) > 1  # of a network that is no NetworkConfig
    if len(tasks) == 1:
        # Of one task a minibatch is 12 steps: once all is learned, their advantages,
        # normalised, are noise.
        settings["minibatches"] = 1
    config = {
        k: v for k, v in settings.items() if k in module.Config.__dataclass_fields__
    }
    agent = module.make(env.spec, module.Config(**config))
    rate = RATE.get(tasks[0], 5e-3)
    hp = kit.quick(name, discount=DISCOUNT, learning_rate=rate)
    hp = kit.arrays(hp, MEMBERS)
    runner = fused_runner.make(
        agent, env, unroll_length=UNROLL.get(tasks[0], 6), updates_per_chunk=CHUNK
    )
    state = runner.init(random.roots(0, MEMBERS), hp)
    chunk = jax.jit(runner.chunk, donate_argnums=0)
    for _ in range(updates // CHUNK):
        state, out = chunk(state, hp)
    assert np.asarray(out.finite).all()

    # The first step of an episode and the one after it, on fresh slots.
    agents_ = population.population(agent, MEMBERS)
    act = jax.jit(agents_.act)
    env_state, ts = env.reset(random.roots(1, MEMBERS), env.params)
    carry, steps = agents_.carry(env.batch[1]), []
    for t in range(2):
        keys = random.at(state.key, t, random.ACT)
        action, carry, extras = act(state.learner, carry, ts, keys, hp)
        steps.append(jax.device_get((ts, getattr(extras, "value", None))))
        env_state, ts = env.step(env_state, action, env.params)
    returns = out.episodes["return"] / out.episodes["episodes"]
    return python_types.SimpleNamespace(returns=np.asarray(returns), steps=steps)


def check(result, index, task):
    """Asserts that every member gets the best return and values of ``task``."""
    returns = result.returns[:, index]
    if task == "observation":
        assert (np.abs(returns) < 0.25).all()
    else:
        assert (returns > RETURN.get(task, 0.93)).all(), returns
    slots = slice(index * SLOTS, (index + 1) * SLOTS)
    for t, (ts, value) in enumerate(result.steps):
        expected = analytic(task, t, ts, slots)
        if value is not None and expected is not None:
            np.testing.assert_allclose(
                value[:, slots], np.broadcast_to(expected, (MEMBERS, SLOTS)), atol=0.12
            )


def analytic(task, t, ts, slots):
    """Returns the values at step ``t`` under the best policy; None where none matters."""
    if task == "delayed":
        return DISCOUNT ** (1 - t)
    if task == "memory":
        return DISCOUNT ** (3 - t)
    if t > 0:
        return None
    if task == "observation":
        return np.asarray(ts.obs["vector"])[:, slots, 0]
    return 1.0
