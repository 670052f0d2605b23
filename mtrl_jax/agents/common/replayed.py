"""What UNREAL's replay draws, and what its auxiliary losses see of that.

Windows are for control and values, snippets for rewards. A window begins with an empty
memory; the network reads it once, whatever the number of losses.
"""

from __future__ import annotations

from typing import NamedTuple

from mtrl_jax import types
from mtrl_jax.data import replay_ring
from mtrl_jax.networks import actor_critic as networks
from mtrl_jax.types import Array, Tree

FRAMES = 3  # that a reward is predicted from


class Batch(NamedTuple):
    """What an update is given."""

    rollout: types.Rollout
    windows: replay_ring.Row  # [steps + 2, N, ...]; the first row tells what led here
    is_window: Array  # [N] bool
    snippets: replay_ring.Row  # [FRAMES + 2, M, ...], likewise; the last has the reward
    is_snippet: Array  # [M] bool


class Window(NamedTuple):
    """Replayed windows as the network sees them, S transitions."""

    ts: types.TimeStep  # [S + 1, N]
    previous: Array  # [S + 1, N] the action before each
    out: networks.PolicyValue  # [S + 1, N]
    action: Array  # [S, N]
    live: Array  # [S, N] bool


class Seen(NamedTuple):
    """What an auxiliary loss sees of a Batch."""

    params: Tree  # of the network
    window: Window
    snippets: replay_ring.Row
    is_snippet: Array
    before: Tree  # statistics of values, before the rollout and
    after: Tree  # after it


def see(
    network: networks.Network, params: Tree, before: Tree, after: Tree, batch: Batch
) -> Seen:
    """Returns what the auxiliary losses see of a batch."""
    ts, previous = replay_ring.time_steps(batch.windows)
    empty = network.initial_state(len(batch.is_window))
    out, _ = network.unroll(params, empty, ts, previous)
    live = ~ts.first[1:] & batch.is_window[None]
    window = Window(ts, previous, out, batch.windows.action[1:-1], live)
    return Seen(params, window, batch.snippets, batch.is_snippet, before, after)
