import re

import pytest

from recipe.process.text import before_clause_with, fenced, markdown, shown, without_logins, without_places


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("花呗，怎么　还 é 👨\u200d👩", "花呗，怎么　还 é 👨\u200d👩"),
        ("\x1b[2Jgone\r\x07\x9b", "\\x1b[2Jgone\\r\\x07\\x9b"),
        ("left\u202eright\u2066\ufeff\u2028", "left\\u202eright\\u2066\\ufeff\\u2028"),
        ("half \ud800", "half \\ud800"),
        ("two\nlines\t", "two\\nlines\\t"),
    ],
)
def test_what_moves_the_cursor_or_turns_text_is_shown_escaped(text, expected):
    assert shown(text) == expected
    assert shown(text, lines=True) == expected.replace("\\n", "\n")


def test_markdown_gives_no_character_a_meaning():
    text = markdown("[a](javascript:x) ![b](c) `d` *e* <f> g|h\n# i https://j www.k @l \\ &amp;")
    assert not set("[]()`*<>|\n@\\") & set(text)
    assert "www." not in text
    assert "https:" not in text
    assert text.endswith("&#38;amp;")


def test_a_fence_is_longer_than_what_it_holds():
    assert fenced("a ```` b", "bash") == "`````bash\na ```` b\n`````"
    assert fenced("x\x1b") == "```\nx\\x1b\n```"


def test_no_address_is_told_with_its_password():
    told = "cannot be fetched from https://me:secret@mirror:9/a (Errno 111: http://secret@proxy)"
    assert without_logins(told) == "cannot be fetched from https://mirror:9/a (Errno 111: http://proxy)"
    assert without_logins("a@b.c stands in https://host/x@y") == "a@b.c stands in https://host/x@y"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("no 'a' (line 1 is read, unless --x does); columns b, c: give --y b,c", "no 'a' (line 1 is read)"),
        ("no 'a' among (b); columns b, c: give --y b,c", "no 'a' among (b)"),
        ("a file of .a, .b, or --x, which says more", "a file of .a, .b"),
        ("line 1 is a header: leave --x a,b out; d", "line 1 is a header"),
        ("(b); c, or d", "(b); c, or d"),
        ("--x alone", ""),
    ],
)
def test_an_error_without_what_a_flag_would_do_about_it(text, kept):
    assert before_clause_with(re.compile("--[xy]"), text) == kept


def test_a_place_is_its_last_name_and_what_looks_like_one_stays(tmp_path):
    content = {"a": [str(tmp_path / "my data" / "x"), 3, None], "b": {"c": f"{tmp_path}/x.json and 2 more"}, "d": "x/y"}
    assert without_places(content) == {"a": ["x", 3, None], "b": {"c": "x.json and 2 more"}, "d": "x/y"}
    words = [
        f"--output_dir={tmp_path}/run",
        "--data_dir",
        f"{tmp_path}/x",
        "--delimiter=/",
        "--label_names",
        "/",
        "/no/",
    ]
    assert without_places(words) == ["--output_dir=run", "--data_dir", "x", *words[3:]]
