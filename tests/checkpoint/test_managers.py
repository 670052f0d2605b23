"""Saving and restoring: bit for bit, and never at the cost of an older checkpoint."""

import errno
import os
import resource
import shutil
import sys
import types
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import checkpoint, errors
from mtrl_jax.checkpoint import failures, pieces, restoring, store

# Orbax leaves futures behind where a read of damaged files failed.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


class State(NamedTuple):
    params: dict
    key: jax.Array
    rest: tuple


def _state(seed=0):
    key = jax.random.key(seed)
    params = {
        "w": jax.random.normal(key, (8, 40, 5)),
        "half": jax.random.normal(key, (8, 3), jnp.bfloat16),
        "nan": jnp.array([jnp.nan, -0.0, jnp.inf]),
        "empty": jnp.zeros((8, 0, 3), jnp.int32),
    }
    rest = (jnp.int32(seed), jnp.array([True, False]), np.arange(4) + seed, (), None)
    return State(params, jax.random.split(key, 8), rest)


def _abstract(state):
    """Returns shapes alone, but for the leaves that live on the host."""
    struct = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)  # noqa: E731
    return jax.tree.map(lambda x: x if isinstance(x, np.ndarray) else struct(x), state)


def _save(manager, *steps):
    for step in steps:
        checkpoint.save(manager, step, _state(step), {"step": step})
    checkpoint.wait(manager)


def _files(path):
    return {p: p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_a_checkpoint_restores_bit_for_bit(folder, bits):
    """Every dtype, typed keys, NaN bits, empty leaves and None, from shapes alone."""
    manager = folder()
    meta = {"config": {"seed": 1, "name": "é"}, "versions": ["0.1"]}
    checkpoint.save(manager, 7, _state(), meta)
    checkpoint.wait(manager)
    step, state, read = checkpoint.restore(folder(), _abstract(_state()))
    assert (step, read) == (7, meta)
    assert jax.tree.structure(state) == jax.tree.structure(_state())
    assert bits(state) == bits(_state())


def test_restored_keys_draw_what_the_saved_would(folder):
    """A typed key comes back typed, of the same implementation."""
    _save(folder(), 1)
    _, state, _ = checkpoint.restore(folder(), _abstract(_state()))
    draw = jax.vmap(lambda k: jax.random.normal(k, (3,)))
    np.testing.assert_array_equal(draw(state.key), draw(_state(1).key))


def test_numpy_leaves_stay_numpy(folder):
    """What lives on the host comes back on the host, 64 bits wide where it was."""
    manager = folder()
    _save(manager, 1)
    _, state, _ = checkpoint.restore(manager, _state())
    assert isinstance(state.rest[2], np.ndarray) and state.rest[2].dtype == np.int64
    assert isinstance(state.rest[1], jax.Array)


def test_shardings_are_those_asked_for(folder, bits):
    """Saved on eight devices, restored on one and the other way round; keys as well."""
    mesh = jax.make_mesh((8,), ("pop",), axis_types=(jax.sharding.AxisType.Auto,))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("pop"))
    state = {
        "w": jax.random.normal(jax.random.key(0), (8, 6)),
        "key": jax.random.split(jax.random.key(1), 8),
    }
    sharded = jax.device_put(state, place)
    manager = folder()
    checkpoint.save(manager, 1, sharded, {})
    checkpoint.save(manager, 2, state, {})
    for step, target in ((1, state), (2, sharded)):
        _, new, _ = checkpoint.restore(manager, target, step)
        assert bits(new) == bits(state)
        same = jax.tree.map(
            lambda x, y: x.sharding.is_equivalent_to(y.sharding, x.ndim), new, target
        )
        assert all(jax.tree.leaves(same))


def test_a_saved_state_may_be_donated_at_once(folder, bits):
    """The background write does not see what the next chunk does to the buffers."""
    manager = folder(keep=10)
    step = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    start = {str(i): jax.random.normal(jax.random.key(i), (300_000,)) for i in range(8)}
    expected = bits(start)
    for i in range(3):
        state = jax.tree.map(jnp.copy, start)
        checkpoint.save(manager, i, state, {})
        jax.block_until_ready(step(state))
    for i in range(3):
        assert bits(checkpoint.restore(manager, start, i)[1]) == expected


def test_the_newest_steps_are_kept(folder, bits):
    """keep=2 leaves two; restore takes the newest, or the one asked for."""
    manager = folder(keep=2)
    assert checkpoint.latest_step(manager) is None
    _save(manager, 1, 2, 3)
    assert checkpoint.latest_step(manager) == 3
    assert checkpoint.restore(manager, _state())[0] == 3
    step, state, meta = checkpoint.restore(manager, _state(), 2)
    assert (step, meta) == (2, {"step": 2}) and bits(state) == bits(_state(2))
    with pytest.raises(errors.CheckpointError, match="no checkpoint of step 1"):
        checkpoint.restore(manager, _state(), 1)


