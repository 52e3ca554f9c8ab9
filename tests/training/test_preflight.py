import pytest
from transformers import SchedulerType, TrainerCallback
from transformers.training_args import OptimizerNames

from recipe.commands.train import train
from recipe.errors import UserError
from recipe.training import feeding


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


@pytest.mark.parametrize(
    ("words", "share"),
    [
        (["--warmup_steps=1000"], "0.008"),
        (["--lr_scheduler_type=warmup_stable_decay", '--lr_scheduler_kwargs={"num_decay_steps": 1000}'], "0.00"),
        (["--warmup_steps=8", "--max_steps=4"], "0.38"),
        (["--warmup_steps=8"], None),
        (["--warmup_steps=0.5"], None),
        (["--lr_scheduler_type=warmup_stable_decay", '--lr_scheduler_kwargs={"num_decay_steps": 4}'], None),
        (["--lr_scheduler_type=greedy"], None),
    ],
)
def test_a_rate_that_never_comes_near_the_one_given_is_told(arguments, capsys, words, share):
    train(arguments("--prefix_cache=off", *words))
    found = [line for line in capsys.readouterr().out.splitlines() if "of --learning_rate in this" in line]
    assert len(found) == (share is not None)
    if found:
        steps = "4" if "--max_steps=4" in words else "9"
        assert found[0].startswith(f"note: --lr_scheduler_type {'warmup_st' if len(words[0]) > 25 else 'linear'}")
        assert f": the rate is at most {share}" in found[0]
        assert found[0].endswith(f" in this run's {steps} steps")


def test_a_reporter_that_fails_later_costs_its_reports(arguments, tmp_path, capsys, reporter):
    fake = reporter("on_log")
    train(arguments())
    assert fake.seen == ["setup", "on_log"]
    told = "warning: Fake: ConnectionError: on_log: no route to host; nothing is reported there from here on"
    assert capsys.readouterr().out.count(told) == 1
    assert (tmp_path / "run" / "model.safetensors").is_file()
