"""For any bytes the readers give rows, or errors that name the file; and what was written comes back as it was."""

import csv
import gzip
import io
import json

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from recipe.data.pairs import RowRules, checked
from recipe.errors import BadRow, UserError
from tests.utils import QUICK, rows_of

KINDS = ["jsonl", "json", "csv", "tsv", "parquet"]
some = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
text = st.tuples(some, st.sampled_from("花a0?"), some).map("".join)
pairs = st.lists(
    st.fixed_dictionaries({"sentence1": text, "sentence2": text, "label": st.sampled_from("01")}),
    min_size=1,
    max_size=5,
)


def encode(kind, rows):
    if kind == "json":
        return json.dumps(rows, ensure_ascii=False).encode()
    if kind == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if kind == "parquet":
        sink = pyarrow.BufferOutputStream()
        parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
        return sink.getvalue().to_pybytes()
    sink = io.StringIO(newline="")
    if kind == "tsv":
        names = list(rows[0])
        sink.write("".join("\t".join(fields) + "\n" for fields in [names, *([row[n] for n in names] for row in rows)]))
    else:
        writer = csv.DictWriter(sink, list(rows[0]), lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    return sink.getvalue().encode()


def read(path, content, skip=False):
    """The pairs of a file, or the line that a user would see."""
    path.write_bytes(content)
    try:
        return list(checked(rows_of(path), [], RowRules(["0", "1"], labelled=True, skip=skip)))
    except UserError as error:
        message = str(error)
        assert str(path) in message
        assert len(message.splitlines()) == 1
        assert len(message) < 400 + len(str(path))
        return message


@pytest.mark.parametrize("kind", KINDS)
@QUICK
@given(rows=pairs)
def test_what_was_written_comes_back_as_it_was(tmp_path, kind, rows):
    if kind == "tsv":  # a tab or a line's end cannot be written in it
        rows = [{key: "".join(value.split()) or "x" for key, value in row.items()} for row in rows]
    expected = [{**row, "label": int(row["label"])} for row in rows]
    assert read(tmp_path / f"a.{kind}", encode(kind, rows)) == expected


@pytest.mark.parametrize("kind", KINDS)
@QUICK
@given(content=st.binary(max_size=200) | st.text('[]{}",:\\\n\r\t 01ab花', max_size=60).map(str.encode))
def test_any_bytes_are_rows_or_an_error(tmp_path, kind, content):
    read(tmp_path / f"a.{kind}", content)
    read(tmp_path / f"b.{kind}.gz", content)
    read(tmp_path / f"c.{kind}.gz", gzip.compress(content), skip=True)


@pytest.mark.parametrize("kind", KINDS)
@QUICK
@given(rows=pairs, data=st.data())
def test_a_damaged_file_is_an_error_or_differs_where_it_was_damaged(tmp_path, kind, rows, data):
    content = bytearray(encode(kind, rows))
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[place:]
    else:
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    found = read(tmp_path / f"a.{kind}", bytes(content))
    if kind == "jsonl" and not isinstance(found, str) and len(content) < place + 1:
        assert found == [{**row, "label": int(row["label"])} for row in rows][: len(found)]


@QUICK
@given(rows=pairs, broken=st.binary(min_size=1, max_size=30).filter(lambda line: b"\n" not in line and line.strip()))
def test_a_bad_line_costs_no_other_row(tmp_path, rows, broken):
    path = tmp_path / "a.jsonl"
    path.write_bytes(encode("jsonl", rows) + b"}" + broken + b"\n" + encode("jsonl", rows))
    records = [record for _, record in rows_of(path)]
    assert records[: len(rows)] == records[len(rows) + 1 :] == rows
    assert isinstance(records[len(rows)], BadRow)
    assert f"{path}:{len(rows) + 1}:" in str(records[len(rows)])


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (
            "a.jsonl",
            b'{"sentence1": "a", "sentence1": "b", "sentence2": "c", "label": 1}\n',
            "'sentence1' stands twice",
        ),
        ("a.csv", b"sentence1,sentence2,label,label\na,b,0,1\n", ":1: the column 'label' stands twice"),
    ],
)
def test_what_stands_twice_is_not_guessed_at(tmp_path, name, content, told):
    assert told in read(tmp_path / name, content)
