"""predictions.jsonl: its lines, and the file that they are appended to, from which a stopped call goes on."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from recipe.data.pairs import UNLABELLED
from recipe.evaluation.answers import Answers


def prediction_lines(pairs: dict[str, list[Any]], answers: Answers, names: Sequence[str]) -> Iterator[str]:
    """One line of JSON a pair: its sentences, label (null without one), prediction and its probability; or two scores.

    A row's own id comes first where it has one.

    Args:
        pairs: columns sentence1, sentence2, label and id.
    """
    rows = zip(pairs["id"], pairs["sentence1"], pairs["sentence2"], strict=True)
    found = answers.scores if answers.regression else answers.probabilities
    for (own, *sentences), label, answer in zip(rows, pairs["label"], found, strict=True):
        line: dict[str, Any] = {} if own is None else {"id": json.loads(own)}
        line |= {key: text for key, text in zip(("sentence1", "sentence2"), sentences, strict=True) if text is not None}
        if answers.regression:
            given = None if label == UNLABELLED else round(label, 6)  # a float32's 3.8 is 3.799999952
            line |= {"label": given, "prediction": round(float(answer), 6)}
        else:
            line |= {"label": None if label == UNLABELLED else names[label], "prediction": names[answer.argmax()]}
            line["probability"] = round(float(answer.max()), 6)
        yield json.dumps(line, ensure_ascii=False) + "\n"


def append(path: Path, lines: Iterable[str]) -> None:
    """Append lines to a file, made if need be; they are on the disk then.

    Raises:
        OSError: it is full. What was written of them stays; `keep_whole` takes it away.
    """
    with open(path, "ab") as file:
        file.writelines(line.encode() for line in lines)
        file.flush()
        os.fsync(file.fileno())


def keep_whole(path: Path, at_once: int) -> int:
    """Cut a file behind the last lines that were appended whole, `at_once` at a time; how many lines stay.

    A kill may leave any part of what was being appended, a loss of power pages of zeros in it.
    """
    if not path.exists():
        return 0
    lines = kept = position = end = 0
    with open(path, "r+b") as file:
        for line in file:
            if not _is_whole(line):
                break
            lines, position = lines + 1, position + len(line)
            if lines % at_once == 0:
                kept, end = lines, position
        file.truncate(end)
    return kept


def _is_whole(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and json.loads(line).keys() >= {"label", "prediction"}
    except (ValueError, RecursionError, AttributeError):
        return False


def read_predictions(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file, read back."""
    with open(path, "rb") as file:
        yield from map(json.loads, file)


def begins_as_answers(path: Path) -> bool:
    """Whether a file begins as scores, predictions or a submission do."""
    try:
        with open(path, encoding="utf-8") as file:
            first = json.JSONDecoder().raw_decode(file.read(1 << 22))[0]  # a line of predictions may be that long
    except (OSError, ValueError, RecursionError):
        return False
    keys = first.keys() if isinstance(first, dict) else set()
    scores = keys & {"eval_accuracy", "eval_pearson"}
    return keys >= {"sentence1", "label", "prediction"} or keys == {"id", "label"} or bool(scores)
