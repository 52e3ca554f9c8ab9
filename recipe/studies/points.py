"""A sweep's points: each a run of one setting with one seed, known by all that its result follows from."""

import contextlib
import gc
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from recipe import file_names
from recipe.arguments import RecipeArguments
from recipe.command_line.parsing import parse
from recipe.commands.answering import answer
from recipe.commands.evaluate import open_labelled, with_its_model
from recipe.commands.train import train
from recipe.errors import Damaged, Missing, UserError
from recipe.evaluation.answers import Answers
from recipe.evaluation.metrics import score
from recipe.model.loading import load_fine_tuned
from recipe.process.allocator import give_back_freed_memory, reset_peak_memory
from recipe.reporting.outputs import remove_run, staged
from recipe.studies.planning import Planned
from recipe.system.files import write_json
from recipe.system.json_files import read_json

RESULTS, LOG, PREDICTIONS = "sweep.json", "sweep.log", "predictions"
SECONDS = {f"{part}_seconds": float for part in ("encode", "train", "total")}
COUNTS = dict.fromkeys(("trainable_parameters", "parameters", "threads", "peak_memory_bytes"), int)
SCORES = {"accuracy": float, "loss": float, "roc_auc": (float, None)}
EVALUATION = {"epoch": float, "eval_accuracy": float, "eval_loss": float}
POINT = {"key": str, "setting": {str: str}, "seed": int, "evaluations": [EVALUATION], **COUNTS, **SECONDS, **SCORES}
RECORD = {"majority": (float, None), "points": [POINT]}
STATE = {"log_history": [{name + "?": kind for name, kind in EVALUATION.items()}]}


def open_record(folder: Path) -> dict[str, Any]:
    """The points that earlier calls have trained; none where there were no calls.

    Raises:
        UserError: they cannot be read.
    """
    try:
        record: dict[str, Any] = read_json(folder / RESULTS, RECORD)
    except Missing:
        return {"majority": None, "points": []}
    except Damaged as damage:
        raise UserError(f"{damage}; remove it, or name another --output_dir") from None
    return record


def find_or_train(words: Sequence[str], folder: Path, record: dict[str, Any], planned: Planned, seed: int) -> Any:
    """The point of a setting and a seed, trained if no call has done so; it is in `record` and on disk afterwards."""
    place = planned.place(seed)
    found = next((each for each in record["points"] if (each["key"], each["seed"]) == (planned.key, seed)), None)
    if found is None or not (folder / PREDICTIONS / f"{place}.npz").is_file():
        found = _train(words, folder, planned, seed)
        record["majority"] = None  # until it is known which points are shown
        record["points"] = [each for each in record["points"] if (each["key"], each["seed"]) != (planned.key, seed)]
        record["points"].append(found)
        write_json(folder / RESULTS, record)
    remove_run(folder / place)  # only now: a kill before loses no point
    return found


def _train(words: Sequence[str], folder: Path, planned: Planned, seed: int) -> dict[str, Any]:
    """Train a point in a folder of its own, and keep its answers to the validation split."""
    name = planned.place(seed)
    place = folder / name
    own = [f"--seed={seed}", f"--output_dir={place}", "--model_card=false", "--save_total_limit=1"]
    gc.collect()  # so that what the point before has left is not counted as this one's
    give_back_freed_memory()
    reset_peak_memory()
    with open(folder / LOG, "a", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        arguments = parse([*words, *planned.setting.words, *own])
        train(arguments)
        scores = keep_answers(arguments, folder / PREDICTIONS / f"{name}.npz")
    scores = {part: scores[part] for part in SCORES}
    return {"key": planned.key, "setting": dict(planned.setting.values), "seed": seed, **_figures(place), **scores}


def _figures(run: Path) -> dict[str, Any]:
    """What a finished run says of its evaluations and its cost."""
    earlier = dict.fromkeys(("earlier_encode_seconds", "earlier_train_seconds"), float)
    said = read_json(run / file_names.RUN, {**COUNTS, **SECONDS, **earlier})
    for part in ("encode", "train"):  # of a run that was stopped and went on
        for whole in (part, "total"):
            said[f"{whole}_seconds"] += said[f"earlier_{part}_seconds"]
    history = read_json(run / file_names.STATE, STATE)["log_history"]
    return {"evaluations": evaluations_of(history), **{part: said[part] for part in (*COUNTS, *SECONDS)}}


def evaluations_of(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A point's evaluations, of a run's log."""
    return [{part: each[part] for part in EVALUATION} for each in history if EVALUATION.keys() <= each.keys()]


def keep_answers(arguments: RecipeArguments, path: Path) -> dict[str, Any]:
    """Write what the model that training has left answers to the validation split, as it evaluates; give its scores.

    Args:
        arguments: those of the training.
    """
    arguments = with_its_model(arguments)
    model, tokenizer = load_fine_tuned(arguments)
    answers = answer(arguments, model, tokenizer, open_labelled(arguments), from_cache=True)
    write_answers(answers, path)
    scores = score(answers.logits, answers.labels)
    return scores | {"accuracy": 100 * scores["accuracy"]}


def write_answers(answers: Answers, path: Path) -> None:
    """Answers for `read_answers`."""
    path.parent.mkdir(exist_ok=True)
    with staged(path.parent) as staging:
        np.savez(staging / path.name, probabilities=answers.probabilities.astype(np.float32), labels=answers.labels)


def read_answers(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (examples, labels) and labels (examples,) that `write_answers` wrote.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as found:
            return found["probabilities"], found["labels"]
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, BadZipFile, zlib.error) as error:
        reason = f"{path}: not a model's answers ({type(error).__name__})"
        raise UserError(f"{reason}; remove it, and they are made anew") from None


def answers_of(folder: Path, planned: Planned, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What a point's model answered to the validation split, as `read_answers` has it."""
    return read_answers(folder / PREDICTIONS / f"{planned.place(seed)}.npz")
