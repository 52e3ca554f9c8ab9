"""Arguments that must fit each other, or what is installed; each misfit is one line, said before anything is read."""

import difflib
import json
import os
import shlex
from collections.abc import Collection, Mapping
from typing import Any

from recipe.arguments import FreezeTrainingArguments, RecipeArguments
from recipe.command_line.schedules import BY_METRIC
from recipe.errors import UserError
from recipe.rows.columns import check_columns

# What --metric_for_best_model may name, and whether more of it is better; `metrics.compute_metrics` gives each.
METRICS = {"accuracy": True, "loss": False, "f1": True, "mcc": True, "roc_auc": True, "average_precision": True}
METRICS |= {"ece": False}
OF_SCORES = {"pearson": True, "spearman": True, "mse": False, "mae": False, "loss": False}
# The other value of each gives wrong gradients: none to the layer above frozen ones; other dropout than in forward.
CHECKPOINTING = {"use_reentrant": False, "preserve_rng_state": True}


def settle(values: dict[str, Any]) -> None:
    """Give what was not given, and follows from what was: the companion strategy, and whether more is better.

    Args:
        values: what was given, by name; changed in place.

    Raises:
        UserError: strategies contradict each other, nothing is asked for, or there is no such metric.
    """
    for suffix in ("", "_kwargs"):  # the Trainer's old name for it, which it warns of
        if f"gradient_checkpointing{suffix}" in values:
            values.setdefault(f"activation_checkpointing{suffix}", values.pop(f"gradient_checkpointing{suffix}"))
    metrics = METRICS
    if values.get("task_type") == "regression":
        metrics = OF_SCORES
        values.setdefault("metric_for_best_model", "pearson")
    if "metric_for_best_model" in values or "greater_is_better" in values:
        named = values.get("metric_for_best_model", str(FreezeTrainingArguments.metric_for_best_model))
        _settle_metric(values, named, metrics)
    only_later = values.get("do_eval") or values.get("do_predict")
    if values.get("do_train") is False and not only_later:
        raise UserError("--do_train false: nothing is left to do; --do_eval or --do_predict is expected beside it")
    if values.get("do_train") or not only_later:
        _settle_strategies(values)


def _settle_metric(values: dict[str, Any], metric: str, metrics: Mapping[str, bool]) -> None:
    name = metric.removeprefix("eval_")
    if name not in metrics:
        task = f" with --task_type {values.get('task_type', 'classification')}" * (name in METRICS | OF_SCORES)
        raise UserError(f"--metric_for_best_model {metric}{task}: {_one_of(metrics, name.lower())}")
    greater = metrics[name]
    if values.setdefault("greater_is_better", greater) not in (greater, None):
        raise UserError(
            f"--greater_is_better {not greater}: of {name} {'more' if greater else 'less'} is better; leave it out"
        )
    values["greater_is_better"] = greater


def _one_of(names: Collection[str], given: str) -> str:
    close = difflib.get_close_matches(given, names, n=1)
    return f"one of {', '.join(names)} is expected" + (f"; did you mean {close[0]!r}?" if close else "")


def _settle_strategies(values: dict[str, Any]) -> None:
    """Evaluating and saving go together, so that the best model can be kept: one that is given leads the other."""
    for kind in ("eval", "save"):
        if values.get(f"{kind}_steps") is not None:
            values.setdefault(f"{kind}_strategy", "steps")
        _check_steps(values, kind)
    _check_steps(values, "logging")
    for kind, other in (("eval", "save"), ("save", "eval")):
        if values.get(f"{kind}_strategy") in ("steps", "epoch"):
            values.setdefault(f"{other}_strategy", values[f"{kind}_strategy"])
    evaluates, saves = values.get("eval_strategy", "epoch"), values.get("save_strategy", "epoch")
    if evaluates == saves == "steps":
        every = values.get("eval_steps") or values.get("save_steps") or values.get("logging_steps")
        every = every or FreezeTrainingArguments.logging_steps
        values.setdefault("eval_steps", every)
        values.setdefault("save_steps", values["eval_steps"])
    best = values.get("load_best_model_at_end")
    if evaluates == "no" and (best or saves == "best"):
        flag = "--save_strategy best" if saves == "best" else "--load_best_model_at_end true"
        raise UserError(f"{flag} with --eval_strategy no: which model is best is not known without evaluations")
    if evaluates == "no" and values.get("lr_scheduler_type") in BY_METRIC:
        raise UserError(
            f"--lr_scheduler_type {values['lr_scheduler_type']} with --eval_strategy no: it follows the evaluations; "
            "epoch or steps is expected"
        )
    if saves == "no" and best:
        raise UserError("--load_best_model_at_end true with --save_strategy no: no checkpoint would be there to load")
    every, each = values.get("save_steps") or 0, values.get("eval_steps") or 0
    if evaluates == saves == "steps" and best is not False and min(every, each) >= 1 and every % each:
        raise UserError(
            f"--save_steps {every:g} with --eval_steps {each:g}: a multiple of it is expected, so that the best model "
            "is kept, or --load_best_model_at_end false"
        )
    if saves == "no" or evaluates == "no":
        values["load_best_model_at_end"] = False
    elif saves not in ("best", evaluates) and best is not False:
        raise UserError(
            f"--save_strategy {saves} with --eval_strategy {evaluates}: one is expected for both, so that the best "
            "model is kept, or --load_best_model_at_end false"
        )


