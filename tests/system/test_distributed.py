"""Several processes on one machine, as accelerate launch starts them: gloo on the CPU."""

import errno
import json
import os
import re
import shutil
import signal
import time

import pytest
import torch

from recipe.cache import appending
from recipe.checkpoints.rotation import checkpoint_folders
from recipe.commands import answering, predict
from recipe.commands.prefix_cache import list_caches
from recipe.commands.train import train
from recipe.errors import RunError, UserError
from recipe.system.distributed import check_sharding, meeting
from recipe.training.trainer import FreezeTrainer
from tests.launching import fork_ranks, fsdp_env, small_run, start
from tests.utils import KEYS, assert_close, history, outcome

LOST = r"run_freeze.py: error: process {} of 2: another one has ended .*; the same command goes on from what is saved\n"


@pytest.fixture
def launch(tiny_model, pairs_dir, tmp_path):
    """A function: words -> the small run of `arguments` on two processes, 16 pairs each."""
    return lambda *words: start([*small_run(tiny_model, pairs_dir, tmp_path / "cache of two"), *words])


@pytest.fixture
def run_two(tiny_model, pairs_dir, tmp_path):
    """The same without the launcher; what the first rank printed."""

    def run(*words):
        flags = small_run(tiny_model, pairs_dir, tmp_path / "cache of two")
        first, second = fork_ranks([*flags, *words], [tmp_path, tmp_path])
        assert (first.status, second.status, second.out) == (0, 0, ""), first.err + second.err
        return first.out

    return run


def test_two_ranks_give_the_result_of_one(arguments, run_two, tmp_path):
    # 30 validation pairs are no multiple of 7 x 2; a patience of 1 ends the run early
    words = ["--dropout=0", "--num_train_epochs=6", "--prefix_cache_dtype=float32", "--early_stopping_patience=1"]
    train(arguments("--per_device_train_batch_size=32", *words, f"--output_dir={tmp_path / 'one'}"))
    out = run_two(*words, "--per_device_eval_batch_size=7", f"--output_dir={tmp_path / 'two'}")
    assert out.count("\nepoch 1 ") == 1
    assert " GB, of the first of 2 processes\n" in out
    for key in KEYS:
        assert_close(history(tmp_path / "one", key), history(tmp_path / "two", key), 1e-5)
    ends = [json.loads((tmp_path / name / "all_results.json").read_text()) for name in ("one", "two")]
    for key in ("eval_accuracy", "eval_majority_baseline", "epoch", "eval_f1", "eval_confusion_matrix"):
        assert ends[0][key] == ends[1][key], key
    assert len(history(tmp_path / "one", "eval_loss")) < 6
    assert [each.pairs for each in list_caches(tmp_path / "cache of two")] == [100]


def fill_the_second_ranks_disk():
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if os.environ["RANK"] == "1":
        appending.append = full


def test_what_a_rank_cannot_write_is_told_once(tiny_model, pairs_dir, tmp_path):
    flags = [*small_run(tiny_model, pairs_dir, tmp_path / "cache"), f"--output_dir={tmp_path / 'run'}"]
    first, second = fork_ranks(flags, [tmp_path, tmp_path], prepare=fill_the_second_ranks_disk)
    assert (first.status, second.status, second.err) == (1, 1, ""), first.err
    assert "No space left on device; to train without one: --prefix_cache off" in first.err


def test_two_ranks_score_and_answer_like_one(tiny_model, pairs_dir, tmp_path, arguments):
    train(arguments(f"--output_dir={tmp_path / 'run'}"))
    base = [f"--model_name_or_path={tmp_path / 'run'}", "--use_cpu", "--per_device_eval_batch_size=7"]
    before = json.loads((tmp_path / "run" / "all_results.json").read_text())
    for words in (["--do_eval"], ["--do_predict"]):
        first, second = fork_ranks([*base, *words], [tmp_path, tmp_path])
        assert (first.status, second.status, second.out) == (0, 0, ""), first.err + second.err
    after = json.loads((tmp_path / "run" / "eval_results.json").read_text())
    for key in ("eval_accuracy", "eval_confusion_matrix"):
        assert after[key] == before[key]
    assert after["eval_loss"] == pytest.approx(before["eval_loss"], abs=1e-6)
    assert len((tmp_path / "run" / "predictions.jsonl").read_text().splitlines()) == 20


def few_at_once():
    answering.BATCHES_AT_ONCE = 1


def die_at_the_second_lot():
    few_at_once()
    real, appended = predict.append, []

    def append(*given):
        if appended:
            os.kill(os.getpid(), signal.SIGKILL)
        appended.append(real(*given))

    predict.append = append


