import fcntl
import os
import signal
import subprocess
import sys
import time

import pytest

from recipe.cache.appending import Writer
from recipe.checkpoints.rotation import checkpoint_folders
from recipe.commands.prefix_cache import list_caches
from recipe.commands.train import train
from recipe.errors import RunError, Stopped, UserError
from recipe.process.signals import stop_requests
from recipe.system.folder_lock import locked
from recipe.training.trainer import FreezeTrainer
from tests.utils import ROOT, outcome


@pytest.fixture
def signal_at(monkeypatch):
    """A function: (step, signals) sends them to this process while that step runs."""

    def arrange(step, *signals):
        real = FreezeTrainer.training_step

        def stepping(self, *args, **kwargs):
            if self.state.global_step + 1 == step and self.state.global_step == self._initial_global_step + step - 1:
                for signum in signals:
                    os.kill(os.getpid(), signum)
            return real(self, *args, **kwargs)

        monkeypatch.setattr(FreezeTrainer, "training_step", stepping)

    return arrange


@pytest.mark.parametrize("step", [1, 9, 10, 18])  # the first, an epoch's last and first, the very last
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_and_saves_and_the_same_command_goes_on(
    arguments, tmp_path, signal_at, step, signum
):
    words = ["--num_train_epochs=2", "--prefix_cache=off"]
    train(arguments(*words, f"--output_dir={tmp_path / 'whole' / 'run'}"))
    handler = signal.getsignal(signum)
    signal_at(step, signum)
    with pytest.raises(Stopped, match=rf"stopped at step {step} of 18, saved in .*checkpoint-{step}; the same") as stop:
        train(arguments(*words))
    assert stop.value.status == 128 + signum
    assert signal.getsignal(signum) is handler
    assert checkpoint_folders(tmp_path / "run")[0].name == f"checkpoint-{step}"
    signal_at(0)
    train(arguments(*words))
    assert outcome(tmp_path)[0] == outcome(tmp_path / "whole")[0]


@pytest.mark.parametrize(
    ("signum", "stream"), [(signal.SIGTERM, "full"), (signal.SIGINT, "broken"), (signal.SIGHUP, "closed")]
)
def test_a_signal_saves_where_nobody_listens(arguments, tmp_path, signal_at, monkeypatch, signum, stream):
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full", "w") as full, open(writer, "w") as broken:
        monkeypatch.setattr(sys, "stderr", {"full": full, "broken": broken, "closed": None}[stream])
        signal_at(2, signum)
        with pytest.raises(Stopped, match="stopped at step 2 of 9, saved in") as stop:
            train(arguments("--prefix_cache=off", "--eval_strategy=no"))
    assert stop.value.status == 128 + signum
    assert checkpoint_folders(tmp_path / "run")[0].name == "checkpoint-2"


def test_a_hang_up_that_nohup_has_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as request:
            os.kill(os.getpid(), signal.SIGHUP)
            assert request.signum == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_stops_at_once(arguments, tmp_path, signal_at):
    signal_at(5, signal.SIGINT, signal.SIGINT)
    with pytest.raises(Stopped) as stop:
        train(arguments("--prefix_cache=off"))
    assert stop.value.status == 130
    assert not checkpoint_folders(tmp_path / "run")


def test_a_signal_while_encoding_stops_at_once_and_keeps_what_was_committed(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr("recipe.cache.appending.COMMIT_BYTES", 1)
    real, count = Writer.put, []

    def put(self, *batch):
        count.append(1)
        if len(count) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        real(self, *batch)

    monkeypatch.setattr(Writer, "put", put)
    with pytest.raises(Stopped) as stop:
        train(arguments("--prefix_cache=on"))
    assert stop.value.status == 143
    assert not (tmp_path / "run").exists()
    (store,) = list_caches(tmp_path / "cache")
    assert 0 < store.pairs < 70


def test_the_command_ends_with_143_and_one_line(tmp_path, tiny_model, pairs_dir):
    words = {"model_name_or_path": tiny_model, "data_dir": pairs_dir, "freeze_layers": "0-1", "max_length": 32}
    words |= {"num_train_epochs": 4000, "output_dir": tmp_path / "run", "use_cpu": "true", "prefix_cache": "off"}
    words |= {"eval_strategy": "no"}
    command = [sys.executable, "run_freeze.py", *(f"--{name}={value}" for name, value in words.items())]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not checkpoint_folders(tmp_path / "run") and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(UserError, match="another run writes there"), locked(tmp_path / "run"):
        pass
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    told = errors.strip().splitlines()
    assert told[0] == "finishing the step, then saving; Ctrl-C again stops at once"
    assert told[1].startswith("run_freeze.py: stopped at step ")
    assert len(told) == 2
    newest = checkpoint_folders(tmp_path / "run")[0]
    assert f"saved in {newest}; the same command carries on" in told[1]


def test_a_lock_is_let_go_of_with_its_process(arguments, tmp_path):
    (tmp_path / "run").mkdir()
    with open(tmp_path / "run" / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=f"--output_dir {tmp_path / 'run'}: another run writes there"):
            train(arguments())
    train(arguments())


def test_a_loss_that_is_no_number_names_the_last_good_checkpoint(arguments, tmp_path, monkeypatch):
    real = FreezeTrainer.compute_loss

    def compute_loss(self, *args, **kwargs):
        loss = real(self, *args, **kwargs)
        return loss * float("nan") if self.state.global_step == 12 else loss

    monkeypatch.setattr(FreezeTrainer, "compute_loss", compute_loss)
    with pytest.raises(
        RunError, match=rf"the loss is nan at step 13 .*last good checkpoint: {tmp_path}/run/checkpoint-9"
    ):
        train(arguments("--num_train_epochs=2", "--prefix_cache=off"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_refused(arguments, tmp_path):
    (tmp_path / "run").mkdir(mode=0o500)
    with pytest.raises(UserError, match=r"--output_dir .*: Permission denied"):
        train(arguments())


def test_a_file_in_the_place_of_the_folder_is_refused(arguments, tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match=r"--output_dir .*: (Not a directory|File exists)"):
        train(arguments())
