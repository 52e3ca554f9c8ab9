import errno

import pytest
import torch
from transformers import SchedulerType, TrainerCallback
from transformers.training_args import OptimizerNames

from recipe.commands.train import train
from recipe.errors import RunError, UserError
from recipe.process.failures import as_refusal, blame, in_one_line
from recipe.training import feeding
from recipe.training.trainer import FreezeTrainer


class Fake(TrainerCallback):
    """A reporter whose log-in, or whose reports, fail."""

    def __init__(self, fails=()):
        self.fails, self.seen = fails, []

    def setup(self, *_):
        self._fail("setup")

    def on_log(self, *_, **__):
        self._fail("on_log")

    def on_train_end(self, *_, **__):
        self._fail("on_train_end")

    def _fail(self, event):
        self.seen.append(event)
        if event in self.fails:
            raise ConnectionError(f"{event}: no route\nto host")


Fake.__module__ = "transformers.integrations.fake"


@pytest.fixture
def reporter(monkeypatch):
    """A function: events that fail -> the reporter of the runs from here on."""

    def arrange(*fails):
        fake, real = Fake(fails), feeding.build_trainer

        def build_trainer(*words, **more):
            trainer = real(*words, **more)
            trainer.add_callback(fake)
            return trainer

        monkeypatch.setattr(feeding, "build_trainer", build_trainer)
        return fake

    return arrange


def test_what_the_libraries_refuse_is_refused_before_anything_is_encoded(arguments, tmp_path, monkeypatch, reporter):
    def never(*_):
        raise AssertionError("encoded")

    monkeypatch.setattr(feeding, "cache_prefix", never)
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: False)
    for name, value, told in [  # as parsing would not know, or knows from another place
        ("optim", OptimizerNames.ADAMW_8BIT, r"^--optim adamw_8bit: You need to install `bitsandbytes`"),
        ("lr_scheduler_type", SchedulerType.COSINE_WITH_MIN_LR, r"^--lr_scheduler_type cosine_with_min_lr: .*min_lr"),
        ("report_to", ["wandb"], r"^--report_to wandb: .*wandb"),
        ("push_to_hub", True, r"^--push_to_hub True: .*offline"),
    ]:
        parsed = arguments()
        setattr(parsed.training, name, value)
        with pytest.raises(UserError, match=told) as error:
            train(parsed)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "run").exists()
    reporter("setup")
    with pytest.raises(UserError, match=r"^--report_to .*setup: no route to host"):
        train(arguments())
    monkeypatch.setattr("recipe.commands.train.new_figure", lambda *_: 1 / 0)
    with pytest.raises(UserError, match=r"^ZeroDivisionError"):
        train(arguments("--model_card=true", f"--output_dir={tmp_path / 'figure'}"))


def test_a_reporter_that_fails_later_costs_its_reports(arguments, tmp_path, capsys, reporter):
    fake = reporter("on_log")
    train(arguments())
    assert fake.seen == ["setup", "on_log"]
    told = "warning: Fake: ConnectionError: on_log: no route to host; nothing is reported there from here on"
    assert capsys.readouterr().out.count(told) == 1
    assert (tmp_path / "run" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 has"),
            "out of memory on cpu: CUDA",
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory on cpu: Default"),
        (MemoryError(), "out of memory on cpu: none left"),
        (RuntimeError("DataLoader worker (pid 9) is killed by signal: Bus error."), "--dataloader_num_workers 2: Data"),
        (OSError(errno.ENOSPC, "No space left on device"), "--dataloader_num_workers 2: "),
    ],
)
def test_what_a_run_ran_out_of_is_said_with_what_to_lower(arguments, monkeypatch, error, told):
    monkeypatch.setattr(FreezeTrainer, "training_step", lambda *_: (_ for _ in ()).throw(error))
    args = arguments("--dataloader_num_workers=2").training
    for context in (in_one_line, as_refusal):
        with pytest.raises(RunError) as found, context(args):
            raise error
        assert str(found.value).startswith(told)
        assert "\n" not in str(found.value)
        assert ("--per_device_train_batch_size 8" in str(found.value)) is (not told.startswith("--data"))


def test_shared_memory_may_be_short_without_workers(arguments):
    error = RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")
    with pytest.raises(RunError, match=r"/dev/shm.*--shm-size"), in_one_line(arguments().training):
        raise error


def test_the_first_step_tells_what_it_cannot_do_and_later_ones_are_no_users_fault(arguments):
    args = arguments("--torch_empty_cache_steps=3").training
    error = NotImplementedError("torch_empty_cache_steps is for accelerators")
    with pytest.raises(UserError, match=r"^--torch_empty_cache_steps 3: torch_empty"), in_one_line(args, lambda: False):
        raise error
    with pytest.raises(NotImplementedError), in_one_line(args):
        raise error
    assert blame(args, ValueError()) == "ValueError: ValueError"
