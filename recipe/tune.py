"""A search for learning rate, epochs, weight decay and warm-up, all trials from one prefix cache.

    python -m recipe.tune configs/afqmc.yaml --trials 20

It is the Trainer's own hyperparameter_search with Optuna (extra `tune`). The study lies in output_dir and a stopped
search goes on from it; a trial that falls behind the others is pruned after an epoch. The best settings become a YAML.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from recipe.arguments import RecipeArguments
from recipe.building import build
from recipe.durable import locked, write_text
from recipe.errors import OneLineParser, UserError, exit_on_error
from recipe.identity import given_arguments
from recipe.parsing import parse
from recipe.progress import say
from recipe.signals import stop_requests
from recipe.training import prepare

STUDY, BEST = "study.db", "best.yaml"
SEARCHED = ("learning_rate", "num_train_epochs", "weight_decay", "warmup_steps")


def search_space(trial: Any) -> dict[str, Any]:
    """What a trial tries; rates on a logarithmic scale, warm-up as a share of all steps."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 3e-3, log=True),
        "num_train_epochs": trial.suggest_int("num_train_epochs", 2, 6),
        "weight_decay": trial.suggest_float("weight_decay", 0.0, 0.1),
        "warmup_steps": trial.suggest_float("warmup_steps", 0.0, 0.2),
    }


def tune(words: list[str], trials: int) -> dict[str, Any]:
    """Search until the study has `trials` trials; returns the best settings. best.yaml is in output_dir.

    Args:
        words: a command line of run_freeze.py.

    Raises:
        UserError: Optuna is missing, there is no validation split, or the study is of other arguments.
    """
    if trials < 1:
        raise UserError(f"--trials {trials}: a whole number of at least 1 is expected")
    optuna = _optuna()
    arguments = parse([*words, "--save_strategy=no", "--load_best_model_at_end=false", "--model_card=false"])
    args = arguments.training
    if args.eval_strategy == "no":
        raise UserError("--eval_strategy no: a search compares accuracies; epoch is expected")
    folder = Path(args.output_dir or ".")
    with locked(folder), stop_requests():
        made = prepare(arguments)
        trainer = build(arguments, made.model, made.tokenizer, made.tokenized, made.report)
        trainer.model_init = _first_weights(made.model)
        place = {"study_name": "freeze", "storage": f"sqlite:///{folder / STUDY}"}
        study = optuna.create_study(**place, direction="maximize", load_if_exists=True)
        _same_study(study, arguments, made.report.identity)
        done = sum(
            trial.state.name in ("COMPLETE", "PRUNED") for trial in study.trials
        )  # and not FAIL, as one that was stopped
        trainer.hyperparameter_search(
            hp_space=search_space,
            compute_objective=lambda metrics: metrics["eval_accuracy"],
            n_trials=max(0, trials - done),
            direction="maximize",
            backend="optuna",
            **place,
            load_if_exists=True,
            sampler=optuna.samplers.TPESampler(seed=args.seed + done),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=0),
        )
        study = optuna.load_study(**place)
        write_text(folder / BEST, best_yaml(words, study))
    pruned = sum(trial.state.name == "PRUNED" for trial in study.trials)
    say(args, f"best accuracy   {study.best_value:.4f} in trial {study.best_trial.number} of {len(study.trials)}")
    say(args, f"pruned          {pruned}")
    say(args, f"settings        {', '.join(f'{name} {value:.3g}' for name, value in study.best_params.items())}")
    say(args, "note            validation was searched on, so this accuracy flatters the settings")
    say(args, f"next            python run_freeze.py {folder / BEST}")
    return study.best_params


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UserError("the search needs Optuna: pip install -c constraints.txt -e '.[tune]', or make tune") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


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


def _same_study(study: Any, arguments: RecipeArguments, identity: dict[str, Any]) -> None:
    """Trials of other data, weights or arguments are no trials of this search."""
    given = given_arguments(arguments)
    kept = {name: value for name, value in given.items() if name.split(".")[1] not in SEARCHED}
    mine = json.loads(json.dumps([kept, identity["data"], identity["weights"]], default=str))
    before = study.user_attrs.get("of")
    if before is None:
        study.set_user_attr("of", mine)
    elif before != mine:
        changed = next((name for name in mine[0] if mine[0][name] != before[0].get(name)), None)
        what = f"--{changed.split('.')[1]}" if changed else "the data or the weights"
        folder = arguments.training.output_dir
        raise UserError(f"{folder}/{STUDY}: a search with another {what}; name another --output_dir, or remove it")


def best_yaml(words: list[str], study: Any) -> str:
    """The command line's arguments, where they are no defaults, and the best trial's, as run_freeze.py takes them."""
    values: dict[str, Any] = {}
    for ours, default in zip(parse(words)._asdict().values(), parse([])._asdict().values(), strict=True):
        for name in (field.name for field in dataclasses.fields(ours) if field.init and field.name != "hub_token"):
            value = getattr(ours, name)
            if value != getattr(default, name):
                values[name] = getattr(value, "value", value)
    values |= {**study.best_params, "output_dir": f"{parse(words).training.output_dir}/best"}
    return (
        f"# Trial {study.best_trial.number} of {len(study.trials)}: accuracy {study.best_value:.4f} on the validation\n"
        "# split, which was searched on, so that it flatters these settings.\n"
        + yaml.safe_dump(values, allow_unicode=True, sort_keys=False)
    )


def main() -> None:
    """A search from the command line."""
    parser = OneLineParser(
        prog="python -m recipe.tune",
        description="Search for the best settings. Other flags are those of run_freeze.py.",
        allow_abbrev=False,
    )
    parser.add_argument("--trials", type=int, default=20, help="how many the study is to have")
    ours, words = parser.parse_known_args(sys.argv[1:])
    tune(words, ours.trials)


if __name__ == "__main__":
    exit_on_error(main)
