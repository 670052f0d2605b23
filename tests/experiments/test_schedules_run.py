"""Runs with schedules: what their rows say, and that no interruption changes it."""

import json
import math
import types
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import running

from mtrl_jax import config, hparams, metrics
from mtrl_jax.engine import fitness, fused_runner, schedules
from mtrl_jax.training import scheduler
from mtrl_jax.types import EnvSpec, TaskSpec

CHUNK = 2
# Beside PBT, which moves the learning rate.
SCHEDULES = {
    "entropy_cost": {"kind": "linear", "low": 0.02, "high": 0.0, "end": 0.75},
    # So restless that no chunk is without an effect.
    "value_cost": {
        "kind": "plateau", "low": 0.5, "high": 1.0, "step": 0.03125, "patience": 1
    },
}  # fmt: skip
CHANGES = [f"agent.schedules.{name}={value}" for name, value in SCHEDULES.items()]


@pytest.fixture(name="observed", scope="module")
def _observed(tmp_path_factory):
    """A run with both schedules from the first to the last update, and its chunks."""
    folder, outputs = tmp_path_factory.mktemp("scheduled") / "run", []
    observe = scheduler.Scheduler.observe

    def noted(self, update, output):
        outputs.append(output)
        observe(self, update, output)

    with mock.patch.object(scheduler.Scheduler, "observe", noted):
        running.train(folder, *CHANGES)
    return folder, outputs


@pytest.fixture(name="scheduled", scope="module")
def _scheduled(observed):
    """The run's folder; do not change it."""
    return observed[0]


@pytest.fixture
def interrupt(cached):
    """Returns a function that trains until it would log ``update``."""

    def train(run, update):
        settings = running.write(run.with_suffix(".yaml"), *CHANGES)
        running.mtrl_ending_at(update, "train", settings, "--run-dir", run)

    return train


def _hparam(rows, name):
    """Returns the value of each row; fails where members differ."""
    values = np.array([row["hparams"][name] for row in rows])
    assert (values == values[:, :1]).all()
    return values[:, 0].tolist()


def _mean_scores(outputs):
    """Returns the mean score after each chunk, written out once more."""
    latest, means = {}, []
    for output in outputs:
        ended = output.episodes["episodes"] > 0
        news = np.where(ended, output.recent, np.nan)
        known = [at for at, x in np.ndenumerate(news) if np.isfinite(x)]
        latest |= {at: float(news[at]) for at in known}
        whole = known and len(latest) == news.size
        means.append(np.mean(list(latest.values())) if whole else math.nan)
    return means


# Whole runs.


def test_rows_hold_the_value_of_the_update_their_chunk_starts_at(scheduled):
    """A line over the run's updates, alike for all members, from low on."""
    rows = running.rows(scheduled)
    schedule = schedules.Schedule(**SCHEDULES["entropy_cost"])
    starts = [max(row["update"] - CHUNK, 0) for row in rows]
    expected = [schedules.value_at(schedule, u / running.UPDATES) for u in starts]
    assert _hparam(rows, "entropy_cost") == np.float32(expected).tolist()
    assert len(set(expected)) == 16  # It moves, and ends before the run does.


def test_a_plateau_follows_the_scores_of_two_chunks_before(scheduled, observed):
    """The fold over what members are judged by, without the newest, not known yet."""
    first, *rows = running.rows(scheduled)
    before, *outputs = observed[1]
    assert before is None and len(outputs) == len(rows)
    schedule = schedules.Schedule(**SCHEDULES["value_cost"])
    plateau, expected = schedules.Plateau(), [schedule.low, schedule.low]
    for mean_score in _mean_scores(outputs)[:-2]:
        plateau = schedules.plateau_update(schedule, plateau, mean_score)
        expected.append(schedules.value_after(schedule, plateau))
    assert _hparam(rows, "value_cost") == np.float32(expected).tolist()
    assert _hparam([first], "value_cost") == [schedule.low]
    assert len(set(expected)) >= 8


