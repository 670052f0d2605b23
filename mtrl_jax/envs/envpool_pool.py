"""One pool of P * B environments: version, names, options, seeds, construction.

envpool gives environment i the seed ``seed + i``, so pools of neighbouring seeds share
almost all their streams. Here every environment has a seed of its own, hashed from
(seed, task, member, slot): it depends neither on the number of slots nor of members.
"""

from __future__ import annotations

import hashlib
import sys
from typing import Any, NamedTuple

from mtrl_jax import errors, types, xla
from mtrl_jax.envs import envpool_families as families
from mtrl_jax.envs import envpool_trial

# The guarded XLA call and the raw step use private functions of these versions.
ADMITTED = ("1.2.5", "1.2.7")
PREFIX = "envpool/"


class Pool(NamedTuple):
    """A running pool and what was asked of it."""

    task: str  # envpool's own id
    family: str
    options: families.Options  # every option, resolved
    batch: tuple[int, int]  # (P, B)
    engine: Any  # the envpool object


def names() -> list[str]:
    """Returns envpool's ids of every task that can be made, without aliases."""
    registry = _registry()
    return [
        task
        for task, (module, _, _) in registry.items()
        if _is_usable(module.rsplit(".", 1)[-1], task)
        and ("/" not in task or task.rsplit("/", 1)[1] not in registry)
    ]


def seeds(
    task: str, batch: tuple[int, int], seed: int, first_slot: int = 0
) -> list[int]:
    """Returns P * B 31-bit seeds, member-major, hashed from where they are used.

    They are distinct within a member: a collision is resolved by hashing again, in the
    order of the slots. Between members they are equal by chance alone.
    """
    members, slots = batch
    result = []
    for member in range(members):
        taken: set[int] = set()
        for slot in range(first_slot + slots):
            attempt = 0
            while (value := _hash(seed, task, member, slot, attempt)) in taken:
                attempt += 1
            taken.add(value)
            if slot >= first_slot:
                result.append(value)
    return result


def make(
    name: str,
    batch: tuple[int, int],
    options: families.Options | None,
    seed: int,
    first_slot: int = 0,
) -> Pool:
    """Returns a running pool of P * B environments in synchronous mode.

    ``first_slot`` shifts the slots that the seeds are hashed from, so that two halves
    of a batch are the whole. Raises ValueError for an unknown name or option, a batch
    that is not positive, a platform without envpool, an envpool version that has not
    been admitted, and a missing system library (by its file name).
    """
    task, family, resolved = resolve(name, options)
    _check_batch(batch)
    threads = resolved["num_threads"] or min(xla.cores(), batch[0] * batch[1])
    settings = families.settings(families.FAMILIES[family], resolved)
    if not families.is_harmless(families.FAMILIES[family], options or {}):
        envpool_trial.check(name, task, settings, options or {})
    try:
        engine = _envpool().make(
            task,
            env_type="gymnasium",
            num_envs=batch[0] * batch[1],
            num_threads=threads,
            seed=seeds(task, batch, seed, first_slot),
            **settings,
        )
    except (ImportError, OSError) as error:
        raise ValueError(_missing_library(name, error)) from error
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"{name}: envpool refuses {settings}: {error}") from error
    return Pool(task, family, resolved, (batch[0], batch[1]), engine)


def resolve(
    name: str, options: families.Options | None
) -> tuple[str, str, families.Options]:
    """Returns (envpool's id, family, every option with its value) without a pool."""
    registry = _registry()
    task = name.removeprefix(PREFIX)
    if task not in registry:
        raise ValueError(f"env: envpool has no {task!r}{errors.suggest(task, names())}")
    family = registry[task][0].rsplit(".", 1)[-1]
    if family not in families.FAMILIES:
        allowed = ", ".join(families.FAMILIES)
        raise ValueError(f"{name}: family {family!r} is not supported. Use: {allowed}")
    row = families.FAMILIES[family]
    if not _is_usable(family, task):
        usable = f"; use {', '.join(sorted(row.only))}" if row.only else ""
        raise ValueError(f"{name} cannot be used: {row.why}{usable}")
    defaults: families.Options = {}
    if row.open:
        try:
            defaults = _pool_defaults(task)
        except (ImportError, OSError) as error:
            raise ValueError(_missing_library(name, error)) from error
    try:
        resolved = families.resolve(task, row, dict(options or {}), defaults)
        families.settings(row, resolved)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return task, family, resolved


