"""Two machines that share no disk: two launches on loopback, each with folders of its own."""

import shutil

import pytest

from recipe.caches import list_caches
from recipe.checkpointing import checkpoint_folders
from recipe.training import train
from tests.conftest import make_pairs, write_jsonl
from tests.launching import finished, small_run, start_machines
from tests.test_ranks import KEYS
from tests.test_training import assert_close, history


@pytest.fixture
def machines(tiny_model, pairs_dir, tmp_path):
    """A function: words -> the two processes of the small run, and their folders."""
    folders = [tmp_path / name for name in ("first", "second")]
    flags = [*small_run(tiny_model, pairs_dir, "cache"), "--output_dir=run"]
    return lambda *words: start_machines([*flags, *words], folders), folders


def test_each_machine_encodes_for_itself_and_the_result_is_that_of_one(arguments, machines, tmp_path):
    launch, folders = machines
    words = ["--dropout=0", "--num_train_epochs=2", "--prefix_cache_dtype=float32"]
    train(arguments("--per_device_train_batch_size=32", *words, f"--output_dir={tmp_path / 'one'}"))
    first, second = [finished(process) for process in launch(*words)]
    assert "each keeps its own checkpoints" in first
    assert second == ""
    for folder in folders:
        assert sorted(m["pairs"] for _, _, m in list_caches(folder / "cache")) == [30, 70]
        for key in KEYS:
            assert_close(history(tmp_path / "one", key), history(folder / "run", key), 1e-5)
    assert (folders[0] / "run" / "model.safetensors").is_file()
    assert {path.name.split("-")[0] for path in (folders[1] / "run").iterdir()} == {"checkpoint"}
    assert "this run has finished" in finished(launch(*words)[0])


def test_they_go_on_from_the_newest_checkpoint_that_both_have(machines):
    launch, folders = machines
    words = ["--num_train_epochs=2", "--save_strategy=steps", "--save_steps=1", "--save_total_limit=9"]
    words += ["--eval_strategy=steps", "--eval_steps=1"]
    for process in launch(*words):
        finished(process)
    expected = (folders[0] / "run" / "model.safetensors").read_bytes()
    for folder, lost in zip(folders, (1, 3), strict=True):
        for checkpoint in checkpoint_folders(folder / "run")[:lost]:
            shutil.rmtree(checkpoint)
    (folders[0] / "run" / "run.json").unlink()
    shutil.rmtree(folders[1] / "cache")  # only one machine has to encode again
    out = finished(launch(*words)[0])
    assert "going on from step 3: " in out
    assert "checkpoint-5 is left out: not every machine has it" in out
    assert (folders[0] / "run" / "model.safetensors").read_bytes() == expected
    for folder in folders:
        assert len(list(list_caches(folder / "cache"))) == 2


def test_other_data_on_one_machine_are_refused_on_all(tiny_model, tmp_path):
    folders = [tmp_path / name for name in ("first", "second")]
    for seed, folder in enumerate(folders):
        (folder / "data").mkdir(parents=True)
        write_jsonl(folder / "data" / "train.json", make_pairs(40, seed))
        write_jsonl(folder / "data" / "dev.json", make_pairs(10))
    processes = start_machines([*small_run(tiny_model, "data", "cache"), "--output_dir=run"], folders)
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode != 0
        assert "the same arguments, data and weights are expected on every machine" in err
    assert not any((folder / "run").exists() for folder in folders)


def test_data_missing_on_one_machine_end_both(tiny_model, pairs_dir, tmp_path):
    folders = [tmp_path / name for name in ("first", "second")]
    folders[0].mkdir()
    shutil.copytree(pairs_dir, folders[0] / "data")
    processes = start_machines([*small_run(tiny_model, "data", "cache"), "--output_dir=run"], folders)
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode != 0
        assert "--data_dir data: no such folder" in err
