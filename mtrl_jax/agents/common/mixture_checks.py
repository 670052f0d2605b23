"""Which settings of Mix&Match go together."""

from __future__ import annotations

import itertools
import math
from typing import Any

from mtrl_jax import types
from mtrl_jax.agents.common import mixture_control
from mtrl_jax.networks import components, subsets

_MOST_ACTIONS = 10_000


def check(config: Any, spec: types.EnvSpec) -> None:
    """Raises ValueError unless ``mix_and_match.Config`` can be, for actions of ``spec``."""
    for field, known in (
        ("control", mixture_control.CONTROLS),
        ("matching", mixture_control.MATCHINGS),
    ):
        if getattr(config, field) not in known:
            raise ValueError(
                f"{field}: {getattr(config, field)!r} is not known, use one of {known}"
            )
    if not isinstance(spec.action, types.Box):
        joint = math.prod(subsets.sizes(spec.action))
        if joint > _MOST_ACTIONS:
            raise ValueError(
                f"tasks: {joint} joint actions; Mix&Match enumerates them for entropies, "
                f"at most {_MOST_ACTIONS}"
            )
    if config.own_values:
        _check_own_values(config)
    if config.experts:
        what = "experts: an expert is of each of several tasks"
        types.check_several_tasks(spec, what, "experts false")
    if config.experts and len(config.components) != 2:
        raise ValueError(
            f"experts: with {len(config.components)} components; give two, the expert "
            "of a task and what all are matched to"
        )
    if config.experts and config.control == "slot":
        raise ValueError("experts: does not go with control 'slot', use 'mixture'")
    if config.experts and set(config.share) >= {"core", "policy"}:
        raise ValueError(
            "share: experts that share core and policy are one policy; leave one out"
        )


def check_nested(parts: tuple[components.Part, ...], matching: str) -> None:
    """Raises ValueError unless each component can do all that the one before it can.

    And no more than that where the ``matching`` is reversed: KL(π_2 ‖ π_1) is infinite
    where π_2 does what π_1 cannot.
    """
    for i, (easy, hard) in enumerate(itertools.pairwise(parts)):
        small, large = _actions(easy), _actions(hard)
        if large is not None and (small is None or not small <= large):
            raise ValueError(
                f"components.{i + 1}.actions: the component before it has actions that "
                "this one has not; order them from few actions to many"
            )
        if matching == "reversed" and small != large:
            raise ValueError(
                f"matching: 'reversed' is infinite where components.{i + 1} does what "
                "the component before it cannot; use 'adjacent', or give all components "
                "the same actions"
            )


def _actions(part: components.Part) -> set[tuple[int, ...]] | None:
    """Returns the joint actions of a component; None: all there are."""
    return None if part.rows is None else set(map(tuple, part.rows.tolist()))


def _check_own_values(config: Any) -> None:
    """Raises ValueError unless values that are not mixed are something else."""
    if len(config.components) == 1 or config.control == "slot":
        needed = "components of two or more, and a control that mixes them or draws one"
        raise ValueError(f"own_values: there is nothing to mix; it needs {needed}")
    if config.value_scale != "none":
        raise ValueError(
            f"own_values: does not go with value_scale {config.value_scale!r}, which has "
            "one scale for all components; use 'none'"
        )
