import dataclasses
import json

import pytest
from datasets import Dataset

from recipe.arguments import DataArguments
from recipe.command_line.parsing import parse
from recipe.data.opening import open_split
from recipe.data.splits import iterate
from recipe.errors import UserError
from recipe.rows.columns import Columns, offer
from tests.utils import make_pairs, write_jsonl

OTHER = [{"query1": row["sentence1"], "query2": row["sentence2"], "gold": row["label"]} for row in make_pairs(9)]
FLAGS = {"text_column_names": "query1, query2", "label_column_name": "gold"}


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_columns_under_other_names_are_the_same_pairs(tmp_path, kind):
    path = tmp_path / f"train.{kind}"
    rows = [{"sentence1": "no", "number": i, **row, "label": "x"} for i, row in enumerate(OTHER)]
    data = Dataset.from_list(rows)
    {"jsonl": data.to_json, "csv": data.to_csv, "parquet": data.to_parquet}[kind](path)
    for streaming in (True, False):
        args = DataArguments(train_file=str(path), streaming=streaming, id_column_name="number", **FLAGS)
        pairs = list(iterate(open_split(args, "train").pairs))
        assert [json.loads(pair["id"]) for pair in pairs] == list(range(9))
        expected = [{**row, "label": int(row["label"])} for row in make_pairs(9)]
        assert [{key: pair[key] for key in expected[0]} for pair in pairs] == expected


def test_an_id_that_is_asked_for_must_be_there_where_ids_count(tmp_path):
    path = str(write_jsonl(tmp_path / "a.jsonl", make_pairs(2)))
    args = DataArguments(train_file=path, test_file=path, id_column_name="nr")
    assert open_split(args, "train").rows == 2
    with pytest.raises(UserError, match=r"a.jsonl:1: no 'nr' among .*; --id_column_name .* '' that none does$"):
        open_split(args, "test")
    assert open_split(dataclasses.replace(args, id_column_name=""), "test").rows == 2


@pytest.mark.parametrize(
    ("names", "flags"),
    [
        ("text_a text_b label", "; columns text_a, text_b, label: give --text_column_names text_a,text_b"),
        ("id query1 query2", "; columns query1, query2: give --text_column_names query1,query2"),
        (
            "qid question1 question2 is_duplicate",
            "; columns question1, question2, is_duplicate: give --text_column_names question1,question2 "
            "--label_column_name is_duplicate",
        ),
        (
            "premise hypothesis label",
            "; columns premise, hypothesis, label: give --text_column_names premise,hypothesis",
        ),
        ("q1 q2 label", "; columns q1, q2, label: give --text_column_names q1,q2"),
        ("s1 s2 label", "; columns s1, s2, label: give --text_column_names s1,s2"),
        ("label label_desc sentence", "; columns sentence, label: give --text_column_names sentence"),
        (
            "sentence1 sentence2 gold_label",
            "; columns sentence1, sentence2, gold_label: give --text_column_names sentence1,sentence2 "
            "--label_column_name gold_label",
        ),
        ("a b c", ""),
        ("sentence1 sentence2 label", ""),
    ],
)
def test_usual_names_are_offered(names, flags):
    assert offer(names.split(), Columns()) == flags


@pytest.mark.parametrize(
    ("row", "flags", "told"),
    [
        (
            {"问题一": "a", "问题二": "b"},
            {},
            "'sentence1' among the keys 问题一, 问题二; --text_column_names says which",
        ),
        (
            {"a": "x"},
            {"text_column_names": "a，b"},
            "; --text_column_names, which takes a comma between names, not '，'",
        ),
        (
            {"sentence1": "a", "sentence2": "b"},
            {},
            "; --label_column_name says which column holds the label; --on_bad_row skip leaves such rows out",
        ),
        (
            {"问题一": "a", "text": "b", "gold_label": "1"},
            {"text_column_names": "问题一"},
            "; columns 问题一, gold_label: give --text_column_names '问题一' --label_column_name gold_label; --",
        ),
        (
            {"q1": "a", "q2": "b", "结果": "1"},
            {"label_column_name": "结果"},
            "; columns q1, q2, 结果: give --text_column_names q1,q2 --label_column_name '结果'",
        ),
    ],
)
def test_a_missing_column_names_the_flag_that_asked_for_it(tmp_path, row, flags, told):
    path = write_jsonl(tmp_path / "a.jsonl", [row])
    with pytest.raises(UserError) as error:
        open_split(DataArguments(train_file=str(path), **flags), "train")
    assert told in str(error.value)


def test_a_label_column_that_a_header_lacks_is_no_matter_of_some_rows(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("sentence1,sentence2\na,b\n")
    with pytest.raises(UserError, match=r"unless --column_names gives them\); --label_column_name says [^;]*$"):
        open_split(DataArguments(train_file=str(path)), "train")


def test_the_error_of_a_file_offers_what_reads_it(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\ta\tb\n")
    with pytest.raises(UserError) as error:
        open_split(DataArguments(train_file=str(path)), "train")
    assert str(error.value).endswith("give --text_column_names '#1 String,#2 String' --label_column_name Quality")
    names = {"text_column_names": "#1 String,#2 String", "label_column_name": "Quality"}
    assert open_split(DataArguments(train_file=str(path), **names), "train").rows == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--text_column_names=a,b,c"], "--text_column_names a,b,c: two columns with a comma between, or one"),
        (["--text_column_names=a,a"], "two columns"),
        (["--text_column_names=a,"], "two columns"),
        (["--text_column_names="], "two columns"),
        (
            ["--label_column_name=sentence2"],
            "--label_column_name sentence2: a sentence is there, by --text_column_names",
        ),
        (
            ["--column_names=text_a,text_b,label"],
            "--column_names text_a,text_b,label: no 'sentence1' among them, which holds a sentence by "
            "--text_column_names sentence1,sentence2; columns text_a, text_b, label: "
            "give --text_column_names text_a,text_b",
        ),
        (["--column_names=a,b,label"], "sentence1,sentence2; --text_column_names says which columns do"),
        (["--column_names=sentence1,sentence2,x,x"], "'x' stands twice"),
        (["--delimiter="], "--delimiter '': 'tab', a character or a few (no quote) are expected"),
        (['--delimiter="'], "--delimiter '\"'"),
    ],
)
def test_flags_that_do_not_fit_each_other_are_refused(words, told):
    with pytest.raises(UserError) as error:
        parse(words)
    assert told in str(error.value)
