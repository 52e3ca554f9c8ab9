import json
import os
import shutil

import pytest

from recipe.checkpoints.rotation import checkpoint_folders
from recipe.command_line.parsing import parse
from recipe.commands.predict import PREDICTIONS, predict
from recipe.commands.train import train
from recipe.errors import UserError
from tests.utils import outcome, snapshot

EACH_STEP = ("--num_train_epochs=2", "--save_strategy=steps", "--save_steps=1", "--save_total_limit=99")
EACH_STEP += ("--eval_strategy=steps", "--eval_steps=1")
ACCUMULATED = ("--per_device_train_batch_size=4", "--gradient_accumulation_steps=3")


def clock(checkpoint):
    """The seconds of training that a checkpoint carries on."""
    return json.loads((checkpoint / "manifest.json").read_text())["carried"]["train_seconds"]


@pytest.mark.parametrize(
    ("words", "last"),
    [
        (["--prefix_cache=on", "--max_train_samples=37"], 10),
        (["--prefix_cache=off", "--max_train_samples=37", *ACCUMULATED], 8),
        (["--prefix_cache=off", "--no_streaming", "--early_stopping_patience=4", "--learning_rate=0.01"], None),
        (["--prefix_cache=off", "--early_stopping_patience=4", "--learning_rate=0.01", "--eval_on_start"], None),
    ],
)
def test_a_run_resumed_at_any_step_ends_where_the_whole_one_does(arguments, tmp_path, words, last):
    words = [*EACH_STEP, "--per_device_train_batch_size=8", *words]
    train(arguments(*words, f"--output_dir={tmp_path / 'whole' / 'run'}"))
    checkpoints = checkpoint_folders(tmp_path / "whole" / "run")
    steps = len(checkpoints)
    assert steps == last or (last is None and 4 < steps < 18)  # patience ended it early
    for checkpoint in checkpoints:
        folder = tmp_path / "resumed" / "run"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for step in range(1, int(checkpoint.name.split("-")[1]) + 1):
            name = f"checkpoint-{step}"
            shutil.copytree(checkpoint.parent / name, folder / name, copy_function=os.link)
        report = train(arguments(*words, f"--output_dir={folder}"))
        assert outcome(tmp_path / "resumed") == outcome(tmp_path / "whole"), checkpoint.name
        assert 0 <= report.eval_seconds <= report.train_seconds  # its own seconds, not those before the stop
        assert report.earlier_train_seconds == clock(checkpoint) > 0
        said = json.loads((folder / "run.json").read_text())
        assert said["earlier_train_seconds"] == report.earlier_train_seconds


def test_a_run_that_goes_on_is_not_evaluated_on_start_again(begun):
    folder, again = begun
    again("--eval_on_start")
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in log if "eval_loss" in entry] == [9, 18]


@pytest.mark.parametrize("cache", ["on", "off"])
def test_two_workers_resume_in_mid_epoch(arguments, tmp_path, cache):
    words = [*EACH_STEP, "--save_steps=3", "--eval_steps=3", "--dataloader_num_workers=2", f"--prefix_cache={cache}"]
    train(arguments(*words, f"--output_dir={tmp_path / 'whole' / 'run'}"))
    train(
        arguments(
            *words,
            f"--output_dir={tmp_path / 'resumed' / 'run'}",
            f"--resume={tmp_path / 'whole' / 'run' / 'checkpoint-12'}",
        )
    )
    assert outcome(tmp_path / "resumed")[0] == outcome(tmp_path / "whole")[0]


def test_workers_that_stay_change_nothing(arguments, tmp_path):
    """Neither from the beginning on nor behind a checkpoint, where a DataLoader would draw once more or once less."""
    words = ["--num_train_epochs=3", "--dataloader_num_workers=1", "--prefix_cache=off", "--save_total_limit=9"]
    train(arguments(*words, f"--output_dir={tmp_path / 'whole' / 'run'}"))
    for name, begin in (("begun", "never"), ("resumed", tmp_path / "whole" / "run" / "checkpoint-9")):
        folder = f"--output_dir={tmp_path / name / 'run'}"
        train(arguments(*words, "--dataloader_persistent_workers", folder, f"--resume={begin}"))
        assert outcome(tmp_path / name)[0] == outcome(tmp_path / "whole")[0], name


