import os
import signal
import sys

import pytest

from recipe.checkpoints.rotation import checkpoint_folders
from recipe.commands.train import train
from recipe.errors import Stopped
from recipe.training.trainer import FreezeTrainer
from tests.utils import outcome


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


def test_a_second_ctrl_c_stops_at_once(arguments, tmp_path, signal_at):
    signal_at(5, signal.SIGINT, signal.SIGINT)
    with pytest.raises(Stopped) as stop:
        train(arguments("--prefix_cache=off"))
    assert stop.value.status == 130
    assert not checkpoint_folders(tmp_path / "run")
