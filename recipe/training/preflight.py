"""What can fail before a run has cost anything, tried: metric, optimizer, schedule and reporters."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from torch.optim.lr_scheduler import LambdaLR

from recipe.data.splits import Split, iterate
from recipe.errors import UserError
from recipe.evaluation.metrics import RANKING
from recipe.evaluation.regression import CORRELATIONS
from recipe.process.failures import as_refusal
from recipe.process.progress import say
from recipe.process.text import one_line
from recipe.training.trainer import FreezeTrainer
from recipe.training_arguments import FreezeTrainingArguments

INTEGRATIONS = "transformers.integrations"
ENOUGH = 0.5  # of --learning_rate, which a run's highest rate may stay below without a word


class Reporter:
    """A --report_to integration that, once the run has begun, is given up where it fails, and costs the run nothing."""

    def __init__(self, callback: Any, trainer: FreezeTrainer) -> None:
        self.callback, self.trainer = callback, trainer
        self.given_up = False

    def __getattr__(self, event: str) -> Callable[..., Any]:
        def report(*args: Any, **words: Any) -> Any:
            """Tell the reporter of the event, unless it has failed before."""
            if self.given_up:
                return None
            try:
                return getattr(self.callback, event)(*args, **words)
            except Exception as error:
                self.given_up = True
                what = f"{type(self.callback).__name__}: {type(error).__name__}: {one_line(error)}"
                say(self.trainer.args, f"warning: {what}; nothing is reported there from here on")
                return None

        return report


def preflight(trainer: FreezeTrainer, steps: int) -> None:
    """Try what a run of so many steps will build, and throw it away, but for the reporters, which are set up.

    Raises:
        UserError: one of them refuses its arguments.
    """
    args = trainer.args
    with as_refusal(args):
        if not trainer.is_deepspeed_enabled:  # which makes its own
            trainer.create_optimizer_and_scheduler(steps)
            for line in describe_low_rate(trainer.lr_scheduler, args, steps):
                say(args, f"note: {line}")
            trainer.optimizer = trainer.lr_scheduler = None
        set_up_reporters(trainer)


def describe_low_rate(schedule: Any, args: FreezeTrainingArguments, steps: int) -> Iterator[str]:
    """A line where warm-up or decay are so long for a run of so many steps that its rate stays below `ENOUGH`."""
    if not isinstance(schedule, LambdaLR):
        return
    looked_at = {*range(0, steps, max(1, steps // 10_000)), steps - 1}
    share = max(scale(step) for scale in schedule.lr_lambdas for step in looked_at)
    if share < ENOUGH:
        given = f"--lr_scheduler_type {args.lr_scheduler_type.value} --warmup_steps {args.warmup_steps:g}"
        if args.lr_scheduler_kwargs:
            given += f" --lr_scheduler_kwargs '{json.dumps(args.lr_scheduler_kwargs)}'"
        yield f"{given}: the rate is at most {share:.2g} of --learning_rate in this run's {steps:,} steps"


def set_up_reporters(trainer: FreezeTrainer) -> None:
    """Have each log in and begin its run, as `on_train_begin` would after the encoding; guard what follows."""
    handler = trainer.callback_handler
    for place, callback in enumerate(handler.callbacks):
        if type(callback).__module__.startswith(INTEGRATIONS):
            if hasattr(callback, "setup"):
                words = {"processing_class": trainer.processing_class} if "ClearML" in type(callback).__name__ else {}
                callback.setup(trainer.args, trainer.state, trainer.model, **words)
            handler.callbacks[place] = Reporter(callback, trainer)


def check_metric(args: FreezeTrainingArguments, split: Split) -> None:
    """Check that what chooses the best model exists on the validation split, which would show after an epoch only.

    Raises:
        UserError: all its labels are one score, with which nothing correlates; or a label is missing, without which
            there is no ranking metric.
    """
    name = (args.metric_for_best_model or "").removeprefix("eval_")
    if name in CORRELATIONS:
        labels = (pair["label"] for pair in iterate(split.pairs))
        first = next(labels)
        if all(label == first for label in labels):
            raise UserError(
                f"--metric_for_best_model {name}: every label of {split.source} is {first:g}, with which nothing "
                "correlates; mse, mae or loss is expected"
            )
    if name not in RANKING:
        return
    there = {pair["label"] for pair in iterate(split.pairs)}
    missing = [name for number, name in enumerate(split.label_names) if number not in there]
    if missing:
        raise UserError(
            f"--metric_for_best_model {args.metric_for_best_model}: {split.source} has no pair of label {missing[0]}, "
            "without which there is none; accuracy or loss is expected"
        )
