import json
import shutil
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from transformers import set_seed

from recipe.batches.tokenization import tokenized
from recipe.checkpoints.manifest import open_checkpoint
from recipe.checkpoints.rotation import checkpoint_folders
from recipe.commands.train import train
from recipe.data.opening import require_split
from recipe.errors import RunError
from recipe.model.base_model import open_base
from recipe.model.loading import load_model
from recipe.model.tokenizer import load_tokenizer
from recipe.training import trainer as trainer_module
from recipe.training.build import build_trainer
from recipe.training.feeding import train_batches
from recipe.training.loss import LossWatch
from recipe.training.trainer import FreezeTrainer
from tests.checkpoints.contents import STEPS
from tests.launching import fork_ranks, fsdp_env, small_run
from tests.utils import assert_close, history, outcome


def test_a_full_disk_leaves_the_older_checkpoints_good(arguments, tmp_path, monkeypatch):
    real, calls = torch.save, []

    def full(content, path, *more):
        calls.append(path)
        if len(calls) > 4:
            raise OSError(28, "No space left on device", str(path))
        real(content, path, *more)

    monkeypatch.setattr(torch, "save", full)
    folder = tmp_path / "run"
    with pytest.raises(RunError, match=r"checkpoint-8: cannot be written: .*No space left.*older checkpoints are as"):
        train(arguments(*STEPS))
    monkeypatch.undo()
    assert [path.name for path in checkpoint_folders(folder)] == ["checkpoint-4"]
    open_checkpoint(folder / "checkpoint-4")
    train(arguments(*STEPS))
    train(arguments(*STEPS, f"--output_dir={tmp_path / 'other' / 'run'}"))
    assert outcome(tmp_path) == outcome(tmp_path / "other")


def test_the_trainers_end_removes_our_checkpoints_alone(arguments, tmp_path):
    backup = tmp_path / "run" / "checkpoint-5-backup"
    backup.mkdir(parents=True)
    (backup / "optimizer.pt").write_text("mine")
    (tmp_path / "run" / "checkpoint-5-backup.tgz").write_text("mine")
    train(arguments("--save_total_limit=1", "--num_train_epochs=2", "--prefix_cache=off"))
    assert len(checkpoint_folders(tmp_path / "run")) == 1
    assert (backup / "optimizer.pt").read_text() == (tmp_path / "run" / "checkpoint-5-backup.tgz").read_text() == "mine"


def shard_on_cpu():
    """Have accelerate take CPU processes for GPU ones, which alone it shards."""
    from accelerate import state

    init = state.PartialState.__init__

    def as_gpus(self, *args, **kwargs):
        init(self, *args, **kwargs)
        if self.distributed_type == state.DistributedType.MULTI_CPU:
            self.distributed_type = state.DistributedType.MULTI_GPU

    state.PartialState.__init__ = as_gpus


@pytest.mark.parametrize("cache", ["on", "off"])
def test_sharded_trains_resumes_and_saves_like_one_rank(arguments, tiny_model, pairs_dir, tmp_path, cache):
    words = ["--dropout=0", "--num_train_epochs=2", "--prefix_cache_dtype=float32", f"--prefix_cache={cache}"]
    words += ["--save_strategy=steps", "--save_steps=1", "--save_total_limit=9", "--eval_strategy=steps"]
    words += ["--eval_steps=1", "--learning_rate=1e-3"]
    train(arguments("--per_device_train_batch_size=32", *words, f"--output_dir={tmp_path / 'one'}"))

    def run():
        flags = [
            *small_run(tiny_model, pairs_dir, tmp_path / "cache of two"),
            *words,
            f"--output_dir={tmp_path / 'run'}",
        ]
        ends = fork_ranks(flags, [tmp_path, tmp_path], env=fsdp_env(), prepare=shard_on_cpu)
        assert [end.status for end in ends] == [0, 0], ends[0].err + ends[1].err
        return ends[0].out

    assert "going on" not in run()
    assert (tmp_path / "run" / "checkpoint-3" / "pytorch_model_fsdp.bin").is_file()  # it was FSDP
    for key in ("loss", "grad_norm", "eval_loss"):
        assert_close(history(tmp_path / "one", key), history(tmp_path / "run", key), 1e-5)
    expected = outcome(tmp_path)
    for checkpoint in checkpoint_folders(tmp_path / "run")[:3]:
        shutil.rmtree(checkpoint)
    (tmp_path / "run" / "run.json").unlink()
    assert "going on from step 3: " in run()
    assert outcome(tmp_path) == expected


