"""Sentence pairs from a data set on the Hub, or from the copy of it that an earlier run has prepared."""

import errno
import hashlib
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any

import datasets
import pyarrow
from datasets.packaged_modules.cache.cache import Cache

from recipe.arguments import DataArguments
from recipe.data.pairs import RowRules, checked, label_names, names_of_ids
from recipe.data.splits import AnyDataset, Split, features_of, unit_of, writing_arrow
from recipe.errors import UserError
from recipe.process.progress import told_while_it_lasts
from recipe.rows.columns import Columns, offer
from recipe.system.hub import patiently, refusal, require_hub

UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT)


def open_hub(args: DataArguments, name: str, limit: int | None) -> Split:
    """The split `name` of the data set, at most `limit` pairs of it; its rows are counted from its metadata, if it may.

    Raises:
        UserError: there is no such data, it cannot be reached, or a row is not a pair (under --on_bad_row error).
    """
    source = " ".join(filter(None, [args.dataset_name, args.dataset_config_name, name]))
    rows, fingerprint = _load(args, name)
    columns = Columns.of(args)
    feature = (rows.features or {}).get(columns.label)
    classes: Sequence[str] | None = list(feature.names) if isinstance(feature, datasets.ClassLabel) else None
    names = label_names(source, classes, args)
    classes = names_of_ids(source, classes, names) if classes else None
    rules = RowRules(names, name != "test", classes, args.on_bad_row == "skip", columns)
    known = (rows.info.splits or {}).get(name)
    skipped: list[str] = []
    if known is not None and known.num_examples and not rules.skip:
        count = min(known.num_examples, known.num_examples if limit is None else limit)
    else:
        numbered = ((f"{source} row {number}", row) for number, row in enumerate(iter(rows), 1))
        with told_while_it_lasts(f"reading {source}"):
            count = sum(1 for _ in islice(checked(numbered, skipped, rules), limit))
    shards = _shards(args, rows)
    if count == limit and not rules.skip:  # what is behind them is not read; of several shards each would be cut
        rows, shards = rows.take(count), 1
    pairs = _pairs(rows, source, rules)
    if count == limit and rules.skip:  # which among them are left out is not known before
        pairs, shards = pairs.take(count), 1
    return Split(name, source, pairs, count, names, fingerprint, skipped, shards, unit=unit_of(args))


def _shards(args: DataArguments, rows: AnyDataset) -> int:
    return rows.num_shards if args.streaming else 1


def _pairs(rows: AnyDataset, source: str, rules: RowRules) -> AnyDataset:
    to_pairs = partial(_to_pairs, source=source, rules=rules)
    options: dict[str, Any] = {"batched": True, "with_indices": True, "remove_columns": rows.column_names}
    if isinstance(rows, datasets.IterableDataset):
        return rows.map(to_pairs, **options)
    with writing_arrow():
        return rows.map(to_pairs, features=features_of(rules.label_names), **options)


def _load(args: DataArguments, name: str) -> tuple[AnyDataset, str]:
    flag = f"--dataset_name {args.dataset_name}"
    # Parquet that pyarrow reads through a Python file may keep the interpreter from ending (apache/arrow#50482)
    pyarrow.set_cpu_count(1)
    copy = _prepared(args)
    online = require_hub("--dataset_name", args.dataset_name, "dataset", cached=copy is not None)
    try:
        builder: Any = patiently(lambda: _builder(args)) if online else copy
        if not args.streaming:
            patiently(builder.download_and_prepare)
        rows = builder.as_streaming_dataset(split=name) if args.streaming else builder.as_dataset(split=name)
    except Exception as error:  # DatasetNotFoundError, ValueError, FileNotFoundError, ...: each says what is missing
        _refuse_unwritable(args, error)
        if "BuilderConfig" in str(error):
            flag = f"--dataset_config_name {args.dataset_config_name}, of {args.dataset_name} ('' names none)"
        problem = refusal(error) or " ".join(str(error).split())[:200].rstrip(".") + _way_out(args, str(error))
        raise UserError(f"{flag}: {problem}") from error
    columns = Columns.of(args)
    missing = set(columns.sentences) - set(rows.column_names or columns.sentences)
    if missing:
        there = rows.column_names
        raise UserError(f"{flag}: no column {sorted(missing)[0]!r}; it has {', '.join(there)}{offer(there, columns)}")
    # the revision, which the Hub and a copy of it have in common
    said = [builder.hash or str((builder.config.data_files or {}).get(name)), builder.config.name, name]
    return rows, hashlib.sha256("\n".join(said).encode()).hexdigest()


def _way_out(args: DataArguments, problem: str) -> str:
    """How data that are on the Hub, and not in a form that is read from there, are used all the same."""
    files = f"hf download {args.dataset_name} --repo-type dataset --local-dir FOLDER"
    if problem.startswith(("Unknown split", "Bad split")):
        return f"; files that {files} brings are read by --train_file, and divided by make check-data SPLIT=0.1"
    if problem.startswith("Dataset scripts"):
        return f"; files that {files} brings, or that its script names, are read by --data_dir or --train_file"
    return ""


def _builder(args: DataArguments) -> datasets.DatasetBuilder:
    return datasets.load_dataset_builder(args.dataset_name, args.dataset_config_name or None)


def _prepared(args: DataArguments) -> Cache | None:
    """The newest copy that --no_streaming has left in Arrow's cache: what `load_dataset` falls back to offline.

    Asked for by itself, since `load_dataset` first tries for most of a minute to reach the Hub.

    Raises:
        UserError: it lies where nothing can be written, where `datasets`, which locks what it reads, reads nothing.
    """
    try:
        return Cache(
            repo_id=args.dataset_name,
            dataset_name=args.dataset_name.split("/")[-1],
            config_name=args.dataset_config_name or None,
            version="auto",
            hash="auto",
        )
    except (OSError, ValueError, KeyError) as error:  # it is missing, or damaged
        _refuse_unwritable(args, error)
        return None


def _refuse_unwritable(args: DataArguments, error: Exception) -> None:
    """Say what to do where `datasets`, which writes there also what it streams, cannot write; nothing of others.

    Raises:
        UserError: it cannot.
    """
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        raise UserError(
            f"--dataset_name {args.dataset_name}: {datasets.config.HF_DATASETS_CACHE} cannot be written "
            f"({error.strerror}), where datasets keeps a lock; name another folder, or a copy of it, with HF_HOME"
        ) from error


def _to_pairs(
    batch: dict[str, list[Any]], indices: Sequence[int], *, source: str, rules: RowRules
) -> dict[str, list[Any]]:
    columns = list(batch)
    records = [dict(zip(columns, values, strict=True)) for values in zip(*batch.values(), strict=True)]
    numbered = ((f"{source} row {index + 1}", record) for index, record in zip(indices, records, strict=True))
    pairs = [{"id": None, **pair} for pair in checked(numbered, [], rules)]
    return {key: [pair[key] for pair in pairs] for key in features_of(rules.label_names)}
