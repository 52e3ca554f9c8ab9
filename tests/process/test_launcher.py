import time

import pytest
import torch
from transformers import TrainingArguments

from recipe.command_line.parsing import parse
from recipe.errors import RunError
from recipe.process.launcher import PLACE, describe_processes, forget_incomplete
from recipe.system.distributed import meeting


def test_a_place_among_others_counts_whole_or_not_at_all():
    whole = {**dict.fromkeys(PLACE, "1"), "WORLD_SIZE": "2"}
    kept = dict(whole)
    forget_incomplete(kept)
    assert kept == whole
    for name in PLACE:
        left = {key: value for key, value in whole.items() if key != name}
        forget_incomplete(left)
        assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK"} & left.keys()
    left = {**whole, "MASTER_PORT": "x"}
    forget_incomplete(left)
    assert "RANK" not in left


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


def test_a_place_that_is_none_is_forgotten():
    whole = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for wrong in ({"RANK": "x"}, {"RANK": "2"}, {"WORLD_SIZE": ""}):
        environment = {**whole, **wrong}
        forget_incomplete(environment)
        assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK"} & environment.keys()


def test_who_is_waited_for_is_said_and_who_is_not_there_is_one_line(monkeypatch, capsys):
    place = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "elsewhere", "MASTER_PORT": "9"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    told = "process 1 of 2, which meet at elsewhere:9"

    def nobody_comes():
        time.sleep(0.2)
        raise torch.distributed.DistNetworkError("no route\nto host")

    with pytest.raises(RunError, match=rf"^{told}: no route to host; a free port") as error, meeting(0.01):
        nobody_comes()
    assert "\n" not in str(error.value)
    assert capsys.readouterr().err.startswith(f"{told}, waits for the others; where no launcher started it: unset RANK")
