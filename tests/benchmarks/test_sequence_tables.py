"""The tables of sequence policies that are run by name, of results small enough to know."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "benchmarks"))
try:
    import sequence_policies_beyond as beyond
    import tables_in_context as others
    import tables_sequence as tables
finally:
    sys.path.pop(0)


def row(arm, goal="", last=3.0):
    return {
        "arm": arm,
        "goal": goal,
        "first": 1.0,
        "last": last,
        "mean": 2.0,
        "low": 1.5,
        "high": 2.5,
        "random_score": 0.0,
        "optimal_score": 8.0,
    }


def test_every_experiment_has_a_table_and_one_not_run_says_so():
    """Of each experiment of the script, in one of two files."""
    known = {f"sequence_policies_{name}" for name in beyond.EXPERIMENTS}
    assert known <= set(tables.TABLES) | set(others.TABLES)
    assert "not run" in tables.of("nothing", tables.many_tasks)[1][1]


def test_a_table_has_the_arms_and_goals_that_were_run():
    """Two data sets of three, two kinds of six."""
    rows = [row("ad", "whole"), row("iql", "whole", 5.0)]
    rows += [row("ad", "half_noise"), row("iql", "half_noise", 12.0)]
    made = tables._MADE["q_objective"]({"arms": rows})
    assert made == [
        ["", "whole", "50 % noise"],
        ["imitation (AD)", "1.00 → 3.00", "1.00 → 3.00"],
        ["IQL, acting by its values", "1.00 → 5.00", "1.00 → 12.0"],
    ]


def test_many_tasks_say_what_they_took():
    """Bytes and rates of the stages of each arm; a rate of one chunk is not known."""
    data = []
    for arm in ("many", "few"):
        source = {"stage": f"source_{arm}", "histories": 10_000, "bytes": 144_900_000}
        data.append(source | {"steps_per_s": 250_000.0})
        data.append({"stage": f"model_{arm}", "steps_per_s": None})
    found = {"arms": [row("many"), row("few")], "data": data}
    size = "10,000, 145 MB"
    assert tables.many_tasks(found)[1] == [
        "10,000", "1.00", "3.00", "2.00 [1.50, 2.50]", size, "250 k", tables.NONE,
    ]  # fmt: skip


def test_an_arm_that_did_not_play_a_game_has_no_score_of_all():
    """Its cell and its mean are a dash, and those of the other arms are not."""
    played = [("bc", "Breakout"), ("bc", "Asterix"), ("top_bc_25", "Breakout")]
    made = tables.games({"arms": [row(*given) for given in played]})
    cell = "2.00 [1.50, 2.50]"
    assert made[1:] == [
        ["cloning", cell, cell, "0.250"],
        ["cloning the best quarter", cell, tables.NONE, tables.NONE],
    ]


def test_every_arm_of_values_and_heads_has_a_label():
    """A table of a run that took hours must not end in a KeyError."""
    for name in ("q_objective", "ngram", "minatar"):
        found = beyond.EXPERIMENTS[name]()
        rows = [row(arm.name, arm.goal) for arm in found.arms]
        made = tables._MADE[name]({"arms": rows})
        assert len(made) == 1 + len({arm.name for arm in found.arms})
        scored = name == "minatar"
        assert len(made[0]) == 1 + scored + len({arm.goal for arm in found.arms})
        assert {len(line) for line in made} == {len(made[0])}
        assert len({line[0] for line in made}) == len(made)
        assert not scored or {line[-1] for line in made[1:]} == {"0.250"}
