import json

import pytest

from recipe.command_line.parsing import parse
from recipe.commands.evaluate import evaluate
from recipe.commands.train import train
from recipe.errors import UserError


def evaluated(folder, record, *words):
    (folder / "run.json").write_text(record if isinstance(record, str) else json.dumps(record))
    return parse(["--do_eval", f"--model_name_or_path={folder}", *words])


def test_the_data_a_model_was_trained_on_are_defaults(tmp_path):
    data = {
        "data_dir": "d",
        "train_file": None,
        "label_names": ["--do_train", "b"],
        "max_length": 32,
        "streaming": False,
    }
    arguments = evaluated(tmp_path, {"arguments": {"data": data}})
    assert (arguments.data.data_dir, arguments.data.max_length, arguments.data.streaming) == ("d", 32, False)
    assert arguments.data.label_names == ["--do_train", "b"]
    assert not arguments.training.trains
    assert arguments.training.output_dir == str(tmp_path)
    arguments = evaluated(tmp_path, {"arguments": {"data": data}}, "--test_file=t.json", "--max_length=16")
    assert (arguments.data.data_dir, arguments.data.test_file, arguments.data.max_length) == (None, "t.json", 16)


def test_a_limit_on_the_runs_data_is_none_on_other_data(tmp_path):
    record = {"arguments": {"data": {"data_dir": "d", "max_eval_samples": 5, "max_train_samples": 7}}}
    limits = [
        (found.data.max_train_samples, found.data.max_eval_samples)
        for words in ([], ["--validation_file=v.json"], ["--validation_file=v.json", "--max_eval_samples=3"])
        for found in [evaluated(tmp_path, record, *words)]
    ]
    assert limits == [(7, 5), (None, None), (None, 3)]


def test_a_record_from_elsewhere_sets_nothing_but_the_data(tmp_path):
    foreign = {"do_train": True, "output_dir": "/elsewhere", "push_to_hub": True, "model_name_or_path": "x/y"}
    foreign |= {"prefix_cache_dir": "/elsewhere", "scores": False, "resume": "never", "data_dir": "d"}
    arguments = evaluated(tmp_path, {"arguments": {"data": foreign, "training": foreign, "model": foreign}})
    default = parse(["--do_eval", f"--model_name_or_path={tmp_path / 'none'}"])
    assert arguments.data.data_dir == "d"
    assert not arguments.training.trains
    assert (arguments.training.output_dir, arguments.training.push_to_hub) == (str(tmp_path), False)
    assert arguments.training.resume == "auto"
    assert arguments.model.model_name_or_path == str(tmp_path)
    assert arguments.cache == default.cache


@pytest.mark.parametrize(
    "record",
    [
        "{",
        "[]",
        "[" * 3000,
        {"arguments": {}},
        {"arguments": {"data": {"max_length": "9"}}},
        {"arguments": {"data": {"data_dir": 1}}},
        {"arguments": {"data": {"label_names": "01"}}},
        {"arguments": {"data": {"label_names": [1]}}},
        {"arguments": {"data": {"on_bad_row": "ignore"}}},
        {"arguments": {"data": {"streaming": "yes"}}},
        {"arguments": {"data": {"max_length": -1}}},
    ],
)
def test_a_damaged_record_is_one_line(tmp_path, record):
    with pytest.raises(UserError, match=r"run\.json: |--max_length -1") as error:
        evaluated(tmp_path, record)
    assert "\n" not in str(error.value)


def test_more_tokens_than_the_model_has_positions_are_refused_to_a_saved_model_too(arguments, tmp_path):
    train(arguments())
    words = ["--do_eval", f"--model_name_or_path={tmp_path / 'run'}", "--max_length=65"]
    with pytest.raises(UserError, match=r"^--max_length 65: the model has 64 positions"):
        evaluate(parse(words))
