import contextlib
import json
import re

import matplotlib.image
import pytest
from huggingface_hub import ModelCard

from recipe.command_line.parsing import parse
from recipe.commands.evaluate import evaluate
from recipe.commands.predict import predict
from recipe.commands.train import train
from tests.utils import make_pairs, write_jsonl

FIGURES = ("learning_curve.png", "confusion.png", "reliability.png")


@pytest.mark.parametrize("names", [[], ["矛盾", "同义"]])
def test_the_card_can_be_published_as_it_is(arguments, tmp_path, pairs_dir, names):
    more = ["--label_names", *names] if names else []
    if names:
        for split in ("train", "dev"):
            text = (pairs_dir / f"{split}.json").read_text()
            for number, name in enumerate(names):
                text = text.replace(f'"label": "{number}"', f'"label": "{name}"')
            (tmp_path / f"{split}.json").write_text(text)
        more.append(f"--data_dir={tmp_path}")
    train(arguments("--model_card=true", "--num_train_epochs=2", *more[-1:], *more[:-1]))
    run = tmp_path / "run"
    card = ModelCard.load(run / "README.md")
    results = json.loads((run / "all_results.json").read_text())
    accuracy = card.data.eval_results[0]
    assert (accuracy.metric_type, accuracy.metric_value) == ("accuracy", round(results["eval_accuracy"], 4))
    assert card.data.pipeline_tag == "text-classification"
    for name in FIGURES:
        assert f"]({name})" in card.text
        assert min(matplotlib.image.imread(run / name).shape[:2]) > 300
    identity = json.loads((run / "run.json").read_text())["identity"]
    for fingerprint in (*identity["data"].values(), *identity["weights"].values()):
        assert fingerprint in card.text
    wrong = round(30 * (1 - results["eval_accuracy"]))
    assert f"## The {min(wrong, 20)} most confident mistakes" in card.text
    assert "layers 0-1" in card.text


def test_the_cards_own_lines_answer_as_the_run_does_also_pairs_that_are_cut(arguments, tmp_path, pairs_dir):
    train(arguments("--model_card=true", "--max_length=12", "--learning_rate=1e-2", "--prefix_cache=off"))
    run = tmp_path / "run"
    assert str(tmp_path) not in (run / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", (run / "README.md").read_text(), re.DOTALL)
    with contextlib.chdir(tmp_path):
        exec(code, names := {})
    pairs = [json.loads(line) for line in (pairs_dir / "dev.json").read_text().splitlines()]
    pairs.append({"sentence1": "花呗" * 60, "sentence2": "借呗" * 60})  # more tokens than the model has positions
    asked = [{key: pair[key] for key in ("sentence1", "sentence2")} for pair in pairs]
    path = write_jsonl(tmp_path / "test.json", asked)
    predict(parse(["--do_predict", f"--model_name_or_path={run}", "--use_cpu", f"--test_file={path}"]))
    expected = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    found = [names["classify"]({"text": pair["sentence1"], "text_pair": pair["sentence2"]}) for pair in pairs]
    assert [each["label"] for each in found] == [row["prediction"] for row in expected]
    assert [each["score"] for each in found] == pytest.approx([row["probability"] for row in expected], abs=1e-6)


def test_a_card_loads_the_model_from_where_its_run_was_told_to_write_it(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(arguments("--model_card=true", "--output_dir=outputs/我的", "--eval_strategy=no"))
    card = (tmp_path / "outputs" / "我的" / "README.md").read_text()
    assert 'pipeline("text-classification", "outputs/我的", trust_remote_code=True, truncation=True)\n' in card
    assert "\n# 我的\n" in card


def test_a_card_names_the_part_of_the_split_that_was_scored(arguments, tmp_path, pairs_dir):
    rows = (pairs_dir / "dev.json").read_text().splitlines(keepends=True)
    (tmp_path / "dev.json").write_text("".join([rows[0], '{"sentence1": ""}\n', *rows[1:]]))
    words = ["--model_card=true", f"--validation_file={tmp_path / 'dev.json'}", "--on_bad_row=skip"]
    train(arguments(*words))
    whole = ModelCard.load(tmp_path / "run" / "README.md")
    assert "On the validation split it is right in" in whole.text
    assert "## Scores on 30 validation pairs\n\nRows of the split that are no pairs were left out: 1 (" in whole.text
    assert whole.data.eval_results
    train(arguments(*words, "--max_eval_samples=5", "--resume=never"))
    part = ModelCard.load(tmp_path / "run" / "README.md")
    assert "On the first 5 pairs of the validation split it is right in" in part.text
    assert "## Scores on the first 5 validation pairs\n" in part.text
    assert part.data.eval_results is None  # the Hub would rank them with those on the whole split


def test_the_card_of_single_sentences_is_about_sentences(arguments, tmp_path, capsys):
    for split, count in (("train", 40), ("dev", 20)):
        rows = [{"text": row["sentence1"], "label": row["label"]} for row in make_pairs(count, count)]
        write_jsonl(tmp_path / f"{split}.json", rows)
    data = [f"--data_dir={tmp_path}", "--text_column_names=text", "--prefix_cache=on", "--max_length=8"]
    train(arguments("--model_card=true", *data))
    card = ModelCard.load(tmp_path / "run" / "README.md")
    assert "pair" not in card.text
    assert 'classify("花呗' in card.text
    assert "\n| sentence | label | answered |\n|---|---|---|\n| " in card.text
    assert (card.data.tags, card.data.eval_results[0].task_name) == (
        ["sentence-classification", "freeze-fine-tuning"],
        "Sentence classification",
    )
    out = capsys.readouterr().out
    assert "train: 40 sentences from" in out
    assert re.search(r"note: \d+ of 40 sentences of \S+ are cut", out)
    evaluate(parse([f"--model_name_or_path={tmp_path / 'run'}", "--do_eval", "--use_cpu"]))
    out = capsys.readouterr().out
    assert re.search(r"^sentences +20 of ", out, re.MULTILINE)
    assert "pair" not in out
    assert re.search(r"answered +0 +1 ", out)  # which are not taken for different and same


def test_labels_and_sentences_are_no_links_images_or_cells(arguments, tmp_path, capsys):
    names = ["[x](http://a.b)|", "\x1b[31mred\nnext"]
    rows = [{**row, "label": names[int(row["label"])]} for row in make_pairs(30)]
    rows = [{**row, "sentence1": f"![t](//a.b/{number}) `x` www.a.b @me"} for number, row in enumerate(rows)]
    for split in ("train", "dev"):
        write_jsonl(tmp_path / f"{split}.json", rows)
    train(arguments("--model_card=true", f"--data_dir={tmp_path}", "--label_names", *names))
    evaluate(parse(["--do_eval", f"--model_name_or_path={tmp_path / 'run'}", "--use_cpu"]))
    assert "\x1b" not in capsys.readouterr().out
    card = (tmp_path / "run" / "README.md").read_text()
    table = card[card.index("most confident mistakes") : card.index("## How it was made")]
    assert "\x1b" not in card
    assert not set("[]!@`") & set(table)
    assert "www." not in table
    assert all(line.count("|") == 5 for line in table.splitlines() if line.startswith("|"))
