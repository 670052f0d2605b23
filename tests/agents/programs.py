"""The programs in which an agent's promises are tested.

Compiling is what these tests spend their time on. An agent on the mixture of probes is
three programs: ``init``; ``solo``, which acts along a stream of time steps, watches its
first and updates; and ``members``, the same of a population. They take and return numpy
arrays and seeds in place of keys: outside of them nothing is compiled. The streams are
the same for all agents.
"""

import collections
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import agents, random, types
from mtrl_jax.engine import batched_draws, population

# Agents held to the contract; the last is used in runs by tests/outside.
NAMES = (*agents.AGENTS, "outside.reinforce")
MEMBERS = 8
STEPS = 12  # of a stream; a rollout is the first kit.T of them
SEED = 11
ARGUMENTS = ("learner", "carry", "memory", "ts", "rollout", "seed", "hp", "step")


class Programs(NamedTuple):
    """An agent's compiled functions, and what they are mostly called with."""

    agent: types.Agent
    env: types.Env
    init: Any  # (seed, hp) -> (learner, carry, memory)
    solo: Any  # (learner, carry, memory, ts, rollout, seed, hp, step) -> Outcome
    members: Any  # solo's arguments and results with a member axis
    traces: collections.Counter  # how often Python ran act and update
    hp: Any
    learner: types.Tree
    carry: types.Tree
    memory: types.Tree
    ts: types.TimeStep  # [STEPS, B]
    rollout: types.Rollout


class Outcome(NamedTuple):
    """What ``solo`` gives; acting and updating begin from the same learner."""

    carry: Any  # after the last step
    acted: Any  # (action, carry, extras) of each step [S, B]
    updated: Any  # (learner, memory, metrics)
    watched: Any  # the first step's carry, had it been (its own, another) action


@functools.cache
def make(name, kit):
    """Returns the Programs of an agent, with a memory where it has a network."""
    env, ts = stream(kit, kit.info(name).reads_expert_labels)
    # Whatever tasks the slots have: some tests give all the same.
    agent = kit.small(name, env.spec._replace(slot_tasks=()), "lstm")
    traces: collections.Counter = collections.Counter()
    several = population.population(agent, MEMBERS)

    def counted(function):
        def call(*args):
            traces[function] += 1
            return getattr(agent, function)(*args)

        return call

    solo = agent._replace(act=counted("act"), update=counted("update"))
    watch = kit.info(name).observe_action
    hp = jax.device_get(kit.quick(name))
    # Compiled in less time, the numbers are the same.
    init = batched_draws.batch_draws(functools.partial(begin, agent, env.batch[1]))
    init = jax.jit(init)
    made = Programs(
        agent, env, init, jax.jit(runner(solo, kit, watch)),
        jax.jit(runner(several, kit)), traces, hp,
        *jax.device_get(init(np.int32(0), hp)),
        jax.tree.map(lambda x: x[:-1, 0], ts), None,
    )  # fmt: skip
    # To collect the first rollout is to update on one of zeros.
    _, (action, _, extras) = jax.eval_shape(
        actor(agent), made.learner, made.carry, made.ts, np.int32(0), hp
    )
    action, extras = jax.tree.map(
        lambda x: np.zeros((kit.T, *x.shape[1:]), x.dtype), (action, extras)
    )
    first = jax.tree.map(lambda x: x[: kit.T + 1, 0], ts)
    made = made._replace(rollout=types.Rollout(first, action, extras, made.carry))
    return made._replace(rollout=collect(made, kit))


@functools.cache
def stream(kit, labels):
    """Returns (env of one member, the steps [STEPS + 1, MEMBERS, B] of several).

    The actions are legal and drawn at random.
    """
    several = kit.probe(*kit.TASKS, batch=(MEMBERS, kit.SLOTS), labels=labels)

    def step(now, key):
        state, ts = now
        action = jax.random.categorical(key, jnp.where(ts.action_mask, 0.0, -jnp.inf))
        now = several.step(state, action.astype(jnp.int32), several.params)
        return now, now[1]

    @jax.jit
    def play():
        roots = random.roots(0, MEMBERS)
        first = several.reset(random.at(roots, 0, random.ENV), several.params)
        keys = jax.random.split(random.at(roots[0], 0, random.ACT), STEPS)
        ts = jax.lax.scan(step, first, keys)[1]
        return jax.tree.map(lambda x, y: jnp.concatenate([x[None], y]), first[1], ts)

    return kit.probe(*kit.TASKS, labels=labels), jax.device_get(play())


