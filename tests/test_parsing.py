import subprocess
import sys

import pytest

from recipe.arguments import RecipeArguments
from recipe.errors import UserError
from recipe.parsing import build_parser, parse


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_defaults_are_the_recipes():
    training = parse([]).training
    assert (training.num_train_epochs, training.per_device_train_batch_size, training.seed) == (3, 32, 42)
    assert training.lr_scheduler_type == "linear"
    assert training.warmup_steps == 0
    assert training.eval_strategy == training.save_strategy == "epoch"
    assert training.metric_for_best_model == "accuracy"
    assert training.logging_nan_inf_filter is False
    assert training.ddp_find_unused_parameters is False


def test_yaml_gives_defaults_and_the_command_line_wins(tmp_path):
    text = (
        "learning_rate: 2e-5\nfreeze_layers: 8\nunfreeze_modules: ['\\.bias$', LayerNorm]\nstreaming: false\nseed: 7\n"
    )
    arguments = parse([write(tmp_path / "run.yaml", text), "--seed", "8"])
    assert arguments.training.learning_rate == 2e-5  # PyYAML reads 2e-5 as a string
    assert arguments.freeze.freeze_layers == "8"
    assert arguments.freeze.unfreeze_modules == [r"\.bias$", "LayerNorm"]
    assert arguments.data.streaming is False
    assert arguments.training.seed == 8


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("seed: 1\nlerning_rate: 1e-4\n", ":2: unknown key 'lerning_rate'; did you mean 'learning_rate'"),
        ("seed: 1\nlearning_rate: fast\n", ":2: --learning_rate: invalid float value: 'fast'"),
        ("seed: [\n", ": not YAML"),
        ("- seed\n", ":1: 'flag: value' lines are expected, not a list"),
    ],
)
def test_yaml_errors_name_the_line(tmp_path, text, told):
    path = write(tmp_path / "run.yaml", text)
    with pytest.raises(UserError) as error:
        parse([path])
    assert str(error.value).startswith(path)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--learning_rat", "1"], "did you mean '--learning_rate'"),
        (["--warmup_ratio", "0.1"], "unknown argument '--warmup_ratio'"),
        (["--learning_rate", "fast"], "--learning_rate: invalid float value: 'fast'"),
        (["missing.yaml"], "missing.yaml: No such file"),
        (["--dropout", "1.5"], "--dropout 1.5"),
        (["--max_length", "2"], "--max_length 2"),
        (["--num_train_epochs", "0"], "--num_train_epochs 0"),
        (["--per_device_train_batch_size", "0"], "--per_device_train_batch_size 0"),
        (["--save_strategy", "steps"], "save and eval strategy"),
        (["--label_names", "one"], "--label_names one"),
    ],
)
def test_command_line_errors(words, told):
    with pytest.raises(UserError) as error:
        parse(words)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_every_flag_of_the_recipe_has_help():
    assert [action.dest for action in build_parser()._actions if not action.help] == []


def test_evaluating_asks_for_a_run_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="make demo"):
        parse(["--do_eval"])


def test_importing_the_package_loads_no_torch():
    code = "import recipe, sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_makefiles_runs_parse():
    for config in ("configs/afqmc.yaml", "configs/demo.yaml"):
        arguments = parse([config])
        assert isinstance(arguments, RecipeArguments)
        assert arguments.freeze.freeze_layers == "0-9"
