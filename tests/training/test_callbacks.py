import json
import os
import signal
import sys

import pytest

from recipe.checkpoints.rotation import checkpoint_folders
from recipe.commands.train import train
from recipe.errors import Stopped, UserError
from recipe.training import trainer as trainer_module
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


def test_a_run_begun_anew_goes_on_where_it_was_stopped(arguments, tmp_path, signal_at, capsys):
    words = ["--seed=1", "--prefix_cache=off"]
    train(arguments(*words, f"--output_dir={tmp_path / 'whole' / 'run'}"))
    train(arguments("--prefix_cache=off"))
    signal_at(3, signal.SIGTERM)
    with pytest.raises(Stopped, match=r"checkpoint-3; the same command without --resume never carries on from there$"):
        train(arguments(*words, "--resume=never"))
    signal_at(0)
    with pytest.raises(UserError, match=r"--seed 2: it was 1 in .*checkpoint-3;"):
        train(arguments(*words, "--seed=2"))
    capsys.readouterr()
    train(arguments(*words))
    assert "going on from step 3" in capsys.readouterr().out
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


def figures(folder):
    """What a run's log and its results say of its losses."""
    state = json.loads((folder / "trainer_state.json").read_text())
    losses = [
        (entry["step"], entry["loss"], entry["learning_rate"]) for entry in state["log_history"] if "loss" in entry
    ]
    told = json.loads((folder / "all_results.json").read_text())
    return losses, told["train_loss"]


@pytest.mark.parametrize("step", [3, 9, 12, 18])
@pytest.mark.parametrize("words", [[], ["--eval_strategy=no"]])
def test_a_stopped_run_tells_the_losses_of_the_whole(arguments, tmp_path, signal_at, capsys, words, step):
    words = ["--num_train_epochs=2", "--prefix_cache=off", "--logging_steps=5", *words]
    train(arguments(*words, f"--output_dir={tmp_path / 'whole'}"))
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    signal_at(step, signal.SIGTERM)
    with pytest.raises(Stopped):
        train(arguments(*words))
    signal_at(0)
    report = train(arguments(*words))
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")] == said
    losses, loss = figures(tmp_path / "run")
    assert (losses, pytest.approx(loss)) == figures(tmp_path / "whole")
    assert report.train_metrics["train_runtime"] >= report.train_seconds + report.earlier_train_seconds - 0.01


def test_what_the_processes_before_took_is_carried_on(arguments, tmp_path, signal_at, monkeypatch):
    words = ["--num_train_epochs=2", "--prefix_cache=on"]
    monkeypatch.setattr("recipe.checkpoints.carried.peak_memory", lambda: 10**15)
    signal_at(3, signal.SIGTERM)
    with pytest.raises(Stopped):
        train(arguments(*words))
    monkeypatch.undo()
    said = json.loads((tmp_path / "run" / "checkpoint-3" / "manifest.json").read_text())["carried"]
    report = train(arguments(*words))
    assert report.earlier_encode_seconds == said["encode_seconds"] > 0
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert told["earlier_encode_seconds"] == round(said["encode_seconds"], 1)
    assert told["peak_memory_bytes"] == 10**15


def test_a_checkpoint_of_an_earlier_release_carries_nothing_on(arguments, tmp_path, signal_at, monkeypatch):
    words = ["--num_train_epochs=2", "--prefix_cache=off"]
    signal_at(3, signal.SIGTERM)
    with monkeypatch.context() as earlier:
        real = trainer_module.seal
        earlier.setattr(
            trainer_module, "seal", lambda folder, said: real(folder, {k: v for k, v in said.items() if k != "carried"})
        )
        with pytest.raises(Stopped):
            train(arguments(*words))
    signal_at(0)
    report = train(arguments(*words))
    losses, _ = figures(tmp_path / "run")
    assert report.train_metrics["train_loss"] == pytest.approx(sum(loss for _, loss, _ in losses[3:]) / 15, rel=1e-5)


@pytest.mark.parametrize("logged", [["--logging_steps=10"], ["--logging_strategy=no"]])
def test_the_train_loss_beside_an_evaluation_is_of_the_steps_since_the_last_one(arguments, tmp_path, capsys, logged):
    words = ["--num_train_epochs=3", "--prefix_cache=off", "--eval_steps=7"]
    train(arguments(*words, f"--output_dir={tmp_path / 'each'}"))
    losses = {step: loss for step, loss, _ in figures(tmp_path / "each")[0]}
    parts = [range(1, 8), range(8, 15), range(15, 22), range(22, 28)]
    expected = [sum(losses[step] for step in part) / len(part) for part in parts]
    capsys.readouterr()
    train(arguments(*words, *logged))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert [float(line.split()[4]) for line in lines] == pytest.approx(expected, abs=1e-4)


def test_an_evaluation_on_start_is_no_training(arguments, tmp_path):
    report = train(arguments("--eval_on_start", "--prefix_cache=off"))
    log = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    taken = [entry["eval_runtime"] for entry in log if "eval_runtime" in entry]
    assert len(taken) == 2
    assert report.eval_seconds == pytest.approx(sum(taken))


def test_a_second_ctrl_c_stops_at_once(arguments, tmp_path, signal_at):
    signal_at(5, signal.SIGINT, signal.SIGINT)
    with pytest.raises(Stopped) as stop:
        train(arguments("--prefix_cache=off"))
    assert stop.value.status == 130
    assert not checkpoint_folders(tmp_path / "run")
