"""Sentence pairs from the Hub or from files: checked row by row, tokenised by `map`, streamed or kept in Arrow."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import datasets
from transformers import PreTrainedTokenizerBase

from recipe.arguments import DataArguments
from recipe.durable import sha256_of
from recipe.errors import UserError
from recipe.hub import require_hub
from recipe.pairs import checked
from recipe.readers import find_split, named_files, read_rows

Examples: TypeAlias = Any  # datasets.IterableDataset when streaming, datasets.Dataset in Arrow


@dataclass
class Split:
    """One split, opened: `pairs` has sentence1, sentence2 and label (an id, UNLABELLED where there is none)."""

    name: str
    source: str
    pairs: Examples
    rows: int
    label_names: list[str]
    fingerprint: str  # sha256 of its files, or of their names and revision on the Hub
    skipped: list[str] = field(default_factory=list)
    label_counts: Counter[int] = field(default_factory=Counter)
    shards: int = 1  # into how many parts `pairs` can be divided without reading it


def open_split(args: DataArguments, name: str) -> Split | None:
    """The split `name` (train, validation or test), its rows counted; None where files were named and none is for it.

    Rows are counted from the Hub's metadata, else by one pass that checks them all.

    Raises:
        UserError: there is no such data, it cannot be reached, or a row is no pair (under --on_bad_row error).
    """
    limit = {"train": args.max_train_samples, "validation": args.max_eval_samples}.get(name)
    paths = _split_paths(args, name)
    if paths:
        split = _open_files(args, paths, name)
    elif _reads_files(args):
        return None
    else:
        split = _open_hub(args, name)
    if limit is not None and limit < split.rows:  # a part of what was taken would be taken from each shard
        split.pairs, split.rows, split.label_counts = split.pairs.take(limit), limit, Counter()
    elif args.streaming:
        split.shards = split.pairs.num_shards
    return split


def _reads_files(args: DataArguments) -> bool:
    return any([args.data_dir, args.train_file, args.validation_file, args.test_file])


def _split_paths(args: DataArguments, name: str) -> list[Path]:
    named = getattr(args, f"{name}_file")
    if named is not None:
        return named_files(f"--{name}_file", named)
    return find_split(Path(args.data_dir), name) if args.data_dir else []


def require_split(args: DataArguments, name: str) -> Split:
    """`open_split`, where a missing or empty split is an error that names the files that would hold it."""
    split = open_split(args, name)
    if split is None:
        place = f"--data_dir {args.data_dir}: no {name} split in it" if args.data_dir else f"--{name}_file: not given"
        raise UserError(f"{place}; {name}.json (or .jsonl, .csv, .tsv, .parquet, plain or .gz) is expected")
    if split.rows == 0:
        raise UserError(f"{split.source}: no sentence pairs in it")
    return split


# ---- files ----


def _open_files(args: DataArguments, paths: list[Path], name: str) -> Split:
    names = args.label_names or ["0", "1"]
    check: dict[str, Any] = {"label_names": names, "labelled": name != "test", "skip": args.on_bad_row == "skip"}
    tally: Counter[int] = Counter()
    skipped: list[str] = []
    for path in paths:  # before Arrow is written, so that errors keep their line
        tally.update(pair["label"] for pair in checked(read_rows(path), skipped, **check))
    kind = datasets.IterableDataset if args.streaming else datasets.Dataset
    states = [path.stat() for path in paths]  # part of Arrow's cache key, so that an edited file is read again
    versions = tuple((state.st_size, state.st_mtime_ns) for state in states)
    # a list among a generator's arguments is taken for its shards, as the paths are meant to be
    read = {"paths": paths, "versions": versions, **check, "label_names": tuple(names)}
    pairs = kind.from_generator(_file_pairs, gen_kwargs=read)
    source = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    return Split(name, source, pairs, sum(tally.values()), names, _fingerprint(paths), skipped, tally)


def _fingerprint(paths: list[Path]) -> str:
    if len(paths) == 1:
        return sha256_of(paths[0])
    return hashlib.sha256("\n".join(map(sha256_of, paths)).encode()).hexdigest()


def _file_pairs(paths: list[Path], versions: Any, **check: Any) -> Iterator[dict[str, Any]]:
    for path in paths:
        yield from checked(read_rows(path), [], **check)


# ---- the Hub ----


def _open_hub(args: DataArguments, name: str) -> Split:
    require_hub("--dataset_name", args.dataset_name, "dataset")
    source = " ".join(filter(None, [args.dataset_name, args.dataset_config_name, name]))
    rows, fingerprint = _load_hub(args, name)
    feature = (rows.features or {}).get("label")
    names = args.label_names or (feature.names if isinstance(feature, datasets.ClassLabel) else ["0", "1"])
    check: dict[str, Any] = {"label_names": names, "labelled": name != "test", "skip": args.on_bad_row == "skip"}
    to_pairs = partial(_hub_pairs, source=source, **check)
    pairs = rows.map(to_pairs, batched=True, with_indices=True, remove_columns=rows.column_names)
    known = (rows.info.splits or {}).get(name)
    if known is not None and known.num_examples and args.on_bad_row == "error":
        return Split(name, source, pairs, known.num_examples, names, fingerprint)
    skipped: list[str] = []
    numbered = ((f"{source} row {number}", row) for number, row in enumerate(iter(rows), 1))
    tally = Counter(pair["label"] for pair in checked(numbered, skipped, **check))
    return Split(name, source, pairs, sum(tally.values()), names, fingerprint, skipped, tally)


def _load_hub(args: DataArguments, name: str) -> tuple[Examples, str]:
    flag = f"--dataset_name {args.dataset_name}"
    try:
        builder = datasets.load_dataset_builder(args.dataset_name, args.dataset_config_name or None)
        if not args.streaming:
            builder.download_and_prepare()
        rows = builder.as_streaming_dataset(split=name) if args.streaming else builder.as_dataset(split=name)
    except Exception as error:  # DatasetNotFoundError, ValueError, FileNotFoundError, ...: each says what is missing
        raise UserError(f"{flag}: {' '.join(str(error).split())[:200]}") from error
    missing = {"sentence1", "sentence2"} - set(rows.column_names or ["sentence1", "sentence2"])
    if missing:
        raise UserError(f"{flag}: no column {sorted(missing)[0]!r}; it has {', '.join(rows.column_names)}")
    files = (builder.config.data_files or {}).get(name, [])
    return rows, hashlib.sha256("\n".join([builder.hash or "", *map(str, files)]).encode()).hexdigest()


def _hub_pairs(batch: dict[str, list[Any]], indices: list[int], *, source: str, **check: Any) -> dict[str, list[Any]]:
    columns = list(batch)
    records = [dict(zip(columns, values, strict=True)) for values in zip(*batch.values(), strict=True)]
    numbered = ((f"{source} row {index + 1}", record) for index, record in zip(indices, records, strict=True))
    pairs = list(checked(numbered, [], **check))
    return {key: [pair[key] for pair in pairs] for key in ("sentence1", "sentence2", "label")}


# ---- tokens ----


def iterate(examples: Examples) -> Iterator[dict[str, Any]]:
    """The examples one by one, all of them in every process.

    `iter(examples)` inside a DataLoader worker would give each worker other rows; the order deals them out itself.
    """
    for batch in iterate_batches(examples):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def iterate_batches(examples: Examples) -> Iterator[dict[str, list[Any]]]:
    """`iterate` by the thousand, as columns."""
    return examples.iter(batch_size=1000)


def tokenize(pairs: Examples, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Examples:
    """`pairs` with columns input_ids, token_type_ids (lists of at most `max_length`) and labels instead of the text."""
    encode = partial(_encode, tokenizer=tokenizer, max_length=max_length)
    return pairs.map(encode, batched=True, remove_columns=["sentence1", "sentence2", "label"])


def _encode(batch: dict[str, list[Any]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, list[Any]]:
    encoded = tokenizer(
        batch["sentence1"],
        batch["sentence2"],
        truncation=True,
        max_length=max_length,
        return_token_type_ids=True,
        return_attention_mask=False,
    )
    return {"input_ids": encoded["input_ids"], "token_type_ids": encoded["token_type_ids"], "labels": batch["label"]}
