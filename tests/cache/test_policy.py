import pytest

from recipe.cache import policy
from recipe.cache.cached_split import PrefixState
from recipe.commands.prefix_cache import list_caches
from recipe.commands.train import train
from recipe.errors import UserError


def test_the_computing_type_does_not_depend_on_what_lies_in_the_cache(model, encoded, arguments, monkeypatch):
    monkeypatch.setattr(policy, "multiplies_in_bfloat16", lambda kind: True)
    _, _, key = encoded("float16", "float32")
    for before, kept in ((None, "bfloat16"), (PrefixState("float16", "float32"), "float32")):
        chosen = policy.choose_key(model, arguments("--prefix_compute_dtype=auto"), before)
        assert chosen.compute_dtype == kept
        assert (chosen.name == key._replace(arithmetic=chosen.arithmetic).name) is (kept == "float32")


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


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--prefix_cache=off",), "as --prefix_cache says"),
        (("--freeze_layers=none",), "the embeddings are trained"),
        (("--freeze_layers=1-2", "--freeze_embeddings=true"), "layer 0 is trained"),
        (("--freeze_layers=all", "--unfreeze_modules", r"\.bias$"), "the embeddings are trained"),
        (("--frozen_dropout",), "--frozen_dropout"),
        (("--num_train_epochs=1",), "a single epoch"),
        (("--prefix_cache_max_gb=0.00000001",), "--prefix_cache_max_gb"),
        (("--prefix_cache_dir=/proc/nowhere",), "--prefix_cache_dir /proc/nowhere"),
    ],
)
def test_auto_says_why_not_and_trains_without(arguments, tmp_path, capsys, words, told):
    report = train(arguments("--num_train_epochs=2", *words))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("prefix cache:")]
    assert "off" in line
    assert told in line
    assert report.metrics["eval_accuracy"] > 0
    assert sum(each.pairs for each in list_caches(tmp_path / "cache")) == 0


def test_a_store_that_makes_room_is_told_of(arguments, tmp_path, capsys):
    store = tmp_path / "cache" / ("a" * 32)
    store.mkdir(parents=True)
    (store / "states.bin").write_bytes(bytes(20_000_000))
    (store / "manifest.json").write_text("{}")
    train(arguments("--num_train_epochs=2", "--prefix_cache=on", "--prefix_cache_max_gb=0.02"))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if " removed, " in line]
    assert line == f"prefix cache: {store} removed, 0.02 GB, to keep all within --prefix_cache_max_gb 0.02"
    assert not store.exists()


def test_auto_keeps_what_fits(arguments, capsys):
    train(arguments("--num_train_epochs=3", "--prefix_cache_max_gb=5e-5"))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("prefix cache:")]
    assert "--prefix_cache_max_gb 5e-05 keeps " in lines[0]
    assert "the others are computed in each epoch" in lines[0]
    assert sum("encoded in" in line for line in lines) == 2


def test_on_refuses_where_it_cannot_be(arguments):
    with pytest.raises(UserError, match="--prefix_cache on: there is no frozen prefix"):
        train(arguments("--prefix_cache=on", "--freeze_layers=none"))


def test_a_full_disk_is_no_cache(arguments, capsys, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    train(arguments("--num_train_epochs=2"))
    assert "GB free" in capsys.readouterr().out
