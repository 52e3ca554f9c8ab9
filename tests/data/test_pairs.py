import gzip

import datasets
import pytest

from recipe.arguments import DataArguments
from recipe.data.opening import open_split
from recipe.data.pairs import UNLABELLED, RowRules, check_pair
from recipe.data.splits import iterate
from recipe.errors import BadRow, UserError
from recipe.rows.tables import TableRow
from tests.utils import make_scored, write_jsonl

PAIR = {"sentence1": "花呗", "sentence2": "借呗"}
SCORES, UNSCORED = RowRules(["score"], True), RowRules(["score"], False)


def scores_of(path, **flags):
    split = open_split(DataArguments(train_file=str(path), task_type="regression", **flags), "train")
    assert split.regression
    return [pair["label"] for pair in iterate(split.pairs)], split


@pytest.mark.parametrize("label", [3.8, 0, -1, 5, 1e-3, -99.5, 1e18])
def test_a_score_is_a_number(label):
    for rules in (SCORES, UNSCORED):
        found = check_pair("f:1", {**PAIR, "label": label}, rules)["label"]
        assert (type(found), found) == (float, label)
        for text in (str(label), f" {label!r} ", f"{label:e}"):
            assert check_pair("f:1", TableRow(PAIR, label=text), rules)["label"] == pytest.approx(label)


WRONG = [True, "3.8", float("nan"), float("inf"), -100, -100.0, 1e19, 10**400, [1], {"a": 1}, "same"]


@pytest.mark.parametrize("label", WRONG)
def test_what_is_no_score_is_an_error_with_its_place(label):
    for rules in (SCORES, UNSCORED):
        with pytest.raises(BadRow, match=r"^f:1: label is .*; a number other than -100 is expected \(--task_type regr"):
            check_pair("f:1", {**PAIR, "label": label}, rules)


@pytest.mark.parametrize("text", ["nan", "inf", "1_000", "３", "3,8", "0x10", "3.8 4", "-", "1e999", "-100"])
def test_what_python_would_read_as_a_number_and_no_one_writes_is_none(text):
    with pytest.raises(BadRow, match="a number other than -100 is expected"):
        check_pair("f:1", TableRow(PAIR, label=text), SCORES)


def test_a_missing_score_is_an_error_but_in_a_test_split():
    for row in ({**PAIR, "label": None}, TableRow(PAIR, label=""), PAIR):
        assert check_pair("f:1", row, UNSCORED)["label"] == UNLABELLED
        with pytest.raises(BadRow, match=r"^f:1: (label is |no .label. among)"):
            check_pair("f:1", row, SCORES)


@pytest.mark.parametrize("streaming", [True, False])
def test_scores_are_the_same_from_every_form(tmp_path, streaming):
    rows = [*make_scored(9), {**PAIR, "label": 3}]  # a whole number among others is one too
    expected = [row["label"] for row in rows]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    table = "\n".join(["\t".join(rows[0]), *("\t".join(map(str, row.values())) for row in rows)]) + "\n"
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(table.encode()))
    plain = [{**row, "label": float(row["label"])} for row in rows]
    datasets.Dataset.from_list(plain).to_parquet(tmp_path / "a.parquet")
    for name in (path.name, "a.tsv.gz", "a.parquet"):
        found, split = scores_of(tmp_path / name, streaming=streaming)
        assert (found, split.rows, split.label_names) == (expected, 10, ["score"])
        assert {type(each) for each in found} == {float}


def test_rows_without_a_score_are_left_out_and_counted(tmp_path):
    rows = [*make_scored(3), {**PAIR, "label": "high"}, {**PAIR, "label": True}]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(UserError, match=r"a.jsonl:4: label is 'high'; a number other than -100 is expected"):
        scores_of(path)
    assert len(scores_of(path, on_bad_row="skip")[1].skipped) == 2


def test_classes_are_not_taken_for_scores_nor_scores_for_classes(tmp_path):
    rows = [{**row, "label": number % 2} for number, row in enumerate(make_scored(4))]
    text = datasets.Value("string")
    for names, args, reason in (
        (["b", "a"], {"task_type": "regression"}, r"--task_type regression: .* has the labels b a, which are classes"),
        (["only"], {}, "a.parquet: its one label is only; at least two, or --task_type regression, expected"),
    ):
        label = datasets.ClassLabel(names=names)
        features = datasets.Features({"sentence1": text, "sentence2": text, "label": label})
        some = [{**row, "label": min(row["label"], len(names) - 1)} for row in rows]
        datasets.Dataset.from_list(some, features=features).to_parquet(tmp_path / "a.parquet")
        with pytest.raises(UserError, match=reason):
            open_split(DataArguments(train_file=str(tmp_path / "a.parquet"), **args), "train")
    path = write_jsonl(tmp_path / "a.jsonl", [{**PAIR, "label": 3.8}])
    with pytest.raises(UserError, match=r"label is 3.8; 0 or 1 is expected \(--label_names, or --task_type regr"):
        open_split(DataArguments(train_file=str(path)), "train")


def test_the_arrow_cache_of_a_release_with_another_mark_is_not_found(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "test.json", [PAIR] * 3)
    args = DataArguments(test_file=str(path), streaming=False)
    monkeypatch.setattr(RowRules, "__new__", _marking_by(-1))
    assert open_split(args, "test").pairs["label"][:] == [-1] * 3
    monkeypatch.undo()
    assert open_split(args, "test").pairs["label"][:] == [UNLABELLED] * 3


def _marking_by(value):
    made = RowRules.__new__
    return lambda cls, *given, **named: made(cls, *given, **{"unlabelled": value, **named})
