"""Cross-stitched layers, mixtures of experts, routed modules, and heads of the tasks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import types
from mtrl_jax.engine.batched_draws import batch_draws
from mtrl_jax.networks import (
    actor_critic,
    components,
    mlp,
    network_module,
    shared_trunks,
)
from mtrl_jax.networks.network_config import NetworkConfig

KEY = jax.random.key(0)
K, B, F, N = 3, 6, 4, 2
X = np.random.default_rng(0).normal(size=(B, F)).astype(np.float32)
TASK = np.array([0, 1, 2, 2, 1, 0], np.int32)
OBS = {"vector": jax.ShapeDtypeStruct((F,), jnp.float32)}
SPEC = types.EnvSpec(
    OBS, types.Discrete(3), (types.TaskSpec("x", OBS, types.Discrete(3)),) * K
)


initial_stitch = jax.jit(shared_trunks.initial_stitch, static_argnums=0)
orthonormal = jax.jit(lambda columns: jnp.stack(shared_trunks.orthonormal(columns)))


@pytest.fixture(name="stitched", scope="module")
def _stitched():
    """Returns (compiled features of (params, x, task), params)."""
    return _made(shared_trunks.CrossStitch((5, 5), jnp.tanh, K))


def _made(trunk):
    params = jax.device_get(jax.jit(batch_draws(trunk.init))(KEY, X, TASK)["params"])
    return jax.jit(lambda *args: trunk.apply({"params": args[0]}, *args[1:])), params


def with_stitch(params, alpha):
    """Returns the parameters with every layer's α as given."""
    change = (alpha - np.asarray(initial_stitch(K))) / shared_trunks._RATE
    return {**params, "stitch_0": change, "stitch_1": change}


