"""A sweep's points: each a run of one setting with one seed, known by all that its result follows from."""

import contextlib
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from recipe import file_names
from recipe.arguments import DataArguments, ModelArguments
from recipe.checkpoints.identity import ARITHMETIC, given_arguments
from recipe.command_line.parsing import parse
from recipe.commands.evaluate import open_labelled
from recipe.commands.predict import answer
from recipe.commands.train import train
from recipe.data.opening import require_split
from recipe.errors import Damaged, Missing, UserError
from recipe.evaluation.metrics import score
from recipe.model.base_model import open_base
from recipe.model.freezing import parse_layers
from recipe.model.loading import load_fine_tuned, load_model
from recipe.model.tokenizer import load_tokenizer
from recipe.model.weights import fingerprint
from recipe.reporting.console import reset_peak_memory
from recipe.reporting.outputs import remove_run, staged
from recipe.studies.settings import Setting
from recipe.system.arithmetic import REFUSED, describe_arithmetic
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
CACHE = ("prefix_cache", "prefix_cache_dtype", "prefix_compute_dtype")


class Planned(NamedTuple):
    """A setting that has been looked at as far as it can be without training."""

    setting: Setting
    key: str  # of all that its results follow from but the seed
    depth: int  # layers frozen from 0 upward
    validation: str | None  # the fingerprint of its validation split

    def place(self, seed: int) -> str:
        """A name for the files of its point with `seed`, which no other setting's points have."""
        plain = re.sub(r"[^\w.=-]+", "-", self.setting.name, flags=re.ASCII)[:80]
        return f"{plain}-{self.key[:8]}-seed-{seed}"


def plan(words: Sequence[str], settings: Sequence[Setting]) -> list[Planned]:
    """Look at each setting, so that what is wrong with the last is said before the first is trained.

    Raises:
        UserError: a setting is refused, or the settings are scored on different pairs.
    """
    read: dict[str, Any] = {}  # what is read of a model or of data serves all settings that have it
    planned = [_plan(words, setting, read) for setting in settings]
    for each in planned[1:]:
        if each.validation != planned[0].validation:
            raise UserError(
                f"--over: {each.setting.name} has another validation split than {planned[0].setting.name}; "
                "settings are compared on the same pairs"
            )
    return planned


def _plan(words: Sequence[str], setting: Setting, read: dict[str, Any]) -> Planned:
    arguments = parse([*words, *setting.words])
    if arguments.training.eval_strategy == "no":
        raise UserError("--eval_strategy no: a sweep compares accuracies; epoch or steps is expected")
    model, data = (json.dumps(vars(part)) for part in (arguments.model, arguments.data))
    if model not in read:
        read[model] = _read_model(arguments.model)
    frozen = parse_layers(arguments.freeze.freeze_layers, read[model]["layers"])
    if data not in read:
        read[data] = _read_data(arguments.data)
    given = {name: value for name, value in given_arguments(arguments).items() if name != "training.seed"}
    arithmetic = describe_arithmetic(arguments.training)
    followed = [given, vars(arguments.freeze), {name: getattr(arguments.cache, name) for name in CACHE}]
    followed += [{name: arithmetic[name] for name in REFUSED}, read[model], read[data]]
    key = hashlib.sha256(json.dumps(followed, sort_keys=True, default=str).encode()).hexdigest()[:32]
    depth = next(layer for layer in range(len(frozen) + 1) if layer not in frozen)
    return Planned(setting, key, depth, read[data]["validation"])


def _read_model(args: ModelArguments) -> dict[str, Any]:
    """What of a base and its tokenizer a result follows from."""
    base = open_base(args)
    tokenizer = load_tokenizer(base).backend_tokenizer.to_str()
    return {
        "layers": base.config.num_hidden_layers,
        "weights": fingerprint(load_model(base).bert, trained=True),
        "tokenizer": hashlib.sha256(tokenizer.encode()).hexdigest(),
        "config": {name: getattr(base.config, name, None) for name in ARITHMETIC},
    }


def _read_data(args: DataArguments) -> dict[str, Any]:
    """What of the data a result follows from."""
    splits = {name: require_split(args, name) for name in ("train", "validation")}
    return {"labels": splits["train"].label_names} | {name: split.fingerprint for name, split in splits.items()}


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
    found = _find(record, planned, seed)
    if found is None or not (folder / PREDICTIONS / f"{place}.npz").is_file():
        found = _train(words, folder, planned, seed)
        record["majority"] = found.pop("majority")
        record["points"] = [each for each in record["points"] if (each["key"], each["seed"]) != (planned.key, seed)]
        record["points"].append(found)
        write_json(folder / RESULTS, record)
    remove_run(folder / place)  # only now: a kill before loses no point
    return found


def _find(record: dict[str, Any], planned: Planned, seed: int) -> dict[str, Any] | None:
    return next((each for each in record["points"] if (each["key"], each["seed"]) == (planned.key, seed)), None)


def _train(words: Sequence[str], folder: Path, planned: Planned, seed: int) -> dict[str, Any]:
    """Train a point in a folder of its own, and keep its answers to the validation split."""
    name = planned.place(seed)
    place = folder / name
    own = [f"--seed={seed}", f"--output_dir={place}", "--model_card=false", "--save_total_limit=1"]
    reset_peak_memory()
    with open(folder / LOG, "a", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        train(parse([*words, *planned.setting.words, *own]))
        scores = _keep_answers(place, folder / PREDICTIONS, name)
    scores = {part: scores[part] for part in (*SCORES, "majority")}
    return {"key": planned.key, "setting": dict(planned.setting.values), "seed": seed, **_figures(place), **scores}


def _figures(run: Path) -> dict[str, Any]:
    """What a finished run says of its evaluations and its cost."""
    said = read_json(run / file_names.RUN, {**COUNTS, **SECONDS})
    history = read_json(run / file_names.STATE, STATE)["log_history"]
    evaluations = [{part: each[part] for part in EVALUATION} for each in history if EVALUATION.keys() <= each.keys()]
    return {"evaluations": evaluations, **{part: said[part] for part in (*COUNTS, *SECONDS)}}


def _keep_answers(run: Path, folder: Path, name: str) -> dict[str, Any]:
    """Write what the run's model answers to the validation split, as its own evaluation has it; give its scores."""
    arguments = parse(["--do_eval", f"--model_name_or_path={run}"])
    model, tokenizer = load_fine_tuned(arguments)
    answers = answer(arguments, model, tokenizer, open_labelled(arguments), from_cache=True)
    folder.mkdir(exist_ok=True)
    with staged(folder) as staging:
        np.savez(staging / f"{name}.npz", probabilities=answers.probabilities.astype(np.float32), labels=answers.labels)
    scores = score(answers.logits, answers.labels)
    scores |= {"accuracy": 100 * scores["accuracy"], "majority": 100 * scores["majority_baseline"]}
    return scores


def read_right(folder: Path, planned: Planned, seed: int) -> np.ndarray:
    """Which validation pairs a point's model answered rightly, (pairs,).

    Raises:
        UserError: the file is damaged.
    """
    path = folder / PREDICTIONS / f"{planned.place(seed)}.npz"
    try:
        with np.load(path, allow_pickle=False) as found:
            right: np.ndarray = found["probabilities"].argmax(-1) == found["labels"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise UserError(
            f"{path}: not a point's answers ({type(error).__name__}); remove it, and the point is trained anew"
        ) from None
    return right
