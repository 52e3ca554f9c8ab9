from tests.launching import run_code


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
