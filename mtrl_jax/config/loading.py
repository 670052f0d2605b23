"""A run's settings: read from YAML, overridden by dotted names, checked, written back.

Every mistake is one line that says where, what was given and what would work. The checks
that need the environments (action spaces that do not mix) are made when they are built,
also before anything is written.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import pydantic
import yaml

from mtrl_jax import errors
from mtrl_jax.config import completion, modules, schema, strict


def load(path: pathlib.Path, overrides: Sequence[str] = ()) -> Any:
    """Returns the checked settings of a YAML file with ``key=value`` overrides applied.

    Agents and environments may come from files beside it, see ``modules``. An
    ExperimentConfig or, of an experiment in stages, a ``stage_schema.Staged``.

    Raises:
      ConfigError: the file cannot be read, or a setting cannot work.
    """
    values = modules.placed(override(read_yaml(path), overrides), path.parent)
    return from_dict(values, where=str(path))


def from_dict(values: dict, where: str = "config") -> Any:
    """Returns the checked settings; agent config and hparams filled with defaults.

    An ExperimentConfig; of values with ``stages`` a ``stage_schema.Staged``, of values of
    another ``kind`` than online, or with ``init_from``, the stage that they are.

    Raises:
      ConfigError: naming ``where``, the field, what was given and what would work.
    """
    is_plain = values.get("kind", "online") == "online" and "init_from" not in values
    if "stages" in values or not is_plain:
        from mtrl_jax.config import stage_lists

        return stage_lists.from_dict(values, where)
    try:
        config = schema.ExperimentConfig.model_validate(values)
    except pydantic.ValidationError as error:
        raise errors.ConfigError(
            f"{where}: {strict.explain(error, schema.ExperimentConfig)}"
        ) from None
    try:
        completion.check_numbers(values, config)
        config = completion.complete(config)
        completion.check_numbers(values, config)
    except ValueError as error:
        raise errors.ConfigError(f"{where}: {error}") from None
    return config


def dump(config: Any) -> str:
    """Returns the YAML of the resolved settings; loading it gives them back."""
    return yaml.dump(to_dict(config), Dumper=_Dumper, sort_keys=False)


def to_dict(config: Any) -> dict:
    """Returns the settings as plain dicts, lists and numbers."""
    return config.model_dump(mode="json")


def read_yaml(path: pathlib.Path) -> dict:
    """Returns the mapping in a YAML file; ``1e-3`` is a number.

    Raises:
      ConfigError: no such file, not readable, not YAML, or no mapping.
    """
    try:
        # Copied: an alias within what it names has no end.
        values = _copied(yaml.load(path.read_text(encoding="utf-8"), _Loader))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise errors.ConfigError(f"{path}: cannot be read: {reason}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or "unreadable"
        raise errors.ConfigError(f"{path}: not valid YAML{line}: {what}") from None
    except (RecursionError, ValueError) as error:  # Too deep; too many digits.
        what = str(error).splitlines()[0] if isinstance(error, ValueError) else "nested"
        raise errors.ConfigError(f"{path}: not valid YAML: {what}") from None
    if not isinstance(values, dict):
        raise errors.ConfigError(
            f"{path}: a mapping is needed, got {type(values).__name__}"
        )
    return values


def override(values: dict, overrides: Iterable[str]) -> dict:
    """Returns ``values`` with each dotted ``key=value`` set; list items by number.

    Raises:
      ConfigError: an override without ``=``, or a path through something that is no
        section.
    """
    values = _copied(values)
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise errors.ConfigError(f"override {item!r}: write key=value")
        try:
            value = _copied(yaml.load(text, _Loader))
        except (yaml.YAMLError, RecursionError, ValueError):
            raise errors.ConfigError(
                f"override {item!r}: the value is not YAML"
            ) from None
        _set(values, key.split("."), value, item)
    return values


def _set(values: Any, path: list[str], value: Any, item: str) -> None:
    for here, part in enumerate(path):
        last = here == len(path) - 1
        if isinstance(values, list):
            if not part.isdecimal() or int(part) >= len(values):
                raise errors.ConfigError(
                    f"override {item!r}: {part!r} is no index below {len(values)}"
                )
            key: Any = int(part)
        elif isinstance(values, dict):
            key = part
            if not last and values.get(key) is None:
                values[key] = {}
        else:
            raise errors.ConfigError(
                f"override {item!r}: {path[here - 1]!r} has no parts"
            )
        if last:
            values[key] = value
        else:
            values = values[key]


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _copied(v) for k, v in value.items()}
    return [_copied(v) for v in value] if isinstance(value, list) else value


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars, and 1_000: 1e-3 is a float, 010 is ten, 1:30, no and 2001-1-1
    are text. PyYAML's are those of 1.1.

    A key given twice is an error: PyYAML would drop the first without a word.
    """

    yaml_implicit_resolvers: ClassVar[dict] = {}  # type: ignore[misc]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Returns the mapping; raises ConstructorError for a key that is there twice."""
        seen = set()
        for key, _ in node.value:
            name = (key.tag, key.value if isinstance(key, yaml.ScalarNode) else id(key))
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} is given twice", key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Returns the integer; in 0o17 and 0x1f the base is named, in 017 it is ten."""
        text = node.value.replace("_", "")
        return int(text, 0 if re.match("[-+]?0[ox]", text) else 10)


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or ``_Loader`` takes for a number, such as a name 1e-4."""


_NUMBER = list("-+.0123456789")
_SCALARS = [
    ("bool", "true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(\d[\d_]*|0o[0-7][0-7_]*|0x[\da-fA-F][\da-fA-F_]*)", _NUMBER),
    (
        "float",
        r"[-+]?((\d[\d_]*\.[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+"
        r"|\.(inf|Inf|INF))|\.(nan|NaN|NAN)",
        _NUMBER,
    ),
    ("merge", "<<", ["<"]),
]
for _tag, _pattern, _begins in _SCALARS:
    for _each in (_Loader, _Dumper):
        _each.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _begins
        )
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
