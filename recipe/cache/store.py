"""A store of pairs' states, each found by the hash of its tokens, so that a pair is encoded once in its life.

A store is a folder named by its key. `states.bin` holds rows end to end and is only ever appended to. What has been
appended counts once a block says so: a file that lists the pairs of one part of the rows, with that part's CRC-32, and
that is named by its own. So a kill costs what no block speaks of yet, damage costs the block it is in, and a reader has
what was committed when it opened the store.
"""

import contextlib
import json
import os
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load
from torch import Tensor

from recipe.cache.key import CacheKey
from recipe.errors import Damaged
from recipe.file_names import MANIFEST
from recipe.system.cache_folder import BLOCK, STATES, what_is_in_the_way
from recipe.system.files import create_file, sync, write_bytes
from recipe.system.json_files import read_json
from recipe.system.locks import Lock, lock, wait_for

ENCODING, APPENDING = ".encoding", ".appending"  # locks of one process each; who reads shares one on the manifest
SHAPE = {"store": int, "depth": int, "dtype": str, "compute_dtype": str, "hidden_size": int, "source": str}
VERSION = 1
HASH = np.dtype("S16")


class Block(NamedTuple):
    """A committed part of the rows.

    Attributes:
        hashes: of its pairs, (pairs,).
        lengths: how many rows each has, (pairs,), one after the other from row `first` on.
        crc32: of the rows' bytes.
        seconds: that encoding them took.
    """

    hashes: np.ndarray
    lengths: np.ndarray
    first: int
    crc32: int
    seconds: float

    @property
    def rows(self) -> int:
        """Of all its pairs."""
        return int(self.lengths.sum())


@dataclass(frozen=True)
class Store:
    """A store as it was when it was opened, held as long as it is referred to, so that no process removes it.

    Attributes:
        states: (rows, hidden), memory-mapped; None where there are none yet.
    """

    folder: Path
    states: Tensor | None
    blocks: list[Block]
    held: Lock

    @property
    def seconds_per_row(self) -> float:
        """What encoding took, which finding saves."""
        rows = sum(block.rows for block in self.blocks)
        return sum(block.seconds for block in self.blocks) / rows if rows else 0.0

    def find(self, hashes: np.ndarray) -> Tensor:
        """The first row of each pair, (pairs,), -1 where it is not there; what was appended last counts."""
        if not self.blocks:
            return torch.full((len(hashes),), -1)
        known, rows = self._index
        places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
        return torch.from_numpy(np.where(known[places] == hashes, rows[places], -1))

    @cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray]:
        """The hashes of all pairs, sorted, and the first row of each: of a pair that was appended twice, the last."""
        known = np.concatenate([block.hashes for block in self.blocks])[::-1]
        rows = np.concatenate([block.first + np.cumsum(block.lengths) - block.lengths for block in self.blocks])[::-1]
        known, first = np.unique(known, return_index=True)  # of equal ones the first, in the reversed order
        return known, rows[first]


def open_store(directory: Path, key: CacheKey, source: str = "", create: bool = False) -> Store | None:
    """The store of `key`; None where there is none.

    Args:
        source: the split that it is first made for, which `make cache` lists.
        create: make it where there is none yet.

    Raises:
        OSError: it cannot be made, or something else is in its place.
    """
    folder = directory / key.name
    if create:
        _make(folder, key, source)
    try:
        if folder.is_symlink() or (folder / STATES).is_symlink():
            return None
        held = lock(folder / MANIFEST, shared=True)
        read_json(folder / MANIFEST, SHAPE)
    except (OSError, Damaged):
        return None
    with contextlib.suppress(OSError):  # on a disk that is mounted read-only
        os.utime(folder / MANIFEST)  # last used, which decides what is pruned first
    return _read(folder, key, held)


def _read(folder: Path, key: CacheKey, held: Lock) -> Store:
    """What is committed now; blocks come in the order of their rows, which is that of their commits."""
    path, hidden = folder / STATES, key.layers.hidden_size
    rows = path.stat().st_size // key.row_bytes if path.exists() else 0
    blocks = [block for block in read_blocks(folder) if block.first + block.rows <= rows]
    end = max((block.first + block.rows for block in blocks), default=0)
    states = None
    if end:
        states = torch.from_file(str(path), shared=False, size=end * hidden, dtype=getattr(torch, key.dtype))
        states = states.view(end, hidden)
    return Store(folder, states, sorted(blocks, key=lambda block: block.first), held)


def _make(folder: Path, key: CacheKey, source: str) -> None:
    """Make an empty store, or finish making one that a kill left.

    Raises:
        OSError: it cannot be made, or something else is in its place.
    """
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    reason = what_is_in_the_way(folder.parent, folder.name)
    if reason is not None:
        raise OSError(reason)
    for name in (ENCODING, APPENDING):
        with contextlib.suppress(FileExistsError):
            create_file(folder / name).close()
    with contextlib.suppress(Damaged):
        read_json(folder / MANIFEST, SHAPE)
        return
    held = wait_for(folder / ENCODING)  # so that no process replaces a manifest that another has locked
    try:
        read_json(folder / MANIFEST, SHAPE)
    except Damaged:
        content = {"store": VERSION, "depth": key.depth, "dtype": key.dtype, "compute_dtype": key.compute_dtype}
        content |= {"hidden_size": key.layers.hidden_size, "source": source}
        write_bytes(folder / MANIFEST, json.dumps(content, indent=2).encode())
        sync(folder.parent)
    finally:
        held.release()


def read_blocks(folder: Path) -> Iterator[Block]:
    """Its blocks but those that are damaged, in any order."""
    for path in sorted(folder.iterdir()):
        match = BLOCK.fullmatch(path.name)
        with contextlib.suppress(OSError, SafetensorError, KeyError, ValueError):
            if match and not path.is_symlink():
                content = path.read_bytes()
                if zlib.crc32(content) == int(match[2], 16):
                    parts = load(content)
                    first, crc32, seconds = parts["of"].tolist()
                    hashes = parts["hashes"].view(HASH).reshape(-1)
                    yield Block(hashes, parts["lengths"], int(first), int(crc32), seconds)


def intact(store: Store, trusted: Collection[int] = ()) -> Store:
    """The store without the blocks whose rows are not what was written; all rows are read (1.1 s for 1.6 GB).

    Args:
        trusted: the first rows of blocks that this process has checked before.
    """
    states = store.states
    if states is None:
        return store

    def good(block: Block) -> bool:
        """Whether its rows have its checksum."""
        rows = states[block.first : block.first + block.rows]
        return block.first in trusted or zlib.crc32(bytes_of(rows)) == block.crc32

    return replace(store, blocks=list(filter(good, store.blocks)))


def bytes_of(states: Tensor) -> memoryview:
    """Rows as bytes, without a copy."""
    return states.contiguous().view(torch.uint8).numpy().data.cast("B")
