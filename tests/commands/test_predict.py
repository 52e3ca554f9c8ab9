import io
import json
import os
import re
import signal
import sys
import tempfile

import pytest
import torch
from transformers import BertConfig, pipeline

from recipe.commands.evaluate import evaluate
from recipe.commands.predict import predict
from recipe.commands.train import train
from recipe.errors import Stopped, UserError
from tests.commands.saved import words
from tests.utils import make_pairs, write_jsonl


@pytest.fixture
def model(arguments, tmp_path):
    """A run's folder."""
    train(arguments("--prefix_cache=off"))
    return tmp_path / "run"


def test_predictions_are_the_pipelines_in_the_splits_order(model, pairs_dir):
    predict(words(model, "--do_predict", "--eval_split=validation"))
    lines = [json.loads(line) for line in (model / "predictions.jsonl").read_text().splitlines()]
    pairs = [json.loads(line) for line in (pairs_dir / "dev.json").read_text().splitlines()]
    assert [(line["sentence1"], line["sentence2"]) for line in lines] == [
        (p["sentence1"], p["sentence2"]) for p in pairs
    ]
    assert [line["label"] for line in lines] == [{"0": "different", "1": "same"}[pair["label"]] for pair in pairs]
    torch.manual_seed(0)
    classify = pipeline("text-classification", str(model), trust_remote_code=True)
    answers = [classify({"text": pair["sentence1"], "text_pair": pair["sentence2"]}) for pair in pairs]
    assert [line["prediction"] for line in lines] == [answer["label"] for answer in answers]
    assert [line["probability"] for line in lines] == pytest.approx([answer["score"] for answer in answers], abs=1e-5)
    assert not (model / "afqmc_predict.json").exists()


def test_answers_to_a_part_of_a_split_are_said_to_be_so(model, pairs_dir, capsys):
    for limit, told in (("5", "5 pairs of {}; no more, by --max_eval_samples 5"), ("99", "30 pairs of {}")):
        predict(words(model, "--do_predict", "--eval_split=validation", f"--max_eval_samples={limit}"))
        line = f"predictions     {model / 'predictions.jsonl'}: {told.format(pairs_dir / 'dev.json')}"
        assert line in capsys.readouterr().out.splitlines()


def test_the_test_split_without_labels_is_answered_and_made_a_submission(model, capsys):
    predict(words(model, "--do_predict"))
    lines = (model / "afqmc_predict.json").read_text().splitlines()
    predictions = [json.loads(line) for line in (model / "predictions.jsonl").read_text().splitlines()]
    assert [json.loads(line) for line in lines] == [
        {"id": number, "label": {"different": "0", "same": "1"}[predictions[number]["prediction"]]}
        for number in range(20)
    ]
    assert {prediction["label"] for prediction in predictions} == {None}
    assert "20 lines, one for each row" in capsys.readouterr().out


def test_the_next_command_can_be_pasted_where_the_folder_has_spaces(model, capsys):
    model = model.rename(model.parent / "my run")
    evaluate(words(model, "--do_eval"))
    assert capsys.readouterr().out.splitlines()[-1] == f"next            make predict RUN='{model}'"
    predict(words(model, "--do_predict"))
    assert capsys.readouterr().out.splitlines()[-1] == f"next            make export RUN='{model}'"


def test_a_run_that_is_not_there_is_said_to_be_so_and_not_made(tmp_path):
    with pytest.raises(UserError, match=r"^--model_name_or_path \S+/none: no such folder"):
        predict(words(tmp_path / "none", "--do_predict", f"--output_dir={tmp_path / 'none'}"))
    assert not (tmp_path / "none").exists()


def test_standard_input_to_standard_output(model, monkeypatch, capsys):
    class Input:
        buffer = io.BytesIO('{"sentence1": "花呗", "sentence2": "借呗"}\n'.encode())

    monkeypatch.setattr(sys, "stdin", Input)
    predict(words(model, "--do_predict", "--test_file=-"))
    answer = json.loads(capsys.readouterr().out)
    assert answer["sentence2"] == "借呗"
    assert answer["prediction"] in ("same", "different")
    Input.buffer = io.BytesIO(b'{"sentence1": "a"}\n')
    with pytest.raises(UserError, match=r"^standard input:1: no 'sentence2'"):
        predict(words(model, "--do_predict", "--test_file=-"))


def test_what_standard_input_loses_is_told_on_standard_error(model, monkeypatch, capsys):
    rows = [{"sentence1": "花呗" * 9, "sentence2": "借呗" * 9}, {"sentence1": " ", "sentence2": "a"}, *make_pairs(1)]

    class Input:
        buffer = io.BytesIO("".join(json.dumps(row) + "\n" for row in rows).encode())

    monkeypatch.setattr(sys, "stdin", Input)
    predict(words(model, "--do_predict", "--test_file=-", "--on_bad_row=skip"))
    out, err = capsys.readouterr()
    assert [json.loads(line)["sentence1"] for line in out.splitlines()] == [rows[0]["sentence1"], rows[2]["sentence1"]]
    assert err.splitlines() == [
        "note: 1 bad rows left out, the first: standard input:2: sentence1 is empty",
        "note: 1 of 2 pairs of standard input are cut at --max_length",
    ]


def test_a_file_is_answered_to_a_file_whatever_its_name(model, tmp_path, capsys):
    path = write_jsonl(tmp_path / "standard-input.jsonl", make_pairs(2))
    predict(words(model, "--do_predict", f"--test_file={path}"))
    assert len((model / "predictions.jsonl").read_text().splitlines()) == 2
    assert '"prediction"' not in capsys.readouterr().out


