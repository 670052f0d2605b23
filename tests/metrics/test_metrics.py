"""The files of a run folder: written, cut, read again."""

import errno
import fcntl
import importlib.machinery
import json
import os
import pathlib
import signal
import subprocess
import sys
import types

import numpy as np
import pytest
import running

from mtrl_jax import errors, metrics
from mtrl_jax.training import lock

P = 3


def _row(update, **changes):
    row = {
        "update": update,
        "env_steps": 100 * update,
        "wall_s": 1.5 * update,
        "steps_per_s": 1e4,
        "compiles": 2,
        "metrics": {"loss": np.full(P, 0.5, np.float32)},
        "returns": {"catch": np.array([1.0, np.nan, update], np.float32)},
        "hparams": {"learning_rate": np.array([1e-3, 1e-4, 1e-5], np.float32)},
    }
    return row | changes


def _lineage(update):
    return {
        "update": update,
        "score": np.array([1.0, np.nan, 3.0]),
        "source": np.array([2, 1, 2]),
        "ancestor": np.array([2, 1, 2]),
        "hparams_before": {"learning_rate": np.ones(P)},
        "hparams_after": {"learning_rate": np.full(P, 1.2)},
    }


def _write(run, updates, **options):
    options = {"tensorboard": False} | options
    with metrics.MetricsWriter(run, **options) as writer:
        for update in updates:
            writer.write(**_row(update))
            writer.write_lineage(**_lineage(update))


def test_rows_come_back_as_they_were_written(tmp_path):
    """One JSON object a chunk, NaN as null, arrays [N, P] when read."""
    _write(tmp_path, [10, 20])
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert [*first, "evaluation", "lost"] == list(metrics.Metrics._fields)
    assert first["returns"]["catch"] == [1.0, None, 10.0]
    read = metrics.read_metrics(tmp_path)
    np.testing.assert_array_equal(read.env_steps, [1000, 2000])
    np.testing.assert_array_equal(
        read.returns["catch"], [[1, np.nan, 10], [1, np.nan, 20]]
    )
    np.testing.assert_array_equal(read.compiles, [2, 2])
    rounds = metrics.read_lineage(tmp_path)
    assert [r["update"] for r in rounds] == [10, 20]
    np.testing.assert_array_equal(rounds[0]["score"], [1, np.nan, 3])
    np.testing.assert_array_equal(
        rounds[0]["hparams_after"]["learning_rate"], [1.2] * P
    )


def test_evaluations_are_read_where_there_were_any(tmp_path):
    """[N, P] with NaN in the rows of chunks that no test followed."""
    with metrics.MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(**_row(1))
        writer.write(**_row(2, evaluation={"catch": np.array([1.0, 2.0, np.nan])}))
    found = metrics.read_metrics(tmp_path).evaluation
    np.testing.assert_array_equal(found["catch"], [[np.nan] * 3, [1, 2, np.nan]])
    # A test that is made again is dropped from its own row alone.
    for update, tests in ((3, ["catch"]), (2, [])):
        metrics.truncate_after(tmp_path, update, test_due=False)
        assert list(metrics.read_metrics(tmp_path).evaluation) == tests
    _write(tmp_path / "none", [1])
    assert metrics.read_metrics(tmp_path / "none").evaluation == {}


def test_every_row_is_in_the_file_when_write_returns(tmp_path):
    """A kill after write() loses nothing."""
    with metrics.MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(**_row(1))
        assert metrics.read_metrics(tmp_path).update.tolist() == [1]
        writer.flush()


def test_infinities_are_null_as_well(tmp_path):
    """JSON has no infinity; a strict parser must read every line."""
    with metrics.MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(**_row(1, metrics={"loss": np.array([np.inf, -np.inf, 1.0])}))
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert row["metrics"]["loss"] == [None, None, 1.0]


def test_resuming_leaves_neither_duplicates_nor_gaps(tmp_path):
    """Rows after the checkpoint go, a half-written line goes, the others stay as bytes."""
    _write(tmp_path, [10, 20, 30])
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"update": 40, "env_st')
    _write(tmp_path, [], resume_after=20)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"".join(
        whole.splitlines(keepends=True)[:2]
    )
    _write(tmp_path, [30], resume_after=20)
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole
    assert [r["update"] for r in metrics.read_lineage(tmp_path)] == [10, 20, 30]
    assert not list(tmp_path.glob(".*tmp"))
    # The row of an update is there before its round of PBT.
    _write(tmp_path, [], resume_after=20, round_owed=True)
    assert metrics.read_metrics(tmp_path).update.tolist() == [10, 20]
    assert [r["update"] for r in metrics.read_lineage(tmp_path)] == [10]


