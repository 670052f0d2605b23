"""The host runner is the fused runner with the steps outside the program."""

import functools
from typing import NamedTuple

import compiling
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import envs, random, types
from mtrl_jax.engine import fused_runner, host_runner
from mtrl_jax.envs import core, mixture, wrappers

P, B, T, K = 2, 4, 5, 3
TASK = "memory"


class Hparams(NamedTuple):
    learning_rate: float = 0.1


def linear_agent(spec, sampled=True):
    """A REINFORCE agent with a memory: every part of the contract reaches its numbers."""
    inputs, n = spec.obs["vector"].shape[0] + 1, spec.action.n

    def logits(weights, carry, ts):
        count = jnp.where(ts.first, 0.0, carry) + 1.0
        x = jnp.concatenate([ts.obs["vector"], count[..., None]], -1)
        return x @ weights, count

    def act(learner, carry, ts, key, hp):
        values, carry = logits(learner[0], carry, ts)
        if not sampled:
            return jnp.argmax(values, -1).astype(jnp.int32), carry, carry
        action = jax.random.categorical(key, values).astype(jnp.int32)
        return action, carry, carry

    def update(learner, rollout, key, hp, step):
        def loss(weights):
            def step(carry, ts):
                values, carry = logits(weights, carry, ts)
                return carry, values

            ts = jax.tree.map(lambda x: x[:-1], rollout.ts)
            _, values = jax.lax.scan(step, rollout.carry, ts)
            chosen = jax.nn.log_softmax(values) * jax.nn.one_hot(rollout.action, n)
            live = 1.0 - rollout.ts.first[1:]
            advantage = rollout.ts.reward[1:] * live * rollout.ts.discount[1:].mean()
            return -jnp.mean(chosen.sum(-1) * advantage) + jnp.mean(rollout.extras)

        value, gradient = jax.value_and_grad(loss)(learner[0])
        noise = 0.01 * jax.random.normal(key, gradient.shape)
        weights = learner[0] - hp.learning_rate * (gradient + noise)
        return (weights, learner[1] + 1), {"loss": value}, ()

    def init(key, hp):
        weights = jax.random.normal(key, (inputs, n))
        return weights, jnp.zeros((), jnp.int32)

    return types.Agent(init, lambda batch: jnp.zeros(batch), act, update)


def hparams():
    return Hparams(jnp.asarray([0.1, 0.3]))


def run(runner, chunks=2, jit=False):
    """Returns the states and outputs of some chunks from one seed."""
    chunk = jax.jit(runner.chunk) if jit else runner.chunk
    state = runner.init(random.roots(3, P), hparams())
    outputs = []
    for _ in range(chunks):
        state, output = chunk(state, hparams())
        outputs.append(jax.device_get(output))
    return jax.device_get(state._replace(env=(), key=())), outputs


def fused(sampled=True):
    env = envs.make(f"probe/{TASK}", (P, B))
    return fused_runner.make(
        linear_agent(env.spec, sampled), env, unroll_length=T, updates_per_chunk=K
    )


@functools.cache
def hosted(parts, sampled=True):
    """Returns the runner over the same streams of slots, cut into ``parts``.

    Tests share it: ``init`` begins all streams again.
    """
    module = envs.ENVS["probe"].load()
    key = random.at(random.roots(3, P), 0, random.ENV)
    halves, first = [], 0
    for size in parts:
        env = core.vectorise(module.task(TASK, None), (P, size), first)
        halves.append(mixture.host_from_pure(env, key))
        first += size
    return host_runner.make(
        linear_agent(halves[0].spec, sampled),
        halves,
        unroll_length=T,
        updates_per_chunk=K,
    )


def assert_same(left, right):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), left, right
    )


def test_with_one_half_it_computes_what_the_fused_runner_computes():
    """Same keys, rollouts, statistics and updates: where steps happen changes nothing."""
    expected, outputs = run(fused(), jit=True)
    state, host_outputs = run(hosted((B,)))
    assert_same(host_outputs, outputs)
    assert_same(state, expected)
    assert outputs[0].episodes["episodes"].sum() > 0
    assert int(state.step) == 2 * K


def test_with_two_halves_the_slots_lie_where_the_fused_runner_has_them():
    """Without sampling nothing depends on the halves: slots keep their order."""
    expected, outputs = run(fused(sampled=False), jit=True)
    state, host_outputs = run(hosted((1, 3), False))
    assert_same(host_outputs, outputs)
    assert_same(state, expected)


