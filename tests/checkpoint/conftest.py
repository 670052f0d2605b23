"""What the tests of checkpoints share: folders of managers, trees as bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import checkpoint
from mtrl_jax.checkpoint import pieces


def bits(tree):
    """Returns the dtype, shape and bytes of every leaf."""

    def of(x):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        return str(x.dtype), x.shape, np.asarray(x).tobytes()

    return [of(x) for x in jax.tree.leaves(tree)]


@pytest.fixture(name="bits")
def _bits():
    return bits


@pytest.fixture
def folder(tmp_path):
    """A folder whose managers are closed in the end."""
    opened = []

    def open_manager(keep=3, **options):
        opened.append(checkpoint.open_manager(tmp_path / "ckpt", keep, **options))
        return opened[-1]

    open_manager.path = tmp_path / "ckpt"
    yield open_manager
    for manager in opened:
        checkpoint.close(manager)


@pytest.fixture
def tiny_pieces(monkeypatch):
    """Pieces of 64 bytes, of leaves from 128 bytes."""
    monkeypatch.setattr(pieces, "PIECE", 64)
    monkeypatch.setattr(pieces, "LARGE", 128)
