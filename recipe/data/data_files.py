"""Sentence pairs from files: checked and counted by one pass, then streamed or kept in Arrow, the same each time."""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from datasets.iterable_dataset import ExamplesIterable

from recipe.arguments import DataArguments
from recipe.data.pairs import RowRules, checked, label_names, names_of_ids
from recipe.data.splits import AnyDataset, Split, features_of, unit_of, writing_arrow
from recipe.errors import UserError
from recipe.process.progress import told_while_it_lasts
from recipe.rows.columns import Columns
from recipe.rows.forms import Form
from recipe.rows.readers import class_names, read_rows, with_quoting
from recipe.system.files import sha256_of

QUOTES = {
    "minimal": "quotes enclose fields (--csv_quoting none makes them text)",
    "none": "quotes are text (--csv_quoting minimal lets them enclose fields)",
}


class DataFile(NamedTuple):
    """A file as it was when the run began, and how it is read."""

    path: Path
    sha256: str
    form: Form
    ids: Sequence[str] | None  # what a label that is a whole number stands for
    state: tuple[int, ...] | None = None  # its size and times, which are cheaper to ask for than its bytes

    @classmethod
    def of(cls, path: Path, args: DataArguments) -> "DataFile":
        """The file at `path`, read whole."""
        try:
            state, sha256 = _state(path), sha256_of(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from error
        form = with_quoting(path, Form.of(path, args))
        names = class_names(path, form)
        ids = names_of_ids(str(path), names, args.label_names) if names and args.label_names else names
        return cls(path, sha256, form, tuple(ids) if ids else None, state)

    def check(self) -> None:
        """Check that the file is what it was.

        Raises:
            UserError: its bytes are others, or it is gone.
        """
        try:
            if (self.state is not None and self.state == _state(self.path)) or self.sha256 == sha256_of(self.path):
                return
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read any more: {error.strerror}") from error
        ways = "put the old file back and the same command goes on, or start over with --resume never"
        raise UserError(f"{self.path}: was changed while the run read it; {ways}")


def _state(path: Path) -> tuple[int, ...]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino


def open_files(args: DataArguments, paths: Sequence[Path], name: str, limit: int | None) -> Split:
    """The split that `paths` hold, at most `limit` pairs of it; what stands behind those is not read.

    Raises:
        UserError: a file cannot be read, or a row is not a pair (under --on_bad_row error).
    """
    source = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    with told_while_it_lasts(f"reading {source}"):
        return _open_files(args, paths, name, limit, source)


def _open_files(args: DataArguments, paths: Sequence[Path], name: str, limit: int | None, source: str) -> Split:
    files = [DataFile.of(path, args) for path in paths]
    names = label_names(str(files[0].path), files[0].ids, args)
    for file in files:
        names_of_ids(str(file.path), file.ids or names, names)
    rules = RowRules(tuple(names), name != "test", skip=args.on_bad_row == "skip", columns=Columns.of(args))
    skipped: list[str] = []
    found = _file_pairs(files, rules, limit, skipped)  # before Arrow is written, so that errors keep their line
    rows = sum(1 for _ in found)
    behind = None if limit is None or rows < limit else limit  # there may be more than that
    pairs = _stream(files, rules, behind) if args.streaming else _in_arrow(files, rules, behind)
    shards = len(files) if args.streaming and behind is None else 1
    fingerprint = files[0].sha256
    if len(files) > 1:
        fingerprint = hashlib.sha256("\n".join(file.sha256 for file in files).encode()).hexdigest()
    notes = [] if args.csv_quoting != "auto" else _quotes(files)
    return Split(name, source, pairs, rows, names, fingerprint, skipped, shards, notes, unit_of(args))


def _quotes(files: list[DataFile]) -> list[str]:
    """What quotes were taken for by a file's own content, so that it may differ from file to file."""
    kinds = {file.form.quoting: file for file in files if len(file.form.delimiter) == 1 and file.form.delimiter != ","}
    return [f"{file.path.name}: {QUOTES[kind]}" for kind, file in kinds.items() if kind]


def _stream(files: list[DataFile], rules: RowRules, limit: int | None) -> AnyDataset:
    """The pairs, read anew in each pass.

    Made as IterableDataset.from_generator makes it, but for the cache folder that that writes into HOME, which may be
    read-only. A list among the arguments is taken for shards, as the files are meant to be where all is read.
    """
    read: Sequence[DataFile] = files if limit is None else tuple(files)
    return datasets.IterableDataset(ExamplesIterable(_numbered, {"files": read, "rules": rules, "limit": limit}))


def _in_arrow(files: list[DataFile], rules: RowRules, limit: int | None) -> AnyDataset:
    """The pairs in Arrow's cache, found there by the bytes of the files and by how they are read."""
    kept = tuple(file._replace(state=None) for file in files)
    with writing_arrow():
        return datasets.Dataset.from_generator(
            _file_pairs,
            features=features_of(rules.label_names),
            gen_kwargs={"files": kept, "rules": rules, "limit": limit},
        )


def _numbered(**arguments: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    yield from enumerate(_file_pairs(**arguments))


def _file_pairs(
    files: Sequence[DataFile], rules: RowRules, limit: int | None = None, skipped: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    """The pairs of `files`, each with an id; `skipped` takes what was left out."""

    def every() -> Iterator[dict[str, Any]]:
        """Without a limit."""
        for file in files:
            file.check()
            rows = read_rows(file.path, file.form)
            yield from checked(rows, [] if skipped is None else skipped, rules._replace(class_names=file.ids))
            file.check()

    yield from ({"id": None, **pair} for pair in islice(every(), limit))