def _check_steps(values: Mapping[str, Any], kind: str) -> None:
    """Refuse a number of steps that is not asked for; `no` switches off what a YAML file or a program has given."""
    steps, strategy = values.get(f"{kind}_steps"), values.get(f"{kind}_strategy")
    if steps is not None and strategy in ("epoch", "best"):
        raise UserError(
            f"--{kind}_steps {steps:g} with --{kind}_strategy {strategy}: it would do nothing; leave one of them out"
        )


def check_combinations(arguments: RecipeArguments) -> None:
    """Check what no argument shows alone.

    Raises:
        UserError: two arguments contradict each other, or one asks for what this machine has not.
    """
    data, training = arguments.data, arguments.training
    if data.label_names is not None and len(set(data.label_names)) < max(2, len(data.label_names)):
        expected = "at least two different names are expected, a space between them (in YAML: a list)"
        raise UserError(f"--label_names {shlex.join(data.label_names)}: {expected}")
    if data.task_type == "regression":
        _check_regression(arguments)
    check_columns(data)
    if arguments.model.against is not None and not training.scores:
        raise UserError(f"--against {arguments.model.against}: --do_eval compares with it; without that leave it out")
    if data.eval_split is not None and not (training.do_predict or training.scores):
        raise UserError(f"--eval_split {data.eval_split}: --do_eval scores it, --do_predict answers it; leave it out")
    if training.mixed_precision == "fp16" and training.device.type == "cpu":
        asked = "--fp16" if training.fp16 else "ACCELERATE_MIXED_PRECISION fp16"
        raise UserError(f"{asked}: it takes a GPU; on a CPU --bf16 computes in 16 bits")
    if training.dataloader_persistent_workers and not training.dataloader_num_workers:
        raise UserError("--dataloader_persistent_workers: there are no workers; --dataloader_num_workers N is expected")
    if training.early_stopping_patience is not None and training.eval_strategy == "no" and training.trains:
        raise UserError(
            f"--early_stopping_patience {training.early_stopping_patience} with --eval_strategy no: there are no "
            "evaluations to be patient for; epoch or steps is expected"
        )
    kwargs = training.activation_checkpointing_kwargs or {}
    if not kwargs.items() <= CHECKPOINTING.items():
        raise UserError(
            f"--activation_checkpointing_kwargs {json.dumps(kwargs)}: nothing but {json.dumps(CHECKPOINTING)} gives "
            "the right gradients above frozen layers; leave it out"
        )
    if training.report_to:
        _check_reporters(training.report_to)
    if training.push_to_hub and training.trains:
        _check_push(training)


def _check_regression(arguments: RecipeArguments) -> None:
    """Refuse what is about classes."""
    given = {"label_names": arguments.data.label_names, "class_weights": arguments.training.class_weights}
    given["label_smoothing_factor"] = arguments.training.label_smoothing_factor or None
    for flag, value in given.items():
        if value is not None:
            shown = shlex.join(value) if isinstance(value, list) else value
            raise UserError(f"--{flag} {shown} with --task_type regression: a score has no classes; leave it out")


def _check_reporters(names: list[str]) -> None:
    from transformers.integrations import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

    there = get_available_reporting_integrations()
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise UserError(f"--report_to {name}: {_one_of(INTEGRATION_TO_CALLBACK, name)}")
        if name not in there:
            usable = f"; here there is {', '.join(there)}" if there else ""
            raise UserError(f"--report_to {name}: its package is not installed or not set up{usable}")


def _check_push(training: Any) -> None:
    from huggingface_hub import constants, get_token

    if training.hub_strategy.value in ("checkpoint", "all_checkpoints"):
        raise UserError(
            f"--hub_strategy {training.hub_strategy.value}: a checkpoint is no whole model to push; 'end' is expected"
        )
    if constants.HF_HUB_OFFLINE:
        raise UserError("--push_to_hub: HF_HUB_OFFLINE is set; unset it, or push the finished --output_dir later")
    if not (training.hub_token or get_token()):
        raise UserError("--push_to_hub: there is no token; HF_TOKEN in the environment or hf auth login is expected")


def check_environment(values: Mapping[str, Any]) -> None:
    """Check what only a launched process may be given, before the Trainer's arguments look at the devices.

    Raises:
        UserError: it was given to one that no launcher has started.
    """
    backend = values.get("ddp_backend")
    if backend is not None and "WORLD_SIZE" not in os.environ:
        raise UserError(f"--ddp_backend {backend}: there is one process; accelerate launch or torchrun starts several")
