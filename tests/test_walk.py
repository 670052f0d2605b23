"""The quickstart as a newcomer has it, in a terminal that does not last."""

import os

import PIL.Image
import pytest
import running

from mtrl_jax import metrics

UPDATES = 48
# The quickstart's tasks, agent and PBT in shorter chunks: 960 env steps an update.
SHORT = (
    f"training.env_steps={UPDATES * 960}",
    "training.updates_per_chunk=4",
    "population.size=4",
    "population.pbt.interval=12",
    "population.pbt.burn_in=12",
    "population.pbt.min_episodes=1",
    "evaluation.every_updates=12",
    "evaluation.episodes=4",
    "checkpoint.every_updates=16",
)


@pytest.mark.slow
def test_the_quickstart_survives_ctrl_c_and_a_closed_terminal(tmp_path, cached):
    """Train, Ctrl-C, resume, hang up half-way, evaluate, plot, render: all is there."""
    run, config = tmp_path / "run", running.ROOT / "configs" / "quickstart.yaml"
    process, terminal = running.start_in_terminal(
        "train", config, *SHORT, "--run-dir", run, cache=cached
    )
    running.watch(terminal, lambda: running.newest_row(run) >= 8)
    os.write(terminal, b"\x03")
    running.watch(terminal, lambda: process.poll() is not None)
    assert process.returncode == 130
    os.close(terminal)
    kept = running.newest_row(run)
    assert running.checkpoints(run)[-1] == kept
    assert 8 <= kept < UPDATES

    process, terminal = running.start_in_terminal("resume", run, cache=cached)
    running.watch(terminal, lambda: running.newest_row(run) > kept)
    os.close(terminal)
    assert process.wait(600) == 0

    rows = metrics.read_metrics(run)
    assert rows.update.tolist() == list(range(0, UPDATES + 1, 4))
    tasks = ["gymnax/CartPole-v1", "gymnax/Catch-bsuite", "gymnax/MemoryChain-bsuite"]
    assert list(rows.evaluation) == tasks
    assert [row["update"] for row in metrics.read_lineage(run)] == [12, 24, 36]
    summary = metrics.read_summary(run)
    assert summary["totals"]["updates"] == UPDATES
    assert list(summary["tasks"]) == tasks

    asked = running.mtrl("evaluate", run, "--episodes", 2)
    assert asked.code == 0, asked.err
    assert f"checkpoint of update {UPDATES}" in asked.out
    drawn = running.mtrl("plot", run)
    assert drawn.code == 0, drawn.err
    pictures = {path.name for path in (run / "plots").iterdir()}
    assert pictures == {
        *("returns.png", "hyperparameters.png", "metrics.png"),
        *("tasks.png", "lineage.png"),
    }
    shown = running.mtrl("render", run, "--out", tmp_path / "x.gif", "--steps", 20)
    assert shown.code == 0, shown.err
    with PIL.Image.open(tmp_path / "x.gif") as image:
        assert image.n_frames > 5
