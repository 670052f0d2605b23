"""Between which values a hyperparameter means something, by its name.

A name means the same in every agent, so there is one table for all of them; a name that
is not in it may have any value. PBT keeps to its search range, and a schedule between
its ends: where these are within bounds, so is everything a run will see.
"""

from __future__ import annotations

import math

_SHARE = (0.0, 1.0)
_AMOUNT = (0.0, math.inf)

# Both ends count.
BOUNDS: dict[str, tuple[float, float]] = {
    "alpha": _SHARE,
    "clip_epsilon": _AMOUNT,
    "clip_pg_rho": _AMOUNT,  # infinity does not clip
    "clip_rho": _AMOUNT,
    "clip_value": _AMOUNT,
    "decay_updates": _AMOUNT,
    "discount": _SHARE,
    "entropy_cost": _AMOUNT,
    "epsilon": _AMOUNT,
    "epsilon_end": _SHARE,
    "epsilon_start": _SHARE,
    "exploration": _AMOUNT,
    "horizon": _AMOUNT,
    "label_smoothing": _SHARE,
    "lambda_": _SHARE,
    "learning_rate": _AMOUNT,
    "matching_cost": _AMOUNT,
    "max_grad_norm": _AMOUNT,
    "prior_a": _AMOUNT,
    "prior_b": _AMOUNT,
    "reward_scale": (-math.inf, math.inf),
    "temperature": _AMOUNT,
    "value_cost": _AMOUNT,
    "warmup_updates": _AMOUNT,
    "weight_decay": _AMOUNT,
}


def check(name: str, value: float) -> None:
    """Returns nothing for a value within the bounds of the hyperparameter ``name``.

    Raises:
      ValueError: it is outside; the message goes on after the field's path.
    """
    low, high = BOUNDS.get(name, (-math.inf, math.inf))
    if math.isnan(value) or low <= value <= high:
        return
    allowed = f"from {low:g} to {high:g}" if high < math.inf else f"at least {low:g}"
    raise ValueError(f"={value:g}: must be {allowed}")
