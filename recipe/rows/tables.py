"""CSV and TSV: a header, rows, and whether quotes enclose fields, which a file's own content decides."""

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recipe.errors import BadRow, UserError
from recipe.rows.columns import is_header, offer
from recipe.rows.forms import Form

# A field as a writer encloses it (QUOTE_MINIMAL, QUOTE_ALL, Excel): the quotes inside are doubled.
ENCLOSED = re.compile(r'"[^"]*(?:""[^"]*)*"')
UNIT = "\x1f"  # ASCII's own separator, which no text has
LONGEST_FIELD = 1 << 24  # characters; csv's own limit is shorter than a sentence may be


class TableRow(dict):
    """A row under the names of its columns."""


def table_rows(path: Path, lines: Iterable[str], form: Form) -> Iterator[tuple[str, Any]]:
    """The rows as ("file:line", TableRow), or a BadRow where fields are missing or too many.

    Line 1 names the columns unless the form does, and rows without any text at the end of the file, which Excel leaves
    of emptied ones, do not count.

    Raises:
        UserError: a quote is never closed, or a column stands twice.
    """
    header: list[str] = []
    empty: list[tuple[str, list[str]]] = []
    for where, fields in _fields(path, lines, form):
        if not header:
            header = _header(where, fields, form)
            if not form.names:
                continue
        if not any(fields):
            empty.append((where, fields))
        else:
            for place, row in [*empty, (where, fields)]:
                yield place, _row(place, header, row)
            empty = []


def _fields(path: Path, lines: Iterable[str], form: Form) -> Iterator[tuple[str, list[str]]]:
    """Each row's place and fields."""
    quoted, delimiter = form.quoting == "minimal", form.delimiter
    if len(delimiter) > 1:  # csv takes one character
        lines, delimiter = (line.replace(form.delimiter, UNIT) for line in lines), UNIT
    quoting: dict[str, Any] = {"strict": True} if quoted else {"quoting": csv.QUOTE_NONE}
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(lines, delimiter=delimiter, **quoting)
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            kind, way = ("TSV" if delimiter == "\t" else "CSV"), " (--csv_quoting none: a quote is text)" * quoted
            if str(error).startswith("new-line character"):  # csv's advice is for who opened the file
                error, way = csv.Error("a carriage return alone; lines that end in a line feed are expected"), ""
            raise UserError(f"{path}:{start}: not a {kind} row: {error}{way}") from error
        if fields:  # an empty line is no row
            yield f"{path}:{start}", fields


def _header(where: str, fields: list[str], form: Form) -> list[str]:
    """The columns' names; those that were given, without the label where the first row has one field less."""
    if not form.names:
        return checked_header(where, fields)
    unlabelled = [name for name in form.names if name != form.columns.label]
    if is_header(fields) or _are(fields, form.names) or _are(fields, unlabelled):
        told = offer(fields, form.columns) or "; they are read as the flags name them"
        raise UserError(f"{where}: line 1 is a header: leave --column_names {','.join(form.names)} out{told}")
    return unlabelled if len(fields) == len(unlabelled) else list(form.names)


def _are(fields: Sequence[str], names: Sequence[str]) -> bool:
    """Whether each field is the name that was given for its column, in quotes or not."""
    pairs = list(zip(fields, names, strict=False))
    return len(fields) == len(names) and all(field.strip(' "') == name for field, name in pairs if name)


def _row(where: str, header: list[str], fields: list[str]) -> TableRow | BadRow:
    if len(fields) != len(header):
        way = " (--delimiter says what stands between them)" if len(fields) == 1 else ""
        return BadRow(f"{where}: {len(fields)} fields under {len(header)} column names: {fields[0][:40]!r}{way}")
    return TableRow(zip(header, fields, strict=True))


def checked_header(where: str, names: list[str]) -> list[str]:
    """The column names.

    Raises:
        UserError: one stands twice, as it may where line 1 is no header.
    """
    named = list(filter(None, names))  # Excel keeps columns that were emptied, without a name
    name, count = Counter(named).most_common(1)[0] if named else ("", 0)
    if count > 1:
        expected = "each column name once is expected (line 1 is read as them, unless --column_names gives them)"
        raise UserError(f"{where}: the column {name!r:.40} stands twice; {expected}")
    return names


class _Survey(NamedTuple):
    """What a table's lines say of its quotes, each line being taken for a row."""

    quotes: bool  # whether there are any
    header: bool  # whether line 1 encloses a column name
    text: int  # fields with a quote that no writer would have left so
    needed: int  # enclosed fields that hold what a writer encloses a field for
    uneven: int  # rows with fewer or more fields than line 1


def quotes_enclose(read_lines: Callable[[], Iterable[str]], form: Form) -> bool | None:
    """Whether a table's quotes enclose fields; None where it has no quotes. One pass over all of it, or two.

    pandas, Excel and R enclose a field that holds a quote, a tab or a line's end (Excel: or a comma), and double the
    quotes in it; CLUE's and LCQMC's files never do. So one quote that is neither at an end of its field nor doubled
    says that quotes are text, and so does a file where no enclosed field had to be. Where rows have other fields than
    the header's, which a tab or a line's end in an enclosed field looks like, the reading with fewer of them is right.
    """
    seen = _survey(read_lines(), form.delimiter)
    if not seen.quotes:
        return None
    if seen.uneven:
        try:
            rows = table_rows(Path("file"), read_lines(), form._replace(quoting="minimal"))
            uneven = sum(isinstance(row, BadRow) for _, row in rows)
        except UserError:
            return False
        if uneven != seen.uneven:
            return uneven < seen.uneven
    return not seen.text and ((seen.header and not form.names) or seen.needed > 0)


def _survey(lines: Iterable[str], delimiter: str) -> _Survey:
    columns, header, quotes, text, needed, uneven = 0, False, False, 0, 0, 0
    for line in lines:
        line = line.rstrip("\r\n")
        fields = line.split(delimiter) if '"' in line else []
        if not columns:
            columns, header = line.count(delimiter) + 1, any(map(ENCLOSED.fullmatch, fields))
        uneven += bool(line) and line.count(delimiter) + 1 != columns
        quotes = quotes or bool(fields)
        for field in fields:
            enclosed = ENCLOSED.fullmatch(field)
            text += '"' in field and not enclosed
            needed += bool(enclosed) and ('"' in field[1:-1] or "," in field)
    return _Survey(quotes, header, text, needed, uneven)
