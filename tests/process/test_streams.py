"""Standard streams as they may be; each command here imports nothing heavy."""

import json
import subprocess
import sys

import pytest

from tests.utils import ROOT

START = "import sys, os; from recipe.process.exiting import exit_on_error; "
START += "from recipe.process.streams import may_be_lost, write_out\n"
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


def run(code, redirections, *words, **env):
    command = f'"$0" -c "$1" "$2" {redirections}'
    script = START + code
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command, sys.executable, script, *map(str, words)],
        capture_output=True,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **env},
        check=False,
    )


@pytest.mark.parametrize(
    "redirections", [">&-", "<&-", "<&- >&- 2>&-", ">/dev/full", ">/dev/full 2>&1", "| head -1", "2>&1 | head -1"]
)
def test_a_run_that_nobody_listens_to_ends_well(tmp_path, redirections):
    done = run(TOLD, redirections, tmp_path / "model")
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
    done = run(ANSWERS, redirections)
    assert (done.returncode, done.stderr) == (status, told)


@pytest.mark.parametrize("encoding", ["ascii", "gbk", "utf-8"])
def test_every_character_is_written_in_every_encoding_and_json_stays_json(encoding):
    sentence = "你好 😀 \udcd6 é"
    code = f"import json; exit_on_error(lambda: write_out([json.dumps({sentence!a}, ensure_ascii=False)]))"
    done = run(code, "", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout.decode(encoding)) == sentence


def test_an_error_is_told_in_every_encoding_and_its_status_kept():
    code = "from recipe.errors import UserError\ndef main():\n    raise UserError('--data_dir 你')\nexit_on_error(main)"
    done = run(code, "", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (2, b"-c: error: --data_dir \\u4f60\n")
    assert run(code, "2>&-").returncode == 2
    assert run(code, "2>/dev/full").returncode == 2


def test_an_error_names_no_password():
    code = "from recipe.errors import RunError\ndef main():\n    raise RunError('http://me:secret@host/')\nexit_on_error(main)"
    assert run(code, "").stderr == b"-c: error: http://host/\n"


def test_a_stale_rank_hides_no_error():
    code = "from recipe.errors import UserError\ndef main():\n    raise UserError('wrong')\nexit_on_error(main)"
    done = run(code, "", LOCAL_RANK="1", RANK="1")
    assert (done.returncode, done.stderr) == (2, b"-c: error: wrong\n")
