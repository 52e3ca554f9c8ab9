import os
import stat

import pytest

from recipe.cache.store import open_store
from recipe.commands.prefix_cache import list_caches, prune
from recipe.system.cache_folder import (
    is_ours,
    make_room,
    remove_cache,
    remove_orphans,
    unfinished_folder,
    unfinished_folders,
)
from recipe.system.locks import lock

NAME, TOKEN = "0123456789abcdef" * 2, "f" * 32


@pytest.fixture
def args(arguments):
    return arguments().training


def snapshot(folder):
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def make_cache(folder, manifest="{}"):
    folder.mkdir(parents=True)
    (folder / "states.bin").write_bytes(bytes(8))
    (folder / "manifest.json").write_text(manifest)
    return folder


def test_what_is_being_written_is_left_and_what_nobody_holds_goes(tmp_path, args):
    with unfinished_folder(tmp_path, args) as folder:
        (folder / "states.bin").write_bytes(b"x")
        remove_orphans(tmp_path)
        assert unfinished_folders(tmp_path) == [folder]
        assert prune(tmp_path, 0) == (0, 1)
        assert (folder / "states.bin").exists()
    assert list(tmp_path.iterdir()) == []
    orphan = tmp_path / f"{NAME}.{TOKEN}"  # what a kill leaves: the same, and a lock that nobody holds
    orphan.mkdir()
    (orphan / "input_ids-0").write_bytes(b"x")
    (tmp_path / f"{orphan.name}.lock").touch()
    (tmp_path / f"{NAME}.{'e' * 32}.lock").touch()  # killed before it made the folder
    with unfinished_folder(tmp_path, args) as folder:
        assert unfinished_folders(tmp_path) == [folder]


def test_without_locks_nothing_is_taken_for_dead(tmp_path, monkeypatch):
    (tmp_path / f"{NAME}.{TOKEN}").mkdir()
    (tmp_path / f"{NAME}.{TOKEN}.lock").touch()
    monkeypatch.setattr("recipe.system.locks.fcntl", None)
    remove_orphans(tmp_path)
    assert (tmp_path / f"{NAME}.{TOKEN}").exists()


def foreign(kind, folder, elsewhere):
    """Something in the cache folder that no run of this user has made."""
    if kind == "folder with a host's name":
        (folder / f"myjob.{os.uname().nodename}-999999").mkdir()
        (folder / f"myjob.{os.uname().nodename}-999999" / "states.bin").write_text("the user's")
    elif kind == "folder of 32 characters":
        (folder / NAME).mkdir()
        (folder / NAME / "thesis.txt").write_text("the user's")
    elif kind == "folder with a lock of another name":
        (folder / "x.partial").mkdir()
        (folder / "x.partial.lock").touch()
    elif kind == "manifest of another program":
        make_cache(folder / NAME, '{"name": "my extension"}')
    elif kind == "link to a cache":
        (folder / NAME).symlink_to(make_cache(elsewhere / NAME))
    elif kind == "link to an unfinished one":
        (folder / f"{NAME}.{TOKEN}").symlink_to(make_cache(elsewhere / "any"))
        (folder / f"{NAME}.{TOKEN}.lock").symlink_to(elsewhere / "any" / "manifest.json")
    elif kind == "cache of another user":
        os.chown(make_cache(folder / NAME), 65534, 65534)
    else:
        (folder / NAME).write_text("a file")


KINDS = ["folder with a host's name", "folder of 32 characters", "folder with a lock of another name"]
KINDS += ["manifest of another program", "link to a cache", "link to an unfinished one", "file"]


@pytest.mark.parametrize("kind", [*KINDS, "cache of another user"])
def test_what_is_not_ours_is_passed_by(tmp_path, args, kind):
    if kind == "cache of another user" and os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    (tmp_path / "cache").mkdir()
    foreign(kind, tmp_path / "cache", tmp_path / "elsewhere")
    before = snapshot(tmp_path)
    assert list(list_caches(tmp_path / "cache")) == []
    assert prune(tmp_path / "cache", 0)[0] == 0
    with unfinished_folder(tmp_path / "cache", args):
        pass
    assert snapshot(tmp_path) == before


def test_a_cache_that_the_file_system_gives_another_owner_is_found_and_not_removed(encoded, tmp_path, monkeypatch):
    _, _, key = encoded()
    monkeypatch.setattr(os, "getuid", lambda: 12345)  # as on a share that is mounted with a fixed owner
    assert open_store(tmp_path / "cache", key) is not None
    assert prune(tmp_path / "cache", 0) == (0, 0)
    assert open_store(tmp_path / "cache", key) is not None


def test_a_cache_that_is_read_stays_and_a_removal_leaves_nothing(tmp_path, monkeypatch):
    folder = make_cache(tmp_path / NAME)
    reader = lock(folder / "manifest.json", shared=True)
    assert not remove_cache(folder)
    assert is_ours(folder)
    reader.release()
    assert remove_cache(folder)
    assert list(tmp_path.iterdir()) == []


def test_everything_is_readable_by_its_owner_only(tmp_path, args):
    with unfinished_folder(tmp_path / "cache", args) as folder:
        modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "cache", *folder.parent.iterdir())}
    assert set(modes.values()) == {0o700, 0o600}


def test_stores_are_bounded_together_and_the_oldest_goes_first(tmp_path):
    for number, name in enumerate("abcd"):
        folder = tmp_path / (name * 32)
        folder.mkdir()
        (folder / "states.bin").write_bytes(bytes(1000))
        (folder / "manifest.json").write_bytes(b"")
        os.utime(folder / "manifest.json", (number, number))
    (tmp_path / "the user's").mkdir()
    in_use = lock(tmp_path / ("a" * 32) / "manifest.json", shared=True)
    for limit, left, gone in ((4500, "abcd", ""), (3000, "ad", "bc"), (0, "ad", "")):
        assert [folder.name[0] for folder, _ in make_room(tmp_path, "d" * 32, 500, limit)] == list(gone)
        assert sorted(path.name for path in tmp_path.iterdir()) == [*(name * 32 for name in left), "the user's"]
    in_use.release()
    assert make_room(tmp_path, "d" * 32, 500, 0) == [(tmp_path / ("a" * 32), 1000)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d" * 32, "the user's"]
