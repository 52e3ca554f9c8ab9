"""A pair is encoded once in its life: what a run finds, what it encodes, and beside whom."""

import multiprocessing
import os
import time

import pytest
import torch

from recipe.batches.tokens import Tokens
from recipe.cache import finding
from recipe.cache.appending import Writer
from recipe.commands.prefix_cache import list_caches
from recipe.commands.train import train
from recipe.system.cache_folder import make_room
from recipe.system.locks import lock
from tests.utils import history, make_pairs, write_jsonl


@pytest.fixture
def asked(monkeypatch):
    """A list of how many pairs each pass has encoded."""
    counts, real = [], finding.encode

    def counted(job, missing, *more):
        counts.append(len(missing))
        real(job, missing, *more)

    monkeypatch.setattr(finding, "encode", counted)
    return counts


def take(tokens, places):
    """Some of the pairs, in that order."""
    spans = [slice(int(tokens.offsets[place]), int(tokens.offsets[place + 1])) for place in places]
    lengths = tokens.lengths[torch.tensor(places)]
    return Tokens(
        torch.cat([tokens.input_ids[span] for span in spans]),
        torch.cat([tokens.token_type_ids[span] for span in spans]),
        torch.cat([torch.zeros(1, dtype=torch.int64), lengths]).cumsum(0),
        tokens.labels[torch.tensor(places)],
    )


def test_only_what_is_new_is_encoded(encoded, split_tokens, asked):
    tokens = split_tokens()
    whole, _, _ = encoded(tokens=take(tokens, range(50)))
    for places, new in (
        (range(50), 0),
        (range(10), 0),  # a subset
        ([3, 49, 0, 17], 0),  # in another order
        ([5, 5, 6, 5], 0),  # more than once
        (range(70), 20),  # rows added
        ([*range(70), *range(70)], 0),
    ):
        asked.clear()
        cache, _, _ = encoded(tokens=take(tokens, list(places)))
        assert sum(asked) == new
        assert len(cache) == len(places)
        for index, place in enumerate(places):
            if place < 50:
                assert torch.equal(cache.gather([index])[0], whole.gather([place])[0])


def test_pairs_that_stand_twice_are_encoded_once(encoded, split_tokens, asked):
    encoded(tokens=take(split_tokens(), [1, 2, 1, 1, 2]))
    assert asked == [2]


def test_rows_added_to_a_run_and_rows_left_out(arguments, tmp_path, capsys):
    rows = make_pairs(90, 7)
    write_jsonl(tmp_path / "dev.json", rows[:20])
    for name, kept in (("first", rows[:60]), ("more", rows), ("fewer", rows[10:70])):
        write_jsonl(tmp_path / "train.json", kept)
        capsys.readouterr()
        train(arguments("--num_train_epochs=2", f"--data_dir={tmp_path}", f"--output_dir={tmp_path / name}"))
        (line,) = [line for line in capsys.readouterr().out.splitlines() if "train.json" in line and "cache" in line]
        expected = {"first": "encoded in", "more": ": 30 pairs encoded in", "fewer": " found, "}[name]
        assert expected in line
    assert [each.pairs for each in list_caches(tmp_path / "cache")] == [90]


def test_a_run_is_the_same_whatever_lay_in_the_store(arguments, tmp_path):
    words = ("--num_train_epochs=2", "--max_train_samples=40")
    train(arguments(*words, "--prefix_cache=on"))
    train(arguments("--num_train_epochs=2", f"--prefix_cache_dir={tmp_path / 'b'}", f"--output_dir={tmp_path / 'all'}"))
    train(arguments(*words, f"--prefix_cache_dir={tmp_path / 'b'}", f"--output_dir={tmp_path / 'part'}"))
    for key in ("loss", "grad_norm", "eval_loss"):
        assert history(tmp_path / "run", key) == history(tmp_path / "part", key)


def test_two_runs_encode_into_one_store_one_after_the_other(encoded, split_tokens, tmp_path):
    tokens, context = split_tokens(), multiprocessing.get_context("fork")
    runs = [
        context.Process(target=encoded, kwargs={"tokens": take(tokens, part)}) for part in (range(50), range(20, 70))
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
        assert run.exitcode == 0
    assert [each.pairs for each in list_caches(tmp_path / "cache")] == [70]  # none of them twice


def test_a_run_that_waits_for_another_says_so(encoded, split_tokens, tmp_path, capsys):
    _, _, key = encoded(tokens=take(split_tokens(), range(5)))
    held = lock(tmp_path / "cache" / key.name / ".encoding")
    handle = os.fork()
    if not handle:  # whose copy of the lock is let go of
        encoded(tokens=take(split_tokens(), range(9)))
        os._exit("this one waits for it" not in capsys.readouterr().out)
    time.sleep(1)
    assert os.waitpid(handle, os.WNOHANG) == (0, 0)
    held.release()
    assert os.waitpid(handle, 0)[1] == 0
    assert [each.pairs for each in list_caches(tmp_path / "cache")] == [9]


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


def test_stores_are_bounded_together_and_the_oldest_goes_first(tmp_path):
    for number, name in enumerate("abcd"):
        folder = tmp_path / (name * 32)
        folder.mkdir()
        (folder / "states.bin").write_bytes(bytes(1000))
        (folder / "manifest.json").write_bytes(b"")
        os.utime(folder / "manifest.json", (number, number))
    (tmp_path / "the user's").mkdir()
    in_use = lock(tmp_path / ("a" * 32) / "manifest.json", shared=True)
    assert make_room(tmp_path, "d" * 32, 500, 4500) == []
    assert make_room(tmp_path, "d" * 32, 500, 3000) == [tmp_path / ("b" * 32), tmp_path / ("c" * 32)]
    in_use.release()
    assert make_room(tmp_path, "d" * 32, 500, 0) == [tmp_path / ("a" * 32)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d" * 32, "the user's"]
