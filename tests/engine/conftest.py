"""A tiny agent: the engine knows only the contract, so its tests need no more."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import envs, random, types
from mtrl_jax.engine import fused_runner
from mtrl_jax.envs import mixture


class Hparams(NamedTuple):
    learning_rate: Any = 0.1
    temperature: Any = 1.0


class Tiny(NamedTuple):
    """What the tests get: the tiny agent and how to run it."""

    Hparams: type
    make: Any
    env: Any
    hparams: Any
    start: Any
    leaves: Any
    differs: Any


def make(spec):
    """Returns a linear policy-gradient agent that remembers its last action.

    Everything of the contract but a replay is in use: a carry masked by ``first``,
    action masks, both keys, extras and metrics.
    """
    inputs = spec.obs["vector"].shape[0] + 1
    choices = types.action_mask_size(spec.action)

    def init(key, hp):
        learner = {"w": 0.1 * jax.random.normal(key, (inputs, choices))}
        learner["rate"] = 0.0 * learner["w"][0] + hp.learning_rate
        return learner | {"updates": jnp.zeros((), jnp.int32)}

    def carry(batch):
        return jnp.zeros(batch)

    def logits_of(learner, last, ts):
        x = jnp.concatenate([ts.obs["vector"], last[..., None]], -1)
        return jnp.where(ts.action_mask, x @ learner["w"], -1e9)

    def act(learner, last, ts, key, hp):
        last = jnp.where(ts.first, 0.0, last)
        logits = logits_of(learner, last, ts)
        warm = jnp.maximum(hp.temperature, 1e-3)
        drawn = jax.random.categorical(key, logits / warm)
        action = jnp.where(hp.temperature > 0, drawn, jnp.argmax(logits, -1))
        return action.astype(jnp.int32), action.astype(jnp.float32), last

    def loss(learner, rollout):
        before = jax.tree.map(lambda x: x[:-1], rollout.ts)
        after = jax.tree.map(lambda x: x[1:], rollout.ts)
        log_p = jax.nn.log_softmax(logits_of(learner, rollout.extras, before))
        taken = jnp.take_along_axis(log_p, rollout.action[..., None], -1)[..., 0]
        return -jnp.mean(jnp.where(after.first, 0.0, taken * after.reward))

    def update(learner, rollout, key, hp, step):
        value, grads = jax.value_and_grad(loss, allow_int=True)(learner, rollout)
        noise = 1e-2 * jax.random.normal(key, grads["w"].shape)
        w = learner["w"] - hp.learning_rate * (grads["w"] + noise)
        updates = learner["updates"] + 1
        return learner | {"w": w, "updates": updates}, {"loss": value}, ()

    return types.Agent(init, carry, act, update)


def env(members=2, slots=4, names=("memory", "both")):
    """Returns a small mixture of probes with ``slots`` of each."""
    return mixture.make([envs.make(f"probe/{n}", (members, slots)) for n in names])


def hparams(members=2, **fields):
    """Returns Hparams ``[P]``, all the same."""
    hp = Hparams()._replace(**fields)
    return jax.tree.map(lambda x: jnp.full(members, x, jnp.float32), hp)


def start(members=2, slots=4, *, agent=None, env_=None, unroll_length=5, **options):
    """Returns (runner, fresh state, hp) of the tiny agent or of ``agent``."""
    env_ = env(members, slots) if env_ is None else env_
    options = {"updates_per_chunk": 2} | options
    runner = fused_runner.make(
        agent or make(env_.spec), env_, unroll_length=unroll_length, **options
    )
    hp = hparams(members)
    return runner, jax.jit(runner.init)(random.roots(0, members), hp), hp


def leaves(x):
    """Returns {path: numpy array}, keys as their bits."""
    found, _ = jax.tree_util.tree_flatten_with_path(x)
    return {jax.tree_util.keystr(path): _plain(leaf) for path, leaf in found}


def differs(x, y):
    """Returns the paths of leaves that differ in any bit."""
    x, y = leaves(x), leaves(y)
    assert x.keys() == y.keys()
    return [path for path in x if not np.array_equal(x[path], y[path])]


def _plain(leaf):
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


@pytest.fixture(name="tiny", scope="session")
def _tiny():
    return Tiny(Hparams, make, env, hparams, start, leaves, differs)
