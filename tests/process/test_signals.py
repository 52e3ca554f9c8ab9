import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from recipe.cache.appending import Writer
from recipe.checkpoints.rotation import checkpoint_folders
from recipe.commands.prefix_cache import list_caches
from recipe.commands.train import train
from recipe.errors import Stopped, UserError
from recipe.process.signals import SIGNALS, stop_requests
from recipe.system.folder_lock import locked
from tests.utils import ROOT


def test_a_hang_up_that_nohup_has_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as request:
            os.kill(os.getpid(), signal.SIGHUP)
            assert request.signum == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_in_a_thread_leaves_signals_to_the_main_one(arguments, tmp_path):
    handlers = [signal.getsignal(signum) for signum in SIGNALS]
    with ThreadPoolExecutor(1) as pool:
        pool.submit(train, arguments("--prefix_cache=on")).result()
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert [signal.getsignal(signum) for signum in SIGNALS] == handlers


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