def _delete_arrays(step):
    shutil.rmtree(step / "state" / "ocdbt.process_0")


def _truncate_all(step):
    for path in step.rglob("*"):
        if path.is_file():
            os.truncate(path, path.stat().st_size // 2)


def _flip_a_byte(step):
    path = max(
        (p for p in step.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def _delete_meta(step):
    shutil.rmtree(step / "meta")


def _empty(step):
    shutil.rmtree(step)
    step.mkdir()


@pytest.mark.parametrize(
    "damage", [_delete_arrays, _truncate_all, _flip_a_byte, _delete_meta, _empty]
)
def test_a_damaged_step_falls_back_to_the_one_before(folder, damage, bits):
    """And says so; the next save of that step takes its place and nothing else goes."""
    manager = folder()
    _save(manager, 1, 2, 3)
    damage(folder.path / "3")
    manager = folder()
    with pytest.warns(UserWarning, match="checkpoint 3 is damaged .* going back to 2"):
        step, state, meta = checkpoint.restore(manager, _state())
    assert (step, meta) == (2, {"step": 2}) and bits(state) == bits(_state(2))
    _save(manager, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoint.restore(manager, _state())[0] == 3
    assert checkpoint.restore(manager, _state(), 1)[0] == 1


FAILED = errors.CheckpointError
TENSORSTORE = ValueError("OUT_OF_RANGE [os_error_code='24' source_locations='x']")


@pytest.mark.parametrize(
    ("where", "error", "kind", "words"),
    [
        ((pieces, "read"), MemoryError(), MemoryError, "^$"),
        (
            (store, "read_small"),
            RuntimeError("RESOURCE_EXHAUSTED: 9"),
            RuntimeError,
            "9",
        ),
        ((pieces, "read"), OSError(errno.EACCES, "Denied"), FAILED, "2 .*: Denied; it"),
        (
            (store, "read_small"),
            TENSORSTORE,
            FAILED,
            "2 .*: Too many open files; it may",
        ),
    ],
    ids=["memory", "device", "rights", "files"],
)
def test_what_the_machine_lacks_is_no_damage(
    folder, tiny_pieces, monkeypatch, bits, where, error, kind, words
):
    """The newest step stays what it is: no going back, and none is moved aside."""
    _save(folder(), 1, 2)
    manager = folder()

    def fail(*args):
        raise ValueError("of orbax") from error

    with monkeypatch.context() as patched, pytest.raises(kind, match=words):
        patched.setattr(*where, fail)
        checkpoint.restore(manager, _abstract(_state()))
    assert not manager.damaged
    step, state, _ = checkpoint.restore(manager, _abstract(_state()))
    assert step == 2 and bits(state) == bits(_state(2))


def test_a_half_written_step_is_no_checkpoint(folder):
    """What a kill leaves under a temporary name is ignored, and cleared by a writer."""
    manager = folder()
    _save(manager, 1)
    half = folder.path / "2.orbax-checkpoint-tmp"
    shutil.copytree(folder.path / "1", half)
    assert checkpoint.latest_step(folder(read_only=True)) == 1
    assert half.exists()
    assert checkpoint.latest_step(folder()) == 1
    assert not half.exists()


def test_nothing_sound_left_is_an_error(folder):
    """All damaged, or none there: one line, no traceback of orbax."""
    manager = folder()
    with pytest.raises(errors.CheckpointError, match=r"^no checkpoint in"):
        checkpoint.restore(manager, _state())
    _save(manager, 1)
    _delete_arrays(folder.path / "1")
    with pytest.raises(errors.CheckpointError, match="no older one is left") as error:
        checkpoint.restore(manager, _state())
    assert "\n" not in str(error.value)


def test_another_structure_is_no_damage(folder):
    """A tree that does not fit is refused by leaf, not skipped for an older step."""
    manager = folder()
    _save(manager, 1, 2)
    good = _state()
    cases = {
        r"checkpoint 2 has state.params\['w'\] as float32\(8, 40, 5\)": good._replace(
            params={**good.params, "w": jnp.zeros((8, 40, 6))}
        ),
        r"checkpoint 2 has no state.params\['extra'\]": good._replace(
            params={**good.params, "extra": jnp.zeros(1)}
        ),
        r"checkpoint 2 holds state.params\['nan'\]": good._replace(
            params={k: v for k, v in good.params.items() if k != "nan"}
        ),
        r"this run as float16": good._replace(
            params={**good.params, "half": jnp.zeros((8, 3), jnp.float16)}
        ),
    }
    for message, target in cases.items():
        with pytest.raises(errors.CheckpointError, match=message):
            checkpoint.restore(manager, target)


def test_a_failed_save_leaves_the_old_checkpoints_alone(folder):
    """Files that cannot grow (a full disk, a quota): an error, the old step untouched."""
    manager = folder(keep=1)
    _save(manager, 1)
    before = _files(folder.path / "1")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = {"w": jax.random.normal(jax.random.key(0), (200_000,))}
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(errors.CheckpointError, match="File too large") as error:
            checkpoint.save(manager, 2, large, {})
            checkpoint.wait(manager)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert _files(folder.path / "1") == before
    assert os.listdir(folder.path) == ["1"]
    assert checkpoint.restore(manager, _state())[0] == 1
    _save(manager, 3)
    assert checkpoint.restore(folder(read_only=True), _state())[0] == 3


def test_a_full_disk_leaves_the_old_checkpoints_alone(tmp_path):
    """The same on a file system that is really full, where one may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or os.system(f"mount -t tmpfs -o size=1m none {disk} 2>/dev/null"):
        pytest.skip("cannot mount a tmpfs here")
    try:
        manager = checkpoint.open_manager(disk / "ckpt", 2)
        _save(manager, 1)
        large = {"w": jax.random.normal(jax.random.key(0), (1_000_000,))}
        with pytest.raises(errors.CheckpointError, match="No space left"):
            checkpoint.save(manager, 2, large, {})
            checkpoint.wait(manager)
        assert checkpoint.restore(manager, _state())[0] == 1
        checkpoint.close(manager)
        (disk / "rest").write_bytes(bytes(600_000))
        while True:
            try:
                with open(disk / "rest", "ab") as file:
                    file.write(bytes(4096))
            except OSError:
                break
        with pytest.raises(errors.CheckpointError, match=r"cannot write .* No space"):
            checkpoint.open_manager(disk / "ckpt", 2)
    finally:
        os.system(f"umount -l {disk}")


def test_what_comes_too_late_for_a_failed_save_is_not_printed(monkeypatch):
    """orbax's writers find its event loop closed; any other such error is still reported."""
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)
    failures.quieten()
    failures.quieten()
    for message in ("Event loop is closed", "another"):
        late = types.SimpleNamespace(exc_value=RuntimeError(message))
        sys.unraisablehook(late)
    assert [str(found.exc_value) for found in reported] == ["another"]


def test_saving_the_same_step_twice_writes_once(folder, bits):
    """A signal right after a periodic save finds it done; other bits replace it."""
    manager = folder(keep=1)
    _save(manager, 1)
    before = _files(folder.path / "1")
    _save(manager, 1)
    assert _files(folder.path / "1") == before
    checkpoint.save(manager, 1, _state(5), {"step": 1})
    assert bits(checkpoint.restore(manager, _state())[1]) == bits(_state(5))


def test_going_on_from_an_older_step_supersedes_the_later_ones(folder, bits):
    """A run resumed from step 1 saves step 2 again, though 2 and 3 exist."""
    manager = folder()
    _save(manager, 1, 2, 3)
    checkpoint.save(manager, 2, _state(9), {"step": "again"})
    step, state, meta = checkpoint.restore(manager, _state())
    assert (step, meta["step"]) == (2, "again") and bits(state) == bits(_state(9))
    assert sorted(os.listdir(folder.path / "superseded")) == ["2", "3"]


def test_unusable_folders_are_named(tmp_path):
    """A file in the way, no folder to read, nothing to keep."""
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.CheckpointError, match=r"cannot write to .*file"):
        checkpoint.open_manager(tmp_path / "file", 1)
    with pytest.raises(errors.CheckpointError, match="no such folder"):
        checkpoint.open_manager(tmp_path / "none", 1, read_only=True)
    with pytest.raises(ValueError, match="keep=0"):
        checkpoint.open_manager(tmp_path / "x", 0)


def test_a_list_that_has_moved_on_is_read_again(folder, bits):
    """A training replaces all that was there when the reader looked: it looks again."""
    writer = folder(keep=2)
    _save(writer, 1, 2)
    reader = folder(keep=2, read_only=True)
    _save(writer, 3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step, state, _ = checkpoint.restore(reader, _abstract(_state()))
    assert step == 4
    assert bits(state) == bits(_state(4))


def test_a_list_that_moves_on_for_ever_is_an_error(folder, monkeypatch):
    """One line after a few looks, instead of a reader that never comes back."""
    writer = folder(keep=1)
    _save(writer, 1)
    reader = folder(keep=1, read_only=True)
    restore, steps = restoring._restore_step, iter(range(2, 100))

    def replaced(manager, step, *wanted):
        _save(writer, next(steps))
        return restore(manager, step, *wanted)

    monkeypatch.setattr(restoring, "_restore_step", replaced)
    with pytest.raises(errors.CheckpointError, match="replaced faster than"):
        checkpoint.restore(reader, _abstract(_state()))
