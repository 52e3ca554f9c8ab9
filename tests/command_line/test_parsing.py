import importlib
import os
import subprocess
import sys

import pytest

from recipe.arguments import RecipeArguments
from recipe.command_line.combinations import METRICS
from recipe.command_line.parsing import PATHS, build_parser, parse
from recipe.command_line.ranges import RULES
from recipe.errors import UserError
from recipe.training_fields import REFUSED


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
        ("train_file: *.jsonl\n", "but found '.'; a value that begins with * stands in quotes"),
        ("seed: 1\nlerning_rate: 1e-4\n", ":2: unknown key 'lerning_rate'; did you mean 'learning_rate'"),
        ("seed: 1\nlearning_rate: -1e-4\n", ":2: --learning_rate -0.0001: a number above 0 is expected"),
        ("seed: 1\nlearning_rate: fast\n", ":2: --learning_rate: invalid float value: 'fast'"),
        ("seed: [\n", ": not YAML"),
        ("- seed\n", ":1: 'flag: value' lines are expected, not a list"),
        ("[]\n", ":1: 'flag: value' lines are expected, not a list"),
        ("seed: 1\nbf16: yes\nseed: 2\n", ":3: 'seed' stands in line 1 already"),
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


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--learning_rat", "1"], "did you mean '--learning_rate'"),
        (["--warmup_ratio", "0.1"], "unknown argument '--warmup_ratio'; what does it here is --warmup_steps"),
        (["--no_cuda"], "--use_cpu"),
        (["--resume_from_checkpoint=x"], "--resume checkpoint-N"),
        (["--overwrite-output-dir"], "--resume never"),
        (["--no_bf16"], "did you mean '--bf16 false'"),
        (["--no_prefix_cache"], "did you mean '--prefix_cache off'"),
        (["--no_eval"], "what does it here is --eval_strategy no"),  # never the flag that does the opposite
        (["--no_evaluation"], "--help lists"),
        (["--max_train_steps", "100"], "what does it here is --max_steps"),
        (["--length_column", "x"], "--help lists"),  # never a flag that is refused
        (["--eval_steps=4", "--save_steps=6"], "--save_steps 6 with --eval_steps 4: a multiple of it is expected"),
        (["--hub_tokn=hf_secret"], "unknown argument '--hub_tokn'; did you mean '--hub_token'"),
        (["--use_cpu", "configs/demo.yaml"], "configs/demo.yaml: the YAML file stands first"),
        (["configs/demo.yaml", "configs/afqmc.yaml"], "configs/afqmc.yaml: the YAML file stands first"),
        (["--train_file", "a-1.jsonl", "a-2.jsonl"], "'a-2.jsonl' behind --train_file, which takes one value"),
        (["--label_names=-1", "1"], "'1' behind --label_names=..., which takes one value; several stand behind"),
        (["--learning_rate", "-1e-4"], "--learning_rate -0.0001: a number above 0 is expected"),
        (["--learning_rate", "-inf"], "--learning_rate -inf: a number above 0 is expected"),
        (["--learning_rate", "fast"], "--learning_rate: invalid float value: 'fast'"),
        (["missing.yaml"], "missing.yaml: No such file"),
        (["--dropout", "1.5"], "--dropout 1.5"),
        (["--max_length", "2"], "--max_length 2"),
        (["--num_train_epochs", "0"], "--num_train_epochs 0"),
        (["--per_device_train_batch_size", "0"], "--per_device_train_batch_size 0"),
        (["--label_names", "one"], "--label_names one"),
        (["--label_names", "0 1"], "--label_names '0 1': at least two different names"),
        (["--seed", "5000000000"], "--seed 5000000000: a whole number from 0 to 4294967295 is expected"),
        (["--seed=--"], "--seed --: a value is expected"),
        (["--against", "FOLDER"], "--against FOLDER: --do_eval compares with it"),
    ],
)
def test_command_line_errors(words, told):
    with pytest.raises(UserError) as error:
        parse(words)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


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


def test_a_tilde_is_the_users_folder_in_every_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/user")
    arguments = parse(
        ["--do_train", "--do_eval", *(f"--{name}=~/x" for name in PATHS), "--train_file", "~/train-*.jsonl"]
    )
    values = {name: value for part in arguments for name, value in vars(part).items()}
    assert {name: values[name] for name in PATHS if name != "train_file"} == dict.fromkeys(
        set(PATHS) - {"train_file"}, "/home/user/x"
    )
    assert values["train_file"] == "/home/user/train-*.jsonl"


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


def test_more_or_less_is_better_as_the_metric_says():
    for name, greater in METRICS.items():
        for given in (name, f"eval_{name}"):
            assert parse([f"--metric_for_best_model={given}"]).training.greater_is_better is greater
            with pytest.raises(UserError, match="is better; leave it out"):
                parse([f"--metric_for_best_model={given}", f"--greater_is_better={not greater}"])
    for name in ("precision", "", "eval_", "eval_eval_loss", "confusion_matrix"):
        with pytest.raises(UserError, match=r"one of accuracy, loss, f1, .* is expected"):
            parse([f"--metric_for_best_model={name}"])


LIMITLESS = {"learning_rate", "adam_epsilon", "weight_decay", "eval_delay", "prefix_cache_max_gb", "max_grad_norm"}


@pytest.mark.parametrize("name", [name for _, _, names in RULES for name in names])
def test_a_number_out_of_its_range_is_refused_by_its_flag(name):
    for value in ["nan", "inf", "-inf", "-2", *([] if name in LIMITLESS else [str(10**20)])]:
        with pytest.raises(UserError, match=f"^--{name}( |:)"):
            parse([f"--{name}={value}"])


def test_every_number_has_a_rule_or_is_refused():
    ruled = {name for _, _, names in RULES for name in names} | set(REFUSED) | {"local_rank"}
    assert {action.dest for action in build_parser()._actions if action.type in (int, float)} <= ruled


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


@pytest.mark.parametrize(
    ("module", "words", "told"),
    [
        ("studies.sweep", "--seeds 42 -1", "--seed -1: a whole number from 0"),
        ("studies.sweep", "--tolerance nan", "--tolerance nan: points of accuracy"),
        ("studies.sweep", "--depths x", "--depths: invalid int value: 'x'"),
        ("studies.tune", "--trials 0", "--trials 0: a whole number of at least 1"),
        ("commands.prefix_cache", "nonsense", "argument action: invalid choice"),
        ("commands.prefix_cache", "prune --older_than_days -1e-3", "--older_than_days -0.001: "),
        ("commands.merge_checkpoint", "", "the following arguments are required: checkpoint, folder"),
    ],
)
def test_the_other_commands_say_what_is_wrong_in_one_line(module, words, told, monkeypatch):
    monkeypatch.setattr(sys, "argv", [module, *words.split()])
    with pytest.raises(UserError) as error:
        importlib.import_module(f"recipe.{module}").main()
    assert str(error.value).startswith(told)
