"""Files that are complete or absent, whatever happens meanwhile, and a folder that one run has at a time."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recipe.errors import UserError
from recipe.locks import lock

LOCK = ".lock"


def sync(path: Path) -> None:
    """Have a file, or a folder's list of names, reach the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, content: Any) -> None:
    """`write_text` of `content` as JSON; a path's byte that is not UTF-8 becomes an escape that reads back."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_text(path, text.encode("utf-8", "backslashreplace").decode())


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, which holds all of it or what it held before."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    sync(partial)
    os.replace(partial, path)
    sync(path.parent)


def publish(staging: Path, folder: Path, last: Sequence[str]) -> None:
    """Move the files of `staging` into `folder`, each whole; those named in `last` after all others, in that order."""
    names = sorted(path.name for path in staging.iterdir())
    names = [name for name in names if name not in last] + [name for name in last if name in names]
    for name in names:
        sync(staging / name)
    for name in names:
        os.replace(staging / name, folder / name)
        if name in last:
            sync(folder)
    staging.rmdir()


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(folder: Path, token: str = "") -> Iterator[None]:
    """Hold `folder`, made if need be, for this process alone; the system lets go of it when the process dies.

    A folder that is empty afterwards is removed again.

    Args:
        token: what the lock's file says, for who else sees the folder.

    Raises:
        UserError: another run holds it, or it cannot be written.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = lock(folder / LOCK, create=True)
        os.ftruncate(held.handle, 0)
        os.write(held.handle, token.encode())
    except BlockingIOError:
        raise UserError(
            f"--output_dir {folder}: another run writes there; wait for it, or name another folder"
        ) from None
    except OSError as error:
        raise UserError(f"--output_dir {folder}: {error.strerror}; a folder that can be written is expected") from error
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        if made and not any(folder.iterdir()):
            folder.rmdir()
        held.release()