def test_the_same_command_twice_gives_the_same_bytes(arguments, tmp_path):
    for name in ("one", "two"):
        train(
            arguments(
                "--prefix_cache=on",
                f"--output_dir={tmp_path / name / 'run'}",
                f"--prefix_cache_dir={tmp_path / name / 'cache'}",
            )
        )
        predict(parse(["--do_predict", f"--model_name_or_path={tmp_path / name / 'run'}", "--use_cpu"]))
    assert outcome(tmp_path / "one")[0] == outcome(tmp_path / "two")[0]
    one, two = ((tmp_path / name / "run" / PREDICTIONS).read_bytes() for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize(
    ("length", "longer"), [("--num_train_epochs=5", "--num_train_epochs=9"), ("--max_steps=45",) * 2]
)
def test_a_run_that_patience_has_ended_goes_no_further(arguments, tmp_path, capsys, length, longer):
    words = ["--prefix_cache=off", "--early_stopping_patience=1", "--learning_rate=1e-9"]  # which changes no answer
    train(arguments(*words, length))
    (tmp_path / "run" / "run.json").unlink()  # as where it was stopped behind its last checkpoint
    before = outcome(tmp_path)
    assert "going on" not in capsys.readouterr().out
    train(arguments(*words, longer))
    assert "note: --early_stopping_patience 1 is used up\n" in capsys.readouterr().out
    assert outcome(tmp_path)[0] == before[0]
    assert [path.name for path in checkpoint_folders(tmp_path / "run")] == ["checkpoint-18", "checkpoint-9"]


def test_saving_cadence_is_the_new_ones(begun):
    folder, again = begun
    again("--save_strategy=steps", "--save_steps=4", "--eval_strategy=steps", "--eval_steps=4", "--save_total_limit=9")
    assert [path.name for path in checkpoint_folders(folder)] == [f"checkpoint-{step}" for step in (18, 16, 12, 9)]


def test_a_finished_run_says_so_and_can_be_made_longer(arguments, tmp_path, capsys):
    train(arguments())
    before = snapshot(tmp_path / "run")
    capsys.readouterr()
    assert train(arguments()) is None
    assert "this run has finished with accuracy 0." in capsys.readouterr().out
    assert snapshot(tmp_path / "run") == before
    with pytest.raises(UserError, match=r"--learning_rate 0.0003: it was 0.0001 in .*which is at step 9 of 9 already"):
        train(arguments("--learning_rate=0.0003"))
    with pytest.raises(UserError, match=r"--seed 1: it was 42 in .*run.json"):
        train(arguments("--seed=1"))
    assert train(arguments("--num_train_epochs=2")).metrics["epoch"] in (1, 2)
    assert "going on from step 9" in capsys.readouterr().out


def test_a_finished_run_has_ended_with_the_best_or_the_last_model(arguments, tmp_path, capsys):
    words = ["--num_train_epochs=2", "--prefix_cache=off"]
    train(arguments(*words))
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match=r"--load_best_model_at_end False: it was True in .*run.json, which has finish"):
        train(arguments(*words, "--load_best_model_at_end=false"))
    assert snapshot(tmp_path) == before
    (tmp_path / "run" / "run.json").unlink()  # as where the run was stopped before its end
    train(arguments(*words, "--load_best_model_at_end=false"))
    assert not json.loads((tmp_path / "run" / "run.json").read_text())["results"]["best"]
    capsys.readouterr()
    assert train(arguments(*words, "--load_best_model_at_end=false")) is None
    assert "this run has finished" in capsys.readouterr().out


def test_a_finished_run_whose_model_is_damaged_is_not_finished(arguments, tmp_path):
    train(arguments())
    expected = outcome(tmp_path)
    (tmp_path / "run" / "model.safetensors").write_bytes(b"torn")
    assert train(arguments()) is not None
    assert outcome(tmp_path) == expected


def test_never_starts_over(arguments, tmp_path, capsys):
    train(arguments())
    expected = outcome(tmp_path)
    capsys.readouterr()
    train(arguments("--resume=never"))
    assert "going on" not in capsys.readouterr().out
    assert outcome(tmp_path) == expected
    train(arguments("--resume=never", "--seed=1"))
    assert outcome(tmp_path)[0] != expected[0]


def test_starting_over_costs_no_checkpoint_where_it_is_refused(arguments, tmp_path):
    train(arguments())
    before = snapshot(tmp_path / "run")
    with pytest.raises(UserError, match="--prefix_cache_max_gb 1e-09 has no room for a single pair"):
        train(arguments("--resume=never", "--prefix_cache=on", "--prefix_cache_max_gb=1e-9"))
    assert snapshot(tmp_path / "run") == before


@pytest.mark.parametrize("name", ["nothing-there", "torn"])
def test_a_path_to_no_good_checkpoint_is_refused(arguments, tmp_path, name):
    (tmp_path / "torn").mkdir()
    with pytest.raises(UserError, match=rf"--resume {tmp_path / name}: .*manifest.json: not there"):
        train(arguments(f"--resume={tmp_path / name}"))
    assert not (tmp_path / "run").exists()


def test_a_path_from_elsewhere_needs_a_folder_without_checkpoints(arguments, tmp_path):
    train(arguments(f"--output_dir={tmp_path / 'one'}"))
    train(arguments(f"--output_dir={tmp_path / 'two'}"))
    with pytest.raises(UserError, match="has checkpoints of its own"):
        train(arguments(f"--output_dir={tmp_path / 'two'}", f"--resume={tmp_path / 'one' / 'checkpoint-9'}"))


def test_a_run_gone_on_with_from_a_folder_that_was_moved_ends_with_its_best(arguments, tmp_path):
    words = [*EACH_STEP, "--save_steps=9", "--eval_steps=9", "--metric_for_best_model=loss", "--learning_rate=0.03"]
    first, moved = tmp_path / "first", tmp_path / "moved"
    train(arguments(*words, f"--output_dir={first}"))
    assert json.loads((first / "trainer_state.json").read_text())["best_global_step"] == 9
    first.rename(moved)
    train(arguments(*words, f"--output_dir={first}", "--seed=1"))  # another run, where the first one's state points to
    train(arguments(*words, f"--resume={moved / 'checkpoint-18'}"))
    expected = (moved / "model.safetensors").read_bytes()
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == expected
    shutil.rmtree(first)
    shutil.rmtree(tmp_path / "run")
    train(arguments(*words, f"--resume={moved / 'checkpoint-18'}"))
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == expected


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_another_programs_checkpoints_are_left_alone(arguments, tmp_path, resume):
    stock = tmp_path / "run" / "checkpoint-5"
    stock.mkdir(parents=True)
    (stock / "model.safetensors").write_bytes(b"someone's")
    (stock / "optimizer.pt").touch()
    with pytest.raises(UserError, match=r"checkpoint-5/model.safetensors is another program's; name another --output"):
        train(arguments(f"--resume={resume}"))
    assert (stock / "model.safetensors").read_bytes() == b"someone's"
