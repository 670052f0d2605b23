"""Cores: flax's cells, reset by ``first``."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.engine.batched_draws import batch_draws
from mtrl_jax.networks import cores

T, B, F, H = 5, 3, 4, 6


def _inputs():
    """Returns (x, first, the generator of further numbers)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(T, B, F)).astype(np.float32)
    return x, rng.random((T, B)) < 0.3, rng


def _random_state(kind, rng, size=H):
    state = jax.eval_shape(lambda: cores.initial_state(kind, size, B))
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), state)


def _init(core, *inputs):
    return jax.device_get(jax.jit(batch_draws(core.init))(jax.random.key(1), *inputs))


def _moved(params, rng):
    """Returns the parameters away from where they start."""
    return jax.tree.map(
        lambda p: p + 0.1 * rng.normal(size=p.shape).astype(np.float32), params
    )


def _flax_params(kind, params):
    """Our joined kernels as the parameter tree of the flax cell."""
    gates = {"lstm": "ifgo", "gru": "rzn"}[kind]

    def split(name):
        return jnp.split(params[name], len(gates), axis=-1)

    out = {}
    for gate, wi, wh, b in zip(
        gates, split("input_kernel"), split("hidden_kernel"), split("bias")
    ):
        if kind == "lstm":
            out[f"i{gate}"] = {"kernel": wi}
            out[f"h{gate}"] = {"kernel": wh, "bias": b}
        else:
            out[f"i{gate}"] = {"kernel": wi, "bias": b}
            out[f"h{gate}"] = {"kernel": wh}
    if kind == "gru":
        out["hn"]["bias"] = params["hidden_bias"]
    return out


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_core_equals_the_flax_cell_stepped_by_hand(kind):
    """Hoisting the input product changes no number: outputs, state and gradients."""
    x, first, rng = _inputs()
    core = cores.Core(kind, H)
    state = _random_state(kind, rng)
    params = _init(core, x, state, first)["params"]
    params = _moved(params, rng)
    cell = {"lstm": nn.LSTMCell, "gru": nn.GRUCell}[kind](H)

    def ours(params):
        outputs, final = core.apply({"params": params}, x, state, first)
        return jnp.sum(jnp.sin(outputs)), (outputs, tuple(jax.tree.leaves(final)))

    def flax(params):
        carry = tuple(state) if kind == "lstm" else state
        outputs = []
        for t in range(T):
            carry = jax.tree.map(
                lambda s, t=t: jnp.where(first[t][:, None], 0.0, s), carry
            )
            carry, y = cell.apply({"params": _flax_params(kind, params)}, carry, x[t])
            outputs.append(y)
        outputs = jnp.stack(outputs)
        return jnp.sum(jnp.sin(outputs)), (outputs, tuple(jax.tree.leaves(carry)))

    (_, got), grads = jax.jit(jax.value_and_grad(ours, has_aux=True))(params)
    (_, expected), expected_grads = jax.jit(jax.value_and_grad(flax, has_aux=True))(
        params
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        (got, grads),
        (expected, expected_grads),
    )


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_the_gradient_after_the_loop_is_that_of_the_loop(kind):
    """By kernel, inputs and first state, of outputs and last state; each member's own."""
    members = 2
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=(members, *shape)).astype(np.float32)

    gates = {"lstm": 4, "gru": 3}[kind] * H
    step = {"lstm": cores._lstm_step, "gru": cores._gru_step}[kind]
    kernel = normal(H, gates)
    inputs = tuple(normal(T, B, gates) for _ in range({"lstm": 1, "gru": 2}[kind]))
    state = jax.tree.map(lambda x: normal(*x.shape), _random_state(kind, rng))
    first = rng.random((members, T, B)) < 0.3

    def gradients(unroll):
        def loss(kernel, inputs, state, first):
            outputs, end = unroll(step, kernel, inputs, state, first)
            return sum(jnp.sum(jnp.sin(x)) for x in (outputs, *jax.tree.leaves(end)))

        return jax.jit(jax.vmap(jax.grad(loss, (0, 1, 2))))(
            kernel, inputs, state, first
        )

    ours, plain = gradients(cores.unroll), gradients(cores._scan)
    assert jax.tree.structure(ours) == jax.tree.structure(plain)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, plain
    )


@pytest.mark.parametrize("kind", ["lstm", "gru", "mingru"])
def test_core_starts_anew_where_first_says_so(kind):
    """What came before a first step, state and inputs, changes nothing after it."""
    x, _, rng = _inputs()
    first = np.zeros((T, B), bool)
    first[2, 0] = True
    changed = x.copy()
    changed[:2] += 1.0
    core = cores.Core(kind, H)
    state = _random_state(kind, rng)
    params = _init(core, x, state, first)
    changed_state = jax.tree.map(lambda s: s + 1.0, state)
    apply = jax.jit(core.apply)
    out, final = jax.device_get(apply(params, x, state, first))
    other, other_final = jax.device_get(apply(params, changed, changed_state, first))
    np.testing.assert_array_equal(out[2:, 0], other[2:, 0])
    assert np.all(np.abs(out[:2, 0] - other[:2, 0]).max(-1) > 1e-4)
    assert np.all(np.abs(out[2:, 1:] - other[2:, 1:]).max(-1) > 1e-6)
    for a, b in zip(jax.tree.leaves(final), jax.tree.leaves(other_final)):
        np.testing.assert_array_equal(a[0], b[0])


