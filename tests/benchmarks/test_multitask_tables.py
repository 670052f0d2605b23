"""The tables of the multi-task benchmark, of results small enough to know."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "benchmarks"))
try:
    import multitask_arms as arms
    import tables_multitask as tables
finally:
    sys.path.pop(0)


def row(arm="a", label="", task="x/One-MinAtar", final=(1.0, 2.0, 3.0), **more):
    """Returns a row as multitask.py writes it; the area is half of the final score."""
    mean = sum(final) / len(final)
    return {
        "arm": arm,
        "label": label,
        "task": task,
        "steps": 1000,
        "area": mean / 2,
        "area_seeds": [x / 2 for x in final],
        "final": mean,
        "low": min(final),
        "high": max(final),
        "seeds": list(final),
        "random": 0.0,
        "reference": 10.0,
    } | more


def test_every_experiment_has_a_table():
    """And three more; of one that has not been run it says so."""
    known = {f"multitask_{name}" for name in arms.EXPERIMENTS}
    more = {"multitask_unreal_maze", "progressive_sensitivity", "sharing_cost"}
    assert set(tables.TABLES) == known | more
    assert "not run" in tables.of("nothing", tables.rooms)[1][1]


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ([200, 400, 900], "400 (3 of 3 seeds)"),
        ([200, 400, None], "400 (2 of 3 seeds)"),
        ([200, None, None], "> 1.00 k (1 of 3 seeds)"),
    ],
)
def test_a_seed_that_did_not_get_there_is_above_the_median(steps, text):
    """The median is over all seeds; beyond the run it is said to be."""
    found = [row(level=[5.0, 6.0, 7.0], reached=steps)]
    assert tables.kickstarting(found)[1] == [
        "a", "1.00", "2.00 [1.00, 3.00]", "6.00", text,
    ]  # fmt: skip
    header, first, second = tables.rare([*found, row(label="all")])
    assert first[-1] == text and second == [
        "One", "all", "1.00", "2.00 [1.00, 3.00]", tables.NONE,
    ]  # fmt: skip
    assert len(header) == len(first)


def test_scores_of_games_are_pooled_in_their_units():
    """(score − random) / (reference − random); the least is of the games' means."""
    loud = {"task": "x/Two", "reference": 100.0}
    found = [
        row(),
        row(final=(20.0, 20.0, 20.0), **loud),
        row("b", final=(5.0, 5.0, 5.0)),
        row("b", final=(50.0, 50.0, 50.0), **loud),
    ]
    header, a, b = tables.scales(found)
    assert header[1:3] == ["One", "Two"] and a[1:3] == ["2.00", "20.0"]
    assert a[-1] == "0.200" and b[3] == "0.500 [0.500, 0.500]"
    labelled = [x | {"label": label} for label in ("none", "popart") for x in found[:2]]
    header, *rows = tables.scales(labelled, "network")
    assert header[0] == "network" and [x[0] for x in rows] == ["a, none", "a, popart"]
    header, a, b = tables.rooms(found)
    assert a[-1] == "2.00" and b[2].startswith("27.500")


def test_transfer_is_the_area_over_that_from_scratch():
    """Above a random policy's: (3 − 1) / (2 − 1), whatever the arm is called."""
    found = [
        row("scratch", final=(4.0, 4.0), random=1.0),
        row("scratch", task="x/Two", final=(7.9, 8.1)),
        row("scratch", task="x/Hard", final=(0.2, 0.4)),
        row("two", final=(6.0, 6.0), random=1.0),
        row("two", task="x/Two", final=(4.0, 4.0)),
        row("two", task="x/Hard", final=(20.0, 20.0)),
    ]
    header, scratch, two = tables.columns(found)
    assert header[1:3] == ["One: score [95 %], final", "Two: score [95 %], final"]
    assert scratch[1] == "1.00, 4.00" and scratch[-1] == "1.00"
    assert two[1] == "2.00 [2.00, 2.00], 6.00" and two[2].startswith("0.50 [0.4")
    # What is not learned from scratch (0.15 of 10) counts for nothing in the mean.
    assert two[-1].startswith("1.25 [")


def test_corrections_stand_beside_each_other_by_lag():
    """A line a label, a column an arm."""
    found = [row(arm, label) for arm in ("fresh", "half") for label in ("v", "none")]
    header, *lines = tables.lags(found)
    assert len(header) == 3 and [line[0] for line in lines] == ["v", "none"]
    assert lines[0][1:] == ["1.00, 2.00 [1.00, 3.00]"] * 2


def test_sensitivities_are_of_the_new_column_with_the_range_of_its_seeds():
    """The old column has the rest of each, and no row."""
    header, *rows = tables.TABLES["progressive_sensitivity"]()
    assert len(rows) == 6 and all(len(x) == len(header) for x in rows)
    assert rows[0] == [
        "Breakout-mirrored", "1", "0.10 (0.01, 0.26)", "0.03 (0.00, 0.15)",
    ]  # fmt: skip
