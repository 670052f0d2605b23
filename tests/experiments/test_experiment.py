"""Whole runs: what is in the folder, what may change the numbers and what may not."""

import json

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest
import running

from mtrl_jax import config, metrics, plots, types
from mtrl_jax.engine import evaluate, fitness, fused_runner
from mtrl_jax.experiments import reading
from mtrl_jax.metrics import estimates
from mtrl_jax.plots import run_series
from mtrl_jax.training import chunk_rows, report

TASKS = ["probe/action", "probe/memory"]


# The folder.


def test_a_run_leaves_what_it_promises(finished):
    """Settings, rows, rounds, checkpoints and a summary; pictures only if asked for."""
    names = {path.name for path in finished.iterdir()}
    promised = "config.yaml metrics.jsonl lineage.jsonl summary.json checkpoints"
    assert names >= set(promised.split()) and "plots" not in names
    assert running.checkpoints(finished) == [24, 36, 40]  # the newest three
    given = config.from_dict(running.TINY)
    assert reading.load_config(finished) == given


def test_every_chunk_has_one_row(finished):
    """Rows are contiguous and hold [P] values under every name."""
    rows = [
        json.loads(line)
        for line in (finished / "metrics.jsonl").read_text().splitlines()
    ]
    assert [row["update"] for row in rows] == list(range(0, running.UPDATES + 1, 2))
    for row in rows:
        assert row["env_steps"] == row["update"] * running.STEPS
        assert all(len(values) == 4 for values in row["hparams"].values())
    for row in rows[1:]:
        assert list(row["returns"]) == TASKS
        assert {"loss", "entropy", "length/probe/action"} <= row["metrics"].keys()
        for group in ("metrics", "returns"):
            assert all(len(values) == 4 for values in row[group].values())
    wall = [row["wall_s"] for row in rows]
    assert wall == sorted(wall)
    # For how long a chunk that was compiled ran can be unknown.
    rates = [row["steps_per_s"] for row in rows[1:]]
    assert all(rate is None or rate > 0 for rate in rates) and any(rates)


def test_members_are_tested_and_compared_when_the_config_says(finished):
    """Evaluations and PBT rounds are at multiples of their intervals."""
    tested = [row["update"] for row in running.rows(finished) if "evaluation" in row]
    assert tested == [0, 8, 16, 24, 32, 40]
    lineage = metrics.read_lineage(finished)
    # None after the last update: what was measured is what was trained.
    assert [row["update"] for row in lineage] == [8, 16, 24, 32]
    copied = [row["source"] != np.arange(4) for row in lineage]
    assert np.any(copied)
    # A copy explores, the others keep what they had.
    for row, moved in zip(lineage, copied):
        same = (
            row["hparams_before"]["learning_rate"]
            == row["hparams_after"]["learning_rate"]
        )
        assert np.all(same[~moved])


def test_rows_hold_the_hyperparameters_that_were_trained_with(finished):
    """The row of a round's update has the values before it, the next row those after."""
    logged, rounds = metrics.read_metrics(finished), metrics.read_lineage(finished)
    assert rounds
    for record in rounds:
        here = int(np.flatnonzero(logged.update == record["update"])[0])
        rate = logged.hparams["learning_rate"]
        np.testing.assert_array_equal(
            rate[here], record["hparams_before"]["learning_rate"]
        )
        np.testing.assert_array_equal(
            rate[here + 1], record["hparams_after"]["learning_rate"]
        )


def test_members_begin_within_the_search_range_and_differ(finished):
    """Where there is a range, members are drawn from it; elsewhere they are alike."""
    hparams = metrics.read_metrics(finished).hparams
    first = hparams["learning_rate"][0]
    assert len(set(first)) == 4
    assert np.all((first >= 1e-3) & (first <= 1e-2))
    assert len(set(hparams["discount"].ravel())) == 1


