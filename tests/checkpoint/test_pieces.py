"""Large leaves: written in pieces, read into any layout, sound or not there."""

import json
import math
import resource
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import checkpoint, errors
from mtrl_jax.checkpoint import pieces, sealed

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


def _state(seed=0):
    """Large leaves of every kind beside small ones."""
    key = jax.random.key(seed)
    normal = jax.random.normal(key, (4, 30, 7))
    return {
        "obs": (normal * 90).astype(jnp.uint8),
        "priority": normal,
        "half": normal.astype(jnp.bfloat16),
        "first": normal > 0,
        "host": np.asfortranarray(np.arange(60).reshape(3, 20) + seed),
        "keys": jax.random.split(key, 64),
        "empty": jnp.zeros((3, 0)),
        "step": jnp.int32(seed),
    }


def _save(manager, *steps):
    for step in steps:
        checkpoint.save(manager, step, _state(step), {"step": step})
    checkpoint.wait(manager)


def _placed(spec, shape=(4, 2)):
    mesh = jax.make_mesh(
        shape, ("pop", "slot"), axis_types=(jax.sharding.AxisType.Auto,) * 2
    )
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))


def _piece_files(path):
    return sorted((path / "large").glob("*.bin"))


@pytest.mark.parametrize(
    ("shape", "itemsize"),
    [((1000,), 1), ((3, 5, 7), 4), ((2, 100), 2), ((2, 3, 65), 8), ((64,), 1)],
)
def test_boxes_fill_a_leaf_one_after_the_other(tiny_pieces, shape, itemsize):
    """In memory's order, without holes, none of more than a piece."""
    flat = np.arange(math.prod(shape)).reshape(shape)
    found = []
    for start, size in pieces.boxes(shape, itemsize):
        assert 0 < math.prod(size) * itemsize <= pieces.PIECE
        box = tuple(slice(a, a + n) for a, n in zip(start, size))
        found.append(flat[box].reshape(-1))
    np.testing.assert_array_equal(np.concatenate(found), np.arange(flat.size))


def test_large_leaves_restore_bit_for_bit_from_pieces(tiny_pieces, folder, bits):
    """Every dtype; NumPy stays NumPy; orbax has only what is small, and keys."""
    _save(folder(), 1)
    step, state, meta = checkpoint.restore(
        folder(read_only=True), checkpoint.abstract(_state())
    )
    assert (step, meta) == (1, {"step": 1})
    assert bits(state) == bits(_state(1))
    kinds = jax.tree.map(type, (state, _state()))
    assert kinds[0] == kinds[1]
    sizes = [path.stat().st_size for path in _piece_files(folder.path / "1")]
    large = ("obs", "priority", "half", "first", "host")
    assert max(sizes) <= pieces.PIECE
    assert sum(sizes) == checkpoint.bytes_of({n: _state()[n] for n in large})


@pytest.mark.parametrize("read", [("pop",), ("slot", "pop"), (), (None, "slot")])
@pytest.mark.parametrize("written", [("pop", "slot"), (None, "pop")])
def test_pieces_are_read_into_any_layout(tiny_pieces, folder, bits, written, read):
    """Cut by the shards they were written from; one replica of each is written."""
    x = jnp.arange(8 * 20 * 3, dtype=jnp.float32).reshape(8, 20, 3)
    manager = folder()
    checkpoint.save(manager, 1, {"x": jax.device_put(x, _placed(written))}, {})
    like = {"x": jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=_placed(read))}
    _, new, _ = checkpoint.restore(manager, like)
    assert bits(new) == bits({"x": x})
    assert new["x"].sharding == like["x"].sharding
    sizes = [path.stat().st_size for path in _piece_files(folder.path / "1")]
    assert sum(sizes) == x.nbytes


def test_large_leaves_may_be_donated_at_once(tiny_pieces, folder, bits):
    """Nothing of them is still to be written, nothing keeps the buffer from reuse."""
    manager = folder()
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = jnp.arange(1000.0)
    saved, place = bits(x + 0), x.unsafe_buffer_pointer()
    checkpoint.save(manager, 1, {"x": x}, {})
    x = step(x)
    assert x.unsafe_buffer_pointer() == place
    _, new, _ = checkpoint.restore(manager, checkpoint.abstract({"x": x}))
    assert bits(new) == saved
    place = new["x"].unsafe_buffer_pointer()
    assert step(new["x"]).unsafe_buffer_pointer() == place


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a flipped bit in the first piece": lambda step: _flip(_piece_files(step)[0]),
    "a flipped bit in the last piece": lambda step: _flip(_piece_files(step)[-1]),
    "a shortened piece": lambda step: _piece_files(step)[3].write_bytes(b""),
    "a longer piece": lambda step: (
        _piece_files(step)[3].open("ab").write(b"\0") and None
    ),
    "a missing piece": lambda step: _piece_files(step)[2].unlink(),
    "no manifest": lambda step: (step / "large" / pieces.MANIFEST).unlink(),
    "a flipped bit in the manifest": lambda step: _flip(
        step / "large" / pieces.MANIFEST
    ),
    "a flipped bit in the record": lambda step: _flip(step / "meta" / "metadata"),
    "a manifest with a piece too few": lambda step: _rewrite(
        step, lambda leaves: next(iter(leaves.values())).pop()
    ),
    "a manifest with a piece outside": lambda step: _rewrite(
        step, lambda leaves: next(iter(leaves.values()))[0][1].__setitem__(0, 1000)
    ),
}


