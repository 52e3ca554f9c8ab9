"""The end of a command: one line on standard error and a status, whatever it was that ended it."""

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from recipe.errors import Damaged, RunError, Stopped, UserError, raised_on_all
from recipe.process.launcher import forget_incomplete
from recipe.process.streams import OutputLost, may_be_lost, open_streams, write_out
from recipe.process.text import shown, without_logins


def exit_on_error(main: Callable[[], None]) -> None:
    """Run `main`; an end that is not well is one line on standard error and a status.

    It is also where the standard streams are made fit to be used, and where a launcher that is gone is forgotten.

    2 for a UserError, 1 for a RunError, Damaged or OSError, 128 and the signal's number for a signal (130 for Ctrl-C).
    """
    open_streams()
    forget_incomplete(os.environ)
    _end_in_order()
    try:
        main()
        write_out()
    except UserError as error:
        _exit(f"error: {error}", 2, "LOCAL_RANK")  # every rank of a machine has the same one (`distributed.together`)
    except (RunError, Damaged) as error:
        _exit(f"error: {error}", 1, _told_by(error))
    except Stopped as stopped:
        _exit(str(stopped), stopped.status, "RANK")  # a signal reaches all ranks, and one of them tells of it
    except KeyboardInterrupt:
        _exit("interrupted", 128 + signal.SIGINT, "RANK")
    except (OutputLost, BrokenPipeError) as error:
        lost = error if isinstance(error, OutputLost) else OutputLost(error)
        _exit(str(lost), lost.status, "RANK")
    except OSError as error:  # a disk that is full, a folder that is read-only or gone
        _exit(f"error: {f'{error.filename}: ' if error.filename else ''}{error.strerror or error}", 1, _told_by(error))


def _told_by(error: Exception) -> str:
    """Who of a machine's processes tells of an error: the first, where all have it, else whichever has."""
    return "LOCAL_RANK" if raised_on_all(error) else ""


def end_at_once() -> None:
    """Have Ctrl-C end the process with its line and no more, until `exit_on_error`: for imports, which take seconds.

    A KeyboardInterrupt has no `exit_on_error` around it yet where a module is run by its name, and in the middle of an
    import some libraries make another error of it.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored, as behind nohup
        signal.signal(signal.SIGINT, _end)


@contextmanager
def ending_at_once() -> Iterator[None]:
    """`end_at_once`, until the end of the block."""
    end_at_once()
    try:
        yield
    finally:
        _end_in_order()


def _end_in_order() -> None:
    if signal.getsignal(signal.SIGINT) is _end:
        # What the imports left is in no later collection: one takes a third of a second, in which Ctrl-C waits and then
        # is raised in the first finalizer, where Python warns of it and goes on. A cycle of regex's has such a one.
        gc.freeze()
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(signum: int, _: FrameType | None) -> None:
    try:
        _exit("interrupted", 128 + signum, "RANK")
    finally:
        os._exit(128 + signum)


def _exit(message: str, status: int, told_by: str = "") -> None:
    if os.environ.get(told_by, "0") == "0":
        with may_be_lost(sys.stderr):
            print(shown(without_logins(f"{Path(sys.argv[0]).name}: {message}")), file=sys.stderr)
    with may_be_lost():
        pass  # what is left in the buffer of standard output must not change the status
    sys.exit(status)