def test_two_ranks_go_on_with_answers_where_the_first_was_killed(tmp_path, arguments):
    train(arguments(f"--output_dir={tmp_path / 'run'}"))
    words = [f"--model_name_or_path={tmp_path / 'run'}", "--use_cpu", "--per_device_eval_batch_size=3", "--do_predict"]
    answers = tmp_path / "run" / "predictions.jsonl"
    fork_ranks(words, [tmp_path, tmp_path], prepare=few_at_once)
    expected = answers.read_bytes()
    answers.unlink()
    first, second = fork_ranks(words, [tmp_path, tmp_path], prepare=die_at_the_second_lot)
    assert first.status == -signal.SIGKILL
    assert second.status == 1
    assert re.fullmatch(LOST.format(1), second.err)
    assert not answers.exists()
    first, second = fork_ranks(words, [tmp_path, tmp_path], prepare=few_at_once)
    assert (first.status, second.status, second.out) == (0, 0, ""), first.err + second.err
    assert "going on after 6 of 20 pairs" in first.out
    assert answers.read_bytes() == expected


def test_two_ranks_resume_in_mid_epoch_to_the_same_bytes(run_two, tmp_path):
    words = ["--num_train_epochs=2", "--save_strategy=steps", "--save_steps=1", "--save_total_limit=9"]
    words += ["--eval_strategy=steps", "--eval_steps=1", f"--output_dir={tmp_path / 'run'}"]
    run_two(*words)
    expected = outcome(tmp_path)
    for checkpoint in checkpoint_folders(tmp_path / "run")[:4]:
        shutil.rmtree(checkpoint)
    (tmp_path / "run" / "run.json").unlink()
    assert "going on from step 2: " in run_two(*words)
    assert outcome(tmp_path) == expected


def test_a_rank_that_dies_ends_the_run_and_the_same_command_carries_on(launch, tiny_model, pairs_dir, tmp_path):
    words = ["--num_train_epochs=400", "--save_strategy=steps", "--save_steps=2", "--eval_strategy=no"]
    words += [f"--output_dir={tmp_path / 'run'}"]
    process = launch(*words)
    deadline = time.monotonic() + 120
    while len(checkpoint_folders(tmp_path / "run")) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    ranks = [
        int(name)
        for name in os.listdir("/proc")
        if name.isdigit() and b"\0RANK=1\0" in _environment(name) and str(tmp_path).encode() in _command(name)
    ]
    os.kill(ranks[0], signal.SIGKILL)
    started = time.monotonic()
    _, err = process.communicate(timeout=120)
    assert time.monotonic() - started < 60
    assert process.returncode == 1
    assert "SIGKILL" in err or "-9" in err
    assert "gloo/transport" not in err  # as in a traceback
    step = int(checkpoint_folders(tmp_path / "run")[0].name.split("-")[1])
    flags = [*small_run(tiny_model, pairs_dir, tmp_path / "cache of two"), *words]
    first, second = fork_ranks(flags, [tmp_path, tmp_path], prepare=stop_at_once)
    assert (first.status, second.status) == (143, 143), first.err + second.err
    (line,) = [line for line in first.out.splitlines() if line.startswith("going on from step")]
    assert int(line.split()[4].rstrip(":")) in (step, step - 2)  # the newest may be half-written


def stop_at_once():
    """Have this process be asked to stop in its first step."""
    real = FreezeTrainer.training_step

    def stopping(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(self, *args, **kwargs)

    FreezeTrainer.training_step = stopping


def _environment(process):
    return _read(f"/proc/{process}/environ")


def _command(process):
    return _read(f"/proc/{process}/cmdline")


def _read(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def test_an_error_of_any_rank_is_told_once_by_the_first(tiny_model, pairs_dir, tmp_path):
    flags = [*small_run(tiny_model, pairs_dir, tmp_path / "cache"), "--freeze_layers=0-9"]
    first, second = fork_ranks(flags, [tmp_path, tmp_path])
    assert (first.status, second.status) == (2, 2)
    told = "run_freeze.py: error: --freeze_layers 0-9: no layer 9; the model's layers are 0-3\n"
    assert (first.err, second.err) == (told, "")


def test_sharded_states_are_refused(monkeypatch):
    check_sharding({})
    check_sharding(fsdp_env())
    with pytest.raises(UserError, match=r"fsdp_state_dict_type SHARDED_STATE_DICT: .* FULL_STATE_DICT is expected"):
        check_sharding({**fsdp_env(), "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"})


def test_who_is_waited_for_is_said_and_who_is_not_there_is_one_line(monkeypatch, capsys):
    place = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "elsewhere", "MASTER_PORT": "9"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    told = "process 1 of 2, which meet at elsewhere:9"

    def nobody_comes():
        time.sleep(0.2)
        raise torch.distributed.DistNetworkError("no route\nto host")

    with pytest.raises(RunError, match=rf"^{told}: no route to host; a free port") as error, meeting(0.01):
        nobody_comes()
    assert "\n" not in str(error.value)
    assert capsys.readouterr().err.startswith(f"{told}, waits for the others; where no launcher started it: unset RANK")