def test_a_signal_leaves_no_copy_of_standard_input(model, monkeypatch, tmp_path):
    class Input:
        buffer = io.BytesIO('{"sentence1": "花呗", "sentence2": "借呗"}\n'.encode())

    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(sys, "stdin", Input)
    monkeypatch.setattr("recipe.commands.answering.answer_pairs", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped) as stop:
        predict(words(model, "--do_predict", "--test_file=-"))
    assert stop.value.status == 143
    assert list((tmp_path / "temporary").iterdir()) == []


def test_ids_are_carried_into_predictions_and_the_submission(model, tmp_path, capsys):
    rows = [{key: row[key] for key in ("sentence1", "sentence2")} for row in make_pairs(4)]
    path = tmp_path / "test.json"

    def answer(rows, *more):
        write_jsonl(path, rows)
        predict(words(model, "--do_predict", f"--test_file={path}", "--dataset_config_name=bq/corpus", *more))
        predictions = (model / "predictions.jsonl").read_text().splitlines()
        submission = model / "bq_corpus_predict.json"
        told = capsys.readouterr().out
        if not submission.exists():
            return [json.loads(line).get("id") for line in predictions], told
        assert "lines, one for each row" in told
        assert ("; numbered from 0, since no row has an id" in told) == all(
            "id" not in json.loads(line) for line in predictions
        )
        assert [json.loads(line)["id"] for line in submission.read_text().splitlines()] == [
            json.loads(line).get("id", number) for number, line in enumerate(predictions)
        ]
        return [json.loads(line).get("id") for line in predictions], ""

    ids = [2950, 7, "q-1", 3.5]
    assert answer([{**row, "id": i} for row, i in zip(rows, ids, strict=True)]) == (ids, "")
    assert answer([{**row, "idx": i} for row, i in zip(rows, ids, strict=True)], "--no_streaming") == (ids, "")
    masked = [{**row, "id": None, "idx": i} for row, i in zip(rows, ids, strict=True)]  # as pandas fills a column
    assert answer(masked) == (ids, "")
    assert answer(rows) == ([None] * 4, "")
    broken = [{**row, "id": i} for i, row in enumerate(rows)]
    broken[1]["sentence2"] = " "
    found, told = answer(broken, "--on_bad_row=skip")  # and the older submission is gone
    assert found == [0, 2, 3]
    assert "none is written: it must have every row, and of" in told
    assert "1 bad rows left out, the first:" in told
    assert "the id 5 stands twice in" in answer([{**row, "id": 5} for row in rows])[1]
    assert "1 of 4 rows of" in answer([{**rows[0], "id": 5}, {**rows[1], "id": 6}, {**rows[2], "id": 7}, rows[3]])[1]
    assert re.search("none is written: 1 of 4 rows of .* have a label", answer([{**rows[0], "label": 1}, *rows[1:]])[1])


def test_answers_to_ones_own_pairs_are_no_submission_to_afqmc(model, tmp_path, capsys):
    own = {"name.json": {"id": 1}, "text.json": {"id": "0"}, "none.json": {}}
    for name, ids in own.items():
        rows = [{key: row[key] for key in ("sentence1", "sentence2")} | ids for row in make_pairs(1)]
        predict(words(model, "--do_predict", f"--test_file={write_jsonl(tmp_path / name, rows)}"))
    table = tmp_path / "own.csv"
    table.write_text("id,q,p\n0,花呗,借呗\n")
    predict(words(model, "--do_predict", f"--test_file={table}", "--text_column_names=q,p"))
    assert "submission" not in capsys.readouterr().out
    assert not (model / "afqmc_predict.json").exists()
    predict(words(model, "--do_predict"))
    submission = (model / "afqmc_predict.json").read_bytes()
    predict(words(model, "--do_predict", f"--test_file={table}", "--text_column_names=q,p"))
    assert (model / "afqmc_predict.json").read_bytes() == submission  # which still answers AFQMC's rows
    table.write_text("id,sentence1,sentence2\n0,花呗,借呗\n")  # AFQMC's rows may lie in a table
    predict(words(model, "--do_predict", f"--test_file={table}"))
    assert [json.loads(line)["id"] for line in (model / "afqmc_predict.json").read_text().splitlines()] == [0]


def test_the_models_configuration_is_read_once(model, monkeypatch):
    read, real = [], BertConfig.get_config_dict
    monkeypatch.setattr(
        BertConfig, "get_config_dict", lambda *given, **more: read.append(given) or real(*given, **more)
    )
    predict(words(model, "--do_predict"))
    assert read == [(str(model),)]


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("--do_predict", "predictions.jsonl"),
        ("--do_predict", "afqmc_predict.json"),
        ("--do_eval", "eval_results.json"),
    ],
)
def test_what_somebody_else_wrote_is_not_replaced_by_answers(model, tmp_path, asked, name):
    command = {"--do_predict": predict, "--do_eval": evaluate}[asked]
    given = words(model, asked, f"--output_dir={tmp_path}")
    for content in ("mine", '{"mine": 1}', "[" * 9999):
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=f"^--output_dir .*: {name} is there, which this command did not write"):
            command(given)
        assert (tmp_path / name).read_text() == content
    (tmp_path / name).write_text("")
    for _ in range(2):  # and what it wrote itself is
        command(given)
    assert (tmp_path / name).stat().st_size
