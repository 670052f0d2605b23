"""Schedules by hand: values, the plateau's fold, mistakes."""

import functools
import math

import pytest

from mtrl_jax.engine import schedules
from mtrl_jax.engine.schedules import Plateau, Schedule

NAN = math.nan


def _after(schedule, mean_returns):
    """Returns the plateau after a history."""
    return functools.reduce(
        lambda plateau, x: schedules.plateau_update(schedule, plateau, x),
        mean_returns,
        Plateau(),
    )


def _values(schedule, mean_returns):
    """Returns the value after every one of a history's mean returns."""
    histories = (mean_returns[: i + 1] for i in range(len(mean_returns)))
    return [schedules.value_after(schedule, _after(schedule, h)) for h in histories]


# Functions of time.


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [(0.0, 0.1), (0.2, 0.1), (0.3, 0.3), (0.4, 0.5), (0.6, 0.9), (1.0, 0.9)],
)
def test_linear_is_a_line_between_begin_and_end(fraction, expected):
    """Low before begin, high after end, both met exactly."""
    schedule = Schedule("linear", 0.1, 0.9, begin=0.2, end=0.6)
    value = schedules.value_at(schedule, fraction)
    assert value == pytest.approx(expected)
    if expected in (0.1, 0.9):
        assert value == expected


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [
        (0.0, 0.0),
        (0.25, (1 - math.sqrt(0.5)) / 2),
        (0.5, 0.5),
        (0.75, (1 + math.sqrt(0.5)) / 2),
        (1.0, 1.0),
    ],
)
def test_cosine_is_half_a_cosine(fraction, expected):
    """Slow at both ends, half-way in the middle; all of the run by default."""
    schedule = Schedule("cosine", 0.0, 2.0)
    value = schedules.value_at(schedule, fraction)
    assert value == pytest.approx(2 * expected, abs=1e-15)


def test_step_is_high_from_its_beginning_on():
    """The update at begin is the first of the high ones, whatever its fraction's bits."""
    schedule = Schedule("step", 0.0, 1.0, begin=0.3)
    values = [schedules.value_at(schedule, update / 20) for update in range(20)]
    assert values == [0.0] * 6 + [1.0] * 14


@pytest.mark.parametrize(
    ("kind", "quarter"), [("linear", 7.75), ("cosine", 10 - 9 * (1 - 0.5**0.5) / 2)]
)
def test_a_schedule_may_go_down(kind, quarter):
    """High below low is a decay."""
    schedule = Schedule(kind, 10.0, 1.0)
    values = [schedules.value_at(schedule, x) for x in (0.0, 0.25, 0.5, 1.0, 1.5)]
    assert values == pytest.approx([10.0, quarter, 5.5, 1.0, 1.0])
    assert values[0] == 10.0 and values[3] == 1.0


# Plateaus.


def test_a_plateau_moves_when_returns_have_not_risen():
    """After patience chunks without a rise; each move begins the comparison again."""
    schedule = Schedule("plateau", 0.0, 1.0, step=0.25, patience=2)
    history = [1.0, 2.0, 3.0, 3.0, 2.0, 2.5, 2.4, 2.4, 2.4, 2.4]
    # Rises to 3; no rise at 3 and 2: a move, from 2; 2.5 rises; 2.4 twice: a move, twice.
    expected = [0, 0, 0, 0, 0.25, 0.25, 0.25, 0.5, 0.5, 0.75]
    assert _values(schedule, history) == expected


def test_returns_that_rise_hold_a_plateau():
    """No move however long the run."""
    schedule = Schedule("plateau", 0.0, 1.0, step=0.25, patience=2, tolerance=0.0)
    assert _values(schedule, [0.1 * i for i in range(50)]) == [0.0] * 50


def test_a_rise_within_the_tolerance_is_none():
    """It is relative to the range of all returns so far, whatever their scale."""
    for scale in (1e-3, 1.0, 1e6):
        history = [scale * x for x in (0.0, 10.0, 10.9, 11.1)]
        schedule = Schedule("plateau", 0.0, 1.0, step=0.5, patience=2, tolerance=0.1)
        assert _values(schedule, history[:3]) == [0.0] * 3
        # Of 10 to 11.1: a tenth of the range is 1.11, the rise is 1.1.
        assert _values(schedule, history)[-1] == 0.5
        strict = Schedule("plateau", 0.0, 1.0, step=0.5, patience=2, tolerance=0.05)
        assert _values(strict, history)[-1] == 0.0