def test_resuming_at_zero_keeps_nothing(tmp_path):
    """Killed before the first checkpoint: the run starts over, so do its files."""
    _write(tmp_path, [10])
    _write(tmp_path, [], resume_after=0)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""
    with pytest.raises(ValueError, match="has no rows"):
        metrics.read_metrics(tmp_path)


def test_a_live_or_killed_run_can_be_read(tmp_path):
    """A cut-off last line is left out silently, a broken one in the middle by warning."""
    _write(tmp_path, [10, 20])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"upd')
    assert metrics.read_metrics(tmp_path).update.tolist() == [10, 20]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\0\0\0\n" + lines[1])
    with pytest.warns(UserWarning, match=r"metrics\.jsonl:2 is no row"):
        assert metrics.read_metrics(tmp_path).update.tolist() == [10, 20]


def test_columns_that_appear_late_are_nan_before(tmp_path):
    """A metric or task that the first chunks do not have leaves NaN there."""
    with metrics.MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(**_row(1))
        writer.write(**_row(2, returns={"maze": np.ones(P)}))
    returns = metrics.read_metrics(tmp_path).returns
    assert np.isnan(returns["maze"][0]).all() and (returns["maze"][1] == 1).all()
    assert np.isnan(returns["catch"][1]).all()


def test_a_folder_without_metrics_is_named(tmp_path):
    """Not a run folder: one line that says so."""
    with pytest.raises(ValueError, match=r"there is no .*metrics\.jsonl"):
        metrics.read_metrics(tmp_path)
    assert metrics.read_lineage(tmp_path) == []


def test_tensorboard_gets_population_statistics(tmp_path):
    """Mean and best per task, the middle per hyperparameter, over env steps."""
    summary_iterator = pytest.importorskip("tensorboardX.proto.event_pb2")
    tested = {"catch": np.array([1.0, np.nan, 4.0])}
    with metrics.MetricsWriter(tmp_path) as writer:
        writer.write(**_row(10))
        writer.write(**_row(20, evaluation=tested))
    (path,) = (tmp_path / "tensorboard").iterdir()
    scalars = {}
    for record in _tfrecords(path.read_bytes()):
        event = summary_iterator.Event.FromString(record)
        for value in event.summary.value:
            scalars[value.tag, event.step] = value.simple_value
    assert scalars["returns/catch/mean", 1000] == 5.5
    assert scalars["returns/catch/best", 2000] == 20
    assert scalars["hparams/learning_rate/median", 1000] == pytest.approx(1e-4)
    assert scalars["metrics/loss", 1000] == 0.5
    assert scalars["evaluation/catch/mean", 2000] == 2.5
    assert scalars["evaluation/catch/best", 2000] == 4.0
    assert ("evaluation/catch/mean", 1000) not in scalars


def _tfrecords(content):
    position = 0
    while position < len(content):
        length = int.from_bytes(content[position : position + 8], "little")
        yield content[position + 12 : position + 12 + length]
        position += length + 16


def test_a_resumed_board_hides_what_is_trained_again(tmp_path):
    """TensorBoard is given from which step on older events no longer count."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    _write(tmp_path, [10, 20], tensorboard=True)
    _write(tmp_path, [20], tensorboard=True, resume_after=10)
    starts = [
        event.step
        for path in (tmp_path / "tensorboard").iterdir()
        for event in map(event_pb2.Event.FromString, _tfrecords(path.read_bytes()))
        if event.HasField("session_log")
    ]
    assert starts == [1001]


def test_a_test_at_the_end_is_in_the_newest_row_once(tmp_path):
    """It counts for nothing of lost members; a longer run has the line as it was."""
    path = tmp_path / "metrics.jsonl"
    with metrics.MetricsWriter(tmp_path, tensorboard=False) as writer:
        writer.write(**_row(10))
        writer.write(**_row(20), lost=[1])
        before = path.read_bytes()
        for score in (1.0, 2.0):  # The second is too late.
            test = np.full(P, score)
            writer.add_test(20, {"held_out/loss": test}, {"catch": test})
        writer.add_test(30, {}, {"catch": np.ones(P)})  # There is no such row.
        writer.write(**_row(30))
    rows = metrics.read_metrics(tmp_path)
    for found in (rows.evaluation["catch"], rows.metrics["held_out/loss"]):
        np.testing.assert_array_equal(found[1], [1.0, np.nan, 1.0])
        assert np.isnan(found[[0, 2]]).all()
    np.testing.assert_array_equal(rows.metrics["loss"], np.full((3, P), 0.5))
    # A member may be replaced: it is lost in the rows that say so alone.
    assert [np.flatnonzero(x).tolist() for x in rows.lost] == [[], [1], []]
    metrics.truncate_after(tmp_path, 20)
    assert path.read_bytes().startswith(before[:-1].rpartition(b"\n")[0])
    assert len(metrics.read_metrics(tmp_path).evaluation["catch"]) == 2
    metrics.truncate_after(tmp_path, 20, test_due=False)
    assert path.read_bytes() == before


def test_wandb_missing_is_one_line_and_writes_nothing(tmp_path, monkeypatch):
    """Asked for and not installed: what to run, before a file exists."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"pip install mtrl-jax\[wandb\]"):
        metrics.MetricsWriter(tmp_path / "run", wandb={"project": "x"})
    assert not (tmp_path / "run").exists()