def _rewrite(step, change):
    """Changes {number: pieces} in a manifest and seals it again."""
    path = step / "large" / pieces.MANIFEST
    content = sealed.unseal(json.loads(path.read_text()))
    change(content["leaves"])
    path.write_text(json.dumps(sealed.seal(content)))


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_piece_falls_back_to_the_step_before(tiny_pieces, folder, bits, name):
    """As any other damage: reported, skipped, and replaced by the next save."""
    _save(folder(), 1, 2)
    DAMAGE[name](folder.path / "2")
    manager = folder()
    with pytest.warns(UserWarning, match="checkpoint 2 is damaged .* going back to 1"):
        step, state, _ = checkpoint.restore(manager, _state())
    assert step == 1 and bits(state) == bits(_state(1))
    _save(manager, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoint.restore(manager, _state())[0] == 2


@pytest.mark.parametrize(
    "name", ["../{}", "/{}", "a/../../{}", "..", ".", "", "sub/{}", "..\\{}"]
)
def test_a_path_out_of_the_checkpoint_is_an_error(tiny_pieces, folder, name):
    """Not damage: who wrote it meant something by it. Nothing is read."""
    _save(folder(), 1, 2)
    name = name.format(_piece_files(folder.path / "2")[0].name)
    _rewrite(
        folder.path / "2",
        lambda leaves: next(iter(leaves.values()))[0].__setitem__(0, name),
    )
    with pytest.raises(errors.CheckpointError, match="in its own folder") as error:
        checkpoint.restore(folder(), _state())
    assert repr(name) in str(error.value) and "\n" not in str(error.value)


def test_a_link_out_of_the_checkpoint_is_an_error(tiny_pieces, folder, tmp_path):
    """Its content may even be right."""
    _save(folder(), 1)
    piece = _piece_files(folder.path / "1")[0]
    piece.rename(tmp_path / "elsewhere")
    piece.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(errors.CheckpointError, match="in its own folder"):
        checkpoint.restore(folder(), _state())


def test_saving_large_leaves_twice_writes_once(tiny_pieces, folder, bits):
    """The same bits are found by their checksums; others replace them."""
    manager = folder(keep=1)
    _save(manager, 1)
    manifest = folder.path / "1" / "large" / pieces.MANIFEST
    before = manifest.stat().st_ino, manifest.stat().st_mtime_ns
    _save(manager, 1)
    assert (manifest.stat().st_ino, manifest.stat().st_mtime_ns) == before
    other = {**_state(1), "obs": _state(1)["obs"].at[3, 29, 6].add(1)}
    checkpoint.save(manager, 1, other, {"step": 1})
    assert bits(checkpoint.restore(manager, _state())[1]) == bits(other)


def test_old_pieces_go_with_their_step(tiny_pieces, folder):
    """keep counts them as part of it; what is superseded keeps its own."""
    manager = folder(keep=2)
    _save(manager, 1, 2, 3)
    assert sorted(path.name for path in folder.path.iterdir()) == ["2", "3"]
    checkpoint.save(manager, 2, _state(5), {})
    checkpoint.wait(manager)
    assert _piece_files(folder.path / "superseded" / "3")
    assert checkpoint.restore(manager, _state())[0] == 2


def test_pieces_that_do_not_fit_the_disk_leave_the_old_checkpoints(folder, monkeypatch):
    """One line; nothing is left of the step; the next save works."""
    monkeypatch.setattr(pieces, "LARGE", 500_000)
    manager = folder(keep=1)
    _save(manager, 1)
    large = {"x": jnp.zeros(200_000)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(errors.CheckpointError, match="File too large") as error:
            checkpoint.save(manager, 2, large, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert [path.name for path in folder.path.iterdir()] == ["1"]
    assert checkpoint.restore(manager, _state())[0] == 1
    checkpoint.save(manager, 2, large, {})
    assert checkpoint.restore(manager, large)[0] == 2
