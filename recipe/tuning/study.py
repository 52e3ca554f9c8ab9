"""A search's study on disk: begun whole or not at all, of one search only, gone on with after a kill."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipe.arguments import RecipeArguments
from recipe.checkpoints.identity import given_arguments, json_ready
from recipe.errors import RunError, UserError
from recipe.process.text import one_line
from recipe.system.arithmetic import REFUSED
from recipe.system.files import publish, remove_temporary, staging_folder
from recipe.training_arguments import FreezeTrainingArguments

STUDY, NAME = "study.db", "freeze"
SEARCHED = ("learning_rate", "num_train_epochs", "weight_decay", "warmup_steps")
VERSION = 2  # of what a trial makes of its parameters; 1 had no warm-up, whatever was suggested


def require_optuna() -> Any:
    """The library that searches.

    Raises:
        UserError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError("the search needs Optuna: pip install -c constraints.txt -e '.[tune]', or make tune") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # below it, the traceback of each trial that is stopped
    return optuna


def open_study(folder: Path, arguments: RecipeArguments, identity: dict[str, Any]) -> Any:
    """The study in `folder`, begun where there is none; nobody else may write there meanwhile.

    Raises:
        UserError: what is there is no study, or one of other data, weights or arguments, or of another release.
    """
    optuna, path, mine = require_optuna(), folder / STUDY, _followed_from(arguments, identity)
    remove_temporary(folder)
    if not path.exists() and not path.is_symlink():
        with staging_folder(folder) as staging, keeping(path):
            storage = optuna.storages.RDBStorage(_url(staging))
            study = optuna.create_study(study_name=NAME, storage=storage, direction=direction_of(arguments.training))
            study.set_user_attr("of", mine)
            study.set_user_attr("version", VERSION)
            storage.engine.dispose()
            publish(staging, folder, last=(STUDY,))
    return _load(folder, mine)


def direction_of(args: FreezeTrainingArguments) -> str:
    """Optuna's word for whether more of --metric_for_best_model is better."""
    return "minimize" if args.greater_is_better is False else "maximize"


def check_study(folder: Path, arguments: RecipeArguments) -> None:
    """Check what can be known of the study in `folder`, if there is one, before anything is read or encoded.

    Raises:
        UserError: it is no study, or one of other arguments.
    """
    path = folder / STUDY
    if path.exists() or path.is_symlink():
        _load(folder, [_kept(arguments)])


def _load(folder: Path, mine: list[dict[str, Any]]) -> Any:
    """The study in `folder`, if it is of `mine`; trials that a killed search left running are closed."""
    optuna, path = require_optuna(), folder / STUDY
    try:
        if path.is_symlink() or not path.is_file():
            raise ValueError("not a file")
        study = optuna.load_study(study_name=NAME, storage=_url(folder))
        before = study.user_attrs["of"]
        changed = _changed(before, mine)
        if study.user_attrs.get("version") != VERSION:
            changed = "trials of another release, whose settings meant something else"
        for trial in study.trials:
            if trial.state == optuna.trial.TrialState.RUNNING and not changed:
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    except Exception as error:  # a file that is damaged, or another program's, fails in many ways
        raise UserError(
            f"{path}: not a search that can be gone on with ({type(error).__name__}: {_reason(error)}); "
            "remove it, or name another --output_dir"
        ) from error
    if changed:
        raise UserError(f"{path}: a search with {changed}; name another --output_dir, or remove it")
    return study


def _url(folder: Path) -> str:
    return f"sqlite:///{folder / STUDY}"


def _followed_from(arguments: RecipeArguments, identity: dict[str, Any]) -> list[dict[str, Any]]:
    """All that a trial's result follows from besides what is searched for, JSON-ready."""
    others = {name: identity[name] for name in ("config", "tokenizer", "tokenizer_options", "labels")}
    precision = {name: identity.get("arithmetic", {}).get(name) for name in REFUSED}
    return json_ready([_kept(arguments), identity["data"], identity["weights"], others, precision])


def _kept(arguments: RecipeArguments) -> dict[str, Any]:
    """The arguments that are not searched for, JSON-ready."""
    given = json_ready(given_arguments(arguments))
    return {name: value for name, value in given.items() if name.rpartition(".")[2] not in SEARCHED}


def _changed(before: Any, mine: list[dict[str, Any]]) -> str:
    """What is another; an empty string where nothing is."""
    flag = next((name for name in mine[0] if mine[0][name] != before[0].get(name)), None)
    if flag is not None:
        return f"another --{flag.rpartition('.')[2]}"
    for name, was in before[4].items() if len(before) > 4 < len(mine) else ():
        if mine[4][name] != was:
            return f"{REFUSED[name]} {was} instead of {mine[4][name]}"
    return (
        "other data, weights or settings of the model"
        if any(a != b for a, b in zip(before, mine, strict=False))
        else ""
    )


@contextlib.contextmanager
def keeping(path: Path) -> Iterator[None]:
    """Say in one line what keeps a study from being written to.

    Raises:
        RunError: the disk is full, or the folder read-only or gone.
    """
    optuna = require_optuna()
    from sqlalchemy.exc import SQLAlchemyError  # Optuna's

    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise RunError(f"{path}: cannot be written: {_reason(error)}; the same command goes on") from error


def _reason(error: BaseException) -> str:
    """The database's own words, without the statement."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error, 120)


def trials_done(study: Any) -> int:
    """Trials that ran to an end, pruned ones among them; not those that failed or were stopped."""
    return sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in study.trials)
