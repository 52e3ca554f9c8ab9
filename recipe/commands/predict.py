"""A saved model's answers: logits for a split, predictions.jsonl, and CLUE's submission file."""

import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from recipe.arguments import RecipeArguments
from recipe.batches.order import IGNORED_LABEL
from recipe.batches.tokenization import tokenize
from recipe.batches.tokens import Example, SortedPairs, Tokens, read_tokens
from recipe.cache.cached_split import NO_CACHE, STATE_SHAPE, CachedSplit, PrefixState, recorded_state
from recipe.cache.encoding import Encoding
from recipe.cache.finding import find_or_encode
from recipe.cache.key import arithmetic_of, make_key, pair_hashes
from recipe.data.opening import require_split
from recipe.data.pairs import UNLABELLED
from recipe.data.splits import Split, iterate, iterate_batches
from recipe.errors import Damaged, RunError, UserError
from recipe.evaluation.answers import Answers, answer_pairs
from recipe.evaluation.submission import submission_name, why_no_submission, write_submission
from recipe.file_names import PREDICTIONS, RUN
from recipe.model.loading import check_labels, load_fine_tuned
from recipe.model.modeling import BertForPairwiseCLS
from recipe.process.progress import say
from recipe.process.signals import stop_requests
from recipe.process.streams import write_out
from recipe.reporting.outputs import check_answers
from recipe.system.files import write_text
from recipe.system.folder_lock import locked
from recipe.system.json_files import read_json
from recipe.training.build import build_trainer


def answer(
    arguments: RecipeArguments,
    model: BertForPairwiseCLS,
    tokenizer: PreTrainedTokenizerBase,
    split: Split,
    from_cache: bool = False,
    swapped: bool = False,
) -> Answers:
    """The model's answers to `split`, computed over batches of like length.

    Args:
        from_cache: take states from the prefix cache, where the run that made the model did, and leave new ones there:
            the same bytes, so the same score as the run gave itself.
        swapped: ask with the second sentence first.
    """
    trainer = build_trainer(arguments.training, model, tokenizer)  # which may be refused, and costs less than reading
    tokens = read_tokens(iterate_batches(tokenize(split.pairs, tokenizer, arguments.data.max_length, swapped)))
    if Path(arguments.data.test_file or "").name != STANDARD_INPUT and not swapped:  # whose answers go where notes go
        for line in tokens.describe_cut(split.source):
            say(arguments.training, line)

    def example(index: int) -> Example:
        """One pair; the Trainer asks for a loss as well, which a pair without a label must not enter."""
        found = tokens.example(index)
        return {**found, "labels": IGNORED_LABEL} if found["labels"] == UNLABELLED else found

    cached = _from_cache(arguments, model, tokens, split) if from_cache else None
    return answer_pairs(trainer, cached or SortedPairs(tokens.lengths, example))


def _from_cache(
    arguments: RecipeArguments, model: BertForPairwiseCLS, tokens: Tokens, split: Split
) -> SortedPairs | None:
    """The pairs with their states as the run had them; None where it had none, or they cannot be kept here."""
    args, state = arguments.training, _state_of_run(Path(model.name_or_path))
    model.prefix_depth = getattr(model.config, "frozen_prefix_depth", None)
    if state.dtype is None or state.kept or not model.prefix_depth or arguments.cache.prefix_cache == "off":
        return None
    key = make_key(model, state.dtype, str(state.compute_dtype), args.device, arithmetic_of(args))
    directory = Path(arguments.cache.prefix_cache_dir)
    try:
        (cache,) = find_or_encode([Encoding(model, tokens, pair_hashes(tokens), key, directory, split.source)], args)
    except RunError as error:
        say(args, f"note: {error}; this score is computed without one, so that its last digits may differ")
        return None
    return CachedSplit(cache, tokens, tokens.lengths.int(), key).sorted_pairs()


def _state_of_run(folder: Path) -> PrefixState:
    try:
        said = read_json(folder / RUN, {"prefix": STATE_SHAPE})["prefix"]
    except Damaged:  # of an earlier release, or no run at all
        return NO_CACHE
    return recorded_state(said)


