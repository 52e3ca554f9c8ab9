import pytest

from recipe.command_line.combinations import METRICS
from recipe.command_line.parsing import parse
from recipe.errors import UserError


def strategies(*words):
    args = parse(list(words)).training
    each = (args.eval_strategy.value, args.eval_steps, args.save_strategy.value, args.save_steps)
    return *each, args.load_best_model_at_end


def test_the_companion_of_a_strategy_follows():
    assert strategies() == ("epoch", None, "epoch", 500, True)
    assert strategies("--eval_strategy=steps") == ("steps", 50, "steps", 50, True)
    assert strategies("--eval_strategy=steps", "--eval_steps=7") == ("steps", 7, "steps", 7, True)
    assert strategies("--eval_steps=7") == ("steps", 7, "steps", 7, True)
    assert strategies("--save_strategy=steps", "--save_steps=0.5") == ("steps", 0.5, "steps", 0.5, True)
    assert strategies("--save_strategy=no") == ("epoch", None, "no", 500, False)
    assert strategies("--eval_strategy=no") == ("no", None, "epoch", 500, False)
    assert strategies("--save_strategy=best", "--eval_steps=7") == ("steps", 7, "best", 500, True)
    mixed = ["--eval_strategy=epoch", "--save_strategy=steps"]
    assert strategies(*mixed, "--load_best_model_at_end=false") == ("epoch", None, "steps", 500, False)
    for words in (
        mixed,
        ["--eval_strategy=no", "--save_strategy=best"],
        ["--save_strategy=no", "--load_best_model_at_end"],
    ):
        with pytest.raises(UserError, match="_strategy"):
            parse(words)


def test_steps_that_a_strategy_does_not_count_are_refused(tmp_path):
    for kind, strategy in (("eval", "epoch"), ("save", "epoch"), ("save", "best"), ("logging", "epoch")):
        with pytest.raises(UserError, match=f"^--{kind}_steps 2 with --{kind}_strategy {strategy}: it would do"):
            parse([f"--{kind}_strategy={strategy}", f"--{kind}_steps=2"])
    (tmp_path / "run.yaml").write_text("eval_steps: 2\nsave_steps: 4\n")
    off = ["--eval_strategy=no", "--save_strategy=no"]  # as an audit ends a command line
    assert strategies(str(tmp_path / "run.yaml"), *off) == ("no", 2, "no", 4, False)


def test_more_or_less_is_better_as_the_metric_says():
    for name, greater in METRICS.items():
        for given in (name, f"eval_{name}"):
            assert parse([f"--metric_for_best_model={given}"]).training.greater_is_better is greater
            with pytest.raises(UserError, match="is better; leave it out"):
                parse([f"--metric_for_best_model={given}", f"--greater_is_better={not greater}"])
    for name in ("precision", "", "eval_", "eval_eval_loss", "confusion_matrix"):
        with pytest.raises(UserError, match=r"one of accuracy, loss, f1, .* is expected"):
            parse([f"--metric_for_best_model={name}"])


@pytest.mark.parametrize(
    "words",
    [
        "--fp16",
        "--dataloader_persistent_workers",
        "--early_stopping_patience=2 --eval_strategy=no",
        "--early_stopping_patience=0",
        "--do_train=false",
        "--eval_split=test",
        "--max_steps=0",
        "--label_smoothing_factor=1",
        "--warmup_steps=1.5",
        "--report_to=tensorbord",
        "--report_to=wandb",
        "--report_to tensorboard nonsense",
        "--ddp_backend=gloo",
        "--activation_checkpointing_kwargs={}{",
        '--activation_checkpointing_kwargs={"nonsense":true}',
        '--activation_checkpointing_kwargs={"use_reentrant":true}',
        '--activation_checkpointing_kwargs={"preserve_rng_state":false}',
        "--push_to_hub",
        "--push_to_hub --hub_strategy=checkpoint",
    ],
)
def test_what_does_not_fit_is_refused(words, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(UserError, match=f"^{words.split('=')[0].split()[0]}|^--hub_strategy") as error:
        parse(words.split())
    assert "\n" not in str(error.value)
