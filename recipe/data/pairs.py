"""What a sentence pair is: every record is checked, and any other is an error that names its place."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from recipe.arguments import DataArguments
from recipe.errors import BadRow, UserError
from recipe.rows.columns import Columns, way_to
from recipe.rows.sentences import sentence_of
from recipe.rows.tables import TableRow

UNLABELLED = -100  # what cross_entropy ignores, and the Trainer where it counts a step's examples
DEFAULT_NAMES = ("0", "1")
SCORE = "score"  # the only label of a regression, as in transformers, whose models of one label are regressions
LARGEST = 1e18  # a score whose square a float32 still holds
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
PARTIAL = re.compile(r"-?[0-9]+\.[0-9]*[1-9][0-9]*")  # no id or name, but a number
WHOLE = re.compile("0|[1-9][0-9]{0,17}")


class RowRules(NamedTuple):
    """What a row must be to count as a pair.

    Attributes:
        label_names: a label is one of these names (0 for "0" will do), or an id where no name is a number; of a
            single name: a score.
        labelled: whether the label must be there; where it need not, null and, of names, -1 mean that there is none.
        class_names: what a label that is a whole number stands for, where the data say so (a ClassLabel).
        skip: whether other rows are left out; else they are errors.
        columns: where in a row its sentences, label and id are.
        unlabelled: what a missing label becomes; a rule, so that Arrow's cache knows pairs that had another.
    """

    label_names: Sequence[str]
    labelled: bool
    class_names: Sequence[str] | None = None
    skip: bool = False
    columns: Columns = Columns()
    unlabelled: int = UNLABELLED


def checked(rows: Iterator[tuple[str, Any]], skipped: list[str], rules: RowRules) -> Iterator[dict[str, Any]]:
    """The rows that are pairs; the others are raised, or left out and put into `skipped`: the first one's error.

    The others are counted there as empty texts, since a file may have millions of them.
    """
    for where, record in rows:
        try:
            yield check_pair(where, record, rules)
        except BadRow as error:
            if not rules.skip:
                raise
            skipped.append("" if skipped else str(error))


def check_pair(where: str, record: Any, rules: RowRules) -> dict[str, Any]:
    """{sentence1, sentence2, label} out of one record, and its id, as JSON, where the record has one.

    sentence2 is None where a row has one sentence.

    Args:
        where: "file:line", for the error.

    Raises:
        BadRow: a key is missing or null, a sentence is empty or not text, or the label is no name, or no score.
    """
    if isinstance(record, BadRow):
        raise record
    columns = rules.columns
    if not isinstance(record, Mapping):
        wanted = ", ".join(columns.sentences)
        raise BadRow(f"{where}: an object with {wanted} and {columns.label} is expected, not {str(record)[:40]!r}")
    asked = columns.ids if len(columns.ids) == 1 and not rules.labelled else ()  # a name that was given
    missing = next((key for key in (*columns.sentences, *asked) if key not in record), None)
    if missing is not None:
        raise _missing(where, missing, record, columns)
    first, second = [*(sentence_of(where, key, record) for key in columns.sentences), None][:2]
    pair = {"sentence1": first, "sentence2": second, "label": _label(where, record, rules)}
    ids = [_as_json(record, key) for key in columns.ids if _is_id(record.get(key))]
    return pair | ({"id": ids[0]} if ids else {})


def _is_id(value: Any) -> bool:
    return (isinstance(value, (str, int)) and value != "") or (isinstance(value, float) and math.isfinite(value))


def _as_json(record: Mapping[str, Any], key: str) -> str:
    """An id; a whole number in a table, which has no other way to write one, is a number."""
    value = record[key]
    return value if isinstance(record, TableRow) and WHOLE.fullmatch(value) else json.dumps(value)


def label_names(source: str, class_names: Sequence[str] | None, args: DataArguments) -> list[str]:
    """The labels' names in the order of their ids: as given, or of the data's ClassLabel, or 0 and 1; or SCORE alone.

    Raises:
        UserError: a ClassLabel has a single name, or is to be a score.
    """
    if args.task_type == "regression":
        if class_names:
            told = f"{source} has the labels {' '.join(class_names)[:200]}"
            raise UserError(f"--task_type regression: {told}, which are classes; numbers are expected")
        return [SCORE]
    names = list(args.label_names or class_names or DEFAULT_NAMES)
    if len(names) == 1:
        raise UserError(f"{source}: its one label is {names[0]:.40}; at least two, or --task_type regression, expected")
    return names


def names_of_ids(source: str, class_names: Sequence[str], label_names: Sequence[str]) -> Sequence[str]:
    """What the ids of a ClassLabel stand for among `label_names`: its own names, or new names in the same order.

    Raises:
        UserError: some of its names are among `label_names` and others are not, or there are more or fewer.
    """
    if set(class_names) <= set(label_names) or set(label_names) <= set(class_names):
        return class_names
    if len(class_names) == len(label_names) and not set(class_names) & set(label_names):
        return label_names
    raise UserError(
        f"--label_names {' '.join(label_names)}: {source} has the labels {' '.join(class_names)[:200]}; "
        "these, or as many other names in the same order, are expected"
    )


def _missing(where: str, key: str, record: Mapping[str, Any], columns: Columns) -> BadRow:
    header = " (line 1 is read as the column names, unless --column_names gives them)" * isinstance(record, TableRow)
    if header and len(record) == 1:
        header = " (between the column names in line 1 a comma is expected in .csv, a tab in .tsv, or --delimiter)"
    skip = "" if header or key != columns.label else "; --on_bad_row skip leaves such rows out"
    way = way_to(key, record, columns) + skip
    return BadRow(f"{where}: no {key!r} among the keys {', '.join(map(str, record))[:80]}{header}{way}")


def _label(where: str, record: Mapping[str, Any], rules: RowRules) -> int | float:
    names, column, value = rules.label_names, rules.columns.label, record.get(rules.columns.label)
    if len(names) == 1:
        found: int | float | None = _score(value, isinstance(record, TableRow))
        expected, flag, none = _score_expected(value, isinstance(record, TableRow)), "--task_type regression", [""]
    else:
        name = _label_name(value, names, rules.class_names)
        found = names.index(name) if name in names else None
        expected = " or ".join(names) if len(names) < 6 else f"one of {len(names)} names"
        number = NUMBER if list(names) == list(DEFAULT_NAMES) else PARTIAL
        flag, none = "--label_names" + ", or --task_type regression" * bool(number.fullmatch(str(value))), ["-1", ""]
    if found is not None:
        return found
    if not rules.labelled and (value is None or str(value) in none):
        return rules.unlabelled if len(names) > 1 else float(rules.unlabelled)
    if column not in record:
        raise _missing(where, column, record, rules.columns)
    ways = f"{flag}; --on_bad_row skip leaves such rows out"
    raise BadRow(f"{where}: {column} is {value!r:.40}; {expected} is expected ({ways})")


def _score(value: Any, in_table: bool) -> float | None:
    """A number, or text that is one in a table, which has no other; None for any other, and what stands for no label.

    NaN, infinity and what squares to it are none.
    """
    if in_table and isinstance(value, str) and NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) <= LARGEST and value != UNLABELLED else None


def _score_expected(value: Any, in_table: bool) -> str:
    """What a score is, in words that tell why a value that looks like one is none."""
    why = ""
    if isinstance(value, str) and NUMBER.fullmatch(value.strip()):
        why = f", up to {LARGEST:g}," if in_table else ", without quotes,"
    elif isinstance(value, (int, float)) and abs(value) > LARGEST:
        why = f", up to {LARGEST:g},"
    return f"a number other than {UNLABELLED}{why}"


def _label_name(value: Any, label_names: Sequence[str], class_names: Sequence[str] | None) -> str:
    """The name that a label is given by: as text, as a number or truth value, or as an id; else an empty string."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if class_names is not None and whole:
        return class_names[value] if 0 <= value < len(class_names) else ""
    if isinstance(value, (bool, float)):  # as a CSV file would hold it; pandas and Arrow write True, JSON true
        return next((text for text in (json.dumps(value), str(value)) if text in label_names), "")
    if isinstance(value, (str, int)) and str(value) in label_names:
        return str(value)
    if whole and 0 <= value < len(label_names) and not any(map(_is_number, label_names)):
        return label_names[value]
    return ""


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True
