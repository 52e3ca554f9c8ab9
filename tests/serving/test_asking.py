import dataclasses
import gzip
import json

import pytest

from recipe.command_line.parsing import parse
from recipe.commands.predict import predict
from recipe.commands.train import train
from recipe.errors import UserError
from recipe.reporting.model_card import examples, mistakes
from recipe.serving.asking import ask_file, ask_pair, ask_validation, load_asked
from tests.utils import make_pairs, make_scored, write_jsonl


def words(run, *more):
    return parse(["--do_predict", f"--model_name_or_path={run}", "--use_cpu", *more])


@pytest.fixture
def asked(arguments, tmp_path):
    """A run's model, ready to be asked."""
    train(arguments("--prefix_cache=off"))
    return load_asked(words(tmp_path / "run"))


def answered(asked, path):
    """What asking a file writes, and what it gives back."""
    target = path.with_suffix(".answers")
    found = ask_file(asked, path, target)
    return target.read_text(), found


def predictions(run, path, *more):
    """predictions.jsonl as --do_predict writes it for a file."""
    predict(words(run, f"--test_file={path}", *more))
    return (run / "predictions.jsonl").read_text()


def test_a_pair_is_answered_as_predict_answers_it_in_both_orders(asked, tmp_path):
    for number, row in enumerate(make_pairs(5, 7)):
        pair = [row["sentence1"], row["sentence2"]]
        found = ask_pair(asked, *pair)
        assert not found.cut
        for chances, order in zip(found.orders, (pair, pair[::-1]), strict=True):
            path = write_jsonl(
                tmp_path / f"{number}.jsonl", [dict(zip(("sentence1", "sentence2"), order, strict=True))]
            )
            line = json.loads(predictions(tmp_path / "run", path))
            assert asked.names[chances.argmax()] == line["prediction"]
            assert round(float(chances.max()), 6) == line["probability"]


def test_a_file_is_answered_as_predict_answers_it(asked, tmp_path, pairs_dir):
    for path in (pairs_dir / "dev.json", pairs_dir / "test.json"):
        assert answered(asked, path)[0] == predictions(tmp_path / "run", path)
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress("sentence1\tsentence2\n花呗\t借呗\n".encode()))
    assert answered(asked, tmp_path / "a.tsv.gz")[0] == predictions(tmp_path / "run", tmp_path / "a.tsv.gz")


def test_rows_that_are_no_pairs_are_left_out_and_named(asked, tmp_path):
    path = tmp_path / "some.csv"
    path.write_text("sentence1,sentence2\n花呗,借呗\n花呗,\n,\n花呗,花呗\n")
    lines, found = answered(asked, path)
    assert [json.loads(line)["sentence2"] for line in lines.splitlines()] == ["借呗", "花呗"]
    assert found.first == lines.splitlines(keepends=True)
    assert found.notes == ["2 pairs", "2 bad rows left out, the first: some.csv:3: sentence2 is empty"]


