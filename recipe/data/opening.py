"""Sentence pairs from the Hub or from files: checked row by row, tokenised by `map`, streamed or kept in Arrow."""

from pathlib import Path

from recipe.arguments import DataArguments
from recipe.data.data_files import open_files
from recipe.data.hub_dataset import open_hub
from recipe.data.split_files import ARCHIVES, SPLITS, check_shards, find_split, named_files
from recipe.data.splits import Split
from recipe.errors import UserError


def open_split(args: DataArguments, name: str) -> Split | None:
    """The split `name` (train, validation or test), its rows counted; None where files were named and none is for it.

    Rows are counted from the Hub's metadata, else by one pass that checks them all, as far as the split's limit goes
    (--max_train_samples, --max_eval_samples): what stands behind it is not read.

    Raises:
        UserError: there is no such data, it cannot be reached, or a row is not a pair (under --on_bad_row error).
    """
    limit = {"train": args.max_train_samples, "validation": args.max_eval_samples}.get(name)
    paths = split_paths(args, name)
    if paths:
        return open_files(args, paths, name, limit)
    return None if reads_files(args) else open_hub(args, name, limit)


def limited(args: DataArguments, split: Split) -> list[str]:
    """The flag by which rows behind these were not read; nothing where all were."""
    flag = {"train": "max_train_samples", "validation": "max_eval_samples"}.get(split.name)
    found = flag is not None and getattr(args, flag) == split.rows
    return [f"no more, by --{flag} {split.rows}"] if found else []


def reads_files(args: DataArguments) -> bool:
    """Whether the data are local files, and not the Hub's."""
    return any([args.data_dir, args.train_file, args.validation_file, args.test_file])


def split_paths(args: DataArguments, name: str) -> list[Path]:
    """The files that hold the split; none where it is the Hub's, or not there.

    Raises:
        UserError: a file that is named is not there, or the folder holds the split twice, or not all of its shards.
    """
    named = getattr(args, f"{name}_file")
    if named is not None:
        return named_files(f"--{name}_file", named)
    found = find_split(Path(args.data_dir), name, bool(args.data_format)) if args.data_dir else []
    check_shards(args.data_dir, found)
    return found


def check_paths(args: DataArguments, *names: str) -> None:
    """Check that the files and the folder of these splits are there: at no cost, before a network is asked for a model.

    Raises:
        UserError: one is not.
    """
    for name in names:
        split_paths(args, name)


def require_split(args: DataArguments, name: str) -> Split:
    """`open_split`, where a missing or empty split is an error that names the files that would hold it."""
    split = open_split(args, name)
    if split is None:
        place = f"--data_dir {args.data_dir}: no {name} split in it" if args.data_dir else f"--{name}_file: not given"
        expected = f"{name}.json (or .jsonl, .csv, .tsv, .parquet, plain or .gz) is expected"
        made = ["make check-data SPLIT=0.1 makes one of the training split"] if name == "validation" else []
        raise UserError("; ".join([place, *_near_misses(args, name), expected, *made]))
    if split.rows == 0:
        raise UserError("; ".join([f"{split.source}: no sentence pairs in it", *split.left_out()]))
    return split


def _near_misses(args: DataArguments, name: str) -> list[str]:
    """What in --data_dir may hold the split and is not read, such as train.txt or any archive."""
    if not args.data_dir:
        return []
    names = (*SPLITS[name], "val") if name == "validation" else SPLITS[name]
    there = sorted(path.name for path in Path(args.data_dir).iterdir())
    if "dataset_dict.json" in there or "state.json" in there:
        return ["it is of datasets' save_to_disk; what to_json or to_parquet writes of each split is read"]
    found = [each for each in there if each.lower().startswith(names) or each.lower().endswith(ARCHIVES)]
    told = "whose name or form is not read (--data_format reads a table or JSON of any ending)"
    return [f"{', '.join(found[:3])[:120]} is there, {told}"] if found else []