def test_rows_of_the_first_stitch_sum_to_one():
    """0.9 for a task's own column."""
    alpha = np.asarray(initial_stitch(K))
    np.testing.assert_allclose(alpha.sum(1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(np.diag(alpha), 0.9, rtol=1e-6)


def test_an_identity_stitch_is_independent_networks(stitched):
    """α = I: each task is the MLP of its own column."""
    features, params = stitched
    wanted = []
    found = features(with_stitch(params, np.eye(K, dtype=np.float32)), X, TASK)
    for b, k in enumerate(TASK):
        h = X[b]
        for i in range(2):
            layer = params[f"_Columns_{i}"]
            h = np.tanh(h @ layer["kernel"][k] + layer["bias"][k])
        wanted.append(h)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_uniform_stitch_is_one_network_for_all(stitched):
    """α = 1/K: the task makes no difference; with the first α it does."""
    features, params = stitched
    even = with_stitch(params, np.full((K, K), 1.0 / K, np.float32))
    same, other = (features(even, X, t) for t in (TASK, (TASK + 1) % K))
    np.testing.assert_allclose(same, other, rtol=1e-5, atol=1e-6)
    own, others = (features(params, X, t) for t in (TASK, (TASK + 1) % K))
    assert not np.allclose(own, others, atol=1e-2)


def test_experts_are_orthonormal_and_keep_their_span():
    """‖U Uᵀ − I‖ < 1e-5 in every state; each column is a sum of its orthonormal ones."""
    columns = np.random.default_rng(0).normal(size=(4, B, 8)).astype(np.float32)
    units = np.moveaxis(np.asarray(orthonormal(columns)), 0, 1)  # [B, N, F]
    gram = units @ units.swapaxes(1, 2)
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(4), gram.shape), atol=1e-5)
    whole = np.moveaxis(columns, 0, 1)
    back = whole @ units.swapaxes(1, 2) @ units
    np.testing.assert_allclose(back, whole, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("length", [0.0, 1.0, 1e3])
def test_a_column_without_a_direction_of_its_own_is_next_to_nothing(length):
    """Of any length, 0 too: what is left of it is not magnified, nor its gradient."""
    x, y = length * np.random.default_rng(0).normal(size=(2, B, 8)).astype(np.float32)
    columns = np.stack([x, 1.7 * x, y])
    first, left, third = np.asarray(orthonormal(columns))
    assert np.abs(left).max() <= 1e-5 * length
    np.testing.assert_allclose(np.sum(first * third, -1), 0.0, atol=1e-5)

    def loss(columns):
        return jnp.sum(orthonormal(columns) @ np.arange(8.0))

    slope = np.asarray(jax.jit(jax.grad(loss))(columns))
    assert np.linalg.norm(slope, axis=-1).max() < 100


def test_experts_are_combined_by_task():
    """h = tanh(Σ_n w_{task,n} ũ_n)."""
    features, params = _made(shared_trunks.Experts((5, 6), jnp.tanh, K, 2))
    found = features(params, X, TASK)
    columns = np.broadcast_to(X, (2, B, F))
    for i in range(2):
        layer = params[f"_Columns_{i}"]
        columns = columns @ layer["kernel"] + layer["bias"][:, None]
        columns = np.tanh(columns) if i == 0 else columns
    units = orthonormal(columns)
    wanted = np.tanh(np.einsum("bn,nbf->bf", params["weights"][TASK], units))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.fixture(name="routed", scope="module")
def _routed():
    """Returns (compiled features of (params, x, task), params), N modules a layer."""
    return _made(shared_trunks.SoftModules((5, 6, 7), jnp.tanh, K, N))


def test_a_module_reads_a_mean_of_those_below_it():
    """Rows of p̂ are over the sources, and sum to 1: a constant stays what it is."""
    logits = np.log([[1.0, 3.0, 1.0, 1.0]])  # p̂ = [[1/4, 3/4], [1/2, 1/2]]
    columns = np.array([[[1.0, 0.0]], [[5.0, 8.0]]])
    routed = jax.jit(shared_trunks.routed)
    found = np.asarray(routed(logits, columns))
    np.testing.assert_allclose(found[:, 0], [[4.0, 6.0], [3.0, 4.0]], rtol=1e-5)
    logits = 5.0 * np.random.default_rng(0).normal(size=(B, N * N))
    even = np.broadcast_to(X, (N, *X.shape))
    np.testing.assert_allclose(routed(logits, even), even, rtol=1e-5, atol=1e-6)


def test_modules_are_routed_by_state_and_task(routed):
    """p^1 = W_d ReLU(e), p^2 = W_d ReLU(W_u p^1 ⊙ e), e = f(x) ⊙ h(task)."""
    features, params = routed

    def dense(name, x):
        return x @ params[name]["kernel"] + params[name]["bias"]

    wanted = []
    for x, task in zip(X, TASK):
        seen = np.tanh(dense("observation", x))
        embedded, g = seen * params["task"][task], [seen] * N
        logits = dense("down_0", np.maximum(embedded, 0.0))
        for i in range(2):
            layer, share = params[f"_Columns_{i}"], np.exp(logits).reshape(N, N)
            out = [
                np.tanh(g[j] @ layer["kernel"][j] + layer["bias"][j]) for j in range(N)
            ]
            g = [
                sum(share[m, j] * out[j] for j in range(N)) / share[m].sum()
                for m in range(N)
            ]
            if i == 0:
                asked = dense("up_0", logits) * embedded
                logits = dense("down_1", np.maximum(asked, 0.0))
        wanted.append(np.concatenate(g))
    found = features(params, X, TASK)
    assert found.shape == (B, N * 7)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_tasks_that_are_renumbered_with_their_embeddings_are_the_same(routed):
    """Equivariant: and the task makes a difference."""
    features, params = routed
    order = np.array([2, 0, 1])  # of the old number at each new one
    renumbered = {**params, "task": params["task"][order]}
    found = features(renumbered, X, np.argsort(order)[TASK])
    before = features(params, X, TASK)
    np.testing.assert_array_equal(found, before)
    assert not np.allclose(features(params, X, (TASK + 1) % K), before, atol=1e-2)


def test_one_module_a_layer_is_an_mlp():
    """Whatever the task: there is one way through."""
    features, params = _made(shared_trunks.SoftModules((5, 6, 7), jnp.tanh, K, 1))
    dense = {"Dense_0": params["observation"]} | {
        f"Dense_{i + 1}": jax.tree.map(lambda x: x[0], params[f"_Columns_{i}"])
        for i in range(2)
    }
    wanted = jax.jit(mlp.MLP((5, 6, 7)).apply)({"params": dense}, X)
    np.testing.assert_allclose(features(params, X, TASK), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sharing", ["hard", "cross_stitch", "experts", "modules"])
def test_a_tasks_loss_trains_its_own_heads_alone(sharing):
    """With ``task_heads``, d L_i / d head_j = 0 for j ≠ i; the trunk learns from it."""
    config = NetworkConfig(
        hidden=(5, 5), task_heads=True, sharing=sharing, experts=2, modules=2
    )
    network = actor_critic.make(SPEC, config)

    def loss(params):
        ts, action = network_module.dummy(SPEC)
        task = jnp.full((1, 1), 1, jnp.int32)
        ts = ts._replace(obs={"vector": jnp.asarray(X[:1][None])}, task=task)
        out, _ = network.unroll(params, network.initial_state(1), ts, action)
        assert out.policy.shape == (1, 1, 3) and out.value.shape == (1, 1)
        return jnp.sum(jnp.square(out.policy)) + jnp.sum(out.value)

    params = jax.jit(batch_draws(network.init))(KEY)
    slope = jax.device_get(jax.jit(jax.grad(loss))(params))
    policy = np.abs(slope["policy"]["kernel"]).reshape(-1, K, 3).sum((0, 2))
    value = np.abs(slope["value"]["kernel"]).sum(0)
    assert (policy > 0).tolist() == (value > 0).tolist() == [False, True, False]
    assert any(np.abs(x).sum() > 0 for x in jax.tree.leaves(slope["torso"]))


def test_what_cannot_be_shared_is_refused():
    """By field, with what would do."""
    image = {"image": jax.ShapeDtypeStruct((10, 10, 2), jnp.float32)}
    for config, words in (
        (NetworkConfig(sharing="all"), "sharing: 'all' is not known"),
        (NetworkConfig(sharing="soft"), "sharing: 'soft' .* impala and ppo"),
        (NetworkConfig(sharing="experts", experts=0), "experts: got 0"),
        (
            NetworkConfig(hidden=(9, 4), sharing="experts", experts=5),
            "experts: got 5 .* 4 units",
        ),
        (NetworkConfig(sharing="modules", modules=0), "modules: got 0"),
        (NetworkConfig(sharing="modules", hidden=(5,)), "hidden: .* two sizes"),
        (NetworkConfig(sharing="cross_stitch"), "sharing: 'cross_stitch' .* 'minatar'"),
        (NetworkConfig(sharing="modules"), "sharing: 'modules' .* 'minatar'"),
    ):
        with pytest.raises(ValueError, match=words):
            actor_critic.make(SPEC._replace(obs=image), config)
    alone = SPEC._replace(tasks=SPEC.tasks[:1])
    for sharing in ("cross_stitch", "experts", "modules"):
        with pytest.raises(ValueError, match=f"'{sharing}' is between tasks"):
            actor_critic.make(alone, NetworkConfig(sharing=sharing))
    with pytest.raises(ValueError, match=r"network\.task_heads: .* one .*; use"):
        actor_critic.make(alone, NetworkConfig(task_heads=True))
    shared = NetworkConfig(task_heads=True)
    with pytest.raises(ValueError, match="task_heads=True"):
        components.make(SPEC, shared, [components.Component()], ())