def test_the_summary_says_who_is_best_and_of_what_run(finished):
    """Final evaluation per task and member, the best member, totals and versions."""
    summary = metrics.read_summary(finished)
    assert list(summary["tasks"]) == TASKS
    for task in summary["tasks"].values():
        for member in task["members"]:
            assert member["episodes"] + member["unfinished"] == 4
            low, high = member["interval"]
            assert member["episodes"] < 2 or low <= member["mean"] <= high
    assert summary["selected_by"] == "training"
    assert summary["best_member"] == int(np.argmax(summary["selection"]))
    assert summary["best_score"] == summary["score"][summary["best_member"]]
    totals = summary["totals"]
    assert totals["updates"] == running.UPDATES
    assert totals["env_steps_per_member"] == running.UPDATES * running.STEPS
    assert totals["population"] == 4
    assert summary["versions"]["jax"] == jax.__version__
    environments = summary["environments"]
    assert [environments[name]["slots"] for name in environments] == [2, 2]


def test_no_program_is_compiled_after_the_first_row(finished):
    """PBT, evaluations and checkpoints leave the number of programs as it was."""
    assert len(running.compiles(finished)) == 1


def test_a_setting_walks_through_ten_files_at_most(finished):
    """From `runs.train` to the sum of the losses, both counted; CONTRIBUTING names all."""
    walks = json.loads(finished.with_name("walks").read_text())
    trained, *_ = [x for x in walks if "engine/fused_runner.py" in x]
    page = (running.ROOT / ".github" / "CONTRIBUTING.md").read_text()
    _, _, after = page.partition("## The way of a setting\n")
    section, _, _ = after.partition("\n## ")
    for entry, *below in walks:
        assert (entry, below[0]) == ("cli.py", "experiments/runs.py")
        assert len({*below, "agents/common/objective.py"}) <= 10, below
    named = [x.replace("impala", "ppo") for x in trained]
    assert len(trained) > 5 and not [x for x in named if f"{x}`" not in section]


# What changes the numbers.


@pytest.mark.slow
def test_evaluating_does_not_change_training(tmp_path, finished, cached):
    """Without evaluations every row, round and bit of state is the same."""
    run = tmp_path / "run"
    running.train(run, "evaluation.every_updates=0")
    # The row of update 0 is there for its evaluation alone.
    # But the last row, which has the final evaluation in both.
    ours, theirs = running.rows(run, "evaluation"), running.rows(finished, "evaluation")
    assert ours == theirs[1:]
    assert running.bits(run) == running.bits(finished)
    ours, theirs = metrics.read_summary(run), metrics.read_summary(finished)
    assert ours["tasks"] == theirs["tasks"]


def test_another_seed_is_another_run(tmp_path, finished, cached):
    """Every number that is drawn differs from the first row on."""
    run = tmp_path / "run"
    running.train(run, "seed=1", f"training.env_steps={2 * running.STEPS}")
    for ours, theirs in zip(running.rows(run), running.rows(finished)):
        assert ours["update"] == theirs["update"]
        assert ours["hparams"]["learning_rate"] != theirs["hparams"]["learning_rate"]
        # The row of update 0 is there for its evaluation alone.
        for name in ("loss", "entropy") if ours["update"] else ():
            assert ours["metrics"][name] != theirs["metrics"][name], name


def test_pbt_can_judge_by_evaluations(tmp_path, cached):
    """A round's scores are the means of the evaluation of that update."""
    run = tmp_path / "run"
    running.train(
        run,
        "population.fitness.source=evaluation",
        "population.pbt.interval=4",
        "training.env_steps=128",
        "evaluation.hparams.temperature=0",
    )
    lineage = metrics.read_lineage(run)
    assert [row["update"] for row in lineage] == [4]
    tested = {
        row["update"]: row["evaluation"]
        for row in running.rows(run)
        if "evaluation" in row
    }
    for row in lineage:
        means = np.mean([tested[row["update"]][task] for task in TASKS], axis=0)
        np.testing.assert_allclose(row["score"], means, rtol=1e-6)


