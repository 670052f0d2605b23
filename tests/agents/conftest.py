"""How the tests of agents build one and play it.

Compiling is what these tests spend their time on, so an agent on given tasks is built
and compiled once and shared: everything is a pure function.
"""

import collections
import dataclasses
import functools
from typing import Any, NamedTuple

import dreaming
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import agents, envs, hparams, random, types
from mtrl_jax.engine import batched_draws
from mtrl_jax.envs import expert_labels, mixture
from mtrl_jax.networks.transformers import outlook, transformer

TRANSFORMER = transformer.TransformerConfig(
    layers=2, width=8, heads=2, feedforward=16, context=8
)
# All that it may be given and say, but the next vector, which is padded in a mixture.
SEQUENCE = {
    "transformer": dataclasses.replace(TRANSFORMER, ngram=1),
    "outlook": outlook.Outlook(
        bins=5, low=-2.0, high=2.0, steps=6, rewards=True, values=True
    ),
    "infers": True,
    "permutes": True,
}
# Static settings that make an agent small; an agent not named here gets its defaults.
SMALL: dict[str, dict] = {
    "impala": {"optimiser": "adam"},
    "mix_and_match": {"optimiser": "adam"},
    "distral": {"optimiser": "adam"},
    "progressive": {"optimiser": "adam", "columns": 2, "hidden": (8, 8)},
    "unreal": {
        "optimiser": "adam",
        "cell": 1,
        "feature_control": True,
        "capacity": 240,
        "windows": 4,
        "steps": 3,
        "snippets": 4,
    },
    "ppo": {"epochs": 2, "minibatches": 2},
    "bandit": {"algorithm": "thompson"},
    "dreamer_v2": dreaming.SMALL,
    "dqn": {"capacity": 1200, "batch": 16, "double": True},
    "rainbow": {"capacity": 1200, "batch": 16, "gradient_steps": 2, "atoms": 5},
    "algorithm_distillation": {"transformer": TRANSFORMER},
    "decision_transformer": SEQUENCE,
    "multi_game_decision_transformer": SEQUENCE,
    "gato": SEQUENCE,
    "policy_distillation": {"per_task": False},
}
# Traced settings under which a small agent learns a probe quickly.
QUICK = {
    "learning_rate": 5e-3,
    "entropy_cost": 0.01,
    "discount": 0.9,
    "max_grad_norm": 1.0,
    "adam_eps": 1e-5,
    "rmsprop_eps": 1e-5,
    "epsilon_start": 0.05,
    "epsilon_end": 0.0,
    "epsilon_updates": 200.0,
    "target_period": 5.0,
    "v_min": -2.0,
    "v_max": 2.0,
    "warmup_updates": 1.0,
    "inferred": 0.5,
    "across": 1.0,
    "return_gate": 1.0,
    "reward_gate": 1.0,
    "return_cost": 1.0,
    "reward_cost": 1.0,
    "td_cost": 1.0,
    "cql_cost": 1.0,
    "expectile_cost": 1.0,
    "advantage_cost": 1.0,
}
# The tasks that most tests share: memory, a mask, an observation that matters.
TASKS = ("both", "masked", "memory")
SLOTS = 4  # of each task
T = 6


class Setup(NamedTuple):
    """An agent on its environment, compiled, with a fresh learner and a rollout."""

    agent: types.Agent
    env: types.Env
    hp: Any  # Hparams of float32 scalars
    act: Any
    update: Any  # (learner, batch, key, hp) -> (learner, metrics), of update 0
    traces: collections.Counter  # how often Python ran act and update
    learner: types.Tree
    rollout: types.Rollout


