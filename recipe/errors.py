"""How a run ends other than well: what a user can mend, what no run can go on from, and a signal."""

import argparse
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from recipe.launcher import forget_incomplete
from recipe.streams import OutputLost, may_be_lost, open_streams, write_out
from recipe.text import shown, without_logins

# What torch puts before the line of an error that was raised in a worker of a DataLoader.
TRACEBACK = re.compile(r"\ACaught \w+ in DataLoader worker process .*^[\w.]*Error: ", re.DOTALL | re.MULTILINE)


class _OneLine(Exception):
    def __str__(self) -> str:
        text = super().__str__()
        return TRACEBACK.sub("", text).rstrip() if TRACEBACK.match(text) else text


class UserError(_OneLine):
    """Something the user can mend: one line that names the flag or file:line, the value and the accepted form."""


class BadRow(UserError):
    """One row of the data that is no sentence pair; `--on_bad_row skip` leaves it out."""


class RunError(_OneLine):
    """A run that cannot go on, through no fault of its arguments; one line says where it stopped and what to try."""


class Damaged(Exception):
    """A file or folder of our own that is not what was written; one line names it and what is wrong."""


class Missing(Damaged):
    """One that is not there."""


class OneLineParser(argparse.ArgumentParser):
    """argparse whose errors are UserErrors, without the usage before them, and to which -1e-4 is a number."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # by itself, in Python 3.11, it takes -1e-4 and -inf for flags; there is no public way to say otherwise
        self._negative_number_matcher = re.compile(r"^-(\.?\d|inf|nan)", re.IGNORECASE)

    def error(self, message: str) -> NoReturn:
        """Raise it."""
        raise UserError(re.sub(r"^argument (--\w+)(/--[\w-]+)?", r"\1", " ".join(message.split())))


class Stopped(KeyboardInterrupt):
    """A signal ended the run; no `except Exception` on the way swallows it."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.status = 128 + signum


def exit_on_error(main: Callable[[], None]) -> None:
    """Run `main`; an end that is not well is one line on standard error and a status.

    It is also where the standard streams are made fit to be used, and where a launcher that is gone is forgotten.

    2 for a UserError, 1 for a RunError, Damaged or OSError, 128 and the signal's number for a signal (130 for Ctrl-C).
    """
    open_streams()
    forget_incomplete(os.environ)
    try:
        main()
        write_out()
    except UserError as error:
        _exit(f"error: {error}", 2, "LOCAL_RANK")  # every rank of a machine has the same one (`ranks.together`)
    except (RunError, Damaged) as error:
        _exit(f"error: {error}", 1)
    except Stopped as stopped:
        _exit(str(stopped), stopped.status, "RANK")  # a signal reaches all ranks, and one of them tells of it
    except KeyboardInterrupt:
        _exit("interrupted", 128 + signal.SIGINT, "RANK")
    except (OutputLost, BrokenPipeError) as error:
        lost = error if isinstance(error, OutputLost) else OutputLost(error)
        _exit(str(lost), lost.status, "RANK")
    except OSError as error:  # a disk that is full, a folder that is read-only or gone
        _exit(f"error: {f'{error.filename}: ' if error.filename else ''}{error.strerror or error}", 1)


def _exit(message: str, status: int, told_by: str = "") -> None:
    if os.environ.get(told_by, "0") == "0":
        with may_be_lost(sys.stderr):
            print(shown(without_logins(f"{Path(sys.argv[0]).name}: {message}")), file=sys.stderr)
    with may_be_lost():
        pass  # what is left in the buffer of standard output must not change the status
    sys.exit(status)
