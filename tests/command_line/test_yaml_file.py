import os

import pytest

from recipe.command_line.parsing import parse
from recipe.errors import UserError


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


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
        ("train_file: *.jsonl\n", "but found '.'; a value that begins with * stands in quotes"),
        ("seed: 1\nlerning_rate: 1e-4\n", ":2: unknown key 'lerning_rate'; did you mean 'learning_rate'"),
        ("seed: 1\nlearning_rate: -1e-4\n", ":2: --learning_rate -0.0001: a number above 0 is expected"),
        ("seed: 1\nlearning_rate: fast\n", ":2: --learning_rate: invalid float value: 'fast'"),
        ("seed: [\n", ": not YAML"),
        ("- seed\n", ":1: 'flag: value' lines are expected, not a list"),
        ("[]\n", ":1: 'flag: value' lines are expected, not a list"),
        ("seed: 1\nbf16: yes\nseed: 2\n", ":3: 'seed' stands in line 1 already"),
        ("text_column_names: [a, b]\n", ": one value is expected, not a list of 2; a,b is one"),
        ("column_names: [a, b]\n", ": one value is expected, not a list of 2; a,b is one"),
        ("freeze_layers: [0, 1]\n", ": one value is expected, not a list of 2; 0,1 is one"),
        ("data_dir: ''\n", ":1: --data_dir '': it is empty"),
        ("seed: [1, 2]\n", ":1: --seed: one value is expected, not a list of 2"),
        ("evaluation_strategy: epoch\n", ":1: unknown key 'evaluation_strategy'; what does it here is --eval_strategy"),
        ("output_dir: {a: b}\n", ":1: --output_dir: one value expected, not an object"),
        ("lr_scheduler_kwargs: {a: {b: c}}\n", ":1: --lr_scheduler_kwargs: single values expected"),
        ("label_names: [[a], b]\n", ":1: --label_names: a list of words is expected"),
        ("seed: !!float x\n", ":1: not YAML"),
        ("fp16_full_eval: on\n", ":1: --fp16_full_eval True: it would round the weights"),
        ("prefix_cache: maybe\n", ":1: --prefix_cache: invalid choice: 'maybe'"),
        ("seed: " + "[" * 2000, ":1: not YAML"),
    ],
)
def test_yaml_errors_name_the_line(tmp_path, text, told):
    path = write(tmp_path / "run.yaml", text)
    with pytest.raises(UserError) as error:
        parse([path])
    assert str(error.value).startswith(path)
    assert told in str(error.value)
    assert ("is one" in told) == ("is one" in str(error.value))


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "null\n", "~\n", "{}\n", "---\n"])
def test_a_yaml_file_without_entries_gives_none(tmp_path, text):
    assert parse([str(write(tmp_path / "run.yaml", text)), "--seed=3"]).training.seed == 3


def test_yaml_means_what_is_written(tmp_path):
    text = (
        "prefix_cache: off\neval_strategy: no\nlabel_names: [no, yes, 010]\nstreaming: off\nuse_cpu: on\nbf16: No\n"
        "lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr: 1e-6, num_cycles: 1}\n"
        "output_dir: ~/runs\nrun_name: 2026-01-01\nmax_steps: -1\nhub_revision:\nreport_to: [tensorboard]\n"
    )
    arguments = parse([write(tmp_path / "run.yaml", text)])
    assert (arguments.cache.prefix_cache, arguments.training.eval_strategy) == ("off", "no")
    assert arguments.data.label_names == ["no", "yes", "010"]
    assert (arguments.data.streaming, arguments.training.use_cpu, arguments.training.bf16) == (False, True, False)
    assert arguments.training.lr_scheduler_kwargs == {"min_lr": 1e-6, "num_cycles": 1}
    assert arguments.training.output_dir == os.path.expanduser("~/runs")
    assert (arguments.training.run_name, arguments.training.hub_revision) == ("2026-01-01", None)
    assert arguments.training.report_to == ["tensorboard"]
