"""Hyperparameters: groups of traced scalars that read as one flat list of names.

An agent's ``Hparams`` is a NamedTuple of scalars and of other such NamedTuples, the
groups that it has in common with other agents (the optimiser's, V-trace's):

    class Hparams(NamedTuple):
        optimiser: optimiser.Hparams = optimiser.Hparams(learning_rate=6e-4)
        alpha: Share = 0.0

Settings, searches, schedules and rows name a leaf alone ("learning_rate"); no two leaves
of one Hparams have the same name. A leaf's type says between which values it means
something, so bounds stand beside the field. Values are finite in float32, but where an
infinite bound says that infinity is "no limit".

A group that has its module's name needs ``from __future__ import annotations``.
"""

from __future__ import annotations

import collections
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.types import Scalar, Tree

LARGEST = float(np.finfo(np.float32).max)


class Bounds(NamedTuple):
    """The values that mean something; both ends count, an infinite one as "no limit"."""

    low: float
    high: float = LARGEST


Share = Annotated[Scalar, Bounds(0.0, 1.0)]
Amount = Annotated[Scalar, Bounds(0.0)]
Limit = Annotated[Scalar, Bounds(0.0, math.inf)]  # an amount; inf: no limit
Norm = Annotated[Scalar, Bounds(1e-30, math.inf)]  # a limit of what has to move
Divisor = Annotated[Scalar, Bounds(1e-30)]  # what is divided by: not 0
Real = Annotated[Scalar, Bounds(-LARGEST)]


def names(hparams: Tree) -> tuple[str, ...]:
    """Returns the leaves' names in order, of a tuple of values or of its class."""
    if isinstance(hparams, type):
        hparams = hparams()
    return tuple(name for name, _ in _leaves(hparams))


def flatten(hparams: Tree) -> dict[str, Any]:
    """Returns {name: value} of every leaf."""
    return dict(_leaves(hparams))


def override(hparams: Tree, values: Mapping[str, Any]) -> Tree:
    """Returns the hyperparameters with the leaves named in ``values`` set.

    A new value is broadcast to the shape and dtype of an array that it replaces, which
    sets it for all members.

    >>> class Group(typing.NamedTuple):
    ...     learning_rate: Amount = 1e-3
    >>> class Hparams(typing.NamedTuple):
    ...     group: Group = Group()
    ...     alpha: Share = 0.0
    >>> override(Hparams(), {"learning_rate": 0.5})
    Hparams(group=Group(learning_rate=0.5), alpha=0.0)

    Raises:
      KeyError: a name that is no leaf's.
    """
    unknown = set(values) - set(names(hparams))
    if unknown:
        raise KeyError(f"{sorted(unknown)} are none of {names(hparams)}")
    return _overridden(hparams, values)


def with_defaults(hparams: Any, **values: float) -> Any:
    """Returns a class with the fields of ``hparams`` and other defaults, by leaves' names.

    >>> class Hparams(typing.NamedTuple):
    ...     alpha: Share = 0.0
    >>> with_defaults(Hparams, alpha=0.5)()
    Hparams(alpha=0.5)

    Raises:
      KeyError: a name that is no leaf's.
    """
    return _made_of([hparams], override(hparams(), values))


def joined(hparams: Any, more: Any) -> Any:
    """Returns a class with the fields of ``hparams`` and, after them, those of ``more``.

    >>> class Hparams(typing.NamedTuple):
    ...     alpha: Share = 0.0
    >>> class Own(typing.NamedTuple):
    ...     own_cost: Amount = 0.1
    >>> joined(Hparams, Own)()
    Hparams(alpha=0.0, own_cost=0.1)

    Raises:
      ValueError: a name that both have.
    """
    both = sorted(set(names(hparams)) & set(names(more)))
    if both:
        raise ValueError(f"{both} are of both classes; give one of them other names")
    return _made_of([hparams, more], [*hparams(), *more()])


def bounds(hparams: type) -> dict[str, Bounds]:
    """Returns {name: Bounds} of every leaf of a class of hyperparameters.

    A field that says nothing of them takes any finite value, and its default.
    """
    found: dict[str, Bounds] = {}
    default = hparams()
    for field, hint in typing.get_type_hints(hparams, include_extras=True).items():
        if _is_group(getattr(default, field)):
            found |= bounds(type(getattr(default, field)))
        else:
            given = [x for x in getattr(hint, "__metadata__", ()) if type(x) is Bounds]
            own = getattr(default, field)
            ends = min(-LARGEST, own), max(LARGEST, own)
            found[field] = given[0] if given else Bounds(*ends)
    return found


def check_bounds(hparams: type, name: str, value: float) -> None:
    """Raises ValueError unless ``value`` is within the bounds of the leaf ``name``.

    The message goes on after the field's path.
    """
    allowed = bounds(hparams)[name]
    low, high = allowed
    is_no_limit = math.isinf(value) and value in allowed
    finite = max(low, -LARGEST), min(high, LARGEST)
    if math.isnan(value) or is_no_limit or finite[0] <= value <= finite[1]:
        return
    words = in_words(allowed) if high < LARGEST else f"at least {low:g}"
    if high >= LARGEST and value > low:
        words = f"finite in float32, at most {LARGEST:g}"
    words += ", or .inf for no limit" if high == math.inf else ""
    raise ValueError(f"={value:g}: must be {words}")


def in_words(allowed: Bounds) -> str:
    """Returns what a value within the bounds is: "from 0 to 1", "at least 0"."""
    low, high = allowed
    if high < LARGEST:
        return f"from {low:g} to {high:g}"
    return f"at least {low:g}" if low > -LARGEST else "any number"


def check_costs(given: Mapping[str, float], costs: Sequence[str]) -> None:
    """Raises ValueError unless one of the ``costs``, which weigh a loss, is not 0.

    Those that are not ``given`` are not.
    """
    if any(given.get(name, 1.0) for name in costs):
        return
    said = ", ".join(f"agent.hparams.{name}=0" for name in costs)
    raise ValueError(
        f"{said}: all costs are 0 and nothing is learned; give one of them, such as "
        f"agent.hparams.{costs[0]}=1"
    )


def _made_of(parts: Sequence[Any], defaults: Sequence[Any]) -> Any:
    """Returns a class with the fields of ``parts``, called as the first of them."""
    make: Any = collections.namedtuple
    fields = [field for part in parts for field in part._fields]
    named = {"defaults": defaults, "module": parts[0].__module__}
    made = make(parts[0].__name__, fields, **named)
    hints = [typing.get_type_hints(part, include_extras=True) for part in parts]
    made.__annotations__ = {name: x for each in hints for name, x in each.items()}
    return made


def _is_group(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")


def _leaves(hparams: Any) -> Iterator[tuple[str, Any]]:
    for field, value in zip(hparams._fields, hparams):
        if _is_group(value):
            yield from _leaves(value)
        else:
            yield field, value


def _overridden(hparams: Any, values: Mapping[str, Any]) -> Any:
    new = {}
    for field, value in zip(hparams._fields, hparams):
        if _is_group(value):
            new[field] = _overridden(value, values)
        elif field in values:
            new[field] = _like(value, values[field])
    return hparams._replace(**new)


def _like(old: Any, value: Any) -> Any:
    """Returns ``value`` in the shape and dtype of ``old`` where that is an array."""
    return jnp.full_like(old, value) if isinstance(old, jax.Array) else value
