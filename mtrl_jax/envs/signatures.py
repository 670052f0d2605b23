"""What the functions of an environment take, checked before one of them is called."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

# By a PureTask's field.
OF_A_TASK = {
    "reset": ("key", "params"),
    "step": ("key", "state", "action", "params"),
    "action_mask": ("state", "params"),
    "info": ("state", "params"),
    "render": ("state", "params"),
    "wants_renewal": ("state",),
    "renew": ("state", "begun", "params"),
    "observe": ("state", "params"),
    "deal": ("slot_key", "episode_key", "params"),
    "check": ("params",),
}


class SignatureError(ValueError):
    """A function that cannot be called as it will be; names it and what to give it."""


def check_task(functions: Mapping[str, Any]) -> None:
    """Raises SignatureError unless a task's functions, by their fields, fit.

    All but ``reset`` and ``step`` may be None; other fields are not looked at.
    """
    for name, arguments in OF_A_TASK.items():
        if name in ("reset", "step") or functions.get(name) is not None:
            check(name, functions.get(name), arguments)


def check(name: str, function: Any, arguments: tuple[str, ...]) -> None:
    """Raises SignatureError unless ``function`` takes ``arguments`` by their order."""
    wanted = f"({', '.join(arguments)})"
    if not callable(function):
        raise SignatureError(f"{name} must be a function of {wanted}")
    try:
        signature = inspect.signature(function)
    except ValueError:
        return  # Of a builtin: nothing is known.
    try:
        signature.bind(*arguments)
    except TypeError:
        raise SignatureError(f"{name} takes {signature}, give it {wanted}") from None
