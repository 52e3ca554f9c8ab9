"""A search for learning rate, epochs, weight decay and warm-up, all trials from one prefix cache.

    python -m recipe.tuning.tune configs/afqmc.yaml --trials 20

It is the Trainer's own hyperparameter_search with Optuna (extra `tune`). The study lies in output_dir and a stopped
search goes on from it; a trial that falls behind the others is pruned after an epoch. The best settings become a YAML.
"""

import dataclasses
import math
import shlex
from functools import partial
from typing import Any

import torch
import yaml
from torch import nn
from transformers import TrainingArguments

from recipe.command_line.one_line_parser import OneLineParser
from recipe.command_line.parsing import parse, parse_training
from recipe.command_line.schedules import NO_WARMUP
from recipe.commands.train import prepare
from recipe.errors import RunError, UserError
from recipe.internals import storage_of
from recipe.process.exiting import exit_on_error
from recipe.process.progress import say
from recipe.process.signals import stop_requests
from recipe.reporting.outputs import check_free
from recipe.system.files import write_text
from recipe.system.folder_lock import locked
from recipe.training.feeding import build
from recipe.training.trainer import FreezeTrainer
from recipe.tuning.study import (
    SEARCHED,
    STUDY,
    check_study,
    direction_of,
    keeping,
    open_study,
    require_optuna,
    trials_done,
)

BEST, HEAD = "best.yaml", "# Trial "


def search_space(trial: Any, schedule: str) -> dict[str, Any]:
    """What a trial tries; rates on a logarithmic scale, warm-up as a share of all steps where the schedule has one."""
    tried = {
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 3e-3, log=True),
        "num_train_epochs": trial.suggest_int("num_train_epochs", 2, 6),
        "weight_decay": trial.suggest_float("weight_decay", 0.0, 0.1),
    }
    return tried if schedule in NO_WARMUP else tried | {"warmup_steps": trial.suggest_float("warmup_steps", 0.0, 0.2)}


def tune(words: list[str], trials: int) -> dict[str, Any]:
    """Search until the study has `trials` trials; returns the best settings. best.yaml is in output_dir.

    Args:
        words: a command line of run_freeze.py.

    Raises:
        UserError: Optuna is missing, there is no validation split, or the study is of other arguments.
    """
    if trials < 1:
        raise UserError(f"--trials {trials}: a whole number of at least 1 is expected")
    require_optuna()
    arguments = parse_training([*words, "--save_strategy=no", "--load_best_model_at_end=false", "--model_card=false"])
    args = arguments.training
    if args.eval_strategy == "no":
        raise UserError("--eval_strategy no: a search compares evaluations; epoch is expected")
    if args.max_steps > 0:  # which would end each trial, whatever epochs it were given
        raise UserError(f"--max_steps {args.max_steps}: a search tries numbers of epochs; leave it out")
    for name in SEARCHED:  # the Trainer casts what a trial tries to the type of what is there: a share to int is 0
        setattr(args, name, float(getattr(args, name)))
    folder = args.folder
    with locked(folder), stop_requests():
        best = folder / BEST
        check_free(best, best.is_file() and best.read_bytes().startswith(HEAD.encode()))
        check_study(folder, arguments)
        made = prepare(arguments)
        trainer = build(arguments, made)
        trainer.model_init = _first_weights(made.model)
        study = open_study(folder, arguments, made.identity)
        with keeping(folder / STUDY):
            _search(trainer, study, trials)
            write_text(best, best_yaml(words, study))
            params, trial, tried = study.best_params, study.best_trial, study.trials
    pruned = sum(each.state.name == "PRUNED" for each in tried)
    metric = searched_by(args)
    say(args, f"{f'best {metric}':<15} {trial.value:.4f} in trial {trial.number + 1} of {len(tried)}")
    say(args, f"pruned          {pruned}")
    say(args, f"settings        {', '.join(f'{name} {value:.3g}' for name, value in params.items())}")
    say(args, f"note            validation was searched on, so this {metric} flatters the settings")
    say(args, f"next            python run_freeze.py {shlex.quote(str(best))}")
    return params


def _search(trainer: FreezeTrainer, study: Any, trials: int) -> None:
    """Try until `trials` are done.

    Raises:
        RunError: none of them ran to its end.
    """
    optuna = require_optuna()
    trainer.hyperparameter_search(
        hp_space=partial(search_space, schedule=trainer.args.lr_scheduler_type.value),
        compute_objective=lambda metrics: _objective(metrics, trainer.args),
        n_trials=max(0, trials - trials_done(study)),
        direction=direction_of(trainer.args),
        backend="optuna",
        study_name=study.study_name,
        storage=storage_of(study),
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=trainer.args.seed + len(study.trials)),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=0),
    )
    if not any(trial.state.name == "COMPLETE" for trial in study.trials):
        raise RunError(f"{trainer.args.output_dir}/{STUDY}: no trial ran to its end, so there are no best settings")


def _objective(metrics: dict[str, Any], args: TrainingArguments) -> float:
    """What Optuna compares; it lets a trial fail whose score is undefined, NaN to it."""
    score = metrics[f"eval_{searched_by(args)}"]
    return math.nan if score is None else float(score)


def searched_by(args: TrainingArguments) -> str:
    """--metric_for_best_model, as evaluations name it."""
    return str(args.metric_for_best_model).removeprefix("eval_")


def _first_weights(model: nn.Module) -> Any:
    """The Trainer's model_init: the same model, its trained parameters set back to what they were loaded as."""
    first = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}

    def model_init() -> nn.Module:
        """The model as it was."""
        with torch.no_grad():
            for name, value in model.named_parameters():
                if name in first:
                    value.copy_(first[name])
        return model

    return model_init


def best_yaml(words: list[str], study: Any) -> str:
    """The command line's arguments, where they are no defaults, and the best trial's, as run_freeze.py takes them."""
    arguments, values = parse(words), {}
    for ours, default in zip(arguments._asdict().values(), parse([])._asdict().values(), strict=True):
        for name in (field.name for field in dataclasses.fields(ours) if field.init and field.name != "hub_token"):
            value = getattr(ours, name)
            if value != getattr(default, name):
                values[name] = getattr(value, "value", value)
    metric = searched_by(arguments.training)
    values |= {**study.best_params, "output_dir": f"{arguments.training.output_dir}/best"}
    number = study.best_trial.number + 1
    return (
        f"{HEAD}{number} of {len(study.trials)}: {metric} {study.best_value:.4f} on the validation\n"
        "# split, which was searched on, so that it flatters these settings.\n"
        + yaml.safe_dump(values, allow_unicode=True, sort_keys=False)
    )


def main() -> None:
    """A search from the command line."""
    parser = OneLineParser(
        prog="python -m recipe.tuning.tune",
        description="Search for the best settings. Other flags are those of run_freeze.py.",
    )
    parser.add_argument("--trials", type=int, default=20, help="how many the study is to have")
    ours, words = parser.parse_known_args()
    tune(words, ours.trials)


if __name__ == "__main__":
    exit_on_error(main)
