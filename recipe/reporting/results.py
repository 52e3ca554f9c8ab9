"""The result files of a run: the Trainer's, and run.json, which says what the run followed from and what it leaves."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from recipe.arguments import RecipeArguments
from recipe.file_names import RESULTS, RUN
from recipe.reporting.console import RunReport, peak_bytes
from recipe.system.files import write_json


def write_results(folder: Path, arguments: RecipeArguments, report: RunReport) -> None:
    """The Trainer's result files, and run.json: the resolved arguments, versions, and what the run followed from."""
    of = {"eval_model_sha256": report.model_sha256}  # whose threshold it is that another split is scored at
    parts = {"train": report.train_metrics, "eval": report.metrics and report.metrics | of}
    for name, metrics in parts.items():
        if metrics:
            write_json(folder / f"{name}_results.json", metrics)
    ended = {f"train_{key}": value for key, value in report.train_metrics.items() if key == "epoch"}
    write_json(folder / RESULTS, {**report.train_metrics, **report.metrics, **ended})  # epoch is the model's
    write_json(folder / RUN, _run_json(arguments, report))


def _run_json(arguments: RecipeArguments, report: RunReport) -> dict[str, Any]:
    resolved = {name: dataclasses.asdict(part) for name, part in arguments._asdict().items() if name != "training"}
    resolved["training"] = arguments.training.to_sanitized_dict()
    return {
        "arguments": resolved,
        "command": report.command,
        "versions": report.versions,
        "parameters": report.plan.parameters,
        "trainable_parameters": report.plan.trainable,
        "frozen_prefix_depth": report.plan.prefix_depth,
        "prefix": report.prefix,
        "identity": report.identity,
        "model_sha256": report.model_sha256,
        "files": report.files,
        "results": {"train": report.train_metrics, "eval": report.metrics, "best": report.is_best},
        "changed": report.changed,
        "processes": report.processes,
        "threads": torch.get_num_threads(),
        "encode_seconds": round(report.encode_seconds, 1),
        "train_seconds": round(report.train_seconds, 1),
        "earlier_encode_seconds": round(report.earlier_encode_seconds, 1),
        "earlier_train_seconds": report.earlier_train_seconds,
        "eval_seconds": round(report.eval_seconds, 1),
        "total_seconds": round(report.total_seconds, 1),
        "peak_memory_bytes": peak_bytes(report),
        "peak_gpu_bytes": report.gpu_bytes,
    }
