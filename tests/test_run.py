import json
from itertools import product

import pytest

from recipe import run as running
from recipe.errors import UserError
from recipe.run import run


@pytest.mark.parametrize("asked", [each for each in product((0, 1), repeat=3) if any(each)])
def test_all_that_is_asked_for_is_done_and_nothing_else(arguments, monkeypatch, asked):
    done = []
    for name in ("train", "evaluate", "predict"):
        monkeypatch.setattr(running, name, lambda given, name=name: done.append((name, given.model.model_name_or_path)))
    words = [f"--do_{name}" for name, on in zip(("train", "eval", "predict"), asked, strict=True) if on]
    parsed = arguments(*words)
    run(parsed)
    base = parsed.model.model_name_or_path
    trained = parsed.training.output_dir if asked[0] else base
    expected = [("train", base), ("evaluate", trained), ("predict", trained)]
    assert done == [each for each, on in zip(expected, asked, strict=True) if on]


def test_what_was_trained_is_scored_and_answers(arguments, tmp_path, capsys):
    run(arguments("--do_train", "--do_eval", "--do_predict", "--eval_strategy=no"))
    folder = tmp_path / "run"
    results = json.loads((folder / "eval_results.json").read_text())
    assert f"accuracy        {results['eval_accuracy']:.4f}" in capsys.readouterr().out
    answers = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert len(answers) == 20
    before = (folder / "model.safetensors").read_bytes()
    run(arguments("--do_train", "--do_predict", "--eval_strategy=no"))
    assert (folder / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--do_predict", "--test_file=-"], "--test_file -: answers go to standard output"),
        (["--do_predict", "--test_file=/no/such"], "--test_file /no/such"),
        (["--do_eval", "--eval_split=test"], "has pairs without a label, which cannot be scored"),
    ],
)
def test_what_cannot_be_done_at_the_end_is_refused_at_the_start(arguments, tmp_path, words, told):
    with pytest.raises(UserError) as error:
        run(arguments("--do_train", *words))
    assert told in str(error.value)
    assert not (tmp_path / "run").exists()


def test_somebody_elses_predictions_are_found_before_training(arguments, tmp_path, pairs_dir):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "predictions.jsonl").write_text("mine")
    with pytest.raises(UserError, match=r"predictions.jsonl is there, which this command did not write"):
        run(arguments("--do_train", "--do_predict", f"--test_file={pairs_dir / 'dev.json'}"))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["predictions.jsonl"]
