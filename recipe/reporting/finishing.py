"""The end of a run: its model is written before anything else, then scored, then its results, and its card last."""

import json
import re
import time
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from safetensors import SafetensorError
from torch import Tensor
from transformers.trainer_utils import TrainOutput

from recipe.arguments import RecipeArguments
from recipe.data.splits import Split
from recipe.errors import RunError
from recipe.evaluation.answers import Answers, answer_pairs
from recipe.evaluation.metrics import score
from recipe.file_names import CARD, FIGURES, MODEL, RESULTS, RUN, SCORES, STATE
from recipe.model.modeling import BertForPairwiseCLS
from recipe.model.weights import whole
from recipe.process.allocator import peak_gpu_memory
from recipe.process.progress import say
from recipe.process.text import one_line, without_logins, without_places
from recipe.reporting.console import RunReport
from recipe.reporting.model_card import Scored, write_card
from recipe.reporting.outputs import NAMES, card_names, remove_answers, remove_files, staged, write_model
from recipe.reporting.results import write_results
from recipe.system.distributed import together
from recipe.system.files import sha256_of
from recipe.training.trainer import FreezeTrainer

LOADED = re.compile(r'^((?:classify|score) = pipeline\("text-classification", )"(?:[^"\\]|\\.)*"', re.MULTILINE)
RECORDS = (RUN, STATE, SCORES)  # which may name folders: of the data, of checkpoints, of the model compared with
TENSORBOARD = "runs/*/events.out.tfevents.*"  # what --report_to tensorboard leaves in output_dir


def finish(
    arguments: RecipeArguments, trainer: FreezeTrainer, output: TrainOutput, report: RunReport, split: Split | None
) -> None:
    """Write the model that the run ends with to output_dir, score it on `split`, write results and card. Collective.

    With run.json, which is the last of them but the card, the run is finished. What fails behind the model is warned
    of, and made by the same command later (`recipe.reporting.repairing`).

    Raises:
        RunError: the disk is full.
    """
    args = arguments.training
    _measure(trainer, output, report)
    model = trainer.accelerator.unwrap_model(trainer.model)
    weights = {name: whole(value) for name, value in model.state_dict().items()}
    write = args.process_index == 0
    together(args, lambda: _write_model(arguments, trainer, report, weights) if write else None, RunError)
    answers = _score(trainer, report) if report.metrics else None
    report.total_seconds = time.perf_counter() - report.started
    if write:
        _write_results(arguments, trainer, report, answers)
    unscored = bool(report.metrics) and answers is None
    if write and args.model_card and not unscored:
        write_card_or_warn(arguments, trainer, report, scored_of(model, split, answers))


def _measure(trainer: FreezeTrainer, output: TrainOutput, report: RunReport) -> None:
    """What the Trainer has found out about the run, and about the model that it ends with."""
    args, state = trainer.args, trainer.state
    evaluations = [entry for entry in state.log_history if "eval_loss" in entry]
    report.is_best = bool(args.load_best_model_at_end and state.best_model_checkpoint)
    report.best_by = (args.metric_for_best_model or report.best_by).removeprefix("eval_")
    step = int(Path(state.best_model_checkpoint).name.split("-")[1]) if report.is_best else state.global_step
    found = [entry for entry in evaluations if entry["step"] == step]
    if evaluations:  # a last model between two evaluations is scored all the same, and has no entry
        entry = found[0] if found else {"epoch": state.epoch}
        report.metrics = {key: value for key, value in entry.items() if key != "step"}
    before = trainer.carried
    report.earlier_encode_seconds, report.earlier_train_seconds = before.encode_seconds, before.train_seconds
    report.changed = before.changed
    report.train_seconds = output.metrics["train_runtime"] - before.train_seconds
    ours = state.log_history[trainer.logged_before :]  # an earlier process made the others
    report.eval_seconds = sum(entry["eval_runtime"] for entry in ours if "eval_loss" in entry)
    report.peak_bytes = before.peak_bytes
    report.gpu_bytes = max(before.gpu_bytes, peak_gpu_memory(args.device.type))
    report.train_metrics = {**output.metrics, "epoch": state.epoch}


def _score(trainer: FreezeTrainer, report: RunReport) -> Answers | None:
    """The model's answers to the validation split, and its scores among the report's metrics."""
    try:
        answers = answer_pairs(trainer, trainer.eval_dataset)
        report.metrics |= {f"eval_{key}": value for key, value in score(answers.logits, answers.labels).items()}
    except Exception as error:
        if trainer.args.world_size > 1:  # the others wait for this one's answers
            raise
        _warn(trainer, "the model could not be scored", error)
        return None
    return answers


