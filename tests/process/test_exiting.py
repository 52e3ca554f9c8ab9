import os
import subprocess
import sys

import pytest

from tests.launching import run_code
from tests.utils import ROOT


def test_an_error_is_told_in_every_encoding_and_its_status_kept():
    code = "from recipe.errors import UserError\ndef main():\n    raise UserError('--data_dir 你')\nexit_on_error(main)"
    done = run_code(code, "", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (2, b"-c: error: --data_dir \\u4f60\n")
    assert run_code(code, "2>&-").returncode == 2
    assert run_code(code, "2>/dev/full").returncode == 2


def test_an_error_names_no_password():
    code = "from recipe.errors import RunError\ndef main():\n    raise RunError('http://me:secret@host/')\nexit_on_error(main)"
    assert run_code(code, "").stderr == b"-c: error: http://host/\n"


def test_a_stale_rank_hides_no_error():
    code = "from recipe.errors import UserError\ndef main():\n    raise UserError('wrong')\nexit_on_error(main)"
    done = run_code(code, "", LOCAL_RANK="1", RANK="1")
    assert (done.returncode, done.stderr) == (2, b"-c: error: wrong\n")


RUN_BY_NAME = [path for path in sorted(ROOT.glob("recipe/*/*.py")) if "exit_on_error(main)" in path.read_text()]


@pytest.mark.parametrize("path", [ROOT / "run_freeze.py", *RUN_BY_NAME], ids=lambda path: path.stem)
def test_ctrl_c_in_the_imports_of_a_command_is_one_line(tmp_path, path):
    """The first library that it imports is interrupted, and makes another error of it, as some of numpy's code does."""
    for name in ("numpy", "torch", "transformers", "scipy"):
        interrupted = "import os, signal, time\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(9)\n"
        interrupted += "except BaseException as error:\n    raise ImportError('half of it') from error\n"
        (tmp_path / f"{name}.py").write_text(interrupted)
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    command = [sys.executable, *(["-m", module] if path in RUN_BY_NAME else [path]), "--help"]
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (130, f"{path.name}: interrupted\n", "")


def test_ctrl_c_is_an_error_like_others_once_the_imports_are_done():
    start = "import signal\nfrom recipe.process.exiting import end_at_once, ending_at_once\n"
    code = "end_at_once()\ndef main():\n    with ending_at_once():\n        pass\n"
    code += "    try:\n        signal.raise_signal(signal.SIGINT)\n    finally:\n        print('tidied', flush=True)\n"
    done = run_code(f"{start}{code}exit_on_error(main)", "")
    assert (done.returncode, done.stdout, done.stderr) == (130, b"tidied\n", b"-c: interrupted\n")
    code = "signal.signal(signal.SIGINT, signal.SIG_IGN)\nend_at_once()\nsignal.raise_signal(signal.SIGINT)"
    assert run_code(f"{start}{code}", "").returncode == 0  # as behind nohup or `&`


def test_ctrl_c_is_not_lost_in_a_finalizer_of_what_the_imports_left():
    """It waits for a collection's end, and Python goes on where it is raised in a finalizer."""
    code = "import gc, signal\nfrom recipe.process.exiting import end_at_once\nend_at_once()\ngc.disable()\n"
    code += "class Group:\n    def __init__(self):\n        self.itself = self\n"
    code += "    def __del__(self):\n        signal.raise_signal(signal.SIGINT)\nGroup()\n"
    code += (
        "def main():\n    gc.collect()\n    print('collected', flush=True)\n    signal.raise_signal(signal.SIGINT)\n"
    )
    done = run_code(f"{code}exit_on_error(main)", "")
    assert (done.returncode, done.stdout, done.stderr) == (130, b"collected\n", b"-c: interrupted\n")