@pytest.mark.parametrize("kind", ["lstm", "gru", "mingru"])
def test_a_slot_recovers_from_what_is_not_finite(kind):
    """From its next first step on, as if nothing had been: outputs and state."""
    x, _, rng = _inputs()
    first = np.zeros((T, B), bool)
    first[2, 0] = True
    core = cores.Core(kind, H)
    state = _random_state(kind, rng)
    params = _init(core, x, state, first)
    lost = x.copy()
    lost[1, 0] = np.inf
    nan = jax.tree.map(np.copy, state)
    jax.tree.map(lambda s: s.__setitem__(0, np.nan), nan)
    apply = jax.jit(core.apply)
    wanted, wanted_final = jax.device_get(apply(params, x, state, first))
    for given in ((lost, state), (x, nan)):
        out, final = jax.device_get(apply(params, *given, first))
        assert not np.isfinite(out[1, 0]).any()
        np.testing.assert_array_equal(out[2:], wanted[2:])
        jax.tree.map(np.testing.assert_array_equal, final, wanted_final)


@pytest.mark.parametrize("kind", cores.CORES)
def test_two_unrolls_equal_one(kind):
    """The state carries everything: splitting the time axis changes nothing."""
    x, first, rng = _inputs()
    core = cores.Core(kind, H)
    state = _random_state(kind, rng)
    params = _init(core, x, state, first)
    apply = jax.jit(core.apply)
    whole, final = apply(params, x, state, first)
    head, middle = apply(params, x[:2], state, first[:2])
    tail, end = apply(params, x[2:], middle, first[2:])
    np.testing.assert_allclose(np.concatenate([head, tail]), whole, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), final, end)


def test_forget_gate_starts_open():
    """The LSTM's forget bias is 1, the other biases 0, each gate's kernel orthogonal."""
    x, first, rng = _inputs()
    state = _random_state("lstm", rng)
    params = _init(cores.Core("lstm", H), x, state, first)["params"]
    i, f, g, o = np.split(params["bias"], 4)
    np.testing.assert_array_equal(f, np.ones(H))
    np.testing.assert_array_equal(np.stack([i, g, o]), np.zeros((3, H)))
    for kernel in np.split(params["hidden_kernel"], 4, axis=-1):
        np.testing.assert_allclose(kernel @ kernel.T, np.eye(H), atol=1e-5)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_gates_given_how_long_to_remember_start_so(kind):
    """Chrono initialisation: what keeps has bias log u, u in [1, T - 1]; T - 1 is met."""
    x, first, rng = _inputs()
    size, steps = 256, 240
    state = _random_state(kind, rng, size)
    make = cores.Core(kind, size, steps)
    bias = _init(make, x, state, first)["params"]["bias"]
    gates = bias.reshape(-1, size)
    u = np.exp(gates[1])
    assert 1 - 1e-5 <= u.min() < 5 and 230 < u.max() <= 239 * (1 + 1e-5)
    assert abs(u.mean() - 120) < 15
    np.testing.assert_array_equal(gates[0], -gates[1] if kind == "lstm" else 0)
    np.testing.assert_array_equal(gates[2:], 0)


def test_the_minimal_gru_starts_out_to_remember():
    """z has bias -log u, u in [1, T - 1]: what is kept of a step is u / (1 + u)."""
    x, first, rng = _inputs()
    size, steps = 256, 240
    state = _random_state("mingru", rng, size)
    for memory, spread in ((0, (0.0, 0.0)), (steps, (np.log(1), np.log(239)))):
        core = cores.Core("mingru", size, memory)
        params = _init(core, x, state, first)["params"]
        bias = params["mingru"]["gates"]["bias"].reshape(3, size)
        assert spread[0] - 1e-5 <= -bias[0].max() and -bias[0].min() <= spread[1] + 1e-5
        np.testing.assert_array_equal(bias[1:], 0)
    assert np.exp(-bias[0]).max() > 230


def test_the_minimal_gru_is_its_equations():
    """Outputs and state of the scan are those of the docstring, one step at a time."""
    x, first, rng = _inputs()
    state = _random_state("mingru", rng)
    core = cores.Core("mingru", H)
    params = _init(core, x, state, first)["params"]
    params = _moved(params, rng)
    outputs, end = jax.device_get(
        jax.jit(core.apply)({"params": params}, x, state, first)
    )
    own = params["mingru"]

    def dense(name, inputs):
        return inputs @ own[name]["kernel"] + own[name]["bias"]

    hidden = state
    for t in range(T):
        hidden = np.where(first[t][:, None], 0.0, hidden)
        u = dense("input", x[t])
        normed = (u - u.mean(-1, keepdims=True)) / np.sqrt(
            u.var(-1, keepdims=True) + 1e-6
        )
        normed = normed * own["norm"]["scale"] + own["norm"]["bias"]
        z, c, o = np.split(dense("gates", normed), 3, axis=-1)
        z = 1 / (1 + np.exp(-z))
        hidden = (1 - z) * hidden + z * c
        y = u + dense("output", o / (1 + np.exp(-o)) * hidden)
        np.testing.assert_allclose(outputs[t], y, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(end, hidden, rtol=1e-4, atol=1e-5)


def test_a_memory_of_many_steps_lasts_them():
    """By default nothing is left after 100 steps; given 1000, the most of it is."""

    def left(memory: int) -> float:
        x, first = np.zeros((100, B, 1), np.float32), np.zeros((100, B), bool)
        ones = np.ones((B, H), np.float32)
        state = cores.LSTMState(ones, 0 * ones)
        core = cores.Core("lstm", H, memory)
        _, end = jax.jit(core.apply)(_init(core, x, state, first), x, state, first)
        return float(np.median(end.cell))

    assert abs(left(0)) < 0.05
    assert left(1000) > 0.5


def test_unknown_core_is_named():
    """An error says what was given and what would work."""
    with pytest.raises(ValueError, match=r"core: 'rnn'.*'gru'"):
        cores.initial_state("rnn", H, B)
