"""Large leaves in a process of its own: killed in the middle, and measured."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from mtrl_jax import checkpoint
from mtrl_jax.checkpoint import pieces

# Saves step 1, then dies as kill -9 makes it at the given file of step 2.
KILLED = """
import os, signal, sys
import jax.numpy as jnp
from mtrl_jax import checkpoint
from mtrl_jax.checkpoint import pieces

pieces.PIECE, pieces.LARGE = 64, 128
folder, victim, part = sys.argv[1:]
manager = checkpoint.open_manager(folder, 1)
x = jnp.arange(100.0)
checkpoint.save(manager, 1, {"x": x, "y": x[:3]}, {})
checkpoint.wait(manager)
write = pieces._write_file

def write_and_die(path, content):
    if path.name != victim:
        return write(path, content)
    path.write_bytes(bytes(content)[: len(content) * int(part) // 2])
    os.kill(os.getpid(), signal.SIGKILL)

pieces._write_file = write_and_die
checkpoint.save(manager, 2, {"x": x + 1, "y": x[:3]}, {})
raise SystemExit("survived")
"""

# Prints the MB that a save and a restore of 128 MB take beside the leaf.
MEASURED = """
import json, sys
import jax.numpy as jnp, numpy as np
from mtrl_jax import checkpoint

def megabytes(name):
    for line in open("/proc/self/status"):
        if line.startswith(name):
            return int(line.split()[1]) / 1024

def extra(call):
    open("/proc/self/clear_refs", "w").write("5")
    before = megabytes("VmRSS")
    result = call()
    return megabytes("VmHWM") - before, result

def save(step, x):
    checkpoint.save(manager, step, {"x": x}, {})
    checkpoint.wait(manager)

manager = checkpoint.open_manager(sys.argv[1], 1)
small = jnp.zeros(8)
save(1, small)
checkpoint.restore(manager, {"x": small})
x = np.frombuffer(np.random.default_rng(0).bytes(128 << 20), np.uint8)
total, x = int(x.sum()), jnp.array(x.reshape(2, -1)).block_until_ready()
save(2, x)
x = (x + 1).block_until_ready()
saving = min(extra(lambda: save(step, x))[0] for step in (3, 4, 5))
like = checkpoint.abstract({"x": x})
del x
checkpoint.restore(manager, like)
restoring, new = extra(lambda: checkpoint.restore(manager, like)[1])
same = int(np.asarray(new["x"] - 1).sum()) == total
print(json.dumps({"save": saving, "restore": restoring, "same": same}))
"""


def _run(program, *arguments):
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("victim", "halves"), [("00000-00003.bin", 1), (pieces.MANIFEST, 1)]
)
def test_killed_in_the_middle_of_the_pieces_the_step_before_is_sound(
    tmp_path, victim, halves
):
    """In a piece, and after all of them but before there is a whole manifest."""
    outcome = _run(KILLED, tmp_path, victim, halves)
    assert outcome.returncode == -9, outcome.stderr
    assert len(list(tmp_path.glob("2*"))) == 1
    like = {"x": jax.ShapeDtypeStruct((100,), "float32")}
    like["y"] = jax.ShapeDtypeStruct((3,), "float32")
    for options in ({"read_only": True}, {}):
        manager = checkpoint.open_manager(tmp_path, 1, **options)
        step, state, _ = checkpoint.restore(manager, like)
        checkpoint.close(manager)
        assert step == 1
        np.testing.assert_array_equal(state["x"], np.arange(100.0))
    assert not list(tmp_path.glob("2*"))


def test_a_large_leaf_is_never_in_memory_twice(tmp_path):
    """Saving 128 MB takes pieces, restoring it the leaf and pieces.

    How many pieces of a save are in flight depends on how busy the machine is: the least
    of three saves counts.
    """
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the peak of a process is read from /proc")
    outcome = _run(MEASURED, tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    measured = json.loads(outcome.stdout.splitlines()[-1])
    assert measured["same"]
    assert measured["save"] < 64
    assert measured["restore"] < 128 + 64
