"""Experiments in stages: what each leaves, and how it goes on after a kill."""

import json
import os
import pathlib
import shutil
import signal

import numpy as np
import pytest
import running
import staged_runs
import tiny_settings
import yaml

from mtrl_jax import checkpoint, config, errors, metrics
from mtrl_jax.data import histories
from mtrl_jax.experiments import kinds, reading

# What is left behind.


def test_every_stage_is_a_run_folder_of_its_own(staged):
    """Settings, rows, checkpoints, pictures, summary; the top says what is done."""
    for name in staged_runs.NAMES:
        found = {path.name for path in staged_runs.stage_of(staged, name).iterdir()}
        promised = "config.yaml metrics.jsonl checkpoints summary.json"
        assert found >= set(promised.split())
        assert (
            config.load(staged_runs.stage_of(staged, name) / "config.yaml").name == name
        )
    summary = metrics.read_summary(staged)
    done = {name: stage["done"] for name, stage in summary["stages"].items()}
    assert done == dict.fromkeys(staged_runs.NAMES, True)
    assert summary["complete"] and summary["results"]["stage"] == "in_context"
    settings = config.load(staged / "config.yaml")
    assert config.from_dict(yaml.safe_load(config.dump(settings))) == settings
    assert len({stage.seed for stage in settings.stages}) == 3


def test_whole_histories_are_on_disk_and_split_by_task(staged):
    """Contiguous per learner, returns of the rows, tasks that the test has not."""
    data = histories.load(staged_runs.stage_of(staged, "source") / "histories")
    assert data.reward.shape == (3, 60)
    assert data.task.tolist() == [0, 1, 0]
    # 4 steps and a reset, again and again, from the first to the last.
    assert (data.first == (np.arange(60) % 5 == 0)).all()
    assert (data.reset == (np.arange(60) % 5 == 4)).all()
    rows = metrics.read_metrics(staged_runs.stage_of(staged, "source"))
    # A chunk of 10 steps is two whole episodes.
    sums = data.reward.reshape(3, 6, 10).sum(-1).T / 2
    np.testing.assert_allclose(rows.returns["dark/room"], sums, rtol=1e-6)
    from mtrl_jax import envs

    tasks = [
        {tuple(x.ravel()) for x in np.asarray(envs.tasks_of("dark/room", o).goals)}
        for o in (
            {**tiny_settings.ROOM, "tasks": "train"},
            {**tiny_settings.ROOM, "tasks": "test"},
        )
    ]
    assert not tasks[0] & tasks[1]


