"""How the tests of agents build one and play it.

Compiling is what these tests spend their time on, so an agent on given tasks is built
and compiled once and shared: everything is a pure function.
"""

import collections
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

from mtrl_jax import agents, envs, random, tree, types
from mtrl_jax.envs import advice, mixture
from mtrl_jax.networks import actor_critic as networks
from mtrl_jax.networks import transformer

# Static settings that make an agent small; an agent not named here gets its defaults.
SMALL: dict[str, dict] = {
    "impala": {"optimiser": "adam"},
    "mix_and_match": {"optimiser": "adam"},
    "ppo": {"epochs": 2, "minibatches": 2},
    "bandit": {"algorithm": "thompson"},
    "algorithm_distillation": {
        "transformer": transformer.TransformerConfig(
            layers=2, width=8, heads=2, feedforward=16, context=8
        )
    },
}
# Traced settings under which a small agent learns a probe quickly.
QUICK = {
    "learning_rate": 5e-3,
    "entropy_cost": 0.01,
    "discount": 0.9,
    "max_grad_norm": 1.0,
    "epsilon": 1e-5,
    "epsilon_start": 0.05,
    "warmup_updates": 1.0,
}
# The tasks that most tests share: memory, a mask, an observation that matters.
TASKS = ("both", "masked", "memory")
SLOTS = 4  # of each task
T = 6


class Claims(NamedTuple):
    """What an agent says of itself; the defaults are an actor-critic's."""

    refuses: tuple[str, ...] = ()  # probes whose action space its make refuses
    has_carry: bool = True
    learns: bool = True  # in update; else in its carry alone, and update only counts
    drawn: int = 3  # leaves of a fresh learner that are drawn, at least
    forgets: bool = True  # at an episode's first step; else it learns across episodes
    advised: bool = False  # reads what is best, which probes do not say by themselves


CLAIMS = {
    "tabular": Claims(("both_factorised", "both_box"), has_carry=False, drawn=0),
    "bandit": Claims(("both_factorised", "both_box"), learns=False, drawn=0),
    "demonstrator": Claims(
        ("both_factorised", "both_box"),
        has_carry=False,
        learns=False,
        drawn=0,
        advised=True,
    ),
    "algorithm_distillation": Claims(("both_box",), forgets=False),
}


class Setup(NamedTuple):
    """An agent on its environment, compiled, with a fresh state and a rollout."""

    agent: types.Agent
    env: types.Env
    hp: Any  # Hparams of float32 scalars
    act: Any
    update: Any
    traces: collections.Counter  # how often Python ran act and update
    state: types.AgentState
    rollout: types.Rollout


def small(name, spec, core="none", **config):
    """Returns the agent ``name`` for ``spec``, with a small network where it has one."""
    module = agents.get(name)
    settings = SMALL.get(name, {}) | config
    if "network" in module.Config.__dataclass_fields__:
        settings["network"] = networks.NetworkConfig(
            hidden=(8,), core=core, core_size=8
        )
    if "sizes" in module.Config.__dataclass_fields__:
        settings |= table(spec)
    return module.make(spec, module.Config(**settings))


def claims(name):
    """Returns the Claims of an agent."""
    return CLAIMS.get(name, Claims())


def table(spec):
    """Returns the Config fields of an agent with a table: probes observe -1, 0, 1."""
    if "vector" not in spec.obs:
        return {}
    sizes = (3,) * spec.obs["vector"].shape[0]
    return {"sizes": sizes, "low": -1.0, "high": 1.0, "per_task": True}


def quick(name, **changes):
    """Returns Hparams of the agent ``name``; fields it does not have are ignored."""
    hp = agents.get(name).Hparams()
    settings = QUICK | changes
    hp = hp._replace(**{k: v for k, v in settings.items() if k in hp._fields})
    return arrays(hp)


def arrays(hp, members=None):
    """Returns hp as float32 arrays, with a leading axis [P] if there are members."""
    shape = () if members is None else (members,)
    return jax.tree.map(lambda x: jnp.full(shape, x, jnp.float32), hp)


def probe(*names, batch=(1, SLOTS), advised=False):
    """Returns a probe, or the mixture of several; ``advised`` says that 1 is best."""
    parts = [envs.make(f"probe/{name}", batch) for name in names]
    env = parts[0] if len(parts) == 1 else mixture.make(parts)
    return advice.give(env, lambda _: jnp.ones(env.batch)) if advised else env


@functools.cache
def player(names, advised):
    """Returns (env, jitted reset, jitted step) of a member of its own."""
    env = probe(*names, advised=advised)

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
    env, *_ = player(tasks, claims(name).advised)
    agent, traces = small(name, env.spec, core), collections.Counter()

    def compiled(function):
        def call(*args):
            traces[function] += 1
            return getattr(agent, function)(*args)

        return jax.jit(call)

    act, update = compiled("act"), compiled("update")
    made = Setup(agent, env, quick(name), act, update, traces, None, None)
    state = fresh(made, 0)
    return made._replace(state=state, rollout=collect(made, state=state, tasks=tasks))


def fresh(made, seed):
    """Returns a new state; not jitted, so that agents share what is compiled for it."""
    return made.agent.init(random.at(random.roots(seed, 1)[0], 0, random.INIT), made.hp)


def collect(made, *, state, seed=0, steps=T, tasks=TASKS, hp=None):
    """Returns the rollout that ``state`` collects: ``[T + 1, B]``, ``carry [B]``."""
    _, reset, step = player(tasks, types.OPTIMAL in made.env.spec.obs)
    root = random.roots(seed, 1)[0]
    env_state, ts = reset(root)
    start = carry = made.agent.carry(made.env.batch[1])
    seen, taken = [ts], []
    for t in range(steps):
        key = random.fold(random.at(root, 0, random.ACT), t)
        action, carry, extras = made.act(
            state, carry, ts, key, made.hp if hp is None else hp
        )
        env_state, ts = step(env_state, action)
        seen.append(ts)
        taken.append((action, extras))
    return types.Rollout(tree.stack(seen), *tree.stack(taken), start)


def member(x, index=0):
    """Returns one member's part of a tree of ``[P, ...]``, or one step of ``[T, ...]``."""
    return jax.tree.map(lambda leaf: leaf[index], x)


FUNCTIONS = (
    claims, small, table, quick, arrays, probe, setup, fresh, collect, member,
)  # fmt: skip
KIT = {"T": T, "SLOTS": SLOTS, "TASKS": TASKS} | {f.__name__: f for f in FUNCTIONS}


@pytest.fixture(name="kit", scope="session")
def _kit():
    """The functions above; hashable, so that what is made with them can be cached."""
    return collections.namedtuple("Kit", KIT)(**KIT)