def predict(arguments: RecipeArguments) -> None:
    """Write a saved model's answers: to standard output for standard input, else to predictions.jsonl in output_dir.

    For pairs without labels CLUE's submission file is written beside it.

    Raises:
        UserError: the model or the data are not right.
    """
    to_folder = arguments.data.test_file != "-" and arguments.training.process_index == 0
    folder = arguments.training.folder
    with locked(folder, name=LOCK) if to_folder else contextlib.nullcontext():
        if to_folder:
            check_answers(folder, [PREDICTIONS, submission_name(arguments.data)])
        _predict(arguments, folder)


def _predict(arguments: RecipeArguments, folder: Path) -> None:
    args = arguments.training
    model, tokenizer = load_fine_tuned(arguments)
    with stop_requests(), _standard_input(arguments) as arguments:  # so that SIGTERM leaves no copy of the sentences
        split = require_split(arguments.data, arguments.data.eval_split or "test")
        check_labels(model, split, arguments.model.model_name_or_path)
        answers = answer(arguments, model, tokenizer, split)
        ids: list[Any] = []
        lines = list(prediction_lines(split, answers, list(model.config.id2label.values()), ids))
    if args.process_index > 0:
        return
    if arguments.data.test_file and Path(arguments.data.test_file).name == STANDARD_INPUT:
        write_out(lines)
        return
    write_text(folder / PREDICTIONS, "".join(lines))
    what = "; ".join([split.source, *split.left_out(), *split.notes])
    say(args, f"predictions     {folder / PREDICTIONS}: {len(lines):,} {split.unit} of {what}")
    say(args, f"speed           {len(lines) / answers.seconds:,.0f} {split.unit} a second")
    if (answers.labels == UNLABELLED).any():
        say(args, _submit(folder / submission_name(arguments.data), split, answers, ids))
    say(args, f"next            make export RUN={arguments.model.model_name_or_path}")


def _submit(path: Path, split: Split, answers: Answers, ids: list[Any]) -> str:
    """Write the submission file, or take an older one away where there can be none; what to say of it."""
    reason = why_no_submission(split, ids, int((answers.labels != UNLABELLED).sum()))
    if reason is not None:
        path.unlink(missing_ok=True)
        return f"submission      none is written: {reason}"
    known = None if all(each is None for each in ids) else ids  # rows without ids are numbered from 0
    write_submission(path, [split.label_names[label] for label in answers.logits.argmax(-1)], known)
    numbered = "; numbered from 0, since no row has an id" if known is None else ""
    return f"submission      {path}: {split.rows:,} lines, one for each row{numbered}"


STANDARD_INPUT = "standard-input.jsonl"
LOCK = ".predictions.lock"


@contextlib.contextmanager
def _standard_input(arguments: RecipeArguments) -> Iterator[RecipeArguments]:
    """The arguments with --test_file - replaced by a file that holds what standard input gave."""
    if arguments.data.test_file != "-":
        yield arguments
        return
    if sys.stdin is None:
        raise UserError("--test_file -: standard input is closed; JSON lines are expected there")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / STANDARD_INPUT
        with open(path, "wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        arguments.data.test_file = str(path)
        try:
            yield arguments
        except UserError as error:
            raise UserError(str(error).replace(str(path), "standard input")) from None


def prediction_lines(split: Split, answers: Answers, names: Sequence[str], ids: list[Any]) -> Iterator[str]:
    """One line of JSON a pair: its sentences, label (null without one), prediction and its probability.

    A row's own id comes first where it has one; `ids` takes them all, None for a row without.
    """
    for pair, label, chances in zip(iterate(split.pairs), answers.labels, answers.probabilities, strict=True):
        ids.append(None if pair["id"] is None else json.loads(pair["id"]))
        line: dict[str, Any] = {} if ids[-1] is None else {"id": ids[-1]}
        line |= {key: pair[key] for key in ("sentence1", "sentence2") if pair[key] is not None}
        line["label"] = None if label == UNLABELLED else names[label]
        line["prediction"] = names[chances.argmax()]
        line["probability"] = round(float(chances.max()), 6)
        yield json.dumps(line, ensure_ascii=False) + "\n"
