import pytest

from recipe.cache import policy as caching
from recipe.cache.prefix_state import PrefixState
from recipe.commands.train import train
from recipe.errors import UserError
from tests.utils import history


def test_the_computing_type_does_not_depend_on_what_lies_in_the_cache(model, encoded, arguments, monkeypatch):
    monkeypatch.setattr(caching, "fast_dtype", lambda device: "bfloat16")
    _, tokens, key = encoded("float16", "float32")
    for before, kept in ((None, "bfloat16"), (PrefixState("float16", "float32"), "float32")):
        (chosen,) = caching._choose_keys(model, [tokens], arguments(), before)
        assert chosen.compute_dtype == kept
        assert (chosen.name == key._replace(arithmetic=chosen.arithmetic).name) is (kept == "float32")


def test_states_that_are_not_what_was_written_are_made_again(arguments, tmp_path, capsys):
    words = ("--num_train_epochs=2", "--max_train_samples=40")
    train(arguments(*words))
    whole = {path: path.read_bytes() for path in (tmp_path / "cache").glob("*/states.bin")}
    flipped, zeroed = map(bytearray, whole.values())
    flipped[len(flipped) // 2] ^= 1
    zeroed[4096:8192] = bytes(4096)
    for path, content in zip(whole, (flipped, zeroed), strict=True):
        path.write_bytes(content)
    capsys.readouterr()
    train(arguments(*words, f"--output_dir={tmp_path / 'next'}"))
    out = capsys.readouterr().out
    assert out.count("states.bin is not what was written; it is made again") == out.count("encoded in") == 2
    assert {path: path.read_bytes() for path in (tmp_path / "cache").glob("*/states.bin")} == whole
    assert history(tmp_path / "next", "loss") == history(tmp_path / "run", "loss")


def test_what_is_in_the_way_is_said_before_anything_is_encoded(arguments, tmp_path, capsys):
    words = ("--num_train_epochs=2", "--max_train_samples=24")
    train(arguments(*words))
    (tmp_path / "elsewhere").mkdir()
    for path in (tmp_path / "cache").iterdir():
        path.rename(tmp_path / "elsewhere" / path.name)
        path.symlink_to(tmp_path / "elsewhere" / path.name)
    before = {path: path.read_bytes() for path in (tmp_path / "elsewhere").rglob("*.*")}
    capsys.readouterr()
    train(arguments(*words, f"--output_dir={tmp_path / 'next'}"))
    out = capsys.readouterr().out
    assert "prefix cache: off, " in out
    assert " is in the way: a link" in out
    assert "encoded" not in out
    with pytest.raises(UserError, match=r"--prefix_cache on: .* is in the way"):
        train(arguments(*words, "--prefix_cache=on", f"--output_dir={tmp_path / 'on'}"))
    assert {path: path.read_bytes() for path in (tmp_path / "elsewhere").rglob("*.*")} == before


@pytest.mark.parametrize(
    ("steps", "told"), [(9, "--max_steps 9 of 9 an epoch read each output at most once"), (10, None)]
)
def test_auto_counts_passes_by_max_steps(arguments, capsys, steps, told):
    train(arguments("--num_train_epochs=3", f"--max_steps={steps}", "--eval_strategy=no"))
    out = capsys.readouterr().out
    assert (f"prefix cache: off, {told}" in out) is (told is not None)
    assert ("encoded in" in out) is (told is None)


def test_a_folder_that_vanishes_is_a_reason(arguments, monkeypatch, capsys):
    def gone(*_):
        raise OSError(2, "No such file or directory")

    monkeypatch.setattr("shutil.disk_usage", gone)
    train(arguments("--num_train_epochs=2", "--prefix_cache_max_gb=5e-5"))
    assert "No such file or directory" in capsys.readouterr().out
