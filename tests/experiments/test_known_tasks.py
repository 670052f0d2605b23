"""Tests on tasks that were trained on are said to be so, however they came to be known."""

import pathlib
import re

import pytest
import staged_runs

from mtrl_jax import config
from mtrl_jax.experiments import kinds, known_tasks, stages

ROOM, NOWHERE = "dark/room", pathlib.Path("nowhere")
TRAIN, OTHERS = {"tasks": "train"}, {"tasks": "test", "split_seed": 1}
TEST = {"tasks": "test"}
GOAL = [4, 7]


def task(options, env=ROOM):
    return [{"env": env, "options": options}]


def collected(options, env=ROOM, **more):
    return {
        "kind": "collect",
        "name": "source",
        "tasks": task(options, env),
        "agent": {"name": "bandit" if env.startswith("bandit") else "tabular"},
        "training": {"env_steps": 60, "unroll_length": 1},
        **more,
    }


def played(options, name="source", **more):
    """Returns an online stage."""
    training = {"env_steps": 60, "unroll_length": 5}
    return {
        "kind": "online",
        "name": name,
        "tasks": task(options),
        "agent": {"name": "impala"},
        "training": training,
        **more,
    }


MODEL = {
    "kind": "offline",
    "name": "model",
    "data": "source",
    "agent": {"name": "behaviour_cloning"},
    "training": {"updates": 8, "unroll_length": 5, "batch": 4},
}


def lines(tested, *before, env=ROOM):
    """Returns what is said of a test on ``tested`` of the last stage ``before``."""
    last = {
        "kind": "evaluate",
        "name": "last",
        "of": before[-1]["name"],
        "tasks": task(tested, env),
    }
    settings = config.from_dict({"stages": [*before, last]})
    run = kinds.run_of(settings, NOWHERE)
    return list(known_tasks.remarks(run, run.stages[-1]))


@pytest.mark.parametrize(
    ("trained", "tested", "words"),
    [
        (TRAIN, TEST, None),
        (
            TRAIN,
            OTHERS,
            "12 of its 16 tasks are among those of source; the same split_",
        ),
        (TRAIN, {"tasks": "train"}, None),
        (TRAIN, {"tasks": "all"}, None),
        # What is not asked for is meant by nobody.
        (TRAIN, {}, "65 of its 81 tasks are among those of source; options.tasks=test"),
        ({}, TEST, "16 of its 16 tasks"),
        # One says what is the other's default, or how it is played.
        ({**TRAIN, "size": 9, "start": "centre"}, OTHERS, "12 of its 16 tasks"),
        ({**TRAIN, "length": 7}, OTHERS, "12 of its 16 tasks"),
        # The same goals in another room are other tasks.
        ({**TRAIN, "size": 17}, TEST, None),
        ({**TRAIN, "start": [0, 0]}, OTHERS, None),
        ({"goal": GOAL}, {}, "1 of its 81 tasks"),
        (TRAIN, {"goal": GOAL}, None),
    ],
)
def test_tasks_of_the_data_are_known(trained, tested, words):
    """By what they are: their params in the same world."""
    found = lines(tested, collected(trained), MODEL)
    assert len(found) == bool(words) and all(words in line for line in found)


@pytest.mark.parametrize(
    "before",
    [
        [played(TRAIN)],
        [played({**TRAIN, "task": "slot"})],
        [played(TRAIN, "first"), played(TEST | {"number": 1}, init_from="first")],
        [
            played(TRAIN, "first"),
            collected(TEST, agent={"name": "impala"}, init_from="first"),
        ],
        [
            played(TRAIN, "first"),
            {
                "kind": "collect",
                "name": "source",
                "of": "first",
                "tasks": task({"goal": GOAL}),
                "training": {"env_steps": 60, "unroll_length": 1},
            },
        ],
        [played(TRAIN, "first"), played({"goal": GOAL}, teacher="first")],
    ],
    ids=["online", "dealt", "begun", "collected", "played", "taught"],
)
def test_what_learners_learned_in_any_stage_is_known(before):
    """Of those that they began with or were taught by, too."""
    (line,) = lines(OTHERS, *before)
    assert "12 of its 16 tasks" in line or "16 of its 16 tasks" in line


def test_the_player_of_the_data_knows_more_than_who_learned_from_it():
    """What its player had learned in does not count for a model of the data."""
    player = played(TRAIN, "first")
    data = {
        "kind": "collect",
        "name": "source",
        "of": "first",
        "tasks": task({"goal": GOAL}),
        "training": {"env_steps": 60, "unroll_length": 1},
    }
    (line,) = lines({}, player, data, MODEL)
    assert "1 of its 81 tasks are among those of source;" in line


@pytest.mark.parametrize(
    ("trained", "tested", "words"),
    [
        ({"number": 7}, {"number": 3}, "3 of its 3 tasks are among .*; options.seed draws"),
        ({"number": 7}, {"number": 3, "seed": 1}, None),
    ],
)  # fmt: skip
def test_bandits_of_one_seed_are_the_same(trained, tested, words):
    """Of 0 where none is given."""
    source = collected(trained, "bandit/uniform")
    model = {**MODEL, "agent": {"name": "algorithm_distillation"}}
    found = lines(tested, source, model, env="bandit/uniform")
    assert len(found) == bool(words)
    assert all(re.search(words, line) for line in found)


def test_data_of_another_run_are_known_where_they_were_collected(staged, tmp_path):
    """By the settings beside them; of a copy elsewhere nothing is said."""
    there = staged_runs.stage_of(staged, "source") / "histories"
    options = staged_runs.TINY["stages"][0]["tasks"][0]["options"]
    room = {k: x for k, x in options.items() if k not in ("tasks", "number")}
    (line,) = lines(room, {**MODEL, "data": str(there)})
    assert "2 of its" in line and "tasks are among those of source" in line
    assert lines(room, {**MODEL, "data": str(tmp_path / "histories")}) == []


def test_a_run_says_so_before_it_begins():
    """Among the lines of the check of all its stages."""
    change = "stages.2.tasks.0.options.split_seed=1"
    more = "stages.0.tasks.0.options.number=7"
    settings = config.from_dict(config.override(staged_runs.TINY, [more, change]))
    said = stages.check(kinds.run_of(settings, NOWHERE))
    assert any("tasks are among those of source" in line for line in said)
