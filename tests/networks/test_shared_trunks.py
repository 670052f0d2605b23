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
    network_module,
    shared_trunks,
    torsos,
)
from mtrl_jax.networks.network_config import NetworkConfig

KEY = jax.random.key(0)
K, B, F, N = 3, 6, 4, 2
X = jax.random.normal(KEY, (B, F))
TASK = jnp.array([0, 1, 2, 2, 1, 0])
OBS = {"vector": jax.ShapeDtypeStruct((F,), jnp.float32)}
SPEC = types.EnvSpec(
    OBS, types.Discrete(3), (types.TaskSpec("x", OBS, types.Discrete(3)),) * K
)


@pytest.fixture(name="stitched", scope="module")
def _stitched():
    """Returns (compiled features of (params, x, task), params)."""
    trunk = shared_trunks.CrossStitch((5, 5), jnp.tanh, K)
    params = jax.jit(batch_draws(trunk.init))(KEY, X, TASK)["params"]
    return jax.jit(lambda *args: trunk.apply({"params": args[0]}, *args[1:])), params


def with_stitch(params, alpha):
    """Returns the parameters with every layer's α as given."""
    change = (alpha - shared_trunks.initial_stitch(K)) / shared_trunks._RATE
    return {**params, "stitch_0": change, "stitch_1": change}


def test_rows_of_the_first_stitch_sum_to_one():
    """0.9 for a task's own column."""
    alpha = shared_trunks.initial_stitch(K)
    np.testing.assert_allclose(alpha.sum(1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(jnp.diag(alpha), 0.9, rtol=1e-6)


def test_an_identity_stitch_is_independent_networks(stitched):
    """α = I: each task is the MLP of its own column."""
    features, params = stitched
    found = features(with_stitch(params, jnp.eye(K)), X, TASK)
    for b, k in enumerate(np.asarray(TASK)):
        h = X[b]
        for i in range(2):
            layer = params[f"_Columns_{i}"]
            h = jnp.tanh(h @ layer["kernel"][k] + layer["bias"][k])
        np.testing.assert_allclose(found[b], h, rtol=1e-4, atol=1e-5)


def test_a_uniform_stitch_is_one_network_for_all(stitched):
    """α = 1/K: the task makes no difference; with the first α it does."""
    features, params = stitched
    even = with_stitch(params, jnp.full((K, K), 1.0 / K))
    same, other = (features(even, X, t) for t in (TASK, (TASK + 1) % K))
    np.testing.assert_allclose(same, other, rtol=1e-5, atol=1e-6)
    own, others = (features(params, X, t) for t in (TASK, (TASK + 1) % K))
    assert not np.allclose(own, others, atol=1e-2)


def test_experts_are_orthonormal_and_keep_their_span():
    """‖U Uᵀ − I‖ < 1e-5 in every state; each column is a sum of its orthonormal ones."""
    columns = jax.random.normal(KEY, (4, B, 8))
    units = jnp.moveaxis(shared_trunks.orthonormal(columns), 0, 1)  # [B, N, F]
    gram = units @ jnp.swapaxes(units, 1, 2)
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(4), gram.shape), atol=1e-5)
    whole = jnp.moveaxis(columns, 0, 1)
    back = whole @ jnp.swapaxes(units, 1, 2) @ units
    np.testing.assert_allclose(back, whole, rtol=1e-3, atol=1e-4)
    # A column in the span of another is nothing, not NaN.
    twice = shared_trunks.orthonormal(jnp.stack([columns[0], columns[0]]))
    slope = jax.grad(lambda c: jnp.sum(shared_trunks.orthonormal(c)))(
        jnp.zeros((2, 1, 3))
    )
    assert np.isfinite(twice).all() and np.isfinite(slope).all()


def test_experts_are_combined_by_task():
    """h = tanh(Σ_n w_{task,n} ũ_n)."""
    trunk = shared_trunks.Experts((5, 6), jnp.tanh, K, 2)
    params = jax.jit(batch_draws(trunk.init))(KEY, X, TASK)["params"]
    found = jax.jit(trunk.apply)({"params": params}, X, TASK)
    columns = jnp.broadcast_to(X, (2, B, F))
    for i in range(2):
        layer = params[f"_Columns_{i}"]
        columns = (
            jnp.einsum("nbf,nfs->nbs", columns, layer["kernel"])
            + layer["bias"][:, None]
        )
        columns = jnp.tanh(columns) if i == 0 else columns
    units = shared_trunks.orthonormal(columns)
    wanted = jnp.tanh(jnp.einsum("bn,nbf->bf", params["weights"][TASK], units))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.fixture(name="routed", scope="module")
def _routed():
    """Returns (compiled features of (params, x, task), params), N modules a layer."""
    trunk = shared_trunks.SoftModules((5, 6, 7), jnp.tanh, K, N)
    params = trunk.init(KEY, X, TASK)["params"]
    return jax.jit(lambda *args: trunk.apply({"params": args[0]}, *args[1:])), params


