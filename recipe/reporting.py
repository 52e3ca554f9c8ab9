"""What a run says of itself: the freeze plan, the closing summary, and run.json."""

import dataclasses
import json
import platform
import resource
import sys
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from recipe.arguments import RecipeArguments
from recipe.durable import write_json
from recipe.freezing import FreezePlan

LIBRARIES = ("torch", "transformers", "datasets", "evaluate", "accelerate")


@dataclass
class RunReport:
    """What is known of a finished run; `metrics` are the best evaluation's, by the Trainer's names."""

    plan: FreezePlan
    identity: dict[str, Any]
    started: float
    metrics: dict[str, Any] = field(default_factory=dict)
    train_metrics: dict[str, Any] = field(default_factory=dict)
    model_sha256: str = ""
    encode_seconds: float = 0.0
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    total_seconds: float = 0.0
    gpu_bytes: int = 0


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


def format_finished(output_dir: str | None) -> str:
    """What is said where there is nothing left to do."""
    results = json.loads((Path(output_dir or ".") / "all_results.json").read_text(encoding="utf-8"))
    score = f" with accuracy {results['eval_accuracy']:.4f}" if "eval_accuracy" in results else ""
    return "\n".join(
        [
            f"{output_dir}: this run has finished{score}; --resume never makes it anew",
            f"next            make eval RUN={output_dir}",
        ]
    )


def write_results(folder: Path, arguments: RecipeArguments, report: RunReport) -> None:
    """The Trainer's result files, and run.json: the resolved arguments, versions, and what the run followed from."""
    parts = {"train": report.train_metrics, "eval": report.metrics}
    for name, metrics in parts.items():
        if metrics:
            write_json(folder / f"{name}_results.json", metrics)
    write_json(folder / "all_results.json", {**report.train_metrics, **report.metrics})
    write_json(folder / "run.json", _run_json(arguments, report))


def _run_json(arguments: RecipeArguments, report: RunReport) -> dict[str, Any]:
    resolved = {name: dataclasses.asdict(part) for name, part in arguments._asdict().items() if name != "training"}
    resolved["training"] = arguments.training.to_sanitized_dict()
    return {
        "arguments": resolved,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "parameters": report.plan.parameters,
        "trainable_parameters": report.plan.trainable,
        "frozen_prefix_depth": report.plan.prefix_depth,
        "identity": report.identity,
        "model_sha256": report.model_sha256,
        "threads": torch.get_num_threads(),
        "encode_seconds": round(report.encode_seconds, 1),
        "train_seconds": round(report.train_seconds, 1),
        "total_seconds": round(report.total_seconds, 1),
        "peak_memory_bytes": peak_memory(),
    }
