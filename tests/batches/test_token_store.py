import errno

import pytest
import torch
from transformers import AutoTokenizer

from recipe.arguments import DataArguments
from recipe.batches import token_store
from recipe.batches.token_store import store_tokens
from recipe.batches.tokenization import tokenize
from recipe.batches.tokens import read_tokens
from recipe.cache.collator import collate
from recipe.commands.train import train
from recipe.data.opening import open_split
from recipe.data.splits import iterate_batches
from recipe.system.distributed import Share
from tests.utils import make_pairs, make_scored, write_jsonl


@pytest.fixture
def sharded(tmp_path, tiny_model):
    """A split in five files of uneven sizes, one of them without a row, tokenised."""
    rows = make_pairs(70, 1)
    bounds = [0, 7, 30, 30, 31, 70]
    for number in range(5):
        write_jsonl(tmp_path / f"train-{number:05}-of-00005.jsonl", rows[bounds[number] : bounds[number + 1]])
    split = open_split(DataArguments(data_dir=str(tmp_path)), "train")
    assert (split.shards, split.rows) == (5, 70)
    return tokenize(split.pairs, AutoTokenizer.from_pretrained(tiny_model), 32)


def same(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in token_store.PARTS)


def test_it_is_said_how_many_pairs_are_cut(tmp_path, tiny_model, arguments, capsys):
    rows = [*make_pairs(30), *({**row, "sentence1": "花" * 40} for row in make_pairs(5))]
    path = write_jsonl(tmp_path / "train.jsonl", rows)
    write_jsonl(tmp_path / "dev.jsonl", make_pairs(4))
    words = [f"--data_dir={tmp_path}", "--max_steps=1", "--num_train_epochs=2"]
    for cache in ("on", "off"):
        train(arguments(*words, f"--prefix_cache={cache}", f"--output_dir={tmp_path / cache}"))
        told = capsys.readouterr().out
        assert f"note: 5 of 35 pairs of {path} are cut at --max_length" in told
        assert told.count("are cut at") == 1


def test_shards_are_stored_in_order(sharded, tmp_path, arguments):
    tokens = store_tokens(sharded, 5, tmp_path / "cache", arguments().training)
    assert same(tokens, read_tokens(iterate_batches(sharded)))
    assert list((tmp_path / "cache").iterdir()) == []


def test_scores_are_stored_as_they_are(tmp_path, arguments, tiny_model):
    rows = [*make_scored(9), {**make_scored(1)[0], "label": 3}]
    path = write_jsonl(tmp_path / "scored.json", rows)
    split = open_split(DataArguments(train_file=str(path), task_type="regression"), "train")
    examples = tokenize(split.pairs, AutoTokenizer.from_pretrained(tiny_model), 32)
    tokens = store_tokens(examples, 1, tmp_path / "cache", arguments().training, scores=True)
    assert same(tokens, read_tokens(iterate_batches(examples)))
    assert tokens.labels.tolist() == [row["label"] for row in rows]
    assert collate([tokens.example(place) for place in range(10)], 0)["labels"].dtype == torch.float32


@pytest.mark.parametrize("ranks", [2, 3, 7])
def test_ranks_divide_the_shards_without_loss_or_repetition(sharded, tmp_path, ranks):
    for rank in range(ranks):
        token_store._write_shards(sharded, 5, tmp_path, Share(rank, ranks))
    token_store._join(tmp_path, 5)
    assert same(token_store._map(tmp_path), read_tokens(iterate_batches(sharded)))


def test_a_sample_of_a_sharded_split_is_its_beginning(sharded, tmp_path, arguments, tiny_model):
    split = open_split(DataArguments(data_dir=str(tmp_path), max_train_samples=33), "train")
    examples = tokenize(split.pairs, AutoTokenizer.from_pretrained(tiny_model), 32)
    tokens = store_tokens(examples, split.shards, tmp_path / "cache", arguments().training)
    assert same(tokens, read_tokens(iterate_batches(sharded)).head(33))


def test_a_full_disk_leaves_nothing(sharded, tmp_path, arguments, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(token_store, "_join", full)
    with pytest.raises(OSError, match="No space left"):
        store_tokens(sharded, 5, tmp_path / "cache", arguments().training)
    assert list((tmp_path / "cache").iterdir()) == []
