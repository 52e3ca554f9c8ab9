"""Rows out of JSON, CSV, TSV and Parquet files, each with its file:line; what is no row is an error that says so."""

import csv
import glob
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from recipe.errors import UserError

SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
SPLITS = {"train": ("train",), "validation": ("validation", "dev"), "test": ("test",)}


class BadRow(UserError):
    """One row that is no sentence pair; `--on_bad_row skip` leaves it out."""


def find_split(folder: Path, split: str) -> list[Path]:
    """The files of `split` in `folder`, under any of its names and suffixes: one, or shards (train-*.json) in order.

    Raises:
        UserError: the folder does not exist, or holds the split twice.
    """
    if not folder.is_dir():
        raise UserError(f"--data_dir {folder}: no such folder; a folder with train and validation files is expected")
    stems = [(name, suffix + zipped) for name in SPLITS[split] for suffix in SUFFIXES for zipped in ("", ".gz")]
    found = [[folder / (name + suffix)] for name, suffix in stems if (folder / (name + suffix)).is_file()]
    found += filter(None, (sorted(folder.glob(f"{name}-*{suffix}")) for name, suffix in stems))
    if len(found) > 1:
        both = " and ".join(paths[0].name for paths in found)
        raise UserError(f"--data_dir {folder}: {both} both hold the {split} split; name one with --{split}_file")
    return found[0] if found else []


def named_files(flag: str, value: str) -> list[Path]:
    """The file that `value` names, or the files that it matches, in order.

    Raises:
        UserError: there is none.
    """
    found = [Path(value)] if Path(value).is_file() else [Path(path) for path in sorted(glob.glob(value))]
    if not found or not all(path.is_file() for path in found):
        raise UserError(f"{flag} {value}: no such file; a file, or a pattern like 'train-*.jsonl', is expected")
    return found


def read_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """The records of a file as ("file:line", record); a record that cannot be read is given as a BadRow.

    Raises:
        UserError: the file is missing, of an unknown kind, or broken beyond one row.
    """
    suffix = Path(path.name.removesuffix(".gz")).suffix
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: a file ending in {', '.join(SUFFIXES)}, plain or .gz, is expected")
    try:
        with _open(path) as file:
            if suffix == ".parquet":
                yield from _parquet_rows(path, file)
            elif suffix in (".csv", ".tsv"):
                yield from _table_rows(path, file, tabs=suffix == ".tsv")
            else:
                yield from _json_rows(path, file)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.name.endswith(".gz") else open(path, "rb")


def _decoded(path: Path, file: IO[bytes]) -> Iterator[tuple[str, str | BadRow]]:
    for number, line in enumerate(file, 1):
        where = f"{path}:{number}"
        try:
            yield where, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            yield where, BadRow(f"{where}: byte {error.start + 1} is not UTF-8")


def _json_rows(path: Path, file: IO[bytes]) -> Iterator[tuple[str, Any]]:
    for where, line in _decoded(path, file):
        if isinstance(line, BadRow):
            yield where, line
        elif where.endswith(":1") and line.lstrip().startswith("["):
            yield from _json_array(path, line + file.read().decode("utf-8", errors="surrogateescape"))
            return
        elif line.strip():
            try:
                yield where, json.loads(line.rstrip("\r\n"), object_pairs_hook=_unique)
            except (ValueError, RecursionError) as error:
                yield where, BadRow(f"{where}: not JSON: {getattr(error, 'msg', error)}: {line.strip()[:60]!r}")


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; of a key given twice, json.loads would keep the last value without a word."""
    record = dict(items)
    if len(record) < len(items):
        keys = [key for key, _ in items]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r:.40} stands twice in it")
    return record


def _json_array(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    try:
        records = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        message = f"not JSON: {getattr(error, 'msg', error)}; one object a line is the usual form"
        raise UserError(f"{path}:{getattr(error, 'lineno', 1)}: {message}") from error
    for number, record in enumerate(records, 1):
        yield f"{path} row {number}", record


def _table_rows(path: Path, file: IO[bytes], tabs: bool) -> Iterator[tuple[str, Any]]:
    """CSV with quotes, or TSV without them (a tab ends a field, a quote is a character); line 1 names the columns."""
    lines = (_raise_if_bad(line) for _, line in _decoded(path, file))
    quoting: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {"strict": True}
    reader = csv.reader(lines, **quoting)
    header: list[str] = []
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(f"{path}:{start}: not a {'TSV' if tabs else 'CSV'} row: {error}") from error
        where = f"{path}:{start}"
        if not header:
            header = _checked_header(where, fields)
        elif fields and len(fields) != len(header):
            yield where, BadRow(f"{where}: {len(fields)} fields under {len(header)} column names: {fields[0][:40]!r}")
        elif fields:
            yield where, dict(zip(header, fields, strict=True))


def _checked_header(where: str, names: list[str]) -> list[str]:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"{where}: the column {twice[0]!r:.40} stands twice; each column name once is expected")
    return names


def _raise_if_bad(line: str | BadRow) -> str:
    """A table's line; a line that is not text leaves no telling where its row would have ended."""
    if isinstance(line, BadRow):
        raise UserError(str(line))
    return line


def _parquet_rows(path: Path, file: IO[bytes]) -> Iterator[tuple[str, Any]]:
    from pyarrow import parquet

    number = 0
    try:
        table = parquet.ParquetFile(io.BytesIO(file.read()) if path.name.endswith(".gz") else path)
        names = _checked_header(str(path), table.schema_arrow.names)
        wanted = [name for name in names if name in ("sentence1", "sentence2", "label")]
        for batch in table.iter_batches(batch_size=1024, columns=wanted):
            for record in batch.to_pylist():
                number += 1
                yield f"{path} row {number}", record
    except UserError:
        raise
    except Exception as error:  # a damaged file meets whatever pyarrow was doing there
        reason = " ".join(str(error).split())[:80]
        raise UserError(f"{path}: not a Parquet file, or damaged after row {number}: {reason}") from error
