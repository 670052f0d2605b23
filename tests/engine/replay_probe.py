"""A minimal agent with a replay: what the engine may rely on is all that is in it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import types

WARM_UP = 2  # updates before the first that learns
DRAWS = 8  # rows of a batch


class Hparams(NamedTuple):
    learning_rate: Any = 0.1


class Memory(NamedTuple):
    """One member's rows; time step t of slot b lies at [t mod L, b]."""

    rows: Any  # [L, B, width] the observation, repeated to width; last: the reward
    error: Any  # [L, B] what update found out of the row last, 0 before
    key: Any  # [2] uint32, the bits of the key that the newest batch was drawn with


class Batch(NamedTuple):
    x: Any  # [N, width]
    row: Any  # [N] int32
    slot: Any  # [N] int32


class Feedback(NamedTuple):
    row: Any  # [N] int32
    slot: Any  # [N] int32
    error: Any  # [N]


def make(spec, rows, width=8):
    """Returns an agent that predicts rewards from ``rows`` x slots x ``width`` floats.

    It acts by the sign of its prediction, and begins to learn after WARM_UP updates.
    """

    def init(key, hp):
        # Two leaves with numbers of their own: a copy brings both.
        return {
            "w": 0.1 * jax.random.normal(key, (width - 1,)),
            "trained": jnp.zeros((), jnp.int32),
            "key": jnp.zeros(2, jnp.uint32),
        }

    def inputs(ts):
        x = ts.obs["vector"]
        return x[..., jnp.arange(width - 1) % x.shape[-1]]

    def act(learner, carry, ts, key, hp):
        q = inputs(ts) @ learner["w"]
        logits = jnp.stack([-q, q], -1)
        return jax.random.categorical(key, logits).astype(jnp.int32), carry, ()

    def update(learner, batch, key, hp, step):
        def loss(w):
            errors = batch.x[:, :-1] @ w - batch.x[:, -1]
            return jnp.mean(jnp.square(errors)), errors

        def train(learner):
            (value, errors), grad = jax.value_and_grad(loss, has_aux=True)(learner["w"])
            w = learner["w"] - hp.learning_rate / width * grad
            trained = learner["trained"] + 1
            return learner | {"w": w, "trained": trained}, value, jnp.abs(errors)

        def wait(learner):
            return learner, jnp.zeros(()), jnp.zeros(batch.row.shape)

        learner, value, error = jax.lax.cond(step >= WARM_UP, train, wait, learner)
        learner = learner | {"key": jax.random.key_data(key)}
        return learner, {"loss": value}, Feedback(batch.row, batch.slot, error)

    return types.Agent(init, lambda slots: (), act, update, replay(rows, width, inputs))


def replay(rows, width, inputs):
    """Returns a ring of the newest rows, drawn from uniformly."""

    def init(slots):
        return Memory(
            jnp.zeros((rows, slots, width)),
            jnp.zeros((rows, slots)),
            jnp.zeros(2, jnp.uint32),
        )

    def observe(memory, rollout, key, hp, step):
        length, slots = rollout.action.shape
        fits = rows // length
        new = jax.tree.map(lambda x: x[:-1], rollout.ts)
        reward = rollout.ts.reward[1:, :, None]
        new = jnp.concatenate([inputs(new), reward], -1)
        at = (step % fits) * length
        write = jax.lax.dynamic_update_slice_in_dim
        memory = Memory(
            write(memory.rows, new, at, 0),
            write(memory.error, jnp.zeros((length, slots)), at, 0),
            jax.random.key_data(key),
        )
        row_key, slot_key = jax.random.split(key)
        stored = jnp.minimum(step + 1, fits) * length
        row = jax.random.randint(row_key, (DRAWS,), 0, stored)
        slot = jax.random.randint(slot_key, (DRAWS,), 0, slots)
        return memory, Batch(memory.rows[row, slot], row, slot)

    def feedback(memory, found):
        # The largest, so that the order of rows drawn twice is none of it.
        error = memory.error.at[found.row, found.slot].max(found.error)
        return memory._replace(error=error)

    return types.Replay(init, observe, feedback)
