"""A store: what is in it is found, whole, whatever became of it meanwhile."""

import os

import numpy as np
import pytest
import torch

from recipe.cache.appending import append
from recipe.cache.key import make_key
from recipe.cache.store import intact, open_store, read_blocks
from tests.cache.contents import CPU, parts, rows, same


@pytest.fixture
def stored(encoded):
    """A store with three blocks: the training split's pairs, in commits of their own."""
    _, tokens, key = encoded()
    return tokens, key


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


def test_a_block_of_another_program_is_passed_by(stored, tmp_path):
    _, key = stored
    folder = tmp_path / "cache" / key.name
    count = len(list(read_blocks(folder)))
    (folder / f"block-{'0' * 32}-00000000").write_bytes(b"")
    (folder / f"block-{'1' * 32}-zzzzzzzz").write_bytes(b"x")
    assert len(list(read_blocks(folder))) == count
