"""Settings of the whole suite: strict promotion, 8 virtual CPU devices, fast compiles."""

import gc
import os
import subprocess

# Before jax is imported anywhere: sharding tests need several devices; nearly all of the
# suite's time is compilation, which takes 0.3 of it without LLVM's optimisations and the
# emitters of fusions.
_FLAGS = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    " --xla_cpu_use_fusion_emitters=false"
)
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import pytest  # noqa: E402
import running  # noqa: E402
import staged_runs  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
# Tracing leaves millions of objects, hardly any of them garbage.
gc.set_threshold(50_000, 20, 50)


@pytest.fixture(autouse=True, scope="module")
def _few_programs():
    """Compiled programs are forgotten with their file: jax keeps 2,048, over which every
    further compilation searches, and which take gigabytes."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(name="programs", scope="session")
def _programs(tmp_path_factory):
    """The folder where the session's runs keep their compiled programs."""
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(name="cached", scope="module")
def _cached(programs):
    """Tests of the module find compiled programs there."""
    with running.cached_programs(programs):
        yield programs


@pytest.fixture(name="finished", scope="session")
def _finished(tmp_path_factory, programs):
    """A run of the tiny settings from the first to the last update; do not change it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    with running.cached_programs(programs):
        running.train(folder)
    return folder


@pytest.fixture(name="staged", scope="session")
def _staged(tmp_path_factory, programs):
    """A run through all stages; do not change it."""
    folder = tmp_path_factory.mktemp("staged") / "run"
    with running.cached_programs(programs):
        outcome = running.mtrl(
            "train",
            staged_runs.write(folder.with_name("tiny.yaml")),
            "--run-dir",
            folder,
        )
    assert outcome.code == 0, outcome.err
    return folder


@pytest.fixture(name="staged_copy")
def _staged_copy(tmp_path, staged):
    """A copy of the run that may be changed."""
    subprocess.run(["cp", "-r", staged, tmp_path / "run"], check=True)
    return tmp_path / "run"