class RecordingWandb(types.ModuleType):
    """Records what W&B's public interface is given; W&B itself is not installed."""

    def __init__(self):
        super().__init__("wandb")
        # Whether it is installed is asked of the import system.
        self.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
        self.given, self.rows, self.updates, self.codes = [], [], [], []

    def init(self, **given):
        self.given.append(given)
        return types.SimpleNamespace(
            id=given["id"],
            log=lambda row, step: self.rows.append((step, row)),
            config=types.SimpleNamespace(
                update=lambda x, allow_val_change: self.updates.append(x)
            ),
            finish=lambda exit_code: self.codes.append(exit_code),
        )


@pytest.fixture
def wandb(monkeypatch):
    recording = RecordingWandb()
    monkeypatch.setitem(sys.modules, "wandb", recording)
    return recording


def test_wandb_gets_the_same_scalars(tmp_path, wandb):
    """One call a chunk with the numbers TensorBoard shows; finished on close."""
    with metrics.MetricsWriter(
        tmp_path, tensorboard=False, wandb={"project": "x"}
    ) as writer:
        writer.write(**_row(10))
        writer.write(**_row(20, evaluation={"catch": np.array([1.0, np.nan, 4.0])}))
    assert wandb.given[0]["dir"] == str(tmp_path)
    assert wandb.given[0]["project"] == "x"
    (step, first), (_, second) = wandb.rows
    assert step == 1000 and first["returns/catch/mean"] == 5.5
    assert second["evaluation/catch/mean"] == 2.5
    assert second["hparams/learning_rate/median"] == pytest.approx(1e-4)
    writer.close(exit_code=1)  # It is closed.
    assert wandb.codes == [0]


def test_what_is_unknown_of_all_members_is_not_shown(tmp_path, wandb):
    """No episode has ended: a board has no number for it."""
    with metrics.MetricsWriter(tmp_path, tensorboard=False, wandb={}) as writer:
        writer.write(**_row(10, returns={"catch": np.full(P, np.nan)}))
    ((_, row),) = wandb.rows
    assert not [name for name in row if name.startswith("returns/")]


def test_wandb_keeps_its_id_and_knows_failed_runs(tmp_path, wandb):
    """A resumed run goes on with the same one; an error is an exit code of 1."""
    with (
        pytest.raises(RuntimeError),
        metrics.MetricsWriter(tmp_path, tensorboard=False, wandb={"project": "x"}),
    ):
        raise RuntimeError
    _write(tmp_path, [10], wandb={"project": "x"}, resume_after=-1)
    _write(tmp_path / "other", [10], wandb={"project": "x"})
    first, resumed, other = wandb.given
    assert first["id"] == resumed["id"] != other["id"]
    assert {given["resume"] for given in wandb.given} == {"allow"}
    assert wandb.codes == [1, 0, 0]


def test_constant_hyperparameters_are_given_once(tmp_path, wandb):
    """They are W&B's config and TensorBoard's text; what moves is a curve."""
    hparams = {"learning_rate": np.array([1e-3, 2e-3]), "discount": np.full(2, 0.5)}
    with metrics.MetricsWriter(
        tmp_path, wandb={"project": "x"}, curves={"learning_rate"}
    ) as writer:
        for update in (10, 20):
            writer.write(**_row(update, hparams=hparams))
    assert wandb.updates == [{"hparams": {"discount": [0.5, 0.5]}}]
    for _, row in wandb.rows:
        assert "hparams/learning_rate/max" in row
        assert "hparams/discount/max" not in row
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert path.read_bytes().count(b"discount") == 1
    # Also where nothing moves.
    _write(tmp_path / "still", [10], wandb={}, curves=set())
    assert list(wandb.updates[1]["hparams"]) == ["learning_rate"]
    assert not [name for name in wandb.rows[-1][1] if name.startswith("hparams/")]


def _fail(*_, **__):
    raise RuntimeError("the service\nis gone")