def _write_model(
    arguments: RecipeArguments, trainer: FreezeTrainer, report: RunReport, weights: dict[str, Tensor]
) -> None:
    folder, model = arguments.training.folder, trainer.accelerator.unwrap_model(trainer.model)
    try:
        with staged(folder, last=(MODEL,)) as staging:
            report.files = write_model(staging, model, trainer.processing_class, weights)
            report.model_sha256 = sha256_of(staging / MODEL)
            for name in remove_answers(folder, report.model_sha256):  # said before a kill can come between
                say(arguments.training, f"note: {folder / name} is of an earlier model; make export makes it anew")
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"{folder}: the model cannot be written: {error}; the checkpoints are good, and "
            f"{arguments.training.same_command} goes on from there"
        ) from error


def _write_results(
    arguments: RecipeArguments, trainer: FreezeTrainer, report: RunReport, answers: Answers | None
) -> None:
    """The result files, the Trainer's log, and run.json, which also names what is still to be written."""
    args, folder, scored = arguments.training, arguments.training.folder, bool(report.metrics)
    names = [RESULTS, "train_results.json", STATE, *([SCORES] if scored else [])]
    cards = card_names(scored, arguments.data.task_type == "regression")
    report.files = sorted({*report.files, *names, *(cards if args.model_card else [])})
    try:
        with staged(folder, last=(RUN,)) as staging:
            write_results(staging, arguments, report)
            trainer.state.save_to_json(str(staging / STATE))
            if scored and answers is None:
                (staging / SCORES).unlink()  # so that the same command makes it
            # of an earlier model: gone before run.json says that all are there
            remove_files(folder / name for name in (SCORES, CARD, *FIGURES))
    except OSError as error:
        raise RunError(
            f"{folder}: the model is written, its results are not: {error}; {args.same_command} goes on from there"
        ) from error


def scored_of(model: BertForPairwiseCLS, split: Split | None, answers: Answers | None) -> Scored | None:
    """What the card says of the model's answers; None where there are none."""
    if split is None or answers is None:
        return None
    return Scored(split, answers, list(model.config.id2label.values()))


def write_card_or_warn(
    arguments: RecipeArguments, trainer: FreezeTrainer, report: RunReport, scored: Scored | None
) -> None:
    """Write README.md and its figures; a failure costs no more than them."""
    try:
        with staged(arguments.training.folder) as staging:
            write_card(staging, arguments, report, trainer.state.log_history, scored)
    except Exception as error:
        _warn(trainer, f"{CARD} and its figures could not be made", error)


def push(trainer: FreezeTrainer) -> None:
    """Push the run's own files to the Hub: answers to users' sentences may lie beside them, and checkpoints do.

    What they say of this machine's folders stays here, where run.json needs it to be evaluated again.

    Raises:
        RunError: it cannot be reached, or does not take them.
    """
    args = trainer.args
    if args.process_index:
        return
    own: dict[str, Any] = {"repo_id": trainer.hub_model_id, "token": args.hub_token, "revision": args.hub_revision}
    try:
        trainer.callback_handler.on_push_begin(args, trainer.state, trainer.control)
        files = _pushed(args.folder, str(trainer.hub_model_id))
        commit = HfApi().create_commit(operations=files, commit_message="A fine-tuned model", **own)
    except Exception as error:
        raise RunError(
            f"--push_to_hub: {type(error).__name__}: {one_line(error)}; the model is whole in "
            f"{args.output_dir}, and {args.same_command} pushes it"
        ) from error
    say(args, f"pushed          {without_logins(commit.repo_url.url)}")


def _pushed(folder: Path, repo_id: str) -> list[CommitOperationAdd]:
    """The files as they go to the Hub: records without places of this machine, the card with the model's name there."""
    found: list[CommitOperationAdd] = []
    for path in [*(folder / name for name in NAMES), *sorted(folder.glob(TENSORBOARD))]:
        if not path.is_file():
            continue
        sent: Any = path
        if path.name in RECORDS:
            content = json.loads(path.read_text("utf-8"))
            public = without_places(content)
            sent = path if public == content else json.dumps(public, indent=2).encode()
        elif path.name == CARD:
            sent = LOADED.sub(lambda line: line[1] + json.dumps(repo_id), path.read_text("utf-8")).encode()
        found.append(CommitOperationAdd(path.relative_to(folder).as_posix(), sent))
    return found


def _warn(trainer: FreezeTrainer, what: str, error: Exception) -> None:
    args, reason = trainer.args, f"{type(error).__name__}: {one_line(error)}"
    say(args, f"warning: {what}: {reason}; the model is whole, and {args.same_command} makes what is missing")
