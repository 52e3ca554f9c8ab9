"""Several processes on one machine, as accelerate launch starts them: gloo on the CPU."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from recipe.checkpointing import checkpoint_folders
from recipe.training import train
from tests.kill_points import outcome
from tests.test_training import assert_close, history

ROOT = Path(__file__).parents[1]


@pytest.fixture
def launch(tiny_model, pairs_dir, tmp_path):
    """A function: words -> the small run of `arguments` on two processes, 16 pairs each; what it printed."""

    def start(*words):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = ["accelerate.commands.launch", "--multi_gpu", "--num_processes=2", f"--main_process_port={port}"]
        flags = ["--model_name_or_path", tiny_model, "--data_dir", pairs_dir, "--freeze_layers", "0-1"]
        flags += ["--max_length", "32", "--logging_steps", "1", "--use_cpu", "--per_device_train_batch_size", "16"]
        flags += ["--prefix_cache_dir", tmp_path / "cache of two"]
        done = subprocess.run(
            [sys.executable, "-m", *command, "run_freeze.py", *map(str, flags), *words],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return start


def test_two_ranks_see_each_example_once_and_step_like_one(arguments, launch, tmp_path):
    words = ["--dropout=0", "--num_train_epochs=2", "--prefix_cache_dtype=float32"]
    train(arguments("--per_device_train_batch_size=32", *words, f"--output_dir={tmp_path / 'one'}"))
    out = launch(*words, f"--output_dir={tmp_path / 'two'}")
    assert out.count("\nepoch 1 ") == 1
    for key in ("loss", "grad_norm", "learning_rate", "eval_loss", "eval_accuracy"):
        assert_close(history(tmp_path / "one", key), history(tmp_path / "two", key), 1e-5)


def test_two_ranks_resume_in_mid_epoch_to_the_same_bytes(launch, tmp_path):
    words = ["--num_train_epochs=2", "--save_strategy=steps", "--save_steps=1", "--save_total_limit=9"]
    words += ["--eval_strategy=steps", "--eval_steps=1", f"--output_dir={tmp_path / 'run'}"]
    launch(*words)
    expected = outcome(tmp_path)
    for checkpoint in checkpoint_folders(tmp_path / "run")[:4]:
        shutil.rmtree(checkpoint)
    (tmp_path / "run" / "run.json").unlink()
    assert "going on from step 2: " in launch(*words)
    assert outcome(tmp_path) == expected
