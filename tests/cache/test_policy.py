import shutil

import pytest
import torch
from transformers import AutoTokenizer

from recipe.cache import policy
from recipe.cache.cached_split import PrefixState
from recipe.commands.prefix_cache import list_caches
from recipe.commands.train import train
from recipe.errors import UserError
from tests.utils import assert_close, history


def test_the_computing_type_does_not_depend_on_what_lies_in_the_cache(model, encoded, arguments, monkeypatch):
    monkeypatch.setattr(policy, "multiplies_in_bfloat16", lambda kind: True)
    _, _, key = encoded("float16", "float32")
    for before, kept in ((None, "bfloat16"), (PrefixState("float16", "float32"), "float32")):
        chosen = policy._choose_key(model, arguments(), before)
        assert chosen.compute_dtype == kept
        assert (chosen.name == key._replace(arithmetic=chosen.arithmetic).name) is (kept == "float32")


def test_states_that_are_not_what_was_written_are_made_again(arguments, tmp_path, capsys):
    words = ("--num_train_epochs=2", "--max_train_samples=40")
    train(arguments(*words))
    (path,) = (tmp_path / "cache").glob("*/states.bin")
    whole = path.read_bytes()
    for damage in ("flipped", "zeroed", "short"):
        content = bytearray(whole)
        if damage == "flipped":
            content[len(content) // 2] ^= 1
        elif damage == "zeroed":
            content[4096:8192] = bytes(4096)
        path.write_bytes(content[: -len(content) // 4] if damage == "short" else content)
        capsys.readouterr()
        train(arguments(*words, f"--output_dir={tmp_path / damage}"))
        out = capsys.readouterr().out
        assert "encoded in" in out
        assert ("pairs are not what was written; they are encoded again" in out) is (damage != "short")
        assert history(tmp_path / damage, "loss") == history(tmp_path / "run", "loss")
        path.write_bytes(whole)


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


# ---- training from it ----


LAST = ("--load_best_model_at_end=false", "--save_total_limit=3")


def test_training_from_the_cache_equals_training_without(arguments, tmp_path):
    words = ("--num_train_epochs=3", "--per_device_train_batch_size=8", "--prefix_cache_dtype=float32", *LAST)
    for cache in ("on", "off"):
        train(arguments(*words, f"--prefix_cache={cache}", f"--output_dir={tmp_path / cache}"))
    for key in ("loss", "grad_norm", "eval_loss"):  # 27 steps, with dropout in the tail
        with_cache, without = history(tmp_path / "on", key), history(tmp_path / "off", key)
        assert len(with_cache) == (3 if key == "eval_loss" else 27)
        assert_close(with_cache, without, 1e-5)
    from safetensors.torch import load_file

    weights = [load_file(tmp_path / cache / "model.safetensors") for cache in ("on", "off")]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        # the key's bias has no effect on the loss, its gradient is rounding alone, which AdamW scales up
        if not name.endswith("key.bias"):
            torch.testing.assert_close(value, weights[1][name], rtol=0, atol=1e-5)


def test_the_next_run_finds_it(arguments, tmp_path, capsys):
    words = ("--num_train_epochs=2",)
    train(arguments(*words))
    assert capsys.readouterr().out.count("encoded in") == 2
    train(arguments(*words, "--seed=7", "--learning_rate=1e-3", f"--output_dir={tmp_path / 'next'}"))
    out = capsys.readouterr().out
    assert out.count("found") == 2
    assert "encoded in" not in out


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


@pytest.mark.parametrize("frozen", ["0-1", "all"])
def test_what_fits_is_kept_and_the_rest_computed_to_the_same_losses(arguments, tmp_path, frozen):
    words = ("--num_train_epochs=2", "--prefix_cache_dtype=float32", f"--freeze_layers={frozen}", *LAST)
    words += ("--prefix_cache=on",)  # which does not ask whether it pays
    room = {"0-1": 1e-4, "all": 9e-6}[frozen]  # of 0.24 MB and 12.8 kB
    for name, more in (("whole", ()), ("part", (f"--prefix_cache_max_gb={room}",))):
        cache = f"--prefix_cache_dir={tmp_path / name / 'cache'}"
        train(arguments(*words, *more, cache, f"--output_dir={tmp_path / name / 'run'}"))
    (store,) = list_caches(tmp_path / "part" / "cache")
    assert 30 < store.pairs < 100  # validation whole
    for key in ("loss", "grad_norm", "eval_loss"):
        parts = [history(tmp_path / name / "run", key) for name in ("whole", "part")]
        assert len(parts[0]) == (2 if key == "eval_loss" else 18)
        assert_close(*parts, 1e-5)


def test_a_part_resumes_as_a_part_and_refuses_another(arguments, tmp_path):
    words = ("--num_train_epochs=2", "--prefix_cache_max_gb=5e-5")
    train(arguments(*words))
    (tmp_path / "run" / "run.json").unlink()
    expected = history(tmp_path / "run", "loss")
    shutil.rmtree(tmp_path / "run" / "checkpoint-18")
    with pytest.raises(UserError, match=r"prefix cache in float16, computed in .*: it was .* of 100 pairs"):
        train(arguments("--num_train_epochs=2"))
    train(arguments(*words))
    assert history(tmp_path / "run", "loss") == expected


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


def test_checkpoints_hold_what_is_trained(arguments, tmp_path):
    from safetensors.torch import load_file

    train(arguments("--num_train_epochs=2"))
    (checkpoint, *_) = (tmp_path / "run").glob("checkpoint-*")
    names = load_file(checkpoint / "trainable.safetensors").keys()
    assert {name.split(".layer.")[-1][0] for name in names if ".layer." in name} == {"2", "3"}
    assert not (checkpoint / "config.json").exists()


def test_a_value_beyond_float16_is_said_and_leaves_nothing(arguments, tmp_path, tiny_model):
    from transformers import BertModel

    broken = BertModel.from_pretrained(tiny_model, add_pooling_layer=False)
    with torch.no_grad():
        broken.encoder.layer[1].output.LayerNorm.bias[0] = 1e5
    broken.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "model")
    with pytest.raises(Exception, match="--prefix_cache_dtype float16"):
        train(arguments(f"--model_name_or_path={tmp_path / 'model'}", "--num_train_epochs=2", "--prefix_cache=on"))
    assert sum(each.pairs for each in list_caches(tmp_path / "cache")) == 0
