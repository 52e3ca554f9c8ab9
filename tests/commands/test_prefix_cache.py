import json
import stat
import sys

import pytest

from recipe.cache.store import open_store
from recipe.commands.prefix_cache import list_caches, main, prune
from recipe.errors import UserError
from recipe.system.cache_folder import is_ours

SHAPES = ["[]", "null", "{}", '"text"', "[" * 1000 + "]" * 1000, '{"depth": "two"}', "torn"]


@pytest.mark.parametrize("content", SHAPES)
def test_a_manifest_of_another_shape_is_passed_by_and_made_again(encoded, tmp_path, monkeypatch, capsys, content):
    _, _, key = encoded()
    path = tmp_path / "cache" / key.name / "manifest.json"
    good = path.read_text()
    path.write_text(good[:-30] if content == "torn" else content)
    assert open_store(tmp_path / "cache", key) is None
    assert list(list_caches(tmp_path / "cache")) == []
    monkeypatch.setattr("sys.argv", ["prefix_cache", "list", "--prefix_cache_dir", str(tmp_path / "cache")])
    main()
    assert "0.0 MB" in capsys.readouterr().out
    encoded()
    assert path.read_text() == good
    assert open_store(tmp_path / "cache", key) is not None


def test_a_cache_of_an_earlier_release_is_listed_and_pruned(tmp_path, monkeypatch, capsys):
    old = tmp_path / ("0123456789abcdef" * 2)
    old.mkdir()
    (old / "states.bin").write_bytes(bytes(1000))
    manifest = {"depth": 2, "dtype": "float16", "compute_dtype": "float32", "bytes": 1000, "pairs": 7, "crc32": 1}
    (old / "manifest.json").write_text(json.dumps({**manifest, "seconds": 1.5, "source": "train.json"}))
    monkeypatch.setattr("sys.argv", ["prefix_cache", "list", "--prefix_cache_dir", str(tmp_path)])
    main()
    assert "of an earlier release, which nothing reads any more; train.json" in capsys.readouterr().out
    assert prune(tmp_path, 0)[0] > 1000
    assert list(tmp_path.iterdir()) == []


def test_the_command_lists_and_prunes(encoded, tmp_path, monkeypatch, capsys):
    encoded()

    def command(*words):
        monkeypatch.setattr(sys, "argv", ["prefix_cache", *words, "--prefix_cache_dir", str(tmp_path / "cache")])
        main()
        return capsys.readouterr().out

    assert "depth 2, float32, 70 pairs, encoded in " in command("list")
    assert "freed 0 MB" in command("prune", "--older_than_days", "1")
    assert len(list(list_caches(tmp_path / "cache"))) == 1
    command("prune")
    assert list(list_caches(tmp_path / "cache")) == []


def test_a_cache_in_use_is_not_pruned_and_its_files_are_the_owners(encoded, tmp_path):
    cache, _, key = encoded()
    assert prune(tmp_path / "cache", 0) == (0, 1)
    assert cache.gather([0])[0].isfinite().all()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "cache").rglob("*")}
    assert modes == {0o700, 0o600}
    size = cache.size_in_bytes
    del cache
    freed, used = prune(tmp_path / "cache", 0)
    assert (freed > size, used) == (True, 0)
    assert not is_ours(tmp_path / "cache" / key.name)


@pytest.mark.parametrize("days", ["-1", "nan"])
def test_a_number_of_days_that_is_none_is_refused(tmp_path, monkeypatch, days):
    monkeypatch.setattr("sys.argv", ["caches", "prune", f"--older_than_days={days}", f"--prefix_cache_dir={tmp_path}"])
    with pytest.raises(UserError, match=f"--older_than_days {days}: a number of days, 0 for all, is expected"):
        main()


@pytest.mark.parametrize("action", ["list", "prune"])
def test_a_folder_that_is_none_is_refused(tmp_path, monkeypatch, action):
    (tmp_path / "file").touch()
    for name in ("nothing", "file"):
        monkeypatch.setattr("sys.argv", ["caches", action, f"--prefix_cache_dir={tmp_path / name}"])
        with pytest.raises(UserError, match=f"--prefix_cache_dir {tmp_path / name}: no such folder; "):
            main()
