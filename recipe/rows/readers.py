"""Rows out of JSON, CSV, TSV and Parquet files, each with its file:line; what is no row is an error that says so."""

import contextlib
import gzip
import io
import json
import shlex
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from recipe.errors import BadRow, UserError
from recipe.rows.columns import Columns
from recipe.rows.forms import Form
from recipe.rows.json_rows import DECODER, LONGEST_RECORD, array_rows, begins_array
from recipe.rows.tables import checked_header, quotes_enclose, table_rows

UTF16 = "UTF-16, as Excel saves Unicode text: iconv -f UTF-16 -t UTF-8 makes UTF-8 of it"
# What a file that is not UTF-8 may be, by its first bytes.
MAGIC = {b"\xff\xfe": UTF16, b"\xfe\xff": UTF16, b"\x1f\x8b": "zipped: the name of such a file ends in .gz"}
MAGIC |= {b"PK": "an Excel file or a zip: in Excel save it as CSV UTF-8", b"PAR1": "Parquet: name it .parquet"}
MAGIC |= {b"": "GBK: iconv -f GB18030 -t UTF-8 makes UTF-8 of it"}


def read_rows(path: Path, form: Form) -> Iterator[tuple[str, Any]]:
    """The records of a file as ("file:line", record); a record that cannot be read is given as a BadRow.

    Raises:
        UserError: the file is missing, or broken beyond one row.
    """
    with _reading(path, form) as file:
        if form.kind == "parquet":
            yield from _parquet_rows(path, file, form.columns)
        elif form.kind == "json":
            yield from _json_rows(path, file)
        else:
            lines = (_raise_if_bad(line) for _, line in _decoded(path, file))
            yield from table_rows(path, lines, form)


def with_quoting(path: Path, form: Form) -> Form:
    """The form with a quoting that is not known decided by the file's own fields; empty where it has no quotes."""
    if form.quoting != "auto":
        return form

    def lines() -> Iterator[str]:
        """A pass over the file."""
        with _reading(path, form) as file:
            yield from (line for _, line in _decoded(path, file) if isinstance(line, str))

    return form._replace(quoting={True: "minimal", False: "none", None: ""}[quotes_enclose(lines, form)])


def class_names(path: Path, form: Form) -> list[str] | None:
    """What the whole numbers in a Parquet file's label column stand for, where datasets has written that into it."""
    if form.kind != "parquet":
        return None
    from pyarrow import ArrowException, parquet

    with _reading(path, form) as file, contextlib.suppress(ArrowException, ValueError, KeyError, TypeError):
        told = json.loads(parquet.read_schema(file).metadata[b"huggingface"])["info"]["features"][form.columns.label]
        if told.get("_type") == "ClassLabel":
            return list(map(str, told["names"]))
    return None


@contextlib.contextmanager
def _reading(path: Path, form: Form) -> Iterator[IO[bytes]]:
    """The file's bytes, unzipped; a zipped Parquet file, which is read from its end, by way of the disk.

    Raises:
        UserError: (also while they are read) they cannot be.
    """
    try:
        with contextlib.ExitStack() as stack:
            if not path.name.endswith(".gz"):
                yield stack.enter_context(open(path, "rb"))
                return
            file = cast(IO[bytes], stack.enter_context(gzip.GzipFile(path)))
            if form.kind == "parquet":
                plain = stack.enter_context(tempfile.TemporaryFile())
                shutil.copyfileobj(file, plain, 1 << 20)
                file = plain
            yield file
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _decoded(path: Path, file: IO[bytes]) -> Iterator[tuple[str, str | BadRow]]:
    number = 0
    while line := file.readline(LONGEST_RECORD):
        number += 1
        where = f"{path}:{number}"
        if len(line) == LONGEST_RECORD and not line.endswith(b"\n"):
            while not line.endswith(b"\n") and (line := file.readline(1 << 20)):
                pass
            yield where, BadRow(f"{where}: the line has more than {LONGEST_RECORD:,} bytes, which no sentence pair has")
            continue
        try:
            yield where, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            yield where, BadRow(f"{where}: byte {error.start + 1} is not UTF-8; {_what_it_is(path, line, number)}")


def _what_it_is(path: Path, line: bytes, number: int) -> str:
    """What a line that is not UTF-8 may be instead, and what to make of it."""
    told = next((told for start, told in MAGIC.items() if number == 1 and line.startswith(start)), MAGIC[b""])
    into = f" {shlex.quote(str(path))} > {shlex.quote(f'utf8-{path.name}')}" if path.suffix != ".gz" else ""
    return f"the file may be {told.replace(' makes', f'{into} makes')}"


def _json_rows(path: Path, file: IO[bytes]) -> Iterator[tuple[str, Any]]:
    if begins_array(cast(io.BufferedReader, file).peek(64)):
        yield from array_rows(path, file)
        return
    for where, line in _decoded(path, file):
        if isinstance(line, BadRow):
            yield where, line
        elif line.strip():
            try:
                yield where, DECODER.decode(line.rstrip("\r\n"))
            except (ValueError, RecursionError) as error:
                yield where, BadRow(f"{where}: not JSON: {getattr(error, 'msg', error)}: {line.strip()[:60]!r}")


def _raise_if_bad(line: str | BadRow) -> str:
    """A table's line; a line that is not text leaves no telling where its row would have ended."""
    if isinstance(line, BadRow):
        raise UserError(str(line))
    return line


def _parquet_rows(path: Path, file: IO[bytes], columns: Columns) -> Iterator[tuple[str, Any]]:
    from pyarrow import parquet

    number = 0
    try:
        table = parquet.ParquetFile(file)
        names = checked_header(str(path), table.schema_arrow.names)
        wanted = [name for name in names if name in (*columns.sentences, columns.label, *columns.ids)]
        if not set(columns.sentences) <= set(wanted):  # an error that lists all of them
            wanted = names
        # pyarrow's threads over a file of Python's can hang the exit (apache/arrow issue 50482)
        for batch in table.iter_batches(batch_size=1024, columns=wanted, use_threads=False):
            for record in batch.to_pylist():
                number += 1
                yield f"{path} row {number}", record
    except UserError:
        raise
    except Exception as error:  # a damaged file meets whatever pyarrow was doing there
        reason = " ".join(str(error).split())[:80]
        raise UserError(f"{path}: not a Parquet file, or damaged after row {number}: {reason}") from error
