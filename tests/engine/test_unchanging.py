"""What a spec says never changes is what the time steps have, and no loop carries it."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from mtrl_jax import types
from mtrl_jax.agents import ppo
from mtrl_jax.engine import fused_runner, unchanging
from mtrl_jax.envs import core, mixture, probes

P, B = 2, 4


def env(name: str, batch: tuple[int, int] = (P, B)) -> types.Env:
    return core.vectorise(probes.task(name), batch)


def first(env: types.Env) -> types.TimeStep:
    keys = jax.random.split(jax.random.key(0), env.batch[0])
    return env.reset(keys, env.params)[1]


def of_slots() -> types.Env:
    return mixture.make([env("action", (P, 1)), env("action_factorised", (P, 3))])


def of_members() -> types.Env:
    parts = [env("action", (1, B)), env("action_factorised", (1, B))]
    return mixture.make(parts, axis="population")


def of_members_alike() -> types.Env:
    parts = [env("action", (1, B)), env("memory", (1, B))]
    return mixture.make(parts, axis="population")


def of_one_that_decides() -> types.Env:
    return mixture.make([env("action", (P, 1)), env("masked", (P, 3))])


@pytest.mark.parametrize(
    ("make", "masks", "constant"),
    [
        (functools.partial(env, "action"), 1, {"task", "action_mask"}),
        (of_slots, 2, {"task", "action_mask"}),
        (of_members, 2, set()),  # both are another's in every member
        (of_members_alike, 2, {"action_mask"}),
        (of_one_that_decides, 0, {"task"}),
        (functools.partial(env, "masked"), 0, {"task"}),
    ],
)
def test_constants_are_what_was_there(make, masks, constant):
    """Padding has a mask for each task; who decides at every step has none."""
    made = make()
    ts = first(made)
    assert len(made.spec.masks) == masks
    # Whatever the steps say is replaced where the spec knows better, and only there.
    said = ts._replace(task=ts.task + 7, action_mask=~ts.action_mask)
    found = unchanging.known(made.spec, said)
    for name in ("task", "action_mask"):
        expected = ts if name in constant else said
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_no_loop_writes_down_legal_actions_that_never_change():
    """The compiled chunk has no array of them, over time or of one step."""
    masks = []
    for name in ("constant", "masked"):
        played = env(name)
        agent = ppo.make(played.spec)
        runner = fused_runner.make(agent, played, unroll_length=8, updates_per_chunk=2)
        hp = jax.tree.map(lambda x: np.full(P, x, np.float32), ppo.Hparams())
        keys = jax.random.split(jax.random.key(0), P)
        state = jax.eval_shape(runner.init, keys, hp)
        text = jax.jit(runner.chunk).lower(state, hp).compile().as_text()
        size = types.action_mask_size(played.spec.action)
        masks.append(f"pred[8,{P},{B},{size}]" in text)
    assert masks == [False, True]
