"""Names of runs, made so that no two processes have one."""

import os
import pathlib
import subprocess
import sys
import time

import pytest
import running

from mtrl_jax.config import loading
from mtrl_jax.training import run_folder


def test_runs_of_one_second_have_names_of_their_own(tmp_path, monkeypatch):
    """As many as begin; in the order in which they do."""
    monkeypatch.setattr(time, "strftime", lambda _: "now")
    made = []
    for _ in range(3):
        with run_folder.claimed(tmp_path / "runs", "a") as folder:
            (folder / "x").write_text("")
            made.append(folder.name)
    assert made == ["a-now", "a-now-2", "a-now-3"]


def test_processes_that_begin_at_once_do_not_collide(tmp_path):
    """Four of them, whatever the clock says."""
    code = (
        "import pathlib, sys, time; from mtrl_jax.training import run_folder\n"
        "time.strftime = lambda _: 'now'\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        f"with run_folder.claimed(pathlib.Path({str(tmp_path)!r}) / 'runs', 'a') as f:\n"
        "    (f / 'x').write_text(''); print(f.name)"
    )
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", code]
    begun = [subprocess.Popen(command, cwd=running.ROOT, **pipe) for _ in range(4)]
    assert all(p.stdout.readline() == "ready\n" for p in begun)
    for process in begun:
        process.stdin.write("\n")
        process.stdin.flush()
    names = {process.communicate()[0].strip() for process in begun}
    assert len(names) == 4 and "" not in names


def test_a_folder_at_the_root_is_no_stage():
    """A volume's: it has one parent."""
    for folder in ("/run", "/", "/stages/run"):
        path = pathlib.Path(folder)
        assert run_folder.whole(path) == path


def test_a_name_is_given_back_if_nothing_came_of_it(tmp_path):
    """A config that cannot work leaves nothing behind."""
    with pytest.raises(ValueError), run_folder.claimed(tmp_path / "runs", "a"):
        raise ValueError
    assert not list(tmp_path.iterdir())


def test_settings_are_on_disk_before_they_have_their_name(tmp_path, monkeypatch):
    """A power cut leaves a run with an empty config.yaml otherwise; it needs one."""
    synced, replace, fsync = [], os.replace, os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino) or fsync(fd)
    )

    def replaced(path, target):
        assert os.stat(path).st_ino in synced
        replace(path, target)

    monkeypatch.setattr(os, "replace", replaced)
    run_folder.write_config(tmp_path, loading.from_dict(running.TINY))
    assert loading.load(tmp_path / "config.yaml") == loading.from_dict(running.TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    # What a process leaves that was killed in between is of no run.
    (tmp_path / "config.yaml").rename(tmp_path / ".config.yaml.7.tmp")
    run_folder.check_new(tmp_path)


def test_a_config_that_cannot_work_leaves_no_folder(tmp_path, monkeypatch):
    """Of its own name either."""
    monkeypatch.chdir(tmp_path)
    config = running.write(tmp_path / "tiny.yaml")
    assert running.mtrl("train", config, "population.size=3").code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]
