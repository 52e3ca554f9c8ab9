import csv
import gzip
import io

import pandas
import pytest

from recipe.arguments import DataArguments
from recipe.data.opening import open_split
from recipe.data.splits import iterate
from recipe.errors import UserError
from recipe.rows.readers import quoting_of, read_rows

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


def read(path, quoting="auto"):
    return [tuple(row.values()) for _, row in read_rows(path, quoting)]


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
    assert quoting_of(path) == quoting
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
        (b"a\tb\t1\nc\td\t0\n", r":2: no 'sentence1' among the keys a, b, 1 \(line 1 is read as the column names\)"),
        (
            b"sentence1,sentence2,label\na,b,1\n",
            r":2: no 'sentence1' .* between commas in a .csv file and tabs in a .tsv",
        ),
        (
            b"sentence1\tsentence2\ra\tb\r",
            r":1: not a TSV row: a carriage return alone; .* in a line feed are expected$",
        ),
        (b"1\ta\t1\nc\td\t0\n", r":1: the column '1' stands twice; .* \(line 1 is read as the column names\)"),
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
    rows = list(read_rows(path))
    assert [where.rpartition(":")[2] for where, _ in rows] == ["2", "3", "4"]
    assert [row["sentence1"] for _, row in rows] == ["a", "", "c"]  # a row between others is one, and empty


def test_a_column_of_ids_is_numbers_where_it_holds_numbers(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,sentence1,sentence2\n2950,a,b\n007,c,d\nq-1,e,f\n")
    assert [row["id"] for _, row in read_rows(path)] == [2950, "007", "q-1"]