def config(name, spec, core="none", **changes):
    """Returns the Config of a small agent; ``changes`` are some of its fields."""
    module = agents.get(name)
    settings = SMALL.get(name, {}) | changes
    if "network" in module.Config.__dataclass_fields__:
        # The last action is an input, so that one that teaches nothing is found out.
        settings["network"] = network(
            name, hidden=(8,), core=core, core_size=8, last_action_reward=True
        )
    if "outlook" in settings and not isinstance(spec.action, types.Discrete):
        # Of a factorised action not every choice has a value.
        settings["outlook"] = dataclasses.replace(settings["outlook"], values=False)
    if "sizes" in module.Config.__dataclass_fields__:
        settings |= table(spec)
    return module.Config(**settings)


def network(name, **fields):
    """Returns the agent's network settings; fields it does not have are ignored."""
    default = agents.get(name).Config().network
    known = {field.name for field in dataclasses.fields(default)}
    return dataclasses.replace(default, **{k: fields[k] for k in known & set(fields)})


def small(name, spec, core="none", **changes):
    """Returns the agent ``name`` for ``spec``, with a small network where it has one."""
    return agents.get(name).make(spec, config(name, spec, core, **changes))


def agent(name, spec, settings):
    """Returns the agent ``name`` of a Config."""
    return agents.get(name).make(spec, settings)


def info(name):
    """Returns what the agent's file says of it."""
    return agents.get(name).INFO


def table(spec):
    """Returns the Config fields of an agent with a table: probes observe -1, 0, 1."""
    if "vector" not in spec.obs:
        return {}
    sizes = (3,) * spec.obs["vector"].shape[0]
    per_task = len(spec.tasks) > 1
    return {"sizes": sizes, "low": -1.0, "high": 1.0, "per_task": per_task}


def quick(name, **changes):
    """Returns Hparams of the agent ``name``; leaves it does not have are ignored."""
    hp = agents.get(name).Hparams()
    settings, known = QUICK | changes, hparams.names(hp)
    return arrays(
        hparams.override(hp, {k: settings[k] for k in known if k in settings})
    )


def arrays(hp, members=None):
    """Returns hp as float32 arrays, with a leading axis [P] if there are members."""
    shape = () if members is None else (members,)
    return jax.tree.map(lambda x: jnp.full(shape, x, jnp.float32), hp)


def changed(hp, **leaves):
    """Returns hp with some leaves changed; those it does not have are ignored."""
    known = hparams.names(hp)
    return hparams.override(hp, {k: v for k, v in leaves.items() if k in known})


def memory(agent, slots):
    """Returns the empty replay of ``slots``, () of an agent that has none."""
    return () if agent.replay is None else agent.replay.init(slots)


def train(agent):
    """Returns an update of one member with its replay, as the engine makes it.

    (learner, memory, rollout, key, hp, step) -> (learner, memory, metrics).
    """

    def update(learner, memory, rollout, key, hp, step):
        batch = rollout
        if agent.replay is not None:
            own = random.fold(key, random.REPLAY)
            memory, batch = agent.replay.observe(memory, rollout, own, hp, step)
        learner, metrics, found = agent.update(learner, batch, key, hp, step)
        if agent.replay is not None:
            memory = agent.replay.feedback(memory, found)
        return learner, memory, metrics

    return update


def learn(agent):
    """Returns update 0: (learner, rollout, key, hp) -> (learner, metrics).

    An agent with a replay learns from what a fresh one draws, having seen the rollout.
    """

    def update(learner, rollout, key, hp):
        empty = memory(agent, rollout.ts.first.shape[-1])
        args = (learner, empty, rollout, key, hp, jnp.int32(0))
        learner, _, metrics = train(agent)(*args)
        return learner, metrics

    return update


def updater(agent):
    """Returns ``learn(agent)`` compiled."""
    return jax.jit(learn(agent))


def quiet_and_loud(made, hp):
    """Returns the params of an update, and of one with task 1's rewards times 1000.

    Gradients of both are clipped, and the second's norm is far larger.
    """
    ts, hp = made.rollout.ts, changed(hp, max_grad_norm=1e-3)
    loud = np.where(ts.task == 1, 1e3 * ts.reward, ts.reward)
    other = made.rollout._replace(ts=ts._replace(reward=loud))
    key = jax.random.key(0)
    found = [made.update(made.learner, x, key, hp) for x in (made.rollout, other)]
    before, after = (metrics["grad_norm"] for _, metrics in found)
    assert 1e-2 < before < 0.1 * after
    return [learner.params for learner, _ in found]


