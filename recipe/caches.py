"""The prefix caches on this disk, listed or removed.

python -m recipe.caches list
python -m recipe.caches prune --older_than_days 30
"""

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipe.arguments import DEFAULT_CACHE_DIR
from recipe.prefix_cache import MANIFEST


def list_caches(directory: Path) -> Iterator[tuple[Path, int, dict[str, Any] | None]]:
    """Each cache's folder, its size in bytes and its manifest (None where it was left unfinished)."""
    for folder in sorted(directory.glob("*")) if directory.is_dir() else []:
        if folder.is_dir() and len(folder.name.split(".")[0]) == 32:
            try:
                manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                manifest = None
            yield folder, sum(path.stat().st_size for path in folder.iterdir()), manifest


def prune(directory: Path, older_than_days: float) -> int:
    """Remove caches not used for so many days, 0 for all; returns the bytes freed."""
    freed = 0
    for folder, size, _ in list(list_caches(directory)):
        used = max((path.stat().st_mtime for path in folder.iterdir()), default=0)
        if time.time() - used >= older_than_days * 86400:
            shutil.rmtree(folder)
            freed += size
    return freed


def main() -> None:
    """List or prune caches from the command line."""
    parser = argparse.ArgumentParser(prog="python -m recipe.caches", description="List or remove prefix caches.")
    parser.add_argument("action", choices=["list", "prune"])
    parser.add_argument("--prefix_cache_dir", type=Path, default=Path(DEFAULT_CACHE_DIR))
    parser.add_argument("--older_than_days", type=float, default=0, help="prune only what was not used for so long")
    args = parser.parse_args()
    if args.action == "prune":
        print(f"freed {prune(args.prefix_cache_dir, args.older_than_days) / 1e6:,.0f} MB in {args.prefix_cache_dir}")
        return
    total = 0
    for folder, size, manifest in list_caches(args.prefix_cache_dir):
        total += size
        what = (
            "unfinished"
            if manifest is None
            else f"depth {manifest['depth']}, {manifest['dtype']}, {manifest['source']}"
        )
        print(f"{folder.name[:12]}  {size / 1e6:>9,.1f} MB  {what}")
    print(f"{total / 1e6:,.1f} MB in {args.prefix_cache_dir}")


if __name__ == "__main__":
    main()
