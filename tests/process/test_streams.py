"""Standard streams as they may be; each command here imports nothing heavy."""

import json

import pytest

from tests.launching import run_code

TOLD = """
def main():
    for number in range(20000):
        with may_be_lost():
            print("told", number)
    open(sys.argv[1], "w").write("the model")
exit_on_error(main)
"""


ANSWERS = """
exit_on_error(lambda: write_out(f"{number}\\n" for number in range(20000)))
"""


@pytest.mark.parametrize(
    "redirections", [">&-", "<&-", "<&- >&- 2>&-", ">/dev/full", ">/dev/full 2>&1", "| head -1", "2>&1 | head -1"]
)
def test_a_run_that_nobody_listens_to_ends_well(tmp_path, redirections):
    done = run_code(TOLD, redirections, tmp_path / "model")
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "model").read_text() == "the model"


@pytest.mark.parametrize(
    ("redirections", "status", "told"),
    [
        ("| head -1", 141, b"-c: standard output was closed before its end\n"),
        (">/dev/full", 1, b"-c: error: standard output: No space left on device\n"),
        (">/dev/null", 0, b""),
    ],
)
def test_answers_that_were_not_taken_are_no_success(redirections, status, told):
    done = run_code(ANSWERS, redirections)
    assert (done.returncode, done.stderr) == (status, told)


@pytest.mark.parametrize("encoding", ["ascii", "gbk", "utf-8"])
def test_every_character_is_written_in_every_encoding_and_json_stays_json(encoding):
    sentence = "你好 😀 \udcd6 é"
    code = f"import json; exit_on_error(lambda: write_out([json.dumps({sentence!a}, ensure_ascii=False)]))"
    done = run_code(code, "", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout.decode(encoding)) == sentence
