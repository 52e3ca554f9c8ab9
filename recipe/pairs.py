"""What a sentence pair is: every record is checked, and one that is none is an error with its place."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from recipe.readers import BadRow

UNLABELLED = -1
HALF = re.compile("[\ud800-\udfff]")


def checked(
    rows: Iterator[tuple[str, Any]], skipped: list[str], *, label_names: Sequence[str], labelled: bool, skip: bool
) -> Iterator[dict[str, Any]]:
    """The rows that are pairs; the others are raised, or left out and their errors put into `skipped`."""
    for where, record in rows:
        try:
            yield check_pair(where, record, label_names, labelled)
        except BadRow as error:
            if not skip:
                raise
            skipped.append(str(error))


def check_pair(where: str, record: Any, label_names: Sequence[str], labelled: bool) -> dict[str, Any]:
    """{sentence1, sentence2, label} out of one record.

    Args:
        where: "file:line", for the error.
        label_names: a label is one of these names (0 for "0" will do), or an id where the names are no numbers.
        labelled: whether the label must be there; where it need not, null and -1 mean UNLABELLED.

    Raises:
        BadRow: a key is missing or null, a sentence is empty or not text, or the label is none of the names.
    """
    if isinstance(record, BadRow):
        raise record
    if not isinstance(record, Mapping):
        raise BadRow(f"{where}: an object with sentence1, sentence2 and label is expected, not {str(record)[:40]!r}")
    pair: dict[str, Any] = {key: _sentence(where, key, record) for key in ("sentence1", "sentence2")}
    pair["label"] = _label_id(where, record, label_names, labelled)
    return pair


def _sentence(where: str, key: str, record: Mapping[str, Any]) -> str:
    if key not in record:
        raise BadRow(f"{where}: no {key!r} among the keys {', '.join(map(str, record))[:80]}")
    value = record[key]
    if not isinstance(value, str):
        raise BadRow(f"{where}: {key} is {value!r:.40}; a string is expected")
    if not value.strip():
        raise BadRow(f"{where}: {key} is empty")
    if HALF.search(value):
        raise BadRow(f"{where}: {key} holds half a character (a lone surrogate): {value!r:.40}")
    return value


def _label_id(where: str, record: Mapping[str, Any], label_names: Sequence[str], labelled: bool) -> int:
    value = record.get("label")
    if not labelled and (value is None or str(value) in ("-1", "")):
        return UNLABELLED
    if "label" not in record:
        raise BadRow(f"{where}: no 'label' among the keys {', '.join(map(str, record))[:80]}")
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        if str(value) in label_names:
            return label_names.index(str(value))
        if isinstance(value, int) and 0 <= value < len(label_names) and not all(name.isdigit() for name in label_names):
            return value
    expected = " or ".join(label_names) if len(label_names) < 6 else f"one of {len(label_names)} names"
    raise BadRow(f"{where}: label is {value!r:.40}; {expected} is expected (--label_names)")
