"""What a run says of its settings before it trains: legal, and perhaps not meant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mtrl_jax.training.program import RunLength

# A run may be longer than asked for by whole chunks; by more than this it is said.
_LONGER = 1.05


def of(config: Any, length: RunLength) -> Iterator[str]:
    """Yields a line for every setting that does something else than it seems to."""
    # An evaluate stage has no training, an offline one no environment steps.
    asked = getattr(getattr(config, "training", None), "env_steps", None)
    trained, chunk = length.updates * length.steps, length.per_chunk * length.steps
    if asked is not None and trained > _LONGER * asked:
        yield (
            f"training.env_steps={asked}: {trained} are trained, whole chunks of {chunk} "
            "(training.updates_per_chunk updates of unroll_length steps in every slot)"
        )
    pbt = config.population.pbt
    if pbt is not None and pbt.interval >= length.updates:
        yield (
            f"population.pbt.interval={pbt.interval}: the run has {length.updates} "
            "updates, so no member is ever replaced"
        )
    if pbt is not None and 0 < pbt.interval < length.per_chunk:
        yield (
            f"population.pbt.interval={pbt.interval}: rounds come between chunks, every "
            f"{length.per_chunk} updates (training.updates_per_chunk)"
        )


def of_longer(config: Any, changed: Any) -> Iterator[str]:
    """Yields a line where a new length of a run also moves its schedules."""
    names = [n for n, x in config.agent.schedules.items() if x.kind != "plateau"]
    if names and "training.env_steps" in changed:
        yield (
            f"training.env_steps: the schedules of {', '.join(names)} are by the share "
            "of the run that is done and go back with it"
        )
