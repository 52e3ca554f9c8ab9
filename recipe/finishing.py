"""The end of a run: the best model scored, and written with its results so that a reader sees all of it or nothing."""

import shutil
import time
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers.trainer_utils import TrainOutput

from recipe.arguments import RecipeArguments
from recipe.card import write_card
from recipe.checkpointing import STAGING
from recipe.data import Split
from recipe.durable import publish, sha256_of
from recipe.errors import RunError
from recipe.metrics import score
from recipe.prediction import Answers, answer_pairs
from recipe.reporting import RunReport, write_results
from recipe.resuming import REPORT
from recipe.trainer import FreezeTrainer
from recipe.weights import whole


def finish(
    arguments: RecipeArguments, trainer: FreezeTrainer, output: TrainOutput, report: RunReport, split: Split | None
) -> None:
    """Score the best model on `split` and write it to output_dir with its results, run.json last.

    Raises:
        RunError: the disk is full.
    """
    args, state = arguments.training, trainer.state
    evaluations = [entry for entry in state.log_history if "eval_accuracy" in entry]
    best = [entry for entry in evaluations if entry["step"] == state.best_global_step] or evaluations[-1:]
    report.metrics = {key: value for key, value in best[0].items() if key != "step"} if best else {}
    report.train_seconds = output.metrics["train_runtime"]
    ours = [entry for entry in evaluations if entry["step"] > report.first_step]  # an earlier process made the others
    report.eval_seconds = sum(entry["eval_runtime"] for entry in ours)
    report.total_seconds = time.perf_counter() - report.started
    report.gpu_bytes = torch.cuda.max_memory_allocated() if args.device.type == "cuda" else 0
    report.train_metrics = {**output.metrics, "epoch": state.epoch}
    answers = answer_pairs(trainer, trainer.eval_dataset) if evaluations else None
    if answers is not None:
        report.metrics |= {f"eval_{key}": value for key, value in score(answers.logits, answers.labels).items()}
    model = trainer.accelerator.unwrap_model(trainer.model)
    weights = {name: whole(value) for name, value in model.state_dict().items()}
    if args.process_index == 0:
        try:
            _write(arguments, trainer, report, split, answers, weights)
        except (OSError, SafetensorError) as error:
            raise RunError(
                f"{args.output_dir}: the model cannot be written: {error}; the checkpoints are good, and the same "
                "command goes on from there"
            ) from error


def _write(
    arguments: RecipeArguments,
    trainer: FreezeTrainer,
    report: RunReport,
    split: Split | None,
    answers: Answers | None,
    weights: dict[str, Tensor],
) -> None:
    """Put the model and its results into output_dir, each file whole, run.json last: with it the run is finished."""
    folder = Path(arguments.training.output_dir or ".")
    staging = folder / STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.save_pretrained(staging, state_dict=weights)
    trainer.processing_class.save_pretrained(staging)
    report.model_sha256 = sha256_of(staging / "model.safetensors")
    write_results(staging, arguments, report)
    if arguments.training.model_card:
        names = list(model.config.id2label.values())
        write_card(staging, arguments, report, trainer.state.log_history, split, answers, names)
    publish(staging, folder, last=("model.safetensors", REPORT))
