from types import SimpleNamespace

import pytest
import torch
from transformers import TrainingArguments

from recipe.command_line.parsing import parse


def test_several_gpus_without_a_launcher_are_no_data_parallel(arguments, monkeypatch):
    real = TrainingArguments.__post_init__

    def with_four_gpus(self):
        real(self)
        self._n_gpu = 4

    monkeypatch.setattr(TrainingArguments, "__post_init__", with_four_gpus)
    args = arguments("--per_device_eval_batch_size=8").training
    assert (args.n_gpu, args.train_batch_size, args.eval_batch_size) == (1, 8, 8)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is one")
def test_without_a_gpu_no_flag_has_to_say_so(tiny_model):
    args = parse([f"--model_name_or_path={tiny_model}", "--bf16"]).training
    assert args.use_cpu
    assert args.device.type == "cpu"


@pytest.mark.parametrize(("kind", "own"), [("cuda", True), ("xpu", True), ("npu", True), ("mps", False)])
def test_an_accelerator_with_memory_of_its_own_gets_pinned_batches_and_torchs_buckets(
    tiny_model, monkeypatch, kind, own
):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: SimpleNamespace(type=kind))
    words = [f"--model_name_or_path={tiny_model}"]
    args = parse(words).training
    assert (args.dataloader_pin_memory, args.ddp_bucket_cap_mb) == ((True, None) if own else (False, 10_000))
    args = parse([*words, "--use_cpu=true"]).training
    assert (args.dataloader_pin_memory, args.ddp_bucket_cap_mb) == (False, 10_000)