@pytest.mark.slow
def test_the_source_may_be_an_actor_critic(tmp_path, cached):
    """V-trace learners with a task each leave their histories."""
    path = staged_runs.write(
        tmp_path / "tiny.yaml",
        "stages.0.agent={name: impala, config: {network: {hidden: [8]}}}",
        "stages.0.training.unroll_length=5",
        "stages.0.training.updates_per_chunk=4",
        settings={"stages": staged_runs.TINY["stages"][:1]},
    )
    outcome = running.mtrl("train", path, "--run-dir", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    folder = staged_runs.stage_of(tmp_path / "run", "source")
    data = histories.load(folder / "histories")
    assert data.reward.shape == (3, 60)
    assert data.task.tolist() == [0, 1, 0]
    learned = np.array([row["metrics"]["grad_norm"] for row in running.rows(folder)])
    assert np.all(learned > 0)
    assert metrics.read_summary(tmp_path / "run")["complete"]


def test_the_offline_stage_measures_selects_and_competes(staged):
    """Losses in rows, held-out ones when due, PBT by minus the loss."""
    folder = staged_runs.stage_of(staged, "model")
    rows = running.rows(folder)
    assert [row["update"] for row in rows] == [0, 2, 4, 6, 8]
    measured = [row["update"] for row in rows if "held_out/loss" in row["metrics"]]
    assert measured == [0, 4, 8]
    rounds = metrics.read_lineage(folder)
    assert [x["update"] for x in rounds] == [4]
    losses = {row["update"]: row["metrics"]["loss"] for row in rows[1:]}
    for x in rounds:
        np.testing.assert_allclose(
            x["score"], -np.asarray(losses[x["update"]]), rtol=1e-6
        )
    summary = metrics.read_summary(folder)
    assert summary["best_member"] == int(np.argmin(summary["held_out"]["loss"]))
    assert rows[1]["env_steps"] == 2 * 4 * 5


def test_the_evaluation_is_of_frozen_weights_on_all_test_tasks(staged):
    """One hash before and after, one return per task and episode, intervals around."""
    summary = metrics.read_summary(staged_runs.stage_of(staged, "in_context"))
    assert summary["parameters"]["before"] == summary["parameters"]["after"]
    model = staged_runs.state_of(staged, "model")
    tested = staged_runs.state_of(staged, "in_context")
    learned = {k: x for k, x in model.items() if k.startswith(".run.learner")}
    assert learned and learned == {k: tested[k] for k in learned}
    curve = summary["tasks"]["dark/room"]["in_context"]
    returns = np.asarray(curve["returns"])
    assert returns.shape == (4, 2, 4)  # members, test tasks, episodes
    np.testing.assert_allclose(curve["mean"], returns.mean((0, 1)))
    for mean, (low, high) in zip(curve["mean"], curve["interval"]):
        assert low <= mean <= high
    beside = summary["compared"]["source"]
    np.testing.assert_allclose(beside["episode"], np.arange(2, 13, 2))


def test_the_progress_line_names_the_stage_and_the_size_is_said_first(staged):
    """[1/3 source] …; how much disk the histories take is said before they begin."""
    printed = staged.with_name("printed").read_text()
    size = printed.index("3 histories of 60 steps on 2 tasks: ")
    at = [
        printed.index(f"[{i + 1}/3 {name}]") for i, name in enumerate(staged_runs.NAMES)
    ]
    assert size < at[0] < at[1] < at[2]


# Kills.


@pytest.mark.parametrize(
    ("stage", "update", "before"),
    [
        ("source", 40, 30),
        pytest.param("model", 6, 4, marks=pytest.mark.slow),
        pytest.param("in_context", 15, 10, marks=pytest.mark.slow),
    ],
)
def test_a_kill_in_any_stage_costs_no_bit(
    tmp_path, staged_copy, staged, cached, stage, update, before
):
    """kill -9 beyond a checkpoint of each kind of stage, then resume: nothing differs."""
    later = staged_runs.NAMES[staged_runs.NAMES.index(stage) :]
    command = ["resume", staged_runs.without(staged_copy, *later)]
    if stage == "source":
        shutil.rmtree(staged_copy)
        command = [
            "train",
            staged_runs.write(tmp_path / "tiny.yaml"),
            "--run-dir",
            staged_copy,
        ]
    stall = staged_runs.STALL.format(update=update, stage=stage)
    process = running.start(*command, cache=cached, before=stall)
    folder = staged_runs.stage_of(staged_copy, stage)
    running.wait_for(process, lambda: running.newest_row(folder) == before)
    if stage == "source":
        # Written before the row that never comes: ahead of the checkpoint.
        running.wait_for(process, lambda: staged_runs.steps_on_disk(folder) == update)
    process.kill()
    assert running.ended(process).code == -signal.SIGKILL
    assert running.checkpoints(folder)[-1] < update
    outcome = running.mtrl("resume", staged_copy)
    assert outcome.code == 0, outcome.err
    staged_runs.assert_same(staged_copy, staged)


@pytest.mark.parametrize(
    "names",
    [["in_context"], pytest.param(staged_runs.NAMES, marks=pytest.mark.slow)],
    ids=["last", "each"],
)
def test_a_stage_without_its_first_checkpoint_begins_again(
    staged_copy, staged, cached, monkeypatch, names
):
    """Killed while it compiled: its folder is there, and nothing in it to go on from."""
    staged_runs.without(staged_copy, *names)
    save = checkpoint.save
    for stage in names:

        def end(*given, stage=stage, **named):
            own = staged_runs.stage_of(staged_copy, stage)
            if (own / "checkpoints").exists() and not running.checkpoints(own):
                raise running.Ended
            save(*given, **named)

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "save", end)
            with pytest.raises(running.Ended):
                running.mtrl("resume", staged_copy)
        assert running.checkpoints(staged_runs.stage_of(staged_copy, stage)) == []
    assert running.mtrl("resume", staged_copy).code == 0
    staged_runs.assert_same(staged_copy, staged)


def test_a_signal_ends_the_stage_and_the_run(staged_copy, staged, cached, monkeypatch):
    """SIGTERM: saved, exit code 143, the whole run is what to resume."""
    write_row = metrics.MetricsWriter.write

    def stop(self, **row):
        if row["update"] == 2 and self._run.name == "model":
            os.kill(os.getpid(), signal.SIGTERM)
        write_row(self, **row)

    staged_runs.without(staged_copy, "model", "in_context")
    with monkeypatch.context() as patch:
        patch.setattr(metrics.MetricsWriter, "write", stop)
        outcome = running.mtrl("resume", staged_copy)
    assert outcome.code == 143
    assert f"`mtrl resume {staged_copy}`" in outcome.err
    summary = metrics.read_summary(staged_copy)
    assert not summary["complete"] and summary["results"]["stage"] == "source"
    assert not staged_runs.stage_of(staged_copy, "in_context").exists()
    # The folder of the stage stands for the run.
    assert running.mtrl("resume", staged_runs.stage_of(staged_copy, "model")).code == 0
    staged_runs.assert_same(staged_copy, staged)


