"""A pair is encoded once in its life: what a run finds, what it encodes, and beside whom."""

import multiprocessing
import os
import time

import torch

from recipe.batches.tokens import Tokens
from recipe.commands.prefix_cache import list_caches
from recipe.commands.train import train
from recipe.system.locks import lock
from tests.utils import history, make_pairs, write_jsonl


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
        expected = {"first": "encoded in", "more": ": 30 of 90 encoded in", "fewer": " found, "}[name]
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


def test_states_that_are_not_what_was_written_are_made_again(arguments, tmp_path, capsys):
    words = ("--num_train_epochs=2", "--max_train_samples=40")
    train(arguments(*words))
    (path,) = (tmp_path / "cache").glob("*/states.bin")
    whole = path.read_bytes()
    for damage in ("flipped", "zeroed", "short"):
        content = bytearray(whole)
        if damage == "flipped":
            content[len(content) // 2] ^= 1
        elif damage == "zeroed":
            content[4096:8192] = bytes(4096)
        path.write_bytes(content[: -len(content) // 4] if damage == "short" else content)
        capsys.readouterr()
        train(arguments(*words, f"--output_dir={tmp_path / damage}"))
        out = capsys.readouterr().out
        assert "encoded in" in out
        assert ("pairs are not what was written; they are encoded again" in out) is (damage != "short")
        assert history(tmp_path / damage, "loss") == history(tmp_path / "run", "loss")
        path.write_bytes(whole)


def test_what_was_damaged_and_made_again_is_told_of_once(encoded, tmp_path, capsys):
    _, _, key = encoded()
    with open(tmp_path / "cache" / key.name / "states.bin", "r+b") as file:
        file.write(bytes(64))
    for told in (True, False):
        capsys.readouterr()
        encoded()
        assert ("are not what was written; they are encoded again" in capsys.readouterr().out) is told
    assert [each.pairs for each in list_caches(tmp_path / "cache")] == [70]


def test_the_next_run_finds_it(arguments, tmp_path, capsys):
    words = ("--num_train_epochs=2",)
    train(arguments(*words))
    assert capsys.readouterr().out.count("encoded in") == 2
    train(arguments(*words, "--seed=7", "--learning_rate=1e-3", f"--output_dir={tmp_path / 'next'}"))
    out = capsys.readouterr().out
    assert out.count("found") == 2
    assert "encoded in" not in out
