"""The folder of the prefix caches: what in it is ours, what is being written, and what may be removed.

A cache is a folder named by its key. What is there for a while only has a random suffix to such a name, and a lock file
beside it that its writer holds: one that no process holds was left by a kill. Everything is readable by its owner only,
since states tell of sentences; and whatever else lies in the folder is passed by.
"""

import contextlib
import os
import re
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

from transformers import TrainingArguments

from recipe.file_names import MANIFEST
from recipe.system.distributed import Share, first_on_machine, from_all_ranks, together
from recipe.system.locks import Lock, lock

STATES, LOCK = "states.bin", ".lock"
FINISHED = re.compile(r"[0-9a-f]{32}")
UNFINISHED = re.compile(rf"{FINISHED.pattern}\.{FINISHED.pattern}")
BLOCK = re.compile(rf"block-({FINISHED.pattern})-([0-9a-f]{{8}})")
PARTIAL = re.compile(rf"\.(block|{BLOCK.pattern}|manifest\.json)\.{FINISHED.pattern}\.partial")
CONTENT = re.compile(
    r"states\.bin|manifest\.json|(input_ids|token_type_ids|offsets|labels)(-\d+)?"
    rf"|{BLOCK.pattern}|\.encoding|\.appending|{PARTIAL.pattern}"
)


@contextlib.contextmanager
def unfinished_folder(directory: Path, args: TrainingArguments) -> Iterator[Path]:
    """A folder, until the block ends, in which the ranks of a machine write. Collective.

    The machine's first rank makes and removes it; what killed runs left goes too.

    Raises:
        OSError: it cannot be made.
    """
    tokens = from_all_ranks(args, uuid.uuid4().hex)
    folder = directory / f"{tokens[0]}.{tokens[first_on_machine(args)]}"
    held: list[Lock] = []
    try:
        together(args, lambda: held.append(_make(folder)) if Share.of(args).rank == 0 else None, OSError)
        yield folder
    finally:
        if held:
            _remove(folder, held[0])


def _lock_of(folder: Path) -> Path:
    return folder.with_name(folder.name + LOCK)


def _make(folder: Path) -> Lock:
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    remove_orphans(folder.parent)
    held = lock(_lock_of(folder), create=True)
    try:
        folder.mkdir(mode=0o700)
    except OSError:
        _remove(folder, held)
        raise
    return held


def _remove(folder: Path, held: Lock) -> None:
    """Remove an unfinished folder with what is ours in it, and at the very end its lock."""
    with contextlib.suppress(OSError):
        if stat.S_ISDIR(os.lstat(folder).st_mode):
            for path in folder.iterdir():
                if CONTENT.fullmatch(path.name):
                    path.unlink()
            folder.rmdir()
    with contextlib.suppress(OSError):
        _lock_of(folder).unlink()
    held.release()


def remove_orphans(directory: Path) -> None:
    """Remove what was left unfinished: that whose lock no process holds, here or in another container or machine."""
    for folder in _locked_folders(directory):
        with contextlib.suppress(OSError):  # held, another user's, or a link
            held = lock(_lock_of(folder))
            if held.certain:
                _remove(folder, held)


def unfinished_folders(directory: Path) -> list[Path]:
    """The folders that are being written, or were when their writer died."""
    return [each for each in _locked_folders(directory) if each.is_dir() and not each.is_symlink()]


def _locked_folders(directory: Path) -> list[Path]:
    folders = (path.with_name(path.name.removesuffix(LOCK)) for path in sorted(directory.glob(f"*{LOCK}")))
    return [folder for folder in folders if UNFINISHED.fullmatch(folder.name)]


def is_ours(folder: Path) -> bool:
    """Whether `folder` is named as a cache, belongs to this user, is no link, and holds nothing else than caches do."""
    try:
        status = os.lstat(folder)
        mine = not hasattr(os, "getuid") or status.st_uid == os.getuid()
        named = FINISHED.fullmatch(folder.name) is not None and stat.S_ISDIR(status.st_mode)
        return mine and named and all(CONTENT.fullmatch(name) for name in os.listdir(folder))
    except OSError:
        return False


def remove_cache(folder: Path) -> bool:
    """Remove a cache of ours that no process reads; gives whether it is gone.

    It is renamed first, so that a kill leaves nothing but what the next run removes.
    """
    if not is_ours(folder):
        return False
    try:
        unread = lock(folder / MANIFEST)
        aside = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}")
        held = lock(_lock_of(aside), create=True)
    except OSError:
        return False
    with contextlib.suppress(OSError):
        os.replace(folder, aside)
    _remove(aside, held)
    unread.release()
    return not os.path.lexists(folder)


def what_is_in_the_way(directory: Path, name: str) -> str | None:
    """What stands where the cache of that name would be and is not ours, in words."""
    folder = directory / name
    if not os.path.lexists(folder) or is_ours(folder):
        return None
    return f"{folder} is in the way: a link, another user's, or no cache"


def size_of(folder: Path) -> int:
    """What the files of a folder take on disk."""
    return sum(path.lstat().st_size for path in folder.glob("*"))


def make_room(directory: Path, name: str, size: int, limit: int) -> list[tuple[Path, int]]:
    """Remove caches, those that were not used for longest first, until `size` more bytes keep all within `limit`.

    The one of that name stays, and so does what some process reads or writes. Gives what is gone, with its size.
    """
    others = [folder for folder in directory.glob("*") if folder.name != name and is_ours(folder)]
    total = size + sum(map(size_of, [directory / name, *others]))
    removed = []
    for folder in sorted(others, key=_last_used):
        freed = size_of(folder)
        if total > limit and remove_cache(folder):
            total -= freed
            removed.append((folder, freed))
    return removed


def _last_used(folder: Path) -> float:
    try:
        return (folder / MANIFEST).stat().st_mtime
    except OSError:  # of a cache that a kill left unfinished
        return 0.0
