"""Windows of learning histories: what an agent is trained on, as a Rollout.

A window is ``length`` rows of one history that follow each other, episode after episode;
all of them, of all histories, are as likely. On a device (``put``, ``sample``) drawing
is part of the compiled program and costs one gather per field; data have to fit there.

In a window ``ts[t + 1]`` has the reward, discount and ``last`` that action t led to, and
``ts[0]`` those of the row before the window (reward 0, discount 1 at the beginning of a
history): what was known when the first action was chosen. Since reset rows are left out,
the ``ts`` after an episode's last action is both ``last`` (of it) and ``first`` (of the
next, whose first observation it has). That is all that imitation asks for; an agent that
bootstraps needs final observations: keep reset rows (``rows.keep``), and windows are
rollouts as the source had them, dead actions and all.

Asked for, windows also have the columns of whole histories (``columns``), and before
each window a prompt, rows of another episode (``prompts``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import types
from mtrl_jax.data import columns as of_histories
from mtrl_jax.data import prompts
from mtrl_jax.data.histories import Histories
from mtrl_jax.data.rows import Kept, keep
from mtrl_jax.types import Array, Key, Tree


class Data(NamedTuple):
    """Rows of H histories, at most M of each; see ``layout`` for what a row is."""

    obs: dict[str, Any]  # [H, M, ...], labels (types.OPTIMAL) among them
    action: Any  # [H, M, ...], as all of these of jax or of numpy
    reward: Any  # [H, M]
    discount: Any  # [H, M]
    first: Any  # [H, M] bool
    last: Any  # [H, M] bool
    action_mask: Any  # [H, M, A] bool, or [1, 1, A] where all rows have the same
    task: Any  # [H] int32
    counts: Any  # [H] int32, rows there are
    recorded: Mapping[str, Any] = {}  # [H, M, ...] that acting noted down
    columns: of_histories.Columns | None = None  # [H, M]
    episodes: prompts.Whole | None = None  # to prompt with


class Extras(NamedTuple):
    """What windows say beside their steps."""

    live: Array  # [T, B] bool, False beyond the end of a history shorter than a window
    optimal: Array | None = None  # [T, B] what had been best to do, where that is known
    recorded: Mapping[str, Array] = {}  # [T, B, ...] what acting noted down, by name
    columns: of_histories.Columns | None = None  # [T, B]
    prompt: Array | None = None  # [T, B] bool, rows before the window itself
    followed: Array | None = None  # [T, B] bool, the history has the row after it
    prev_action: Array | None = None  # [T, B, ...] of the row before, 0 without one


_COLUMN_BYTES = 13
ToExtras = Callable[[types.Rollout], Tree]


def device_bytes(
    data: Histories, kept: Kept | None = None, columns: bool = False
) -> int:
    """Returns what ``put`` needs on a device; it fits if a training step still does.

    A Dark Room step takes 22 bytes (2,000 histories of 4,000 steps: 176 MB), one of an
    84x84x4 picture 28 kB (10 histories of 50,000 steps: 14 GB).
    """
    counts = data.reset.shape if kept is None else kept.rows.shape
    leaves = [*jax.tree.leaves(_fields(data)), legal_masks(data)]
    per_row = sum(x[0, 0].nbytes for x in leaves if x.shape[:2] != (1, 1))
    per_row += _COLUMN_BYTES * columns
    return counts[0] * counts[1] * per_row


def put(
    data: Histories,
    kept: Kept | None = None,
    device: Any = None,
    *,
    columns: bool = False,
    prompted: bool = False,
) -> Data:
    """Returns the rows ``kept`` (default: all but resets) as arrays on a device.

    With ``columns`` those of the whole histories, with ``prompted`` what there is to
    prompt with, which takes 8 bytes an episode. ``device`` is a device or sharding (replicated), as ``jax.device_put`` takes it.
    Raises ValueError for 2^31 rows and more.
    """
    kept = keep(data) if kept is None else kept
    check(kept)

    def packed(x: np.ndarray) -> Array:
        out = np.empty((*kept.rows.shape, *x.shape[2:]), x.dtype)
        for i, (n, rows) in enumerate(zip(kept.history, kept.rows)):
            out[i] = x[n][rows]
        return jax.device_put(out, device)

    masks = legal_masks(data)
    return Data(
        **jax.tree.map(packed, _fields(data)),
        action_mask=jax.device_put(masks, device)
        if data.action_mask is None
        else packed(masks),
        task=jax.device_put(data.task[kept.history], device),
        counts=jax.device_put(kept.counts, device),
        columns=jax.tree.map(packed, of_histories.of(data)) if columns else None,
        episodes=jax.device_put(prompts.whole(data, kept), device)
        if prompted
        else None,
    )


def sample(
    key: Key,
    data: Data,
    batch: int,
    length: int,
    *,
    prompt: int = 0,
    extras: ToExtras | None = None,
    carry: Tree = (),
) -> types.Rollout:
    """Returns ``batch`` random windows: a Rollout, ts [T + 1, B], action [T, B].

    Pure; ``vmap`` over keys gives every member of a population its own windows. See
    ``at`` for the arguments, ``draw`` for which windows there are. With a ``prompt`` T is
    ``prompt + length``: so many rows stand before each window, of data that were put
    ``prompted``; fewer exist where the episode is shorter or there is none.
    """
    history, start = draw(key, data.counts, batch, length)
    if not prompt:
        return at(data, history, start, length, extras=extras, carry=carry)
    known, own = data.episodes, jax.random.fold_in(key, 1)
    if known is None:
        raise ValueError("prompt: the data have no episodes; put them with prompted")
    drawn = prompts.draw(own, known, history, start, length, prompt)
    windows = at(data, history, start, length)
    shown = at(data, history, drawn.start, prompt)
    both = _joined(shown, windows, drawn.rows)
    extra = both.extras if extras is None else extras(both)
    return both._replace(extras=extra, carry=carry)


def draw(key: Key, counts: Array, batch: int, length: int) -> tuple[Array, Array]:
    """Returns (history [B], start [B]), uniform over all windows of ``length`` rows.

    A history of n rows has n - length + 1 windows; a shorter one is one window.
    """
    starts = jnp.maximum(counts - length, 0) + 1
    ends = jnp.cumsum(starts)
    number = jax.random.randint(key, (batch,), 0, ends[-1])
    history = jnp.searchsorted(ends, number, side="right", method="scan_unrolled")
    return history, number - (ends - starts)[history]


def at(
    data: Data,
    history: Array,
    start: Array,
    length: int,
    *,
    extras: ToExtras | None = None,
    carry: Tree = (),
) -> types.Rollout:
    """Returns the windows of ``length`` rows that begin at ``start`` of ``history``, [B].

    Where a history ends within a window, its last row is repeated: ``extras.live`` is
    False from there on, rewards are 0, and ``first`` is True, so that agents that skip
    the actions before a ``first`` skip these. A window that ends with its history has
    that row's observation again as its last ``ts``.

    Args:
      data: from ``put``.
      history, start: [B] int32, in range.
      length: T, static.
      extras: from the Rollout with ``Extras``, what the agent expects in their place.
      carry: the Rollout's carry, [B, ...].
    """
    offset = np.arange(-1, length + 1, dtype=np.int32)[:, None]
    # From the row before the window to the one after it.
    place = start[None] + offset
    history = jnp.broadcast_to(history[None], place.shape)
    count = data.counts[history]
    row = jnp.clip(place, 0, count - 1)
    before, within, now = slice(0, -1), slice(1, -1), slice(1, None)

    def rows(x: Array, when: slice) -> Array:
        return x.at[history[when], row[when]].get(mode="promise_in_bounds")

    def arrived(x: Array, otherwise: Any) -> Array:
        return jnp.where(exists[before], rows(x, before), x.dtype.type(otherwise))

    exists = (place >= 0) & (place < count)
    beyond = place > count
    obs = {k: x for k, x in data.obs.items() if k != types.OPTIMAL}
    ts = types.TimeStep(
        obs=jax.tree.map(lambda x: rows(x, now), obs),
        reward=arrived(data.reward, 0),
        discount=arrived(data.discount, 1),
        first=(rows(data.first, now) & exists[now]) | beyond[now],
        last=arrived(data.last, False),
        task=data.task[history[now]],
        action_mask=_masks(data.action_mask, lambda x: rows(x, now), place.shape),
    )
    best = data.obs.get(types.OPTIMAL)
    action = rows(data.action, before)  # That of the row before the window, too.
    known = exists[:-2].reshape(length, -1, *(1,) * (action.ndim - 2))
    said = Extras(
        live=exists[within],
        optimal=None if best is None else rows(best, within),
        recorded={name: rows(x, within) for name, x in data.recorded.items()},
        columns=jax.tree.map(lambda x: rows(x, within), data.columns),
        followed=exists[2:],
        prev_action=jnp.where(known, action[:-1], 0),
    )
    windows = types.Rollout(ts, action[1:], said, carry)
    return windows if extras is None else windows._replace(extras=extras(windows))


def legal_masks(data: Histories) -> np.ndarray:
    """Returns the action masks, or [1, 1, A] of True where the dataset has none."""
    if data.action_mask is not None:
        return data.action_mask
    return np.ones((1, 1, types.action_mask_size(data.spec.action)), bool)


def check(kept: Kept) -> None:
    """Raises ValueError unless rows are below 2^31: windows are counted in int32."""
    if kept.rows.size >= 2**31:
        raise ValueError(
            f"kept: {kept.rows.size} rows, windows are drawn from fewer than 2^31; "
            "keep fewer histories or every k-th episode"
        )


def _joined(shown: types.Rollout, windows: types.Rollout, rows: Array) -> types.Rollout:
    """Returns windows [T, B] with prompts [N, B] before them, of which ``rows`` exist."""

    def joined(before: Array, after: Array) -> Array:
        return jnp.concatenate([before, after])

    length = shown.action.shape[0]
    ts = jax.tree.map(lambda x: x[:length], shown.ts)
    exists = jnp.arange(length)[:, None] < rows[None]
    said = shown.extras._replace(live=shown.extras.live & exists)
    extras = jax.tree.map(joined, said, windows.extras)
    is_prompt = joined(jnp.ones_like(exists), jnp.zeros_like(windows.extras.live))
    return types.Rollout(
        jax.tree.map(joined, ts, windows.ts),
        joined(shown.action, windows.action),
        extras._replace(prompt=is_prompt),
        (),
    )


def _masks(masks: Any, read: Callable[[Array], Array], shape: tuple[int, ...]) -> Array:
    if masks.shape[:2] != (1, 1):
        return read(masks)
    every = (shape[0] - 1, shape[1], masks.shape[2])
    return jnp.broadcast_to(masks[0], every)


def _fields(data: Histories) -> dict[str, Any]:
    """Returns the fields that windows always read, by name."""
    names = ("obs", "action", "reward", "discount", "first", "last")
    recorded = dict(data.recorded)
    return {name: getattr(data, name) for name in names} | {"recorded": recorded}
