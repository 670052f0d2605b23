"""What an agent's settings are, read off its classes: name, default, type, meaning.

What a field means is the comment beside it, or the lines of comment above it.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import inspect
import io
import json
import sys
import tokenize
import types
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

from mtrl_jax import agents, hparams
from mtrl_jax.config import strict


class Setting(NamedTuple):
    """One setting of an agent, as text."""

    path: str  # agent.config.epochs
    default: str  # as YAML has it, short of lists of mappings; "" of what has none
    takes: str  # its type, or its bounds
    meaning: str


def of(name: str) -> list[Setting]:
    """Returns the settings of an agent, those of its config first.

    Raises:
      ValueError: there is no such agent.
    """
    module = agents.get(name)
    config = _of_section(module.Config, "agent.config", None, {})
    return [*config, *_of_hparams(module)]


def _of_section(
    cls: Any, path: str, given: Any, seen: dict[type, tuple[str, Any]]
) -> Iterator[Setting]:
    """Yields the settings of a dataclass; ``given`` has its defaults, or is None.

    ``seen`` are path and defaults of the sections so far: one that is there again with
    no other defaults is not spelled out a second time.
    """
    first, defaults = seen.setdefault(cls, (path, given))
    if first != path and given in (None, defaults):
        yield Setting(f"{path}.*", "", "", f"as {first}.*")
        return
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        own, hint = f"{path}.{field.name}", hints[field.name]
        value = _default(field) if given is None else getattr(given, field.name)
        section = strict.section_of(hint)
        if section is not None and dataclasses.is_dataclass(value):
            yield from _of_section(type(value), own, value, seen)
            continue
        yield Setting(own, _text(value), _type(hint), _meaning(cls, field.name))
        if section is not None:
            each = own if value is None else f"{own}.N"
            yield from _of_section(section, each, None, seen)


def _of_hparams(module: Any) -> Iterator[Setting]:
    bounds, idle = hparams.bounds(module.Hparams), {}
    with contextlib.suppress(TypeError):  # A config of which something has to be given.
        idle = module.INFO.idle(module.Config())
    for name, default, meaning in _leaves(module.Hparams()):
        if name in idle:
            needs = f"read with agent.config.{idle[name].needs}"
            meaning = f"{meaning}; {needs}" if meaning else needs
        takes = hparams.in_words(bounds[name])
        yield Setting(f"agent.hparams.{name}", _text(default), takes, meaning)


def _leaves(group: Any) -> Iterator[tuple[str, Any, str]]:
    """Yields (name, default, meaning) of the hyperparameters of a group."""
    for name, value in zip(group._fields, group):
        if hasattr(value, "_fields"):
            yield from _leaves(value)
        else:
            yield name, value, _meaning(type(group), name)


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _text(value: Any) -> str:
    """Returns a default as it may be written in a config."""
    if value is dataclasses.MISSING:
        return ""
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    if isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):
        return f"{len(value)} mappings"
    value = strict.plain(value)
    return value if isinstance(value, str) and value else json.dumps(value)


def _type(hint: Any) -> str:
    """Returns a type as people who write YAML may call it.

    >>> _type(tuple[int, ...]), _type(str | None)
    ('list[int]', 'str | null')
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    inner = list(dict.fromkeys(_type(x) for x in args if x is not ...))
    if hint is type(None):
        return "null"
    if dataclasses.is_dataclass(hint):
        return "mapping"
    if origin in (typing.Union, types.UnionType):
        return " | ".join(inner)
    if origin in (tuple, list):
        return f"list[{', '.join(inner)}]"
    return getattr(hint, "__name__", str(hint))


def _meaning(cls: type, field: str) -> str:
    """Returns the comment of a field, in one line; "" where there is none."""
    for base in cls.__mro__:
        found = _comments(base.__module__, base.__name__)
        if field in found:
            return found[field]
    return ""


@functools.cache
def _comments(module: str, name: str) -> dict[str, str]:
    """Returns {field: its comment} of a class of a module, {} without its source."""
    try:
        source = inspect.getsource(sys.modules[module])
    except (KeyError, OSError, TypeError):
        return {}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    said = {x.start[0]: x for x in tokens if x.type == tokenize.COMMENT}
    alone = {n for n, x in said.items() if x.line.strip() == x.string}
    found = {}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ClassDef) or node.name != name:
            continue
        for line in node.body:
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                first = line.lineno
                while first - 1 in alone:
                    first -= 1
                rows = [line.end_lineno] if line.end_lineno in said else []
                rows = rows or list(range(first, line.lineno))
                text = " ".join(said[n].string.lstrip("# ") for n in rows if n)
                found[line.target.id] = text
    return {field: text for field, text in found.items() if text}
