"""SIGTERM, SIGHUP and Ctrl-C: before training they stop a run at once, in training after the step and a checkpoint."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from recipe.errors import Stopped

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]


class StopRequest:
    """Whether a signal has asked this process to stop.

    Attributes:
        deferred: whether the stop waits for a checkpoint; a second Ctrl-C never does.
    """

    def __init__(self) -> None:
        self.signum = 0
        self.deferred = False
        self._owner = os.getpid()

    def __call__(self, signum: int, _: FrameType | None) -> None:
        """Handle a signal. A data loader's worker, which inherits this, leaves all but SIGTERM to its parent."""
        if os.getpid() != self._owner:
            if signum == signal.SIGTERM:
                os._exit(128 + signum)
            return
        again, self.signum = self.signum, self.signum or signum
        if not self.deferred or (again and signum == signal.SIGINT):
            raise Stopped(signum, "interrupted")
        if not again and os.environ.get("RANK", "0") == "0":
            # a terminal, or the `tee` behind a pipe, may be gone by the same signal; that must not cost the checkpoint
            with suppress(OSError, ValueError, AttributeError):
                os.write(sys.stderr.fileno(), b"\nfinishing the step, then saving; Ctrl-C again stops at once\n")


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """A StopRequest that SIGTERM, SIGINT and SIGHUP reach, until the end of the block; nohup's SIGHUP stays ignored.

    In a thread beside the main one, in which alone Python handles signals, none is taken from whoever handles it.
    """
    request = StopRequest()
    mine = SIGNALS if threading.current_thread() is threading.main_thread() else []
    taken = [signum for signum in mine if signum.name != "SIGHUP" or signal.getsignal(signum) != signal.SIG_IGN]
    before = {signum: signal.signal(signum, request) for signum in taken}
    try:
        yield request
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