def test_a_module_reads_a_mean_of_those_below_it():
    """Rows of p̂ are over the sources, and sum to 1: a constant stays what it is."""
    logits = jnp.log(jnp.array([[1.0, 3.0, 1.0, 1.0]]))  # p̂ = [[1/4, 3/4], [1/2, 1/2]]
    columns = jnp.array([[[1.0, 0.0]], [[5.0, 8.0]]])
    found = shared_trunks.routed(logits, columns)
    np.testing.assert_allclose(found[:, 0], [[4.0, 6.0], [3.0, 4.0]], rtol=1e-5)
    logits = 5.0 * jax.random.normal(KEY, (B, N * N))
    even = jnp.broadcast_to(X, (N, *X.shape))
    np.testing.assert_allclose(
        shared_trunks.routed(logits, even), even, rtol=1e-5, atol=1e-6
    )


def test_modules_are_routed_by_state_and_task(routed):
    """p^1 = W_d ReLU(e), p^2 = W_d ReLU(W_u p^1 ⊙ e), e = f(x) ⊙ h(task)."""
    features, params = routed

    def dense(name, x):
        return x @ params[name]["kernel"] + params[name]["bias"]

    wanted = []
    for x, task in zip(np.asarray(X), np.asarray(TASK)):
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
    order = jnp.array([2, 0, 1])  # of the old number at each new one
    renumbered = {**params, "task": params["task"][order]}
    found = features(renumbered, X, jnp.argsort(order)[TASK])
    before = features(params, X, TASK)
    np.testing.assert_array_equal(found, before)
    assert not np.allclose(features(params, X, (TASK + 1) % K), before, atol=1e-2)


def test_one_module_a_layer_is_an_mlp():
    """Whatever the task: there is one way through."""
    trunk = shared_trunks.SoftModules((5, 6, 7), jnp.tanh, K, 1)
    params = trunk.init(KEY, X, TASK)["params"]
    mlp = {"Dense_0": params["observation"]} | {
        f"Dense_{i + 1}": jax.tree.map(lambda x: x[0], params[f"_Columns_{i}"])
        for i in range(2)
    }
    wanted = torsos.MLP((5, 6, 7)).apply({"params": mlp}, X)
    found = trunk.apply({"params": params}, X, TASK)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sharing", ["hard", "cross_stitch", "experts", "modules"])
def test_a_tasks_loss_trains_its_own_heads_alone(sharing):
    """With ``task_heads``, d L_i / d head_j = 0 for j ≠ i; the trunk learns from it."""
    config = NetworkConfig(
        hidden=(5, 5), task_heads=True, sharing=sharing, experts=2, modules=2
    )
    network = actor_critic.make(SPEC, config)
    ts, action = network_module.dummy(SPEC)
    ts = ts._replace(obs={"vector": X[:1][None]}, task=jnp.full((1, 1), 1, jnp.int32))

    def loss(params):
        out, _ = network.unroll(params, network.initial_state(1), ts, action)
        assert out.policy.shape == (1, 1, 3) and out.value.shape == (1, 1)
        return jnp.sum(jnp.square(out.policy)) + jnp.sum(out.value)

    slope = jax.jit(jax.grad(loss))(network.init(KEY))
    policy = np.abs(np.asarray(slope["policy"]["kernel"])).reshape(-1, K, 3).sum((0, 2))
    value = np.abs(np.asarray(slope["value"]["kernel"])).sum(0)
    assert (policy > 0).tolist() == (value > 0).tolist() == [False, True, False]
    assert any(np.abs(x).sum() > 0 for x in jax.tree.leaves(slope["torso"]))


def test_what_cannot_be_shared_is_refused():
    """By field, with what would do."""
    image = {"image": jax.ShapeDtypeStruct((10, 10, 2), jnp.float32)}
    for config, words in (
        (NetworkConfig(sharing="all"), "sharing: 'all' is not known"),
        (NetworkConfig(sharing="soft"), "sharing: 'soft' .* impala and ppo"),
        (NetworkConfig(sharing="experts", experts=0), "experts: got 0"),
        (NetworkConfig(sharing="modules", modules=0), "modules: got 0"),
        (NetworkConfig(sharing="modules", hidden=(5,)), "hidden: .* two sizes"),
        (NetworkConfig(sharing="cross_stitch"), "sharing: 'cross_stitch' .* 'minatar'"),
        (NetworkConfig(sharing="modules"), "sharing: 'modules' .* 'minatar'"),
    ):
        with pytest.raises(ValueError, match=words):
            actor_critic.make(SPEC._replace(obs=image), config)
    for sharing in ("cross_stitch", "experts", "modules"):
        with pytest.raises(ValueError, match=f"'{sharing}' is between tasks"):
            alone = SPEC._replace(tasks=SPEC.tasks[:1])
            actor_critic.make(alone, NetworkConfig(sharing=sharing))
    shared = NetworkConfig(task_heads=True)
    with pytest.raises(ValueError, match="task_heads=True"):
        components.make(SPEC, shared, [components.Component()], ())
