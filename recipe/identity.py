"""What a run's result follows from, and which of it a resume may change."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase, TrainingArguments

from recipe.arguments import RecipeArguments
from recipe.arithmetic import describe_arithmetic, refuse_other_precision
from recipe.data import Split
from recipe.errors import UserError
from recipe.ranks import from_all_ranks
from recipe.weights import fingerprint

# Where files are, how a run is watched, how often it saves and evaluates, and what only moves the same work about.
# Whatever stands in neither list is refused, so that an argument nobody thought of is never ignored.
FREE = {
    "data": {"dataset_name", "dataset_config_name", "data_dir", "train_file", "validation_file", "test_file"}
    | {"label_names", "streaming", "eval_split"},
    "model": {"model_name_or_path", "against"},
    "freeze": {"freeze_layers", "freeze_embeddings", "freeze_modules", "unfreeze_modules"},  # compared by their effect
    "cache": {"prefix_cache", "prefix_cache_dtype", "prefix_compute_dtype"}  # likewise
    | {"prefix_cache_dir", "prefix_cache_max_gb"},
    "training": {"output_dir", "do_train", "do_eval", "do_predict", "resume", "resume_from_checkpoint", "use_cpu"}
    | {"logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node", "log_level", "log_level_replica"}
    | {"disable_tqdm", "report_to", "run_name", "project", "skip_memory_metrics", "logging_nan_inf_filter"}
    | {"model_card"}
    | {"trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "include_num_input_tokens_seen"}
    | {"eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "per_device_eval_batch_size"}
    | {"eval_accumulation_steps", "eval_do_concat_batches", "eval_use_gather_object", "batch_eval_metrics"}
    | {"prediction_loss_only", "include_for_metrics", "load_best_model_at_end"}
    | {"save_strategy", "save_steps", "save_total_limit", "save_on_each_node", "enable_jit_checkpoint"}
    | {"push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push"}
    | {"hub_revision", "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers"}
    | {"dataloader_prefetch_factor", "dataloader_multiprocessing_context", "dataloader_in_order"}
    | {"ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph"}
    | {
        "ddp_backend",
        "ddp_timeout",
        "local_rank",
        "only_evaluates",
        "only_predicts",
        "debug",
        "torch_empty_cache_steps",
    },
}


HONOURED = {
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
}


UNSCALED = {"reduce_lr_on_plateau", "greedy"}  # schedules that are no function of the step alone


WAY_OUT = "give the old one, name another --output_dir, or start over with --resume never"


def given_arguments(arguments: RecipeArguments) -> dict[str, Any]:
    """The arguments that a run's result depends on, by group and name, but those that are compared by their effect."""
    return {
        f"{group}.{field.name}": getattr(part, field.name)
        for group, part in arguments._asdict().items()
        for field in dataclasses.fields(part)
        if field.name not in FREE[group]
    }


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
    }
    return json.loads(json.dumps(identity, default=str))


def same_on_all_ranks(args: TrainingArguments, identity: dict[str, Any]) -> None:
    """Check that every process has been given the same; machines that share no disk may hold different files.

    Raises:
        UserError: one has not.
    """
    flat = {"weights": identity["weights"], **identity["data"], **identity["arguments"]} | {
        name: identity[name] for name in ("trainable", "labels", "tokenizer", "processes")
    }
    for rank, other in enumerate(from_all_ranks(args, flat)):
        different = [name for name in flat if other.get(name) != flat[name]]
        if different:
            raise UserError(
                f"{different[0]} {_text(other.get(different[0]))} on rank {rank}: {_text(flat[different[0]])} on rank "
                f"{args.process_index}; the same arguments, data and weights are expected on every machine"
            )


def compare(old: dict[str, Any], new: dict[str, Any], where: str) -> list[str]:
    """What has changed and is honoured, a line each.

    Raises:
        UserError: something has changed that a resume must not change.
    """
    if old["trainable"] != new["trainable"]:
        raise UserError(f"{_freezing(old, new)} in {where}: other parameters would be trained; {WAY_OUT}")
    changed = []
    for name in sorted(old["arguments"].keys() | new["arguments"].keys()):
        before, now = old["arguments"].get(name), new["arguments"].get(name)
        flag = name.split(".")[1]
        if before == now:
            continue
        if flag not in HONOURED:
            raise UserError(f"--{flag} {_text(now)}: it was {_text(before)} in {where}; {WAY_OUT}")
        if new["arguments"]["training.lr_scheduler_type"] in UNSCALED:
            raise UserError(f"--{flag} {_text(now)}: {where} has another, and this schedule cannot change; {WAY_OUT}")
        changed.append(f"--{flag} {_text(now)} from here on; it was {_text(before)} in {where}")
    if old["processes"] != new["processes"]:
        raise UserError(f"{new['processes']} processes: there were {old['processes']} in {where}; {WAY_OUT}")
    refuse_other_precision(old.get("arithmetic", {}), new["arithmetic"], where, WAY_OUT)
    if old["labels"] != new["labels"]:
        raise UserError(f"labels {_text(new['labels'])}: they were {_text(old['labels'])} in {where}; {WAY_OUT}")
    for split in sorted(old["data"].keys() | new["data"].keys()):
        _same_bytes(f"the {split} data", old["data"].get(split), new["data"].get(split), where)
    for part in ("frozen", "trained"):
        _same_bytes("the weights of --model_name_or_path", old["weights"][part], new["weights"][part], where)
    _same_bytes("its tokenizer", old["tokenizer"], new["tokenizer"], where)
    return changed


def _same_bytes(what: str, old: str | None, new: str | None, where: str) -> None:
    if old != new:
        texts = [value[:12] if value else "none" for value in (new, old)]
        raise UserError(f"{what} (sha256 {texts[0]}): sha256 {texts[1]} in {where}; {WAY_OUT}")


def _freezing(old: dict[str, Any], new: dict[str, Any]) -> str:
    for name in ("freeze_layers", "freeze_embeddings", "freeze_modules", "unfreeze_modules"):
        before, now = old["freezing"][name], new["freezing"][name]
        if before != now:
            return f"--{name} {_text(now)}: it was {_text(before)}"
    return "the model"


def _text(value: Any) -> str:
    if value is None:
        return "(not given)"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