def test_measures_beside_the_return_are_counted_as_the_fused_runner_counts_them():
    """Success of Meta-World is one: read where an episode ends, summed per task. It may
    be what members are judged by; returns are as the task pays them."""
    task = envs.ENVS["probe"].load().task(TASK, None)
    task = task._replace(info=lambda state, params: {"answer": jnp.float32(0.5)})
    task = wrappers.apply(task, {"reward_scale": 0.3})
    env = core.vectorise(task, (P, B))
    agent = linear_agent(env.spec, sampled=False)
    size = {"unroll_length": T, "updates_per_chunk": K, "judged": "answer"}
    expected, outputs = run(fused_runner.make(agent, env, **size), jit=True)
    key = random.at(random.roots(3, P), 0, random.ENV)
    parts = [core.vectorise(task, (P, 1), 0), core.vectorise(task, (P, 3), 1)]
    halves = [mixture.host_from_pure(part, key) for part in parts]
    state, host_outputs = run(host_runner.make(agent, halves, **size))
    assert_same(host_outputs, outputs)
    assert_same(state.stats, expected.stats)
    sums = outputs[0].episodes
    assert_same(sums["answer"], 0.5 * sums["episodes"])
    assert sums["answer"].sum() > 0
    recent = expected.stats.recent[expected.stats.recent_count > 0]
    assert recent.size and (recent[:, 0] == 0.5).all()
    assert_same(sums["return"], np.round(sums["return"]))
    assert sums["return"].any()


def test_two_halves_do_not_choose_the_same_actions():
    """Each half acts with a key of its own."""
    taken = {0: [], 1: []}

    def recording(h, half):
        def send(action):
            taken[h].append(np.asarray(action))
            half.send(action)

        return half._replace(send=send)

    module = envs.ENVS["probe"].load()
    key = random.at(random.roots(3, P), 0, random.ENV)
    env = core.vectorise(module.task("constant", None), (P, 16))
    # Equal halves with equal observations: only the key can tell them apart.
    halves = [recording(h, mixture.host_from_pure(env, key)) for h in range(2)]
    runner = host_runner.make(
        linear_agent(env.spec), halves, unroll_length=T, updates_per_chunk=1
    )
    run(runner, chunks=1)
    assert (np.stack(taken[0]) != np.stack(taken[1])).any()


def test_one_half_is_on_its_way_whenever_the_other_is_waited_for():
    """Emulators and device work at the same time: never two recv without a send between."""
    calls = []

    def logged(h, half):
        def send(action):
            calls.append(("send", h))
            half.send(action)

        def recv():
            calls.append(("recv", h))
            return half.recv()

        return half._replace(send=send, recv=recv)

    env = envs.make("probe/constant", (P, B))
    halves = [
        logged(h, mixture.host_from_pure(env, random.roots(h, P))) for h in range(2)
    ]
    runner = host_runner.make(
        linear_agent(env.spec), halves, unroll_length=3, updates_per_chunk=1
    )
    run(runner, chunks=1)
    middle = [("recv", 0), ("send", 0), ("recv", 1), ("send", 1)]
    start, end = [("send", 0), ("send", 1)], [("recv", 0), ("recv", 1)]
    assert calls == start + middle * 2 + end


def test_compiling_ends_with_the_first_chunk():
    """Later chunks, and a state that PBT has touched, meet compiled programs."""
    runner = hosted((1, 3), False)
    hp, changed = hparams(), Hparams(jnp.asarray([0.2, 0.6]))
    state, _ = runner.chunk(runner.init(random.roots(0, P), hp), hp)
    compiled = compiling.TALLY.total
    assert compiled > 0
    for _ in range(2):
        state, output = runner.chunk(state, changed)
    jax.block_until_ready(output)
    assert compiling.TALLY.total == compiled


def test_an_older_state_is_refused():
    """The environments have gone on: only the newest state fits them."""
    runner = hosted((1, 3), False)
    old = runner.init(random.roots(0, P), hparams())
    kept = jax.tree.map(jnp.copy, old)
    new, _ = runner.chunk(old, hparams())
    with pytest.raises(ValueError, match="give the newest state"):
        runner.chunk(kept, hparams())
    runner.chunk(new, hparams())


def test_halves_that_do_not_belong_together_are_refused():
    """Halves are one batch cut in two."""
    agent = linear_agent(envs.make("probe/constant", (1, 1)).spec)
    make = functools.partial(
        host_runner.make, agent, unroll_length=1, updates_per_chunk=1
    )
    with pytest.raises(ValueError, match="at least one"):
        make([])
    one = envs.make_host("probe/constant", (1, 1))
    with pytest.raises(ValueError, match=r"\[1, 2\] members"):
        make([one, envs.make_host("probe/constant", (2, 1))])
    with pytest.raises(ValueError, match="specs differ"):
        make([one, envs.make_host("probe/memory", (1, 1))])


def test_envpool_in_halves_gives_the_fused_runners_rollouts():
    """Real pools: CartPole in two halves learns what one pool in the program learns."""
    name, size = "envpool/CartPole-v1", {"unroll_length": 12, "updates_per_chunk": K}
    env = envs.make(name, (P, 4), seed=5)
    agent = linear_agent(env.spec, sampled=False)
    expected, outputs = run(fused_runner.make(agent, env, **size), jit=True)
    halves = [
        envs.make_host(name, (P, 2), None, seed=5, first_slot=first) for first in (0, 2)
    ]
    state, host_outputs = run(host_runner.make(agent, halves, **size))
    for half in halves:
        half.close()
    assert_same(host_outputs, outputs)
    assert_same(state.ts, expected.ts)
    assert outputs[1].episodes["episodes"].sum() > 0
