"""Rollouts with the steps that reset, and the same choices without them."""

import jax
import numpy as np

from mtrl_jax import types
from mtrl_jax.data import windows

ACTIONS = 3


def stream(lengths, slots=2, seed=0):
    """Returns a Rollout of episodes of these lengths, with the steps that reset."""
    rng = np.random.default_rng(seed)
    rows = sum(lengths) + len(lengths)
    last = np.zeros((rows + 1, slots), bool)
    last[np.cumsum(np.asarray(lengths) + 1) - 1] = True
    first = np.roll(last, 1, axis=0)
    first[0] = True
    reward = np.where(first, 0, rng.integers(1, 9, last.shape)).astype(np.float32)
    return types.Rollout(*drawn(rng, reward, first, last), (), ())


def drawn(rng, reward, first, last):
    """Returns (time steps [T + 1, B] of these, actions [T, B]), the rest at random."""
    ts = types.TimeStep(
        obs={"vector": rng.normal(size=(*last.shape, 2)).astype(np.float32)},
        reward=reward,
        discount=np.ones(last.shape, np.float32),
        first=first,
        last=last,
        task=np.zeros(last.shape, np.int32),
        action_mask=np.ones((*last.shape, ACTIONS), bool),
    )
    action = rng.integers(0, ACTIONS, (len(last) - 1, last.shape[1]))
    return ts, action.astype(np.int32)


def without_resets(rollout):
    """Returns the same choices as windows have them: a row each, ends and firsts one."""
    ts = rollout.ts
    keep = np.flatnonzero(~ts.last[:-1, 0])
    rows = [*keep, len(ts.last) - 1]
    # What arrived: of a first step, with the row before it that was left out.
    arrived = [r - 1 if r and ts.first[r, 0] else r for r in rows]
    merged = jax.tree.map(lambda x: x[rows], ts)
    merged = merged._replace(reward=ts.reward[arrived], last=ts.last[arrived])
    live = np.ones((len(keep), merged.last.shape[1]), bool)
    return types.Rollout(merged, rollout.action[keep], windows.Extras(live), ())
