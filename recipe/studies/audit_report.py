"""What an audit found: doubtful pairs as JSON lines and as a page, and train files without the worst of them."""

import json
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recipe.arguments import DataArguments
from recipe.data.opening import reads_files, require_split
from recipe.data.splits import Split, iterate
from recipe.errors import UserError
from recipe.process.streams import tell
from recipe.process.text import markdown, shown
from recipe.rows.columns import Columns
from recipe.system.files import write_text

DOUBTFUL, PAGE = "doubtful.jsonl", "audit.md"
LISTED = 50  # on the page


class Audit(NamedTuple):
    """What came of it: the places of doubtful pairs, the most doubtful first, and each pair's answer.

    Attributes:
        places: in the training split, from 0.
        probabilities: of each label, by a model that did not see the pair, (pairs, labels).
        labels: as they stand, (pairs,).
    """

    places: np.ndarray
    probabilities: np.ndarray
    labels: np.ndarray


def require_cleanlab() -> Any:
    """What finds doubtful labels: cleanlab's `find_label_issues`.

    Raises:
        UserError: cleanlab is missing.
    """
    try:
        from cleanlab.filter import find_label_issues
    except ImportError as error:
        raise UserError(
            "the audit needs cleanlab: pip install -c constraints.txt -e '.[audit]', or make audit"
        ) from error
    return find_label_issues


def check_leave_out(leave_out: Sequence[float], count: int) -> None:
    """Check that each share of so many pairs leaves some out, and not all.

    Raises:
        UserError: one does not.
    """
    for share in leave_out:
        if not 0 < share < 1:
            raise UserError(f"--leave_out {share:g}: a share of the pairs between 0 and 1 is expected")
        if not 0 < round(share * count) < count:
            which = "none" if share < 0.5 else "all"
            raise UserError(f"--leave_out {share:g}: {which} of {count:,} pairs; at least one and not all is expected")


def write_audit(folder: Path, split: Split, pairs: Sequence[dict[str, Any]], audited: Audit) -> None:
    """Write the doubtful pairs as JSON lines and as a page."""
    lines = [_doubtful(split, pairs, audited, int(place)) for place in audited.places]
    write_text(folder / DOUBTFUL, "".join(lines))
    share, right = len(lines) / len(pairs), audited.probabilities.argmax(-1) == audited.labels
    said = f"{len(lines):,} of {len(pairs):,} labels are doubtful ({share:.1%}); {right.mean():.4f} of all are answered"
    head = f"# Doubtful labels\n\n{shown(split.source)}: {said} as they stand, by models that did not see them.\n\n"
    rows = "".join(_row(split, pairs[place], audited, int(place)) for place in audited.places[:LISTED])
    table = f"| number | sentences | label | answer | its probability |\n|---|---|---|---|---|\n{rows}"
    counted = f"A number counts the {split.unit} as they were read, from 1"
    for line in split.left_out():
        counted += f", without rows that were left out ({markdown(line)})"
    listed = f"The {min(LISTED, len(lines))} most doubtful; all of them are in {DOUBTFUL}."
    write_text(folder / PAGE, f"{head}{listed} {counted}.\n\n{table}")
    for line in split.left_out():
        tell(f"\nleft out        {shown(line)}")
    tell(f"\ndoubtful        {folder / DOUBTFUL}: {said} as they stand\npage            {folder / PAGE}")


def write_left_out(
    folder: Path,
    args: DataArguments,
    split: Split,
    pairs: Sequence[dict[str, Any]],
    audited: Audit,
    leave_out: Sequence[float],
) -> None:
    """Write the training split without the worst of all pairs, as the same flags read it.

    Of data from the Hub also what these files are compared with, and on: the whole split, and the validation split.
    """
    columns = Columns.of(args)
    trust = np.take_along_axis(audited.probabilities, audited.labels[:, None], -1)[:, 0]
    for worst in leave_out:
        kept = np.sort(np.argsort(trust, kind="stable")[round(worst * len(pairs)) :])
        path = folder / f"train-without-{100 * worst:g}-percent.jsonl"
        write_rows(path, (pairs[place] for place in kept), split, columns)
        tell(f"left out        {path}: {len(kept):,} pairs, without those whose label has the lowest probability")
    if not leave_out:
        return
    if not reads_files(args):
        _write_whole(folder, args, split, pairs, columns)
    if args.label_names is None and split.label_names != ["0", "1"]:
        tell(f"note: these files are read with --label_names {shlex.join(split.label_names)}")


def _write_whole(
    folder: Path, args: DataArguments, split: Split, pairs: Sequence[dict[str, Any]], columns: Columns
) -> None:
    parts: list[tuple[Split, Iterable[dict[str, Any]]]] = [(split, pairs)]
    try:
        held = require_split(args, "validation")
        parts.append((held, iterate(held.pairs)))
    except UserError as error:  # an audit itself needs none
        tell(f"note: no validation split is written: {error}")
    for each, rows in parts:
        path = folder / f"hub-{each.name}.jsonl"
        write_rows(path, rows, each, columns)
        tell(f"{each.name:<15} {path}: {each.rows:,} {each.unit}, all of {shown(each.source)}")


def _doubtful(split: Split, pairs: Sequence[dict[str, Any]], audited: Audit, place: int) -> str:
    chances = audited.probabilities[place]
    answer, label = int(chances.argmax()), int(audited.labels[place])
    of_answer, of_label = (round(float(chances[each]), 6) for each in (answer, label))
    more = {"number": place + 1, "prediction": split.label_names[answer], "probability": of_answer}
    return _line(pairs[place], split, Columns(), **more, probability_of_label=of_label)


def _row(split: Split, pair: dict[str, Any], audited: Audit, place: int) -> str:
    chances = audited.probabilities[place]
    texts = "<br>".join(markdown(pair[key]) for key in ("sentence1", "sentence2") if pair[key] is not None)
    names = [markdown(split.label_names[each]) for each in (audited.labels[place], chances.argmax())]
    return f"| {place + 1:,} | {texts} | {names[0]} | {names[1]} | {chances.max():.3f} |\n"


def write_rows(path: Path, pairs: Iterable[dict[str, Any]], split: Split, columns: Columns) -> None:
    """Write pairs of the split as JSON lines with these columns."""
    write_text(path, "".join(_line(pair, split, columns) for pair in pairs))


def _line(pair: dict[str, Any], split: Split, columns: Columns, **more: Any) -> str:
    """One row of the split as a line of JSON, with its own id, its label's name and what `more` says."""
    sentences = [pair[key] for key in ("sentence1", "sentence2") if pair[key] is not None]
    row = dict(zip(columns.sentences, sentences, strict=False))
    row |= {columns.ids[0]: json.loads(pair["id"])} if pair["id"] is not None else {}
    return json.dumps({**row, columns.label: split.label_names[pair["label"]], **more}, ensure_ascii=False) + "\n"
