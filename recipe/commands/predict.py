"""A saved model's answers: predictions.jsonl, written as they come, and CLUE's submission file."""

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from recipe.arguments import RecipeArguments
from recipe.batches.tokens import describe_cut
from recipe.checkpoints.identity import make_identity
from recipe.commands.answering import answer_lines, rows_at_once
from recipe.data.opening import limited, require_split
from recipe.data.splits import Split
from recipe.errors import RunError, Stopped, UserError
from recipe.evaluation.predictions import append, keep_whole
from recipe.evaluation.submission import submission_name, submit
from recipe.file_names import PARTIAL_PREDICTIONS, PREDICTIONS
from recipe.model.loading import check_labels, load_fine_tuned
from recipe.model.modeling import BertForPairwiseCLS
from recipe.process.progress import Progress, say
from recipe.process.signals import stop_requests
from recipe.process.streams import may_be_lost, write_out
from recipe.process.text import shown
from recipe.reporting.outputs import check_answers, check_free
from recipe.system.distributed import from_first_rank
from recipe.system.files import describe_free, remove_temporary, sync
from recipe.system.folder_lock import locked
from recipe.training.build import build_trainer
from recipe.training.callbacks import AnswerLines
from recipe.training.trainer import FreezeTrainer

LOCK = ".predictions.lock"


def predict(arguments: RecipeArguments) -> None:
    """Write a saved model's answers: to standard output for standard input, else to predictions.jsonl in output_dir.

    They are written as they come, in memory that does not grow with the rows. Those of a file come together in a
    partial one, from which the same command goes on; predictions.jsonl is there when it is whole. For pairs without
    labels CLUE's submission file is written beside it.

    Raises:
        UserError: the model or the data are not right.
        RunError: the disk is full.
    """
    to_folder = arguments.data.test_file != "-" and arguments.training.process_index == 0
    folder = arguments.training.folder
    # before the lock, whose folder, often the model's own, would hide that it is missing
    model, tokenizer = load_fine_tuned(arguments)
    with locked(folder, name=LOCK) if to_folder else contextlib.nullcontext():
        if to_folder:
            check_answers(folder, [PREDICTIONS, submission_name(arguments.data)])
            remove_temporary(folder, submission_name(arguments.data))
        _predict(arguments, model, tokenizer)


def _predict(arguments: RecipeArguments, model: BertForPairwiseCLS, tokenizer: PreTrainedTokenizerBase) -> None:
    args, streamed = arguments.training, arguments.data.test_file == "-"
    trainer = build_trainer(args, model, tokenizer)  # which may be refused, and costs less than reading
    with stop_requests(), _standard_input(arguments) as arguments:  # so that SIGTERM leaves no copy of the sentences
        split = require_split(arguments.data, arguments.data.eval_split or "test")
        check_labels(model, split, arguments.model.model_name_or_path)
        if streamed:
            _answer_standard_input(arguments, trainer, split)
            return
        partial = args.folder / PARTIAL_PREDICTIONS.format(_identity(arguments, trainer, split))
        rows = _complete(arguments, trainer, split, partial)
        if args.process_index == 0:
            _finish(arguments, split, partial, rows, list(model.config.id2label.values()))


def _answer_standard_input(arguments: RecipeArguments, trainer: FreezeTrainer, split: Split) -> None:
    """Write the answers to standard output; what is to be said of them goes to standard error, behind the last."""
    answered = cut = 0
    for lines, more in answer_lines(trainer, split, arguments.data.max_length):
        if arguments.training.process_index == 0:
            write_out(lines)
        answered, cut = answered + len(lines), cut + more
    told = [f"note: {line}" for line in [*split.left_out(), *split.notes]]
    for line in [*told, *describe_cut(split.source, split.unit, cut, answered)]:
        if arguments.training.process_index == 0:
            with may_be_lost(sys.stderr):
                print(shown(line.replace(str(arguments.data.test_file), "standard input")), file=sys.stderr)


