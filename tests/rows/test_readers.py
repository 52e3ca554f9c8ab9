import gzip
import json

import pyarrow
import pytest
from pyarrow import parquet

from recipe.errors import BadRow, UserError
from tests.utils import rows_of

ROWS = [
    {"sentence1": "花呗怎么还", "sentence2": "怎么还花呗", "label": "1"},
    {"sentence1": '他说"可以", 对吗', "sentence2": "不能", "label": "0"},
]


def encode(kind):
    if kind == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
    if kind == "json":
        return json.dumps(ROWS, ensure_ascii=False, indent=1).encode()
    if kind == "csv":
        return 'sentence1,sentence2,label\n花呗怎么还,怎么还花呗,1\n"他说""可以"", 对吗",不能,0\n'.encode()
    if kind == "tsv":
        return 'sentence1\tsentence2\tlabel\n花呗怎么还\t怎么还花呗\t1\n他说"可以", 对吗\t不能\t0\n'.encode()
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path, kind, zipped):
    path = tmp_path / f"train.{kind}{'.gz' if zipped else ''}"
    path.write_bytes(gzip.compress(encode(kind)) if zipped else encode(kind))
    assert [row for _, row in rows_of(path)] == ROWS


def test_an_array_is_read_an_element_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("recipe.rows.json_rows.CHUNK", 5)
    rows = [{"sentence1": "花" * 40, "n": 12345678901234567890}, [], 1234567, "a", {"b": [1, {"c": 2}]}] * 5
    path = tmp_path / "a.json"
    for indent in (None, 1):
        path.write_text("\ufeff" + json.dumps(rows, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")
        assert [row for _, row in rows_of(path)] == rows
    path.write_text(" [ ] ")
    assert list(rows_of(path)) == []
    for text, told in [
        ("[1,\n2 3]", ":2: not JSON: Expecting ','"),
        ("[1,\n]", ":2: not JSON: Expecting value"),
        ("[1]\n\n2", ":3: not JSON: Extra data"),
        ("[1", ":1: not JSON: Expecting ','"),
        ("[", ":1: not JSON: Expecting value"),
        ("[" * 9999, ":1: not JSON: maximum recursion"),
        ('[{"a": 1, "a": 2}]', ":1: not JSON: the key 'a' stands twice"),
    ]:
        path.write_text(text)
        with pytest.raises(UserError, match=told):
            list(rows_of(path))


def test_a_line_without_an_end_is_a_bad_row_and_is_not_held_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("recipe.rows.readers.LONGEST_RECORD", 1000)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' + bytes(3 << 20) + b'\n{"a": 2}\n' + bytes(999)))
    first, bad, last, short = [row for _, row in rows_of(path)]
    assert (first, last) == ({"a": 1}, {"a": 2})
    assert str(bad).startswith(f"{path}:2: the line has more than 1,000 bytes")
    assert isinstance(short, BadRow)


def test_many_keys_or_columns_are_checked_in_one_pass(tmp_path):
    path = tmp_path / "a.jsonl"
    keys = [f"k{number}" for number in range(200_000)]
    path.write_text("{" + ", ".join(f'"{key}": 0' for key in [*keys, keys[-1]]) + "}\n")
    ((_, row),) = rows_of(path)
    assert "the key 'k199999' stands twice" in str(row)
    path = tmp_path / "a.csv"
    path.write_text(",".join([*keys, keys[-1]]) + "\n")
    with pytest.raises(UserError, match="the column 'k199999' stands twice"):
        list(rows_of(path))


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv"])
def test_bom_and_crlf_are_fine(tmp_path, kind):
    path = tmp_path / f"train.{kind}"
    path.write_bytes(b"\xef\xbb\xbf" + encode(kind).replace(b"\n", b"\r\n"))
    assert [row for _, row in rows_of(path)] == ROWS


def test_rows_know_their_line(tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes(b'sentence1,sentence2,label\n"two\nlines",b,0\nc,d,1\n')
    assert [where for where, _ in rows_of(path)] == [f"{path}:2", f"{path}:4"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", b'{"sentence1": "a"}\n{"sentence1": "b', ":2: not JSON"),
        ("a.jsonl", b'{"sentence1": "a"}\n\xff\xfe\n', ":2: byte 1 is not UTF-8"),
        ("a.csv", b"sentence1,sentence2,label\na,b\n", ":2: 2 fields under 3"),
    ],
)
def test_a_bad_row_is_given_with_its_line_and_reading_goes_on(tmp_path, name, content, told):
    path = tmp_path / name
    good = b'{"sentence1": "z"}\n' if name.endswith("jsonl") else b"x,y,1\n"
    path.write_bytes(content.rstrip(b"\n") + b"\n" + good)
    records = [record for _, record in rows_of(path)]
    (bad,) = [record for record in records if isinstance(record, BadRow)]
    assert str(bad).startswith(f"{path}{told}")
    assert not isinstance(records[-1], BadRow)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.txt", b"", "a file ending in .json"),
        ("a.json", b'[{"sentence1": "a"},\n {"sent', ":2: not JSON"),
        ("a.csv", b'a,b\n"open', ":2: not a CSV row"),
        ("a.csv", b"a,b\n\xff,c\n", ":2: byte 1 is not UTF-8"),
        ("a.csv", "句,b\n".encode("gbk"), "> utf8-a.csv makes UTF-8 of it"),
        ("我的 数据.csv", "句,b\n".encode("gbk"), "我的 数据.csv' > 'utf8-我的 数据.csv' makes UTF-8 of it"),
        (
            "a.csv.gz",
            gzip.compress("句,b\n".encode("gbk"), mtime=0),
            "GBK: iconv -f GB18030 -t UTF-8 makes UTF-8 of it",
        ),
        ("a.xlsx", b"PK", "an Excel file; in Excel save it as CSV UTF-8, which is expected"),
        ("表.XLS", b"\xd0\xcf\x11\xe0", "an Excel file; in Excel save it as CSV UTF-8, which is expected"),
        ("a.et", b"\xd0\xcf\x11\xe0", "an Excel file; in Excel save it as CSV UTF-8, which is expected"),
        ("a.csv", b"PK\x03\x04\x14\x00\x06\x00\xd5", "an Excel file or a zip: in Excel save it as CSV UTF-8"),
        ("a.tsv", "句\tb\n".encode("utf-16"), "the file may be UTF-16, as Excel saves"),
        ("a.csv", gzip.compress(b"a,b\n", mtime=0), "the name of such a file ends in .gz"),
        ("a.parquet", b"PAR1 but no more", "not a Parquet file"),
        ("a.jsonl.gz", b"no gzip", "cannot be read"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 999, mtime=0)[:-9], "cannot be read"),
    ],
)
def test_a_broken_file_is_an_error(tmp_path, name, content, told):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        list(rows_of(path))
    assert str(path) in str(error.value)
    assert told in str(error.value)


def test_an_excel_file_is_none_of_the_forms_that_a_flag_may_name(tmp_path):
    path = tmp_path / "a.xlsx"
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError) as error:
        list(rows_of(path, data_format="csv"))
    assert str(error.value) == f"{path}: an Excel file; in Excel save it as CSV UTF-8, which is expected"