def begin(agent, slots, seed, hp):
    """Returns a fresh (learner, carry, memory); the memory is () without a replay."""
    key = random.at(random.roots(seed, 1)[0], 0, random.INIT)
    memory = () if agent.replay is None else agent.replay.init(slots)
    return agent.init(key, hp), agent.carry(slots), memory


def runner(agent, kit, watch=None):
    """Returns ``solo`` of Programs, or ``members`` of a population."""
    act, train = actor(agent), kit.train(agent)

    def run(learner, carry, memory, ts, rollout, seed, hp, step):
        carry, acted = act(learner, carry, ts, seed, hp)
        key = jnp.vectorize(jax.random.key)(seed)
        updated = train(learner, memory, rollout, key, hp, step)
        return Outcome(carry, acted, updated, watched(ts, acted))

    def watched(ts, acted):
        if watch is None:
            return ()
        now, (action, carry, _) = jax.tree.map(lambda x: x[0], (ts, acted))
        return watch(carry, now, action), watch(carry, now, other(action))

    return run


def actor(agent):
    """Returns acting along a stream, of an agent or of a population."""

    def act(learner, carry, ts, seed, hp):
        key = jnp.vectorize(jax.random.key)(seed)
        keys = jax.vmap(lambda t: random.fold(key, t))(jnp.arange(len(ts.first)))

        def step(carry, now):
            action, carry, extras = agent.act(learner, carry, *now, hp)
            return carry, (action, carry, extras)

        return jax.lax.scan(step, carry, (ts, keys))

    return act


def other(action):
    """Returns one of the first two actions that is not ``action``."""
    return 1 - action.clip(max=1)


def fresh(one, seed):
    """Returns a new learner."""
    return jax.device_get(one.init(np.int32(seed), one.hp)[0])


def run(one, **changes):
    """Returns the Outcome of ``one.solo``, with some arguments other than its own."""
    return jax.device_get(one.solo(*arguments(one, changes)))


def act(one, **changes):
    """Returns what each step of ``run`` gave: (action, carry, extras), [S, B]."""
    return run(one, **changes).acted


def update(one, **changes):
    """Returns (learner, memory, metrics) of ``run``."""
    return run(one, **changes).updated


def arguments(one, changes=()):
    """Returns the arguments of ``solo``: as in Programs, but for ``changes``."""
    known = one._asdict() | {"seed": SEED, "step": 0} | dict(changes)
    assert not set(changes) - set(ARGUMENTS)
    # Of one type wherever they are from, so that there is one program.
    known |= {name: np.int32(known[name]) for name in ("seed", "step")}
    return [known[name] for name in ARGUMENTS]


def changed(kit, hp, **leaves):
    """Returns hp with some leaves changed; those it does not have are ignored."""
    return jax.tree.map(np.float32, kit.changed(hp, **leaves))


def collect(one, kit, ts=None, **changes):
    """Returns the rollout of acting along the stream ``ts`` [STEPS + 1, B]."""
    _, steps = stream(kit, types.OPTIMAL in one.env.spec.obs)
    ts = jax.tree.map(lambda x: x[:, 0], steps) if ts is None else ts
    before = jax.tree.map(lambda x: x[:-1], ts)
    action, _, extras = act(one, ts=before, **changes)
    action, extras = jax.tree.map(lambda x: x[: kit.T], (action, extras))
    ts = jax.tree.map(lambda x: x[: kit.T + 1], ts)
    return types.Rollout(ts, action, extras, changes.get("carry", one.carry))


def stack(trees, axis=0):
    """Returns one tree of numpy arrays with the leaves stacked along a new axis."""
    return jax.tree.map(lambda *xs: np.stack(xs, axis), *trees)


def stack_rollouts(rollouts):
    """Returns the rollout of a population, as a scan over time leaves it.

    Time comes first, then members; the carry has no time.
    """
    timed = stack([x._replace(carry=()) for x in rollouts], 1)
    return timed._replace(carry=stack([x.carry for x in rollouts]))


def all_finite(x):
    """Returns whether no leaf of numpy arrays holds a NaN or an infinity."""
    found = [
        leaf for leaf in jax.tree.leaves(x) if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    return all(np.isfinite(leaf).all() for leaf in found)
