"""Streams of time steps with next-step autoreset, in plain NumPy: every row is unique."""

import jax
import numpy as np

from mtrl_jax import types

OBS = {
    "image": jax.ShapeDtypeStruct((2, 2, 1), np.uint8),
    "vector": jax.ShapeDtypeStruct((2,), np.float32),
}
SPEC = types.EnvSpec(OBS, types.Discrete(3), ())
FIELDS = ("action", "reward", "discount", "first", "last", "reset")


def stream(steps, members=2, slots=2, seed=0, longest=6):
    """Returns (ts [T+1, P, B], action [T, P, B]): episodes of 1 to ``longest`` steps.

    The vector holds the history's and the step's number.
    """
    rng = np.random.default_rng(seed)
    shape = (steps + 1, members, slots)
    history = np.broadcast_to(
        np.arange(members * slots).reshape(1, members, slots), shape
    )
    time = np.broadcast_to(np.arange(steps + 1)[:, None, None], shape)
    last = np.zeros(shape, bool)
    for p in range(members):
        for b in range(slots):
            t = 0
            while (t := t + rng.integers(1, longest + 1)) <= steps:
                last[t, p, b] = True
                t += 1
    first = np.roll(last, 1, axis=0)
    first[0] = True
    terminal = last & (rng.random(shape) < 0.5)
    reward = np.where(first, 0, rng.integers(1, 9, shape)).astype(np.float32)
    ts = types.TimeStep(
        obs={
            "image": rng.integers(0, 256, (*shape, 2, 2, 1)).astype(np.uint8),
            "vector": np.stack([history, time], -1).astype(np.float32),
        },
        reward=reward,
        discount=1 - terminal.astype(np.float32),
        first=first,
        last=last,
        task=np.zeros(shape, np.int32),
        action_mask=np.ones((*shape, 3), bool),
    )
    return ts, rng.integers(0, 3, shape).astype(np.int32)[:steps]


def chunks(whole, size):
    """Yields the chunks that a scan of ``size`` steps would give."""
    ts, action = whole
    for start in range(0, len(action), size):
        part = action[start : start + size]
        stop = start + len(part) + 1
        yield jax.tree.map(lambda x, s=start, e=stop: x[s:e], ts), part


def rows_of(whole, member, slot):
    """Returns a history's rows as a list of dicts, one after the other, by a loop."""
    ts, action = jax.tree.map(lambda x: x[:, member, slot], whole)
    return [
        {
            "image": ts.obs["image"][t],
            "vector": ts.obs["vector"][t],
            "action": action[t],
            "reward": ts.reward[t + 1],
            "discount": ts.discount[t + 1],
            "first": ts.first[t],
            "last": ts.last[t + 1],
            "reset": ts.last[t],
        }
        for t in range(len(action))
    ]