def test_scheduled_values_compile_nothing(scheduled):
    """The number of programs is the same in all rows."""
    assert len(running.compiles(scheduled)) == 1


def test_checkpoints_and_rounds_see_the_scheduled_values(scheduled):
    """A checkpoint holds what its last chunk was trained with; PBT leaves it alone."""
    rows = running.rows(scheduled)
    by_update = {row["update"]: row["hparams"] for row in rows}
    for record in metrics.read_lineage(scheduled):
        for name in SCHEDULES:
            for when in ("hparams_before", "hparams_after"):
                assert record[when][name].tolist() == by_update[record["update"]][name]
    saved = running.bits(scheduled)
    for name in SCHEDULES:
        last = np.float32(rows[-1]["hparams"][name]).tobytes()
        # In whatever group of the hyperparameters it is.
        found = [
            bits
            for path, bits in saved.items()
            if path.startswith(".hparams.") and path.endswith(f".{name}")
        ]
        assert found == [last]


@pytest.mark.parametrize(
    "update", [*(pytest.param(x, marks=pytest.mark.slow) for x in (2, 16)), 28]
)
def test_a_resumed_run_has_the_values_of_the_uninterrupted_one(
    tmp_path, scheduled, interrupt, update
):
    """From the first checkpoint, and from two in the middle of what a plateau observes."""
    run = tmp_path / "run"
    interrupt(run, update)
    outcome = running.mtrl("resume", run)
    assert outcome.code == 0, outcome.err
    running.assert_same(run, scheduled)
    assert len(running.compiles(run, after=update // 12 * 12)) == 1


@pytest.mark.slow
def test_how_often_a_run_is_saved_changes_no_value(tmp_path, scheduled, cached):
    """A checkpoint has rows written early; a plateau observes them when it would anyway."""
    run = tmp_path / "run"
    running.train(run, *CHANGES, f"checkpoint.every_updates={CHUNK}")
    assert running.rows(run) == running.rows(scheduled)


def test_a_resumed_run_refuses_another_schedule(tmp_path, scheduled):
    """The schedule and its hyperparameter's value stay what they are."""
    before = (scheduled / "config.yaml").read_bytes()
    for change in (
        "agent.schedules.entropy_cost.end=0.5",
        "agent.hparams.entropy_cost=0.3",
    ):
        outcome = running.mtrl("resume", scheduled, change)
        assert outcome.code == 2
        assert change.split("=")[0] in outcome.error
    assert (scheduled / "config.yaml").read_bytes() == before


# The scheduler alone: one member, two tasks, two updates a chunk.

ALONE = {"value_cost": {**SCHEDULES["value_cost"], "tolerance": 0.0}}
HISTORY = [
    {"a": [1.0], "b": [np.nan]},  # b is not known: no chunk.
    {"a": [1.0], "b": [20.0]},
    {"a": [2.0], "b": [np.nan]},  # A rise: b is still 20.
    {"a": [np.nan], "b": [np.nan]},  # No chunk.
    {"a": [np.nan], "b": [20.0]},  # No rise: a is still 2.
    {"a": [2.0], "b": [19.0]},  # No rise.
    {"a": [4.0], "b": [np.nan]},  # A rise, because b is 19.
    {"a": [1.0], "b": [np.nan]},  # No rise, and never observed.
]
MOVES = [0, 0, 0, 0, 0, 0, 1, 2, 2]  # before each chunk, two chunks later


def _scheduler(memory=None, metric="return", best=1.0, patience=1):
    tasks = (TaskSpec("a", {}, None, 0.0, best), TaskSpec("b", {}, None, 0.0, 1000.0))
    schedule = ALONE["value_cost"] | {"patience": patience}
    spec = EnvSpec({}, None, tasks)
    settings = config.from_dict(
        {
            "tasks": [{"env": "probe/action"}],
            "agent": {"schedules": {"value_cost": schedule}},
            "training": {"updates_per_chunk": CHUNK},
        }
    )
    program = types.SimpleNamespace(
        spec=spec,
        metric=fitness.make_metric(spec, metric),
        run_length=types.SimpleNamespace(updates=100, per_chunk=CHUNK),
    )
    return scheduler.make(settings, program, memory)


def _output(a, b, lost=(), plays=True):
    """Returns a chunk's output of members with these recent means of a and b."""
    recent = np.float32([a, b]).T
    finite = np.array([member not in lost for member in range(len(a))])
    plays = np.broadcast_to(plays, recent.shape)
    ended = {"episodes": np.isfinite(recent).astype(np.float32)}
    return fused_runner.ChunkOutput({}, ended, finite, (), recent, plays)


def _hparams():
    from mtrl_jax.agents import impala

    hp = hparams.override(impala.Hparams(), {"value_cost": jnp.full(1, 0.5)})
    return jax.tree.map(jnp.float32, hp)


def _moves(scheduler, update):
    value = hparams.flatten(scheduler.apply(_hparams(), update))["value_cost"]
    return (float(value[0]) - 0.5) / ALONE["value_cost"]["step"]


def test_a_task_without_news_counts_as_before():
    """The mean return does not jump with the tasks that have finished an episode."""
    scheduler, moves = _scheduler(), []
    for i, returns in enumerate(HISTORY):
        moves.append(_moves(scheduler, CHUNK * i))
        scheduler.observe(CHUNK * (i + 1), _output(**returns))
    moves.append(_moves(scheduler, CHUNK * len(HISTORY)))
    assert moves == MOVES


@pytest.mark.parametrize("saved", range(len(HISTORY)))
def test_a_checkpoints_memory_is_all_a_plateau_needs(saved):
    """Through JSON after any chunk, with the row of that chunk: the same values."""
    scheduler, moves = _scheduler(), []
    for i, returns in enumerate(HISTORY):
        if i == saved:
            scheduler = _scheduler(json.loads(json.dumps(scheduler.state_dict())))
        moves.append(_moves(scheduler, CHUNK * i))
        scheduler.observe(CHUNK * (i + 1), _output(**returns))
    assert moves == MOVES[:-1]


def test_rows_that_come_one_chunk_behind_give_the_same_values():
    """As the loop writes them where there is no checkpoint."""
    scheduler, moves = _scheduler(), []
    for i in range(len(HISTORY) + 1):
        moves.append(_moves(scheduler, CHUNK * i))
        if i > 0:
            scheduler.observe(CHUNK * i, _output(**HISTORY[i - 1]))
    assert moves == MOVES


def test_tasks_count_as_the_populations_fitness_says():
    """Normalised returns of tasks of other scales: b's hundred is a's tenth."""
    for metric, expected in (("return", 0), ("normalised", 1)):
        scheduler = _scheduler(metric=metric)
        scheduler.observe(2, _output([0.0], [100.0]))
        scheduler.observe(4, _output([-0.2], [200.0]))
        assert _moves(scheduler, 6) == expected


def test_a_members_rise_is_seen_beside_one_above_the_cap():
    """Limited are the scores of members, (0 + 1)/2, not their mean, min(10/10, 1)."""
    for rise, expected in ((10.0, 0), (0.0, 1)):
        scheduler = _scheduler(metric="capped", best=10.0)
        for update, of_first in ((2, 0.0), (4, rise)):
            scheduler.observe(update, _output([of_first, 20.0], [500.0] * 2))
        assert _moves(scheduler, 6) == expected
        assert scheduler.plateaus["value_cost"].top == (0.75 if rise else 0.5)


def test_who_is_lost_or_has_no_slot_of_a_task_counts_for_nothing():
    """Nobody waits for them; for a member that has ended nothing of its own all do."""
    none = np.nan
    one_each = [[True, False], [False, True]]
    for given, expected in (
        (_output([1.0, none], [3.0, none]), none),
        (_output([1.0, none], [3.0, none], lost=[1]), 2.0),
        (_output([1.0, 7.0], [3.0, 7.0], lost=[1]), 2.0),
        (_output([1.0, none], [none, 7.0], plays=one_each), 4.0),
        (_output([1.0, none], [none, 7.0], lost=[1], plays=one_each), 1.0),
        (_output([1.0, 1.0], [3.0, 3.0], lost=[0, 1]), none),
    ):
        scheduler = _scheduler()
        scheduler.observe(2, given)
        np.testing.assert_array_equal(scheduler.waiting[0][1], expected)
    # What was known of a member before it was lost is not of its successor.
    scheduler = _scheduler()
    for update, output in enumerate(
        [
            _output([1.0, 9.0], [3.0, 9.0]),
            _output([1.0, none], [3.0, none], lost=[1]),
            _output([1.0, none], [3.0, none]),
            _output([none, 5.0], [none, 5.0]),
        ]
    ):
        scheduler.observe(update, output)
    found = [score for _, score in scheduler.waiting]
    np.testing.assert_array_equal(found, [5.5, 2.0, none, 3.5])


def test_a_checkpoint_with_means_over_members_is_read_without_them():
    """As it was before members counted each: what was observed stays."""
    memory = {
        "latest": [1.0, None],
        "waiting": [[2, 5.0]],
        "plateaus": {
            "value_cost": {"moves": 3, "best": 9.0, "bottom": 0.0, "top": 9.0}
        },
    }
    scheduler = _scheduler(memory)
    assert _moves(scheduler, 4) == 4  # 5 is no rise.
    scheduler.observe(4, _output([1.0], [5.0]))
    assert scheduler.waiting == [(4, 3.0)]


def test_a_start_of_short_episodes_moves_no_plateau():
    """Success ends an episode after 10 steps, failure after 100: of the first that end
    nearly all succeed, and no rise from .5 to .9 would be one over that.
    """
    slots, chunk, draw = 64, 20, np.random.default_rng(0)
    judged, by_rows = (_scheduler(patience=5) for _ in range(2))
    age, passes = np.zeros(slots, int), draw.random(slots) < 0.5
    newest, score = np.full(slots, np.nan), []
    for n in range(15):
        ended: list = []
        for t in range(n * chunk, (n + 1) * chunk):
            age += 1
            last = age == np.where(passes, 10, 100)
            ended += passes[last].tolist()
            newest[last] = passes[last]
            chance = min(0.9, 0.5 + 0.4 * t / 200)
            passes = np.where(last, draw.random(slots) < chance, passes)
            age[last] = 0
        # A ring of one episode of each slot: NaN until all have ended one.
        score.append([newest.mean(), np.mean(ended)])
        for one, mean in zip((judged, by_rows), score[-1]):
            one.observe(CHUNK * (n + 1), _output([mean], [0.0]))
            _moves(one, CHUNK * (n + 2))
    assert [score[n][1] for n in range(4)] == [1.0] * 4
    assert np.isnan([score[n][0] for n in range(4)]).all()
    assert by_rows.plateaus["value_cost"].moves > 0
    assert judged.plateaus["value_cost"].moves == 0


def test_scheduled_leaves_keep_dtype_and_place():
    """And the others are the very same arrays."""
    given = _hparams()
    device = jax.devices()[3]
    moved = hparams.flatten(given)["value_cost"]
    given = jax.tree.map(
        lambda x: jax.device_put(x, device) if x is moved else x, given
    )
    new = hparams.flatten(_scheduler().apply(given, 0))
    given = hparams.flatten(given)
    value = new.pop("value_cost")
    assert value.dtype == jnp.float32 and not value.weak_type
    assert value.sharding == given["value_cost"].sharding
    assert value.committed
    assert all(x is given[name] for name, x in new.items())
