"""Which files hold a split: those that a folder has under its names, or that a path or a pattern names."""

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from recipe.errors import UserError
from recipe.rows.forms import SUFFIXES

SPLITS = {"train": ("train",), "validation": ("validation", "dev"), "test": ("test",)}
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
SHARD = re.compile(r"-(\d{1,5})-of-(\d{1,5})\b")


def find_split(folder: Path, split: str, any_suffix: bool = False) -> list[Path]:
    """The files of `split` in `folder`, under any of its names and suffixes: one, or shards (train-*.json) in order.

    Args:
        any_suffix: whether a file of another suffix, or of none, is one too (not an archive).

    Raises:
        UserError: the folder does not exist, or holds the split twice.
    """
    if not folder.is_dir():
        what = "a file, which --train_file and the like take" if folder.exists() else "no such folder"
        raise UserError(f"--data_dir {folder}: {what}; a folder with train and validation files is expected")
    stems = [(name, suffix + zipped) for name in SPLITS[split] for suffix in SUFFIXES for zipped in ("", ".gz")]
    found = [[folder / (name + suffix)] for name, suffix in stems if (folder / (name + suffix)).is_file()]
    found += filter(None, (sorted(folder.glob(f"{name}-*{suffix}")) for name, suffix in stems))
    if any_suffix:
        found += [[path] for path in sorted(folder.iterdir()) if path.is_file() and _is_any(path, SPLITS[split])]
    if len(found) > 1:
        both = " and ".join(paths[0].name for paths in found)
        raise UserError(f"--data_dir {folder}: {both} both hold the {split} split; name one with --{split}_file")
    return found[0] if found else []


def _is_any(path: Path, names: Sequence[str]) -> bool:
    plain = Path(path.name.removesuffix(".gz"))
    return plain.stem in names and plain.suffix not in (*SUFFIXES, *ARCHIVES)


def named_files(flag: str, value: str) -> list[Path]:
    """The file that `value` names, or the files that it matches, in order.

    Raises:
        UserError: there is none.
    """
    found = [Path(value)] if Path(value).is_file() else [Path(path) for path in sorted(glob.glob(value))]
    if not found or not all(path.is_file() for path in found):
        missing = "a folder, which --data_dir takes" if Path(value).is_dir() else "no such file"
        raise UserError(f"{flag} {value}: {missing}; a file, or a pattern like 'train-*.jsonl', is expected")
    return found


def check_shards(data_dir: str | None, paths: Sequence[Path]) -> None:
    """Check that shards which say how many there are (train-00000-of-00002.parquet) are all there.

    Raises:
        UserError: one is missing.
    """
    named = [match for path in paths if (match := SHARD.search(path.name))]
    for total in sorted({match[2] for match in named}):
        there = {int(match[1]) for match in named if match[2] == total}
        first = int(int(total) in there)  # some count from 1
        missing = [number for number in range(first, int(total) + first) if number not in there]
        if missing:
            other = next(match for match in named if match[2] == total)
            name = f"{other.string[: other.start()]}-{missing[0]:0{len(other[1])}}-of-{total}"
            raise UserError(
                f"--data_dir {data_dir}: {len(there)} of {int(total)} shards are there; {name} is missing (a pattern "
                "for --train_file and the like takes what it matches)"
            )
