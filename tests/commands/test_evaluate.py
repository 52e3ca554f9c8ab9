import json
import re

import pytest

from recipe.commands.evaluate import evaluate
from recipe.commands.predict import predict
from recipe.commands.train import train
from recipe.errors import UserError
from tests.commands.saved import words
from tests.utils import write_jsonl


@pytest.fixture
def model(arguments, tmp_path):
    """A run's folder."""
    train(arguments("--prefix_cache=off"))
    return tmp_path / "run"


def test_evaluation_scores_any_split_and_says_what_it_is_not(model, pairs_dir, capsys):
    metrics = evaluate(words(model, "--do_eval"))
    written = json.loads((model / "eval_results.json").read_text())
    assert written == json.loads(json.dumps(metrics))
    results = json.loads((model / "all_results.json").read_text())
    for key in ("accuracy", "accuracy_low", "accuracy_high", "majority_baseline", "f1", "mcc", "roc_auc"):
        assert written[f"eval_{key}"] == results[f"eval_{key}"]
    assert {"eval_average_precision", "eval_ece"} < written.keys()
    assert "chosen on these very pairs" in capsys.readouterr().out
    other = evaluate(words(model, "--do_eval", "--eval_split=train"))
    assert other["eval_validation_threshold"] == metrics["eval_best_threshold"]
    assert (model / "eval_results_train.json").exists()
    assert json.loads((model / "eval_results.json").read_text()) == written
    assert "which validation chose" in capsys.readouterr().out
    file = evaluate(words(model, "--do_eval", f"--validation_file={pairs_dir / 'train.json'}"))
    assert file["eval_accuracy"] == other["eval_accuracy"]
    with pytest.raises(UserError, match=r"test.json: has pairs without a label"):
        evaluate(words(model, "--do_eval", "--eval_split=test"))


def test_scores_of_a_part_of_a_split_are_said_to_be_so(arguments, tmp_path, pairs_dir, capsys):
    train(arguments("--prefix_cache=off", "--max_eval_samples=5"))
    found = evaluate(words(tmp_path / "run", "--do_eval"))
    told = f"\npairs           5 of {pairs_dir / 'dev.json'} (validation); no more, by --max_eval_samples 5\n"
    assert told in capsys.readouterr().out
    assert found["eval_limit"] == "no more, by --max_eval_samples 5"
    found = evaluate(words(tmp_path / "run", "--do_eval", f"--validation_file={pairs_dir / 'dev.json'}"))
    assert (found["eval_rows"], "eval_limit" in found) == (30, False)


def test_the_cache_says_which_order_it_has(arguments, tmp_path, pairs_dir, capsys):
    train(arguments("--prefix_cache=on"))
    capsys.readouterr()
    evaluate(words(tmp_path / "run", "--do_eval", f"--prefix_cache_dir={tmp_path / 'cache'}"))
    told = re.findall(r"^prefix cache: (.*?)(?:: | found| encoded)", capsys.readouterr().out, re.MULTILINE)
    assert told == [str(pairs_dir / "dev.json"), f"{pairs_dir / 'dev.json'}, sentences swapped"]


def test_a_speed_is_told_where_the_whole_model_was_run(arguments, tmp_path, capsys):
    train(arguments("--prefix_cache=on"))
    for cache, told in (("auto", False), ("off", True)):
        shared = (f"--prefix_cache={cache}", f"--prefix_cache_dir={tmp_path / 'cache'}")
        capsys.readouterr()
        metrics = evaluate(words(tmp_path / "run", "--do_eval", *shared))
        assert ("eval_samples_per_second" in metrics) == ("eval_runtime" in metrics) == told
        assert ("\nspeed " in capsys.readouterr().out) == told


