import pytest

from recipe.arguments import RecipeArguments
from recipe.command_line.parsing import PATHS, build_parser, parse
from recipe.errors import UserError


def test_defaults_are_the_recipes():
    training = parse([]).training
    assert (training.num_train_epochs, training.per_device_train_batch_size, training.seed) == (3, 32, 42)
    assert training.lr_scheduler_type == "linear"
    assert training.warmup_steps == 0
    assert training.eval_strategy == training.save_strategy == "epoch"
    assert training.metric_for_best_model == "accuracy"
    assert training.logging_nan_inf_filter is False
    assert training.ddp_find_unused_parameters is False


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
        (["--dropout", "1.5"], "--dropout 1.5"),
        (["--max_length", "2"], "--max_length 2"),
        (["--num_train_epochs", "0"], "--num_train_epochs 0"),
        (["--per_device_train_batch_size", "0"], "--per_device_train_batch_size 0"),
        (["--label_names", "one"], "--label_names one"),
        (["--label_names", "0 1"], "--label_names '0 1': at least two different names"),
        (
            ["--label_names", "是，否"],
            "at least two different names are expected, a space between them (in YAML: a list)",
        ),
        (["--data_dir", ""], "--data_dir '': it is empty; a path or name is expected, or leave it out"),
        (["--model_name_or_path="], "--model_name_or_path '': it is empty"),
        (["--output_dir="], "--output_dir '': it is empty"),
        (["--validation_file="], "--validation_file '': it is empty"),
        (["--prefix_cache_dir="], "--prefix_cache_dir '': it is empty"),
        (["--do_eval", "configs"], "configs: no flag takes it; a model's folder stands behind --model_name_or_path"),
        (["--do_eval", "there"], "--do_eval: Truthy value expected: got there"),
        (["--do_eval", ""], "--do_eval: Truthy value expected: got "),
        (["configs", "--do_eval"], "configs: Is a directory; the first argument is a YAML file or a --flag; a model's"),
        (["", "--seed", "3"], "'': No such file or directory; the first argument is a YAML file or a --flag"),
        (["--dataset_name="], "--dataset_name '': it is empty"),
        (
            ["--seed", "3", "—learning_rate", "3e-5"],
            "unknown argument '—learning_rate'; did you mean '--learning_rate'",
        ),
        (["—freeze_layers", "0-9"], "unknown argument '—freeze_layers'; did you mean '--freeze_layers'"),
        (["–lr=1e-4"], "unknown argument '–lr'; what does it here is --learning_rate"),
        (["−−lr", "1e-4"], "unknown argument '−−lr'; what does it here is --learning_rate"),
        (["－－lr", "1e-4"], "unknown argument '－－lr'; what does it here is --learning_rate"),
        (["--train_file", "a.json", "lang=zh.json"], "'lang=zh.json' behind --train_file, which takes one value"),
        (["--seed", "3", "learning_rate=3e-5"], "unknown argument 'learning_rate'; did you mean '--learning_rate'"),
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


def test_a_missing_yaml_file_is_not_taken_for_a_models_folder():
    with pytest.raises(UserError) as error:
        parse(["missing.yaml"])
    expected = "missing.yaml: No such file or directory; the first argument is a YAML file or a --flag"
    assert str(error.value) == expected


def test_a_folder_whose_name_is_a_truth_value_is_one_behind_a_switch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "1").mkdir()
    assert parse(["--use_cpu", "1"]).training.use_cpu is True


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


def test_every_flag_of_the_recipe_has_help():
    assert [action.dest for action in build_parser()._actions if not action.help] == []


def test_evaluating_asks_for_a_run_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="make demo"):
        parse(["--do_eval"])


def test_the_makefiles_runs_parse():
    for config in ("configs/afqmc.yaml", "configs/demo.yaml"):
        arguments = parse([config])
        assert isinstance(arguments, RecipeArguments)
        assert arguments.freeze.freeze_layers == "0-9"
