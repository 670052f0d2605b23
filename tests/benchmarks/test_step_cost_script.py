"""benchmarks/step_cost.py: what is counted of a loop, and what its parts are."""

import jax
import jax.numpy as jnp
import pytest


@pytest.fixture(name="module")
def _module(script):
    """The module of the script."""
    return script("step_cost")


def test_a_loops_body_counts_what_it_calls(module):
    """Three products are more than one; what is outside of the loop is no part of it."""

    def program(products, outside):
        def body(x, _):
            for _ in range(products):
                x = jnp.tanh(x @ x)
            return x, ()

        def run(x):
            for _ in range(outside):
                x = jnp.sin(x @ x)
            return jax.lax.scan(body, x, None, length=5)[0]

        return jax.jit(run).lower(jnp.ones((3, 3))).compile().as_text()

    one, three = (module.body_of(program(n, 0)) for n in (1, 3))
    assert 0 < one < three
    assert module.body_of(program(1, 3)) == one
    assert module.body_of("no program") == 0


def test_a_call_goes_on_from_where_the_last_ended(module):
    """So that no two of them are the same work."""
    call = module.again(lambda now: (now + 1, ()), jnp.zeros(()), repeats=3)
    assert [int(call()[0]) for _ in range(2)] == [3, 6]
