"""The prefix caches on this disk, listed or removed.

python -m recipe.commands.prefix_cache list
python -m recipe.commands.prefix_cache prune --older_than_days 30
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipe.arguments import DEFAULT_CACHE_DIR
from recipe.cache.prefix_cache import SHAPE
from recipe.command_line.one_line_parser import OneLineParser
from recipe.errors import Damaged, UserError
from recipe.file_names import MANIFEST
from recipe.process.exiting import exit_on_error
from recipe.process.text import shown
from recipe.system.cache_folder import is_ours, remove_cache, remove_orphans, unfinished_folders
from recipe.system.json_files import read_json


def list_caches(directory: Path) -> Iterator[tuple[Path, int, dict[str, Any] | None]]:
    """Each cache's folder, its size in bytes and its manifest (None where it is unfinished); all else is passed by."""
    for folder in sorted(directory.glob("*")):
        if is_ours(folder):
            try:
                yield folder, size_of(folder), read_json(folder / MANIFEST, SHAPE)
            except (OSError, Damaged):  # gone meanwhile, or another program's
                continue
    for folder in unfinished_folders(directory):
        yield folder, size_of(folder), None


def size_of(folder: Path) -> int:
    """What the files of a folder take on disk."""
    return sum(path.lstat().st_size for path in folder.glob("*"))


def prune(directory: Path, older_than_days: float) -> tuple[int, int]:
    """Remove caches not used for so many days, 0 for all, and what killed runs left.

    Returns:
        The bytes freed, and how many caches are in use and therefore stay.
    """
    before, used = sum(size for _, size, _ in list_caches(directory)), 0
    remove_orphans(directory)
    for folder, _, manifest in list(list_caches(directory)):
        old = time.time() - (folder / MANIFEST).stat().st_mtime >= older_than_days * 86400 if manifest else True
        if old and (manifest is None or not remove_cache(folder)):
            used += 1
    return before - sum(size for _, size, _ in list_caches(directory)), used


def main() -> None:
    """List or prune caches from the command line."""
    parser = OneLineParser(prog="python -m recipe.commands.prefix_cache", description="List or remove prefix caches.")
    parser.add_argument("action", choices=["list", "prune"])
    parser.add_argument("--prefix_cache_dir", type=Path, default=Path(DEFAULT_CACHE_DIR))
    parser.add_argument("--older_than_days", type=float, default=0, help="prune only what was not used for so long")
    args = parser.parse_args()
    if not args.older_than_days >= 0:
        raise UserError(f"--older_than_days {args.older_than_days:g}: a number of days, 0 for all, is expected")
    try:
        _list_or_prune(args.action, args.prefix_cache_dir.expanduser(), args.older_than_days)
    except OSError as error:
        raise UserError(f"--prefix_cache_dir {args.prefix_cache_dir}: {error.strerror}") from error


def _list_or_prune(action: str, directory: Path, older_than_days: float) -> None:
    if action == "prune":
        freed, used = prune(directory, older_than_days)
        told = f"; {used} in use or not to be removed" if used else ""
        print(f"freed {freed / 1e6:,.0f} MB in {directory}{told}")
        return
    total = 0
    for folder, size, manifest in list_caches(directory):
        total += size
        what = (
            "unfinished"
            if manifest is None
            else f"depth {manifest['depth']}, {manifest['dtype']}, {manifest['source']}"
        )
        print(shown(f"{folder.name[:12]}  {size / 1e6:>9,.1f} MB  {what}"))
    print(f"{total / 1e6:,.1f} MB in {directory}")


if __name__ == "__main__":
    exit_on_error(main)
