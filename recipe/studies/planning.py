"""What a sweep is going to train, looked at before anything is: each setting, and all that its results follow from."""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from recipe.arguments import ModelArguments, RecipeArguments
from recipe.cache.policy import check_wanted, why_not
from recipe.checkpoints.identity import ARITHMETIC, TOKENIZER, given_arguments
from recipe.command_line.parsing import parse_training
from recipe.commands.train import open_splits
from recipe.data.splits import Split, iterate
from recipe.errors import UserError
from recipe.model.base_model import OURS, open_base
from recipe.model.freezing import freeze
from recipe.model.loading import add_tails, check_length, load_model
from recipe.model.modeling import BertForPairwiseCLS
from recipe.model.tokenizer import load_tokenizer
from recipe.model.weights import fingerprint
from recipe.studies.settings import Setting
from recipe.system.arithmetic import REFUSED, describe_arithmetic
from recipe.training.loss import class_weights
from recipe.training.preflight import check_metric

CACHE = ("prefix_cache", "prefix_cache_dtype", "prefix_compute_dtype")
# What a resume may change, and which weights a run ends with, or what is told of it, follows from all the same
EVALUATION = (
    *("load_best_model_at_end", "greater_is_better", "per_device_eval_batch_size"),
    *("eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "save_strategy", "save_steps"),
)
# A tokenizer's options as BERT's are published; others are part of a point's key, these are not, nor were they ever
USUAL = dict(zip(TOKENIZER, ("right", False, "[CLS]", "[SEP]", "[PAD]", "[UNK]"), strict=True))


class Planned(NamedTuple):
    """A setting that has been looked at as far as it can be without training."""

    setting: Setting
    key: str  # of all that its results follow from but the seed
    depth: int  # layers frozen from 0 upward
    validation: tuple[str, int]  # the fingerprint of its validation split, and how many rows are read of it
    answers: str  # a digest of those rows' labels

    def place(self, seed: int) -> str:
        """A name for the files of its point with `seed`, which no other setting's points have."""
        plain = re.sub(r"[^\w.=-]+", "-", self.setting.name, flags=re.ASCII)[:80]
        return f"{plain}-{self.key[:8]}-seed-{seed}"


def plan(words: Sequence[str], settings: Sequence[Setting]) -> list[Planned]:
    """Look at each setting, so that what is wrong with the last is said before the first is trained.

    Raises:
        UserError: a setting is refused, two are the same, or the settings are scored on different pairs.
    """
    read: dict[str, Any] = {}  # what is read of a model or of data serves all settings that have it
    planned = [_plan(words, setting, read) for setting in settings]
    names: dict[str, str] = {}
    for each in planned:
        same = names.setdefault(each.key, each.setting.name)
        if same != each.setting.name:
            raise UserError(
                f"--over: {each.setting.name} trains the same as {same}; settings whose results may differ are expected"
            )
    for each in planned[1:]:
        for what, differs in (
            ("another validation split", each.validation != planned[0].validation),
            ("other labels of the validation split", each.answers != planned[0].answers),
        ):
            if differs:
                raise UserError(
                    f"--over: {each.setting.name} has {what} than {planned[0].setting.name}; "
                    "settings are compared on the same pairs"
                )
    return planned


def _plan(words: Sequence[str], setting: Setting, read: dict[str, Any]) -> Planned:
    arguments = parse_training([*words, *setting.words])
    if arguments.data.task_type == "regression":
        raise UserError(
            "--task_type regression: a sweep compares accuracies, which scores have none of; make eval AGAINST=... "
            "compares two runs, make tune searches by Pearson's correlation"
        )
    if arguments.training.eval_strategy == "no":
        raise UserError("--eval_strategy no: a sweep compares accuracies; epoch or steps is expected")
    model, data = (json.dumps(vars(part)) for part in (arguments.model, arguments.data))
    if model not in read:
        read[model] = read_model(arguments.model)
    frozen = frozen_model(arguments)
    if data not in read:
        splits = open_splits(arguments)
        read[data] = splits, _describe_data(*splits), _labels_of(splits[1])
    (train, validation), described, answers = read[data]
    check_split(arguments, frozen, train)
    check_metric(arguments.training, validation)
    scored_on = validation.fingerprint, validation.rows
    return Planned(setting, key_of(arguments, read[model], described), frozen.prefix_depth or 0, scored_on, answers)


def frozen_model(arguments: RecipeArguments) -> BertForPairwiseCLS:
    """A run's model without any weights, frozen and given its tails.

    Raises:
        UserError: it cannot be, or has too few positions.
    """
    config = open_base(arguments.model).config
    config.name_or_path = arguments.model.name  # which an error names
    check_length(arguments.data, config.max_position_embeddings)
    with torch.device("meta"):
        model = BertForPairwiseCLS(config)
        freeze(model, arguments.freeze)
        add_tails(model, arguments.model.num_tails)
    return model


def check_split(arguments: RecipeArguments, model: BertForPairwiseCLS, train: Split) -> None:
    """Check what a run's training would refuse of its model and training split together.

    Raises:
        UserError: its labels' weights, or a prefix cache where there can be none.
    """
    class_weights(arguments.training.class_weights, train)
    check_wanted(arguments, why_not(model, arguments, None, train.rows))


def key_of(arguments: RecipeArguments, model: dict[str, Any], data: dict[str, Any]) -> str:
    """A digest of all that a run's results follow from but its seed, given what was read of its model and data."""
    given = {name: value for name, value in given_arguments(arguments).items() if name != "training.seed"}
    arithmetic = describe_arithmetic(arguments.training)
    followed = [given, vars(arguments.freeze), {name: getattr(arguments.cache, name) for name in CACHE}]
    followed.append({name: getattr(arguments.training, name) for name in EVALUATION})
    followed += [{name: arithmetic[name] for name in REFUSED}, model, data]
    return hashlib.sha256(json.dumps(followed, sort_keys=True, default=str).encode()).hexdigest()[:32]


def read_model(args: ModelArguments) -> dict[str, Any]:
    """What of a base and its tokenizer a result follows from; of a run its labels, and the classifier kept for them."""
    base = open_base(args)
    tokenizer = load_tokenizer(base)
    options = {name: getattr(tokenizer, name, None) for name in TOKENIZER}
    own = base.kind == OURS
    model = load_model(base, keep_classifier=own)
    read = {
        "layers": base.config.num_hidden_layers,
        "weights": fingerprint(model if own else model.bert, trained=True),
        "labels": sorted(base.config.id2label.items()) if own else None,
        "tokenizer": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        "config": {name: getattr(base.config, name, None) for name in ARITHMETIC},
    }
    unusual = {name: value for name, value in options.items() if value != USUAL[name]}
    return read | ({"tokenizer_options": unusual} if unusual else {})


def _describe_data(train: Split, validation: Split) -> dict[str, Any]:
    """What of the data a result follows from."""
    read: dict[str, Any] = {"labels": train.label_names, "validation rows": validation.rows}
    return read | {split.name: split.fingerprint for split in (train, validation)}


def _labels_of(split: Split) -> str:
    """A digest of each row's label, by its name, which two orders of --label_names share."""
    names = (split.label_names[pair["label"]] for pair in iterate(split.pairs))
    return hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()
