"""Standard input, output and error as they may be: closed, full, cut short, or of an encoding without a character."""

import codecs
import contextlib
import io
import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO


class OutputLost(Exception):
    """Standard output did not take all that the command is there for; `status` is what the process ends with."""

    def __init__(self, error: OSError) -> None:
        broken = isinstance(error, BrokenPipeError)
        super().__init__(
            "standard output was closed before its end" if broken else f"error: standard output: {error.strerror}"
        )
        self.status = 128 + getattr(signal, "SIGPIPE", 13) if broken else 1  # as a filter ends that SIGPIPE ends


def _escape(error: UnicodeError) -> tuple[str, int]:
    """A character as JSON escapes it, so that a line of JSON stays one; a byte of a path that is not UTF-8 as well."""
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error("jsonescape", _escape)


def open_streams() -> None:
    """Open what is closed of the three, so that no file takes its number, and have both outputs take every character.

    A closed standard input stays None in `sys`: who reads it says so.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(handle, True)
    os.close(handle)
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="jsonescape")


@contextlib.contextmanager
def may_be_lost(stream: TextIO | None = None) -> Iterator[None]:
    """Tell `stream` (standard output by default) of something that the run can do without: it may be gone or full."""
    stream = stream or sys.stdout
    try:
        yield
        stream.flush()
    except (OSError, ValueError):
        _silence(stream)


def tell(text: str) -> None:
    """Print what the command can do without: where nobody reads on, it goes on."""
    with may_be_lost():
        print(text, flush=True)


def write_out(lines: Iterable[str] = ()) -> None:
    """Write what the command is there for, and what is still in the buffer, to standard output.

    Raises:
        OutputLost: nobody reads on, or it is full.
    """
    try:
        sys.stdout.writelines(lines)
        sys.stdout.flush()
    except OSError as error:
        _silence(sys.stdout)
        raise OutputLost(error) from None


def _silence(stream: Any) -> None:
    """Let what is written from here on, and what is left in the buffer, go nowhere."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()
