"""Two machines that share no disk: two launches on loopback, each with folders of its own."""

import shutil

import pytest

from recipe.checkpoints.rotation import checkpoint_folders
from recipe.commands.prefix_cache import list_caches
from recipe.commands.train import train
from tests.launching import finished, fork_ranks, small_run, start_machines
from tests.utils import KEYS, assert_close, history, make_pairs, outcome, write_jsonl

WORDS = ["--dropout=0", "--num_train_epochs=2", "--prefix_cache_dtype=float32", "--output_dir=run"]


@pytest.fixture
def folders(tmp_path):
    """What the two machines have for a disk."""
    return [tmp_path / name for name in ("first", "second")]


def test_each_machine_encodes_for_itself_and_the_result_is_that_of_one(
    arguments, tiny_model, pairs_dir, folders, tmp_path
):
    one = ["--per_device_train_batch_size=32", *WORDS[:-1], f"--output_dir={tmp_path / 'one'}"]
    train(arguments(*one))
    words = [*small_run(tiny_model, pairs_dir, "cache"), *WORDS]
    first, second = [finished(process) for process in start_machines(words, folders)]
    assert "each keeps its own checkpoints" in first
    assert second == ""
    for folder in folders:
        assert [each.pairs for each in list_caches(folder / "cache")] == [100]
        for key in KEYS:
            assert_close(history(tmp_path / "one", key), history(folder / "run", key), 1e-5)
    assert (folders[0] / "run" / "model.safetensors").is_file()
    assert {path.name.split("-")[0] for path in (folders[1] / "run").iterdir()} == {"checkpoint"}
    again = fork_ranks(words, folders, machines=True)
    assert [end.status for end in again] == [0, 0]
    assert "this run has finished" in again[0].out


def test_they_go_on_from_the_newest_checkpoint_that_both_have(tiny_model, pairs_dir, folders):
    words = [*small_run(tiny_model, pairs_dir, "cache"), "--output_dir=run", "--num_train_epochs=2"]
    words += ["--save_strategy=steps", "--save_steps=1", "--save_total_limit=9", "--eval_strategy=steps"]
    words += ["--eval_steps=1"]
    assert [end.status for end in fork_ranks(words, folders, machines=True)] == [0, 0]
    expected = outcome(folders[0])[0]
    for folder, lost in zip(folders, (1, 3), strict=True):
        for checkpoint in checkpoint_folders(folder / "run")[:lost]:
            shutil.rmtree(checkpoint)
    (folders[0] / "run" / "run.json").unlink()
    shutil.rmtree(folders[1] / "cache")  # only one machine has to encode again
    ends = fork_ranks(words, folders, machines=True)
    assert [end.status for end in ends] == [0, 0], ends[0].err + ends[1].err
    assert "going on from step 3: " in ends[0].out
    assert "checkpoint-5 is left out: not every machine has it" in ends[0].out
    assert outcome(folders[0])[0] == expected
    for folder in folders:
        assert len(list(list_caches(folder / "cache"))) == 1


def test_other_data_on_one_machine_are_refused_on_all(tiny_model, folders):
    for seed, folder in enumerate(folders):
        (folder / "data").mkdir(parents=True)
        write_jsonl(folder / "data" / "train.json", make_pairs(40, seed))
        write_jsonl(folder / "data" / "dev.json", make_pairs(10))
    for end in fork_ranks([*small_run(tiny_model, "data", "cache"), "--output_dir=run"], folders, machines=True):
        assert end.status == 2
        assert "the same arguments, data and weights are expected on every machine" in end.err
    assert not any((folder / "run").exists() for folder in folders)


def test_data_missing_on_one_machine_end_both(tiny_model, pairs_dir, folders):
    folders[0].mkdir()
    shutil.copytree(pairs_dir, folders[0] / "data")
    for end in fork_ranks([*small_run(tiny_model, "data", "cache"), "--output_dir=run"], folders, machines=True):
        assert end.status == 2
        assert end.err.startswith("run_freeze.py: error: on ")
        assert "--data_dir data: no such folder" in end.err
