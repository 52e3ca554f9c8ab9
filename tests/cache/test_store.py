"""A store: what is in it is found, whole, whatever became of it meanwhile."""

import os

import numpy as np
import pytest
import torch

from recipe.cache.appending import append, remove_partial
from recipe.cache.key import make_key, pair_hashes
from recipe.cache.store import intact, open_store, read_blocks

CPU = torch.device("cpu")


@pytest.fixture
def stored(encoded):
    """A store with three blocks: the training split's pairs, in commits of their own."""
    _, tokens, key = encoded()
    return tokens, key


def parts(store):
    return sorted(store.folder.glob("block-*"))


def rows(store, hashes, tokens):
    """The states of the pairs that are there, by place."""
    starts = store.find(hashes)
    return {
        place: store.states[start : start + length].clone()
        for place, (start, length) in enumerate(zip(starts.tolist(), tokens.lengths.tolist(), strict=True))
        if start >= 0
    }


def same(found, expected):
    return all(torch.equal(value, expected[place]) for place, value in found.items())


@pytest.fixture
def blocks(model, split_tokens, tmp_path):
    """A store of 70 pairs of random states in seven blocks, its hashes and tokens."""
    tokens, key = split_tokens(), make_key(model, "float32", "float32", CPU)
    hashes = pair_hashes(tokens)
    store = open_store(tmp_path, key, "train", create=True)
    generator = torch.Generator().manual_seed(0)
    for start in range(0, 70, 10):
        lengths = tokens.lengths[start : start + 10]
        states = torch.randn(int(lengths.sum()), 32, generator=generator)
        append(store, hashes[start : start + 10], lengths.numpy(), states, 1.0)
    return open_store(tmp_path, key), hashes, tokens


def test_every_pair_is_found_and_no_other(blocks):
    store, hashes, tokens = blocks
    assert len(rows(store, hashes, tokens)) == 70
    assert store.find(np.array([b"x" * 16, hashes[3]])).tolist() == [-1, int(store.find(hashes[3:4])[0])]
    assert store.find(hashes[:0]).tolist() == []
    assert sum(block.seconds for block in store.blocks) == 7.0


def test_a_reader_has_what_was_committed_when_it_opened(blocks, model, tmp_path):
    store, hashes, tokens = blocks
    before = rows(store, hashes, tokens)
    append(store, np.array([b"y" * 16]), np.array([3]), torch.ones(3, 32), 1.0)
    assert store.find(np.array([b"y" * 16])).tolist() == [-1]
    assert same(rows(store, hashes, tokens), before)
    later = open_store(tmp_path, make_key(model, "float32", "float32", CPU))
    assert later.find(np.array([b"y" * 16])).tolist() == [int(tokens.offsets[-1])]


@pytest.mark.parametrize("damage", ["truncated", "zeroed", "flipped", "block flipped", "block gone", "block torn"])
def test_damage_costs_the_block_it_is_in(blocks, model, tmp_path, damage):
    store, hashes, tokens = blocks
    expected, path = rows(store, hashes, tokens), store.folder / "states.bin"
    content, block = bytearray(path.read_bytes()), parts(store)[3]
    if damage == "truncated":
        os.truncate(path, len(content) - 5)
    elif damage == "zeroed":
        content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
        path.write_bytes(content)
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "block gone":
        block.unlink()
    else:
        text = bytearray(block.read_bytes())
        text[-5] ^= 1
        block.write_bytes(text if damage == "block flipped" else text[:-5])
    found = rows(intact(open_store(tmp_path, make_key(model, "float32", "float32", CPU))), hashes, tokens)
    assert len(found) == 60
    assert same(found, expected)


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


def test_a_block_of_another_program_is_passed_by(stored, tmp_path):
    _, key = stored
    folder = tmp_path / "cache" / key.name
    count = len(list(read_blocks(folder)))
    (folder / f"block-{'0' * 32}-00000000").write_bytes(b"")
    (folder / f"block-{'1' * 32}-zzzzzzzz").write_bytes(b"x")
    assert len(list(read_blocks(folder))) == count
