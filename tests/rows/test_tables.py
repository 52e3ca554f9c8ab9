import csv
import gzip
import io
import json

import pandas
import pytest

from recipe.arguments import DataArguments
from recipe.data.opening import open_split
from recipe.data.splits import iterate
from recipe.errors import UserError
from recipe.rows.forms import Form
from recipe.rows.readers import with_quoting
from tests.utils import rows_of

PLAIN = [("花呗怎么还", "怎么还花呗", "1"), ("借呗额度", "额度怎么提", "0")]
HARD = [*PLAIN, ('他说"可以"吗', '"花呗"', "1"), ("a\tb", "c,d", "0"), ("两\n行", '"', "1")]
LONE = [*PLAIN, ('"花呗怎么还', "怎么还花呗", "1"), ("借呗", '说"好"的', "0"), ('"花呗"', '好"', "1")]
NAMES = ["sentence1", "sentence2", "label"]


def by_pandas(rows, quoting=csv.QUOTE_MINIMAL):
    return pandas.DataFrame(rows, columns=NAMES).to_csv(sep="\t", index=False, quoting=quoting).encode()


def by_csv(rows):
    sink = io.StringIO(newline="")
    csv.writer(sink, "excel-tab").writerows([NAMES, *rows])
    return sink.getvalue().encode()


def by_hand(rows):
    """As CLUE and LCQMC are published."""
    return "".join("\t".join(fields) + "\n" for fields in [NAMES, *rows]).encode()


def quoting_of(path):
    return with_quoting(path, Form.of(path, DataArguments())).quoting


def read(path, quoting="auto"):
    return [tuple(row.values()) for _, row in rows_of(path, csv_quoting=quoting)]


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("content", "rows", "quoting"),
    [
        (by_pandas(HARD), HARD, "minimal"),
        (by_csv(HARD), HARD, "minimal"),
        (by_pandas(HARD[:3]), HARD[:3], "minimal"),
        (by_pandas(PLAIN, csv.QUOTE_ALL), PLAIN, "minimal"),
        (by_pandas(PLAIN), PLAIN, None),
        (by_hand(LONE), LONE, "none"),
        (by_hand(LONE[:3]), LONE[:3], "none"),
        (by_hand([*PLAIN, ('"花呗"', "借呗", "1")]), [*PLAIN, ('"花呗"', "借呗", "1")], "none"),
    ],
)
def test_a_tsv_files_own_fields_tell_what_its_quotes_are(tmp_path, content, rows, quoting, zipped):
    path = tmp_path / ("a.tsv.gz" if zipped else "a.tsv")
    path.write_bytes(gzip.compress(content) if zipped else content)
    assert quoting_of(path) == (quoting or "")
    assert read(path) == rows


def test_a_row_that_is_uneven_by_either_reading_decides_nothing(tmp_path):
    path = tmp_path / "a.tsv"
    for rows in (HARD, [('他说"好"', "b", "1")]):  # also where no enclosed field has a tab or a line's end
        path.write_bytes(by_pandas(rows) + "一列\n".encode())
        assert quoting_of(path) == "minimal"
    path.write_bytes(by_hand(LONE) + "一列\n".encode())
    assert quoting_of(path) == "none"


def test_csv_quoting_settles_it_and_what_was_decided_is_said(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(by_pandas(HARD[:3]))
    split = open_split(DataArguments(train_file=str(path)), "train")
    assert [pair["sentence1"] for pair in iterate(split.pairs)] == [row[0] for row in HARD[:3]]
    assert "a.tsv: quotes enclose fields (--csv_quoting none makes them text)" in split.describe()
    split = open_split(DataArguments(train_file=str(path), csv_quoting="none"), "train")
    assert [pair["sentence1"] for pair in iterate(split.pairs)][2] == '"他说""可以""吗"'
    assert split.notes == []
    path.write_bytes(by_hand(LONE))
    assert "a.tsv: quotes are text" in open_split(DataArguments(train_file=str(path)), "train").describe()
    with pytest.raises(UserError, match=r"a.tsv:4: not a TSV row: .*--csv_quoting none"):
        open_split(DataArguments(train_file=str(path), csv_quoting="minimal"), "train")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            b"a\tb\t1\nc\td\t0\n",
            r":2: no 'sentence1' among the keys a, b, 1 \(line 1 is read as the column names, unless --column_names",
        ),
        (
            b"sentence1,sentence2,label\na,b,1\n",
            r":2: no 'sentence1' .* in line 1 a comma is expected in .csv, a tab in .tsv, or --delimiter",
        ),
        (
            b"sentence1\tsentence2\ra\tb\r",
            r":1: not a TSV row: a carriage return alone; .* in a line feed are expected$",
        ),
        (b"1\ta\t1\nc\td\t0\n", r":1: the column '1' stands twice; .* \(line 1 is read as them, unless --column_names"),
    ],
)
def test_a_file_without_a_header_is_told_that_line_1_was_read_as_one(tmp_path, content, told):
    path = tmp_path / "train.tsv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=told):
        open_split(DataArguments(train_file=str(path)), "train")


