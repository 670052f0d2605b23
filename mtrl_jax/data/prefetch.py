"""Windows of histories that do not fit a device: read from their files, ahead of time.

The draws are those of ``windows.sample``, the reading is NumPy's, in a thread: while the
device learns from one batch the next ones come from disk.
"""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import types
from mtrl_jax.data import histories as histories_lib
from mtrl_jax.data import rows as rows_lib
from mtrl_jax.data import windows
from mtrl_jax.types import Array, Key

_END = object()


def batches(
    keys: Iterable[Key],
    data: histories_lib.Histories,
    kept: rows_lib.Kept,
    batch: int,
    length: int,
    *,
    ahead: int = 2,
) -> Iterator[types.Rollout]:
    """Yields, for each of ``keys``, the windows that ``windows.sample`` would give.

    A key, or an array of them [...] (of a population, of several updates), gives NumPy
    arrays ts [..., T + 1, B] and action [..., T, B], with ``windows.Extras`` and no
    carry. ``ahead`` batches are made before they are asked for. What goes wrong in the
    thread is raised here.
    """
    ready: queue.Queue = queue.Queue(max(ahead, 1))
    stopped = threading.Event()

    def offer(item: Any) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for key in keys:
                if not offer(gather(key, data, kept, batch, length)):
                    return
            offer(_END)
        except BaseException as error:
            offer(error)

    thread = threading.Thread(target=work, name="windows", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not _END:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()


def gather(
    key: Key,
    data: histories_lib.Histories,
    kept: rows_lib.Kept,
    batch: int,
    length: int,
) -> types.Rollout:
    """Returns one batch of windows for ``key`` [...]; see batches."""
    windows.check(kept)
    history, start = _draw(key, kept.counts, batch, length)

    def pick(x: np.ndarray, history: np.ndarray, place: np.ndarray) -> np.ndarray:
        return x[kept.history[history], kept.rows[history, place]]

    source: Any = windows.Data(
        *(data.obs, data.action, data.reward, data.discount, data.first, data.last),
        action_mask=windows.legal_masks(data),
        task=data.task[kept.history],
        counts=kept.counts,
    )
    return windows.assemble(np, source, pick, history, start, length)


def _draw(key: Key, counts: np.ndarray, batch: int, length: int) -> list[np.ndarray]:
    """Returns history and start, [..., B] of keys [...]."""
    drawn = _draw_flat(key.reshape(-1), jnp.asarray(counts), batch, length)
    return [np.asarray(x).reshape(*key.shape, batch) for x in drawn]


@functools.partial(jax.jit, static_argnums=(2, 3))
def _draw_flat(key: Key, counts: Array, batch: int, length: int) -> Any:
    return jax.vmap(lambda k: windows.draw(k, counts, batch, length))(key)
