"""A saved model's answers: logits for a split, predictions.jsonl, and CLUE's submission file."""

import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import softmax
from transformers import PreTrainedTokenizerBase, set_seed

from recipe.arguments import RecipeArguments
from recipe.base_model import open_base, readable_labels
from recipe.batching import IGNORED_LABEL
from recipe.building import build_trainer
from recipe.data import Split, iterate, iterate_batches, require_split, tokenize
from recipe.durable import write_text
from recipe.errors import RunError, UserError
from recipe.loading import load_fine_tuned_model, load_tokenizer
from recipe.modeling import BertForPairwiseCLS
from recipe.pairs import UNLABELLED
from recipe.progress import quiet_libraries, say
from recipe.streams import write_out
from recipe.tokens import Example, SortedPairs, read_tokens
from recipe.trainer import FreezeTrainer

PREDICTIONS, SUBMISSION = "predictions.jsonl", "afqmc_predict.json"


class Answers(NamedTuple):
    """A model's answers to a split, in the split's order."""

    logits: np.ndarray  # (examples, labels)
    labels: np.ndarray  # (examples,), UNLABELLED where there is none
    seconds: float

    @property
    def right(self) -> np.ndarray:
        """Which answers are the label, (examples,)."""
        return self.logits.argmax(-1) == self.labels

    @property
    def probabilities(self) -> np.ndarray:
        """Of each label, (examples, labels), in float64."""
        return softmax(self.logits.astype(np.float64), axis=-1)


def load_fine_tuned(arguments: RecipeArguments) -> tuple[BertForPairwiseCLS, PreTrainedTokenizerBase]:
    """A model that this recipe saved, with its tokenizer.

    Raises:
        UserError: it cannot be loaded, or has no classifier.
    """
    quiet_libraries()
    set_seed(arguments.training.seed)
    base = open_base(arguments.model)
    return load_fine_tuned_model(base), load_tokenizer(base)


def check_labels(model: BertForPairwiseCLS, split: Split, name: str | None) -> None:
    """Check that the data's labels are the model's.

    Raises:
        UserError: they are others.
    """
    ours, names = list(model.config.id2label.values()), readable_labels(split.label_names)
    if ours != names:
        raise UserError(
            f"--model_name_or_path {name}: its labels are {', '.join(ours)}, those of {split.source} {', '.join(names)}"
        )


def answer(
    arguments: RecipeArguments, model: BertForPairwiseCLS, tokenizer: PreTrainedTokenizerBase, split: Split
) -> Answers:
    """The model's answers to `split`, computed over batches of like length."""
    tokens = read_tokens(iterate_batches(tokenize(split.pairs, tokenizer, arguments.data.max_length)))

    def example(index: int) -> Example:
        """One pair; the Trainer asks for a loss as well, which a pair without a label must not enter."""
        found = tokens.example(index)
        return {**found, "labels": IGNORED_LABEL} if found["labels"] == UNLABELLED else found

    return answer_pairs(build_trainer(arguments.training, model, tokenizer), SortedPairs(tokens.lengths, example))


def answer_pairs(trainer: FreezeTrainer, pairs: SortedPairs) -> Answers:
    """A trainer's model's answers to `pairs`, put back into the split's order."""
    compute_metrics, trainer.compute_metrics = trainer.compute_metrics, None
    output = trainer.predict(pairs)
    trainer.compute_metrics = compute_metrics
    logits, labels = np.empty_like(output.predictions), np.empty_like(output.label_ids)
    logits[pairs.order], labels[pairs.order] = output.predictions, output.label_ids
    labels[labels == IGNORED_LABEL] = UNLABELLED
    return Answers(logits, labels, output.metrics["test_runtime"])


def predict(arguments: RecipeArguments) -> None:
    """Write a saved model's answers: to standard output for standard input, else to predictions.jsonl in output_dir.

    For pairs without labels CLUE's submission file is written beside it.

    Raises:
        UserError: the model or the data are not right.
    """
    args = arguments.training
    model, tokenizer = load_fine_tuned(arguments)
    with _standard_input(arguments) as arguments:
        split = require_split(arguments.data, arguments.data.eval_split or "test")
        check_labels(model, split, arguments.model.model_name_or_path)
        answers = answer(arguments, model, tokenizer, split)
        lines = list(prediction_lines(split, answers, list(model.config.id2label.values())))
    if args.process_index > 0:
        return
    if arguments.data.test_file and Path(arguments.data.test_file).name == STANDARD_INPUT:
        write_out(lines)
        return
    folder = Path(args.output_dir or ".")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / PREDICTIONS, "".join(lines))
    say(args, f"predictions     {folder / PREDICTIONS}: {len(lines):,} pairs of {split.source}")
    say(args, f"speed           {len(lines) / answers.seconds:,.0f} pairs a second")
    if (answers.labels == UNLABELLED).all():
        write_submission(folder / SUBMISSION, [split.label_names[label] for label in answers.logits.argmax(-1)])
        check_submission(folder / SUBMISSION, split.rows, split.label_names)
        say(args, f"submission      {folder / SUBMISSION}: {split.rows:,} lines (count, order and form checked)")
    say(args, f"next            make export RUN={arguments.model.model_name_or_path}")


STANDARD_INPUT = "standard-input.jsonl"


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


def prediction_lines(split: Split, answers: Answers, names: Sequence[str]) -> Iterator[str]:
    """One line of JSON a pair: sentence1, sentence2, label (null without one), prediction and its probability."""
    for pair, label, chances in zip(iterate(split.pairs), answers.labels, answers.probabilities, strict=True):
        line: dict[str, Any] = {key: pair[key] for key in ("sentence1", "sentence2")}
        line["label"] = None if label == UNLABELLED else names[label]
        line["prediction"] = names[chances.argmax()]
        line["probability"] = round(float(chances.max()), 6)
        yield json.dumps(line, ensure_ascii=False) + "\n"


def write_submission(path: Path, labels: Sequence[str]) -> None:
    """CLUE's file: {"id": 0, "label": "0"} a line, in the order of the test split."""
    write_text(path, "".join(json.dumps({"id": number, "label": label}) + "\n" for number, label in enumerate(labels)))


def check_submission(path: Path, rows: int, labels: Sequence[str]) -> None:
    """Read a submission file back as CLUE would.

    Raises:
        RunError: it has another number of lines, another order, or a line that is not of the form.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    if len(lines) != rows:
        raise RunError(f"{path}: {len(lines):,} lines, where the test split has {rows:,} pairs")
    for number, line in enumerate(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict) or entry.keys() != {"id", "label"} or entry["label"] not in labels:
            raise RunError(f'{path}:{number + 1}: {line[:60]!r}; {{"id": {number}, "label": "..."}} is expected')
        if entry["id"] != number:
            raise RunError(f"{path}:{number + 1}: id {entry['id']!r}; {number} is expected")
