"""Locks on files, which the system lets go of when their holder dies, in whatever container or on whatever machine."""

import errno
import os
import stat
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

UNSUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}  # some network file systems have no locks

_handles: set[int] = set()  # of all locks that this process holds


class Lock:
    """A lock that this process holds until it releases it, or nothing refers to it any more.

    Attributes:
        certain: False where the system has no locks, so that another process may think that it holds it as well.
    """

    def __init__(self, handle: int, certain: bool) -> None:
        self.handle, self.certain, self._owner = handle, certain, os.getpid()
        _handles.add(handle)

    def release(self) -> None:
        """Let others have it."""
        if self.handle >= 0 and self._owner == os.getpid():
            _handles.discard(self.handle)
            os.close(self.handle)
        self.handle = -1

    __del__ = release


def lock(path: Path, shared: bool = False, create: bool = False) -> Lock:
    """Lock the file which is at `path` now, not one that its last holder removed; links are not followed.

    Args:
        shared: others may hold it at the same time, if they share it as well.
        create: make the file, readable by its owner only, where there is none.

    Raises:
        BlockingIOError: another process holds it.
        OSError: there is no such file, or it cannot be opened.
    """
    flags = (os.O_RDONLY if shared else os.O_RDWR) | (os.O_CREAT if create else 0)
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # a pipe would be waited for
    while True:
        handle = os.open(path, flags, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(errno.EINVAL, f"{path.name} in it is no file")
            certain = _flock(handle, shared)
            here = os.path.lexists(path) and os.path.samestat(os.fstat(handle), os.lstat(path))
        except BaseException:
            os.close(handle)
            raise
        if here:
            return Lock(handle, certain)
        os.close(handle)


def wait_for(path: Path) -> Lock:
    """The lock on a file, once its holder lets go of it.

    Raises:
        OSError: the file is gone.
    """
    while True:
        try:
            return lock(path)
        except BlockingIOError:
            time.sleep(0.05)


def _flock(handle: int, shared: bool) -> bool:
    """Lock an open file; gives whether the system has locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return False
    return True


def _let_go() -> None:
    """In a forked process: a loader's worker that outlives its killed parent must not go on holding its locks."""
    for handle in _handles:
        os.close(handle)
    _handles.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
