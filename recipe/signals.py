"""SIGTERM, SIGHUP and Ctrl-C: before training they stop a run at once, in training after the step and a checkpoint."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

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
    """A StopRequest that SIGTERM, SIGINT and SIGHUP reach, until the end of the block; nohup's SIGHUP stays ignored."""
    request = StopRequest()
    taken = [signum for signum in SIGNALS if signum.name != "SIGHUP" or signal.getsignal(signum) != signal.SIG_IGN]
    before = {signum: signal.signal(signum, request) for signum in taken}
    try:
        yield request
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


class SaveAndStop(TrainerCallback):
    """Saves and stops when a signal has come; and puts off a save at an epoch's last step until after its evaluation.

    A checkpoint from before the evaluation would be resumed in the next epoch, and the evaluation never made.
    """

    def __init__(self, request: StopRequest) -> None:
        self.request = request
        self._owed = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask for a checkpoint where a signal has come."""
        if self._requested(args):
            control.should_save = True
        last = float(state.epoch or 0).is_integer() or state.global_step >= state.max_steps
        if control.should_save and last and args.eval_strategy == "epoch":
            control.should_save, self._owed = False, True

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save what was put off; the Trainer evaluates first."""
        control.should_save |= self._owed
        self._owed = False

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop behind the checkpoint that the signal asked for."""
        if self._requested(args):
            raise Stopped(
                self.request.signum or signal.SIGTERM,
                f"stopped at step {state.global_step} of {state.max_steps}, saved in {args.output_dir}/"
                f"checkpoint-{state.global_step}; the same command carries on from there",
            )

    def _requested(self, args: TrainingArguments) -> bool:
        """Whether a signal has reached any rank: all must stop behind the same step."""
        if args.world_size == 1:
            return bool(self.request.signum)
        flag = torch.tensor(self.request.signum, device=args.device)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        self.request.signum = int(flag)
        return bool(flag)
