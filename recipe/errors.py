"""How a run ends other than well: what a user can mend, what no run can go on from, and a signal."""

import re

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


def raised_on_all(error: BaseException | None) -> bool:
    """Whether an error, or the one that it comes from, is one that `distributed.together` raises on every process."""
    return error is not None and (getattr(error, "on_all", False) or raised_on_all(error.__cause__))


class Damaged(Exception):
    """A file or folder of our own that is not what was written; one line names it and what is wrong."""


class Missing(Damaged):
    """One that is not there."""


class Stopped(KeyboardInterrupt):
    """A signal ended the run; no `except Exception` on the way swallows it."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.status = 128 + signum
