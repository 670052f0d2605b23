"""How long a run is, and what is due after a chunk."""

import pytest

from mtrl_jax.training import program


@pytest.mark.parametrize(
    ("every", "per_chunk", "due"),
    [
        (5, 5, [5, 10, 15, 20]),
        (10, 5, [10, 20]),
        # More than one in a chunk is one; between two chunks it is due after the later.
        (2, 5, [5, 10, 15, 20]),
        (7, 5, [10, 15]),
        (0, 5, []),
    ],
)
def test_what_falls_into_a_chunk_is_due_after_it(every, per_chunk, due):
    """Rounds of PBT, tests and checkpoints: multiples of ``every``, and 0 is never."""
    length = program.RunLength(20, per_chunk, 1, 0, 0)
    chunks = range(per_chunk, 21, per_chunk)
    assert [update for update in chunks if length.is_due(every, update)] == due
