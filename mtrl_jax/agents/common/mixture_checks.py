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


def check_nested(parts: tuple[components.Part, ...]) -> None:
    """Raises ValueError unless each component can do all that the one before it can."""
    for i, (easy, hard) in enumerate(itertools.pairwise(parts)):
        if hard.rows is None:
            continue
        inside = set(map(tuple, hard.rows.tolist()))
        if easy.rows is None or not set(map(tuple, easy.rows.tolist())) <= inside:
            raise ValueError(
                f"components.{i + 1}.actions: the component before it has actions that "
                "this one has not; order them from few actions to many"
            )
