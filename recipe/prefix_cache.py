"""The frozen prefix's outputs, computed once: found by all that determines them, memory-mapped, complete or absent.

A cache is a folder named by its key: `states.bin` holds the states of all pairs end to end, (tokens, hidden), in the
order of the split; `manifest.json` is written last, and without it a folder counts for nothing.
"""

import glob
import json
import os
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recipe.cache_key import CacheKey
from recipe.ranks import Share
from recipe.tokens import Tokens

MANIFEST, STATES = "manifest.json", "states.bin"


class PrefixCache:
    """An opened cache.

    Attributes:
        states: (tokens, hidden), memory-mapped, or on a GPU.
        offsets: (pairs + 1,); pair i has the rows offsets[i] to offsets[i + 1].
        manifest: what was written beside them.
        multiple: batches are padded to a multiple of so many tokens, so that few shapes occur; 1 for no such padding.
    """

    def __init__(self, states: Tensor, offsets: Tensor, manifest: dict[str, Any], multiple: int = 1) -> None:
        self.states, self.offsets, self.manifest, self.multiple = states, offsets, manifest, multiple

    def to(self, device: torch.device, multiple: int) -> "PrefixCache":
        """The same with its states in `device`'s memory, whence `gather` moves nothing but what it is asked for."""
        return PrefixCache(self.states.to(device), self.offsets, self.manifest, multiple)

    def gather(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """The states of some pairs, (batch, longest, hidden), and their mask (batch, longest), None without padding.

        One indexed copy; padding repeats a pair's last row, which the mask hides. Padded to a multiple, all batches
        have a mask, so that they are of one kind.
        """
        wanted = torch.as_tensor(indices)
        starts = self.offsets[wanted]
        lengths = self.offsets[wanted + 1] - starts
        longest = -(-int(lengths.max()) // self.multiple) * self.multiple
        place = torch.arange(longest)
        rows = starts[:, None] + torch.minimum(place, lengths[:, None] - 1)
        states = self.states.index_select(0, rows.view(-1).to(self.states.device)).view(*rows.shape, -1)
        whole = self.multiple == 1 and bool((lengths == longest).all())
        return states, None if whole else (place < lengths[:, None]).long()


def rows_per_pair(tokens: Tokens, key: CacheKey) -> Tensor:
    """Offsets (pairs + 1,) of a cache's rows: one a token, or [CLS] alone where the last layer is in the prefix."""
    if key.depth == json.loads(key.shape)["num_hidden_layers"]:
        return torch.arange(len(tokens.labels) + 1)
    return tokens.offsets


def size_in_bytes(tokens: Tokens, key: CacheKey) -> int:
    """What a cache's states take on disk."""
    return (
        int(rows_per_pair(tokens, key)[-1]) * json.loads(key.shape)["hidden_size"] * getattr(torch, key.dtype).itemsize
    )


def partial_folder(directory: Path, name: str, share: Share) -> Path:
    """Where a process of this machine, or its ranks together, writes what does not count yet."""
    owner = os.getppid() if share.ranks > 1 else os.getpid()  # the ranks of a machine share a parent
    return directory / f"{name}.{socket.gethostname()}-{owner}"


def remove_orphans(directory: Path) -> None:
    """Remove what processes of this machine that are gone have left unfinished."""
    for folder in directory.glob(f"*.{glob.escape(socket.gethostname())}-*"):
        owner = folder.name.rpartition("-")[2]
        if owner.isdecimal() and not _runs(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def make_partial(partial: Path, tokens: Tokens, key: CacheKey) -> None:
    """A folder with room for the states, all the disk space they need taken at once; what killed runs left goes.

    Raises:
        OSError: the disk is full.
    """
    remove_orphans(partial.parent)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with open(partial / STATES, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, size_in_bytes(tokens, key))


def open_partial(partial: Path, tokens: Tokens, key: CacheKey) -> Tensor:
    """The states of a folder that `make_partial` made, to be written to."""
    return _map(partial / STATES, tokens, key, shared=True)


def _map(path: Path, tokens: Tokens, key: CacheKey, shared: bool) -> Tensor:
    rows, hidden = int(rows_per_pair(tokens, key)[-1]), json.loads(key.shape)["hidden_size"]
    return torch.from_file(str(path), shared=shared, size=rows * hidden, dtype=getattr(torch, key.dtype)).view(
        rows, hidden
    )


def make_manifest(
    tokens: Tokens, key: CacheKey, source: str, seconds: float, base: "PrefixCache | None"
) -> dict[str, Any]:
    """What is said of a cache beside it; `seconds` are what finding it again saves."""
    return {
        "depth": key.depth,
        "dtype": key.dtype,
        "compute_dtype": key.compute_dtype,
        "bytes": size_in_bytes(tokens, key),
        "pairs": len(tokens.labels),
        "tokens": int(tokens.offsets[-1]),
        "seconds": round(seconds + (base.manifest["seconds"] if base else 0), 1),
        "extended_from_depth": base.manifest["depth"] if base else None,
        "versions": key.versions,
        "source": source,
    }


def open_cache(directory: Path, key: CacheKey, tokens: Tokens) -> PrefixCache | None:
    """The cache of `key`, None where there is none that is complete."""
    folder = directory / key.name
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        complete = (folder / STATES).stat().st_size == manifest["bytes"] == size_in_bytes(tokens, key)
    except (OSError, ValueError, KeyError):
        return None
    if not complete:
        return None
    os.utime(folder / MANIFEST)  # last used, for whoever prunes
    return PrefixCache(_map(folder / STATES, tokens, key, shared=False), rows_per_pair(tokens, key), manifest)


def finish(partial: Path, directory: Path, key: CacheKey, tokens: Tokens, manifest: dict[str, Any]) -> None:
    """Make a written cache count: its states reach the disk, then its manifest, then its name."""
    for name in (STATES, MANIFEST):
        if name == MANIFEST:
            (partial / name).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        with open(partial / name, "rb") as file:
            os.fsync(file.fileno())
    if open_cache(directory, key, tokens) is not None:  # another process was first
        shutil.rmtree(partial)
        return
    shutil.rmtree(directory / key.name, ignore_errors=True)
    os.replace(partial, directory / key.name)