@pytest.mark.slow
def test_pbt_can_judge_by_what_else_the_environments_measure(tmp_path, cached):
    """Members compete for success, whatever their returns; the summary says so too."""
    run = tmp_path / "run"
    running.train(
        run,
        "tasks=[{env: dark/room, slots: 4}]",
        "population.fitness={metric: success, window: 32}",
        "population.pbt.interval=8",
        "training={env_steps: 2048, unroll_length: 32, updates_per_chunk: 4}",
        "evaluation={every_updates: 0, episodes: 32}",
    )
    scores = np.array([row["score"] for row in metrics.read_lineage(run)])
    assert ((scores >= 0) & (scores <= 1)).all()
    assert scores.any()
    summary = metrics.read_summary(run)
    (task,) = summary["tasks"].values()
    success = [member["success"] for member in task["members"]]
    np.testing.assert_allclose(summary["score"], success)
    assert success != [member["mean"] for member in task["members"]]
    outcome = running.mtrl(
        "train", run / "config.yaml", "population.fitness.metric=sucess"
    )
    assert outcome.code == 2
    assert "return, normalised, capped, success" in outcome.error


def test_members_can_have_a_task_each(tmp_path, cached):
    """population.axis=population: a member sees its own task and no other."""
    run = tmp_path / "run"
    running.train(
        run,
        "population.axis=population",
        "population.pbt=null",
        "training.env_steps=128",
        "tasks.0.slots=4",
        "tasks.1.slots=4",
    )
    returns = metrics.read_metrics(run).returns
    seen = {
        task: np.isfinite(values).any(axis=0).tolist()
        for task, values in returns.items()
    }
    assert seen["probe/action"] == [True, True, False, False]
    assert seen["probe/memory"] == [False, False, True, True]
    summary = metrics.read_summary(run)
    members = summary["tasks"]["probe/memory"]["members"]
    assert [m["member"] for m in members] == [2, 3]
    assert summary["selected_by"] == "training"


# Reports of numbers made by hand: 2 members, 2 tasks.

SPEC = types.EnvSpec(
    {},
    types.Discrete(2),
    (
        types.TaskSpec("a", {}, types.Discrete(2), 0.0, 10.0),
        types.TaskSpec("b", {}, types.Discrete(2)),
    ),
)


def _evaluation():
    return evaluate.Evaluation(
        returns=np.array([[2.0, 4.0, 5.0, 1.0], [8.0, 8.0, 1.0, 3.0]]),
        length=np.ones((2, 4), np.int32),
        complete=np.array([[True, True, True, False], [True, True, True, True]]),
        task=np.array([[0, 0, 1, 1], [0, 0, 1, 1]]),
        info={"success": np.array([[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]])},
    )


def test_an_evaluation_counts_an_episode_that_was_cut_with_what_it_had():
    """How many the step limit cut is said beside the mean."""
    table = report.evaluation_table(SPEC, _evaluation())
    first, second = table["b"]["members"]
    assert (first["mean"], first["episodes"], first["unfinished"]) == (3.0, 1, 1)
    assert first["interval"] == estimates.mean_interval([5.0, 1.0])
    assert (second["mean"], second["episodes"], second["unfinished"]) == (2.0, 2, 0)
    assert [m["success"] for m in table["a"]["members"]] == [0.5, 1.0]
    assert table["a"]["mean"] == 5.5
    assert table["a"]["normalised"] == pytest.approx(0.55)
    assert "normalised" not in table["b"]


def test_a_table_may_be_of_one_member_and_its_tasks_alone():
    """The mean over members is its own then."""
    alone = report.evaluation_table(SPEC, _evaluation(), member=1)
    for name, mean in (("a", 8.0), ("b", 2.0)):
        (found,) = alone[name]["members"]
        assert (found["member"], found["mean"], alone[name]["mean"]) == (1, mean, mean)
    apart = _evaluation()._replace(task=np.array([[0] * 4, [1] * 4]))
    assert list(report.evaluation_table(SPEC, apart, member=1)) == ["b"]


def test_scores_are_of_the_tasks_and_the_measure_that_count():
    """Those of population.fitness: one task, or what else an episode has."""
    means, lengths = (
        np.array([[3.0, 1.0], [8.0, 0.0]]),
        np.array([[1.0, 2.0], [5.0, 6.0]]),
    )
    of_b = fitness.make_metric(SPEC, "return", "b")
    np.testing.assert_array_equal(report.scores(of_b, means), [1.0, 0.0])
    row = {
        "returns": dict(zip("ab", means.T)),
        "metrics": {f"length/{name}": x for name, x in zip("ab", lengths.T)},
    }
    by_length = fitness.Metric((0.0,) * 2, (1.0,) * 2, np.inf, (1.0,) * 2, "length")
    judged = report.judged(by_length, row)
    assert {name: x.tolist() for name, x in judged.items()} == {
        "a": [1, 5],
        "b": [2, 6],
    }
    assert report.judged(of_b, row) is row["returns"]
    best = [report.best_member(metric, SPEC, row) for metric in (of_b, by_length)]
    assert best == [0, 1]