def _identity(arguments: RecipeArguments, trainer: FreezeTrainer, split: Split) -> str:
    """What the lines follow from: what a resumed run's result does, of its arithmetic no more than flags say."""
    told = make_identity(arguments, trainer.model, [split], trainer.processing_class)
    told |= {"arithmetic": told["arithmetic"]["mixed_precision"], "id": arguments.data.id_column_name}
    told |= {"rows": rows_at_once(trainer), "names": list(trainer.model.config.id2label.values())}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def _complete(arguments: RecipeArguments, trainer: FreezeTrainer, split: Split, partial: Path) -> int:
    """Append to `partial` the lines that it has not yet; how many it has then."""
    args, started, cut = arguments.training, time.perf_counter(), 0
    done = before = from_first_rank(args, lambda: _begin(arguments, partial, split, rows_at_once(trainer)), OSError)
    with Progress(args, split.rows, "answering", split.unit[:-1], done) as progress:
        trainer.add_callback(AnswerLines(progress))
        try:
            for lines, more in answer_lines(trainer, split, arguments.data.max_length, done):
                if args.process_index == 0:
                    append(partial, lines)
                done, cut = done + len(lines), cut + more
        except Stopped as stopped:
            stopped.args = (
                f"stopped after {done:,} of {split.rows:,} {split.unit}; the same command goes on from there",
            )
            raise
        except OSError as error:
            reason = f"{error.strerror or error} ({describe_free(partial.parent)})"
            raise RunError(f"{partial}: {reason}; the same command goes on after {done:,} {split.unit}") from error
    for line in describe_cut(split.source, split.unit, cut, done - before, "the last " * (before > 0)):
        say(args, line)
    if done > before:
        rate = (done - before) / (time.perf_counter() - started)
        say(args, f"speed           {rate:,.0f} {split.unit} a second")
    return done


def _begin(arguments: RecipeArguments, partial: Path, split: Split, at_once: int) -> int:
    """How many rows an earlier call has answered; what it left is said, and what another model's or data's did."""
    check_free(partial, partial.is_file())
    for other in sorted(partial.parent.glob(PARTIAL_PREDICTIONS.format("*"))):
        if other != partial:
            told = "of another model, other data or flags; their command goes on from it, or remove it"
            say(arguments.training, f"note: {other} is there, {told}")
    kept = keep_whole(partial, at_once)
    if kept:
        say(arguments.training, f"going on after {kept:,} of {split.rows:,} {split.unit}, which {partial} has")
    return kept


def _finish(arguments: RecipeArguments, split: Split, partial: Path, rows: int, names: list[str]) -> None:
    """Write the submission, then give the predictions their name."""
    args, path = arguments.training, partial.parent / PREDICTIONS
    submission = None
    if not split.regression:  # CLUE has no task of scores
        own_names = dict(zip(names, split.label_names, strict=True))
        submission = submit(arguments.data, partial, split, own_names)
    os.replace(partial, path)
    sync(path.parent)
    what = "; ".join([split.source, *limited(arguments.data, split), *split.left_out(), *split.notes])
    say(args, f"predictions     {path}: {rows:,} {split.unit} of {what}")
    if submission is not None:
        say(args, submission)
    say(args, f"next            make export RUN={shlex.quote(arguments.model.name)}")


@contextlib.contextmanager
def _standard_input(arguments: RecipeArguments) -> Iterator[RecipeArguments]:
    """The arguments with --test_file - replaced by a file that holds what standard input gave."""
    if arguments.data.test_file != "-":
        yield arguments
        return
    if sys.stdin is None:
        raise UserError("--test_file -: standard input is closed; JSON lines are expected there")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "standard-input.jsonl"
        with open(path, "wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        arguments.data.test_file = str(path)
        try:
            yield arguments
        except UserError as error:
            raise UserError(str(error).replace(str(path), "standard input")) from None