def test_a_finished_run_is_left_as_it_is(staged_copy):
    """Resuming it trains, tests and draws nothing."""
    before = {
        p: p.stat().st_mtime_ns for p in staged_copy.rglob("*") if p.suffix != ".lock"
    }
    assert running.mtrl("resume", staged_copy).code == 0
    changed = {
        path.name
        for path, time in before.items()
        if path.is_file() and path.stat().st_mtime_ns != time
    }
    assert changed <= {"config.yaml", "summary.json", ".lock"}
    assert all(
        path.parent == staged_copy
        for path in before
        if path.name in changed and path.stat().st_mtime_ns != before[path]
    )


def test_what_is_edited_of_a_stage_that_is_done_is_refused_by_name(staged_copy):
    """By hand as by an override: what was trained had the other value."""
    path = staged_copy / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["stages"][0]["agent"]["hparams"]["decay_updates"] = 7.0
    path.write_text(yaml.safe_dump(settings))
    outcome = running.mtrl("resume", staged_copy)
    assert outcome.code == 2
    field = "stages.0.agent.hparams.decay_updates"
    assert f"{field}: stage 'source' is done and keeps it" in outcome.error


def test_another_agent_is_refused_by_its_name(staged_copy, finished):
    """Not by its fields, which it has not, in place of those that the run's agent has."""
    for run, field, name in (
        (finished, "agent.name", "dqn"),
        (staged_copy, "stages.1.agent.name", "ppo"),
    ):
        outcome = running.mtrl("resume", run, f"{field}={name}")
        assert outcome.code == 2
        assert f"{field}: the run has " in outcome.error
        assert f"'{name}' given; a running experiment keeps it" in outcome.error


def test_histories_that_end_before_the_checkpoint_say_what_to_do(staged_copy):
    """At once, before a chunk is played: an older checkpoint, or the stage once more."""
    folder = staged_runs.stage_of(staged_copy, "source")
    path = folder / "histories" / "reward.npy"
    content = bytearray(path.read_bytes())
    content[-4 * 35] ^= 1  # The last history's step 25 of 60.
    path.write_bytes(content)
    run = kinds.run_of(reading.load_config(staged_copy), staged_copy)
    program = kinds.make_program(run, run.stage("source"), 40, is_checked=True)
    with pytest.raises(errors.DatasetError) as refused:
        program.record.open(folder, 40)
    line = str(refused.value)
    assert f"remove {folder} to collect them again" in line
    assert "the checkpoints after 20 from" in line and "from step 20" in line
    with pytest.warns(UserWarning, match="going on from step 20"):
        program.record.open(folder, 20).close()
    shutil.rmtree(folder / "histories")
    with pytest.raises(errors.DatasetError, match=r"0 of 60 steps are there; 40 sound"):
        program.record.open(folder, 40)
    assert not (folder / "histories").exists()
    program.close()


# Other lists.


def _clone(data):
    """Returns an offline stage on the histories in a folder."""
    model = staged_runs.TINY["stages"][1]
    return {
        "name": "clone",
        "kind": "offline",
        "data": str(data),
        "agent": model["agent"],
        "training": {**model["training"], "updates": 2},
        "keep": {"subsample": 2, "last_fraction": 0.5},
        "logging": tiny_settings.QUIET,
    }


