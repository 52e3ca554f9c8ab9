"""What a run's result follows from, and which of it a resume may change."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase, TrainingArguments

from recipe import training_fields
from recipe.arguments import RecipeArguments
from recipe.data.splits import Split
from recipe.errors import UserError
from recipe.model.weights import fingerprint
from recipe.system.arithmetic import describe_arithmetic
from recipe.system.distributed import from_all_ranks

# Where files are, how a run is watched, how often it saves and evaluates, and what only moves the same work about.
# Whatever stands in neither list is refused, so that a new argument is never ignored.
FREE = {
    "data": {"dataset_name", "dataset_config_name", "data_dir", "train_file", "validation_file", "test_file"}
    | {"label_names", "id_column_name", "streaming", "eval_split"},
    "model": {"model_name_or_path", "against"},
    "freeze": {"freeze_layers", "freeze_embeddings", "freeze_modules", "unfreeze_modules"},  # compared by their effect
    "cache": {"prefix_cache", "prefix_cache_dtype", "prefix_compute_dtype"}  # likewise
    | {"prefix_cache_dir", "prefix_cache_max_gb"},
    "training": {"resume", "model_card", "scores"}
    | training_fields.FREE
    | training_fields.REFUSED.keys()  # which are always as they are by default
    | training_fields.HIDDEN.keys(),
}


# What of a base's config.json enters a BERT's arithmetic, and what of its tokenizer is not in tokenizer.json's hash
ARITHMETIC = ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"]
ARITHMETIC += ["hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"]
ARITHMETIC += ["max_position_embeddings", "type_vocab_size", "layer_norm_eps", "pad_token_id", "is_decoder"]
TOKENIZER = ("truncation_side", "split_special_tokens", "cls_token", "sep_token", "pad_token", "unk_token")

IDENTITY = {
    "arguments": {str: object},
    "freezing": dict.fromkeys(sorted(FREE["freeze"]), object),
    "trainable": [str],
    "labels": [str],
    "data": {str: (str, None)},
    "weights": {"trained": str, "frozen": str},
    "tokenizer": str,
    "processes": int,
    "config?": {str: object},
    "tokenizer_options?": {str: object},
    "arithmetic?": {str: (str, int, bool, None, [str])},
}
EVALUATED_WITH = {"data": {str: object}, "training": {str: object}}


def given_arguments(arguments: RecipeArguments) -> dict[str, Any]:
    """The arguments that a run's result depends on, by group and name, but those that are compared by their effect."""
    return {
        f"{group}.{field.name}": getattr(part, field.name)
        for group, part in arguments._asdict().items()
        for field in dataclasses.fields(part)
        if field.name not in FREE[group]
    }


def evaluated_with(arguments: RecipeArguments) -> dict[str, dict[str, Any]]:
    """What evaluation takes besides those, by group and name as in run.json: where the data are, and its batches."""
    data = {name: getattr(arguments.data, name) for name in sorted(FREE["data"] - {"eval_split", "label_names"})}
    return {"data": data, "training": {"per_device_eval_batch_size": arguments.training.per_device_eval_batch_size}}


def default_of(name: str) -> Any:
    """What an argument is where it is not given, by the name that `given_arguments` has for it, JSON-ready."""
    group, _, field = name.partition(".")
    found = {each.name: each.default for each in dataclasses.fields(RecipeArguments.__annotations__[group])}
    return json_ready(found[field])


def json_ready(content: Any) -> Any:
    """`content` as it will be read back from a JSON file."""
    return json.loads(json.dumps(content, default=str))


def make_identity(
    arguments: RecipeArguments, model: nn.Module, splits: Sequence[Split], tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """All that a run's result follows from, JSON-ready: what a resume compares."""
    identity = {
        "arguments": given_arguments(arguments),
        "freezing": {name: getattr(arguments.freeze, name) for name in sorted(FREE["freeze"])},
        "trainable": [name for name, value in model.named_parameters() if value.requires_grad],
        "labels": splits[0].label_names,
        "data": {split.name: split.fingerprint for split in splits},
        "weights": {"trained": fingerprint(model, trained=True), "frozen": fingerprint(model, trained=False)},
        "tokenizer": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        "processes": arguments.training.world_size,
        "arithmetic": describe_arithmetic(arguments.training),
        "config": {name: getattr(model.config, name, None) for name in ARITHMETIC},
        "tokenizer_options": {name: getattr(tokenizer, name, None) for name in TOKENIZER},
    }
    return json_ready(identity)


def same_on_all_ranks(args: TrainingArguments, identity: dict[str, Any]) -> None:
    """Check that every process has been given the same; machines that share no disk may hold different files.

    Raises:
        UserError: one has not.
    """
    flat = {"weights": identity["weights"], **identity["data"], **identity["arguments"]} | {
        name: identity[name]
        for name in ("trainable", "labels", "tokenizer", "processes", "config", "tokenizer_options")
    }
    for rank, other in enumerate(from_all_ranks(args, flat)):
        different = [name for name in flat if other.get(name) != flat[name]]
        if different:
            theirs, ours = (as_text(each.get(different[0])) for each in (other, flat))
            raise UserError(
                f"{different[0]} {theirs} on rank {rank}: {ours} on rank {args.process_index}; "
                "the same arguments, data and weights are expected on every machine"
            )


def as_text(value: Any) -> str:
    """An argument's value as it is typed."""
    if value is None:
        return "(not given)"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
