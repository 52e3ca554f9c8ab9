"""The frozen prefix's outputs, computed once: found by all that determines them, memory-mapped, complete or absent.

A cache is a folder named by its key: `states.bin` holds the states of all pairs end to end, (tokens, hidden), in the
order of the split; `manifest.json` is written last, and without it a folder counts for nothing.
"""

import contextlib
import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recipe.batches.tokens import Tokens
from recipe.cache.key import CacheKey
from recipe.errors import Damaged
from recipe.file_names import MANIFEST
from recipe.system.cache_folder import STATES, create_file, is_ours, remove_cache
from recipe.system.files import crc32_of, sync
from recipe.system.json_files import read_json
from recipe.system.locks import Lock, lock

SHAPE = {"depth": int, "dtype": str, "compute_dtype": str, "bytes": int, "pairs": int, "seconds": float, "source": str}
WRITER = uuid.uuid4().hex  # in the manifests of what this process has made
BLOCK = 1 << 20


class PrefixCache:
    """An opened cache.

    Attributes:
        states: (tokens, hidden), memory-mapped, or on a GPU.
        offsets: (pairs + 1,); pair i has the rows offsets[i] to offsets[i + 1].
        manifest: what was written beside them.
        pad_to_multiple_of: tokens; batches are padded so, that few shapes occur. 1 for no such padding.
        held: what keeps other processes from removing it meanwhile; None where nothing on the disk is read.
    """

    def __init__(
        self,
        states: Tensor,
        offsets: Tensor,
        manifest: dict[str, Any],
        pad_to_multiple_of: int = 1,
        held: Lock | None = None,
    ) -> None:
        self.states, self.offsets, self.manifest, self.pad_to_multiple_of = (
            states,
            offsets,
            manifest,
            pad_to_multiple_of,
        )
        self.held = held

    def to(self, device: torch.device, pad_to_multiple_of: int) -> "PrefixCache":
        """The same with its states in `device`'s memory, whence `gather` moves nothing but what it is asked for."""
        return PrefixCache(self.states.to(device), self.offsets, self.manifest, pad_to_multiple_of)

    def gather(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """The states of some pairs, (batch, longest, hidden), and their mask (batch, longest), None without padding.

        One indexed copy; padding repeats a pair's last row, which the mask hides. Padded to a multiple, all batches
        have a mask, so that they are of one kind.
        """
        wanted = torch.as_tensor(indices)
        starts = self.offsets[wanted]
        lengths = self.offsets[wanted + 1] - starts
        longest = -(-int(lengths.max()) // self.pad_to_multiple_of) * self.pad_to_multiple_of
        place = torch.arange(longest)
        rows = starts[:, None] + torch.minimum(place, lengths[:, None] - 1)
        states = self.states.index_select(0, rows.view(-1).to(self.states.device)).view(*rows.shape, -1)
        whole = self.pad_to_multiple_of == 1 and bool((lengths == longest).all())
        return states, None if whole else (place < lengths[:, None]).long()


def rows_per_pair(tokens: Tokens, key: CacheKey) -> Tensor:
    """Offsets (pairs + 1,) of a cache's rows: one a token, or [CLS] alone where the last layer is in the prefix."""
    if key.depth == key.layers.num_hidden_layers:
        return torch.arange(len(tokens.labels) + 1)
    return tokens.offsets


def size_in_bytes(tokens: Tokens, key: CacheKey) -> int:
    """What a cache's states take on disk."""
    return int(rows_per_pair(tokens, key)[-1]) * key.layers.hidden_size * getattr(torch, key.dtype).itemsize


def reserve(partial: Path, tokens: Tokens, key: CacheKey) -> None:
    """Make the states' file in an unfinished folder, all the disk space it needs taken at once.

    Writing through a map where there is no space left would kill the process.

    Raises:
        OSError: the disk is full.
    """
    size = size_in_bytes(tokens, key)
    with create_file(partial / STATES) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
            return
        for start in range(0, size, BLOCK):  # macOS and Windows
            file.write(bytes(min(BLOCK, size - start)))


def open_partial(partial: Path, tokens: Tokens, key: CacheKey) -> Tensor:
    """The states of a folder that `reserve` made room in, to be written to."""
    return _map(partial / STATES, tokens, key, shared=True)


def _map(path: Path, tokens: Tokens, key: CacheKey, shared: bool) -> Tensor:
    rows, hidden = int(rows_per_pair(tokens, key)[-1]), key.layers.hidden_size
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
        "writer": WRITER,
    }


def open_cache(directory: Path, key: CacheKey, tokens: Tokens) -> PrefixCache | None:
    """The cache of `key`, held as long as it is referred to; None where there is none that is complete."""
    folder = directory / key.name
    try:
        if folder.is_symlink() or (folder / STATES).is_symlink():
            return None
        held = lock(folder / MANIFEST, shared=True)
        manifest = read_json(folder / MANIFEST, SHAPE | {"crc32": int})
        size = (folder / STATES).stat().st_size
        if not size == manifest["bytes"] == size_in_bytes(tokens, key) or manifest["pairs"] != len(tokens.labels):
            return None
        states = _map(folder / STATES, tokens, key, shared=False)
    except (OSError, Damaged):
        return None
    with contextlib.suppress(OSError):  # on a disk that is mounted read-only
        os.utime(folder / MANIFEST)  # last used, for whoever prunes
    return PrefixCache(states, rows_per_pair(tokens, key), manifest, held=held)


def is_intact(directory: Path, key: CacheKey, cache: PrefixCache) -> bool:
    """Whether a cache's states are on the disk as they were written; all of them are read."""
    try:
        return crc32_of(directory / key.name / STATES) == cache.manifest["crc32"]
    except OSError:
        return False


def what_is_in_the_way(directory: Path, key: CacheKey) -> str | None:
    """What stands where the cache of `key` would be and is none of ours, in words."""
    folder = directory / key.name
    if not os.path.lexists(folder) or is_ours(folder):
        return None
    return f"{folder} is in the way: a link, another user's, or no cache"


def finish(partial: Path, directory: Path, key: CacheKey, tokens: Tokens, manifest: dict[str, Any]) -> None:
    """Make a written cache count: its states reach the disk, then its manifest, then its name.

    Raises:
        OSError: the disk is full, or its folder is gone.
    """
    sync(partial / STATES)
    text = json.dumps({**manifest, "crc32": crc32_of(partial / STATES)}, indent=2) + "\n"
    with create_file(partial / MANIFEST) as file:
        file.write(text.encode())
    sync(partial / MANIFEST)
    sync(partial)
    if open_cache(directory, key, tokens) is not None:  # another process was first
        return
    remove_cache(directory / key.name, although_read=True)  # which is not complete
    os.replace(partial, directory / key.name)
    sync(directory)