def test_evaluation_asks_in_both_orders(model, pairs_dir, tmp_path, capsys):
    """Against a file with the sentences swapped by hand; a text's pairs with themselves are the same in both."""
    rows = [json.loads(line) for line in (pairs_dir / "dev.json").read_text().splitlines()]
    swapped = [{**row, "sentence1": row["sentence2"], "sentence2": row["sentence1"]} for row in rows]
    write_jsonl(tmp_path / "swapped.json", swapped)
    answers = []
    for path in (pairs_dir / "dev.json", tmp_path / "swapped.json"):
        predict(words(model, "--do_predict", f"--test_file={path}"))
        answers.append([json.loads(line) for line in (model / "predictions.jsonl").read_text().splitlines()])
    same = [one["prediction"] == other["prediction"] for one, other in zip(*answers, strict=True)]
    metrics = evaluate(words(model, "--do_eval"))
    assert metrics["eval_order_consistency"] == sum(same) / len(same)
    found = evaluate(words(model, "--do_eval", f"--validation_file={tmp_path / 'swapped.json'}"))
    for key in ("order_consistency", "order_gap", "both_orders_accuracy"):
        assert found[f"eval_{key}"] == pytest.approx(metrics[f"eval_{key}"])
    out = capsys.readouterr().out
    assert f"both orders     {sum(same) / len(same):.4f} of the pairs are answered alike" in out
    assert re.search(r"^confusion +answered .* +precision +recall +F1$", out, re.MULTILINE)


def test_two_models_are_compared_on_the_same_pairs(arguments, model, tmp_path, capsys):
    train(arguments("--prefix_cache=off", "--seed=5", f"--output_dir={tmp_path / 'other'}"))
    test = evaluate(words(model, "--do_eval", f"--against={tmp_path / 'other'}"))["eval_mcnemar"]
    first, second = (
        json.loads((folder / "all_results.json").read_text())["eval_accuracy"] for folder in (model, tmp_path / "other")
    )
    assert (test["only_first_right"] - test["only_second_right"]) / 30 == pytest.approx(first - second)
    assert test["difference"] == pytest.approx(first - second)
    assert test["difference_low"] <= test["difference"] <= test["difference_high"]
    out = capsys.readouterr().out
    assert "McNemar p = " in out
    assert re.search(r"^difference +[+-]\d+\.\d\d points \(95 % interval ", out, re.MULTILINE)
    with pytest.raises(UserError, match=r"^--against \S+ no such folder"):
        evaluate(words(model, "--do_eval", "--against=/missing"))


def test_the_other_model_reads_as_many_tokens_as_its_run(arguments, model, tmp_path, capsys):
    other = tmp_path / "other"
    train(
        arguments("--prefix_cache=off", "--seed=5", "--max_length=8", "--learning_rate=1e-2", f"--output_dir={other}")
    )
    own = evaluate(words(other, "--do_eval"))
    assert "tokens of a pair" not in capsys.readouterr().out
    found = evaluate(words(model, "--do_eval", f"--against={other}"))["eval_mcnemar"]
    assert found["accuracy"] == own["eval_accuracy"]
    longer = evaluate(words(other, "--do_eval", "--max_length=32"))
    assert longer["eval_loss"] != own["eval_loss"]
    assert f"note: --against {other} reads 8 tokens of a pair, as its run did, not 32" in capsys.readouterr().out


def test_a_threshold_is_the_models_own(arguments, model, tmp_path, capsys):
    scores = model / "eval_results.json"
    own = json.loads(scores.read_text())  # the run's
    assert "eval_validation_threshold" in evaluate(words(model, "--do_eval", "--eval_split=train"))
    for sha256 in (None, "0" * 64):
        scores.write_text(json.dumps(own | {"eval_model_sha256": sha256}))
        assert "eval_validation_threshold" not in evaluate(words(model, "--do_eval", "--eval_split=train"))
        out = capsys.readouterr().out
        assert f"note: no threshold that validation chose is applied: {scores} is not known to be this model's" in out
    other = tmp_path / "other"
    train(arguments("--prefix_cache=off", "--seed=5", f"--output_dir={other}"))
    said = evaluate(words(other, "--do_eval", "--eval_split=train", f"--output_dir={model}"))
    assert "eval_validation_threshold" not in said
    evaluate(words(other, "--do_eval", f"--output_dir={model}"))
    evaluate(words(other, "--do_eval", "--eval_split=train", f"--output_dir={model}"))
    assert "which validation chose" in capsys.readouterr().out
