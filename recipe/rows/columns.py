"""What the columns of a row are called: as the flags say, and in published data sets, which errors offer."""

import shlex
from collections.abc import Iterable
from typing import NamedTuple

from recipe.arguments import DataArguments
from recipe.errors import UserError

SENTENCES = (
    *(("sentence1", "sentence2"), ("text_a", "text_b"), ("text1", "text2"), ("query1", "query2")),
    *(("question1", "question2"), ("premise", "hypothesis"), ("premise", "hypo"), ("q1", "q2"), ("s1", "s2")),
    *(("sent1", "sent2"), ("seq1", "seq2"), ("query", "title"), ("#1 String", "#2 String")),
    *(("sentence",), ("text",), ("content",)),
)
LABELS = ("label", "gold_label", "labels", "is_duplicate", "Quality", "score")


class Columns(NamedTuple):
    """Where in a row a pair is: one or two sentences, a label, and an id, under the first name that it has."""

    sentences: tuple[str, ...] = ("sentence1", "sentence2")
    label: str = "label"
    ids: tuple[str, ...] = ("id", "idx")

    @classmethod
    def of(cls, args: DataArguments) -> "Columns":
        """As the flags name them."""
        return cls(
            tuple(listed(args.text_column_names)),
            args.label_column_name,
            (args.id_column_name,) if args.id_column_name else ("id", "idx"),
        )


def is_header(fields: Iterable[str]) -> bool:
    """Whether a row has two names of SENTENCES in it, which no pair of sentences is."""
    return any(len(each) == 2 and set(fields).issuperset(each) for each in SENTENCES)


def offer(names: Iterable[str], columns: Columns) -> str:
    """The flags that read columns of such names, as the end of an error; nothing where none but `columns` is known."""
    there = set(names)
    sentences = next((each for each in (columns.sentences, *SENTENCES) if there.issuperset(each)), None)
    label = next((name for name in (columns.label, *LABELS) if name in there), None)
    if sentences is None or (sentences == columns.sentences and label in (None, columns.label)):
        return ""
    flags = f"--text_column_names {shlex.quote(','.join(sentences))}"
    flags += f" --label_column_name {shlex.quote(label)}" if label not in ("label", None) else ""
    return f"; columns {', '.join([*sentences, *([label] if label else [])])}: give {flags}"


def way_to(key: str, names: Iterable[str], columns: Columns) -> str:
    """What to do about a row with such names that lacks `key`, one of `columns`, as the end of an error."""
    if key in columns.sentences:
        comma = (
            ", which takes a comma between names, not '，'" if "，" in key else " says which columns hold a sentence"
        )
        return offer(names, columns) or f"; --text_column_names{comma}"
    if key == columns.label:
        return offer(names, columns) or "; --label_column_name says which column holds the label"
    return "; --id_column_name says which column names a row, --id_column_name '' that none does"


def check_columns(data: DataArguments) -> None:
    """Check that the flags which name columns, and say what stands between them, fit each other.

    Raises:
        UserError: they do not.
    """
    sentences, names = listed(data.text_column_names), listed(data.column_names)
    given = f"--text_column_names {data.text_column_names}"
    if not all(sentences) or len(sentences) not in (1, 2) or len(set(sentences)) < len(sentences):
        raise UserError(f"{given}: two columns with a comma between, or one of single sentences, are expected")
    if data.label_column_name in sentences:
        raise UserError(f"--label_column_name {data.label_column_name}: a sentence is there, by {given}")
    missing = [name for name in sentences if name not in names]
    if names and missing:
        raise UserError(
            f"--column_names {data.column_names}: no {missing[0]!r} among them, which holds a sentence by {given}"
            f"{offer(names, Columns.of(data)) or '; --text_column_names says which columns do'}"
        )
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"--column_names {data.column_names}: {twice!r} stands twice; each name once is expected")
    if data.delimiter is not None and (not data.delimiter or set(data.delimiter) & set('"\r\n')):
        raise UserError(f"--delimiter {data.delimiter!r}: 'tab', a character or a few (no quote) are expected")


def listed(names: str | None) -> list[str]:
    """A flag's comma-separated names."""
    return [name.strip() for name in names.split(",")] if names else []
