"""How far a run is: a bar or lines of progress, and one line for each evaluation."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator

import datasets
from tqdm.auto import tqdm
from transformers import TrainingArguments
from transformers.utils import logging

from recipe.process.streams import may_be_lost
from recipe.process.text import shown


def quiet_libraries() -> None:
    """Leave standard error to what a user can act on."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()


def say(args: TrainingArguments, line: str) -> None:
    """Print from the first process only, one line or a table whose cells are `shown` already.

    Where nobody reads on, or the disk behind it is full, the run goes on.
    """
    if args.process_index == 0:
        with may_be_lost():
            tqdm.write(shown(line, lines=True))


LINE_SECONDS = 5.0  # the least time between two lines of progress in a log


@contextlib.contextmanager
def told_while_it_lasts(what: str) -> Iterator[None]:
    """Where the body takes long, a line on standard error now and then that says so; from the first process only."""
    done, started = threading.Event(), time.monotonic()

    def tell() -> None:
        """Until it is done."""
        while not done.wait(2 * LINE_SECONDS):
            with contextlib.suppress(OSError, ValueError):  # standard error may be closed
                tqdm.write(f"{shown(what)}: {time.monotonic() - started:.0f} s so far", file=sys.stderr)

    teller = threading.Thread(target=tell, daemon=True)
    if os.environ.get("RANK", "0") == "0":
        teller.start()
    try:
        yield
    finally:
        done.set()


class Progress:
    """A bar on a terminal; elsewhere a line at each tenth of a long way, for logs. From the first process only."""

    def __init__(self, args: TrainingArguments, total: int, what: str, unit: str, done: int = 0) -> None:
        self.args, self.total, self.what, self.unit = args, total, shown(what), unit
        self.first = self.done = done
        self.started = self.last_line = time.perf_counter()
        self.bar: tqdm | None = None
        if args.process_index == 0 and not args.disable_tqdm and sys.stderr.isatty():
            self.bar = tqdm(
                total=total,
                initial=done,
                desc=self.what,
                unit=f" {unit}",
                unit_scale=total > 10_000,
                dynamic_ncols=True,
                leave=False,
            )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def advance(self, count: int) -> None:
        """`count` more are done."""
        before, self.done = self.done, self.done + count
        if self.bar is not None:
            self.bar.update(count)
            return
        now = time.perf_counter()
        if before * 10 // self.total < self.done * 10 // self.total < 10 and now - self.last_line > LINE_SECONDS:
            self.last_line = now
            rate = (self.done - self.first) / (now - self.started)
            left = (self.total - self.done) / rate
            speed = f"{1 / rate:.2f} s a {self.unit}" if rate < 10 else f"{rate:,.0f} {self.unit}s a second"
            say(
                self.args, f"{self.what} {self.done:,}/{self.total:,}, {speed}, {left // 60:.0f}:{left % 60:02.0f} left"
            )

    def note(self, text: str) -> None:
        """Show `text` behind the bar."""
        if self.bar is not None:
            self.bar.set_postfix_str(text)

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
