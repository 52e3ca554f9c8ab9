"""The prefix caches on this disk, listed or removed.

python -m recipe.commands.prefix_cache list
python -m recipe.commands.prefix_cache prune --older_than_days 30
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from recipe.arguments import DEFAULT_CACHE_DIR
from recipe.cache.store import SHAPE, read_blocks
from recipe.command_line.one_line_parser import OneLineParser
from recipe.errors import Damaged, UserError
from recipe.file_names import MANIFEST
from recipe.process.exiting import exit_on_error
from recipe.process.text import shown
from recipe.system.cache_folder import is_ours, remove_cache, remove_orphans, size_of, unfinished_folders
from recipe.system.json_files import read_json

OLD_SHAPE = {"depth": int, "dtype": str, "compute_dtype": str, "bytes": int, "pairs": int, "source": str}


class Listed(NamedTuple):
    """A folder among the prefix caches.

    Attributes:
        size: of its files, in bytes.
        manifest: what it says of the cache; None for what is being written, or was when its writer died.
        pairs: whose states it has.
        seconds: of encoding, that finding all of it again saves.
    """

    folder: Path
    size: int
    manifest: dict[str, Any] | None = None
    pairs: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        """A line of the list."""
        if self.manifest is None:
            what = "unfinished"
        elif "store" not in self.manifest:
            what = f"of an earlier release, which nothing reads any more; {self.manifest['source']}"
        else:
            what = f"depth {self.manifest['depth']}, {self.manifest['dtype']}, {self.pairs:,} pairs, encoded in "
            what += f"{self.seconds:.0f} s, first for {self.manifest['source']}"
        return f"{self.folder.name[:12]}  {self.size / 1e6:>9,.1f} MB  {what}"


def list_caches(directory: Path) -> Iterator[Listed]:
    """What is ours in the folder of the prefix caches; all else is passed by."""
    for folder in sorted(directory.glob("*")):
        if is_ours(folder):
            try:
                manifest = read_json(folder / MANIFEST, (SHAPE, OLD_SHAPE))
                blocks = list(read_blocks(folder)) if "store" in manifest else []
                pairs = {each for block in blocks for each in block.hashes.tolist()}  # a damaged block's stand in two
                yield Listed(folder, size_of(folder), manifest, len(pairs), sum(block.seconds for block in blocks))
            except (OSError, Damaged):  # gone meanwhile, or another program's
                continue
    for folder in unfinished_folders(directory):
        yield Listed(folder, size_of(folder))


def prune(directory: Path, older_than_days: float) -> tuple[int, int]:
    """Remove caches not used for so many days, 0 for all, and what killed runs left.

    Returns:
        The bytes freed, and how many caches are in use and therefore stay.
    """
    before, used = sum(each.size for each in list_caches(directory)), 0
    remove_orphans(directory)
    for folder, _, manifest, *_ in list(list_caches(directory)):
        old = time.time() - (folder / MANIFEST).stat().st_mtime >= older_than_days * 86400 if manifest else True
        if old and (manifest is None or not remove_cache(folder)):
            used += 1
    return before - sum(each.size for each in list_caches(directory)), used


def main() -> None:
    """List or prune caches from the command line."""
    parser = OneLineParser(prog="python -m recipe.commands.prefix_cache", description="List or remove prefix caches.")
    parser.add_argument("action", choices=["list", "prune"])
    parser.add_argument("--prefix_cache_dir", type=Path, default=Path(DEFAULT_CACHE_DIR))
    parser.add_argument("--older_than_days", type=float, default=0, help="prune only what was not used for so long")
    args = parser.parse_args()
    if not args.older_than_days >= 0:
        raise UserError(f"--older_than_days {args.older_than_days:g}: a number of days, 0 for all, is expected")
    if not args.prefix_cache_dir.expanduser().is_dir() and args.prefix_cache_dir != Path(DEFAULT_CACHE_DIR):
        raise UserError(f"--prefix_cache_dir {args.prefix_cache_dir}: no such folder; that of a run is expected")
    try:
        _list_or_prune(args.action, args.prefix_cache_dir.expanduser(), args.older_than_days)
    except OSError as error:
        raise UserError(f"--prefix_cache_dir {args.prefix_cache_dir}: {error.strerror}") from error


def _list_or_prune(action: str, directory: Path, older_than_days: float) -> None:
    if action == "prune":
        freed, used = prune(directory, older_than_days)
        left = f"; {used} in use or not to be removed" if used else ""
        print(f"freed {freed / 1e6:,.0f} MB in {directory}{left}")
        return
    listed = list(list_caches(directory))
    for each in listed:
        print(shown(str(each)))
    print(f"{sum(each.size for each in listed) / 1e6:,.1f} MB in {directory}")


if __name__ == "__main__":
    exit_on_error(main)
