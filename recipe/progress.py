"""How far a run is: a bar or lines of progress, and one line for each evaluation."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import datasets
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from recipe.streams import may_be_lost
from recipe.text import shown


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
        self.started = self.told = time.perf_counter()
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
        if before * 10 // self.total < self.done * 10 // self.total < 10 and now - self.told > LINE_SECONDS:
            self.told = now
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


class EpochLines(TrainerCallback):
    """The training's progress, and one line for each evaluation."""

    def __init__(self) -> None:
        self.progress: Progress | None = None
        self.loss_sum = self.loss_steps = 0.0
        self.logged = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the bar."""
        self.progress = Progress(args, state.max_steps, "training", "step", state.global_step)
        self.logged = state.global_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Advance the bar."""
        if self.progress is not None:
            self.progress.advance(1)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Have the Trainer log what it has gathered since its last log, so that the epoch's loss is the epoch's."""
        control.should_log = True

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any
    ) -> None:
        """Gather the training loss, which the Trainer logs as a mean since the last log."""
        if "loss" not in logs:
            return
        self.loss_sum += logs["loss"] * (state.global_step - self.logged)
        self.loss_steps += state.global_step - self.logged
        self.logged = state.global_step
        if self.progress is not None:
            self.progress.note(f"loss {logs['loss']:.4f}")

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict[str, Any], **_: Any
    ) -> None:
        """The epoch's line."""
        trained = f"train loss {self.loss_sum / self.loss_steps:.4f}  " if self.loss_steps else ""
        self.loss_sum = self.loss_steps = 0.0
        where = f"epoch {state.epoch:.3g}  " if state.epoch else ""
        say(args, f"{where}{trained}{describe_metrics(metrics)}")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Take the bar away."""
        if self.progress is not None:
            self.progress.close()


def describe_metrics(metrics: dict[str, Any]) -> str:
    """Loss, accuracy and the majority baseline of an evaluation."""
    return (
        f"eval loss {metrics['eval_loss']:.4f}  accuracy {metrics['eval_accuracy']:.4f}  "
        f"(majority {metrics['eval_majority_baseline']:.4f})"
    )
