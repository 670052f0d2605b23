"""Levels that stand for many tasks: where in an open room the things lie.

The pool of rooms_watermaze has one hidden platform, and a task is where; of
dark_key_to_door_3d it is where key and door are. The room and its looks are always the
same, so that who has learned to swim to one place knows its way about the others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from mtrl_jax.envs import task_splits
from mtrl_jax.envs.labyrinth import level_params, world

OPTIONS = ("task", *task_splits.Split._fields)
_MOST = len(world.Params().places)


def among(params: world.Params, options: Mapping[str, Any]) -> np.ndarray:
    """Returns ``Params.places`` of every task of a split, int32 [N, 2, 2].

    A task is a cell (row, column) for each thing, in the order of ``counts``; both may
    have the same one (key and door in 49 tasks of 2401). The split is as
    ``task_splits.split_of`` says. Raises ValueError for a level in which that is not all
    there is to know: several rooms, another map each episode, bots, many things, or
    places that are given.
    """
    things = int(np.sum(params.counts))
    given = next((name for name in OPTIONS if name in options), "tasks")
    for name, value, wanted, works in (
        ("rooms", int(params.rooms), params.rooms == 1, "1"),
        ("maze_seed", int(params.maze_seed), params.maze_seed >= 0, "a seed"),
        ("bots", int(params.bots), params.bots == 0, "0"),
        ("counts", things, 1 <= things <= _MOST, f"1 to {_MOST} things"),
        ("places", "cells", (np.asarray(params.places) < 0).all(), "none"),
    ):
        if not wanted:
            raise ValueError(
                f"options.{given}: tasks are places in one open room that stays; {name} is "
                f"{value}, give {works}"
            )
    return _among(
        int(params.pitch), bool(params.round), things, task_splits.split_of(options)
    )


def check(params: world.Params, given: world.Params) -> None:
    """Raises ValueError unless things are dealt among the same cells as with ``given``."""
    for name in ("rooms", "pitch", "round", "counts"):
        own, dealt = (np.asarray(getattr(x, name)).tolist() for x in (params, given))
        if own != dealt:
            raise ValueError(
                f"options.{name}: got {own}, the tasks are places in a room with "
                f"{name}={dealt}; give the same"
            )


def dealer(
    params: world.Params, options: Mapping[str, Any]
) -> Callable[..., world.Params]:
    """Returns PureTask.deal, the same function where tasks deal alike; raises as among."""
    among(params, options)
    things, split = int(np.sum(params.counts)), task_splits.split_of(options)
    return _dealer(
        int(params.pitch),
        bool(params.round),
        things,
        split,
        task_splits.how_of(options),
    )


@functools.cache
def _among(
    pitch: int, round_: bool, things: int, split: task_splits.Split
) -> np.ndarray:
    cells = level_params.open_cells(pitch, round_)
    chosen = task_splits.indices(split, len(cells) ** things)
    index = np.unravel_index(chosen, (len(cells),) * things)
    found = np.full((len(chosen), _MOST, 2), -1, np.int32)
    found[:, :things] = np.stack([cells[i] for i in index], axis=1)
    return found


@functools.cache
def _dealer(
    pitch: int, round_: bool, things: int, split: task_splits.Split, how: str
) -> Callable[..., world.Params]:
    draw = task_splits.one_of(_among(pitch, round_, things, split))

    def deal(slot_key, episode_key, params):
        key = slot_key if how == "slot" else episode_key
        return params._replace(places=jnp.asarray(draw(key)))

    return deal