def test_a_loss_that_is_no_number_stops_before_the_weights_change(arguments, tmp_path):
    parsed = arguments("--eval_strategy=no")
    set_seed(0)
    base = open_base(parsed.model)
    tokenizer = load_tokenizer(base)
    model = load_model(base)
    with torch.no_grad():
        model.bert.encoder.layer[3].output.dense.weight[0, 0] = float("inf")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    split = require_split(parsed.data, "train")
    batches = train_batches(tokenized(split, tokenizer, parsed.data.max_length), parsed)
    trainer = build_trainer(parsed.training, model, tokenizer, batches)
    with pytest.raises(RunError, match=r"the loss is nan at step 1 \(learning rate 0.0001\)"):
        trainer.train()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("metric", "best"), [("eval_loss", min), ("f1", max)])
def test_the_best_model_is_the_best_by_its_metric(arguments, tmp_path, capsys, metric, best):
    words = [f"--metric_for_best_model={metric}", "--num_train_epochs=5", "--learning_rate=3e-2"]
    train(arguments(*words, "--save_total_limit=9"))
    values = history(tmp_path / "run", f"eval_{metric.removeprefix('eval_')}")
    assert len(set(values)) > 1
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert results["train_epoch"] == len(values)  # of what train_loss and train_runtime are
    assert results["epoch"] == 1 + values.index(best(values)) or values.count(best(values)) > 1
    assert results[f"eval_{metric.removeprefix('eval_')}"] == pytest.approx(best(values), abs=1e-6)
    assert f", the best by {metric.removeprefix('eval_')} (majority" in capsys.readouterr().out


@pytest.mark.parametrize("limit", [2, 99])
def test_a_best_evaluation_between_two_saves_is_saved_and_loaded(arguments, tmp_path, limit):
    words = ["--eval_strategy=steps", "--eval_steps=1", "--metric_for_best_model=loss", "--learning_rate=3e-3"]
    words += ["--save_strategy=steps", "--save_steps=2", f"--save_total_limit={limit}", "--seed=8"]
    report = train(arguments(*words))
    losses = history(tmp_path / "run", "eval_loss")
    assert losses.index(min(losses)) + 1 == 5  # which --save_steps passes by
    assert report.is_best
    assert report.metrics["eval_loss"] == pytest.approx(min(losses), abs=1e-6)
    weights = load_file(tmp_path / "run" / "checkpoint-5" / "trainable.safetensors")
    final = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(final[name], value) for name, value in weights.items())


@pytest.mark.parametrize("cache", ["on", "off"])  # with one the frozen prefix is not in the model meanwhile
def test_checkpoints_hold_what_is_trained(arguments, tmp_path, cache):
    train(arguments("--num_train_epochs=2", f"--prefix_cache={cache}"))
    (checkpoint, *_) = (tmp_path / "run").glob("checkpoint-*")
    names = load_file(checkpoint / "trainable.safetensors").keys()
    assert {name.split(".layer.")[-1][0] for name in names if ".layer." in name} == {"2", "3"}
    assert not [name for name in names if "embeddings" in name]
    assert not (checkpoint / "config.json").exists()


def test_a_loss_that_is_no_number_is_told_of_late_where_a_gpu_is_waited_for_seldom(arguments, tmp_path, monkeypatch):
    real, weights = FreezeTrainer.compute_loss, {}

    def compute_loss(self, *args, **kwargs):
        weights[self.state.global_step] = self.model.classifier.weight.detach().clone()
        loss = real(self, *args, **kwargs)
        return loss * float("nan") if self.state.global_step == 10 else loss

    monkeypatch.setattr(FreezeTrainer, "compute_loss", compute_loss)
    watch = partial(LossWatch, every=4)
    monkeypatch.setattr(trainer_module, "watch_losses", lambda optimizer, _, folder: watch(optimizer, folder))
    with pytest.raises(
        RunError, match=rf"the loss is nan at step 11 .*last good checkpoint: {tmp_path}/run/checkpoint-9"
    ):
        train(arguments("--num_train_epochs=2", "--logging_steps=100"))
    assert max(weights) == 12
    assert not torch.equal(weights[9], weights[10])
    assert torch.equal(weights[10], weights[12])


def test_a_loss_that_is_no_number_names_the_last_good_checkpoint(arguments, tmp_path, monkeypatch):
    real = FreezeTrainer.compute_loss

    def compute_loss(self, *args, **kwargs):
        loss = real(self, *args, **kwargs)
        return loss * float("nan") if self.state.global_step == 12 else loss

    monkeypatch.setattr(FreezeTrainer, "compute_loss", compute_loss)
    with pytest.raises(
        RunError, match=rf"the loss is nan at step 13 .*last good checkpoint: {tmp_path}/run/checkpoint-9"
    ):
        train(arguments("--num_train_epochs=2", "--prefix_cache=off"))