def test_a_member_that_lives_long_is_not_judged_by_its_failures():
    """The summary's scores are those that PBT goes by: 31 of 32 were cut at 200."""
    returns = np.full((2, 32), [[200.0], [100.0]])
    returns[0, 0] = 30.0
    evaluation = evaluate.Evaluation(
        returns=returns,
        length=np.full((2, 32), 200, np.int32),
        complete=returns != 200.0,
        task=np.zeros((2, 32), np.int32),
        info={},
    )
    spec = SPEC._replace(tasks=SPEC.tasks[:1])
    metric = fitness.make_metric(spec, "return")
    judged = fitness.of_evaluation(metric, evaluation, np.ones(2, bool))
    summary = report.summary(
        spec,
        metric,
        evaluation,
        selection=np.full(2, np.nan),
        finite=np.ones(2, bool),
        totals={},
        environment={},
    )
    np.testing.assert_allclose(summary["score"], judged.score, rtol=1e-6)
    assert summary["best_member"] == 0
    row = report.row(spec, None, evaluation)
    np.testing.assert_allclose(row["evaluation"]["a"], [194.6875, 100.0])


@pytest.mark.parametrize(
    ("selection", "best", "by"),
    [([3.0, 1.0], 0, "training"), ([np.nan, np.nan], 1, "evaluation")],
)
def test_the_best_member_is_chosen_by_training(selection, best, by):
    """The evaluation that is reported has no part in the choice, unless it must."""
    summary = report.summary(
        SPEC,
        fitness.make_metric(SPEC, "return"),
        _evaluation(),
        selection=np.array(selection),
        finite=np.ones(2, bool),
        totals={},
        environment={},
    )
    assert (summary["best_member"], summary["selected_by"]) == (best, by)
    np.testing.assert_allclose(summary["score"], [(3.0 + 3.0) / 2, (8.0 + 2.0) / 2])
    lines = report.table(summary).splitlines()
    assert len(lines) == 4
    assert f"best #{best}: selected by {by}" in lines[0]
    # Of one chunk alone the progress line says "best now".
    assert ("its latest episodes" in lines[0]) == (by == "training")
    assert ("flatters" in lines[0]) == (by == "evaluation")
    assert f"best #{best}" in lines[1]
    assert summary["best_score"] == summary["score"][best]
    np.testing.assert_allclose(
        summary["selection"], selection if by == "training" else summary["score"]
    )


def test_a_lost_member_has_no_score_and_is_never_best():
    """Its episodes count for nothing, and the table says why."""
    summary = report.summary(
        SPEC,
        fitness.make_metric(SPEC, "return"),
        _evaluation(),
        selection=np.array([3.0, 1.0]),
        finite=np.array([False, True]),
        totals={},
        environment={},
    )
    assert summary["lost"] == [0]
    assert summary["best_member"] == 1
    np.testing.assert_allclose(summary["score"], [np.nan, 5.0])
    lost, other = summary["tasks"]["a"]["members"]
    assert lost["lost"] and lost["episodes"] == 0 and np.isnan(lost["mean"])
    assert "lost" not in other
    assert summary["tasks"]["a"]["mean"] == other["mean"] == 8.0
    assert report.episodes(lost).startswith("lost: ")


