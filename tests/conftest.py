"""Settings of the whole suite: strict promotion, 8 virtual CPU devices, fast compiles."""

import fcntl
import gc
import json
import os
import shutil
import subprocess
from importlib import metadata

# Before jax is imported anywhere: sharding tests need several devices; nearly all of the
# suite's time is compilation, which takes 0.3 of it without LLVM's optimisations and the
# emitters of fusions, and 0.8 of that with a program as one part.
_FLAGS = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    " --xla_cpu_parallel_codegen_split_count=1"
)
# A flag that XLA does not know ends the process: jaxlib 0.11 has the emitters for good.
if metadata.version("jaxlib").startswith("0.10."):
    _FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import compiling  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402
import running  # noqa: E402
import staged_runs  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
# Where an operation was written is nowhere asked of a compiled program.
jax.config.update("jax_traceback_in_locations_limit", 0)
# Tracing leaves millions of objects, hardly any of them garbage.
gc.set_threshold(50_000, 20, 50)


def pytest_configure(config):
    """Count what is compiled, and keep it."""
    config.pluginmanager.register(compiling, "compiling")


@pytest.fixture(name="cached", scope="session")
def _cached():
    """The folder where the suite, and a process that is given it, keeps its programs."""
    return compiling.CACHE


@pytest.fixture(name="finished", scope="session")
def _finished(tmp_path_factory):
    """A run of the tiny settings from the first to the last update; do not change it."""

    def train(folder):
        with running.walks() as found:
            running.train(folder)
        folder.with_name("walks").write_text(json.dumps(found))

    return _made_once(tmp_path_factory, "finished", train)


@pytest.fixture(name="staged", scope="session")
def _staged(tmp_path_factory):
    """A run through all stages; do not change it."""

    def train(folder):
        file = staged_runs.write(folder.with_name("tiny.yaml"))
        outcome = running.mtrl("train", file, "--run-dir", folder)
        assert outcome.code == 0, outcome.err
        folder.with_name("printed").write_text(outcome.err)

    return _made_once(tmp_path_factory, "staged", train)


def _made_once(tmp_path_factory, name, make):
    """Returns a folder that ``make`` filled, in the first worker that asks for it."""
    home = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        home = home.parent
    home = home / f"shared-{name}"
    home.mkdir(exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "made").exists():
            shutil.rmtree(home / "run", ignore_errors=True)  # Of one that failed.
            with compiling.shared():
                make(home / "run")
            (home / "made").touch()
    return home / "run"


@pytest.fixture(name="staged_copy")
def _staged_copy(tmp_path, staged):
    """A copy of the run that may be changed."""
    subprocess.run(["cp", "-r", staged, tmp_path / "run"], check=True)
    return tmp_path / "run"
