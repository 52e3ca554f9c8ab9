"""What a launcher (torchrun, accelerate launch) leaves in the environment: all of it counts, or none."""

from collections.abc import Mapping, MutableMapping

PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
COUNTS = ("LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE")


def forget_incomplete(environment: MutableMapping[str, str]) -> None:
    """Take out a process's place among others where part of it is missing or cannot be: no launcher is behind it.

    A LOCAL_RANK that a shell has kept would otherwise have the process wait for others, or say nothing of its errors.
    """
    numbers = [environment.get(name, "") for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_PORT")]
    whole = all(name in environment for name in PLACE) and all(number.isdecimal() for number in numbers)
    if not whole or int(numbers[1]) >= int(numbers[2]):
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", *COUNTS):
            environment.pop(name, None)


def describe_processes(processes: int, device: str, threads: int, gpus: int, environment: Mapping[str, str]) -> str:
    """How many processes take part, on what, and how more would.

    Args:
        device: its type, "cpu" or "cuda" and the like.
        threads: of each process.
        gpus: that are visible to this process.
    """
    line = f"processes: {processes}, on {device} with {threads} {'thread' if threads == 1 else 'threads'}"
    if processes == 1 and device != "cpu" and gpus > 1:
        kind = "NPU" if device == "npu" else "GPU"
        return f"{line}; one of {gpus} {kind}s is used: accelerate launch run_freeze.py uses all"
    if processes == 1 and environment.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1", "yes"):
        return f"{line}; accelerate launch --cpu starts one only: docs/scaling.md says how to start more"
    return line
