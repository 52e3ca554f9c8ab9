"""Appending to a store: rows and block reach the disk before the block's name does, on a thread beside the pass."""

import contextlib
import os
import queue
import threading
import time
import uuid
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor

from recipe.cache.store import APPENDING, HASH, Block, Store, bytes_of
from recipe.system.cache_folder import PARTIAL, STATES
from recipe.system.files import create_file, write_bytes
from recipe.system.locks import wait_for

COMMIT_SECONDS, COMMIT_BYTES = 5.0, 64 << 20  # what a kill costs at most; a GPU makes more in that time


def append(store: Store, hashes: np.ndarray, lengths: np.ndarray, states: Tensor, seconds: float) -> None:
    """Append the rows of some pairs, and commit them: rows and block reach the disk before the block's name.

    The block's name is what commits, so whatever it speaks of must be on the disk by then: were the rows synced after
    it, a loss of power could leave a block without them. Nothing that is there is overwritten, not even what a kill
    left uncommitted: another process may have it mapped.

    Args:
        states: (rows, hidden) or their bytes, the pairs' rows one after the other.
        seconds: that encoding them took.

    Raises:
        OSError: the disk is full. What was written of them is cut off again.
    """
    held = wait_for(store.folder / APPENDING)
    data, path = bytes_of(states), store.folder / STATES
    try:
        if not path.exists():
            create_file(path).close()
        with open(path, "r+b") as file:
            end = file.seek(0, os.SEEK_END)
            width = len(data) // len(states)
            first = -(-end // width)  # the next whole row behind what a kill may have cut off anywhere
            try:
                file.seek(first * width)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(end)  # gives the room back; no block speaks of these rows, so nobody reads them
                raise
        _commit(store.folder, Block(hashes, lengths, first, zlib.crc32(data), seconds))
    finally:
        held.release()


def _commit(folder: Path, block: Block) -> None:
    parts: dict[str, Any] = {
        "hashes": np.ascontiguousarray(block.hashes).view(np.uint8).reshape(-1, HASH.itemsize),
        "lengths": block.lengths,
        "of": np.asarray([block.first, block.crc32, block.seconds], dtype=np.float64),  # exact below 2 ** 53
    }
    content = save(parts)
    # syncs its own bytes, takes its name, and then syncs the folder, with it the name of a states.bin that is new
    write_bytes(folder / f"block-{uuid.uuid4().hex}-{zlib.crc32(content):08x}", content)


def remove_partial(folder: Path) -> None:
    """Remove what killed writers left in a store that no other process encodes into meanwhile."""
    for path in folder.glob(".*.partial"):
        if PARTIAL.fullmatch(path.name):
            path.unlink(missing_ok=True)


class NotFinite(Exception):
    """A state is NaN or infinite, as it was computed or as it would be stored; `pairs` are those of its batch."""

    def __init__(self, pairs: Tensor) -> None:
        super().__init__()
        self.pairs = pairs


class Writer:
    """Appends what is computed to a store, on a thread of its own, so that the pass waits for no disk.

    Args:
        hashes, rows: of all the pairs that batches are of, (pairs,).
        dtype: in which states are stored.
        ranks: that share the pass, each for as long, so that the seconds of all are no more than it takes.

    Raises:
        NotFinite: (in `put`) a state is.
        OSError: (in `put`, or at the end of the block) what went wrong meanwhile.
    """

    def __init__(self, store: Store, hashes: np.ndarray, rows: np.ndarray, dtype: torch.dtype, ranks: int = 1) -> None:
        self.store, self.hashes, self.rows, self.dtype, self.ranks = store, hashes, rows, dtype, ranks
        self.queue: queue.Queue[Any] = queue.Queue(maxsize=2)
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Writer":
        self.thread.start()
        return self

    def put(self, pairs: Tensor, states: Tensor) -> None:
        """Have the states (pairs, tokens, hidden) of some pairs appended.

        Whatever torch computes is computed here: on the other thread it would start a team of threads of its own, which
        takes the cores from the pass's.
        """
        if self.error is not None:
            raise self.error
        states = states.to(self.dtype)
        if not bool(states.isfinite().all()):
            raise NotFinite(pairs)
        rows = states.reshape(-1, states.shape[-1]).cpu().contiguous()
        self.queue.put((pairs.numpy(), rows.view(torch.uint8).numpy()))

    def __exit__(self, kind: Any, *_: object) -> None:
        """Wait until all is appended; what was computed before an error too."""
        self.queue.put(None)
        self.queue.put(None)  # for the wait in `_run`, where the lot behind the first one fails
        self.thread.join()
        if kind is None and self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            self._append_all()
        except Exception as error:  # raised where the batches come from
            self.error = error
            while self.queue.get() is not None:  # so that `put` does not wait for room in the queue
                pass

    def _append_all(self) -> None:
        held: list[tuple[np.ndarray, np.ndarray]] = []
        size, started = 0, time.monotonic()
        while (item := self.queue.get()) is not None:
            held.append(item)
            size += item[1].nbytes
            if size >= COMMIT_BYTES or time.monotonic() - started >= COMMIT_SECONDS:
                self._append(held, time.monotonic() - started)
                held, size, started = [], 0, time.monotonic()
        if held:
            self._append(held, time.monotonic() - started)

    def _append(self, held: list[tuple[np.ndarray, np.ndarray]], seconds: float) -> None:
        pairs = np.concatenate([pairs for pairs, _ in held])
        rows = torch.from_numpy(np.concatenate([rows for _, rows in held]))
        append(self.store, self.hashes[pairs], self.rows[pairs], rows, seconds / self.ranks)
