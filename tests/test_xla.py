"""Settings of the process."""

import os
import platform
import resource
import subprocess
import sys
import textwrap

import pytest

from mtrl_jax import xla


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an allocator of its own")
def test_kept_memory_is_not_mapped_again():
    """Freeing and allocating a large block again costs no page faults."""
    program = textwrap.dedent("""
        import resource
        import numpy as np
        from mtrl_jax import xla

        def faults():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(5):
                np.ones(2**24, np.uint8)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        print(faults(), xla.keep_memory(), faults() and faults())
    """)
    # A process of its own: the setting cannot be taken back.
    out = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"},
    ).stdout.split()
    before, kept, after = int(out[0]), out[1], int(out[2])
    block_pages = 2**24 // resource.getpagesize()
    assert kept == "True"
    assert before > after + block_pages / 8
    assert after < block_pages / 8


@pytest.mark.parametrize(
    ("given", "expected"),
    [("", "cores"), ("--xla_force_host_platform_device_count=3", "3")],
)
def test_every_core_is_a_device_unless_the_user_says_otherwise(given, expected):
    """A population is split over cores by `mtrl train`, not by an import."""
    program = textwrap.dedent("""
        import os, jax, mtrl_jax
        from mtrl_jax import xla

        before = os.environ["XLA_FLAGS"]
        xla.configure_process()
        print("host_platform" in before, len(jax.devices()), xla.cores())
    """)
    out = subprocess.run(
        [sys.executable, "-c", program],
        check=True, capture_output=True, text=True,
        env={**os.environ, "XLA_FLAGS": given, "JAX_PLATFORMS": "cpu"},
    ).stdout.split()  # fmt: skip
    asked_for, devices, cores = out
    assert asked_for == str(bool(given))
    assert devices == (cores if expected == "cores" else expected)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", "{own}=false"),
        ("--xla_one=1", "--xla_one=1 {own}=false"),
        ("{own}=true --xla_one=1", "{own}=true --xla_one=1"),
    ],
)
def test_a_flag_that_the_user_set_stays(given, expected, monkeypatch):
    """The kit's are added to the others, once."""
    own = "--xla_cpu_enable_concurrency_optimized_scheduler"
    monkeypatch.setenv("XLA_FLAGS", given.format(own=own))
    for _ in range(2):
        xla.set_flags()
        assert os.environ["XLA_FLAGS"] == expected.format(own=own)


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/", {"cpu.max": "max 100000"}, 64),
        ("0::/", {"cpu.max": "200000 100000"}, 2),
        ("0::/", {"cpu.max": "250000 100000"}, 2),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/a/b", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),
        ("3:cpu,cpuacct:/x\n0::/", {"cpu,cpuacct/x/cpu.cfs_quota_us": "400000",
          "cpu,cpuacct/x/cpu.cfs_period_us": "100000"}, 4),
        ("3:cpu:/x\n1:memory:/", {"cpu/cpu.cfs_quota_us": "-1",
          "cpu/cpu.cfs_period_us": "100000"}, 64),
        ("3:cpu:/", {"cpu/cpu.cfs_quota_us": "nonsense"}, 64),
        (None, {}, 64),
    ],
)  # fmt: skip
def test_a_containers_quota_counts(tmp_path, monkeypatch, groups, files, expected):
    """Of version 1 or 2, of the own group or one above; whole cores, at least one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    if groups is not None:
        files = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
        files["proc/self/cgroup"] = groups
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert xla.cores(str(tmp_path)) == expected