def test_slow_rises_add_up():
    """What is compared is the best of before, not the chunk before."""
    schedule = Schedule("plateau", 0.0, 1.0, step=0.5, patience=3, tolerance=0.1)
    slow = [0.0, 10.0, *(10.0 + 0.6 * i for i in range(1, 10))]
    assert _values(schedule, slow)[-1] == 0.0
    flat = [0.0, 10.0, *(10.0 + 0.3 * i for i in range(1, 10))]
    assert _values(schedule, flat)[-1] > 0.0


def test_a_plateau_ends_at_high_exactly():
    """A last move goes no farther than high, up or down."""
    for low, high in ((0.0, 1.0), (0.7, 0.1)):
        schedule = Schedule("plateau", low, high, step=0.4, patience=1)
        values = _values(schedule, [1.0] * 6)
        sign = math.copysign(0.4, high - low)
        assert values[:2] == pytest.approx([low, low + sign])
        assert values[-1] == high


def test_chunks_without_episodes_are_not_waited_for():
    """NaN is neither a rise nor a chunk of patience; nor is infinity."""
    schedule = Schedule("plateau", 0.0, 1.0, step=0.5, patience=2)
    assert _values(schedule, [NAN, 1.0, NAN, NAN, 1.0, math.inf, NAN]) == [0.0] * 7
    assert _values(schedule, [NAN, 1.0, NAN, 1.0, NAN, 1.0])[-1] == 0.5


def test_what_a_plateau_remembers_is_of_plain_numbers():
    """A checkpoint holds it as JSON and gets the same bits back."""
    import json

    schedule = Schedule("plateau", 0.0, 1.0, step=0.1, patience=2)
    for history in ([], [1 / 3], [0.1, 0.7, 2 / 3, 0.2]):
        plateau = _after(schedule, history)
        again = Plateau(**json.loads(json.dumps(plateau._asdict())))
        assert again == plateau


# Mistakes.

PLATEAU = {"kind": "plateau", "low": 0.0, "high": 1.0, "step": 0.1}
LINEAR = {"kind": "linear", "low": 0.0, "high": 1.0}
STEP = {"kind": "step", "low": 0.0, "high": 1.0, "begin": 0.5}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (LINEAR | {"kind": "linera"}, "kind='linera' use linear, cosine"),
        (LINEAR | {"low": NAN}, "low=nan finite"),
        (LINEAR | {"high": math.inf}, "high=inf finite"),
        (LINEAR | {"high": 0.0}, "high=0.0 low agent.hparams"),
        (LINEAR | {"begin": -0.1}, "begin=-0.1 at least 0"),
        (LINEAR | {"begin": 1.0}, "begin=1.0 below 1"),
        (LINEAR | {"begin": NAN}, "begin=nan fraction"),
        (LINEAR | {"begin": 0.5, "end": 0.5}, "end=0.5 above begin=0.5"),
        (LINEAR | {"end": 1.5}, "end=1.5 at most 1"),
        (LINEAR | {"kind": "cosine", "end": 0.0}, "end=0.0 above begin=0.0"),
        (LINEAR | {"patience": 3}, "patience=3 kind='linear' begin, end leave out"),
        (LINEAR | {"kind": "step"}, "begin=0.0 kind='step' above 0"),
        (STEP | {"begin": 1.0}, "begin=1.0 kind='step' below 1"),
        (STEP | {"end": 0.9}, "end=0.9 kind='step' reads begin leave out"),
        (PLATEAU | {"step": None}, "step is missing kind='plateau'"),
        (PLATEAU | {"step": 0.0}, "step=0.0 above 0"),
        (PLATEAU | {"step": 1.1}, "step=1.1 at most low to high, 1"),
        (PLATEAU | {"patience": 0}, "patience=0 at least 1"),
        (PLATEAU | {"tolerance": -0.1}, "tolerance=-0.1 at least 0"),
        (PLATEAU | {"tolerance": 1.0}, "tolerance=1.0 below 1"),
        (PLATEAU | {"begin": 0.1}, "begin=0.1 kind='plateau' step, patience"),
    ],
)
def test_a_mistake_is_one_line_with_field_value_and_a_way_out(given, words):
    """Every field of every kind."""
    with pytest.raises(ValueError) as caught:
        Schedule(**given)
    message = str(caught.value)
    assert message.startswith(words.split()[0])
    assert "\n" not in message
    assert not [word for word in words.split() if word not in message], message


def test_the_way_itself_is_a_step_that_fits():
    """0.3 − 0.1 is a little less than 0.2; that is no mistake of the user."""
    schedule = Schedule("plateau", 0.3, 0.1, step=0.2, patience=1)
    assert _values(schedule, [1.0, 1.0]) == [0.3, 0.1]
