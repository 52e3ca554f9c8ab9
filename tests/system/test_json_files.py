"""Any JSON comes back in the shape that was asked for, or is damaged, in one line that names the file."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.errors import Damaged, Missing
from recipe.system.json_files import read_json
from tests.utils import QUICK

SHAPE = {"step": int, "score?": float, "names": [str], "data": {str: (str, None)}, "inner": {"any": object}}
GOOD = {"step": 3, "score": 0.5, "names": ["a", "b"], "data": {"train": None, "dev": "x"}, "inner": {"any": [1]}}


def read(folder, text):
    (folder / "a.json").write_text(text)
    return read_json(folder / "a.json", SHAPE)


def test_what_was_written_is_read(tmp_path):
    for content in (GOOD, {**GOOD, "more": 1}, {key: value for key, value in GOOD.items() if key != "score"}):
        assert read(tmp_path, json.dumps(content)) == content


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "not JSON"),
        ("[" * 100000, "not JSON"),
        ("[" * 60 + "]" * 60, "nested more than 50 deep"),
        ("[]", "the whole is a list, where an object is expected"),
        ("null", "the whole is null, where an object is expected"),
        ('{"names": []}', "step is missing"),
        (json.dumps({**GOOD, "step": "3"}), "step is text, where a whole number of 64 bits is expected"),
        (json.dumps({**GOOD, "step": True}), "step is true or false, where a whole number of 64 bits is expected"),
        (
            json.dumps({**GOOD, "step": 10**30}),
            "step is 10000000000000000000, where a whole number of 64 bits is expected",
        ),
        (json.dumps({**GOOD, "score": float("nan")}), "score is nan, where a finite number is expected"),
        (json.dumps({**GOOD, "names": ["a", 1]}), "names[1] is 1, where text is expected"),
        (json.dumps({**GOOD, "data": {"a\n": []}}), "data.'a\\n' is a list, where text is expected"),
        (json.dumps({**GOOD, "inner": {}}), "inner.any is missing"),
    ],
)
def test_another_shape_is_named(tmp_path, text, told):
    with pytest.raises(Damaged) as error:
        read(tmp_path, text)
    assert str(error.value) == f"{tmp_path / 'a.json'}: {told}"


def test_what_is_no_file_is_not_read(tmp_path):
    with pytest.raises(Missing, match=r"none.json: not there"):
        read_json(tmp_path / "none.json", {})
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for name, told in [("pipe", "pipe: not a file"), (".", "not a file"), ("bytes", "bytes: not JSON")]:
        with pytest.raises(Damaged, match=told):
            read_json(tmp_path / name, {})


jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*GOOD, "a"]), inner, max_size=5),
)


@QUICK
@given(content=jsons)
def test_any_json_is_of_the_shape_or_damaged(tmp_path, content):
    try:
        found, told = read(tmp_path, json.dumps(content)), ""
    except Damaged as error:
        found, told = None, str(error)
    if found is None:
        assert told.startswith(f"{tmp_path / 'a.json'}: ")
        assert "\n" not in told
    else:
        assert isinstance(found["step"], int)
        assert all(isinstance(name, str) for name in found["names"])
