"""What each family of envpool needs: options, observations, success, refusals.

A family is a row of ``FAMILIES``: the kit's own options with their defaults, how they
become settings of the pool, which observation leaves are images, and where success is
reported. Everything else about a task is read from the pool's own specification.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from mtrl_jax import errors

Options = dict[str, Any]


class Family(NamedTuple):
    """How tasks of one family are made; the defaults are its standard protocol."""

    options: Options  # the kit's options of this family and their defaults
    settings: Callable[[Options], Options] = lambda options: {}
    open: bool = True  # the pool's own settings are options too
    channels_first: bool = False
    success: str | None = None  # state leaf whose maximum over the episode is success
    only: frozenset[str] | None = None  # the tasks that can be used; None for all
    without: frozenset[str] = frozenset()  # tasks that cannot
    why: str = ""  # why they cannot


# Options of every family. Threads: 0 is one per core that the process may use (see
# xla.cores), at most one per environment.
COMMON: Options = {"max_steps": None, "num_threads": 0}

# Machado et al. 2018 (arXiv:1709.06009) against Mnih et al. 2015: what randomises Atari.
PROTOCOLS: dict[str, Options] = {
    "sticky": {
        "sticky_actions": 0.25,
        "full_action_space": True,
        "noop_max": 1,
        "fire_reset": False,
    },
    "noop": {
        "sticky_actions": 0.0,
        "full_action_space": False,
        "noop_max": 30,
        "fire_reset": False,
    },
}


def _atari(options: Options) -> Options:
    if options["colour"] not in ("grey", "rgb"):
        raise ValueError(f"colour: {options['colour']!r} is not one of 'grey', 'rgb'")
    if not 0.0 <= options["sticky_actions"] < 1.0:
        raise ValueError(
            f"sticky_actions: {options['sticky_actions']} is not in [0, 1)"
        )
    return {
        "repeat_action_probability": float(options["sticky_actions"]),
        "full_action_space": options["full_action_space"],
        "noop_max": options["noop_max"],
        "use_fire_reset": options["fire_reset"],
        "max_episode_steps": -(-options["max_frames"] // options["frame_skip"]),
        "frame_skip": options["frame_skip"],
        "img_height": options["size"],
        "img_width": options["size"],
        "stack_num": options["stack"],
        "gray_scale": options["colour"] == "grey",
        "mode": options["mode"],
        "difficulty": options["difficulty"],
        # Life loss is derived from info (see envpool_steps): the pool's own episodic
        # life replays no-ops at every life and drops their rewards.
        "episodic_life": False,
        "reward_clip": False,
    }


_VIZDOOM = frozenset(
    f"{name}-v1"
    for name in (
        "D1Basic",
        "D2Navigation",
        "D3Battle",
        "D4Battle2",
        "DeadlyCorridor",
        "Deathmatch",
        "DefendTheCenter",
        "DefendTheLine",
        "HealthGathering",
        "HealthGatheringSupreme",
    )
)

FAMILIES: dict[str, Family] = {
    "atari": Family(
        options={
            "protocol": "sticky",
            **PROTOCOLS["sticky"],
            "life_loss": False,
            "max_frames": 108_000,
            "frame_skip": 4,
            "size": 84,
            "stack": 4,
            "colour": "grey",
            "mode": -1,
            "difficulty": -1,
        },
        settings=_atari,
        open=False,
        channels_first=True,
    ),
    "classic_control": Family({}),
    "box2d": Family({}),
    "toy_text": Family({}),
    "minigrid": Family({"mission": True}),
    "dmc": Family({}),
    "gym": Family({}),
    # The single-task setting shows the goal; hidden goals are the meta-learning one.
    "metaworld": Family({"partially_observable": False}, success="info:success"),
    "robotics": Family({}, success="info:is_success"),
    "playground": Family({}),
    "myosuite": Family({}, success="info:solved"),
    "highway": Family(
        {},
        without=frozenset(
            {
                "IntersectionMultiAgent-v0",
                "IntersectionMultiAgent-v1",
                "intersection-multi-agent-v0",
                "intersection-multi-agent-v1",
            }
        ),
        why="it has several agents in one environment",
    ),
    "gfootball": Family({}),
    "procgen": Family({}, channels_first=True),
    "vizdoom": Family(
        {"use_combined_action": True},
        channels_first=True,
        only=_VIZDOOM,
        why="envpool crashes on it, or drops the reward that the task is about",
    ),
}

# Settings of a pool that are not a user's choice.
_RESERVED = frozenset(
    {
        "num_envs",
        "batch_size",
        "max_num_players",
        "thread_affinity_offset",
        "base_path",
        "seed",
        "env_seed",
        "gym_reset_return_info",
        "task",
        "task_name",
        "env_name",
        "max_episode_steps",
        "num_threads",
        "frame_stack",
        "episodic_life",
        # Programs and files of the machine: a config is data.
        "cfg_path",
        "wad_path",
        "vzd_path",
        "iwad_path",
        "game_args",
        "lmp_save_dir",
    }
)
# Where a number beyond would end the process, or take all memory.
_BOUNDS: dict[str, tuple[int, int]] = {
    "max_steps": (1, 2**31 - 2),
    "num_threads": (0, 1024),
    "noop_max": (1, 10_000),
    "frame_skip": (1, 1_000),
    "size": (1, 512),
    "stack": (1, 64),
    "max_frames": (1, 2**31 - 2),
    "img_height": (1, 512),
    "img_width": (1, 512),
    "stack_num": (1, 64),
}
_INT = (-(2**31) + 1, 2**31 - 1)
# Of the kit's own options those that are not bounded above.
_UNBOUNDED = frozenset({"mode", "difficulty"})


def resolve(
    owner: str, family: Family, given: Options, pool_defaults: Options
) -> Options:
    """Returns every option of a task with its value: defaults overlaid by ``given``.

    For Atari, ``protocol`` chooses the defaults of the four options that randomise a
    game. Raises ValueError for an unknown option (with what is allowed and the nearest
    name) and for a value of another type than the default's.
    """
    defaults = {**COMMON, **family.options}
    allowed = dict(defaults)
    if family.open:
        hidden = _RESERVED | set(defaults)
        allowed |= {k: v for k, v in pool_defaults.items() if k not in hidden}
    errors.check_options(owner, given, sorted(allowed))
    for field, value in given.items():
        _check_type(field, value, allowed[field])
        _check_value(field, value)
    if "protocol" in defaults:
        protocol = given.get("protocol", defaults["protocol"])
        errors.check("protocol", protocol, PROTOCOLS)
        defaults |= PROTOCOLS[protocol]
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    return {**defaults, **given}


def is_harmless(family: Family, given: Options) -> bool:
    """Returns whether options of any value that is in bounds work: the kit's own do.

    The pool's own settings may not, see envpool_trial.
    """
    return set(given) <= {*COMMON, *family.options} - _UNBOUNDED


def settings(family: Family, options: Options) -> Options:
    """Returns the keyword arguments of ``envpool.make`` that the options stand for."""
    own = set(COMMON) | {"mission"}
    if family.open:
        result = {k: v for k, v in options.items() if k not in own}
    else:
        result = family.settings(options)
    if options["max_steps"] is not None:
        result["max_episode_steps"] = options["max_steps"]
    return result


def _check_type(field: str, value: Any, default: Any) -> None:
    kinds: dict[type, tuple[type, ...]] = {float: (int, float)}
    wanted = kinds.get(type(default), (type(default),))
    if default is None:
        wanted = (int, type(None))
    right = isinstance(value, wanted)
    if isinstance(value, bool) and bool not in wanted:
        right = False
    if isinstance(default, tuple) and isinstance(value, list):
        right = True
    if not right:
        names = " or ".join("null" if k is type(None) else k.__name__ for k in wanted)
        raise ValueError(f"{field}: {value!r} is not of type {names}")


def _check_value(field: str, value: Any) -> None:
    """Raises ValueError unless the pool can hold a number, and a path stays in it."""
    if isinstance(value, list | tuple):
        for x in value:
            _check_value(field, x)
    elif isinstance(value, int) and not isinstance(value, bool):
        errors.integer(field, value, *_BOUNDS.get(field, _INT))
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{field}: got {value!r}, give a finite number")
    elif isinstance(value, str) and (value.startswith("/") or ".." in value):
        raise ValueError(f"{field}: got {value!r}, which is a path out of envpool")
