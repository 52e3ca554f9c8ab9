"""What a run says of itself: the freeze plan, the closing summary, and run.json."""

import shlex
import sys
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from recipe.arguments import RecipeArguments
from recipe.errors import Damaged
from recipe.evaluation.metrics import by_name, decimals, headline
from recipe.file_names import RESULTS
from recipe.model.freezing import FreezePlan
from recipe.process.allocator import peak_memory
from recipe.process.text import shown, without_places, without_secrets
from recipe.system.arithmetic import versions
from recipe.system.json_files import read_json


def own_command() -> str:
    """This process's command, as it can be published."""
    return shlex.join(["python", *without_places(without_secrets(sys.argv))])


@dataclass
class RunReport:
    """What is known of a finished run; `metrics` are those of the model that it leaves, by the Trainer's names."""

    plan: FreezePlan
    identity: dict[str, Any]
    started: float
    metrics: dict[str, Any] = field(default_factory=dict)
    prefix: dict[str, Any] = field(default_factory=dict)  # how the frozen prefix came to the tail
    is_best: bool = True  # whether the model is the best checkpoint's and not the last step's
    best_by: str = "accuracy"  # --metric_for_best_model, without eval_
    train_metrics: dict[str, Any] = field(default_factory=dict)
    model_sha256: str = ""
    files: list[str] = field(default_factory=list)  # that it leaves in output_dir
    encode_seconds: float = 0.0  # these are this process's own
    train_seconds: float = 0.0
    earlier_encode_seconds: float = 0.0  # of the processes before
    earlier_train_seconds: float = 0.0  # the same, as far as the checkpoint that this one went on from
    changed: tuple[str, ...] = ()  # by resumes
    eval_seconds: float = 0.0
    total_seconds: float = 0.0
    peak_bytes: int = 0  # of memory, where another process had more
    gpu_bytes: int = 0
    processes: int = 1  # of which the memory is the first one's
    command: str = field(default_factory=own_command)  # and the versions: of the process that ends the run
    versions: dict[str, str] = field(default_factory=versions)
    recalled: bool = False  # whether an earlier process made the report, of a run that has finished


MOMENTS = {"adamw_torch": 2, "adamw_torch_fused": 2, "sgd": 0}  # of a trained weight's size, in a checkpoint


def checkpoint_bytes(plan: FreezePlan, arguments: RecipeArguments) -> int | None:
    """What a checkpoint's weights and moments take, all of one type; None where that is not known of --optim."""
    args = arguments.training
    moments = MOMENTS.get(args.optim)
    if moments is None:
        return None
    options = dict(word.split("=") for word in (args.optim_args or "").replace(" ", "").split(",") if word)
    moments += float(options.get("momentum", 0)) > 0  # which sgd alone of them takes
    itemsize: int = getattr(torch, arguments.model.dtype).itemsize
    return itemsize * plan.trainable * (1 + moments)


def format_plan(plan: FreezePlan, size: int | None = None) -> str:
    """The plan as a table, neighbouring layers of the same kind in one row.

    Args:
        size: of a checkpoint, in bytes, where it is to be told.
    """
    lines = [f"{'module':<16}{'parameters':>14}{'trained':>14}"]
    for (kind, *_), group in groupby(plan.rows, key=lambda row: (row.module.partition(" ")[0], *row[1:])):
        rows = list(group)
        name = rows[0].module
        if len(rows) > 1:
            name = f"{kind}s {name.partition(' ')[2]}-{rows[-1].module.partition(' ')[2]}"
        parameters, trainable = sum(row.parameters for row in rows), sum(row.trainable for row in rows)
        trained = f"{trainable:,}" if trainable else "frozen"
        lines.append(f"{name:<16}{parameters:>14,}{trained:>14}")
    share = plan.trainable / plan.parameters
    lines.append(f"{'all':<16}{plan.parameters:>14,}{plan.trainable:>14,}  ({share:.1%} trained)")
    num_layers = sum(row.module.startswith("layer") for row in plan.rows)
    depth = "none" if plan.prefix_depth is None else f"the embeddings and {plan.prefix_depth} of {num_layers} layers"
    takes = "" if size is None else f"; a checkpoint takes {size / 1e6:,.0f} MB"
    lines.append(f"frozen prefix: {depth}{takes}")
    return "\n".join(lines)


