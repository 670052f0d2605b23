"""What environments from outside the package must be; own ones have tests for it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from mtrl_jax import errors, plugins, types
from mtrl_jax.envs import core, dtypes, signatures

_OFFERED = {
    "names": (),
    "task": ("name", "options"),
    "make": ("name", "batch", "options", "seed"),
    "make_host": ("name", "batch", "options", "seed", "first_slot"),
}
# What a family may offer as well.
_OPTIONAL = {
    "tasks_of": ("name", "options"),
    "optimal_action_in": ("name", "options"),
    "describe": ("name", "batch", "options", "seed"),
}


def check(module: Any) -> None:
    """Raises ValueError unless a module offers what a family of environments must."""
    # An agent may be in the same file, and has a ``make``.
    is_pooled = hasattr(module, "make_host") and not hasattr(module, "task")
    needed = ("names", "make", "make_host") if is_pooled else ("names", "task")
    absent = [name for name in needed if not hasattr(module, name)]
    if absent:
        raise ValueError(
            f"env: {module.__name__} offers no {' and no '.join(absent)}; an "
            "environment's file offers names() and task(name, options)"
        )
    wanted = {name: _OFFERED[name] for name in needed} | _OPTIONAL
    for name, arguments in wanted.items():
        if hasattr(module, name):
            where = f"env: {module.__name__}.{name}"
            signatures.check(where, getattr(module, name), arguments)


def checked(module: Any) -> Callable[[str, Mapping[str, Any]], core.PureTask]:
    """Returns the module's ``task``, whose tasks are traced once before they are used.

    It raises ValueError where a name, an option or the task's functions cannot be.
    """

    def make(name: str, options: Mapping[str, Any]) -> core.PureTask:
        where = f"env: {module.__name__}/{name}"
        known = list(module.names())
        if name not in known:
            family = f"{module.__name__.rpartition('.')[2]}/"
            prefixed = [x for x in known if str(x).startswith(family)]
            if prefixed:
                raise ValueError(
                    f"{where}: names() has {prefixed[0]}; give names without {family}"
                )
            raise ValueError(
                f"{where} is unknown; {module.__name__} has "
                f"{', '.join(map(str, known)) or 'none'}"
            )
        try:
            task = _tried(f"{where}: task", lambda: module.task(name, options))
        except signatures.SignatureError as error:
            raise ValueError(f"{where}: {error}") from None
        if not isinstance(task, core.PureTask):
            raise ValueError(
                f"{where}: task returned a {type(task).__name__}, give a core.PureTask"
            )
        check_task(where, task)
        return task

    return make


def with_errors_named(where: str, env: types.HostEnv) -> types.HostEnv:
    """Returns the HostEnv whose errors are RunErrors of one line, beginning with ``where``."""

    def one_line(name: str) -> Callable:
        function = getattr(env, name)

        @functools.wraps(function)
        def call(*args: Any) -> Any:
            try:
                return function(*args)
            except errors.MtrlError:
                raise
            except Exception as error:
                raise errors.RunError(
                    f"{where}: {name}: {plugins.reason(error)}; what is saved of the run "
                    "is kept, mend it and go on with `mtrl resume`"
                ) from error

        return call

    names = ("reset", "send", "recv", "close", "info", "render", "restart")
    wrapped: dict[str, Any] = {
        name: one_line(name) for name in names if getattr(env, name)
    }
    return env._replace(**wrapped)


def check_task(where: str, task: core.PureTask) -> None:
    """Raises ValueError, beginning with ``where``, unless the functions fit the contract."""
    try:
        signatures.check_task(task._asdict())
    except signatures.SignatureError as error:
        raise ValueError(f"{where}: {error}") from None
    key, params = jax.random.key(0), dtypes.as_arrays(task.params)
    action = types.action_shape(task.spec.action)

    def shapes(name: str, number: int, *args: Any) -> Any:
        found = _tried(
            f"{where}: {name}",
            lambda: jax.eval_shape(getattr(task, name), *args),
        )
        if not isinstance(found, tuple) or len(found) != number:
            what = f"{len(found)} values" if isinstance(found, tuple) else "one value"
            raise ValueError(f"{where}: {name} returned {what}, give {number}")
        return found

    state, _ = shapes("reset", 2, key, params)
    after = shapes("step", 5, key, state, action, params)
    for name, x in zip(("reward", "terminated", "truncated"), after[2:]):
        if getattr(x, "shape", None) != ():
            raise ValueError(f"{where}: step's {name} must be one number, has {x}")
    _tried(where, lambda: dtypes.fixed(task))
    info = task.info
    if info is not None:
        measures = _tried(f"{where}: info", lambda: jax.eval_shape(info, state, params))
        _tried(where, lambda: errors.check_measures(measures))


def _tried(what: str, call: Callable[[], Any]) -> Any:
    """Returns what ``call`` does; its errors are those of a file that somebody wrote."""
    try:
        return call()
    except signatures.SignatureError:
        raise
    except plugins.CAUGHT as error:
        raise ValueError(f"{what}: {plugins.reason(error)}") from error
