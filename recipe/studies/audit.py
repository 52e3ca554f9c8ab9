"""Which labels one should not trust: each training pair answered by a model that did not see it, from one prefix cache.

    python -m recipe.studies.audit configs/afqmc.yaml --folds 5

The training split is cut into folds; for each a tail is trained on the others, from states that are there, and answers
it. Confident learning (cleanlab, extra `audit`; Northcutt et al. 2021) then tells which labels these answers
speak against. A stopped audit goes on at its fold.
"""

import contextlib
import copy
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from recipe.arguments import DataArguments, RecipeArguments
from recipe.command_line.one_line_parser import OneLineParser
from recipe.command_line.parsing import parse_training
from recipe.command_line.schedules import BY_METRIC
from recipe.commands.train import train
from recipe.data.opening import require_split
from recipe.data.splits import Split, iterate
from recipe.errors import UserError
from recipe.process.exiting import exit_on_error
from recipe.process.streams import tell
from recipe.process.text import shown
from recipe.reporting.outputs import check_free, remove_run
from recipe.rows.columns import Columns
from recipe.studies.audit_report import (
    DOUBTFUL,
    PAGE,
    Audit,
    check_leave_out,
    require_cleanlab,
    write_audit,
    write_left_out,
    write_rows,
)
from recipe.studies.planning import check_split, frozen_model, key_of, read_model
from recipe.studies.points import keep_answers, read_answers
from recipe.system.folder_lock import locked

LOG, ANSWERS = "audit.log", "folds"


def audit(words: Sequence[str], folds: int, leave_out: Sequence[float] = ()) -> Audit:
    """Find doubtful labels; doubtful.jsonl, audit.md and train files without the worst are in output_dir.

    Args:
        words: a command line of run_freeze.py.
        leave_out: shares of the training split, 0 to 1; for each a file is written that leaves its most doubtful out.

    Raises:
        UserError: cleanlab is missing, or the arguments or the data are not right.
    """
    find_issues = require_cleanlab()
    if not 2 <= folds <= 100:
        raise UserError(f"--folds {folds}: a whole number from 2 to 100 is expected")
    arguments = _parse(words)
    split = require_split(arguments.data, "train")
    pairs = list(iterate(split.pairs))
    check_leave_out(leave_out, len(pairs))
    counts = Counter(pair["label"] for pair in pairs)
    for label, name in enumerate(split.label_names):
        if counts[label] < folds:
            few = f"{split.source} has {counts[label]:,} {split.unit} of label {shown(name)}"
            raise UserError(f"--folds {folds}: {few}; each fold must have one")
    of_fold = assign_folds(pairs, folds, arguments.training.seed)
    _check_folds(split, pairs, of_fold, folds)
    check_split(arguments, frozen_model(arguments), split)
    read = {"labels": split.label_names, "train": split.fingerprint, "seed": arguments.training.seed}
    key = key_of(arguments, read_model(arguments.model), read)
    folder = arguments.training.folder
    with locked(folder):
        for name in (LOG, DOUBTFUL, PAGE):
            check_free(folder / name, (folder / ANSWERS).is_dir())
        (folder / ANSWERS).mkdir(exist_ok=True)  # by which a folder is known as an audit's from its first fold on
        found = np.empty((len(pairs), len(split.label_names)))
        for fold in range(folds):
            path = folder / ANSWERS / f"{key[:16]}-{fold + 1}-of-{folds}.npz"
            if not path.is_file():
                _train_fold(arguments, split, pairs, of_fold == fold, path)
            remove_run(folder / path.stem)  # here, so that a kill in it leaves it to the next call
            found[of_fold == fold] = read_answers(path)[0]
            tell(f"fold {fold + 1} of {folds}  {(of_fold == fold).sum():,} pairs answered by a model of the others")
        labels = np.array([pair["label"] for pair in pairs])
        audited = Audit(find_issues(labels, found, return_indices_ranked_by="self_confidence", n_jobs=1), found, labels)
        write_audit(folder, split, pairs, audited)
        write_left_out(folder, arguments.data, split, pairs, audited, leave_out)
    return audited