def test_data_may_move_while_a_stage_learns_from_them_and_be_no_others(
    tmp_path, staged, cached
):
    """Until it ends; as it was then, the run's results are those of one never stopped."""
    data, moved = tmp_path / "data", tmp_path / "moved"
    shutil.copytree(staged_runs.stage_of(staged, "source") / "histories", data)
    file = staged_runs.write(tmp_path / "x.yaml", settings={"stages": [_clone(data)]})
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert running.mtrl("train", file, "--run-dir", whole).code == 0
    running.mtrl_ending_at(2, "train", file, "--run-dir", run)
    data.rename(moved)
    refused = running.mtrl("resume", run)
    assert refused.code == 2 and f"{data} holds no dataset" in refused.error
    there = f"stages.0.data={moved}"
    meta = json.loads((moved / "meta.json").read_text())
    other = meta | {"parts": [[end, {x: 0 for x in y}] for end, y in meta["parts"]]}
    (moved / "meta.json").write_text(json.dumps(other))
    refused = running.mtrl("resume", run, there)
    assert refused.code == 2 and "data: not what the run has learned" in refused.error
    (moved / "meta.json").write_text(json.dumps(meta))
    assert running.mtrl("resume", run, there).code == 0
    names = [staged_runs.stage_of(x, "clone") for x in (run, whole)]
    assert running.rows(names[0]) == running.rows(names[1])
    # It is done, so it does not matter where the data are now.
    refused = running.mtrl("resume", run, f"stages.0.data={data}")
    assert refused.code == 2 and "stages.0.data: stage 'clone' is done" in refused.error


def test_data_may_be_a_folder_and_a_stage_may_be_online(tmp_path, staged, cached):
    """Histories of another run; an ordinary run as a stage, and its weights tested."""
    settings = {
        "stages": [
            _clone(staged_runs.stage_of(staged, "source") / "histories"),
            {
                "name": "usual",
                "kind": "online",
                "tasks": [{"env": "probe/action", "slots": 2}],
                "agent": running.TINY["agent"],
                "training": {
                    "env_steps": 16,
                    "unroll_length": 4,
                    "updates_per_chunk": 2,
                },
                "evaluation": {"every_updates": 0, "episodes": 2},
                "logging": tiny_settings.QUIET,
            },
            {
                "name": "again",
                "kind": "evaluate",
                "of": "usual",
                "tasks": [{"env": "probe/action", "slots": 3}],
                "evaluation": {"episodes": 3, "hparams": {"temperature": 0.0}},
                "logging": {"tensorboard": False},
            },
        ]
    }
    run = tmp_path / "run"
    outcome = running.mtrl(
        "train",
        staged_runs.write(tmp_path / "x.yaml", settings=settings),
        "--run-dir",
        run,
    )
    assert outcome.code == 0, outcome.err
    assert np.isfinite(
        metrics.read_summary(staged_runs.stage_of(run, "clone"))["score"]
    ).all()
    tested = metrics.read_summary(staged_runs.stage_of(run, "again"))["tasks"][
        "probe/action"
    ]
    returns = np.asarray(tested["in_context"]["returns"])
    assert returns.shape == (1, 1, 3)
    # Greedy, every slot and episode is the same.
    assert len(np.unique(returns)) == 1
    assert (staged_runs.stage_of(run, "again") / "plots" / "in_context.png").exists()


def test_a_stage_that_has_only_begun_is_not_drawn(staged, tmp_path):
    """While it compiles, plot draws those before it; alone, it is the one to complain of."""
    run, names = tmp_path / "run", staged_runs.NAMES[:2]
    run.mkdir()
    shutil.copy(staged / "config.yaml", run)
    with pytest.raises(errors.ConfigError, match=r"none of its stages .*mtrl resume"):
        reading.parts(run)
    for folder in (pathlib.Path(), *(pathlib.Path("stages", name) for name in names)):
        (run / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(staged / folder / "config.yaml", run / folder)
    assert [path.name for path in reading.parts(run)] == names
    rows = pathlib.Path("stages", names[0], "metrics.jsonl")
    shutil.copy(staged / rows, run / rows)
    assert [path.name for path in reading.parts(run)] == names[:1]


def test_commands_for_runs_know_stages(staged, staged_copy, tmp_path):
    """plot draws them all; evaluate and render want a stage with environments."""
    drawn = [pathlib.Path(x) for x in running.mtrl("plot", staged_copy).out.split()]
    assert {path.parts[-3] for path in drawn} == set(staged_runs.NAMES)
    assert "in_context.png" in {path.name for path in drawn}
    assert (
        running.mtrl(
            "evaluate", staged_runs.stage_of(staged, "source"), "--episodes", 2
        ).code
        == 0
    )
    for folder in (
        staged,
        staged_runs.stage_of(staged, "model"),
        staged_runs.stage_of(staged, "in_context"),
    ):
        for command in (["evaluate"], ["render", "--out", tmp_path / "x.gif"]):
            outcome = running.mtrl(command[0], folder, *command[1:])
            assert outcome.code == 2
            assert "RUN/stages/NAME" in outcome.error
    source = running.mtrl(
        "render", staged_runs.stage_of(staged, "source"), "--out", tmp_path / "x.gif"
    )
    assert source.code == 2 and "kind collect" in source.error
