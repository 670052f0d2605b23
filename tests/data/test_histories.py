"""Folders of learning histories: what is written is read, whatever happens between."""

import json
import os
import pathlib
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
import streams

from mtrl_jax import errors, types
from mtrl_jax.data import files, histories, layout

TASKS = ["near", "near", "far", "near"]
STEPS = 20
HERE = pathlib.Path(__file__).parent


def open_writer(folder, tasks=TASKS, **options):
    return histories.Writer(folder, streams.SPEC, tasks, STEPS, **options)


def write_all(folder, whole=None, size=6, **options):
    """Writes a stream from the first missing step on, as a collector would."""
    writer = open_writer(folder, **options)
    start = 0
    for chunk in streams.chunks(whole or streams.stream(STEPS), size):
        if start >= writer.complete_steps:
            writer.write(chunk, at=start)
        start += size
    writer.close()
    return writer


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_rows_hold_what_the_source_saw_and_what_its_action_led_to(tmp_path):
    """Row t: observation and action of t; reward, discount, last of t + 1."""
    whole = streams.stream(STEPS)
    write_all(tmp_path, whole, config={"agent": "tabular"})
    data = histories.load(tmp_path)
    assert data.config == {"agent": "tabular"}
    for n in range(4):
        for t, row in enumerate(streams.rows_of(whole, *divmod(n, 2))):
            for name in streams.FIELDS:
                assert getattr(data, name)[n, t] == row[name], (name, n, t)
            for name, leaf in data.obs.items():
                np.testing.assert_array_equal(leaf[n, t], row[name])


def test_dtypes_tasks_and_spec_come_back(tmp_path):
    """uint8 stays uint8; tasks are numbered by first appearance and named in the spec."""
    write_all(tmp_path)
    data = histories.load(tmp_path)
    assert data.obs["image"].dtype == np.uint8 and data.reset.dtype == bool
    assert data.task.tolist() == [0, 0, 1, 0]
    assert [task.name for task in data.spec.tasks] == ["near", "far"]
    assert data.spec.obs == streams.OBS and data.spec.action == types.Discrete(3)


def test_an_action_that_is_not_finite_is_written_as_0(tmp_path):
    """0, of an infinite one, too: who imitates it stays finite."""
    spec = streams.SPEC._replace(action=types.Box((-1.0,), (1.0,)))
    ts, action = streams.stream(STEPS)
    given = np.float32([0.5, np.nan, np.inf])[action][..., None]
    writer = histories.Writer(tmp_path, spec, TASKS, STEPS)
    writer.write((ts, given), at=0)
    writer.close()
    found = histories.load(tmp_path).action
    assert set(np.unique(found)) == {0.0, 0.5}


@pytest.mark.parametrize(
    "space",
    [
        types.Discrete(4),
        types.Factorised((2, 3)),
        types.Box((-1.0, 0.0), (1.0, 2.5)),
    ],
)
def test_action_spaces_survive_the_description(space):
    """A dataset of any kind of action says which it holds."""
    spec = types.EnvSpec(streams.OBS, space, ())
    meta = layout.describe(spec, ["x"], 3, False, None)
    assert layout.spec_of(json.loads(json.dumps(meta))).action == space


def test_the_plan_is_the_size_on_disk(tmp_path):
    """What is said before anything is written is what is taken (beside .npy headers)."""
    write_all(tmp_path)
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("*.npy")}
    headers = sum(np.load(p, mmap_mode="r").offset for p in tmp_path.glob("*.npy"))
    planned = histories.plan(streams.SPEC, 4, STEPS)
    assert planned == sum(sizes.values()) - headers == 4 * STEPS * (4 + 8 + 15)
    assert histories.plan(streams.SPEC, 4, STEPS, masks=True) == planned + 240


def test_any_chunks_give_the_same_arrays_and_more_steps_are_dropped(tmp_path):
    """Where chunks end cannot be seen in the data; L is L."""
    for size in (1, 7, STEPS):
        write_all(tmp_path / str(size), streams.stream(STEPS), size)
    longer = streams.stream(STEPS + 9)
    write_all(tmp_path / "longer", longer, STEPS + 9)
    same = [bytes_of(tmp_path / str(size)) for size in (1, 7, STEPS)]
    for name in same[0]:
        if name != files.META:
            assert same[0][name] == same[1][name] == same[2][name], name
    kept = histories.load(tmp_path / "longer")
    np.testing.assert_array_equal(kept.action[3], longer[1][:STEPS, 1, 1])


