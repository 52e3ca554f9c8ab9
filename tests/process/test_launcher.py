import pytest

from recipe.process.launcher import PLACE, describe_processes, forget_incomplete


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
        (1, "xpu", 2, 2, {}, "one of 2 GPUs is used: accelerate launch run_freeze.py uses all"),
        (1, "npu", 2, 8, {}, "one of 8 NPUs is used: accelerate launch run_freeze.py uses all"),
        (1, "cpu", 2, 4, {}, "processes: 1, on cpu with 2 threads"),
        (4, "cuda", 2, 4, {}, "processes: 4, on cuda with 2 threads"),
    ],
)
def test_the_run_says_how_many_take_part(processes, device, threads, gpus, environment, told):
    line = describe_processes(processes, device, threads, gpus, environment)
    assert line.endswith(told)
    assert line.startswith("processes: ")


def test_a_place_that_is_none_is_forgotten():
    whole = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for wrong in ({"RANK": "x"}, {"RANK": "2"}, {"WORLD_SIZE": ""}):
        environment = {**whole, **wrong}
        forget_incomplete(environment)
        assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK"} & environment.keys()
