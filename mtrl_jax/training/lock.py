"""One process at a time in a run folder."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import warnings
from collections.abc import Iterator

from mtrl_jax import errors

LOCK = ".lock"
# Of network and FUSE file systems.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}


@contextlib.contextmanager
def lock(run: str | os.PathLike) -> Iterator[None]:
    """Returns a context in which this process alone may write to the run folder.

    The lock belongs to the process: it is gone with it, also after kill -9. Where the
    file system has no locks, a warning says so and nothing is locked.

    Raises:
        RunLockedError: a live process holds it; names its pid.
    """
    import fcntl

    path = pathlib.Path(run) / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise errors.RunLockedError(
                f"{path.parent} is in use by the process {holder}; wait for it, end it, "
                "or choose another --run-dir"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            warnings.warn(
                f"{path.parent}: its file system has no locks ({error.strerror}); see "
                "to it that only one process works on the run",
                stacklevel=4,
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
