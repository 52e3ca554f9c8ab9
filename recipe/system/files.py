"""Files that are complete or absent, whatever happens meanwhile."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from recipe.system.locks import lock

LOCK = ".lock"
TOKEN = "[0-9a-f]{32}"  # at random, so that no other program's name is taken for ours
TEMPORARY = re.compile(rf"\..+\.{TOKEN}\.partial")


def sync(path: Path) -> None:
    """Have a file, or a folder's list of names, reach the disk."""
    if os.name == "nt":  # Windows does so with neither a folder nor a file that is open for reading
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> list[Path]:
    """Make a folder and those that it lies in, each of which reaches the disk; what it made, the deepest first."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in reversed(missing):
        sync(each.parent)
    return missing


def write_json(path: Path, content: Any) -> None:
    """`write_text` of `content` as JSON; a path's byte that is not UTF-8 becomes an escape that reads back."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_text(path, text.encode("utf-8", "backslashreplace").decode())


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, which holds all of it or what it held before."""
    write_bytes(path, text.encode(), 0o666)


def create_file(path: Path, mode: int = 0o600) -> IO[bytes]:
    """A new file, open for writing; unless `mode` says otherwise its owner alone can read it."""
    return open(path, "xb", opener=lambda name, flags: os.open(name, flags, mode))


def write_bytes(path: Path, content: bytes, mode: int = 0o600) -> None:
    """`write_text` of bytes, to a file that is created as by `create_file`."""
    write_parts(path, [content], mode)


def write_parts(path: Path, parts: Iterable[bytes], mode: int = 0o666) -> None:
    """`write_bytes` of what is made as it is written."""
    partial = _temporary(path)
    try:
        with create_file(partial, mode) as file:
            file.writelines(parts)
        sync(partial)
        os.replace(partial, path)
    except OSError as error:  # a write's own does not say of what file
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    sync(path.parent)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")


def remove_temporary(folder: Path, name: str = "") -> None:
    """Remove what killed writers, of `name` or of any file, have left in `folder`; no other may write it meanwhile."""
    for path in folder.iterdir():
        ours = TEMPORARY.fullmatch(path.name) and path.name.startswith(f".{name}")
        if ours and not path.is_symlink():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


@contextmanager
def staging_folder(folder: Path) -> Iterator[Path]:
    """A new folder inside `folder`, for files that are put together before they are published; it goes at the end."""
    path = _temporary(folder / "staging")
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to be filled that becomes `folder`, missing or empty until then, when the block ends well.

    Raises:
        OSError: it cannot be written, or `folder` is not empty any more.
    """
    make_folder(folder.parent)
    for left in folder.parent.glob(f".{folder.name}.*.partial"):
        if TEMPORARY.fullmatch(left.name) and not left.is_symlink():
            with contextlib.suppress(OSError):  # its writer lives, or it is another user's
                held = lock(left / LOCK)
                shutil.rmtree(left) if held.certain else None
    path = _temporary(folder)
    path.mkdir()
    try:
        held = lock(path / LOCK, create=True)
        yield path
        (path / LOCK).unlink()
        for each in (*path.iterdir(), path):
            usual_mode(each)
            sync(each)
        os.replace(path, folder)
        sync(folder.parent)
        held.release()
    finally:
        shutil.rmtree(path, ignore_errors=True)


def usual_mode(path: Path) -> None:
    """Give a file the mode of any new one; safetensors makes its files readable by their owner only."""
    mask = os.umask(0o077)
    os.umask(mask)
    path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def publish(staging: Path, folder: Path, last: Sequence[str]) -> None:
    """Move the files of `staging` into `folder`, each whole; those named in `last` after all others, in that order."""
    names = sorted(path.name for path in staging.iterdir())
    names = [name for name in names if name not in last] + [name for name in last if name in names]
    for name in names:
        usual_mode(staging / name)
        sync(staging / name)
    for name in names:
        os.replace(staging / name, folder / name)
        if name in last:
            sync(folder)


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes.

    Raises:
        OSError: it cannot be read, or is not a file; a pipe would be waited for.
    """
    if not path.is_file():
        raise OSError(errno.EINVAL, "not a file", str(path))
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_free(folder: Path) -> str:
    """How much room the disk of `folder` has."""
    try:
        return f"{shutil.disk_usage(folder).free / 1e6:,.1f} MB free on its disk"
    except OSError as error:
        return f"{folder}: {error.strerror}"
