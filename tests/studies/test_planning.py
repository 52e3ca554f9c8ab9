import json
import re
import shutil

import pytest

from recipe.errors import UserError
from recipe.model.base_model import name_labels, open_base
from recipe.model.loading import load_model
from recipe.studies.planning import key_of, plan, read_model
from recipe.studies.settings import parse_over


@pytest.fixture
def words(tiny_model, pairs_dir, tmp_path):
    given = {"model_name_or_path": tiny_model, "data_dir": pairs_dir, "max_length": 32, "use_cpu": "true"}
    given |= {"num_train_epochs": 2, "output_dir": tmp_path / "sweep", "bf16": "false"}
    return [f"--{name}={value}" for name, value in given.items()]


DECISIVE = (
    *("--load_best_model_at_end=false", "--metric_for_best_model=loss", "--early_stopping_patience=1"),
    *("--per_device_eval_batch_size=7", "--eval_delay=1", "--eval_on_start=true", "--save_strategy=best"),
    *("--eval_strategy=steps --eval_steps=2", "--eval_strategy=steps --eval_steps=1"),
)


def test_what_decides_which_weights_a_run_ends_with_is_in_a_points_key(arguments):
    keys = {key_of(arguments(*more.split()), {}, {}) for more in ("", *DECISIVE)}
    assert len(keys) == 1 + len(DECISIVE)
    assert key_of(arguments("--seed=1", "--logging_steps=3"), {}, {}) in keys


def test_runs_that_differ_in_their_classifier_or_labels_are_other_bases(arguments, tiny_model, tmp_path):
    places = {}
    for name, labels, bias in (("a", ["0", "1"], 0.0), ("b", ["0", "1"], 1.0), ("c", ["x", "y"], 0.0)):
        base = open_base(arguments().model)
        name_labels(base, labels, "pairs")
        model = load_model(base)
        model.classifier.weight.data.zero_()
        model.classifier.bias.data.fill_(bias)
        model.save_pretrained(tmp_path / name)
        (tmp_path / name / "tokenizer.json").write_bytes((tiny_model / "tokenizer.json").read_bytes())
        places[name] = read_model(arguments(f"--model_name_or_path={tmp_path / name}").model)
    assert places["a"]["weights"] != places["b"]["weights"]
    assert places["a"]["weights"] == places["c"]["weights"]
    assert places["a"] != places["c"]
    assert read_model(arguments().model)["labels"] is None


def test_a_tokenizer_with_other_options_is_another(arguments, tiny_model, tmp_path):
    other = shutil.copytree(tiny_model, tmp_path / "other")
    path = other / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"truncation_side": "left"}))
    usual, left = (read_model(arguments(f"--model_name_or_path={place}").model) for place in (tiny_model, other))
    assert left == usual | {"tokenizer_options": {"truncation_side": "left"}}


def test_two_orders_of_the_labels_are_the_same_labels(words):
    planned = plan([*words, "--label_names", "0", "1"], parse_over(["weight_decay=0.0"]))
    turned = plan([*words, "--label_names", "1", "0"], parse_over(["weight_decay=0.0"]))
    assert planned[0].answers == turned[0].answers


def test_two_settings_that_train_the_same_are_no_two_settings(words):
    for over in ("learning_rate=1e-4,0.0001", "logging_steps=10,50"):
        first, second = re.split(r",", over)
        same = rf"^--over: {over.partition('=')[0]}={second} trains the same as {first}; settings whose results may"
        with pytest.raises(UserError, match=same):
            plan(words, parse_over([over]))


def test_settings_are_compared_on_as_many_pairs(words):
    says = r"^--over: max_eval_samples=30 has another validation split than max_eval_samples=10; settings are compared"
    with pytest.raises(UserError, match=says):
        plan(words, parse_over(["max_eval_samples=10,30"]))
    assert len(plan(words, parse_over(["weight_decay=0.0,0.1"]))) == 2