def test_wandb_that_fails_costs_no_run(tmp_path, wandb):
    """One warning, no more calls, and every row is on disk."""
    with metrics.MetricsWriter(
        tmp_path, tensorboard=False, wandb={"project": "x"}
    ) as writer:
        writer.write(**_row(10))
        wandb.rows = types.SimpleNamespace(append=_fail)
        with pytest.warns(UserWarning, match="RuntimeError: the service is gone"):
            writer.write(**_row(20))
        writer.write(**_row(30))
    assert metrics.read_metrics(tmp_path).update.tolist() == [10, 20, 30]
    assert wandb.codes == []


def test_wandb_that_does_not_begin_is_one_line(tmp_path, monkeypatch, wandb):
    """It names what would work; an OSError stops a run well."""
    monkeypatch.setattr(wandb, "init", _fail)
    with pytest.raises(ConnectionError, match=r"service is gone.*WANDB_MODE=offline"):
        metrics.MetricsWriter(tmp_path, tensorboard=False, wandb={"project": "x"})


def test_a_run_tells_wandb_what_it_is(tmp_path, cached, wandb):
    """Config, name and group; evaluations; the same id after a resume."""
    run = tmp_path / "run"
    running.train(run, "logging.wandb=project", "training.env_steps=128", "name=sweep")
    outcome = running.mtrl("resume", run, "training.env_steps=192")
    assert outcome.code == 0, outcome.err
    first, second = wandb.given
    assert first["project"] == "project"
    assert (first["name"], first["group"]) == ("run", "sweep")
    assert first["config"]["training"]["unroll_length"] == 4
    assert first["id"] == second["id"]
    assert wandb.codes == [0, 0]
    assert any("evaluation/probe/action/best" in row for _, row in wandb.rows)
    # Rows of chunks; the last one is the final evaluation's alone.
    assert any("hparams/learning_rate/median" in row for _, row in wandb.rows)
    assert not any("hparams/discount/median" in row for _, row in wandb.rows)
    assert "discount" in wandb.updates[0]["hparams"]


@pytest.mark.parametrize("content", ["", '{"best": 1', "[1]", "\\x80"])
def test_a_summary_that_cannot_be_read_is_none(tmp_path, content):
    """It says so and is written again by a run that goes on; nothing else hangs on it."""
    (tmp_path / "summary.json").write_bytes(content.encode().replace(b"\\x80", b"\x80"))
    with pytest.warns(UserWarning, match=r"summary.json is empty or damaged"):
        assert metrics.read_summary(tmp_path) == {}


@pytest.mark.parametrize("best", [0, 2])
def test_a_summary_names_the_best_of_its_own_update(best):
    """Of weights before or after it, nobody; without totals it is taken at its word."""
    summary = {"best_member": best, "totals": {"updates": 20}}
    found = [metrics.best_member(summary, update) for update in (10, 20, 30)]
    assert found == [None, best, None]
    assert metrics.best_member({"best_member": best}, 10) == best
    assert metrics.best_member({"totals": {"updates": 20}}, 20) is None


def test_a_summary_is_replaced_whole(tmp_path, monkeypatch):
    """A failure while writing leaves the old file and no debris."""
    assert metrics.read_summary(tmp_path) == {}
    metrics.write_summary(tmp_path, {"best": np.int32(2), "score": np.float32("nan")})
    assert metrics.read_summary(tmp_path) == {"best": 2, "score": None}

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        metrics.write_summary(tmp_path, {"best": 3})
    assert metrics.read_summary(tmp_path)["best"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_a_run_in_use_names_the_process(tmp_path):
    """A second writer is refused; afterwards the folder is free again."""
    named = pytest.raises(errors.RunLockedError, match=f"process {os.getpid()};")
    with lock.lock(tmp_path), named:
        lock.lock(tmp_path).__enter__()
    with lock.lock(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, number):
    """The run goes on; any other failure is an error as before."""

    def fail(given):
        def flock(*_):
            raise OSError(given, os.strerror(given))

        monkeypatch.setattr(fcntl, "flock", flock)

    fail(number)
    with pytest.warns(UserWarning, match="has no locks"), lock.lock(tmp_path):
        assert (tmp_path / lock.LOCK).exists()
    fail(errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        lock.lock(tmp_path).__enter__()


def test_a_killed_process_leaves_no_lock(tmp_path):
    """kill -9 frees the folder: there is no stale lock to remove by hand."""
    root = pathlib.Path(metrics.__file__).parents[2]
    code = (
        "import sys, time; from mtrl_jax.training import lock\n"
        "with lock.lock(sys.argv[1]):\n"
        "    print('locked', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, cwd=root
    )
    try:
        assert child.stdout.readline() == b"locked\n"
        with pytest.raises(errors.RunLockedError, match=f"process {child.pid};"):
            lock.lock(tmp_path).__enter__()
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    with lock.lock(tmp_path):
        pass
