"""A finished run of which files are gone: they are made again from its model and its run.json."""

import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from recipe.arguments import RecipeArguments
from recipe.checkpoints.rotation import checkpoint_folders
from recipe.errors import Damaged
from recipe.evaluation.answers import answer_pairs
from recipe.evaluation.metrics import score
from recipe.file_names import CARD, CODE, FIGURES, MODEL, RESULTS, RUN, SCORES, STATE
from recipe.process.progress import say
from recipe.reporting.console import RunReport
from recipe.reporting.finishing import scored_of, write_card_or_warn
from recipe.reporting.outputs import card_names, missing_files, staged, write_model
from recipe.reporting.results import write_results
from recipe.system.distributed import from_first_rank
from recipe.system.json_files import read_json
from recipe.training.build import build_trainer
from recipe.training.feeding import Prepared, sorted_pairs
from recipe.training.trainer import FreezeTrainer

OTHERS = (RESULTS, "train_results.json", SCORES, STATE, CARD, *FIGURES)
RECORD = {"files": [str], "results": {"train": dict, "eval": dict, "best": bool}, "model_sha256": str}
RECORD |= {f"{part}_seconds": float for part in ("encode", "train", "eval", "total")}
RECORD |= {"earlier_encode_seconds?": float, "earlier_train_seconds?": float}
RECORD |= {"peak_memory_bytes?": int, "peak_gpu_bytes?": int}
RECORD |= {"command?": str, "versions?": dict, "processes?": int, "changed?": [str]}


def complete(arguments: RecipeArguments, made: Prepared, report: RunReport) -> list[str]:
    """Make what is gone or empty of a finished run's files but weights and run.json; gives their names. Collective.

    Args:
        made: whose model is given the weights that the run ended with.
    """
    args, folder = arguments.training, arguments.training.folder
    record = from_first_rank(args, lambda: _read(folder))
    if record is None:
        return []
    names = from_first_rank(args, lambda: _missing(arguments, record))
    if not names:
        return []
    say(args, f"{folder}: of the finished run {', '.join(names)} {'is' if len(names) == 1 else 'are'} made again")
    _recall(report, record)
    made.model.load_state_dict(from_first_rank(args, lambda: load_file(folder / MODEL)))
    pairs = sorted_pairs(made.splits[1]) if len(made.splits) > 1 else None
    trainer = build_trainer(args, made.model, made.tokenizer, eval_dataset=pairs)
    answers = None
    if pairs is not None and report.metrics and (CARD in names or SCORES in names):
        answers = answer_pairs(trainer, pairs)
        if not report.metrics.keys() & {"eval_confusion_matrix", "eval_pearson_low"}:  # else what the run said stays
            scores = score(answers.logits, answers.labels)
            report.metrics |= {f"eval_{key}": value for key, value in scores.items()}
    if args.process_index == 0:
        _write(arguments, trainer, report, names)
        trainer.state.log_history = _log(folder)
        if CARD in names:
            split = made.splits[1] if len(made.splits) > 1 else None
            write_card_or_warn(arguments, trainer, report, scored_of(made.model, split, answers))
    return names


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = read_json(folder / RUN, RECORD)
    except Damaged:  # of a run before its files were recorded
        return None
    return record


def _missing(arguments: RecipeArguments, record: dict[str, Any]) -> list[str]:
    """What is to be made again; the card whole, and asked for now even where it was not then."""
    folder, scored = arguments.training.folder, bool(record["results"]["eval"])
    cards = card_names(scored, arguments.data.task_type == "regression")
    expected = {name for name in record["files"] if name not in (CARD, *FIGURES, MODEL)}
    missing = set(missing_files(folder, sorted(expected)))
    if missing & set(CODE):
        missing |= set(CODE)  # of an earlier release there may be one file, which needed no other
    if SCORES in missing:
        missing.add(RESULTS)
    if STATE in missing and _newest_state(folder) is None:
        missing.remove(STATE)
    if arguments.training.model_card and missing_files(folder, cards):
        missing |= set(cards)
    return sorted(missing)


def _newest_state(folder: Path) -> Path | None:
    """The Trainer's log in the newest checkpoint: nothing else has it."""
    return next((each / STATE for each in checkpoint_folders(folder) if (each / STATE).is_file()), None)


def _log(folder: Path) -> list[dict[str, Any]]:
    try:
        log: list[dict[str, Any]] = read_json(folder / STATE, {"log_history": [dict]})["log_history"]
    except Damaged:
        return []
    return log


def _recall(report: RunReport, record: dict[str, Any]) -> None:
    """What the run reported when it ended."""
    report.train_metrics, report.metrics = record["results"]["train"], record["results"]["eval"]
    report.prefix = record.get("prefix", {})
    report.is_best, report.model_sha256 = record["results"]["best"], record["model_sha256"]
    report.files = record["files"]
    for part in ("earlier_encode_seconds", "earlier_train_seconds"):
        setattr(report, part, record.get(part, 0.0))  # an earlier release wrote none
    report.peak_bytes, report.gpu_bytes = record.get("peak_memory_bytes", 0), record.get("peak_gpu_bytes", 0)
    report.recalled = bool(report.peak_bytes)  # likewise
    report.command = record.get("command", report.command)
    report.versions = record.get("versions", report.versions)
    report.changed = tuple(record.get("changed", ()))
    report.processes = record.get("processes", report.processes)
    for part in ("encode", "train", "eval", "total"):
        setattr(report, f"{part}_seconds", record[f"{part}_seconds"])


def _write(arguments: RecipeArguments, trainer: FreezeTrainer, report: RunReport, names: list[str]) -> None:
    """The files of `names` but the card's, and what they say in run.json."""
    folder = arguments.training.folder
    state = _newest_state(folder) if STATE in names else None
    with staged(folder) as staging:
        if any(name not in OTHERS for name in names):
            write_model(staging, trainer.model, trainer.processing_class)
        write_results(staging, arguments, report)
        if state is not None:
            shutil.copyfile(state, staging / STATE)
        for path in list(staging.iterdir()):
            if path.name not in names:
                path.unlink()
