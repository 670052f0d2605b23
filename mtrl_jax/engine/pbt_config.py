"""What a user may choose about population-based training: static, validated, hashable."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

from mtrl_jax import hparams

Exploit = Literal["none", "truncation", "tournament", "t_test", "fixed_margin"]
Rule = Literal["auto", "multiply", "add", "normal", "resample", "none"]
Alternative = Literal["two-sided", "greater"]
Initial = Literal["draw", "default"] | tuple[float, ...]

# Truncation needs a bottom and a top that differ, and a middle worth having.
_SMALLEST = {"none": 1, "truncation": 4}
_MOST = 2**31 - 1  # updates and episodes are counted in int32


@dataclasses.dataclass(frozen=True)
class PbtConfig:
    """How members are compared, replaced and perturbed.

    Exploit rules: ``truncation`` replaces the lowest ``fraction`` by draws from the
    highest; ``tournament`` copies a random opponent with a higher score; ``t_test``
    copies one whose episode returns are higher with a Welch p-value below ``p_value``;
    ``fixed_margin`` copies one whose score is higher by more than ``margin`` (absolute);
    ``none`` never copies, which is random search or a fixed population.

    The explore rule is each ``SearchRange``'s own; ``explore`` serves ranges that say
    "auto" (and its own "auto" means ``multiply`` where the range is positive, ``add``
    elsewhere). A perturbed hyperparameter is first resampled from its range with
    ``resample_probability``, else moved with ``perturb_probability`` (2/3 by default:
    up, down and unchanged are equally likely).

    By default there is no ``burn_in``: the first round copies members that have
    ``min_episodes``, as many as the paper's t-test has.

    Raises:
        ValueError: naming the field, what was given and what would work.
    """

    exploit: Exploit = "truncation"
    fraction: float = 0.25  # truncation: size of the bottom and of the top
    margin: float = 0.05  # fixed_margin, in units of the score
    p_value: float = 0.05  # t_test
    alternative: Alternative = "two-sided"  # t_test
    interval: int = 100  # updates between rounds
    burn_in: int = 0  # updates before the first copy
    min_episodes: int = 10  # since the last copy, to copy or be copied
    copy_hparams: bool = True  # False: a copy takes the weights, keeps its own values
    explore: Rule = "auto"
    explore_all: bool = False  # IMPALA: perturb every member, copied or not
    perturb_factor: float = 1.2  # multiply: × or ÷
    perturb_step: float = 0.1  # add and normal, as a share of high - low
    perturb_probability: float = 2 / 3
    resample_probability: float = 0.1

    def __post_init__(self):
        _one_of("exploit", self.exploit, get_args(Exploit))
        _one_of("explore", self.explore, get_args(Rule))
        _one_of("alternative", self.alternative, get_args(Alternative))
        _within("fraction", self.fraction, 0.0, 0.5, open_low=True)
        _within("p_value", self.p_value, 0.0, 1.0, open_low=True)
        _within("margin", self.margin, 0.0)
        _within("perturb_probability", self.perturb_probability, 0.0, 1.0)
        _within("resample_probability", self.resample_probability, 0.0, 1.0)
        _within("perturb_factor", self.perturb_factor, 1.0, open_low=True)
        _within("perturb_step", self.perturb_step, 0.0, open_low=True)
        _within("interval", self.interval, 1, _MOST)
        _within("burn_in", self.burn_in, 0, _MOST)
        _within("min_episodes", self.min_episodes, 0, _MOST)


@dataclasses.dataclass(frozen=True)
class SearchRange:
    """Where one hyperparameter is drawn from and how it is perturbed.

    ``log`` draws log-uniformly. ``integer`` keeps whole numbers (a perturbation moves by
    at least one). ``complement`` draws and perturbs ``1 - h``, the natural scale of a
    discount or of λ near one. ``factor``, ``step`` (absolute) and
    ``resample_probability`` override the defaults of ``PbtConfig``. ``initial`` "default"
    starts every member at the hyperparameter's own value instead of at a draw, as what
    PBT is to move from one end (Mix&Match's alpha, from 0) has to. A list deals its values
    to the members in turn, so that a population is a sweep over them; without ``low`` and
    ``high`` its least and its largest are the range's.

    Raises:
        ValueError: naming the field, what was given and what would work.
    """

    low: float = None  # type: ignore[assignment]  # a number once it is made
    high: float = None  # type: ignore[assignment]
    log: bool = False
    rule: Rule = "auto"
    factor: float | None = None
    step: float | None = None
    integer: bool = False
    complement: bool = False
    initial: Initial = "draw"
    resample_probability: float | None = None

    def __post_init__(self):
        _one_of("rule", self.rule, get_args(Rule))
        for name, end in (("low", min), ("high", max)):
            if getattr(self, name) is None:
                if isinstance(self.initial, str) or not self.initial:
                    raise ValueError(
                        f"{name} is missing; give low and high, or initial as a list"
                    )
                object.__setattr__(self, name, float(end(self.initial)))
        for name, value in (("low", self.low), ("high", self.high)):
            if not math.isfinite(value):
                raise ValueError(f"{name}={value} is not finite; give a number")
            if self.integer and value != round(value):
                raise ValueError(f"{name}={value} with integer: give a whole number")
        if self.low > self.high:
            raise ValueError(f"low={self.low} is above high={self.high}; swap them")
        if self.integer and self.complement:
            raise ValueError("integer and complement exclude each other; drop one")
        smallest = 1 - self.high if self.complement else self.low
        bound = "1 - high" if self.complement else "low"
        if smallest <= 0 and (self.log or self.rule == "multiply"):
            what = "log" if self.log else "rule='multiply'"
            raise ValueError(f"{bound}={smallest} with {what}: it must be above 0")
        if self.factor is not None:
            _within("factor", self.factor, 1.0, open_low=True)
        if self.step is not None:
            _within("step", self.step, 0.0, open_low=True)
        if isinstance(self.initial, str):
            _one_of("initial", self.initial, ("draw", "default"))
        else:
            self._check_values(self.initial)
        if self.resample_probability is not None:
            _within("resample_probability", self.resample_probability, 0.0, 1.0)

    def _check_values(self, values: tuple[float, ...]) -> None:
        if not values:
            raise ValueError("initial=() is empty; give a value or more")
        for value in values:
            if not self.low <= value <= self.high:
                raise ValueError(
                    f"initial={value} is not between low={self.low} and "
                    f"high={self.high}; give it a wider range"
                )
            if self.integer and value != round(value):
                raise ValueError(f"initial={value} with integer: give a whole number")

    def resolve(self, config: PbtConfig) -> SearchRange:
        """Returns this range with nothing left to a default."""
        rule = config.explore if self.rule == "auto" else self.rule
        positive = (1 - self.high if self.complement else self.low) > 0
        if rule == "auto" or (rule == "multiply" and not positive):
            rule = "multiply" if positive else "add"
        step = config.perturb_step * (self.high - self.low)
        own = self.resample_probability
        return dataclasses.replace(
            self,
            rule=rule,
            factor=self.factor or config.perturb_factor,
            step=step if self.step is None else self.step,
            resample_probability=config.resample_probability if own is None else own,
        )


def validate(
    config: PbtConfig,
    ranges: Mapping[str, SearchRange],
    names: Iterable[str],
    population: int,
) -> None:
    """Raises ValueError unless the choices fit a population and its hyperparameters.

    That is where there are too few members for the exploit rule, or a range for a name
    that is no hyperparameter.
    """
    smallest = _SMALLEST.get(config.exploit, 2)
    if population < smallest:
        raise ValueError(
            f"population of {population} is too small for exploit={config.exploit!r}; "
            f"use at least {smallest} members or exploit='none'"
        )
    names = sorted(names)
    for name in ranges:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {names}"
            raise ValueError(f"search.{name} is no hyperparameter; {hint}")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(
            f"{name}={value!r} is unknown; use one of {', '.join(allowed)}"
        )


def _within(
    name: str,
    value: float,
    low: float,
    high: float = hparams.LARGEST,
    open_low: bool = False,
) -> None:
    above = value > low if open_low else value >= low
    if not (above and value <= high):
        bound = f"{'above' if open_low else 'at least'} {low}"
        bound += f" and at most {high}" if high < hparams.LARGEST else " and finite"
        raise ValueError(f"{name}={value} is out of range; it must be {bound}")
