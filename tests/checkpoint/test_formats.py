"""Checkpoints of other versions, subtrees left out, and what is known of a tree."""

import json
import pathlib
import tarfile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import checkpoint, errors
from mtrl_jax.checkpoint import records, sealed

# Written by the code before format 2, of the state below.
FORMAT_1 = pathlib.Path(__file__).with_name("format_1.tar.gz")


class State(NamedTuple):
    params: Any
    key: Any
    rest: Any


def _state():
    key = jax.random.key(0)
    pixels = (jnp.arange(4096) % 251).astype(jnp.uint8)
    params = {
        "w": jnp.arange(240, dtype=jnp.float32).reshape(8, 6, 5),
        "half": jnp.arange(24, dtype=jnp.bfloat16).reshape(8, 3),
        "empty": jnp.zeros((8, 0, 3)),
        "pixels": pixels.reshape(2, 2048),
    }
    rest = (jnp.int32(3), jnp.array([True, False]), np.arange(4), (), None)
    return State(params, jax.random.split(key, 8), rest)


@pytest.fixture
def format_1(folder):
    """A folder with step 3 in format 1."""
    folder.path.parent.mkdir(exist_ok=True)
    with tarfile.open(FORMAT_1) as archive:
        archive.extractall(folder.path.parent, filter="data")
    (folder.path.parent / "format_1").rename(folder.path)
    return folder


@pytest.mark.usefixtures("tiny_pieces")
def test_format_1_is_read(format_1, bits):
    """Also leaves that would be in pieces now; a save goes on in format 2."""
    manager = format_1()
    step, state, meta = checkpoint.restore(manager, checkpoint.abstract(_state()))
    assert (step, meta) == (3, {"config": {"seed": 1, "name": "é"}})
    assert bits(state) == bits(_state())
    checkpoint.save(manager, 4, state, meta)
    step, state, _ = checkpoint.restore(manager, _state())
    assert step == 4 and bits(state) == bits(_state())


def test_another_tree_names_the_version_that_wrote_it(folder):
    """Or that an earlier build did; in format 1 the run's own record says which it was."""
    manager, other = folder(), _state()._replace(rest=())
    checkpoint.save(manager, 1, _state(), {})
    with pytest.raises(errors.CheckpointError) as error:
        checkpoint.restore(manager, checkpoint.abstract(other))
    version = records.contents(other, {}, ()).record["writer"]
    assert str(error.value).endswith(
        f"; it was written by an earlier build of mtrl_jax {version}: go on with the "
        "build and the settings that wrote it, or begin a new run"
    )
    old = {"leaves": [[".w", [2], "float32"]], "checksums": [0]}
    for meta, said in (
        ({"versions": {"mtrl-jax": "0.0.9"}}, "written by mtrl_jax 0.0.9, "),
        ({}, "written by an unknown version, "),
    ):
        record = records.parse({**old, "meta": meta}, 1)
        with pytest.raises(errors.CheckpointError, match=said):
            records.targets(record, {"v": jnp.zeros(2)}, 1)


def test_who_wrote_what_is_not_there_or_damaged_is_not_known(tmp_path):
    """It is part of an error of its own: no other is raised."""
    assert checkpoint.writer(tmp_path / "none") == checkpoint.writer(tmp_path) == ""
    (tmp_path / "3" / "meta").mkdir(parents=True)
    for content in ("", "{", "[]", "{}", '{"meta": 3}', '{"meta": {"versions": []}}'):
        (tmp_path / "3" / "meta" / "metadata").write_text(content)
        assert checkpoint.writer(tmp_path) == ""


def test_damage_in_format_1_is_found(format_1):
    """By the checksums it has."""
    found = [x for x in (format_1.path / "3" / "state").rglob("*") if x.is_file()]
    path = max(found, key=lambda x: x.stat().st_size)
    for path in (x for x in found if x.stat().st_size == path.stat().st_size):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.raises(errors.CheckpointError, match="checkpoint 3 is damaged"):
        checkpoint.restore(format_1(), _state())


def test_a_format_to_come_is_refused_with_its_version(folder):
    """No falling back to an older step: this one is not damaged."""
    manager = folder()
    for step in (1, 2):
        checkpoint.save(manager, step, _state(), {})
    checkpoint.wait(manager)
    path = folder.path / "2" / "meta" / "metadata"
    content = sealed.unseal(json.loads(path.read_text()))
    content = {**content, "format": records.FORMAT + 1, "writer": "9.8.7"}
    path.write_text(json.dumps(sealed.seal(content)))
    assert checkpoint.writer(folder.path) == "9.8.7"
    with pytest.raises(
        errors.CheckpointError,
        match=r"^checkpoint 2 has format 3, written by mtrl_jax 9\.8\.7; .* up to",
    ):
        checkpoint.restore(folder(), _state())


@pytest.mark.parametrize("large", [True, False])
def test_dropped_subtrees_come_back_missing(folder, bits, request, large):
    """As shapes in their place, of what the run has now; the rest is bit for bit."""
    if large:
        request.getfixturevalue("tiny_pieces")
    manager = folder()
    state = _state()
    checkpoint.save(manager, 1, state, {}, drop=("params.pixels", "rest", "none"))
    now = state._replace(params={**state.params, "pixels": jnp.zeros((2, 9), "uint8")})
    _, new, _ = checkpoint.restore(manager, checkpoint.abstract(now))
    missing = [".params['pixels']", ".rest[0]", ".rest[1]", ".rest[2]"]
    assert checkpoint.missing(new) == missing
    assert new.params["pixels"].shape == (2, 9)
    filled = new._replace(params={**new.params, "pixels": 0}, rest=())
    expected = state._replace(params={**state.params, "pixels": 0}, rest=())
    assert checkpoint.missing(filled) == []
    filled.params.pop("pixels"), expected.params.pop("pixels")
    assert bits(filled) == bits(expected)


def test_dropping_takes_whole_names(folder):
    """ "params.half" is not "params.halfway"; what is kept must fit as ever."""
    manager = folder()
    x = jnp.arange(3.0)
    state = {"half": x, "halfway": x}
    checkpoint.save(manager, 1, state, {}, drop=("half",))
    assert checkpoint.missing(checkpoint.restore(manager, state)[1]) == ["['half']"]
    with pytest.raises(errors.CheckpointError, match=r"has state\['halfway'\] as"):
        checkpoint.restore(manager, {**state, "halfway": x[:2]})


def test_the_bytes_of_a_tree_are_those_of_its_arrays():
    """Arrays, their shapes alone and NumPy; keys count their words."""
    state = _state()
    expected = 240 * 4 + 24 * 2 + 0 + 4096 + 8 * 8 + 4 + 2 + 4 * 8
    assert checkpoint.bytes_of(state) == expected
    assert checkpoint.bytes_of(checkpoint.abstract(state)) == expected
    assert checkpoint.bytes_of(()) == 0


def test_what_is_abstract_keeps_no_array():
    """It has the shardings and the kinds, and none of the memory."""
    state = {"x": jnp.ones((4, 5)), "host": np.ones((1000, 1000)), "n": 3}
    like = checkpoint.abstract(state)
    assert like["x"] == jax.ShapeDtypeStruct(
        (4, 5), "float32", sharding=state["x"].sharding
    )
    assert isinstance(like["host"], np.ndarray) and like["host"].shape == (1000, 1000)
    assert like["host"].base.nbytes == 8
    assert isinstance(like["n"], np.ndarray)
