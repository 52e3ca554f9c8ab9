"""The Trainer's callbacks: progress, the order of each epoch, and a stop behind a checkpoint when a signal has come."""

import math
import signal
import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from recipe.errors import Stopped
from recipe.evaluation.metrics import decimals
from recipe.internals import set_losses
from recipe.process.progress import Progress, say
from recipe.process.signals import StopRequest
from recipe.training.accelerator import LOOK_EVERY


class EpochLines(TrainerCallback):
    """The training's progress, and one line for each evaluation."""

    def __init__(self) -> None:
        self.progress: Progress | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the bar."""
        self.progress = Progress(args, state.max_steps, "training", "step", state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Advance the bar; and have an evaluation come behind a log, so that its line's loss is of the steps before."""
        control.should_log |= control.should_evaluate
        if self.progress is not None:
            self.progress.advance(1)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Have the Trainer log what it has gathered since its last log, so that the epoch's loss is the epoch's."""
        control.should_log = True

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any
    ) -> None:
        """The training loss beside the bar."""
        if "loss" in logs and self.progress is not None:
            self.progress.note(f"loss {logs['loss']:.4f}")

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict[str, Any], **_: Any
    ) -> None:
        """The epoch's line."""
        loss = _mean_loss(state.log_history[:-1])
        trained = "" if loss is None else f"train loss {loss:.4f}  "
        where = f"epoch {state.epoch:.3g}  " if state.epoch else ""
        if "eval_pearson" in metrics:
            scores = f"Pearson {decimals(metrics['eval_pearson'])}  Spearman {decimals(metrics['eval_spearman'])}"
        else:
            scores = f"accuracy {metrics['eval_accuracy']:.4f}  (majority {metrics['eval_majority_baseline']:.4f})"
        say(args, f"{where}{trained}eval loss {metrics['eval_loss']:.4f}  {scores}")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Take the bar away."""
        if self.progress is not None:
            self.progress.close()


def _mean_loss(log: Sequence[dict[str, Any]]) -> float | None:
    """The training loss by step since the last evaluation in the Trainer's log, which a resume goes on with.

    An entry is a mean since the entry before.
    """
    total = steps = logged = 0
    for entry in log:
        if "eval_loss" in entry:
            total = steps = 0
        elif "loss" in entry:
            total += entry["loss"] * (entry["step"] - logged)
            steps += entry["step"] - logged
            logged = entry["step"]
    return total / steps if steps else None


class AnswerLines(TrainerCallback):
    """How far a long way of answers is."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Advance by a batch of each rank."""
        left = self.progress.total - self.progress.done
        self.progress.advance(min(args.eval_batch_size * args.world_size, left))


class EpochOrder(TrainerCallback):
    """Tells the batches which epoch begins; the Trainer's own way to them is lost when a resume skips batches."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Also how many micro-batches of it a resume passes by."""
        batches = self.trainer.train_dataset
        steps = math.ceil(len(batches) / args.gradient_accumulation_steps)
        epoch, passed = divmod(state.global_step, steps)
        batches.set_epoch(epoch, passed * args.gradient_accumulation_steps)


class GoneOnWith(TrainerCallback):
    """Has the Trainer go on with the losses that the run had before, logged or not; it would begin at nought."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Also note when this process begins, and which entries of the log are of an earlier one."""
        before, self.trainer.began = self.trainer.carried, time.perf_counter()
        set_losses(self.trainer, before.loss_sum, before.unlogged, before.logged)
        self.trainer.logged_before = len(state.log_history)


class SaveAndStop(TrainerCallback):
    """Saves and stops when a signal has come; and puts off a save at an epoch's last step until after its evaluation.

    A checkpoint from before the evaluation would be resumed in the next epoch, and the evaluation never made.
    """

    def __init__(self, request: StopRequest) -> None:
        self.request = request
        self._owed = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask for a checkpoint where a signal has come."""
        if self._requested(args, state):
            control.should_save = True
        last = float(state.epoch or 0).is_integer() or state.global_step >= state.max_steps
        control.should_log |= control.should_save and last  # the epoch's end, which logs, is not resumed
        if control.should_save and last and args.eval_strategy == "epoch":
            control.should_save, self._owed = False, True

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save what was put off; the Trainer evaluates first."""
        control.should_save |= self._owed
        self._owed = False

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop behind the checkpoint that the signal asked for."""
        if self._requested(args, state):
            raise Stopped(
                self.request.signum or signal.SIGTERM,
                f"stopped at step {state.global_step} of {state.max_steps}, saved in {args.output_dir}/"
                f"checkpoint-{state.global_step}; {args.same_command} carries on from there",
            )

    def _requested(self, args: TrainingArguments, state: TrainerState) -> bool:
        """Whether a signal has reached any rank: all must stop behind the same step.

        GPUs are not waited for in every step: they ask each other every `LOOK_EVERY`.
        """
        if args.world_size == 1:
            return bool(self.request.signum)
        if args.device.type == "cuda" and state.global_step % LOOK_EVERY:
            return False
        flag = torch.tensor(self.request.signum, device=args.device)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        self.request.signum = int(flag)
        return bool(flag)