def describe(
    name: str,
    batch: tuple[int, int],
    options: families.Options | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns what a run folder must record to make the same pool again, as plain JSON.

    Versions of envpool differ in the numbers they draw from the same seeds.
    """
    task, family, resolved = resolve(name, options)
    return {
        "name": PREFIX + task,
        "family": family,
        "envpool": _envpool().__version__,
        "options": resolved,
        "settings": families.settings(families.FAMILIES[family], resolved),
        "seed": seed,
        "seeds": seeds(task, batch, seed),
        "batch": list(batch),
    }


def max_steps(pool: Pool) -> int | None:
    """Returns the time limit of an episode in steps, None where there is none."""
    limit = int(pool.engine.config["max_episode_steps"])
    return limit if 0 < limit < 2**31 - 1 else None


def frames(pool: Pool) -> int:
    """Returns how many frames an image of the pool is a stack of."""
    return int(pool.engine.config.get("stack_num", 1))


def action_space(pool: Pool) -> types.ActionSpace:
    """Returns the kit's action space of the pool."""
    import numpy as np

    spec = pool.engine.spec.action_array_spec["action"]
    shape = tuple(n for n in spec.shape if n != -1)
    low, high = np.asarray(spec.minimum), np.asarray(spec.maximum)
    # ViZDoom's combined actions are indices sent as floats.
    is_index = pool.family == "vizdoom" and shape == ()
    if np.dtype(spec.dtype).kind == "i" or is_index:
        if shape != () or low != 0:
            raise ValueError(f"{pool.task}: actions {spec} are not supported")
        return types.Discrete(int(high) + 1)
    low, high = np.broadcast_to(low, shape), np.broadcast_to(high, shape)
    if len(shape) != 1 or not np.all(np.isfinite([low, high])) or np.any(low >= high):
        raise ValueError(f"{pool.task}: actions {spec} are not a bounded vector")
    return types.Box(tuple(map(float, low)), tuple(map(float, high)))


def _envpool() -> Any:
    if not sys.platform.startswith("linux"):
        raise ValueError(f"envpool: {sys.platform} is not supported; it needs Linux")
    try:
        import envpool
    except ImportError as error:
        raise ValueError(
            f"envpool: not importable ({error}); pip install envpool"
        ) from (error)
    if envpool.__version__ not in ADMITTED:
        raise ValueError(
            f"envpool: version {envpool.__version__} has not been admitted; "
            f"install one of {', '.join(ADMITTED)}"
        )
    return envpool


def _registry() -> dict[str, Any]:
    _envpool()
    from envpool.registration import registry

    return registry.specs


def _is_usable(family: str, task: str) -> bool:
    row = families.FAMILIES.get(family)
    if row is None or task in row.without:
        return False
    return row.only is None or task in row.only


def _pool_defaults(task: str) -> families.Options:
    spec = _envpool().make_spec(task)
    return dict(zip(spec._config_keys, spec._config_values))


def _check_batch(batch: tuple[int, int]) -> None:
    counts = [n for n in batch if isinstance(n, int) and not isinstance(n, bool)]
    if len(batch) != 2 or len(counts) != 2 or min(counts) < 1:
        raise ValueError(f"batch: {batch!r} is not a pair (P, B) of positive integers")


def _hash(*parts: Any) -> int:
    text = "|".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) & 0x7FFFFFFF


def _missing_library(name: str, error: BaseException) -> str:
    # The import error that names the file is the cause of the one that explains.
    cause: BaseException | None = error
    while cause is not None:
        library = str(cause).split(":", 1)[0]
        if ".so" in library:
            return f"{name}: the system library {library} is missing ({error})"
        cause = cause.__cause__ or cause.__context__
    return f"{name}: envpool cannot load it: {error}"
