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
    train_seconds: float = 0.0
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
    # float32 weights of the whole model, and AdamW's two moments of what is trained
    size = 4 * plan.parameters + 8 * plan.trainable
    lines.append(f"frozen prefix: {depth}; a checkpoint takes {size / 1e6:,.0f} MB")
    return "\n".join(lines)


class EpochLines(TrainerCallback):
    """A progress bar on a terminal, a line now and then elsewhere, and one line for each evaluation."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None
        self.loss_sum = self.loss_steps = 0.0
        self.logged = self.shown = 0
        self.started = time.perf_counter()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the bar."""
        self.started, self.first = time.perf_counter(), state.global_step
        self.logged = state.global_step
        if state.is_world_process_zero and not args.disable_tqdm and sys.stderr.isatty():
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True, leave=False
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Advance the bar, or say where the run is at each tenth of it."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)
        elif state.global_step * 10 // state.max_steps > self.shown and state.global_step < state.max_steps:
            self.shown = state.global_step * 10 // state.max_steps
            each = (time.perf_counter() - self.started) / (state.global_step - self.first)
            left = each * (state.max_steps - state.global_step)
            time_left = f"{left // 60:.0f}:{left % 60:02.0f} left"
            say(args, f"step {state.global_step}/{state.max_steps}, {each:.2f} s a step, {time_left}")

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
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {logs['loss']:.4f}")

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict[str, Any], **_: Any
    ) -> None:
        """The epoch's line."""
        trained = f"train loss {self.loss_sum / self.loss_steps:.4f}  " if self.loss_steps else ""
        self.loss_sum = self.loss_steps = 0.0
        where = f"epoch {state.epoch:g}  " if state.epoch else ""
        say(args, f"{where}{trained}{describe_metrics(metrics)}")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()


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
        verdict = "" if accuracy > majority else "; it does NOT beat always answering the majority label"
        lines.append(
            f"best accuracy   {accuracy:.4f} after epoch {report.metrics['epoch']:g} (majority {majority:.4f}){verdict}"
        )
    plan = report.plan
    lines.append(
        f"trained         {plan.trainable:,} of {plan.parameters:,} parameters ({plan.trainable / plan.parameters:.1%})"
    )
    lines.append("frozen          bit-identical to what was loaded (checked)")
    lines.append(
        f"time            {report.total_seconds:.0f} s, {report.train_seconds:.0f} s of it training and evaluating"
    )
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
        "total_seconds": round(report.total_seconds, 1),
        "peak_memory_bytes": peak_memory(),
    }
    path = Path(arguments.training.output_dir or ".") / "run.json"
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
