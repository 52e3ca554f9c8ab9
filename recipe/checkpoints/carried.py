"""What a run has cost, and lost by step, before the process that goes on from a checkpoint; the manifest carries it."""

import time
from typing import Any, NamedTuple

from recipe.checkpoints.manifest import Checkpoint
from recipe.internals import losses_of
from recipe.process.allocator import peak_gpu_memory, peak_memory

SHAPE: dict[str, Any] = {"encode_seconds": float, "train_seconds": float, "peak_bytes": int, "gpu_bytes": int}
SHAPE |= {"since": int, "loss_sum": float, "unlogged": float, "logged": int, "changed?": [str]}


class Carried(NamedTuple):
    """A run as far as a checkpoint.

    Attributes:
        encode_seconds, train_seconds: of all its processes.
        peak_bytes, gpu_bytes: the most memory that one of them has had.
        since: the step behind which losses are summed up and training is timed: 0, but where an earlier release wrote
            a checkpoint.
        loss_sum: of the steps as far as `logged`, the last step at which the loss was logged.
        unlogged: the same of the steps behind it.
        changed: what resumes have changed, a line for each that has.
    """

    encode_seconds: float = 0.0
    train_seconds: float = 0.0
    peak_bytes: int = 0
    gpu_bytes: int = 0
    since: int = 0
    loss_sum: float = 0.0
    unlogged: float = 0.0
    logged: int = 0
    changed: tuple[str, ...] = ()


def carried(checkpoint: Checkpoint | None) -> Carried:
    """What a checkpoint carries on; an earlier release wrote nothing of it."""
    if checkpoint is None:
        return Carried()
    said = checkpoint.manifest.get("carried")
    if said is None:
        return Carried(since=checkpoint.step, logged=checkpoint.step)
    return Carried(**{**said, "changed": tuple(said.get("changed", ()))})


def so_far(trainer: Any, before: Carried, encode_seconds: float) -> Carried:
    """What a checkpoint that is saved now is to carry on. Collective."""
    total, unlogged, logged = losses_of(trainer)
    return before._replace(
        encode_seconds=before.encode_seconds + encode_seconds,
        train_seconds=round(before.train_seconds + time.perf_counter() - trainer.began, 3),
        peak_bytes=max(before.peak_bytes, peak_memory()),
        gpu_bytes=max(before.gpu_bytes, peak_gpu_memory(trainer.args.device.type)),
        loss_sum=total,
        unlogged=trainer.accelerator.reduce(unlogged.detach(), "mean").item(),
        logged=logged,
    )
