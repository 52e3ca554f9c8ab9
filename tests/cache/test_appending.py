import itertools
import os
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recipe.cache.appending import Writer, append, remove_partial
from recipe.cache.key import make_key
from recipe.cache.store import intact, open_store
from recipe.errors import RunError
from tests.cache.contents import CPU, parts, rows, same


def test_what_is_appended_later_counts(blocks, model, tmp_path):
    store, hashes, tokens = blocks
    length = int(tokens.lengths[5])
    append(store, hashes[5:6], np.array([length]), torch.full((length, 32), 7.0), 1.0)
    found = rows(open_store(tmp_path, make_key(model, "float32", "float32", CPU)), hashes, tokens)
    assert bool((found[5] == 7).all())
    assert len(found) == 70


def test_a_full_disk_leaves_what_was_committed(blocks, model, tmp_path, monkeypatch):
    store, hashes, tokens = blocks
    expected, size = rows(store, hashes, tokens), (store.folder / "states.bin").stat().st_size

    def full(handle):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            append(store, np.array([b"y" * 16]), np.array([3]), torch.ones(3, 32), 1.0)
    assert (store.folder / "states.bin").stat().st_size == size
    assert len(parts(store)) == 7
    again = open_store(tmp_path, make_key(model, "float32", "float32", CPU))
    assert same(rows(again, hashes, tokens), expected)


def test_what_a_kill_left_is_behind_what_counts_and_stays_there(blocks, model, tmp_path):
    store, hashes, tokens = blocks
    expected = rows(store, hashes, tokens)
    with open(store.folder / "states.bin", "ab") as file:
        file.write(b"uncommitted")
    (store.folder / f".block.{'0' * 32}.partial").write_bytes(b"torn")
    (store.folder / "notes.partial").write_bytes(b"the user's")
    append(store, np.array([b"y" * 16]), np.array([2]), torch.ones(2, 32), 1.0)
    remove_partial(store.folder)
    assert sorted(path.name for path in store.folder.glob("*.partial")) == ["notes.partial"]
    (store.folder / "notes.partial").unlink()
    again = open_store(tmp_path, make_key(model, "float32", "float32", CPU))
    assert same(rows(intact(again), hashes, tokens), expected)
    (start,) = again.find(np.array([b"y" * 16])).tolist()
    assert again.states[start : start + 2].eq(1).all()


def test_what_was_committed_before_a_failure_is_found(encoded, split_tokens, asked, monkeypatch):
    monkeypatch.setattr("recipe.cache.appending.COMMIT_BYTES", 1)
    real, count = Writer.put, []

    def fails(self, *more):
        count.append(1)
        if len(count) > 4:
            raise KeyboardInterrupt
        real(self, *more)

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "put", fails)
        with pytest.raises(KeyboardInterrupt):
            encoded()
    asked.clear()
    encoded()
    assert 0 < asked[0] < 70


def test_a_disk_that_is_full_at_the_very_last_ends_the_run(encoded, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("recipe.cache.appending.append", full)  # which a small split comes to once, at its end
    told = []

    def encode():
        with pytest.raises(RunError) as error:
            encoded()
        told.append(str(error.value))

    run = threading.Thread(target=encode, daemon=True)
    run.start()
    run.join(30)
    assert [each.partition(": ")[2] for each in told] == [
        "No space left on device; to train without one: --prefix_cache off"
    ]


def test_what_ranks_take_together_is_told_of_all_as_one_pass(blocks, monkeypatch):
    store, hashes, tokens = blocks
    told = []
    monkeypatch.setattr("recipe.cache.appending.append", lambda *given: told.append(given[-1]))
    for ranks in (1, 2):
        clock = itertools.count()
        monkeypatch.setattr("recipe.cache.appending.time", SimpleNamespace(monotonic=lambda: float(next(clock))))  # noqa: B023
        with Writer(store, hashes, tokens.lengths.numpy(), torch.float32, ranks) as writer:
            writer.put(torch.tensor([3]), torch.ones(1, int(tokens.lengths[3]), 32))
    assert told == [2.0, 1.0]
