"""What a run's data are, before it runs, and a validation split out of its training split: make check-data.

    python -m recipe.commands.check_data configs/afqmc.yaml
    python -m recipe.commands.check_data --data_dir FOLDER --split 0.1

With --split a share of the training split becomes a validation split that has no sentence in common with the rest.
"""

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path

import numpy as np

from recipe.arguments import RecipeArguments
from recipe.batches.tokenization import tokenize
from recipe.batches.tokens import read_tokens
from recipe.command_line.one_line_parser import OneLineParser
from recipe.command_line.parsing import parse
from recipe.commands.describe_data import Read, describe, describe_cache, describe_overlap, padding
from recipe.data.dividing import choose_validation, split_folder, tenths, write_division
from recipe.data.opening import check_paths, open_split, require_split, split_paths
from recipe.data.pairs import DEFAULT_NAMES
from recipe.data.repeats import Texts
from recipe.data.splits import Split, iterate, iterate_batches
from recipe.errors import RunError, UserError
from recipe.model.base_model import open_base
from recipe.model.loading import check_length, load_model
from recipe.model.tokenizer import load_tokenizer
from recipe.process.exiting import exit_on_error
from recipe.process.progress import quiet_libraries, say


def check_data(arguments: RecipeArguments, share: float | None = None) -> None:
    """Print what the data are; with `share`, divide the training split too.

    Raises:
        UserError: what a run would refuse, or a folder is in the way of the new splits.
        RunError: they cannot be written.
    """
    args = arguments.training
    quiet_libraries()
    folder = None if share is None else split_folder(arguments.data, share, args.seed)
    check_paths(arguments.data, "train", "validation")
    base = open_base(arguments.model)
    check_length(arguments.data, base.config.max_position_embeddings)
    tokenizer, found = load_tokenizer(base), []
    for split in _splits(arguments, divided=share is not None):
        tokens = read_tokens(iterate_batches(tokenize(split.pairs, tokenizer, arguments.data.max_length)))
        found.append(Read(split, tokens, Texts(iterate(split.pairs))))
        _say(arguments, describe(found[-1]))
    carried = padding(found[0].tokens, arguments)
    _say(arguments, [("padding", f"training batches carry {carried:.2f} tokens for each real one")])
    _say(arguments, [("in two splits", describe_overlap(one, other)) for one, other in combinations(found, 2)])
    trained = [each for each in found if each.split.name != "test"]
    _say(arguments, (("prefix cache", line) for line in describe_cache(arguments, load_model(base), trained)))
    if share is not None and folder is not None:
        _say(arguments, divide(arguments, found[0], share, folder))


def _say(arguments: RecipeArguments, rows: Iterable[tuple[str, str]]) -> None:
    for key, value in rows:
        say(arguments.training, f"{key:<15} {value}")


def _splits(arguments: RecipeArguments, divided: bool) -> Iterator[Split]:
    """The splits; validation must be there unless it is to be made, and what is wrong with test is told."""
    yield require_split(arguments.data, "train")
    if not divided:
        yield require_split(arguments.data, "validation")
    else:
        for path in split_paths(arguments.data, "validation")[:1]:
            say(arguments.training, f"note: {path} is there and is not looked at: --split makes a validation split")
    try:
        test = open_split(arguments.data, "test")
    except UserError as error:
        say(arguments.training, f"note: no test split: {error}")
        return
    if test is not None and test.rows:
        yield test


def divide(arguments: RecipeArguments, read: Read, share: float, folder: Path) -> Iterator[tuple[str, str]]:
    """Write the training split as two, and tell of them.

    Raises:
        UserError: no part of about that size can be told off.
        RunError: they cannot be written.
    """
    split, labels = read.split, read.tokens.labels.numpy()
    strata = tenths(labels) if split.regression else labels.tolist()
    chosen = choose_validation(read.texts.rows, strata, share, arguments.training.seed)
    if sum(chosen) < share * len(chosen) / 2:
        raise UserError(
            f"--split {share:g}: {sum(chosen):,} of {len(chosen):,} rows can be told off without a sentence on both "
            "sides; another share is expected"
        )
    try:
        write_division(split, arguments.data, chosen, folder)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror or error}") from error
    for name, wanted in (("train", False), ("validation", True)):
        part = labels[np.equal(chosen, wanted)]
        yield "written", f"{folder / name}.json: {len(part):,} {split.unit}, {_shares(split, part)}"
    files = [f"--train_file={folder / 'train.json'}", f"--validation_file={folder / 'validation.json'}"]
    if not (arguments.data.label_names or split.regression or tuple(split.label_names) == DEFAULT_NAMES):
        files = ["--label_names", *split.label_names, *files]  # which the old files said, and the new ones do not
    yield "next", f"the same words behind run_freeze.py, and {shlex.join(files)}"


def _shares(split: Split, labels: np.ndarray) -> str:
    """How the labels (rows,) of a part are spread."""
    if split.regression:
        return f"scores {labels.min():g} to {labels.max():g}, mean {labels.mean():.4g}"
    counts = Counter(labels.tolist())
    return ", ".join(f"{split.label_names[label]} {n / len(labels):.1%}" for label, n in sorted(counts.items()))


def main() -> None:
    """Check the data of a command line of run_freeze.py."""
    parser = OneLineParser(prog="python -m recipe.commands.check_data", description=__doc__)
    parser.add_argument("--split", type=float, help="the share of the training split that becomes a validation split")
    ours, words = parser.parse_known_args()
    if ours.split is not None and not 0 < ours.split < 1:
        raise UserError(f"--split {ours.split:g}: a share of the training split above 0 and below 1 is expected")
    check_data(parse(words), ours.split)


if __name__ == "__main__":
    exit_on_error(main)
