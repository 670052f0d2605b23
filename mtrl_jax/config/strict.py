"""Plain values to classes and back, strictly; what is wrong with them in one line."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Sequence
from typing import Any

import pydantic

from mtrl_jax import errors

_MOST = 2**31 - 1  # sizes are counted in int32
# Fields that had another name -> what they are called now.
RENAMED = {"precision": "dtype"}
# What pydantic calls a type -> what would do.
_WANTED = dict.fromkeys(("dataclass", "dict", "model"), "a mapping of names to values")
_WANTED |= {"bool": "true or false", "float": "a number", "int": "an integer"}
_WANTED |= {"list": "a list", "string": "a string", "tuple": "a list"}


def build(cls: type, values: dict, path: str):
    """Returns the frozen dataclass ``cls`` from plain values; ``path`` is its name.

    Raises:
      ValueError: naming the first field that is unknown or of the wrong type.
    """
    _known_fields(cls, values, path)
    for name, value in flat(values).items():
        if isinstance(value, int) and abs(value) > _MOST:
            raise ValueError(f"{path}.{name}: got {value!r}, give at most {_MOST}")
    try:
        return pydantic.TypeAdapter(cls).validate_python(values)
    except pydantic.ValidationError as error:
        raise ValueError(f"{path}.{explain(error, None)}") from None


def plain(value: Any) -> Any:
    """Returns dataclasses and tuples as what YAML can hold."""
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return {f.name: plain(getattr(value, f.name)) for f in fields}
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in value]
    return value


def explain(error: pydantic.ValidationError, model: type | None) -> str:
    """Returns one line for the first of pydantic's errors, of a union for all of it."""
    found = [(_path(x["loc"]), x) for x in error.errors()]
    path, first = found[0]
    # A union has an error for each of its types: of one that fits best there is the more
    # to say the deeper it lies.
    union = [x for x in found if x[0].startswith(f"{path}.") and _is_tagged(first)]
    path, first = max(union, key=lambda x: len(x[1]["loc"]), default=found[0])
    others = {x for x, _ in found if not (x + ".").startswith(f"{found[0][0]}.")}
    rest = f" (and {len(others)} more)" if others else ""
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        allowed = _fields_at(model, first["loc"][:-1])
        hint = errors.suggest(str(first["loc"][-1]), allowed)
        return f"{path} is unknown{hint}{rest}"
    if first["type"] == "missing":
        *parts, last = first["loc"]
        if isinstance(last, int):  # of a tuple, and all after it
            return (
                f"{_path(parts)}={first['input']!r}: must be a list of {last + 1}{rest}"
            )
        return f"{path} is missing{rest}"
    given = first["input"]
    shown = "" if isinstance(given, dict) else f"={given!r}"
    message = " or ".join(dict.fromkeys(_said(x) for at, x in found if at == path))
    # A class that checks its own fields begins with the one it means.
    own = re.match(r"\w+(?==| is missing)", message)
    if shown == "" and own and own[0] in _fields_at(model, first["loc"]):
        return f"{path}.{message}{rest}"
    wants = first["msg"].startswith("Input should be")
    return f"{path}{shown}: {'must be ' if wants else ''}{message}{rest}"


def _path(loc: Sequence[int | str]) -> str:
    """Returns an error's location without pydantic's names for the types of a union."""
    return ".".join(str(part) for part in loc if not _is_type(part))


def _is_type(part: int | str) -> bool:
    return "[" in str(part) or part in ("bool", "float", "int", "str")


def _is_tagged(error: Any) -> bool:
    return any(map(_is_type, error["loc"]))


def _said(error: Any) -> str:
    """Returns pydantic's message, or the kit's for it, without what it begins with."""
    kind, _, what = error["type"].partition("_")
    if kind in _WANTED and what in ("type", "parsing", "from_float"):
        return _WANTED[kind]
    limits = error.get("ctx", {})
    if error["type"] == "too_short":
        return f"give at least {limits['min_length']}"
    if error["type"] == "too_long":  # Tuples alone have a longest.
        return f"must be a list of {limits['max_length']}"
    return re.sub("^(Value error, |Input should be )", "", error["msg"])


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Returns {dotted name: value} of nested mappings and lists; empty ones as they are."""
    if not isinstance(value, (dict, list)) or not value:
        return {prefix: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found: dict[str, Any] = {}
    for key, inner in items:
        found |= flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return found


def section_of(hint: Any) -> type | None:
    """Returns the dataclass inside a type: X, X | None, list[X]; None where there is none."""
    inner = _inner(hint)
    return inner if dataclasses.is_dataclass(inner) else None  # type: ignore[return-value]


def _known_fields(cls: type, values: dict, path: str) -> None:
    fields = {f.name for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for name, value in values.items():
        if name not in fields:
            if RENAMED.get(name) in fields:
                raise errors.RenamedError(f"{path}.{name} is now {RENAMED[name]}")
            hint = errors.suggest(name, sorted(fields))
            raise ValueError(f"{path}.{name} is unknown{hint}")
        section = section_of(hints[name])
        if section is None:
            continue
        several = {f".{i}": x for i, x in enumerate(value)} if _is_list(value) else {}
        for place, own in (several or {"": value}).items():
            if isinstance(own, dict):
                _known_fields(section, own, f"{path}.{name}{place}")


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _fields_at(model: Any, loc: Sequence[int | str]) -> list[str]:
    """Returns the field names of the section that an error's location lies in."""
    for part in loc:
        if isinstance(part, int):
            continue
        hints = typing.get_type_hints(model)
        if part in hints:
            model = _inner(hints[part])
    return list(typing.get_type_hints(model)) if model is not None else []


def _inner(hint: Any) -> Any:
    """Returns the section type inside list[X], tuple[X, ...], dict[str, X] or X | None."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and args:
        return _inner(args[0])
    if origin in (list, dict):
        return _inner(args[-1])
    if origin in (typing.Union, types.UnionType):
        return _inner(next(a for a in args if a is not type(None)))
    return hint
