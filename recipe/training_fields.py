"""What becomes of each of the Trainer's arguments here: it works, is refused, or is hidden.

A test holds this table against transformers' fields, so that a release that adds one cannot pass unnoticed.
"""

from collections.abc import Mapping
from typing import Any

from recipe.errors import UserError

# ---- It works. What a resume does when it has changed depends on what follows from it. ----

# The result follows from these: a resume refuses another value.
FIXED = {
    *("per_device_train_batch_size", "gradient_accumulation_steps", "seed", "data_seed", "full_determinism"),
    *("optim", "optim_args", "optim_target_modules", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"),
    *("max_grad_norm", "label_smoothing_factor", "bf16", "fp16", "tf32", "metric_for_best_model"),
    *("activation_checkpointing", "activation_checkpointing_kwargs"),
    *("gradient_checkpointing", "gradient_checkpointing_kwargs"),  # their old names
}

# A resume takes the new value from the next step on, and says so.
HONOURED = {"learning_rate", "num_train_epochs", "max_steps", "lr_scheduler_type", "lr_scheduler_kwargs"}
HONOURED |= {"warmup_steps"}

# Where files are, how a run is watched, how often it saves and evaluates (each evaluation draws from the random state,
# as the stock Trainer's does, so that dropout behind it is another), and what only moves the same work about.
FREE = {
    *("output_dir", "do_train", "do_eval", "do_predict", "use_cpu", "skip_memory_metrics", "local_rank"),
    *("logging_strategy", "logging_steps", "logging_first_step", "logging_nan_inf_filter", "log_on_each_node"),
    *("log_level", "log_level_replica", "disable_tqdm", "report_to", "run_name", "project"),
    *("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
    *("eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "per_device_eval_batch_size"),
    *("eval_accumulation_steps", "load_best_model_at_end"),
    "greater_is_better",  # as the metric says
    *("save_strategy", "save_steps", "save_total_limit", "save_on_each_node"),
    *("push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_revision"),
    *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers"),
    *("dataloader_prefetch_factor", "torch_empty_cache_steps"),
    *("ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph"),
    *("ddp_backend", "ddp_timeout"),
}

# ---- It is refused, unless it is given its default: why, and what does it here. ----

_LAUNCHER = "it is the launcher's: accelerate launch --config_file configs/accelerate/{}.yaml run_freeze.py ..."
_COMPILE = "it would compile the frozen layers with the rest; --compile_tail on compiles what is trained"
_LIGER = "Liger has no kernels for BERT; --compile_tail on is what makes steps faster"
_BATCHES = "the recipe cuts steps into batches itself, in an order that follows from --seed alone; leave it out"
_ANSWERS = "the scores are computed from the answers to the whole split; leave it out"
_FULL_EVAL = "it would round the weights that are saved; --bf16 evaluates in 16 bits over weights that stay as they are"

REFUSED = {
    "bf16_full_eval": _FULL_EVAL,
    "fp16_full_eval": _FULL_EVAL,
    "prediction_loss_only": _ANSWERS,
    "batch_eval_metrics": _ANSWERS,
    "eval_do_concat_batches": _ANSWERS,
    "eval_use_gather_object": "the answers are arrays, which ranks exchange as such; leave it out",
    "include_for_metrics": _ANSWERS,
    "auto_find_batch_size": (
        "steps would change with the machine; a smaller --per_device_train_batch_size with more "
        "--gradient_accumulation_steps takes the same steps in less memory"
    ),
    "neftune_noise_alpha": "it is noise on embeddings that are trained, and here they are frozen; try --dropout",
    "use_liger_kernel": _LIGER,
    "liger_kernel_config": _LIGER,
    "torch_compile": _COMPILE,
    "torch_compile_backend": _COMPILE,
    "torch_compile_mode": _COMPILE,
    "use_cache": "a decoder's keys and values are kept by it, and BERT has none; the frozen layers' is --prefix_cache",
    "enable_jit_checkpoint": "SIGTERM and Ctrl-C save a checkpoint without it, and it would damage that; leave it out",
    "hub_always_push": "only the finished model is pushed; --push_to_hub does that",
    "average_tokens_across_devices": "a step's loss is the mean over the examples of all processes; leave it out",
    "accelerator_config": _BATCHES,
    "dataloader_in_order": _BATCHES,
    "dataloader_multiprocessing_context": "workers are forked, so that they share the data; leave it out",
    "length_column_name": "pairs of like length go together without it; leave it out",
    "include_num_input_tokens_seen": (
        "from the prefix cache no tokens pass through a step; tokens a second of the encoding are printed"
    ),
    "debug": "a loss that is NaN or infinite stops the run without it; leave it out",
    "fsdp": _LAUNCHER.format("fsdp2"),
    "fsdp_config": _LAUNCHER.format("fsdp2"),
    "deepspeed": _LAUNCHER.format("zero2"),
}

# ---- It is hidden, since the recipe decides it: what to know, or to give in its place. ----

HIDDEN = {
    "remove_unused_columns": "columns that no flag names are passed by",
    "train_sampling_strategy": "pairs of like length go together, in an order that follows from --seed",
    "resume_from_checkpoint": "--resume checkpoint-N does it; by default the newest good one in --output_dir is taken",
    "ignore_data_skip": "a resume goes to its place in the data at once",
    "save_only_model": "a checkpoint holds the trained weights and all that a resume needs",
    "restore_callback_states_from_checkpoint": "a resume restores them",
    "dataloader_drop_last": "every pair is trained on",
    "parallelism_config": "the launcher decides it: accelerate launch --config_file ...",
}

# How a flag that is off by default is told to stay off, in a YAML file above all.
OFF = {"", "0", "no", "off", "false", "none"}


def drop_refused(values: dict[str, Any], defaults: Mapping[str, Any]) -> None:
    """Check that none of `values`, which were given, is one that the recipe refuses; its default is dropped from them.

    Raises:
        UserError: one is.
    """
    for name in [name for name in values if name in REFUSED]:
        value, default = values.pop(name), defaults[name]
        shown = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        off = default in (None, False, "", "no", []) and shown.lower() in OFF
        if value != default and not off:
            raise UserError(f"--{name} {shown}: {REFUSED[name]}")
