import gzip

import datasets
import pytest

from recipe.arguments import DataArguments
from recipe.data.opening import open_split
from recipe.data.pairs import UNLABELLED, RowRules, check_pair, names_of_ids
from recipe.data.splits import iterate
from recipe.errors import BadRow, UserError
from recipe.rows.sentences import LONGEST
from recipe.rows.tables import TableRow
from tests.utils import make_scored, write_jsonl

PAIR = {"sentence1": "花呗", "sentence2": "借呗"}
SCORES, UNSCORED = RowRules(["score"], True), RowRules(["score"], False)
WRONG = [True, "3.8", float("nan"), float("inf"), -100, -100.0, 1e19, 10**400, [1], {"a": 1}, "same"]
GOOD = {"sentence1": "花呗怎么还", "sentence2": "怎么还花呗", "label": "1"}


@pytest.mark.parametrize("label", ["1", 1])
def test_labels_as_text_or_number(label):
    assert check_pair("f:1", {**GOOD, "label": label}, RowRules(["0", "1"], True))["label"] == 1


def test_named_labels_by_name_or_id():
    names = ["contradiction", "neutral", "entailment"]
    assert check_pair("f:1", {**GOOD, "label": "entailment"}, RowRules(names, True))["label"] == 2
    assert check_pair("f:1", {**GOOD, "label": 2}, RowRules(names, True))["label"] == 2


def test_labels_are_matched_by_what_a_csv_file_would_hold():
    def label(value, names, **options):
        return check_pair("f:1", {**GOOD, "label": value}, RowRules(names, True, **options))["label"]

    for value, text in [(1.0, "1.0"), (True, "true"), (True, "True"), ("1.0", "1.0"), (1, "1")]:
        assert label(value, ["no", text]) == 1
    assert label(-1, ["-1", "1"]) == 0  # a label that is called so, not a missing one
    assert check_pair("f:1", {**GOOD, "label": "-1"}, RowRules(["-1", "1"], labelled=False))["label"] == 0
    for names in (["-1", "1"], ["0.5", "1.5"]):
        with pytest.raises(UserError, match=r"label is 0; .* is expected \(--label_names; --on_bad_row skip"):
            label(0, names)  # names that are numbers are never taken for ids


@pytest.mark.parametrize(
    ("class_names", "label_names", "expected"),
    [
        (["1", "0"], ["1", "0"], [0, 1]),
        (["1", "0"], ["0", "1"], [1, 0]),
        (["1", "2", "3"], ["1", "2", "3"], [0, 1]),
        (["0", "1"], ["different", "same"], [0, 1]),
    ],
)
def test_a_whole_number_of_a_class_label_is_an_id(class_names, label_names, expected):
    known = names_of_ids("data", class_names, label_names)
    found = [check_pair("f:1", {**GOOD, "label": i}, RowRules(label_names, True, known))["label"] for i in (0, 1)]
    assert found == expected
    for value in (len(class_names), -1):
        with pytest.raises(UserError, match=f"label is {value}"):
            check_pair("f:1", {**GOOD, "label": value}, RowRules(label_names, True, known))
    assert check_pair("f:1", {**GOOD, "label": -1}, RowRules(label_names, False, known))["label"] == UNLABELLED


def test_names_that_are_neither_the_datas_nor_as_many_are_refused():
    for names in (["a", "b"], ["1", "x", "y"]):
        with pytest.raises(UserError, match=r"--label_names .*: data has the labels 1 2 3; these, or as many other"):
            names_of_ids("data", ["1", "2", "3"], names)


@pytest.mark.parametrize(
    "text", ["\u200b", "\ufeff \u00ad", "\x07\x1b", "\ufffd", "\ue000", "\u0301\ufe0f", "\u3164", "\u2028"]
)
def test_a_sentence_that_shows_nothing_is_no_sentence(text):
    with pytest.raises(UserError, match=r"f:1: sentence2 (has no visible character: '\\|is empty)"):
        check_pair("f:1", {**GOOD, "sentence2": text}, RowRules(["0", "1"], True))
    assert check_pair("f:1", {**GOOD, "sentence2": f"{text}花"}, RowRules(["0", "1"], True))["sentence2"] == f"{text}花"


@pytest.mark.parametrize("label", [None, -1, "-1", ""])
def test_a_test_split_needs_no_labels(label):
    assert check_pair("f:1", {**GOOD, "label": label}, RowRules(["0", "1"], False))["label"] == UNLABELLED


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"label": "2"}, "label is '2'; 0 or 1 is expected (--label_names, or --task_type regression; --on_bad_row"),
        ({"label": None}, "label is None"),
        ({"label": -1}, "label is -1"),
        ({"label": True}, "label is True"),
        ({"label": 1.0}, "label is 1.0"),
        ({"label": [1]}, "label is [1]"),
        ({"sentence1": ""}, "sentence1 is empty"),
        ({"sentence2": " \u3000 "}, "sentence2 is empty"),
        ({"sentence1": 5}, "sentence1 is 5; a string is expected"),
        ({"sentence2": None}, "sentence2 is None"),
        ({"sentence1": "\ud83d"}, "lone surrogate"),
        ({"sentence1": "a" * (LONGEST + 1)}, "sentence1 has 1,000,001 characters; at most 1,000,000 are expected"),
    ],
)
def test_a_row_that_is_no_pair_is_refused(change, told):
    with pytest.raises(UserError) as error:
        check_pair("f.json:7", {**GOOD, **change}, RowRules(["0", "1"], True))
    assert str(error.value).startswith("f.json:7: ")
    assert told in str(error.value)


@pytest.mark.parametrize("missing", ["sentence1", "sentence2", "label"])
def test_a_missing_key_is_named(missing):
    record = {key: value for key, value in GOOD.items() if key != missing}
    with pytest.raises(UserError, match=f"f:1: no '{missing}' among the keys"):
        check_pair("f:1", record, RowRules(["0", "1"], True))


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


@pytest.mark.parametrize("label", WRONG)
def test_what_is_no_score_is_an_error_with_its_place(label):
    for rules in (SCORES, UNSCORED):
        with pytest.raises(BadRow, match=r"^f:1: label is .*; a number other than -100.* is expected \(--task_"):
            check_pair("f:1", {**PAIR, "label": label}, rules)


@pytest.mark.parametrize("text", ["nan", "inf", "1_000", "３", "3,8", "0x10", "3.8 4", "-", "1e999", "-100"])
def test_what_python_would_read_as_a_number_and_no_one_writes_is_none(text):
    with pytest.raises(BadRow, match="a number other than -100"):
        check_pair("f:1", TableRow(PAIR, label=text), SCORES)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({**PAIR, "label": "3.5"}, "label is '3.5'; a number other than -100, without quotes, is expected"),
        ({**PAIR, "label": 1e30}, "label is 1e+30; a number other than -100, up to 1e+18, is expected"),
        (TableRow(PAIR, label="-1e30"), "label is '-1e30'; a number other than -100, up to 1e+18, is expected"),
        ({**PAIR, "label": -100}, "label is -100; a number other than -100 is expected"),
        (TableRow(PAIR, label="3,5"), "label is '3,5'; a number other than -100 is expected"),
    ],
)
def test_of_what_looks_like_a_score_it_is_said_why_it_is_none(row, told):
    with pytest.raises(BadRow) as raised:
        check_pair("f:1", row, SCORES)
    assert str(raised.value).startswith(f"f:1: {told} (--task_type regression")


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
