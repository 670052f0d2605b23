"""Checksums: of the bits alone, whatever the layout and the pieces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.checkpoint import checksums, sealed


@pytest.mark.parametrize("small", [checksums.SMALL, 0])
def test_checksums_do_not_depend_on_sharding_and_see_every_word(monkeypatch, small):
    """The same bits, the same sum on one device and on eight; one changed bit, another."""
    monkeypatch.setattr(checksums, "SMALL", small)
    x = jax.random.normal(jax.random.key(0), (8, 33, 2))
    mesh = jax.make_mesh((8,), ("pop",), axis_types=(jax.sharding.AxisType.Auto,))
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("pop"))
    assert checksums.of_leaves([x]) == checksums.of_leaves([jax.device_put(x, place)])
    assert checksums.of_leaves([x]) != checksums.of_leaves([x.at[3, 4, 1].multiply(-1)])
    assert checksums.of_leaves([x]) != checksums.of_leaves([x[:, ::-1]])


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1000,), "uint8"),
        ((7, 301, 3), "float32"),
        ((65, 66), "bfloat16"),
        ((2, 5, 130), "bool"),
        ((40, 41), "complex64"),
    ],
)
def test_a_sum_in_pieces_is_the_sum_of_the_whole(monkeypatch, shape, dtype):
    """Σ (2i + 1) · word_i mod 2³², counted by NumPy in one piece."""
    monkeypatch.setattr(checksums, "WORDS", 64)
    x = jax.random.randint(jax.random.key(0), (2, *shape), 0, 1 << 15).astype(dtype)
    x = x[0] + 1j * x[1] if dtype == "complex64" else x[0]
    host = np.asarray(x)
    if dtype == "complex64":
        host = np.stack([host.real, host.imag])
    words = host.reshape(-1).view(f"uint{8 * host.dtype.itemsize}").astype(np.uint64)
    expected = np.sum(words * (2 * np.arange(words.size, dtype=np.uint64) + 1))
    # A program of its own: the jitted one may have been traced with other pieces.
    in_pieces = jax.jit(lambda x: checksums._checksum(x))(x)
    assert int(in_pieces) == int(expected % (1 << 32))
    assert checksums.of_leaves([x]) == [int(in_pieces)]  # on the host


def test_small_leaves_and_large_ones_are_summed_in_their_order(monkeypatch):
    """Keys and NumPy's leaves too."""
    monkeypatch.setattr(checksums, "SMALL", 16)
    leaves = [np.arange(9.0), jnp.ones(3), jax.random.key(3), jnp.arange(8), np.ones(1)]
    together = checksums.of_leaves(leaves)
    assert together == [checksums.of_leaves([x])[0] for x in leaves]
    monkeypatch.setattr(checksums, "SMALL", 1 << 20)
    assert checksums.of_leaves(leaves) == together


def test_a_sum_takes_two_pieces_of_memory():
    """67 MB of bytes would be 268 MB of words."""
    large = jax.ShapeDtypeStruct((67 << 20,), jnp.uint8)
    compiled = checksums._checksums_of.lower([large]).compile()
    assert compiled.memory_analysis().temp_size_in_bytes <= 8 * checksums.WORDS + 4096


def test_a_seal_breaks_with_any_bit():
    """In a name, in a number, in the checksum; and where it is missing."""
    whole = sealed.seal({"a": (1, 2.5), "b": {"c": "é"}})
    assert sealed.unseal(whole) == {"a": [1, 2.5], "b": {"c": "é"}}
    broken = [
        {**whole, "a": [1, 2.25]},
        {**whole, "crc32": whole["crc32"] ^ 1},
        {name: x for name, x in whole.items() if name != "crc32"},
        {("A" if name == "a" else name): x for name, x in whole.items()},
    ]
    for content in broken:
        with pytest.raises(ValueError, match="does not match its checksum"):
            sealed.unseal(content)
