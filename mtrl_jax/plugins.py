"""Modules from outside the package: named by an entry point, by Python, or in a file.

A setting that names an agent or a family of environments may name a module:

    NAME          of an entry point, else a module that Python finds (``lab.agents.sac``)
    NAME@FOLDER   a file in FOLDER: NAME.py, of ``a.b`` a/b.py

``place`` writes the first as the second where the file lies in the folder of a config. So
the settings of a run say where its code is, and a resumed run imports it from there.

A run's folder is data: no code is imported from one. A FOLDER is searched last, so that a
file in it hides nothing that is installed; a file that is hidden itself is an error.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import pathlib
import sys
import sysconfig
import traceback
import types
import warnings
from collections.abc import Collection

from mtrl_jax import errors

# What code from outside may raise; a script's end is not that of the process.
CAUGHT = (Exception, SystemExit)
# What a run's folder holds, see training/run_folder.py.
_OF_A_RUN = ("config.yaml", "checkpoints", "stages")


@functools.cache
def entry_points(group: str) -> dict[str, str]:
    """Returns {name: module} of what installed packages offer in ``group``."""
    found = importlib.metadata.entry_points(group=group)
    return {entry.name: entry.module for entry in found}


def place(name: str, folder: pathlib.Path) -> str:
    """Returns ``name`` with its folder if its module is a file in ``folder``.

    What follows a / in the name is no part of the module's. A folder in the name is made
    absolute, from ``folder`` on.
    """
    head, at, given = name.partition("@")
    if at:
        return f"{head}@{(folder / given).resolve()}"
    module = head.partition("/")[0]
    there = _file(module, folder) if _is_dotted(module) else None
    if there is None or _run_around(folder.resolve()) is not None:
        return name
    return f"{name}@{folder.resolve()}"


def is_elsewhere(was: str, now: str) -> bool:
    """Returns whether two names are the same but for the folder of the module."""
    return was.partition("@")[0] == now.partition("@")[0]


def load(field: str, name: str, group: str, known: Collection[str]) -> types.ModuleType:
    """Returns the module ``name``, imported now.

    ``known`` are the package's own names, to suggest where one is mistyped.

    Raises:
      ValueError: beginning with ``field``: there is no such module, or it does not import.
    """
    module, at, folder = name.partition("@")
    where = f"{field}={name!r}"
    is_module = _is_dotted(module)
    if is_module and module.endswith(".py") and not at:
        is_module = _origin(where, module) is not None
    if not is_module:
        own = module.partition(":")[0].rpartition("/")[2].removesuffix(".py")
        if own != module and _is_dotted(own):
            raise ValueError(
                f"{where} is unknown; a module is given by its name: {own}, with {own}.py "
                "beside the config or where Python finds it"
            )
        raise ValueError(f"{where} is unknown{errors.suggest(module, known)}")
    if at:
        return _of_folder(where, module, pathlib.Path(folder))
    target = entry_points(group).get(module, module)
    if _origin(where, target) is None:
        hint = errors.suggest(module, [*known, *entry_points(group)])
        mistyped = hint.startswith(", did you mean")
        also = (
            "" if mistyped else "; nor is there such a module, here or beside a config"
        )
        raise ValueError(f"{where} is unknown{hint}{also}")
    return _imported(where, target)


def fingerprint(name: str, group: str) -> str:
    """Returns the SHA-256 of a loaded module's file; of a package, of all its files.

    Empty where it has none. What it imports itself is not in it.
    """
    module = name.partition("@")[0]
    target = entry_points(group).get(module, module)
    file = getattr(sys.modules.get(target), "__file__", None)
    if file is None:
        return ""
    path = pathlib.Path(file)
    files = sorted(path.parent.rglob("*.py")) if path.stem == "__init__" else [path]
    found = hashlib.sha256()
    for each in files:
        found.update(f"{each.relative_to(path.parent)}\n".encode() + each.read_bytes())
    return found.hexdigest()


def reason(error: BaseException) -> str:
    """Returns one line: the error, and where in the code from outside it was raised."""
    line = " ".join(f"{type(error).__name__}: {error}".split())
    if isinstance(error, SyntaxError):
        return line  # It says where.
    others = (str(pathlib.Path(__file__).parent), sysconfig.get_path("stdlib"))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((*others, "<frozen"))
        and "site-packages" not in frame.filename
    ]
    if not frames:
        return line
    return (
        f"{line} ({pathlib.Path(frames[-1].filename).name}, line {frames[-1].lineno})"
    )


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _of_folder(where: str, module: str, folder: pathlib.Path) -> types.ModuleType:
    """Returns the module of a file in ``folder``, or elsewhere if it has moved."""
    file = _file(module, folder)
    if file is None:
        origin = _origin(where, module)
        if origin is None:
            raise ValueError(
                f"{where}: there is no {module.replace('.', '/')}.py in {folder}; put it "
                "back, or its new folder into PYTHONPATH"
            )
        warnings.warn(f"{where}: it is not there; {origin} is used", stacklevel=2)
        return _imported(where, module)
    run = _run_around(folder.resolve())
    if run is not None:
        raise ValueError(
            f"{where}: {run} is the folder of a run, from which no code is run; put "
            f"{file.name} beside a config"
        )
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    importlib.invalidate_caches()
    origin = _origin(where, module)
    if origin is None or pathlib.Path(origin).resolve() != file.resolve():
        raise ValueError(
            f"{where}: {file} is hidden by {origin or 'another module'} of the same "
            "name; rename the file"
        )
    return _imported(where, module)


def _imported(where: str, module: str) -> types.ModuleType:
    try:
        return importlib.import_module(module)
    except CAUGHT as error:
        raise ValueError(
            f"{where}: {module} does not import: {reason(error)}{_hint(error)}"
        ) from error


def _hint(error: BaseException) -> str:
    """Returns what helps where a file ends the process, or hides a module by a field."""
    if isinstance(error, SystemExit):
        return '; what a script runs is to stand below `if __name__ == "__main__":`'
    if isinstance(error, AttributeError) and "has no attribute 'Hparams'" in str(error):
        return "; begin the file with `from __future__ import annotations`"
    return ""


def _origin(where: str, module: str) -> str | None:
    """Returns the file that Python would import, None if there is none."""
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError as error:
        # The package of a.b, or something that the package imports.
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            return None
        raise ValueError(
            f"{where}: {module} does not import: {reason(error)}"
        ) from error
    except CAUGHT as error:
        raise ValueError(
            f"{where}: {module} does not import: {reason(error)}{_hint(error)}"
        ) from error
    return None if found is None or not found.has_location else found.origin


def _file(module: str, folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the file of a module in ``folder``, None if there is none."""
    stem = folder.joinpath(*module.split("."))
    for file in (stem.with_name(f"{stem.name}.py"), stem / "__init__.py"):
        if file.is_file():
            return file
    return None


def _run_around(folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the run's folder that ``folder`` is or lies in, None if it does not."""
    config, *parts = _OF_A_RUN
    for path in (folder, *folder.parents):
        if (path / config).is_file() and any((path / part).is_dir() for part in parts):
            return path
    return None