def format_summary(report: RunReport, output_dir: str | None) -> str:
    """The closing lines of a run: how good, how long, how much memory, where the model is and what to type next."""
    lines = [""]
    if report.metrics:
        scores = by_name(report.metrics)
        name, title = headline(scores)
        label, after = f"{'best' if report.is_best else 'last'} {title}", f"after epoch {scores['epoch']:.3g}"
        if report.is_best and report.best_by != name:  # another epoch's may be better
            label, after = title, f"{after}, the best by {report.best_by}"
        lines.append(f"{label:<15} {decimals(scores[name])} {after} {_beside(scores)}")
    else:
        lines.append("score           not known: no evaluation took place, and the last model is kept")
    plan = report.plan
    lines.append(
        f"trained         {plan.trainable:,} of {plan.parameters:,} parameters ({plan.trainable / plan.parameters:.1%})"
    )
    if plan.trainable < plan.parameters:
        lines.append("frozen          bit-identical to what was loaded (checked)")
    training = report.train_seconds - report.eval_seconds
    parts = f"encoding {report.encode_seconds:.0f} s, training {training:.0f} s, evaluating {report.eval_seconds:.0f} s"
    earlier = report.earlier_train_seconds  # with what evaluations took of it
    before = f"; before it training and evaluating, {earlier:.0f} s" if earlier else ""
    if before and report.earlier_encode_seconds:
        before += f", encoding {report.earlier_encode_seconds:.0f} s"
    lines.append(f"time            {report.total_seconds:.0f} s: {parts}{before}")
    lines.append(f"peak memory     {describe_memory(report)}")
    lines.append(f"model           {shown(str(output_dir))}")
    lines.append(f"next            make eval RUN={shown(shlex.quote(str(output_dir)))}")
    return "\n".join(lines)


def _beside(scores: dict[str, Any]) -> str:
    """What stands beside the score that is named first, and whether nothing was learned."""
    if "pearson" in scores:
        if scores["pearson"] is None:
            return f"(Spearman {decimals(scores['spearman'])}): its scores or the labels are constant"
        verdict = "" if scores["pearson"] > 0 else "; its scores do NOT rise with the labels"
        return f"(Spearman {decimals(scores['spearman'])}){verdict}"
    beats = scores["accuracy"] > scores["majority_baseline"]
    verdict = "" if beats else "; it does NOT beat always answering the majority label"
    return f"(majority {scores['majority_baseline']:.4f}){verdict}"


def describe_memory(report: RunReport) -> str:
    """The most memory that the run has had."""
    gpu = f", {report.gpu_bytes / 1e9:.2f} GB on the GPU" if report.gpu_bytes else ""
    whose = f", of the first of {report.processes} processes" if report.processes > 1 else ""
    return f"{peak_bytes(report) / 1e9:.2f} GB{gpu}{whose}"


def peak_bytes(report: RunReport) -> int:
    """The same without the GPU's, in bytes."""
    return report.peak_bytes if report.recalled else max(report.peak_bytes, peak_memory())


def format_finished(output_dir: str | None) -> str:
    """What is said where there is nothing left to do."""
    try:
        results = read_json(
            Path(output_dir or ".") / RESULTS, {"eval_accuracy?": float, "eval_pearson?": (float, None)}
        )
    except Damaged:  # the run itself is whole
        results = {}
    name, title = headline(by_name(results))
    score = f" with {title} {decimals(results[f'eval_{name}'])}" if f"eval_{name}" in results else ""
    return "\n".join(
        [
            f"{output_dir}: this run has finished{score}; to train it anew: --resume never",
            f"next            make eval RUN={shlex.quote(str(output_dir))}",
        ]
    )
