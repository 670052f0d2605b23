"""What is wrong with the machine or its settings: the right result, or one line."""

import os
import subprocess
import sys

import pytest
import running

from mtrl_jax.training import machine


def _command(arguments, start=("-m", "mtrl_jax"), cwd=running.ROOT, **variables):
    """Returns the outcome of a process of its own."""
    done = subprocess.run(
        [sys.executable, *map(str, start), *map(str, arguments)],
        cwd=cwd,
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )
    return running.Outcome(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"JAX_ENABLE_X64": "1"}, "JAX_ENABLE_X64: the kit computes in 32 bits"),
        ({"JAX_PLATFORMS": "nowhere"}, "JAX_PLATFORMS='nowhere': no such device"),
    ],
)
def test_settings_that_cannot_work_are_one_line(tmp_path, variables, words):
    """Exit code 2 before anything is written."""
    settings, run = running.write(tmp_path / "tiny.yaml"), tmp_path / "run"
    outcome = _command(["train", settings, "--run-dir", run], **variables)
    assert outcome.code == 2
    assert words in outcome.error
    assert not run.exists()


def test_an_ascii_terminal_can_name_anything(tmp_path):
    """A config with letters of its own, in the locale C: shown with escapes."""
    config = tmp_path / "größe.yaml"
    config.write_text("# Größe\ntasks: []\n", encoding="utf-8")
    locale = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONCOERCECLOCALE": "0"}
    outcome = _command(["train", config], PYTHONUTF8="0", **locale)
    assert outcome.code == 2
    assert "tasks=[]" in outcome.error and "fe.yaml" in outcome.error


@pytest.mark.parametrize("where", ["", "mtrl_jax"])
def test_the_file_of_the_command_can_be_started(where):
    """Its folder has a random.py and a types.py, which are not Python's."""
    path = (running.ROOT / "mtrl_jax" / "cli.py").relative_to(running.ROOT / where)
    outcome = _command(["list", "agents"], start=(path,), cwd=running.ROOT / where)
    assert outcome.code == 0, outcome.err
    assert "impala" in outcome.out


def test_out_of_memory_is_one_line(tmp_path, cached, monkeypatch):
    """Of the device or of Python; any other error keeps its traceback."""
    import jax

    from mtrl_jax.training import loop

    def run(session):
        session.bar.close()
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes.\nMore of it."
        )

    monkeypatch.setattr(loop, "run", run)
    settings = running.write(tmp_path / "tiny.yaml")
    outcome = running.mtrl("train", settings, "--run-dir", tmp_path / "run")
    assert outcome.code == 1
    *_, said = outcome.err.splitlines()
    assert "out of memory (Out of memory allocating 99 bytes.)" in said
    assert "Traceback" not in outcome.err
    assert machine.explain(MemoryError()).startswith("out of memory; give fewer")
    assert machine.explain(jax.errors.JaxRuntimeError("INTERNAL: x")) is None


def test_suggested_commands_can_be_pasted(tmp_path, finished):
    """A folder with a blank in its name is quoted."""
    run = tmp_path / "my run"
    run.symlink_to(finished)
    settings = running.write(tmp_path / "tiny.yaml")
    outcome = running.mtrl("train", settings, "--run-dir", run)
    assert f"`mtrl resume '{run}'`" in outcome.error
