"""Locks among processes: a file that one of them holds at a time.

The system lets a lock go when its process ends, however that ends. Windows has no such locks; there
all go on.
"""

import contextlib
import errno
import os
import pathlib
import platform
import time
from collections.abc import Iterator

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_UNKNOWN_THERE = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class HeldError(Exception):
    """Another process holds a lock; the text says which, where and since when."""


@contextlib.contextmanager
def held(path: str | os.PathLike, *, wait: bool = False) -> Iterator[None]:
    """Holds a lock while the block lasts.

    Args:
      path: the lock's file, which is there while it is held; its folder is made.
      wait: whether to wait for another process that holds it.

    Raises:
      HeldError: if another process holds it, unless `wait`.
      OSError: if the file cannot be written.
    """
    path = pathlib.Path(path)
    if fcntl is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as opened:
        while True:
            file = opened.enter_context(open(path, "a+", encoding="utf-8"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
                taken = True
            except BlockingIOError:
                taken = False
            except OSError as error:
                if error.errno not in _UNKNOWN_THERE:
                    raise
                taken = True  # This file system has no locks.
            # Who held it may have removed the file since it was opened here.
            if _is_at(file, path):
                break
            opened.close()
        if not taken:
            file.seek(0)
            raise HeldError(file.read().strip() or "another process")
        opened.callback(_remove, path)  # before the lock goes, so that it is no other's yet
        file.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"process {os.getpid()} on {platform.node()} since {since}\n")
        file.flush()
        yield


def _is_at(file, path):
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _remove(path):
    with contextlib.suppress(OSError):
        path.unlink()