def probe(*names, batch=(1, SLOTS), labels=False):
    """Returns a probe, or the mixture of several; with ``labels`` 1 is best."""
    parts = [envs.make(f"probe/{name}", batch) for name in names]
    env = parts[0] if len(parts) == 1 else mixture.make(parts)
    return expert_labels.give(env, lambda _: jnp.ones(env.batch)) if labels else env


@functools.cache
def player(names, labels):
    """Returns (env, jitted reset, jitted step) of a member of its own."""
    env = probe(*names, labels=labels)

    def reset(root):
        state, ts = env.reset(random.at(root, 0, random.ENV)[None], env.params)
        return state, member(ts)

    def step(state, action):
        state, ts = env.step(state, action[None], env.params)
        return state, member(ts)

    return env, jax.jit(reset), jax.jit(step)


@functools.cache
def setup(name, core="none", tasks=TASKS):
    """Returns the Setup of an agent on a mixture of probes."""
    env, *_ = player(tasks, info(name).reads_expert_labels)
    agent, traces = small(name, env.spec, core), collections.Counter()

    def counted(function):
        def call(*args):
            traces[function] += 1
            return getattr(agent, function)(*args)

        return call

    act = jax.jit(counted("act"))
    update = updater(agent._replace(update=counted("update")))
    made = Setup(agent, env, quick(name), act, update, traces, None, None)
    learner = fresh(made, 0)
    return made._replace(
        learner=learner, rollout=collect(made, learner=learner, tasks=tasks)
    )


@functools.cache
def beginner(agent):
    """Returns ``agent.init`` of a seed, compiled in little time: the same numbers."""

    @jax.jit
    @batched_draws.batch_draws
    def init(seed, hp):
        return agent.init(random.at(random.roots(seed, 1)[0], 0, random.INIT), hp)

    return init


def fresh(made, seed):
    """Returns a new learner."""
    return beginner(made.agent)(np.int32(seed), made.hp)


def collect(made, *, learner, seed=0, steps=T, tasks=TASKS, hp=None):
    """Returns the rollout that ``learner`` collects: ``[T + 1, B]``, ``carry [B]``."""
    _, reset, step = player(tasks, types.OPTIMAL in made.env.spec.obs)
    root = random.roots(seed, 1)[0]
    env_state, ts = reset(root)
    start = carry = jax.device_get(made.agent.carry(made.env.batch[1]))
    keys = random.fold(random.at(root, 0, random.ACT), np.arange(steps))
    seen, taken = [ts], []
    for key in keys:
        action, carry, extras = made.act(
            learner, carry, ts, key, made.hp if hp is None else hp
        )
        env_state, ts = step(env_state, action)
        seen.append(ts)
        taken.append((action, extras))
    seen, taken = (
        jax.tree.map(lambda *xs: np.stack(xs), *x)
        for x in jax.device_get((seen, taken))
    )
    return types.Rollout(seen, *taken, start)


def member(x, index=0):
    """Returns one member's part of a tree of ``[P, ...]``, or one step of ``[T, ...]``."""
    return jax.tree.map(lambda leaf: leaf[index], x)


FUNCTIONS = (
    info, config, agent, network, small, table, quick, arrays, changed, memory, train, learn, updater, quiet_and_loud, probe, setup, fresh, collect,
    member,
)  # fmt: skip
KIT = {"T": T, "SLOTS": SLOTS, "TASKS": TASKS} | {f.__name__: f for f in FUNCTIONS}


@pytest.fixture(name="kit", scope="session")
def _kit():
    """The functions above; hashable, so that what is made with them can be cached."""
    return collections.namedtuple("Kit", KIT)(**KIT)
