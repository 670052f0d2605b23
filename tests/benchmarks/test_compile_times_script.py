"""benchmarks/compile_times.py: what is counted of a compiled program."""

import jax
import jax.numpy as jnp
import pytest


@pytest.fixture(name="module")
def _module(script):
    """The module of the script."""
    return script("compile_times")


def test_more_operations_are_more_instructions(module):
    """Each in a program of its own, with the time it took."""
    found = []
    for number in (1, 4):
        shapes = [
            jax.ShapeDtypeStruct((n, n), jnp.float32) for n in range(2, 2 + number)
        ]

        def products(xs):
            return [x @ x for x in xs]

        found.append(module.measured(products, (shapes,)))
    few, many = (row["instructions"] for row in found)
    assert 1 < few < many
    assert all(row["compile s"] > 0 and row["trace s"] > 0 for row in found)


def test_a_chunk_is_that_of_the_agent_on_the_environment(module):
    """Traced to its outputs; an agent that cannot play is refused in a line."""
    chunk, shapes = module.chunk("tabular", "probe/both")
    state, output = jax.eval_shape(chunk, *shapes)
    assert jax.tree.structure(state) == jax.tree.structure(shapes[0])
    assert output.finite.shape == (module.MEMBERS,)
    with pytest.raises(ValueError, match="obs: tabular reads a vector"):
        module.chunk("tabular", "probe/both_image")