def test_steps_given_again_replace_what_is_there(tmp_path):
    """A source that goes on from an older checkpoint leaves no step twice or missing."""
    other, whole = streams.stream(STEPS, seed=9), streams.stream(STEPS)
    write_all(tmp_path / "a", other, size=6)
    writer = open_writer(tmp_path / "a")
    assert writer.complete_steps == STEPS
    for start, chunk in zip((0, 4, 8, 12, 16), streams.chunks(whole, 4)):
        if start >= 8:
            writer.write(chunk, at=start)
            assert writer.complete_steps == start + 4
    writer.close()
    data = histories.load(tmp_path / "a")
    for n in range(4):
        expected = np.concatenate(
            [other[1][:8, n // 2, n % 2], whole[1][8:, n // 2, n % 2]]
        )
        np.testing.assert_array_equal(data.action[n], expected)


def test_a_gap_or_a_misfit_is_refused_by_name(tmp_path):
    """What would be nonsense on disk is a ValueError before it gets there."""
    writer = open_writer(tmp_path)
    ts, action = next(streams.chunks(streams.stream(STEPS), 5))
    with pytest.raises(ValueError, match="at: step 5 does not follow the 0 complete"):
        writer.write((ts, action), at=5)
    with pytest.raises(ValueError, match=r"action: got int64\[5, 2, 2\]"):
        writer.write((ts, action.astype(np.int64)))
    with pytest.raises(ValueError, match=r"obs.vector: got nothing"):
        writer.write((ts._replace(obs={"image": ts.obs["image"]}), action))
    with pytest.raises(ValueError, match="action_mask: some actions are illegal"):
        writer.write((ts._replace(action_mask=ts.action_mask & False), action))
    assert writer.complete_steps == 0
    writer.close()


def test_a_folder_of_another_dataset_is_not_gone_on_with(tmp_path):
    """The first thing that differs is named; resume=False wants an empty folder."""
    write_all(tmp_path / "a")
    with pytest.raises(ValueError, match=r"steps: the dataset in .* has 20, given 21"):
        histories.Writer(tmp_path / "a", streams.SPEC, TASKS, STEPS + 1)
    with pytest.raises(ValueError, match="config: "):
        open_writer(tmp_path / "a", config={"seed": 1})
    open_writer(tmp_path / "a", config=1, same=lambda was, now: not was).close()
    with pytest.raises(errors.DatasetError, match="holds a dataset; resume it"):
        open_writer(tmp_path / "a", resume=False)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("x")
    with pytest.raises(errors.DatasetError, match=r"holds thesis\.tex"):
        open_writer(tmp_path / "b")


def test_an_unfinished_dataset_is_taken_only_on_request(tmp_path):
    """Half a learning history is another dataset: nobody trains on it unawares."""
    writer = open_writer(tmp_path)
    with pytest.raises(errors.DatasetError, match=r"0 of 20 steps are complete$"):
        histories.load(tmp_path, partial=True)
    writer.write(next(streams.chunks(streams.stream(STEPS), 6)))
    writer.close()
    with pytest.raises(errors.DatasetError, match="6 of 20 steps are complete"):
        histories.load(tmp_path)
    with pytest.warns(UserWarning, match="6 of 20 steps are complete; using"):
        assert histories.load(tmp_path, partial=True).reward.shape == (4, 6)


@pytest.mark.parametrize("name", ["reward.npy", "obs.image.npy", "reset.npy"])
def test_a_flipped_bit_is_found_and_the_steps_before_it_are_kept(tmp_path, name):
    """Damage in the middle costs what follows it, never what is before."""
    write_all(tmp_path, size=5)
    offset = np.load(tmp_path / name, mmap_mode="r").offset
    array = np.load(tmp_path / name)
    with open(tmp_path / name, "r+b") as file:
        file.seek(offset + 12 * array[0, 0].nbytes)  # History 0, step 12.
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(errors.DatasetError, match="between steps 10 and 15"):
        histories.load(tmp_path)
    with pytest.warns(UserWarning, match=f"{name} is damaged.*using the first 10"):
        assert histories.load(tmp_path, partial=True).reward.shape == (4, 10)
    with pytest.raises(histories.GapError, match=f"{name}.*; 11 sound steps are"):
        open_writer(tmp_path, after=11)
    with pytest.warns(UserWarning, match="going on from step 10"):
        write_all(tmp_path, size=5, after=10)
    np.testing.assert_array_equal(np.load(tmp_path / name), array)
    histories.load(tmp_path)


def test_what_was_recorded_comes_back_and_damage_to_it_is_found(tmp_path):
    """A file of its own, checked as any other; a dataset without it is another."""
    recorded = {"q": jax.ShapeDtypeStruct((3,), np.float32)}
    whole = streams.stream(20)
    q = np.arange(20 * 4 * 3, dtype=np.float32).reshape(20, 2, 2, 3)
    writer = open_writer(tmp_path, recorded=recorded)
    for i, (ts, action) in enumerate(streams.chunks(whole, 5)):
        writer.write((ts, action, {"q": q[5 * i : 5 * (i + 1)]}))
    writer.close()
    meta = files.read_meta(tmp_path)
    assert meta["format"] == 2 and layout.contents_of(meta).recorded == recorded
    found = histories.load(tmp_path).recorded
    np.testing.assert_array_equal(found["q"], q.reshape(20, 4, 3).swapaxes(0, 1))
    with pytest.raises(ValueError, match="format"):
        open_writer(tmp_path)
    with open(tmp_path / "recorded.q.npy", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    with pytest.raises(errors.DatasetError, match=r"recorded\.q\.npy is damaged"):
        histories.load(tmp_path)
    bare = open_writer(tmp_path.joinpath("bare"), recorded=recorded)
    with pytest.raises(ValueError, match=r"recorded\.q: got nothing"):
        bare.write((*next(streams.chunks(whole, 5)), {}))
    bare.close()


def damage_nothing_there(folder):
    (folder / "action.npy").unlink()


def damage_cut(folder):
    os.truncate(folder / "action.npy", 200)


def damage_empty(folder):
    (folder / "action.npy").write_bytes(b"")


def damage_other_dtype(folder):
    np.save(folder / "action.npy", np.load(folder / "action.npy").astype(np.int64))


def damage_meta(folder):
    text = (folder / files.META).read_text()
    (folder / files.META).write_text(text[: len(text) // 2])


def damage_progress(folder):
    meta = json.loads((folder / files.META).read_text())
    (folder / files.META).write_text(json.dumps({**meta, "complete": 3}))


def damage_no_meta(folder):
    (folder / files.META).unlink()


def damage_newer(folder):
    meta = json.loads((folder / files.META).read_text())
    (folder / files.META).write_text(json.dumps({**meta, "format": 3}))


def damage_task(folder):
    meta = json.loads((folder / files.META).read_text())
    task = [*meta["task"][1:], len(meta["names"])]
    (folder / files.META).write_text(json.dumps({**meta, "task": task}))


def damage_format(folder):
    meta = json.loads((folder / files.META).read_text())
    (folder / files.META).write_text(json.dumps({**meta, "format": 2}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_nothing_there, "action.npy is missing or damaged: No such file"),
        (damage_cut, "action.npy is missing or damaged"),
        (damage_empty, "action.npy is missing or damaged"),
        (damage_other_dtype, r"action.npy is int64\[4, 20\], .* says int32\[4, 20\]"),
        (damage_meta, "meta.json is damaged: JSONDecodeError"),
        (damage_progress, "meta.json is damaged: ValueError: its parts"),
        (damage_task, "meta.json is damaged: ValueError: its tasks"),
        (damage_no_meta, "holds no dataset: there is no meta.json"),
        (damage_newer, "format 3, this version reads 1 and 2"),
        (damage_format, "meta.json is damaged: ValueError: its format"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(tmp_path, damage, words):
    """The file is named, and nothing is guessed."""
    write_all(tmp_path)
    damage(tmp_path)
    with pytest.raises(errors.DatasetError, match=words) as error:
        histories.load(tmp_path, partial=True)
    assert "\n" not in str(error.value)


def test_a_full_disk_is_one_line_and_leaves_what_was_complete(tmp_path, monkeypatch):
    """No space in the middle of a chunk: the chunk is given again when there is some."""
    whole = streams.stream(STEPS)
    writer = open_writer(tmp_path)
    first, second, *_ = streams.chunks(whole, 6)
    writer.write(first)
    pwrite, calls = os.pwrite, []

    def full(fd, data, offset):
        calls.append(offset)
        if len(calls) == 9:
            raise OSError(28, "No space left on device")
        return pwrite(fd, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(errors.DatasetError, match=r"No space left .* 6 of 20"):
            writer.write(second)
    assert writer.complete_steps == 6
    with pytest.warns(UserWarning, match="using the first 6"):
        histories.load(tmp_path, partial=True)
    writer.write(second)
    assert writer.complete_steps == 12
    writer.close()


def test_a_write_that_comes_up_short_is_gone_on_with(tmp_path, monkeypatch):
    """The system may take a part of what it is given, and says how much."""
    write_all(tmp_path / "whole")
    pwrite = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda fd, x, at: pwrite(fd, x[:7], at))
        write_all(tmp_path / "parts")
    assert bytes_of(tmp_path / "parts") == bytes_of(tmp_path / "whole")


def test_no_space_for_the_whole_is_found_out_at_once(tmp_path, monkeypatch):
    """The planned size is set aside before the first step is collected."""

    def full(fd, offset, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(errors.DatasetError, match=r"cannot write to .*: No space"):
        open_writer(tmp_path / "a")
    assert not list((tmp_path / "a").iterdir())


def test_a_folder_that_cannot_be_is_one_line(tmp_path):
    """A file in the way is named as what it is."""
    (tmp_path / "a").write_text("")
    with pytest.raises(errors.DatasetError, match="cannot write to"):
        open_writer(tmp_path / "a" / "b")


def test_the_description_is_replaced_only_after_the_rows_are_on_disk(
    tmp_path, monkeypatch
):
    """A power cut: no description may speak of rows that were never flushed."""
    writer = open_writer(tmp_path)
    calls = []
    for name in ("pwrite", "fsync", "replace"):
        call = getattr(os, name)

        def traced(*args, name=name, call=call):
            calls.append((name, args[0]))
            return call(*args)

        monkeypatch.setattr(os, name, traced)
    writer.write(next(streams.chunks(streams.stream(STEPS), 6)))
    renamed = [name for name, _ in calls].index("replace")
    written = {fd for name, fd in calls if name == "pwrite"}
    flushed = {fd for name, fd in calls[:renamed] if name == "fsync"}
    assert len(written) == 8 and written < flushed
    assert "pwrite" not in [name for name, _ in calls[renamed:]]
    writer.close()


_KILLED = """
import os, pathlib, signal, sys, warnings
import test_histories as t
from mtrl_jax import errors
from mtrl_jax.data import histories

WHOLE, TWO = t.streams.stream(t.STEPS, members=1), ["near", "far"]
CALLS = ("pwrite", "fsync", "replace", "posix_fallocate")

def child(work):
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def killed_at(number, folder):
    '''Kills itself in the number-th call that changes a file, half of it done.'''
    count = 0
    def counted(name, call):
        def run(*args):
            nonlocal count
            count += 1
            if count == number:
                if name == "pwrite":
                    call(args[0], bytes(args[1])[: len(args[1]) // 2], args[2])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args)
        return run
    for name in CALLS:
        setattr(os, name, counted(name, getattr(os, name)))
    t.write_all(folder, WHOLE, size=7, tasks=TWO)

root = pathlib.Path(sys.argv[1])
t.write_all(root / "whole", WHOLE, size=7, tasks=TWO)
expected = t.bytes_of(root / "whole")
number, progress = 0, set()
while True:
    number += 1
    folder = root / str(number)
    if child(lambda: killed_at(number, folder)) == 0:
        break
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            progress.add(histories.load(folder, partial=True).reward.shape[1])
    except errors.DatasetError as error:
        assert "0 of" in str(error) or "holds no dataset" in str(error), error
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        t.write_all(folder, WHOLE, size=7, tasks=TWO)
    assert t.bytes_of(folder) == expected, number
print(number, sorted(progress))
"""


def test_killed_in_any_call_it_goes_on_to_the_same_bytes(tmp_path):
    """kill -9 in each of the calls that write: no step twice, none missing."""
    paths = [str(HERE), str(HERE.parent), str(HERE.parents[1])]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(_KILLED), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    number, progress = done.stdout.strip().split(" ", 1)
    # Rows of 3 chunks of 8 fields and 2 histories, and each field flushed.
    assert int(number) > 3 * 8 * (2 + 1) and progress == "[7, 14, 20]"
