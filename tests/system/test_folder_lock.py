import fcntl
import os

import pytest

from recipe.commands.train import train
from recipe.errors import UserError
from recipe.system.files import (
    LOCK,
    sha256_of,
)
from recipe.system.folder_lock import locked


def test_a_lock_is_let_go_of_with_its_process(arguments, tmp_path):
    (tmp_path / "run").mkdir()
    with open(tmp_path / "run" / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=f"--output_dir {tmp_path / 'run'}: another run writes there"):
            train(arguments())
    train(arguments())


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_refused(arguments, tmp_path):
    (tmp_path / "run").mkdir(mode=0o500)
    with pytest.raises(UserError, match=r"--output_dir .*: Permission denied"):
        train(arguments())


def test_a_file_in_the_place_of_the_folder_is_refused(arguments, tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match=r"--output_dir .*: (Not a directory|File exists)"):
        train(arguments())
    with pytest.raises(UserError, match=r"--output_dir .*: File name too long"):
        train(arguments(f"--output_dir={tmp_path / ('x' * 300)}"))


@pytest.mark.parametrize("make", [os.symlink, os.link])
def test_a_lock_that_leads_elsewhere_is_refused_and_nothing_is_truncated(tmp_path, make):
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "run").mkdir()
    make(tmp_path / "mine", tmp_path / "run" / LOCK)
    told = rf"--output_dir {tmp_path / 'run'}: \.lock in it is (a link|another program's)"
    with pytest.raises(UserError, match=told), locked(tmp_path / "run"):
        pass
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / LOCK)
    with (
        pytest.raises(UserError, match=r"--output_dir .*: \.lock in it is no file; a folder that can"),
        locked(tmp_path),
    ):
        pass
    with pytest.raises(OSError, match="not a file"):
        sha256_of(tmp_path / LOCK)


def test_somebody_elses_lock_is_refused_and_a_killed_runs_taken(tmp_path):
    (tmp_path / LOCK).write_text("yarn.lock, or so")
    with pytest.raises(UserError, match=r"\.lock in it is another program's"), locked(tmp_path):
        pass
    assert (tmp_path / LOCK).read_text() == "yarn.lock, or so"
    (tmp_path / LOCK).write_text("a1" * 16)
    with locked(tmp_path, "b2" * 16):
        assert (tmp_path / LOCK).read_text() == "b2" * 16
    assert not list(tmp_path.iterdir())


def test_a_folder_that_vanishes_meanwhile_is_no_second_error(tmp_path):
    with locked(tmp_path / "run"):
        (tmp_path / "run" / LOCK).unlink()
        (tmp_path / "run").rmdir()


def test_of_what_it_made_nothing_stays_that_is_empty(tmp_path):
    with locked(tmp_path / "outputs" / "deep" / "run"):
        (tmp_path / "outputs" / "other").mkdir()
    assert [path.name for path in tmp_path.rglob("*")] == ["outputs", "other"]
    (tmp_path / "outputs" / "run").mkdir()
    with locked(tmp_path / "outputs" / "run"):
        pass
    assert (tmp_path / "outputs" / "run").is_dir()  # it was there before
