import errno
import os
import stat

import pytest

from recipe.system import files as durable
from recipe.system.files import (
    LOCK,
    TEMPORARY,
    publish,
    staging_folder,
    usual_mode,
    whole_folder,
    write_text,
)
from recipe.system.locks import lock


def test_no_link_is_written_through(tmp_path):
    (tmp_path / "mine").write_text("precious")
    for name in (".a.jsonl.partial", "a.jsonl"):
        (tmp_path / name).symlink_to(tmp_path / "mine")
    write_text(tmp_path / "a.jsonl", "new")
    assert (tmp_path / "a.jsonl").read_text() == "new"
    assert (tmp_path / "mine").read_text() == "precious"
    assert (tmp_path / ".a.jsonl.partial").is_symlink()


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    write_text(tmp_path / "a", "old")

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable, "sync", full)
    with pytest.raises(OSError, match="No space") as raised:
        write_text(tmp_path / "a", "new")
    assert raised.value.filename == str(tmp_path / "a")
    with pytest.raises(OSError, match="No space"), whole_folder(tmp_path / "model") as staging:
        (staging / "config.json").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_whole_folder_appears_at_once_or_not_at_all(tmp_path):
    folder, left = tmp_path / "model", tmp_path / f".model.{'a1' * 16}.partial"
    left.mkdir()
    (left / LOCK).touch()  # a killed one's
    (tmp_path / ".model.x.partial").mkdir()  # not ours

    def fill(text, meanwhile):
        with whole_folder(folder) as staging:
            (staging / "file").write_text(text)
            meanwhile()

    def stop():
        assert not left.exists()
        with pytest.raises(BlockingIOError):
            lock(next(path for path in tmp_path.iterdir() if TEMPORARY.fullmatch(path.name)) / LOCK)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill("stopped", stop)
    assert [path.name for path in tmp_path.iterdir()] == [".model.x.partial"]
    with pytest.raises(OSError, match="not empty"):
        fill("first", lambda: fill("second", lambda: None))
    assert (folder / "file").read_text() == "second"
    assert {path.name for path in tmp_path.iterdir()} == {".model.x.partial", "model"}
    assert [path.name for path in folder.iterdir()] == ["file"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_final_files_have_the_umasks_mode(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        with staging_folder(tmp_path) as staging:
            (staging / "model.safetensors").touch(mode=0o600)
            (staging / "config.json").touch()
            publish(staging, tmp_path, ("model.safetensors",))
        assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {mode}
        (tmp_path / "folder").mkdir(mode=0o700)
        usual_mode(tmp_path / "folder")
        assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~mask
    finally:
        os.umask(before)
