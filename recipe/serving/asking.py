"""What a page asks a saved model: a pair in both orders, a file of pairs, and the validation split of its run."""

import dataclasses
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import numpy as np
from transformers import TrainerCallback

from recipe.arguments import DataArguments, ModelArguments, RecipeArguments
from recipe.batches.tokenization import encode_batch
from recipe.batches.tokens import describe_cut, read_tokens
from recipe.commands.answering import answer, answer_lines
from recipe.commands.evaluate import open_labelled
from recipe.data.opening import require_split
from recipe.data.splits import iterate_batches, unit_of
from recipe.errors import RunError, UserError
from recipe.evaluation.answers import answer_pairs
from recipe.internals import forget_loaders
from recipe.model.base_model import readable_labels
from recipe.model.loading import check_labels, load_fine_tuned
from recipe.process.text import before_clause_with
from recipe.reporting.model_card import Scored
from recipe.training.build import build_trainer
from recipe.training.trainer import FreezeTrainer

ARGUMENTS = [field.name for kind in (DataArguments, ModelArguments) for field in dataclasses.fields(kind)]
FLAG = re.compile(rf"--(?:{'|'.join(ARGUMENTS)})\b")
LONGEST = 100_000  # characters that are typed or pasted; a file's sentence may be longer
SHOWN = 100  # rows of a file that a page shows


class Asked(NamedTuple):
    """A saved model that answers, and how it reads; one question at a time."""

    arguments: RecipeArguments
    trainer: FreezeTrainer
    ended: Event  # set when nobody waits for answers any more

    @property
    def names(self) -> list[str]:
        """Its labels."""
        return list(self.trainer.model.config.id2label.values())

    @property
    def regression(self) -> bool:
        """Whether it answers with a score."""
        return len(self.names) == 1

    @property
    def in_pairs(self) -> bool:
        """Whether it reads two sentences."""
        return unit_of(self.arguments.data) == "pairs"


class PairAnswer(NamedTuple):
    """In each order that was asked for the probability of each label, (labels,), or the score; whether it was cut."""

    orders: list[np.ndarray]
    cut: bool


class FileAnswer(NamedTuple):
    """The first of a file's lines in predictions.jsonl, and what is to be said of the file."""

    first: list[str]
    notes: list[str]


def load_asked(arguments: RecipeArguments) -> Asked:
    """The model that --model_name_or_path names, ready to be asked.

    Raises:
        UserError: this recipe did not save it.
    """
    arguments.training.disable_tqdm = True
    model, tokenizer = load_fine_tuned(arguments)
    asked = Asked(arguments, build_trainer(arguments.training, model, tokenizer), Event())
    asked.trainer.add_callback(_Waited(asked.ended))
    return asked


class _Waited(TrainerCallback):
    """Leaves a file's answers unfinished once `ended` is set: the thread that computes them would outlive the page."""

    def __init__(self, ended: Event) -> None:
        self.ended = ended

    def on_prediction_step(self, *_: Any, **__: Any) -> None:
        """Raise, if so."""
        if self.ended.is_set():
            raise RunError("the page has been closed")


def ask_pair(asked: Asked, first: str, second: str | None) -> PairAnswer:
    """The answer to a pair, and to the same pair with its sentences swapped; to a single sentence, in its one order.

    Raises:
        UserError: a sentence is empty, no text or too long.
    """
    row = {"sentence1": first, "sentence2": second or ""} if asked.in_pairs else {"sentence1": first}
    for name, text in row.items():
        if len(text) > LONGEST:
            raise UserError(f"{name} has {len(text):,} characters; at most {LONGEST:,} are expected here")
    own: dict[str, Any] = {"text_column_names": ",".join(row), "label_column_name": "label", "id_column_name": None}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pair.jsonl"
        path.write_text(json.dumps(row) + "\n", encoding="utf-8")
        with _in_words(asked, f"{path}:1: ", ""):
            data = _reading(asked, path, column_names=None, **own)
            (pair,) = iterate_batches(require_split(data, "test").pairs)
    orders = (("sentence1", "sentence2"), ("sentence2", "sentence1"))[: len(row)]
    found, cut = [], 0
    for order in orders:
        tokens = read_tokens(iter([encode_batch(pair, asked.trainer.processing_class, data.max_length, order)]))
        answers = answer_pairs(asked.trainer, tokens.sorted_pairs())
        found.append(answers.logits[0] if asked.regression else answers.probabilities[0])
        cut += tokens.cut
    forget_loaders(asked.trainer.accelerator)
    return PairAnswer(found, cut > 0)


def ask_file(asked: Asked, path: Path, target: Path) -> FileAnswer:
    """Write predictions.jsonl for a file, read as the run's data were; rows that are no pairs are left out and counted.

    Raises:
        UserError: the file cannot be read, or no row of it is a pair.
    """
    first: list[str] = []
    answered = cut = 0
    with _in_words(asked, str(path), path.name), open(target, "w", encoding="utf-8") as file:
        data = _reading(asked, path, on_bad_row="skip")
        split = require_split(data, "test")
        check_labels(asked.trainer.model, split, asked.arguments.model.model_name_or_path)
        for lines, more in answer_lines(asked.trainer, split, data.max_length):
            file.writelines(lines)
            first += lines[: SHOWN - len(first)]
            answered, cut = answered + len(lines), cut + more
    notes = [*split.left_out(), *split.notes]
    told = describe_cut(path.name, split.unit, cut, answered)
    notes += [note.replace("--max_length", f"{data.max_length} tokens") for note in told]
    notes = [_without_flags(asked, note.replace(str(path), path.name)) for note in notes]
    return FileAnswer(first, [f"{answered:,} {split.unit}", *notes])


def ask_validation(asked: Asked) -> Scored:
    """The answers to the validation split that the run names.

    Raises:
        UserError: it cannot be read any more, or has no labels.
        RunError: it is on the Hub, which is gone.
    """
    split = open_labelled(asked.arguments)
    model, tokenizer = asked.trainer.model, asked.trainer.processing_class
    check_labels(model, split, asked.arguments.model.model_name_or_path)
    return Scored(split, answer(asked.arguments, model, tokenizer, split), asked.names)


def _reading(asked: Asked, path: Path, **changed: Any) -> DataArguments:
    """The run's arguments for a file of a visitor's; where they name no labels, the model's are those of the file."""
    data = asked.arguments.data
    names = data.label_names
    if names is None and not asked.regression and readable_labels(["0", "1"], unit_of(data)) != asked.names:
        names = asked.names
    own: dict[str, Any] = {"data_dir": None, "train_file": None, "validation_file": None, "label_names": names}
    own["task_type"] = "regression" if asked.regression else "classification"
    own["streaming"] = True  # a visitor's sentences are not kept in Arrow's cache
    return dataclasses.replace(data, **own, test_file=str(path), **changed)


@contextmanager
def _in_words(asked: Asked, place: str, name: str) -> Iterator[None]:
    """Errors that speak of a visitor's input by its own name, not by where it lies here, and of no flags."""
    try:
        yield
    except (UserError, RunError) as error:
        raise UserError(_without_flags(asked, str(error).replace(place, name))) from None


def _without_flags(asked: Asked, text: str) -> str:
    """An error without what a flag would do about it, which a visitor does not have; columns can be renamed."""
    if FLAG.match(text):  # what is wrong stands behind the flag and its value
        text = text.partition(": ")[2]
    kept = before_clause_with(FLAG, text)
    renamed = "--text_column_names" in text[len(kept) :]
    return f"{kept}; the columns {asked.arguments.data.text_column_names} are expected" if renamed else kept