def test_what_is_said_of_a_file_names_no_flags(asked, tmp_path):
    path = tmp_path / "some.tsv"
    path.write_text(f'sentence1\tsentence2\n花呗\t{"借" * 99}\n花呗 "\t借呗\n花呗\t借呗\t1\n')
    assert answered(asked, path)[1].notes == [
        "2 pairs",
        "1 bad rows left out, the first: some.tsv:4: 3 fields under 2 column names: '花呗'",
        "some.tsv: quotes are text",
        "note: 1 of 2 pairs of some.tsv are cut at 32 tokens",
    ]
    asked.trainer.model.config.id2label = {0: "unlike", 1: "alike"}
    own = asked.arguments._replace(data=dataclasses.replace(asked.arguments.data, label_names=["0", "1"]))
    with pytest.raises(UserError, match=r"^its labels are unlike, alike, those of some.tsv different, same$"):
        answered(asked._replace(arguments=own), path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"\xff\xfe\x00", r"^a\.csv:1: byte 1 is not UTF-8; the file may be UTF-16"),
        ("a.json", b"", r"^a\.json: no sentence pairs in it"),
        ("a.json", b'{"q1": "a"}\n', r"^a\.json: no sentence pairs in it; 1 bad rows .*a\.json:1: no 'sentence1'"),
        (
            "a.csv",
            b"q1,q2\na,b\n",
            r"a\.csv:2: no 'sentence1' among the keys q1, q2 \(line 1 is read as the column names\); "
            r"the columns sentence1,sentence2 are expected$",
        ),
        (
            "a.json",
            b'{"q1": "a", "q2": "b"}',
            r"among the keys q1, q2; the columns sentence1,sentence2 are expected$",
        ),
        ("a.json", b'{"sentence1": "a", "sentence2": "b", "label": "x"}', r": label is 'x'; 0 or 1 is expected$"),
        ("a.csv", b"a,a\nb,c\n", r"the column 'a' stands twice; each .* expected \(line 1 is read as them\)$"),
        ("a.txt", b"a", r"^a\.txt: a file ending in \.json.*, plain or \.gz, is expected$"),
        ("a.parquet", b"PAR1", r"^a\.parquet: not a Parquet file"),
        ("a.gz", b"\x1f\x8b\x00", r"^a\.gz: a file ending in \.json"),
        ("a.json.gz", b"\x1f\x8b\x00", r"^a\.json\.gz: cannot be read"),
    ],
)
def test_a_broken_file_is_a_sentence_that_names_it_as_the_visitor_does(asked, tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        answered(asked, tmp_path / name)
    assert str(tmp_path) not in str(error.value)
    assert "--" not in str(error.value)  # a visitor has no flags


def test_nothing_is_computed_once_the_page_is_closed(asked, pairs_dir):
    asked.ended.set()
    with pytest.raises(UserError, match="the page has been closed"):
        answered(asked, pairs_dir / "dev.json")


def test_long_and_invisible_sentences(asked):
    assert ask_pair(asked, "花" * 50_000, "呗").cut
    for text, said in [
        ("花" * 100_001, r"^sentence1 has 100,001 characters; at most 100,000 are expected here$"),
        ("\u200b", r"^sentence1 has no visible character"),
        ("a\ud800", r"^sentence1 holds half a character"),
    ]:
        with pytest.raises(UserError, match=said):
            ask_pair(asked, text, "呗")


def test_examples_and_mistakes_are_the_validation_splits(asked, pairs_dir):
    scored = ask_validation(asked)
    rows = [json.loads(line) for line in (pairs_dir / "dev.json").read_text().splitlines()]
    assert scored.split.rows == len(rows)
    shown = examples(scored, 2)
    label = {(row["sentence1"], row["sentence2"]): row["label"] for row in rows}
    assert sorted(label[tuple(pair)] for pair in shown) == ["0", "0", "1", "1"]
    wrong = mistakes(scored)
    assert len(wrong) == min(20, int((~scored.answers.right).sum()))
    assert all(each["label"] != each["answered"] for each in wrong)
    gone = asked._replace(arguments=words(asked.trainer.model.name_or_path, "--data_dir=/missing"))
    with pytest.raises(UserError, match="/missing"):
        ask_validation(gone)


def test_a_model_of_other_labels_reads_files_without_being_told_them(asked, tmp_path, pairs_dir):
    asked.trainer.model.config.id2label = {0: "unlike", 1: "alike"}
    assert asked.arguments.data.label_names is None
    lines, _ = answered(asked, pairs_dir / "test.json")
    assert {json.loads(line)["prediction"] for line in lines.splitlines()} <= {"unlike", "alike"}
    other = asked.arguments._replace(data=dataclasses.replace(asked.arguments.data, label_names=["0", "1"]))
    with pytest.raises(UserError, match="its labels are unlike, alike"):
        answered(asked._replace(arguments=other), pairs_dir / "test.json")


def test_single_sentences_have_one_order(arguments, tmp_path, pairs_dir):
    train(arguments("--prefix_cache=off", "--text_column_names=sentence1"))
    asked = load_asked(words(tmp_path / "run"))
    (chances,) = ask_pair(asked, "花呗怎么还款", None).orders
    path = write_jsonl(tmp_path / "one.jsonl", [{"sentence1": "花呗怎么还款"}])
    assert round(float(chances.max()), 6) == json.loads(predictions(tmp_path / "run", path))["probability"]
    assert [len(row) for row in examples(ask_validation(asked), 1)] == [1, 1]


def test_a_pair_and_a_file_are_scored_as_predict_scores_them(arguments, tmp_path):
    for split in ("train", "dev"):
        write_jsonl(tmp_path / f"{split}.json", make_scored(20, 1))
    train(arguments("--prefix_cache=off", "--task_type=regression", f"--data_dir={tmp_path}"))
    asked = load_asked(words(tmp_path / "run"))
    text, told = answered(asked, tmp_path / "dev.json")
    assert text == predictions(tmp_path / "run", tmp_path / "dev.json")
    assert told.notes[0] == "20 pairs"
    lines, rows = [json.loads(line) for line in text.splitlines()], make_scored(20, 1)
    found = ask_pair(asked, rows[0]["sentence1"], rows[0]["sentence2"])
    assert [each.shape for each in found.orders] == [(1,), (1,)]
    assert found.orders[0][0] == pytest.approx(lines[0]["prediction"], abs=1e-5)
    assert found.orders[0][0] != found.orders[1][0]
    scored = ask_validation(asked)
    assert len(examples(scored)) == 6
    errors = [abs(line["prediction"] - row["label"]) for line, row in zip(lines, rows, strict=True)]
    assert [each["confidence"] for each in mistakes(scored)] == pytest.approx(sorted(errors, reverse=True), abs=1e-5)