def _parse(words: Sequence[str]) -> RecipeArguments:
    """The arguments of a fold's run, after which nothing is chosen by its answers."""
    arguments = parse_training([*words, "--model_card=false"])
    args = arguments.training
    if args.lr_scheduler_type in BY_METRIC:
        raise UserError(
            f"--lr_scheduler_type {args.lr_scheduler_type.value}: it follows evaluations, which an audit's runs lack; "
            "another is expected"
        )
    # set here and not by flags, since what was given must not be blamed for what was not
    args.eval_strategy, args.save_strategy = IntervalStrategy.NO, SaveStrategy.NO
    args.load_best_model_at_end, args.early_stopping_patience = False, None
    if arguments.data.task_type == "regression":
        raise UserError(
            "--task_type regression: an audit doubts classes; of scores a run's README.md has the largest errors"
        )
    return arguments


def assign_folds(pairs: Sequence[dict[str, Any]], folds: int, seed: int) -> np.ndarray:
    """The fold of each pair, (pairs,): labels in equal shares, and a pair's repeats, swapped ones too, in one fold.

    Raises:
        UserError: fewer pairs than folds are different.
    """
    texts = [tuple(sorted(filter(None, (pair["sentence1"], pair["sentence2"])))) for pair in pairs]
    numbers: dict[tuple[str, ...], int] = {}
    groups = [numbers.setdefault(text, len(numbers)) for text in texts]
    if len(numbers) < folds:
        raise UserError(
            f"--folds {folds}: the training split has {len(numbers)} different pairs; each fold must have one"
        )
    labels, of_fold = [pair["label"] for pair in pairs], np.empty(len(pairs), int)
    cuts = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(labels, labels, groups)
    for fold, (_, held) in enumerate(cuts):
        of_fold[held] = fold
    return of_fold


def _check_folds(split: Split, pairs: Sequence[dict[str, Any]], of_fold: np.ndarray, folds: int) -> None:
    """Check that every label is among the pairs that each fold's model is trained on.

    Raises:
        UserError: it is not, where the repeats of one pair, which are in one fold, are all that a label has.
    """
    labels = np.array([pair["label"] for pair in pairs])
    for fold in range(folds):
        for label in sorted(set(range(len(split.label_names))) - set(labels[of_fold != fold].tolist())):
            where = f"all {split.unit} of label {shown(split.label_names[label])} in {split.source} are in one fold"
            raise UserError(f"--folds {folds}: {where}, as repeats are; two different ones of each label are expected")


def _train_fold(
    arguments: RecipeArguments, split: Split, pairs: Sequence[dict[str, Any]], held: np.ndarray, path: Path
) -> None:
    """Train on the pairs that are not held out, and keep the answers to those that are."""
    folder = arguments.training.folder
    data = DataArguments(
        train_file=str(folder / f"{path.stem}-train.jsonl"),
        validation_file=str(folder / f"{path.stem}-held-out.jsonl"),
        label_names=list(split.label_names),
        max_length=arguments.data.max_length,
        text_column_names="sentence1,sentence2" if split.unit == "pairs" else "sentence1",
        streaming=arguments.data.streaming,
        shuffle_buffer_size=arguments.data.shuffle_buffer_size,
    )
    parts = {Path(str(data.train_file)): ~held, Path(str(data.validation_file)): held}
    mine = arguments._replace(data=data, training=copy.copy(arguments.training))
    mine.training.output_dir = str(folder / path.stem)
    try:
        for file, chosen in parts.items():
            write_rows(file, (pairs[int(number)] for number in np.flatnonzero(chosen)), split, Columns())
        with open(folder / LOG, "a", encoding="utf-8") as log, contextlib.redirect_stdout(log):
            train(mine)
            keep_answers(mine, path)
    finally:  # the same are written again where a stopped fold goes on
        for file in parts:
            file.unlink(missing_ok=True)


def build_parser() -> OneLineParser:
    """The parser of an audit's own flags."""
    parser = OneLineParser(
        prog="python -m recipe.studies.audit",
        description="Which training labels one should not trust. Other flags are those of run_freeze.py.",
    )
    parser.add_argument("--folds", type=int, default=5, help="parts of the training split, each answered by the others")
    parser.add_argument(
        "--leave_out", nargs="+", type=float, default=[], help="shares (0.01 0.05): train files without the worst pairs"
    )
    return parser


def main() -> None:
    """An audit from the command line."""
    ours, words = build_parser().parse_known_args()
    audit(words, ours.folds, ours.leave_out)


if __name__ == "__main__":
    exit_on_error(main)