def test_what_excel_leaves_of_emptied_rows_and_columns_is_neither(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("sentence1,sentence2,label,,\na,b,1,,\n,,,,\nc,d,0,,\n,,,,\n,,,,\n")
    rows = list(rows_of(path))
    assert [where.rpartition(":")[2] for where, _ in rows] == ["2", "3", "4"]
    assert [row["sentence1"] for _, row in rows] == ["a", "", "c"]  # a row between others is one, and empty


def test_a_column_of_ids_is_numbers_where_it_holds_numbers(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,sentence1,sentence2\n2950,a,b\n007,c,d\nq-1,e,f\n")
    split = open_split(DataArguments(test_file=str(path)), "test")
    assert [json.loads(pair["id"]) for pair in iterate(split.pairs)] == [2950, "007", "q-1"]


ROWS = [["花呗怎么还", "怎么还花呗", "1"], ["借呗额度", "额度怎么提", "0"]]


@pytest.mark.parametrize(
    ("name", "delimiter", "flags"),
    [
        ("a.txt", "\t", {"data_format": "tsv"}),
        ("a.data", ",", {"data_format": "csv"}),
        ("a.csv", "\t", {"data_format": "tsv"}),
        ("a.csv", "\t", {"delimiter": "tab"}),
        ("a.csv", "\t", {"delimiter": "\\t"}),
        ("a.csv", "\t", {"delimiter": "\t"}),
        ("a.tsv", "|", {"delimiter": "|"}),
        ("a.txt", "_!_", {"data_format": "csv", "delimiter": "_!_"}),
        ("a", "||", {"data_format": "csv", "delimiter": "||"}),
    ],
)
def test_a_table_of_any_name_and_delimiter_with_a_header_or_without(tmp_path, name, delimiter, flags):
    path = tmp_path / name
    path.write_text("".join(delimiter.join(fields) + "\n" for fields in [NAMES, *ROWS]), encoding="utf-8")
    assert [list(row.values()) for _, row in rows_of(path, **flags)] == ROWS
    path.write_text("\n" + "".join(delimiter.join(fields) + "\n" for fields in ROWS), encoding="utf-8-sig")
    read = list(rows_of(path, **flags, column_names="a, b,c"))
    assert [list(row) for _, row in read] == [["a", "b", "c"]] * 2
    assert [list(row.values()) for _, row in read] == ROWS
    assert [where for where, _ in read] == [f"{path}:2", f"{path}:3"]


def test_a_table_without_a_header_may_be_without_its_labels(tmp_path):
    path, args = tmp_path / "a.tsv", {"column_names": "label,sentence1,sentence2"}
    path.write_text("花呗怎么还\t怎么还花呗\n借呗\t额度\n一\t二\t三\n", encoding="utf-8")
    *rows, bad = [row for _, row in rows_of(path, **args)]
    assert rows[1] == {"sentence1": "借呗", "sentence2": "额度"}
    assert str(bad).startswith(f"{path}:3: 3 fields under 2 column names")
    with pytest.raises(UserError, match=r"a.tsv:1: no 'label' among the keys sentence1, sentence2"):
        open_split(DataArguments(train_file=str(path), **args), "train")


@pytest.mark.parametrize("header", ["sentence1\tsentence2\tlabel", "text_a\ttext_b"])
def test_a_header_is_not_read_as_a_row_of_a_table_without_one(tmp_path, header):
    path = tmp_path / "a.tsv"
    path.write_text(f"{header}\n花呗怎么还\t怎么还花呗\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"a.tsv:1: line 1 is a header: leave --column_names sentence1,.* out; "):
        open_split(DataArguments(test_file=str(path), column_names="sentence1,sentence2,label"), "test")


@pytest.mark.parametrize("header", ["编号,问题一,问题二,标签", "号码,问题一,问题二", '"编号","问题一","问题二","标签"'])
@pytest.mark.parametrize("quoting", ["auto", "none"])
def test_a_header_of_the_names_that_were_given_is_not_read_as_a_row(tmp_path, header, quoting):
    path = tmp_path / "test.csv"
    path.write_text(f"{header}\n1,花呗怎么还,怎么还花呗\n", encoding="utf-8")
    names = {"column_names": "编号,问题一,问题二,标签" if "编号" in header else ",问题一,问题二,标签"}
    names |= {"text_column_names": "问题一,问题二", "label_column_name": "标签"}
    with pytest.raises(UserError, match=r"test.csv:1: line 1 is a header: leave --column_names .* out; they are read"):
        open_split(DataArguments(test_file=str(path), csv_quoting=quoting, **names), "test")


def test_another_delimiter_is_asked_for(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("花呗怎么还\t怎么还花呗\t1\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"1 fields under 3 column names: .* \(--delimiter says what stands between"):
        open_split(DataArguments(train_file=str(path), column_names="sentence1,sentence2,label"), "train")


def test_quotes_of_a_table_without_a_header_are_told_by_its_fields(tmp_path):
    path = tmp_path / "a.txt"
    flags = {"data_format": "tsv", "column_names": "sentence1,sentence2,label"}
    for rows, written in ((HARD, by_pandas(HARD)), (LONE, by_hand(LONE)), (LONE[2:], by_hand(LONE[2:]))):
        path.write_bytes(written.partition(b"\n")[2])
        assert [tuple(row.values()) for _, row in rows_of(path, **flags)] == rows
