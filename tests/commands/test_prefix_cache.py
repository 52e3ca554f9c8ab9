import json
import stat

import pytest

from recipe.cache.prefix_cache import open_cache
from recipe.commands.prefix_cache import list_caches, main, prune
from recipe.errors import UserError
from recipe.system.cache_folder import is_ours

SHAPES = ["[]", "null", "{}", '"text"', "[" * 1000 + "]" * 1000, '{"depth": "two"}', "torn"]


@pytest.mark.parametrize("content", SHAPES)
def test_a_manifest_of_another_shape_is_passed_by_and_made_again(encoded, tmp_path, monkeypatch, capsys, content):
    cache, tokens, key = encoded()
    path = tmp_path / "cache" / key.name / "manifest.json"
    good = path.read_text()
    path.write_text(good[:-30] if content == "torn" else content)
    assert open_cache(tmp_path / "cache", key, tokens) is None
    assert list(list_caches(tmp_path / "cache")) == []
    monkeypatch.setattr("sys.argv", ["caches", "list", "--prefix_cache_dir", str(tmp_path / "cache")])
    main()
    assert "0.0 MB" in capsys.readouterr().out
    assert encoded()[0].manifest["crc32"] == cache.manifest["crc32"]


@pytest.mark.parametrize("key_missing", ["crc32", "pairs", "seconds"])
def test_a_manifest_without_a_key_is_passed_by(encoded, tmp_path, key_missing):
    _, tokens, key = encoded()
    path = tmp_path / "cache" / key.name / "manifest.json"
    content = json.loads(path.read_text())
    del content[key_missing]
    path.write_text(json.dumps(content))
    assert open_cache(tmp_path / "cache", key, tokens) is None


def test_a_cache_in_use_is_not_pruned_and_its_files_are_the_owners(encoded, tmp_path):
    cache, _, key = encoded()
    assert prune(tmp_path / "cache", 0) == (0, 1)
    assert cache.gather([0])[0].isfinite().all()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "cache").rglob("*")}
    assert modes == {0o700, 0o600}
    size = cache.manifest["bytes"]
    del cache
    freed, used = prune(tmp_path / "cache", 0)
    assert (freed > size, used) == (True, 0)
    assert not is_ours(tmp_path / "cache" / key.name)


@pytest.mark.parametrize("days", ["-1", "nan"])
def test_a_number_of_days_that_is_none_is_refused(tmp_path, monkeypatch, days):
    monkeypatch.setattr("sys.argv", ["caches", "prune", f"--older_than_days={days}", f"--prefix_cache_dir={tmp_path}"])
    with pytest.raises(UserError, match=f"--older_than_days {days}: a number of days, 0 for all, is expected"):
        main()
