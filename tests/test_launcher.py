import pytest
import torch
from transformers import TrainingArguments

from recipe.launcher import PLACE, describe_processes, forget_incomplete
from recipe.parsing import parse


def test_a_place_among_others_counts_whole_or_not_at_all():
    whole = dict.fromkeys(PLACE, "1")
    kept = dict(whole)
    forget_incomplete(kept)
    assert kept == whole
    for name in PLACE:
        left = {key: value for key, value in whole.items() if key != name}
        forget_incomplete(left)
        assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK"} & left.keys()


@pytest.mark.parametrize(
    ("processes", "device", "threads", "gpus", "environment", "told"),
    [
        (1, "cpu", 1, 0, {}, "processes: 1, on cpu with 1 thread"),
        (2, "cpu", 3, 0, {"ACCELERATE_USE_CPU": "True"}, "processes: 2, on cpu with 3 threads"),
        (1, "cpu", 2, 0, {"ACCELERATE_USE_CPU": "True"}, "starts one only: docs/scaling.md says how to start more"),
        (1, "cuda", 2, 4, {}, "one of 4 GPUs is used: accelerate launch run_freeze.py uses all"),
        (4, "cuda", 2, 4, {}, "processes: 4, on cuda with 2 threads"),
    ],
)
def test_the_run_says_how_many_take_part(processes, device, threads, gpus, environment, told):
    line = describe_processes(processes, device, threads, gpus, environment)
    assert line.endswith(told)
    assert line.startswith("processes: ")


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