def test_a_best_member_without_the_task_has_no_score_in_the_table():
    """Where members have a task each: its own row has its own number, the other none."""
    evaluation = _evaluation()._replace(task=np.array([[0] * 4, [1] * 4]))
    for best, selection in enumerate(([9.0, 1.0], [1.0, 9.0])):
        summary = report.summary(
            SPEC,
            fitness.make_metric(SPEC, "return"),
            evaluation,
            selection=np.array(selection),
            finite=np.ones(2, bool),
            totals={},
            environment={},
        )
        assert summary["best_member"] == best
        rows = [line.split() for line in report.table(summary).splitlines()[2:]]
        assert [len(row) > 2 for row in rows] == [best == 0, best == 1]
        assert rows[best][1] == rows[best][2] == ("3.000", "5.000")[best]
        drawn = run_series.Run("x", None, [], None, {}, summary["tasks"], best, {})
        figure = plots.tasks.of_run(drawn)
        (panel,) = figure.axes
        drawn_tasks = [label.get_text() for label in panel.get_xticklabels()]
        assert drawn_tasks == list(summary["tasks"])
        assert len(panel.containers) == 2  # the bars of each
        plt.close(figure)


@pytest.mark.parametrize("scores", [(50.0, 50.0), (1.0, 0.0)])
def test_scores_that_are_no_scale_normalise_nothing(scores):
    """A bandit of equal arms ended its run in a division by zero, trained as it was."""
    task = SPEC.tasks[0]._replace(random_score=scores[0], reference_score=scores[1])
    table = report.evaluation_table(SPEC._replace(tasks=(task,)), _evaluation())
    assert "normalised" not in table["a"] and np.isfinite(table["a"]["mean"])


def test_a_row_has_means_over_the_chunks_episodes():
    """Sums are divided by episodes; NaN says that there was none."""
    output = fused_runner.ChunkOutput(
        metrics={"loss": np.array([1.0, 2.0])},
        episodes={
            "episodes": np.array([[2.0, 1.0], [4.0, 0.0]]),
            "return": np.array([[6.0, 5.0], [4.0, 0.0]]),
            "length": np.array([[10.0, 3.0], [8.0, 0.0]]),
        },
        finite=np.array([True, True]),
    )
    row = report.row(SPEC, output, None)
    np.testing.assert_array_equal(row["returns"]["a"], [3.0, 1.0])
    np.testing.assert_array_equal(row["returns"]["b"], [5.0, np.nan])
    np.testing.assert_array_equal(row["metrics"]["length/a"], [5.0, 2.0])
    assert "evaluation" not in row
    # A measure that one task has; a mixture's sums of the other are 0.
    measured = SPEC.tasks[0]._replace(measures=("success",))
    spec = SPEC._replace(tasks=(measured, SPEC.tasks[1]))
    sums = output.episodes | {"success": np.array([[1.0, 0.0], [4.0, 0.0]])}
    found = report.row(spec, output._replace(episodes=sums), None)["metrics"]
    np.testing.assert_array_equal(found["success/a"], [0.5, 1.0])
    np.testing.assert_array_equal(found["success/b"], [np.nan, np.nan])
    half = report.row(
        SPEC, output._replace(finite=np.array([False, True])), _evaluation()
    )
    np.testing.assert_array_equal(half["returns"]["a"], [np.nan, 1.0])
    np.testing.assert_array_equal(half["evaluation"]["a"], [np.nan, 8.0])
    metric = fitness.make_metric(SPEC, "return")
    assert report.best_member(metric, SPEC, row) == 0
    tested = report.row(SPEC, None, _evaluation())
    np.testing.assert_array_equal(tested["evaluation"]["b"], [3.0, 2.0])
    assert report.best_member(metric, SPEC, tested) == 1


@pytest.mark.parametrize(
    ("returns", "words"),
    [
        ([[1.0, np.nan], [1.0, 2.0]], "rewards of b are not finite"),
        ([[1.0, 0.0], [1.0, 2.0]], "lower the learning rate"),
    ],
)
def test_rewards_that_are_not_finite_are_blamed_on_no_learning_rate(returns, words):
    """A run without a finite member names the task where they came from."""
    episodes = {"return": np.array(returns)}
    output = fused_runner.ChunkOutput({}, episodes, np.array([False, False]))
    assert words in chunk_rows.advice(SPEC, output)
    assert "learning rate" in chunk_rows.advice(SPEC, output._replace(episodes={}))


def test_a_picture_that_cannot_be_drawn_costs_no_run(tmp_path):
    """What goes wrong is said in a line."""
    (tmp_path / "metrics.jsonl").write_text('{"update": 1}\n')
    (tmp_path / "plots").write_text("in the way")
    assert report.draw(tmp_path).startswith("plots were not drawn: ")
