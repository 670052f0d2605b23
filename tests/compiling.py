"""What the suite compiles: kept between sessions, and counted for each file of tests.

A pytest plugin. Nearly all of the suite's time is compilation, so a file that compiles
more programs than its budget fails: its last test that ran ends in an error.
"""

import contextlib
import gc
import os
import pathlib
import re
import threading

import jax
import pytest

TESTS = pathlib.Path(__file__).resolve().parent
CACHE = TESTS.parent / ".jax_cache"
# A cache that has grown larger begins again.
MAX_CACHE_BYTES = 4 << 30
# jax keeps 2,048 programs, over which every further compilation searches, and which take
# gigabytes: a process that has so many forgets them when a file of tests ends.
KEPT = 500
# A context keeps every constant that was written in it.
LOWERED_TOGETHER = 200
_EVENT = "/jax/core/compile/backend_compile_duration"


class Tally:
    """The programs compiled in all and for each file; found in a cache counts as well."""

    def __init__(self):
        self.programs: dict[str, int] = {}
        self.file: str | None = None
        self.total = 0
        self.forgotten = 0

    def note(self, event, duration, **_):
        """Count a compilation for the file in progress, if there is one."""
        if event != _EVENT:
            return
        self.total += 1
        if self.file is not None:
            self.programs[self.file] = self.programs.get(self.file, 0) + 1

    @contextlib.contextmanager
    def of(self, file):
        """Count what is compiled for ``file``; for no file where it is None."""
        before, self.file = self.file, file
        try:
            yield
        finally:
            self.file = before

    def forget(self, kept=KEPT):
        """Drop this process's compiled programs if there are more than ``kept``."""
        if self.total - self.forgotten > kept:
            jax.clear_caches()
            gc.collect()
            self.forgotten = self.total

    def check(self, file, budget):
        """Raises AssertionError unless ``file`` compiled at most ``budget`` programs."""
        found = self.programs.get(file, 0)
        if found > budget:
            raise AssertionError(
                f"{file} compiled {found} programs, its budget is {budget}: share them"
                " among its tests, or give it a larger budget in tests/budgets.py"
            )


TALLY = Tally()
jax.monitoring.register_event_duration_secs_listener(TALLY.note)


def shared():
    """Returns a context for what several files share: it is on no file's account."""
    return TALLY.of(None)


def keep(folder=CACHE):
    """Keep every compiled program of this process in ``folder``, however small."""
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        jax.config.update(name, value)


def share_contexts(lowered=LOWERED_TOGETHER):
    """Let programs of a thread be written in one MLIR context, anew after ``lowered``.

    jax makes one for each program, which is a third of a small one's cost. Where jax has
    no such function any more, nothing is changed.
    """
    from jax._src.interpreters import mlir

    make, own = getattr(mlir, "make_ir_context", None), threading.local()
    if make is None:
        return

    def context():
        if getattr(own, "left", 0) == 0:
            own.context, own.left = make(), lowered
        own.left -= 1
        return own.context

    mlir.make_ir_context = context


def trim(folder=CACHE, max_bytes=MAX_CACHE_BYTES):
    """Empty ``folder`` if its files are larger than ``max_bytes`` together."""
    files = [path for path in folder.glob("*") if path.is_file()]
    if sum(path.stat().st_size for path in files) > max_bytes:
        for path in files:
            path.unlink(missing_ok=True)


def pytest_configure(config):
    """Trim the cache before there are workers that read it, then use it."""
    if not hasattr(config, "workerinput"):
        trim()
    # Else a file of many tests comes first, however short they are.
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False
    keep()
    share_contexts()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark what waits for test-all; begin with the files that take longest.

    The others stay in their random order.
    """
    import budgets
    import later

    for item in items:
        if later.is_later(file_of(item), item.name):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: budgets.rank(item.path.name))


def file_of(item):
    """Returns the file of a test or module, named as below tests/."""
    path = item.path
    return path.relative_to(TESTS).as_posix() if TESTS in path.parents else path.name


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Returns what deals units to several processes.

    Groups of ``--dist loadgroup`` do not reach xdist 3.8 under pytest 9.2.
    """
    from xdist.scheduler import LoadFileScheduling

    class ByUnit(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return unit_of(nodeid)

    return ByUnit(config, log)


def unit_of(nodeid):
    """Returns what runs whole in one process: a file, or an agent's part of it."""
    import budgets

    file, _, name = nodeid.partition("::")
    if file.rpartition("/")[2] not in budgets.APART:
        return file
    agent = re.split(r"[\[-]", name.rstrip("]"))[-1]
    return f"{file}-{agent}"


def claim(folder, unit, worker):
    """Raises AssertionError if another process runs tests of the unit.

    Modules' fixtures and programs would be made in both.
    """
    path = folder / f"{unit.replace('/', '.')}.claimed"
    try:
        with path.open("x") as stream:
            stream.write(worker)
    except FileExistsError:
        first = path.read_text()
        assert first == worker, f"{unit}: {first} and {worker} run it; --dist loadfile"


@pytest.fixture(autouse=True)
def _one_process(request, tmp_path_factory):
    """Hold a unit to one of several processes."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = tmp_path_factory.getbasetemp().parent
        claim(folder, unit_of(request.node.nodeid), os.environ["PYTEST_XDIST_WORKER"])


@pytest.fixture(autouse=True, scope="module")
def _few_programs(request):
    """Hold a file to its budget; what earlier files compiled is not on its account."""
    import budgets

    file = file_of(request.node)
    with TALLY.of(file):
        yield
    TALLY.forget()
    own = [item for item in request.session.items if item.path == request.node.path]
    slow = any(item.get_closest_marker("slow") for item in own)
    TALLY.check(file, budgets.of(file, slow))


def pytest_sessionfinish(session):
    """Write the counts where the variable COMPILED names a folder."""
    import json

    if folder := os.environ.get("COMPILED"):
        worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
        path = pathlib.Path(folder) / f"{worker}.json"
        path.write_text(json.dumps(TALLY.programs, indent=1, sort_keys=True))
