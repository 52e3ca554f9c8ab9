"""What a run says: the freeze plan, a progress bar, a line for each epoch, the closing summary, and run.json."""

import dataclasses
import json
import platform
import resource
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from recipe.arguments import RecipeArguments
from recipe.freezing import FreezePlan

LIBRARIES = ("torch", "transformers", "datasets", "evaluate", "accelerate")


@dataclass
class RunReport:
    """What is known of a finished run; `metrics` are the best evaluation's, by the Trainer's names."""

    plan: FreezePlan
    frozen_sha256: str
    started: float
    metrics: dict[str, Any] = field(default_factory=dict)
    encode_seconds: float = 0.0
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    total_seconds: float = 0.0
    gpu_bytes: int = 0


def say(args: TrainingArguments, line: str) -> None:
    """Print from the first process only."""
    if args.process_index == 0:
        tqdm.write(line)
        sys.stdout.flush()


def format_plan(plan: FreezePlan, num_layers: int) -> str:
    """The plan as a table, neighbouring layers of the same kind in one row, and what a checkpoint of it takes."""
    lines = [f"{'module':<16}{'parameters':>14}{'trained':>14}"]
    for _, group in groupby(plan.rows, key=lambda row: row[1:] if row.module.startswith("layer") else row.module):
        rows = list(group)
        name = rows[0].module
        if len(rows) > 1:
            name = f"layers {name.removeprefix('layer ')}-{rows[-1].module.removeprefix('layer ')}"
        parameters, trainable = sum(row.parameters for row in rows), sum(row.trainable for row in rows)
        trained = f"{trainable:,}" if trainable else "frozen"
        lines.append(f"{name:<16}{parameters:>14,}{trained:>14}")
    share = plan.trainable / plan.parameters
    lines.append(f"{'all':<16}{plan.parameters:>14,}{plan.trainable:>14,}  ({share:.1%} trained)")
    depth = "none" if plan.prefix_depth is None else f"the embeddings and {plan.prefix_depth} of {num_layers} layers"
    size = 12 * plan.trainable  # float32 weights and AdamW's two moments
    lines.append(f"frozen prefix: {depth}; a checkpoint takes {size / 1e6:,.0f} MB")
    return "\n".join(lines)


LINE_SECONDS = 5.0  # the least time between two lines of progress in a log


class Progress:
    """A bar on a terminal; elsewhere a line at each tenth of a long way, for logs. From the first process only."""

    def __init__(self, args: TrainingArguments, total: int, what: str, unit: str, done: int = 0) -> None:
        self.args, self.total, self.what, self.unit = args, total, what, unit
        self.first = self.done = done
        self.started = self.told = time.perf_counter()
        self.bar: tqdm | None = None
        if args.process_index == 0 and not args.disable_tqdm and sys.stderr.isatty():
            self.bar = tqdm(
                total=total,
                initial=done,
                desc=what,
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
            speed = f"{1 / rate:.2f} s a {self.unit}" if rate < 10 else f"{rate:,.0f} {self.unit} a second"
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


def format_summary(report: RunReport, output_dir: str | None) -> str:
    """The closing lines of a run: how good, how long, how much memory, where the model is and what to type next."""
    lines = [""]
    if report.metrics:
        accuracy, majority = report.metrics["eval_accuracy"], report.metrics["eval_majority_baseline"]
        epoch = report.metrics["epoch"]
        verdict = "" if accuracy > majority else "; it does NOT beat always answering the majority label"
        lines.append(f"best accuracy   {accuracy:.4f} after epoch {epoch:.3g} (majority {majority:.4f}){verdict}")
    plan = report.plan
    lines.append(
        f"trained         {plan.trainable:,} of {plan.parameters:,} parameters ({plan.trainable / plan.parameters:.1%})"
    )
    lines.append("frozen          bit-identical to what was loaded (checked)")
    training = report.train_seconds - report.eval_seconds
    parts = f"encoding {report.encode_seconds:.0f} s, training {training:.0f} s, evaluating {report.eval_seconds:.0f} s"
    lines.append(f"time            {report.total_seconds:.0f} s: {parts}")
    memory = f"{peak_memory() / 1e9:.2f} GB" + (
        f", {report.gpu_bytes / 1e9:.2f} GB on the GPU" if report.gpu_bytes else ""
    )
    lines.append(f"peak memory     {memory}")
    lines.append(f"model           {output_dir}")
    lines.append(f"next            make eval RUN={output_dir}")
    return "\n".join(lines)


def format_evaluation(arguments: RecipeArguments, metrics: dict[str, Any]) -> str:
    """The lines of a saved model's score."""
    results = f"{arguments.training.output_dir}/eval_results.json"
    return f"model           {arguments.model.model_name_or_path}\nresults         {results}"


def peak_memory() -> int:
    """The most resident memory this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def write_report(arguments: RecipeArguments, report: RunReport) -> None:
    """run.json in output_dir: the resolved arguments, versions, and what the frozen weights are."""
    resolved = {name: dataclasses.asdict(part) for name, part in arguments._asdict().items() if name != "training"}
    resolved["training"] = arguments.training.to_sanitized_dict()
    content = {
        "arguments": resolved,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "parameters": report.plan.parameters,
        "trainable_parameters": report.plan.trainable,
        "frozen_prefix_depth": report.plan.prefix_depth,
        "frozen_weights_sha256": report.frozen_sha256,
        "encode_seconds": round(report.encode_seconds, 1),
        "train_seconds": round(report.train_seconds, 1),
        "total_seconds": round(report.total_seconds, 1),
        "peak_memory_bytes": peak_memory(),
    }
    path = Path(arguments.training.output_dir or ".") / "run.json"
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
