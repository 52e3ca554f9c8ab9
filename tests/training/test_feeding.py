import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from recipe.commands.prefix_cache import list_caches
from recipe.commands.train import train
from recipe.errors import UserError
from recipe.training import feeding
from recipe.training.trainer import FreezeTrainer
from tests.utils import assert_close, history, outcome


@pytest.mark.parametrize(
    "cut", [("--per_device_train_batch_size=8", "--gradient_accumulation_steps=4"), ("--no_streaming",)]
)
def test_how_a_step_is_cut_up_or_read_changes_no_loss(arguments, tmp_path, cut):
    base = ["--per_device_train_batch_size=32", "--dropout=0", "--num_train_epochs=2", "--prefix_cache=off"]
    for name, words in (("whole", ()), ("cut", cut)):
        train(arguments(*base, *words, f"--output_dir={tmp_path / name}"))
    for key in ("loss", "grad_norm", "eval_loss"):
        whole, other = history(tmp_path / "whole", key), history(tmp_path / "cut", key)
        assert len(whole) == {"loss": 6, "grad_norm": 6, "eval_loss": 2}[key]
        assert_close(whole, other, 0 if cut == ("--no_streaming",) else 1e-5)


def test_what_is_drawn_while_the_prefix_is_encoded_changes_no_dropout(arguments, tmp_path, monkeypatch):
    def encode(*given):
        torch.rand(len(drawn))
        return real(*given)

    drawn, real = [], feeding.cache_prefix
    monkeypatch.setattr(feeding, "cache_prefix", encode)
    for name in ("nothing", "something"):
        train(arguments("--prefix_cache=off", f"--output_dir={tmp_path / name / 'run'}"))
        drawn.append(name)
    assert outcome(tmp_path / "something") == outcome(tmp_path / "nothing")


LAST = ("--load_best_model_at_end=false", "--save_total_limit=3")


def test_training_from_the_cache_equals_training_without(arguments, tmp_path):
    words = ("--num_train_epochs=3", "--per_device_train_batch_size=8", "--prefix_cache_dtype=float32", *LAST)
    for cache in ("on", "off"):
        train(arguments(*words, f"--prefix_cache={cache}", f"--output_dir={tmp_path / cache}"))
    for key in ("loss", "grad_norm", "eval_loss"):  # 27 steps, with dropout in the tail
        with_cache, without = history(tmp_path / "on", key), history(tmp_path / "off", key)
        assert len(with_cache) == (3 if key == "eval_loss" else 27)
        assert_close(with_cache, without, 1e-5)
    weights = [load_file(tmp_path / cache / "model.safetensors") for cache in ("on", "off")]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        # the key's bias has no effect on the loss, its gradient is rounding alone, which AdamW scales up
        if not name.endswith("key.bias"):
            torch.testing.assert_close(value, weights[1][name], rtol=0, atol=1e-5)


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


@pytest.mark.parametrize("length", ["--num_train_epochs=2", "--max_steps=18"])
def test_an_epoch_reads_each_pair_once_in_an_order_of_its_own_and_is_counted(
    arguments, tmp_path, pairs_dir, monkeypatch, length
):
    """Of an iterable without a length the Trainer counts epochs wrongly, and evaluates behind none of them."""
    seen, stepped = [], FreezeTrainer.training_step

    def step(self, model, inputs, *more):
        seen.extend(str(row[row > 0].tolist()) for row in inputs["input_ids"])
        return stepped(self, model, inputs, *more)

    monkeypatch.setattr(FreezeTrainer, "training_step", step)
    train(arguments("--prefix_cache=off", length))
    first, second = seen[:70], seen[70:]
    assert len(set(first)) == len((pairs_dir / "train.json").read_text().splitlines())
    assert sorted(first) == sorted(second)
    assert first != second
    log = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    steps = [(entry["step"], entry["epoch"]) for entry in log if "loss" in entry]
    assert steps == [(step, pytest.approx(step / 9)) for step in range(1, 19)]
    assert [(entry["step"], entry["epoch"]) for entry in log if "eval_loss" in entry] == [(9, 1.0), (18, 2.0)]
